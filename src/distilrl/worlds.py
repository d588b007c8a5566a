"""What an environment does beside what its name says: nothing that was played in one world is used in another."""

import sys
from pathlib import Path
from typing import Any

from distilrl.envs import find_spec, texts_in
from distilrl.modules import home_of
from distilrl.provenance import package_of, versions
from distilrl.spaces import EnvRef

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of packages, whose version says what is in their files; these are younger in each virtual environment."""


def world_of(ref: EnvRef) -> dict[str, Any]:
    """What decides, beside name and kwargs, what an environment does, as JSON: versions of packages, what its id is
    registered as, and size and time of the files that it and its wrappers are written in, if not installed, and of
    those that its kwargs name. What these import may change unseen, and so may what a notebook defines anew under the
    same name.

    Example::

        world_of(EnvRef("CartPole-v1"))["versions"]
    """
    spec = find_spec(ref)
    wrappers = [*spec.additional_wrappers] if spec is not None else []
    makers: list[Any] = [ref.factory if spec is None else spec.entry_point, *ref.wrappers]
    makers += [wrapper.entry_point for wrapper in wrappers]
    registered = [] if spec is None else [_name(spec.entry_point), spec.kwargs, spec.max_episode_steps, wrappers]
    sources = [getattr(sys.modules.get(home_of(maker)), "__file__", None) for maker in makers]
    named = texts_in([ref.kwargs, spec.kwargs if spec is not None else {}])
    return {
        "versions": versions(),
        "packages": [*map(package_of, (ref.id, *ref.wrappers))],
        "registered": repr(registered),
        "files": [_stamp(file) for file in (*sources, *named)],
    }


def _name(maker: Any) -> str:
    """What makes an environment, by a name that is the same in every process."""
    return maker if isinstance(maker, str) else f"{home_of(maker)}:{getattr(maker, '__qualname__', '')}"


def _stamp(file: str | None) -> list[int]:
    """Size and time of a file's last change; nothing where there is none, or a package's version says as much."""
    try:
        found = Path(file).stat() if file and not INSTALLED & set(Path(file).parts) else None
    except (OSError, ValueError):  # a text that is no path at all
        return []
    return [found.st_size, found.st_mtime_ns] if found is not None else []

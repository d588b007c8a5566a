"""From where a run was begun, so that paths which its configuration holds mean the same from everywhere."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIELD = "from"
"""Of config.json: the working folder in which it was begun, as seen from the folder of the run."""


def origin(folder: Path) -> str:
    """The working folder as seen from a run's: both may be moved together, and of runs below it it names no folder."""
    here = os.path.realpath(".")
    try:
        return os.path.relpath(here, os.path.realpath(folder))
    except ValueError:  # another drive of Windows
        return here


def resolve(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Takes the origin out of a configuration just read from ``folder``, and changes its relative paths of teachers and
    normalizers, in place, into what they were there. One that is not there any more stays, and is looked for here.
    """
    told = data.pop(FIELD, None)
    if not isinstance(told, str):
        return data
    began = os.path.normpath(os.path.join(os.path.realpath(folder), told))  # noqa: PTH118 (pathlib keeps "..")
    if began == os.path.realpath("."):
        return data
    for file, name in _paths(data):
        there = os.path.normpath(os.path.join(began, file[name]))  # noqa: PTH118
        file[name] = there if os.path.exists(there) else file[name]  # noqa: PTH110 (no error for odd names)
    return data


def absolute(data: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose files are named as seen from anywhere, by a change in place: parts of a run may have been
    begun elsewhere.
    """
    for file, name in _paths(data):
        file[name] = os.path.abspath(file[name])  # noqa: PTH100 (no error for odd names)
    return data


def _paths(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Teachers' files of this machine that a configuration names, of its tasks and of what the command was given: each
    as a dict and the key under which the path stands there.
    """
    train, given = data.get("train"), data.get("given")
    tasks = train.get("tasks") if isinstance(train, dict) else None
    homes = [*(tasks if isinstance(tasks, list) else []), given]
    for home in homes:
        files = home.get("teacher") if isinstance(home, dict) else None
        for file in (one for one in (files if isinstance(files, list) else []) if isinstance(one, dict)):
            for name in ("path", "normalizer"):
                path = file.get(name)
                if isinstance(path, str) and path and not path.startswith("hf://"):
                    yield file, name

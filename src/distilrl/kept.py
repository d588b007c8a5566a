"""What a teacher has played, kept for the next run on this machine with the same teacher.

Files lie in ``$DISTILRL_CACHE``, or ``distilrl`` in the user's folder of caches; nowhere where that variable is empty.
A name is a digest of all that decides what is played: the teacher, the environment, the protocol and the versions.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distilrl.envs import describe_env, find_spec, texts_in
from distilrl.episodes import Episodes, Play
from distilrl.errors import DistilError
from distilrl.modules import home_of
from distilrl.teachers import Teacher

HOMES = ("gymnasium", "ale_py")
"""Packages whose environments are the same wherever their version is; what a user writes changes without one."""
MOST = 200
"""Evaluations that are kept; the oldest go. One of Pong takes half a megabyte."""


def place(kind: str, teacher: Teacher, how: Play, **asked: Any) -> Path | None:
    """File of what ``teacher`` plays, without its suffix; None where what is played may change without its version, and
    of a teacher in Python, of which nobody can say all that decides its answers.

    Args:
        kind: folder of its kind.
        teacher: who plays.
        how: in what, and how disturbed.
        asked: what else decides, as JSON.
    """
    home = os.environ.get("DISTILRL_CACHE")
    spec = find_spec(how.env)
    package = home_of(spec.entry_point).split(".")[0] if spec is not None else ""
    if spec is None or home == "" or package not in HOMES or how.env.wrappers or teacher.in_python:
        return None
    if spec.additional_wrappers or any(map(_is_file, texts_in([how.env.kwargs, spec.kwargs]))):
        return None
    decides = {
        "teacher": [teacher.digest, teacher.head.to_json(), teacher.policy.checksums()],
        "device": str(teacher.policy.device),
        "play": how.decides,
        "protocol": describe_env(how.env).protocol,
    } | asked
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    try:
        folder = Path(home or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distilrl")
    except RuntimeError:  # a user who has no home
        return None
    return folder / kind / key


def _is_file(text: str) -> bool:
    """Whether this may name a file or a folder, which may change under its name."""
    try:
        return os.sep in text or "/" in text or (text != "" and Path(text).exists())
    except (OSError, ValueError):  # no name of a file
        return False


def kept_games(
    teacher: Teacher, how: Play, seeds: Sequence[int], make: Callable[[], Episodes]
) -> tuple[Episodes, Path | None]:
    """The episodes that a teacher without memory played here before, else what ``make`` plays.

    Returns:
        The episodes, and the file that they were read from; None where they were played.
    """
    # in other batches and on other threads a network's last digits are others
    path = place("games", teacher, how, seeds=list(seeds), batches=[how.at_once, how.threads])
    if path is None:
        return make(), None
    path = path.with_suffix(".z")
    if (known := Episodes.read(path)) is not None and known.fits(len(seeds), how):
        return known, path
    games = make()
    with contextlib.suppress(DistilError, OSError):  # a cache that cannot be written is none
        games.write(path)
        _thin(path.parent)
    return games, None


def _thin(folder: Path) -> None:
    """Leaves the newest files of evaluations."""
    files = sorted(folder.glob("*.z"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MOST]:
        file.unlink(missing_ok=True)

"""The project's own teachers: which there are, and how one comes to a machine that has no checkout."""

import hashlib
import json
import os
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from distilrl import __version__
from distilrl.errors import FileError, SpecError
from distilrl.files import check_regular, write_bytes
from distilrl.plain import read_as

CHECKOUT = Path(__file__).parents[2] / "zoo"
"""Where they are in the source repository."""
HERE = ("127.0.0.1", "localhost", "::1")
"""Hosts that are this machine, from which http will do."""
SECONDS = 30.0
"""How long nothing may come from a server."""


@dataclass(frozen=True)
class ZooFile:
    """A file of a teacher."""

    bytes: int
    """Its size."""
    sha256: str
    """Its digest."""


@dataclass(frozen=True)
class ZooTeacher:
    """A teacher of the zoo."""

    env: str
    """Environment that it was trained in, as ``--env`` takes it."""
    files: dict[str, ZooFile]
    """Its files by name, the card README.md among them."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())


def zoo() -> dict[str, ZooTeacher]:
    """The teachers by name."""
    text = resources.files("distilrl").joinpath("zoo.json").read_text(encoding="utf-8")
    return {name: read_as(ZooTeacher, one, name) for name, one in json.loads(text).items()}


def find(name: str) -> ZooTeacher:
    """A teacher by its name.

    Raises:
        SpecError: there is none of that name; names those that there are.
    """
    known = zoo()
    if name not in known:
        raise SpecError(f"There is no teacher '{name}' in the zoo: use one of {', '.join(known)}.")
    return known[name]


def get(name: str, out: str | Path = "zoo") -> Path:
    """Brings a teacher into ``out/NAME``, each file checked against its SHA-256 before any is written.

    They come from the folder or URL that ``DISTILRL_ZOO`` names (``BASE/NAME/FILE``), else from the checkout that this
    package lies in, else from the project's repository as it was at this version's release. Files that are there are
    kept.

    Raises:
        SpecError: there is no such teacher, or the base is no folder and no https URL.
        FileError: a file cannot be had, is not what it should be, or another one is in its place.

    Example::

        load_teacher(get("pong-dqn"))  # zoo/pong-dqn
    """
    teacher = find(name)
    home, base = Path(out) / name, _base()
    missing = {file: what for file, what in teacher.files.items() if not _is_there(home / file, what)}
    found = {file: _read(base, name, file, what) for file, what in missing.items()}
    for file, data in found.items():
        try:
            write_bytes(home / file, data, new=True)
        except FileExistsError:  # by another call, say
            _is_there(home / file, missing[file])
    return home


def _is_there(path: Path, what: ZooFile) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_file() and path.stat().st_size == what.bytes and _sha256(path.read_bytes()) == what.sha256:
        return True
    raise _taken(path)


def _taken(path: Path) -> FileError:
    return FileError(f"{path} is another file than the zoo's: give another folder as --out, or move that file away.")


def _base() -> str:
    """Folder or URL that holds a folder for each teacher."""
    if named := os.environ.get("DISTILRL_ZOO", ""):
        return named
    if (CHECKOUT / "pong-dqn").is_dir():
        return str(CHECKOUT)
    try:
        urls = dict(text.split(", ", 1) for text in metadata("distilrl").get_all("Project-URL") or ())
    except PackageNotFoundError:
        urls = {}
    return f"{urls['Homepage']}/raw/v{__version__}/zoo" if "Homepage" in urls else ""


def _read(base: str, name: str, file: str, what: ZooFile) -> bytes:
    """The contents of a file, which are those that its digest says."""
    place = f"{base.rstrip('/')}/{name}/{file}"
    try:
        data = _download(place, what.bytes) if "://" in base else _read_file(Path(base) / name / file, what.bytes)
    except (OSError, ValueError, HTTPException) as error:
        why = f"HTTP {error.code}" if isinstance(error, HTTPError) else str(getattr(error, "reason", error))
        raise FileError(
            f"{place} cannot be had ({why}): before a release of distilrl {__version__} its teachers are in the folder "
            f"zoo/ of the source repository; name such a folder, or a URL of one, in DISTILRL_ZOO."
        ) from None
    if _sha256(data) != what.sha256:
        raise FileError(
            f"{place} is not the file that distilrl {__version__} knows (its size or SHA-256 differs), and nothing was "
            "written: name another folder or URL in DISTILRL_ZOO."
        )
    return data


def _read_file(path: Path, size: int) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        return file.read(size + 1)


class _Secure(HTTPRedirectHandler):
    """Follows redirections to https alone."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """The next request."""
        if urlsplit(newurl).scheme != "https":
            raise OSError(f"it leads to {newurl}, which is no https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, size: int) -> bytes:
    """As many bytes of a URL as are wanted, and one more where there are more."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in HERE):
        raise SpecError(f"{url} is no https address: name a folder, or a URL that begins with https://.")
    opener = build_opener(_Secure, HTTPSHandler)
    with opener.open(url, timeout=SECONDS) as answer:
        data: bytes = answer.read(size + 1)
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

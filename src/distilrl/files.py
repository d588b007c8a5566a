"""The one way in which files are written, whole or not at all, and in which JSON is read."""

import hashlib
import json
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any

from distilrl.errors import FileError
from distilrl.limits import MAX_JSON_BYTES
from distilrl.plain import Kind, parse_json, read_as
from distilrl.text import first_line

TEMPORARY = f".{'[0-9a-f]' * 16}.tmp"
"""Names, as `Path.glob` takes them, of files that are being written; one of a write that was killed stays."""
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()
"""Seconds between attempts to replace a file: on Windows a reader, often a virus scanner, holds it for moments."""


def write_bytes(path: Path, data: bytes, *, new: bool = False) -> None:
    """Replaces ``path`` by ``data`` in one step: a reader sees the old file or the new one, also after a crash.

    The one way in which files are written. The data goes to a new file of a name that nobody can foresee, so that no
    link which somebody put there beforehand is followed.

    Args:
        path: the file.
        data: what it shall hold.
        new: replace nothing.

    Raises:
        FileError: the folder cannot be written, or ``path`` is a symbolic link.
        FileExistsError: it is to be new and is there.
    """
    taken = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and not new:
            raise FileError(
                f"{path} is a symbolic link, which writing would replace: remove it, or write to where it leads."
            )
        temporary = _write_beside(path, data)
        try:
            _claim(temporary, path) if new else _replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            taken = new and isinstance(error, FileExistsError)
            raise
    except OSError as error:
        if taken:
            raise
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> FileError:
    """What is told of a place that the system does not let be written."""
    return FileError(f"Cannot write {path} ({error.strerror or error}): choose a writable folder with enough space.")


def _write_beside(path: Path, data: bytes) -> Path:
    """A new file beside ``path`` that holds the data, on the disk; none where that fails."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()  # once it is closed: where it may not be unlinked before, that would hide what went wrong
        raise
    return temporary


def _replace(temporary: Path, path: Path) -> None:
    """Puts a file in another's place, once nobody holds that one."""
    for seconds in WAITS:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(temporary, path)


def _claim(temporary: Path, path: Path) -> None:
    """Moves a file to where nothing is yet; FileExistsError where something is, also if it came at this very moment."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links: there, a crash at this moment leaves an empty file
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        _replace(temporary, path)


def write_text(path: Path, text: str, *, new: bool = False) -> None:
    """Writes UTF-8 as `write_bytes` does; what is no text, as in the name of a folder, is written by its number."""
    write_bytes(path, text.encode(errors="backslashreplace"), new=new)


def write_json(path: Path, data: object, *, new: bool = False) -> None:
    """Writes indented JSON in one step; ``new`` as of `write_bytes`.

    Raises:
        FileExistsError: it is to be new and is there.
        FileError: it cannot be written, or a number in it is NaN or infinite, which JSON does not have.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False)
    except ValueError as error:
        raise FileError(
            f"{path} is not written, because a number in it is NaN or infinite ({error}): look for what gave it."
        ) from None
    write_text(path, text + "\n", new=new)


CHUNK = 1 << 20
"""Bytes that are read at a time of a file that does not say how long it is."""


def read_regular(path: Path, limit: int) -> bytes:
    """A file's bytes, at most so many; whatever a link leads to.

    Raises:
        OSError: it cannot be read.
        FileError: it is larger, or no plain file: a pipe is waited for without an end, and a device has none.
    """
    size = check_regular(path)
    with path.open("rb") as file:
        parts = [file.read(min(size, limit) + 1)]  # as much memory is taken as is asked for
        # what a system makes up as it is read has no size, and a file may grow
        while sum(map(len, parts)) <= limit and (more := file.read(CHUNK)):
            parts.append(more)
    if max(size, sum(map(len, parts))) > limit:
        raise FileError(f"{path} is larger than {limit:,} bytes: restore or remove it.")
    return b"".join(parts) if len(parts) > 1 else parts[0]


def check_regular(path: Path) -> int:
    """Refuses what is no plain file.

    Returns:
        Its size, bytes.

    Raises:
        OSError: it is not there.
        FileError: it is a pipe, a device or a folder.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        what = "a folder: name the file in it that is meant" if path.is_dir() else "no plain file: give one"
        raise FileError(f"{path} is {what}.")
    return about.st_size


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file of at most so many bytes.

    Raises:
        FileError: it is missing, is not JSON, or is larger than any that there is.
    """
    try:
        return parse_json(read_regular(path, limit).decode("utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path} does not exist: check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read as JSON ({first_line(error)}): restore or remove it.") from None


def read_json_as(kind: type[Kind], path: Path) -> Kind:
    """Reads a JSON file as the dataclass that was written into it.

    Raises:
        FileError: it cannot be read.
        SpecError: it is not of that kind; the message names the file.
    """
    return read_as(kind, read_json(path), str(path))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        FileError: it cannot be read.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror or error}): check that it is there and yours."
        ) from None

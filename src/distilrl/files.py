"""The one way in which files are written, whole or not at all, and in which JSON is read."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from distilrl.errors import FileError
from distilrl.limits import MAX_JSON_BYTES
from distilrl.plain import parse_json
from distilrl.text import first_line


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
            _claim(temporary, path) if new else os.replace(temporary, path)
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
    with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink()
            raise
    return temporary


def _claim(temporary: Path, path: Path) -> None:
    """Moves a file to where nothing is yet; FileExistsError where something is, also if it came at this very moment."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links: there, a crash at this moment leaves an empty file
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)


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
    write_bytes(path, (text + "\n").encode(), new=new)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: it is missing, is not JSON, or is larger than any that there is.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise FileError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes: restore or remove it.")
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path} does not exist: check the path.") from None
    except IsADirectoryError:
        raise FileError(f"{path} is a folder: name the file in it that is meant.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read as JSON ({first_line(error)}): restore or remove it.") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror or error}): check that it is there and yours."
        ) from None

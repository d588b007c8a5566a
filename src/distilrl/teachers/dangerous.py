"""What a file would call if another program unpickled it: names alone are read, nothing is imported or built.

A file is refused for any name that is not known to be harmless (`pickles`); here those are found that could do
anything, wherever in an archive they are, so that whoever looks at a file learns what it is. It is a list, and not a
proof: a file in which nothing is found may still be hostile to a program that unpickles it.
"""

import base64
import binascii
import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilrl.errors import FileError
from distilrl.files import read_regular
from distilrl.limits import (
    MAX_DEPTH,
    MAX_FOUND,
    MAX_KEY,
    MAX_OPCODES,
    MAX_PICKLE_BYTES,
    MAX_SEARCHED,
    MAX_SEARCHED_BYTES,
)
from distilrl.plain import parse_json
from distilrl.teachers.archive import ZIP_ERRORS, opened
from distilrl.text import legible

MODULES = frozenset(
    (
        "_pickle", "aiohttp", "asyncio", "bdb", "cProfile", "code", "codeop", "commands", "ctypes", "dill", "ftplib",
        "http", "httpx", "imp", "importlib", "joblib", "marshal", "multiprocessing", "nt", "os", "pathlib", "pdb",
        "pickle", "pip", "pkgutil", "posix", "profile", "pty", "pydoc", "requests", "runpy", "shutil", "signal",
        "smtplib", "socket", "subprocess", "sys", "tempfile", "threading", "timeit", "trace", "urllib", "venv",
        "webbrowser", "zipimport",
    )
)  # fmt: skip
"""Packages any function of which is enough to do harm, or to fetch what does."""
FUNCTIONS = frozenset(
    (
        "builtins.__import__", "builtins.breakpoint", "builtins.compile", "builtins.eval", "builtins.exec",
        "builtins.globals", "builtins.open", "builtins.setattr", "builtins.delattr", "builtins.execfile",
        "builtins.apply", "operator.attrgetter", "operator.methodcaller", "numpy.load", "numpy.fromfile", "torch.load",
        "torch.hub.load", "torch.jit.load", "torch.serialization.load", "torch.utils._config_module.load_config",
        "numpy.testing._private.utils.runstring",
    )
)  # fmt: skip
"""The same of packages most of which is harmless."""
PATHS = frozenset(
    f"{module}.{kind}{name}"
    for module in ("pathlib", "pathlib._local")
    for kind in ("", "Pure")
    for name in ("Path", "PosixPath", "WindowsPath")
)
"""Names of files as settings hold them: to build one touches nothing."""
OLD = {"__builtin__": "builtins", "_operator": "operator", "posixpath": "os", "ntpath": "os"}


def dangerous(path: Path) -> tuple[str, ...]:
    """Names that a file asks for and that could do anything, each with the member of the archive that asks.

    Example::

        dangerous(Path("evil.zip"))  # ("data: posix.mkdir",)
    """
    try:
        data = read_regular(path, 4 * MAX_PICKLE_BYTES)
    except (FileError, OSError):
        return ()
    found: dict[str, None] = {}  # each once, in their order
    for name in _Search().in_bytes(data, "", MAX_DEPTH):
        found[name] = None
        if len(found) == MAX_FOUND:
            break
    return tuple(legible(name, 200) for name in found)


def is_dangerous(name: str) -> bool:
    """Whether the function of this full name is on the list."""
    package, _, rest = name.partition(".")
    package = OLD.get(package, package)
    if name in PATHS:
        return False
    return package in MODULES or f"{package}.{rest}" in FUNCTIONS or "?" in name


@dataclass
class _Search:
    """What is left to be searched of a file, archives in it included: a small one may unpack to as many as it likes."""

    members: int = MAX_SEARCHED
    size: int = MAX_SEARCHED_BYTES
    """Bytes, unpacked."""
    opcodes: int = MAX_OPCODES

    def in_bytes(self, data: bytes, member: str, depth: int) -> Iterator[str]:
        """Dangerous names, each behind the member that asks for it."""
        before = f"{member}: " if member else ""
        if data.startswith(b"PK") and depth:
            for name, part in self._members(data):
                yield from self.in_bytes(part, f"{before}{name}", depth - 1)
        elif data[:1] == b"{":
            yield from self._in_json(data, before)
        else:
            yield from (before + name for name in self._in_pickles(data) if is_dangerous(name))

    def _members(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Members of a zip that may be pickles, or hold some."""
        try:
            with opened(data) as archive:
                for info in archive.infolist():
                    if "/data/" in info.filename or info.file_size > MAX_PICKLE_BYTES:  # numbers
                        continue
                    self.members, self.size = self.members - 1, self.size - info.file_size
                    if self.members < 0 or self.size < 0:
                        return
                    with archive.open(info) as file:
                        yield info.filename, file.read(info.file_size)
        except ZIP_ERRORS:
            return

    def _in_json(self, data: bytes, before: str) -> Iterator[str]:
        """What stable-baselines3 pickles into fields of its JSON."""
        try:
            fields = parse_json(data)
        except (ValueError, RecursionError):
            return
        for field, value in fields.items() if isinstance(fields, dict) else ():
            text = value.get(":serialized:") if isinstance(value, dict) else None
            if isinstance(text, str):
                try:
                    pickled = base64.b64decode(text)
                except (binascii.Error, ValueError):
                    continue
                yield from (f"{before}{field}: {name}" for name in self._in_pickles(pickled) if is_dangerous(name))

    def _in_pickles(self, data: bytes) -> Iterator[str]:
        """Full names that a file of pickles, one behind the other, asks for; ``?`` where one is computed."""
        stream = io.BytesIO(data)
        while stream.tell() < len(data) and self.opcodes > 0:
            texts: list[str] = []
            memo: dict[int, str] = {}
            last: str | None = None
            try:
                for opcode, argument, _ in pickletools.genops(stream):
                    self.opcodes -= 1
                    if self.opcodes <= 0:
                        return
                    code = opcode.name
                    if code in ("GLOBAL", "INST"):
                        yield ".".join(str(argument)[:MAX_KEY].split(" ", 1))
                    elif code == "STACK_GLOBAL":
                        yield ".".join(texts[-2:]) if len(texts) > 1 else "?"
                    if "UNICODE" in code or "STRING" in code:
                        last = str(argument)[:MAX_KEY]  # a name that is longer begins with the same package
                        texts = [*texts[-1:], last]
                    elif code == "MEMOIZE" or "PUT" in code:
                        if last is not None:
                            memo[len(memo) if code == "MEMOIZE" else int(argument or 0)] = last
                        elif code == "MEMOIZE":
                            memo[len(memo)] = "?"
                        continue
                    elif "GET" in code:
                        last = memo.get(int(argument or 0), "?")
                        texts = [*texts[-1:], last]
                    else:
                        last = None
            except Exception:  # not a pickle, or the end of what is one
                return

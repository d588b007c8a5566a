"""Text that comes from a file or from somebody's code, made fit for where it is shown.

HTML escapes by itself (Jinja's autoescape), and figures take no mathematics from text; all else is here.
"""

import hashlib
import os
import re
import shlex
import subprocess
import traceback
from collections.abc import Sequence
from pathlib import Path

HERE, LIBRARY = Path(__file__).resolve().parent, Path(traceback.__file__).resolve().parent
LONGEST = 1_000
"""Characters of one text of a file that are shown; of what is longer nobody reads the rest."""
LONGEST_NAME = 120
"""Bytes of a file's name that is made from a text: file systems take 255, and Windows not many more of a whole path."""


def legible(text: str, length: int = 80) -> str:
    """A file's text, fit to stand in a sentence on a terminal: no control characters, and not more than this length."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])


def abridged(text: str, length: int = LONGEST) -> str:
    """As `legible`, and says where it was cut."""
    return legible(text, length) + (f"... ({len(text):,} characters)" if len(text) > length else "")


def shortened(text: str, most: int) -> str:
    """A text that leaves room, and shows that it was cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def typed(words: Sequence[object], *, windows: bool = os.name == "nt") -> str:
    """Words as somebody types them into a shell, no path like an option; Windows' takes no single quotes."""
    dashed = (isinstance(word, Path) and str(word).startswith("-") for word in words)
    texts = [f".{os.sep}{word}" if dash else str(word) for word, dash in zip(words, dashed, strict=True)]
    return subprocess.list2cmdline(texts) if windows else shlex.join(texts)


def in_comment(text: str) -> str:
    """A text that ends no comment of C, continues no line of it, and is one line."""
    return abridged(text).replace("\\", "/").replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /")


def as_file_name(text: str) -> str:
    """A text as a file's name: a dash for what Windows does not take, and of a long one its beginning and a digest."""
    name = re.sub(r'[<>:"/\\|?*]', "-", text)
    if not name.strip("."):  # the folder itself, or the one that it lies in
        name = name.replace(".", "-") or "-"
    data = name.encode(errors="backslashreplace")  # the name of a file need not be text
    if len(data) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]
    return f"{data[: LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}-{digest}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of which there may be none, fit to stand inside a sentence."""
    lines = str(error).strip().splitlines()
    return legible(lines[0], 200).rstrip(".: ") if lines else type(error).__name__


def raised(error: BaseException) -> str:
    """What somebody's code did when it failed, to be put after its name: the error, and the line that raised it.

    Of several functions that called each other it is the innermost that lies neither here nor in an installed package;
    where there is none, no line is named.
    """
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code if error.code is not None else ''})"
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [f"{path.name}, line {line}" for path, line in frames if _somebodys(path)]
    said = [first_line(error)] if str(error).strip() else []
    more = "; ".join(said + own[-1:])
    return f"raised {type(error).__name__}{f' ({more})' if more else ''}"


def _somebodys(code: Path) -> bool:
    """Whether a file of code is neither this package's, nor Python's, nor an installed one's."""
    installed = "site-packages" in code.parts or code.name.startswith("<")  # of what is frozen or typed
    return not installed and HERE not in code.parents and LIBRARY not in code.parents

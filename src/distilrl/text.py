"""Text that comes from a file or from somebody's code, made fit for where it is shown.

HTML escapes by itself (Jinja's autoescape), and figures take no mathematics from text; all else is here.
"""

import traceback
from pathlib import Path

LONGEST = 1_000
"""Characters of one text of a file that are shown; of what is longer nobody reads the rest."""


def legible(text: str, length: int = 80) -> str:
    """A file's text, fit to stand in a sentence on a terminal: no control characters, and not more than this length."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])


def abridged(text: str, length: int = LONGEST) -> str:
    """As `legible`, and says where it was cut."""
    return legible(text, length) + (f"... ({len(text):,} characters)" if len(text) > length else "")


def in_comment(text: str) -> str:
    """A text that ends no comment of C, continues no line of it, and is one line."""
    return abridged(text).replace("\\", "/").replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of which there may be none, fit to stand inside a sentence."""
    lines = str(error).strip().splitlines()
    return legible(lines[0], 200).rstrip(".: ") if lines else type(error).__name__


def raised(error: BaseException) -> str:
    """What somebody's code did when it failed, to be put after its name: the error, and the line that raised it.

    Of several functions that called each other it is the innermost that lies in no installed package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    where = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    said = f" ({first_line(error)})" if str(error).strip() else ""
    return f"raised {type(error).__name__}{said}{where}"

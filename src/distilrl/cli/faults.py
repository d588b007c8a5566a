"""What the command line says of errors: those of words and files, and those that are distilrl's own fault."""

import errno
import secrets
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.markup import escape

from distilrl import __version__
from distilrl.errors import DistilError, SpecError
from distilrl.files import write_text
from distilrl.terminal import Terminal
from distilrl.text import abridged, first_line

LONGEST_ERROR = 4_000
"""Characters of an error that are shown."""


def print_error(sentence: str) -> None:
    """What was wrong, in red, on standard error."""
    shown = escape(abridged(sentence, LONGEST_ERROR))
    try:
        Terminal(stderr=True, emoji=False).print(f"[red]error:[/] {shown}", highlight=False, soft_wrap=True)
    except BrokenPipeError:
        raise
    except OSError:  # there is no place to say it; the exit code is left
        pass


def at_fault(error: Exception, words: Sequence[str]) -> str:
    """One sentence for a fault of ours; all that there is to be said of it goes into a file."""
    trace = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {first_line(error)}"
    about = f"distilrl {__version__}, Python {sys.version}\n{shlex.join(words)}\n\n"
    try:
        log = Path(tempfile.gettempdir()) / f"distilrl-crash-{secrets.token_hex(8)}.log"
        write_text(log, about + trace)
    except (OSError, DistilError):
        sys.stderr.write(trace)
        return f"distilrl is at fault ({what}): please report what is printed above."
    return f"distilrl is at fault ({what}): please report it with {log}, after a look at what it says of your files."


def too_much(error: Exception) -> str:
    """What to say where more was asked for at once than the machine has; empty where that is not what was wrong."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return "So many open files are not allowed: give fewer --workers or --jobs, or raise the limit (ulimit -n)."
    # PyTorch's, of a GPU, is known by its name: it need not have been imported
    if isinstance(error, MemoryError) or number == errno.ENOMEM or type(error).__name__ == "OutOfMemoryError":
        return (
            "There is not enough memory: give a smaller --set capacity, fewer --set n-envs, --eval-envs, --workers or "
            "--jobs, or --device cpu."
        )
    return ""


def refuse_empty(words: Sequence[str]) -> None:
    """An empty path would be the working folder: most often a variable of the shell was not set.

    Raises:
        SpecError: names the option.
    """
    for name, value in pairwise([*words, "-"]):
        for option in ("--out", "--resume", "--config", "--teacher"):
            if name == f"{option}=" or (name == option and value == ""):
                raise SpecError(f"{option} is empty: give a path.")

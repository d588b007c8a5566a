"""Command line: parse, call one function, print where the result is. Tables and bars go to standard error."""

import secrets
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, subcommand

from distilrl import __version__
from distilrl.checkpoints import write_bytes
from distilrl.cli.display import console, print_error
from distilrl.cli.making import Distill, TrainTeacher
from distilrl.cli.searching import GrowTree, Plan, Sweep
from distilrl.cli.using import Evaluate, Export, Fields, Inspect, Report, Verify, Watch
from distilrl.errors import DistilError, HostileError, SpecError
from distilrl.runs import RunFolder
from distilrl.text import first_line

__all__ = ["main"]

HOSTILE, FAULT = 4, 70
"""Exit codes: a file would run code where it is unpickled; distilrl itself is at fault (EX_SOFTWARE of sysexits.h)."""

Command = (
    Annotated[Distill, subcommand("distill")]
    | Annotated[TrainTeacher, subcommand("train-teacher")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Sweep, subcommand("sweep")]
    | Annotated[GrowTree, subcommand("tree")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Watch, subcommand("watch")]
    | Annotated[Fields, subcommand("fields")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        The exit code: 0, also where a loss is proven to be within the margin; 1 where a verdict is ``fail``, or no
        size of a `plan` is within the margin; 2 for what the user can mend, also in one run of a `sweep`; 3 where a
        verdict is ``inconclusive``; 4 where a file would run code elsewhere; 70 where distilrl itself is at fault;
        130 where the user stopped it. Of several verdicts the worst counts.
    """
    if (sys.argv[1:] if args is None else list(args)) == ["--version"]:
        print(f"distilrl {__version__}")
        return 0
    command: Any = None
    try:
        _refuse_empty(sys.argv[1:] if args is None else args)
        command = tyro.cli(
            Command,
            prog="distilrl",
            description=(
                "Turn a trained deep-RL policy into a small student, prove that it kept the score, and ship it."
            ),
            args=args,
            config=(DisallowNone, FlagCreatePairsOff),
        )
        code: int | None = command.run()
    except DistilError as error:
        print_error(str(error))
        return HOSTILE if isinstance(error, HostileError) else 2
    except KeyboardInterrupt:
        console.print(f"interrupted{_way_on(command)}", markup=False, highlight=False, soft_wrap=True)
        return 130
    except Exception as error:  # whatever else comes here, nobody foresaw
        print_error(_fault(error, args))
        return FAULT
    return code or 0


def _fault(error: Exception, args: Sequence[str] | None) -> str:
    """One sentence for a fault of ours; all that there is to be said of it goes into a file."""
    trace = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {first_line(error)}"
    about = f"distilrl {__version__}, Python {sys.version}\n{shlex.join(sys.argv[1:] if args is None else args)}\n\n"
    try:
        log = Path(tempfile.gettempdir()) / f"distilrl-crash-{secrets.token_hex(8)}.log"
        write_bytes(log, (about + trace).encode(errors="replace"))
    except (OSError, DistilError):
        sys.stderr.write(trace)
        return f"distilrl is at fault ({what}): please report what is printed above."
    return f"distilrl is at fault ({what}): please report it with {log}, after a look at what it says of your files."


def _refuse_empty(args: Sequence[str]) -> None:
    """An empty path would be the working folder: most often a variable of the shell was not set."""
    for name, value in pairwise([*args, "-"]):
        for option in ("--out", "--resume", "--config", "--teacher"):
            if name == f"{option}=" or (name == option and value == ""):
                raise SpecError(f"{option} is empty: give a path.")


def _way_on(command: Any) -> str:
    """How a command that was stopped goes on, where it can."""
    if isinstance(command, Sweep):
        return "; the same command goes on"
    folder = getattr(command, "resume", None) or getattr(command, "out", None)
    begun = hasattr(command, "resume") and folder is not None and RunFolder(folder).config.is_file()
    return f"; continue with --resume {folder}" if begun else ""

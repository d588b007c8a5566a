"""Command line: parse, call one function, print where the result is. Tables and bars go to standard error."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.markup import escape
from tyro.conf import DisallowNone, FlagCreatePairsOff, subcommand

from distilrl import __version__
from distilrl.cli.display import console
from distilrl.cli.making import Distill, TrainTeacher
from distilrl.cli.searching import GrowTree, Plan, Sweep
from distilrl.cli.using import Evaluate, Export, Fields, Inspect, Report, Verify, Watch
from distilrl.errors import DistilError
from distilrl.runs import RunFolder

__all__ = ["main"]

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
        verdict is ``inconclusive``; 130 where the user stopped it. Of several verdicts the worst counts.
    """
    if (sys.argv[1:] if args is None else list(args)) == ["--version"]:
        print(f"distilrl {__version__}")
        return 0
    command: Any = None
    try:
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
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted{_way_on(command)}", markup=False, highlight=False, soft_wrap=True)
        return 130
    return code or 0


def _way_on(command: Any) -> str:
    """How a command that was stopped goes on, where it can."""
    if isinstance(command, Sweep):
        return "; the same command goes on"
    folder = getattr(command, "resume", None) or getattr(command, "out", None)
    begun = hasattr(command, "resume") and folder is not None and RunFolder(folder).config.is_file()
    return f"; continue with --resume {folder}" if begun else ""

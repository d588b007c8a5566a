"""Command line: parse, call one function, print where the result is. Tables and bars go to standard error.

A command's module is imported when the command is called, so that ``distilrl --help`` waits for nothing.
"""

import errno
import io
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from distilrl import __version__
from distilrl.errors import DistilError, HostileError, SpecError

__all__ = ["main", "parse"]

ABOUT = "Turn a trained deep-RL policy into a small student, prove that it kept the score, and ship it."

NO_PLACE = (errno.ENOSPC, errno.EIO, errno.EBADF)
"""What a write to a full or broken place ends with."""
CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""What looking for a file ends with where there can be none, or none that may be seen."""
HOSTILE, FAULT = 4, 70
"""Exit codes: a file would run code where it is unpickled; distilrl itself is at fault (EX_SOFTWARE of sysexits.h)."""


@dataclass(frozen=True)
class About:
    """What is said of a command before its module is imported."""

    line: str
    """What it does, in a line."""
    example: str
    """How it is called."""


COMMANDS = {
    "make": {
        "distill": About(
            "teacher to small student, verdict and report",
            "distilrl distill --teacher dqn.zip --env CartPole-v1 \\\n      --student mlp:16 --out runs/cartpole",
        ),
        "tree": About(
            "teacher to decision tree, as text, Graphviz and C",
            "distilrl tree --teacher dqn.zip --env CartPole-v1 --leaves 16 --out runs/tree",
        ),
        "plan": About(
            "the smallest student within the margin",
            "distilrl plan --teacher dqn.zip --env CartPole-v1 --out runs/plan",
        ),
        "sweep": About(
            "many jobs from their config.json files, and one table",
            "distilrl sweep jobs/ --out runs/sweep --jobs 4",
        ),
        "train-teacher": About(
            "a DQN teacher from nothing",
            "distilrl train-teacher --env CartPole-v1 --stop-return 500 --out runs/teacher",
        ),
    },
    "look": {
        "report": About("report.html of a finished run, again", "distilrl report runs/cartpole"),
        "watch": About("teacher and student side by side, as an animated image", "distilrl watch runs/cartpole"),
        "compare": About(
            "runs and studies in one table and one figure",
            "distilrl compare runs/distil runs/cloning --out runs/compared",
        ),
        "inspect": About("what a teacher's file is, and how it plays", "distilrl inspect dqn.zip --env CartPole-v1"),
        "evaluate": About(
            "the return of any policy, or of one against another",
            "distilrl evaluate runs/cartpole --env CartPole-v1 --against dqn.zip",
        ),
    },
    "ship": {
        "export": About(
            "a student as ONNX, C, integers, torch, LiteRT or a web page",
            "distilrl export runs/cartpole --to c",
        ),
        "verify": About("play an exported file itself", "distilrl verify runs/cartpole/export/c"),
    },
    "what there is": {
        "recipes": About("the methods, a line each", "distilrl recipes"),
        "envs": About("the environments that are installed here", "distilrl envs ALE"),
        "zoo": About("the project's own teachers; zoo get NAME brings one here", "distilrl zoo get pong-dqn"),
        "fields": About("what was distilled in six fields of use", "distilrl fields"),
    },
}
"""Every command, by what it is for."""
NAMES = {name: about for group in COMMANDS.values() for name, about in group.items()}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        The exit code: 0, also where a loss is proven to be within the margin; 1 where a verdict is ``fail``, or no
        size of a `plan` comes near enough for one; 2 for what the user can mend, also in one run of a `sweep`; 3 where
        a verdict is ``inconclusive``; 4 where a file would run code elsewhere; 70 where distilrl itself is at fault;
        130 where the user stopped it; 141 where whoever read its output stopped reading. Of several verdicts the worst
        counts.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who began this, as some daemons do
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the encoding of a pipe does not
        sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    try:
        code = _main(sys.argv[1:] if args is None else list(args))
        sys.stdout.flush()  # here, where a closed pipe can still be caught
        sys.stderr.flush()
    except BrokenPipeError:
        _let_go()
        return 141
    except OSError as error:
        _drop_output(error)
        return code or 2
    except KeyboardInterrupt:  # while modules were imported, or a second one while the first was answered
        sys.stderr.write("interrupted\n")
        return 130
    return code


def _drop_output(error: OSError) -> None:
    """Says that output cannot be written, if that can be said, and lets go what waits."""
    with suppress(OSError):
        sys.stderr.write(f"error: output cannot be written ({error.strerror}): free the place that it goes to.\n")
    _let_go()


def _let_go() -> None:
    """Lets go what waits to be written to a stream that takes nothing any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _main(words: Sequence[str]) -> int:
    """What `main` does, but for a reader who has gone."""
    if words and words[0] in NAMES:
        return _run(words[0], words[1:])
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"distilrl {__version__}")
        return 0
    near = get_close_matches(words[0], NAMES, 1)
    way = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(NAMES)}."
    print(f"error: There is no command '{words[0]}': {way}", file=sys.stderr)
    return 2


def _overview() -> str:
    """What `distilrl --help` prints."""
    lines = ["usage: distilrl COMMAND [OPTIONS]", "", *textwrap.wrap(ABOUT, 79)]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:15}{about.line}" for name, about in commands.items())]
    return "\n".join(
        [*lines, "", f"example:\n  {NAMES['distill'].example}", "", "distilrl COMMAND --help says the rest."]
    )


def _run(name: str, words: Sequence[str]) -> int:
    """Parses and runs a command."""
    from distilrl.cli.faults import at_fault, print_error, refuse_empty, too_much
    from distilrl.text import abridged

    command, others = None, False
    try:
        refuse_empty(words)
        try:
            command = parse(name, words)
        except SystemExit as ended:
            if not ended.code:
                print(f"\nexample:\n  {NAMES[name].example}")
            return int(ended.code or 0)
        others = _is_of_another(command)
        code: int | None = command.run()
    except DistilError as error:
        print_error(str(error))
        return HOSTILE if isinstance(error, HostileError) else 2
    except KeyboardInterrupt:
        print(f"interrupted{'' if others else _way_on(name, command)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:  # nobody foresaw it
        if isinstance(error, OSError) and error.filename is None and error.errno in NO_PLACE:
            raise  # of standard output: what goes into a file has its sentence
        if isinstance(error, OSError) and error.errno in CLOSED and isinstance(error.filename, str):
            print_error(f"{abridged(error.filename)} cannot be looked at ({error.strerror}): give another path.")
            return 2
        if sentence := too_much(error):
            print_error(sentence)
            return 2
        print_error(at_fault(error, [name, *words]))
        return FAULT
    return code or 0


def parse(name: str, words: Sequence[str]) -> Any:
    """A command with its options, read but not run.

    Raises:
        SystemExit: the words are no options of it, or ask for its help.
        SpecError: two of them answer the same question, or one that takes several is repeated.
    """
    import tyro
    from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes

    settings = (DisallowNone, FlagCreatePairsOff, OmitArgPrefixes)
    kind = _command(name)
    if {"-h", "--help"} & set(words):
        from distilrl.cli.helping import unbroken

        kind = unbroken(kind)
    command = tyro.cli(kind, prog=f"distilrl {name}", args=words, config=settings)
    # what was said, also where it is what would have been anyway: it may contradict a file that is named beside it
    said = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    object.__setattr__(command, "said", said)
    for name in ("--teacher", "--sizes"):
        if sum(word.partition("=")[0] == name for word in words) > 1:
            raise SpecError(
                f"{name} is given twice, and the last alone would count: give all at once, '{name} ONE OTHER'."
            )
    if {"margin", "margin_abs"} <= said:
        raise SpecError("--margin and --margin-abs both say the largest acceptable loss: leave one of them out.")
    return command


def _command(name: str) -> type[Any]:
    """The class of a command: a dataclass whose fields are its options, and whose ``run`` does it."""
    match name:
        case "distill" | "train-teacher":
            from distilrl.cli.making import Distill, TrainTeacher

            return Distill if name == "distill" else TrainTeacher
        case "tree" | "plan" | "sweep":
            from distilrl.cli.searching import GrowTree, Plan, Sweep

            return {"tree": GrowTree, "plan": Plan, "sweep": Sweep}[name]
        case "inspect" | "evaluate":
            from distilrl.cli.using import Evaluate, Inspect

            return Inspect if name == "inspect" else Evaluate
        case "report" | "watch" | "compare":
            from distilrl.cli.showing import Compare, Report, Watch

            return {"report": Report, "watch": Watch, "compare": Compare}[name]
        case "export" | "verify":
            from distilrl.cli.shipping import Export, Verify

            return Export if name == "export" else Verify
        case "zoo" | "fields":
            from distilrl.cli.offers import Fields, Zoo

            return Zoo if name == "zoo" else Fields
        case _:
            from distilrl.cli.listing import Envs, Recipes

            return Recipes if name == "recipes" else Envs


def _is_of_another(command: Any) -> bool:
    """Whether a run lies in the folder that a command is to begin in, which is another's and refused."""
    out = getattr(command, "out", None) if hasattr(command, "resume") else None
    if out is None:
        return False
    from distilrl.runs import RunFolder

    return RunFolder(out).kind() not in (None, "seeds", "chain")  # these the same command goes on


def _way_on(name: str, command: Any) -> str:
    """How a command that was stopped goes on, where it can."""
    if command is None:  # while it was read: nothing has begun, and imports that were cut off cannot be gone on with
        return ""
    from distilrl.next_steps import trust_of
    from distilrl.runs import RunFolder
    from distilrl.text import typed

    if name == "sweep":
        return "; the same command goes on"
    folder = getattr(command, "resume", None) or getattr(command, "out", None)
    if not hasattr(command, "resume") or folder is None or not RunFolder(folder).config.is_file():
        return ""
    try:
        words = ["distilrl", name, "--resume", folder, *trust_of(RunFolder(folder))]
    except DistilError:  # a damaged config.json is said when it is gone on with
        words = ["distilrl", name, "--resume", folder]
    if name == "plan" and command.resume is not None and "episodes" in getattr(command, "said", ()):
        words += ["--episodes", str(command.episodes)]  # else what left it undecided is all that is asked
    return f"; continue with: {typed(words)}"

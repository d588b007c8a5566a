"""Commands on what comes with the project: teachers and fields of use. Without PyTorch, so that they answer at once."""

import json
import math
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape
from tyro.conf import Positional, arg

from distilrl.errors import SpecError
from distilrl.terminal import Terminal
from distilrl.zoo import find, get, zoo


@dataclass(frozen=True, kw_only=True)
class Fields:
    """List what was distilled in six fields of use.

    Of each its environment, its teacher, its smallest student and its page.
    """

    json: bool = False
    """Print a JSON array on standard output."""

    def run(self) -> None:
        """Lists."""
        rows = json.loads(Path(__file__).with_name("fields.json").read_text(encoding="utf-8"))
        if self.json:
            print(json.dumps(rows))
        else:
            _print_fields(rows)


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """List the project's own teachers, or bring some here: zoo get NAME."""

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[get NAME...]", help_behavior_hint="")] = ()
    """Which to bring, from the project's repository or from the folder or URL that DISTILRL_ZOO names, checked against
    their SHA-256."""
    out: Path = Path("zoo")
    """With get: folder to write; each comes into a folder of its name there."""

    def run(self) -> None:
        """Lists them, or brings some."""
        match self.words:
            case ():
                for name, one in zoo().items():
                    print(f"{name:26}{one.bytes / 1e6:4.1f} MB  {one.env}")
                print("\nUse: distilrl zoo get NAME, then --teacher zoo/NAME. Its README.md says more.")
                print("examples and benchmarks are modules of a checkout: run commands in its folder.")
            case ("get", *names) if names:
                for name in names:  # all or none of them
                    find(name)
                for name in names:
                    print(get(name, self.out))
            case _:
                raise SpecError(f"zoo {' '.join(self.words)}: write distilrl zoo, or distilrl zoo get NAME.")


def _told(number: float) -> str:
    """A return, of a small one three digits."""
    digits = 2 - math.floor(math.log10(abs(number))) if number else 2
    return f"{number:,.{max(2, digits)}f}"


def _print_fields(rows: list[dict[str, Any]]) -> None:
    """Fields of use, on standard output: in each environment the teacher, the smallest student that kept within the
    margin or came nearest, its verdict with each training seed, and the best that needs no learning.
    """
    out = Terminal()
    for (field, page, extra), own in groupby(rows, key=itemgetter("field", "page", "extra")):
        install = f'{page}, pip install "distilrl[{extra}]"'
        out.print(f"[bold]{escape(field)}[/]: {escape(install)}", soft_wrap=True)
        for row in own:
            tree = row["student"].startswith("tree:")  # of which nodes are counted
            known, left = f"{row['teacher_params']:,}", f"{row['params']:,}"
            sizes = f"{known} parameters -> {left} nodes" if tree else f"{known} -> {left} parameters"
            returns = f"return {_told(row['return'])} of {_told(row['teacher_return'])}"
            without = f"{row['without_learning']} {_told(row['without_learning_return'])}"
            out.print(
                f"  {escape(row['env'])}: {sizes}\n    {escape(row['student'])}, {returns}: {row['verdicts']}\n"
                f"    without learning: {escape(without)}",
                soft_wrap=True,
            )

"""Commands that list what there is: methods and environments. What they list goes to standard output."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distilrl.cli.options import Unset
from distilrl.cli.tables import print_fields
from distilrl.envs.listing import families
from distilrl.errors import SpecError
from distilrl.recipes import RECIPES
from distilrl.zoo import get, zoo

ROOM = 79
"""Columns."""
NEEDS = {"choices": "actions that are choices", "one choice": "one choice a step"}
"""What a recipe cannot do without, where neither its line nor the word distil says so."""


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the methods that --recipe names, a line each."""

    def run(self) -> None:
        """Lists them."""
        for name, one in RECIPES.items():
            needs = [NEEDS[need] for need in one.needs if need in NEEDS]
            needs += [] if "teacher" in one.needs else ["no teacher: for train-teacher"]
            more = f" ({'; '.join(needs)})" if needs else ""
            print(_hanging(f"{name:20}", f"{one.summary.rstrip(' :;')}{more}"))
        print(f"\n{_hanging('my_module:my_recipe ', 'a function of your own from EnvInfo to TrainConfig.')}")
        print("\nUse: distilrl distill --recipe NAME. More of each: docs/methods/NAME.md.")


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments that can be named here, by where they come from."""

    word: Annotated[Positional[Unset[str]], arg(metavar="WORD")] = ""
    """Only ids that hold this, in any case."""

    def run(self) -> None:
        """Lists them."""
        word, shown = self.word.lower(), False
        for family in families():
            ids = [name for name in family.ids if word in name.lower() or word == family.name.lower()]
            if ids:
                missing = f", needs {family.lacks}, which is not installed" if family.lacks else ""
                print(f"{family.name} ({len(ids)}{missing}):\n{_hanging('  ', ', '.join(ids))}\n")
                shown = True
        if not shown:
            raise SpecError(f"No environment here has '{self.word}' in its id: write less of it, or leave it out.")
        print(_hanging("", "Of every game of ALE there is also ALE/Game-v5, with sticky actions."))
        print(
            _hanging(
                "",
                "Others register their own when their package is imported: write --env package:Env-id, e.g. "
                "my_package:MyEnv-v0; a file my_package.py is found in the working directory and in PYTHONPATH. What "
                "is not registered is put into a function there: gymnasium.register(id='MyEnv-v0', entry_point=MyEnv).",
            )
        )


@dataclass(frozen=True, kw_only=True)
class Fields:
    """List what was distilled in six fields of use: environment, teacher, smallest student, and their pages."""

    json: bool = False
    """Print a JSON array on standard output."""

    def run(self) -> None:
        """Lists."""
        rows = json.loads(Path(__file__).with_name("fields.json").read_text(encoding="utf-8"))
        if self.json:
            print(json.dumps(rows))
        else:
            print_fields(rows)


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
            case ("get", _, *_):
                for name in self.words[1:]:
                    print(get(name, self.out))
            case _:
                raise SpecError(f"zoo {' '.join(self.words)}: write distilrl zoo, or distilrl zoo get NAME.")


def _hanging(first: str, text: str) -> str:
    """Text in lines, behind a first column that the others leave free."""
    return textwrap.fill(text, ROOM, initial_indent=first, subsequent_indent=" " * len(first))

"""Commands that list what there is: methods and environments. What they list goes to standard output."""

import textwrap
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from distilrl.cli.options import Unset
from distilrl.envs.listing import families
from distilrl.errors import SpecError
from distilrl.recipes import RECIPES

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
        print("\nUse: distilrl distill --recipe NAME. More of most: docs/methods/NAME.md.")


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments that can be named here, by where they come from."""

    word: Annotated[Positional[Unset[str]], arg(metavar="[WORD]")] = ""
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


def _hanging(first: str, text: str) -> str:
    """Text in lines, behind a first column that the others leave free."""
    return textwrap.fill(text, ROOM, initial_indent=first, subsequent_indent=" " * len(first))

"""Commands that show what was found: the report of a run, an animation, several beside each other."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distilrl.cli.options import Trusted, TrustOptions, Unset
from distilrl.cli.tables import print_studies
from distilrl.display import Display, console
from distilrl.errors import EnvError
from distilrl.figures import in_hex
from distilrl.files import write_bytes, write_text
from distilrl.plain import check_number
from distilrl.report import animation, episode, write_report, write_studies
from distilrl.runs import RunFolder
from distilrl.studies import compare
from distilrl.teachers.hub import offline


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a finished run."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Writes it."""
        self.trusted.allow()
        with Display() as watch:
            print(write_report(self.run_folder, watch=watch))


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Write an animated image of teacher and student side by side.

    Where the environment cannot be drawn, a figure of what they do.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    steps: int = 1500
    """Environment steps at most."""
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Writes it."""
        self.trusted.allow()
        check_number("steps", self.steps, "[1, inf)")
        folder = RunFolder(self.run_folder).with_student()
        if not folder.tree.is_file() and not (folder.student / "spec.json").is_file():
            raise folder.lacking("student")
        path = folder.path / "watch.webp"
        with Display() as watch, offline():  # a folder of somebody else's names whom it likes
            try:
                write_bytes(path, animation(folder, steps=self.steps, watch=watch))
            except EnvError as error:
                drawn = in_hex(episode(folder, steps=self.steps, watch=watch))
                path = folder.path / "watch.svg"
                write_text(path, drawn)
                print(f"no animation: {error}", file=sys.stderr)
        print(path)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put runs and studies in one table and one figure.

    What Agarwal et al. (2021) show: interquartile means, profiles, who beats whom.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="(required)")]
    """A row each: a run, a study over seeds, or a folder of such, whose environments count alike; one folder of
    several: a row for each of them."""
    out: Unset[Path | None] = None
    """Folder to write: compare.csv, compare.md, compare.json and compare.png."""
    json: bool = False
    """Print one JSON object on standard output in place of the table."""

    def run(self) -> None:
        """Compares."""
        if self.out is not None:  # before the work
            RunFolder(self.out).check_free()
        found = compare(*self.runs)
        if self.json:
            print(json.dumps(found.to_json()))
        else:
            print_studies(found)
        if self.out is not None:
            with console.status("drawing"):
                folder = write_studies(found, self.out)
            console.print(f"written: {folder}", markup=False, soft_wrap=True)

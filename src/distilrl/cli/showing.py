"""Commands that show what was found: the report of a run, an animation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distilrl.checkpoints import write_bytes
from distilrl.cli.display import console
from distilrl.cli.options import Trusted, TrustOptions
from distilrl.plain import check_number
from distilrl.report import animation, write_report
from distilrl.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a finished run."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Writes it."""
        self.trusted.allow()
        with console.status("writing the report"):
            print(write_report(self.run_folder))


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Write an animated image of teacher and student side by side."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    steps: int = 1500
    """Environment steps at most."""
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Writes it."""
        self.trusted.allow()
        check_number("steps", self.steps, "[1, inf)")
        folder = RunFolder(self.run_folder)
        if not folder.tree.is_file() and not (folder.student / "spec.json").is_file():
            raise folder.lacking("student")
        path = folder.path / "watch.webp"
        with console.status("playing"):
            write_bytes(path, animation(folder, steps=self.steps))
        print(path)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put runs and studies in one table and one figure."""

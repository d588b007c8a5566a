"""Where results come from: versions, machine, date, commit and command, so that they can be had again."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import gymnasium

from distilrl import __version__
from distilrl.modules import find_program, home_of
from distilrl.plain import Record


@dataclass(frozen=True, kw_only=True)
class Provenance(Record):
    """What a result was made with."""

    distilrl: str
    """Version of distilrl."""
    python: str
    """Version of Python."""
    torch: str
    """Version of PyTorch."""
    gymnasium: str
    """Version of Gymnasium."""
    environment: str
    """Package that the environment is of, and its version, e.g. ``ale_py 0.12.0``; empty where it is of no package."""
    system: str
    """Operating system and architecture."""
    cpu: str
    """The processor's name."""
    threads: int
    """CPU threads of the run's networks and emulators."""
    date: str
    """When it was finished, in UTC, as ISO 8601."""
    commit: str = ""
    """Commit of the git repository in whose folders the command was called; empty outside of any."""
    command: str = ""
    """The whole command."""

    @staticmethod
    def of(env_id: str, threads: int) -> "Provenance":
        """Of what is being done here and now in an environment of this id."""
        return Provenance(
            distilrl=__version__,
            python=platform.python_version(),
            torch=_version("torch"),
            gymnasium=gymnasium.__version__,
            environment=package_of(env_id),
            system=f"{platform.system()} {platform.machine()}",
            cpu=processor(),
            threads=threads,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=_commit(),
            command=_command(),
        )

    def in_words(self) -> str:
        """In one line, but for the command.

        Example::

            results.provenance.in_words()  # 'distilrl 0.1.0, Python 3.12.3, PyTorch 2.9.0, ...'
        """
        versions = f"distilrl {self.distilrl}, Python {self.python}, PyTorch {self.torch}, Gymnasium {self.gymnasium}"
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        parts = (versions, self.environment, f"{self.cpu} ({self.system}), {threads}", self.date)
        words = ", ".join(part for part in parts if part)
        return f"{words}, commit {self.commit[:12]}" if self.commit else words


def versions() -> dict[str, str]:
    """Of all that decides what comes out of a run, beside its environment's package."""
    return {"distilrl": __version__} | {name: _version(name) for name in ("torch", "gymnasium", "numpy")}


def package_of(env_id: str) -> str:
    """The package that an environment is of, and its version."""
    spec = gymnasium.registry.get(env_id.rpartition(":")[2])
    home, *inside = home_of(spec.entry_point if spec is not None else env_id.rpartition(":")[0]).split(".")
    if home == "gymnasium":  # its own are of packages that it only wraps
        home = {"mujoco": "mujoco", "box2d": "Box2D"}.get("".join(inside[1:2]), "")
    return _package_of(home) if home else ""


@functools.cache
def _package_of(module: str) -> str:
    """The package of a module, and its version; empty where it is of none."""
    try:
        return f"{module} {_version(module)}"
    except metadata.PackageNotFoundError:
        names = _distributions().get(module, [])
        return f"{names[0]} {_version(names[0])}" if names else ""


@functools.cache
def _version(package: str) -> str:
    """Of an installed package: the one that this process began with, which is asked for at every play."""
    return metadata.version(package)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Which package a module is of; to know that takes a second."""
    return metadata.packages_distributions()


def processor() -> str:
    """The processor's name, as Linux or macOS has it, or as Python knows it."""
    if sys.platform == "darwin":
        words = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError):
            return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - of ours
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or "unknown")


def _commit() -> str:
    """The commit here; empty where there is none, or no git."""
    git = find_program("git")
    try:
        here = Path.cwd()
        # on macOS, git may be a stub that asks the user to install it; a folder above may be closed to us
        if git is None or not any(os.path.exists(folder / ".git") for folder in (here, *here.parents)):  # noqa: PTH110
            return ""
        words = [git, "rev-parse", "HEAD"]
        done = subprocess.run(  # noqa: S603 - of ours
            words, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _command() -> str:
    """The command line, with the short name of the program."""
    program = Path(sys.argv[0] or "python")
    if program.name == "ipykernel_launcher.py":  # what started it is nobody's command
        return "a notebook"
    ours = program.name == "__main__.py" and program.parent.name == "distilrl"
    name = "distilrl" if ours else program.name if os.access(program, os.X_OK) else f"python {program}"
    return f"{name} {shlex.join(sys.argv[1:])}".strip()

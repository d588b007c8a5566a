"""The run folder: what a run leaves behind, written so that a run killed at any moment can be resumed or says why
not.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilrl.checkpoints import read_tensors, save_network, save_tensors
from distilrl.envs import EnvInfo
from distilrl.errors import FileError, ResumeError, SpecError
from distilrl.files import TEMPORARY, read_json, unwritable, write_json
from distilrl.heads import Head
from distilrl.networks import Network
from distilrl.origins import FIELD, absolute, origin, resolve
from distilrl.plain import from_plain
from distilrl.spaces import EnvRef
from distilrl.text import as_file_name, first_line, legible

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Plain = Mapping[str, Any]
KINDS = {
    "run": "a run",
    "task": "one task of a run of several",
    "teacher": "the training of a teacher",
    "seeds": "a study over seeds",
    "chain": "a chain of assistants",
    "assistant": "an assistant of a chain",
    "plan": "a plan",
    "winner": "the winner of a plan",
    "tree": "a tree",
}
"""What a folder may be of, as its config.json names it, and how it is called."""
RESUMED = {
    "run": "distill", "teacher": "train-teacher", "seeds": "distill", "chain": "distill", "plan": "plan", "tree": "tree"
}  # fmt: skip
"""Kinds that can be continued, and by which command."""
LOCK, AT_WORK = ".lock", "Another process is at work in {}: wait for its end, or choose another --out."
"""A file that is locked where a folder cannot be, and what is said where another process holds the lock."""
DAMAGED = (SpecError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)
"""What comes of a checkpoint whose tensors or numbers are not those of the run."""
OURS = (
    "config.json", "teacher.json", "results.json", "episodes.json", "plan.json", "tree.json", "tree.txt", "tree.dot",
    "metrics.csv", "report.html", "watch.webp", "watch.svg", "animation.webp", "sweep.csv", "sweep.md",
    "compare.csv", "compare.md", "compare.json", "compare.png",
    "spec.json", "student", "checkpoint", "tensorboard", "export", "winner", "seed-[0-9]*", "assistant-[0-9]*",
)  # fmt: skip
"""What a command may have left in a folder; nothing begins where one of these is."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.teacher = self.path / "config.json", self.path / "teacher.json"
        self.results, self.report = self.path / "results.json", self.path / "report.html"
        self.episodes = self.path / "episodes.json"
        self.tree = self.path / "tree.json"
        self.student, self.metrics = self.path / "student", self.path / "metrics.csv"
        self._checkpoint = self.path / "checkpoint"
        self.verdict_parts = self._checkpoint / "verdict"
        """Parts of a verdict that was not played to its end."""
        self._begun: dict[str, Any] | None = None
        """What config.json held when this was begun or continued, which checkpoints belong to."""
        self.moved: tuple[str, ...] = ()
        """What is otherwise on this machine than where the checkpoint that was read was written."""

    def with_student(self) -> "RunFolder":
        """The folder whose student is meant by this one's name: of a plan that of its winner, of a student within a run
        that run, else itself.
        """
        run, winner = RunFolder(self.path.parent), RunFolder(self.path / "winner")
        if self.path == run.student and run.kind() is not None:
            return run
        return winner if self.kind() == "plan" and (winner.student / "spec.json").is_file() else self

    def of_task(self, label: str) -> "RunFolder":
        """The folder of one task of a run of several: a run folder to every command that reads one."""
        return RunFolder(self.path / as_file_name(label))

    def begin(self, config: Plain, *, kind: str = "run", given: Plain | None = None) -> None:
        """Starts something new here; of several that try at once, one succeeds.

        Args:
            config: the job.
            kind: what it is, one of `KINDS`.
            given: what the command was given beside the job.

        Raises:
            FileError: the folder holds something of distilrl's already, or cannot be written.
        """
        found = self._found()
        with suppress(FileExistsError):
            if not found:
                self.describe(config, kind, given, new=True)
                return
        way = ", or continue it with --resume" if self.kind() in RESUMED else ""
        raise FileError(f"{self._taken(found)}{way}.")

    def describe(self, config: Plain, kind: str, given: Plain | None = None, *, new: bool = False) -> None:
        """Writes config.json, with the working folder that its paths count from."""
        write_json(self.config, _described(config, kind, given) | {FIELD: origin(self.path)}, new=new)
        self._begun = _written(self.config)

    def continue_(
        self,
        config: Plain,
        *,
        kind: str = "run",
        given: Plain | None = None,
        complete: Callable[[dict[str, Any]], Plain] = dict,
    ) -> None:
        """Makes sure that what is here was begun as the same job.

        Args:
            config: the job.
            kind: what it is.
            given: what the command was given beside the job.
            complete: fills in what a job of an earlier version lacks.

        Raises:
            FileError: there is nothing to continue.
            ResumeError: it is of another kind, or a field of the job differs.
        """
        data = self.read_config()
        self.check_kind(kind)
        told = (_described(complete(data), kind, data.get("given")), _described(config, kind, given))
        old, new = (json.loads(json.dumps(one)) for one in told)  # as JSON gives it back: no tuples
        difference = _difference(old, new)
        if difference is not None and _difference(absolute(old), absolute(new)) is not None:
            name, old, new = difference
            raise ResumeError(
                f"{self.path} was begun with another '{name}' ({_short(old)}, not {_short(new)}): give the same, or "
                "choose another --out."
            )
        # of a write that was killed, as large as a replay, or beside what ships
        tasks = [EnvRef.from_json(one["env"]).label for one in data["train"]["tasks"]]
        own = [self, RunFolder(self.path / "winner"), *map(self.of_task, tasks)]
        places = [*(home.path for home in own[1:]), *(home.path / name for home in own for name in home._found())]
        linked = next((place for place in places if place.is_symlink() and place.is_dir()), None)
        if linked is not None:  # what is written or taken away there would be somewhere else
            raise FileError(f"{linked} is a symbolic link to a folder: put the folder itself in its place.")
        self._begun = _written(self.config)
        inside = (left for one in own for home in (one.path, one.student) for left in home.glob(TEMPORARY))
        for left in (*self._checkpoint.rglob(".*.tmp"), *inside):
            left.unlink(missing_ok=True)

    def check_kind(self, kind: str) -> None:
        """Raises where what is here cannot be continued as this kind, with what it can be."""
        if (held := self.kind()) == kind:
            return
        what, beside = KINDS.get(str(held), "something unknown"), ""
        way = f"make it again with --config {self.config} and another --out"
        if held in RESUMED:
            beside = f" as {KINDS[kind]}"
            way = f"give --resume to distilrl {RESUMED[held]}"
        elif held in ("assistant", "task"):
            whole = "its chain" if held == "assistant" else "the run that it is of"
            way = f"continue {whole} with --resume {self.path.resolve().parent}"
        raise ResumeError(f"{self.path} holds {what}, which cannot be continued{beside}: {way}.")

    def check_free(self, *, but: Sequence[str] = ()) -> None:
        """Raises where the folder holds something of distilrl's, other than files of these names."""
        if found := [name for name in self._found() if name not in but]:
            raise FileError(f"{self._taken(found)}.")

    def _taken(self, found: Sequence[str]) -> str:
        """What is here already, and what to do."""
        held = self.kind()
        what = KINDS[held] if held else f"files of distilrl ({found[0]})"
        return f"{self.path} already holds {what}: choose another --out"

    def abandon(self) -> None:
        """Takes back `begin`, if nothing was written since."""
        if self._found() == ["config.json"]:
            self.config.unlink()

    def lacking(self, what: str) -> FileError:
        """What to say where a run's results or its student are wanted, and there are none."""
        kind = self.kind()
        if kind is None:
            return FileError(f"{self.path} holds no run: give a folder that distilrl has written.")
        inside = sorted(self.path.glob("*/student/spec.json"))
        if what == "student" and inside and kind != "chain":
            homes = " or ".join(str(spec.parents[1]) for spec in inside[:3])
            return FileError(f"{self.path} holds no student of its own: give {homes}.")
        if kind == "plan" and (self.path / "plan.json").is_file():
            open_yet = False
            with suppress(*DAMAGED):
                rows = read_json(self.path / "plan.json")["frontier"]
                open_yet = any(row["verdict"] == "inconclusive" for row in rows)
            return FileError(
                f"{self.path} holds a plan in which no size was shown to be within the margin, so that it has no "
                f"{what}: "
                + (
                    f"ask again with 'distilrl plan --resume {self.path} --episodes' and more of them than before."
                    if open_yet
                    else "make another with more --steps, larger --sizes or a larger --margin."
                )
            )
        links = sorted(self.path.glob("assistant-*/results.json")) if kind == "chain" else []
        told = ((home.parent, read_json(home)) for home in links)  # the last says how it went
        ended = next((home for home, said in told if isinstance(said, dict) and said.get("chain")), None)
        if ended is not None:
            return FileError(
                f"{self.path} is a chain that ended at {ended.name}, whose verdict is fail, and it has no {what} of "
                f"its own: give {ended}, or make another with more --steps or without --assistants."
            )
        if kind in RESUMED:
            return FileError(f"{self.path} has no {what} yet: continue it with --resume.")
        if kind == "assistant":
            chain = self.path.resolve().parent
            return FileError(f"{self.path} has no {what} yet: continue its chain with --resume {chain}.")
        return FileError(f"{self.path} holds {KINDS[kind]} that has no {what}: make it again, with another --out.")

    def _found(self) -> list[str]:
        """What is here of `OURS`."""
        return [path.name for pattern in OURS for path in sorted(self.path.glob(pattern))]

    def kind(self) -> str | None:
        """What the folder is of, by its config.json; None: that does not say."""
        with suppress(FileError):
            kind = str(read_config(self.config).get("kind"))
            return kind if kind in KINDS else None
        return None

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run in this folder.

        Raises:
            FileError: there is none.
        """
        if not os.path.isfile(self.config):  # noqa: PTH113 (no error for odd names and closed folders)
            raise FileError(f"{self.path} holds no run: it has no config.json.")
        return read_config(self.config)

    def save_student(self, network: Network, head: Head, info: EnvInfo, recipe: str, **more: Any) -> str:
        """Writes a student, with all that playing and exporting it needs, and ``more`` to be read by people; returns
        the digest of its file.
        """
        about: dict[str, Any] = {"env": info.id, "environment": info.ref.to_json(), "recipe": recipe}
        return save_network(self.student, network, head, **about, **more)

    def save_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, name: str = "state") -> None:
        """Writes the checkpoint of this name in one step, with the job and the machine that it belongs to."""
        config = self._begun or (_written(self.config) if self.config.is_file() else None)
        bound = {"state": dict(state), "config": config, "machine": machine()}
        save_tensors(self._checkpoint / f"{name}.safetensors", tensors, bound)

    def forget_parts(self) -> None:
        """Takes away the parts of a verdict, once there are results."""
        shutil.rmtree(self.verdict_parts, ignore_errors=True)

    def load_state(self, name: str = "state") -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint of this name, or None before the first.

        Raises:
            FileError: it is damaged.
            ResumeError: config.json is not what it was when the checkpoint was written.
        """
        path = self._checkpoint / f"{name}.safetensors"
        if not path.is_file():
            return None
        tensors, bound = read_tensors(path)
        if "state" not in bound:
            raise FileError(f"{path} is no checkpoint of a run: delete {self._checkpoint} and begin anew.")
        if bound.get("config") is not None and self.config.is_file():
            changed = _difference(bound["config"], _written(self.config))
            if changed is not None:
                name, old, new = changed
                raise ResumeError(
                    f"{self.config} is not the one that its checkpoint belongs to ('{name}' was {_short(old)} and is "
                    f"{_short(new)}): put it back, or begin another run with --config and --out."
                )
        then = dict(bound.get("machine") or {})
        self.moved = tuple(
            f"{what} {legible(str(now))} (was {legible(str(then.get(what)))})"
            for what, now in machine().items()
            if then.get(what) != now
        )
        return tensors, bound["state"]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process out of this folder while it is written; the system frees it when this one ends.

        A folder that is made for it and is empty at the end is taken away again. Nobody is kept out where the file
        system has no locks.

        Raises:
            FileError: another process is at work here, or the folder cannot be made.
        """
        there = os.path.exists(self.path)  # noqa: PTH110 (no error for odd names and closed folders)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from None
        held = locked(self.path)
        try:
            yield
        finally:
            if not there:
                with suppress(OSError):  # not empty
                    self.path.rmdir()
            if held is not None:
                os.close(held)


def locked(folder: Path) -> int | None:
    """A descriptor of the folder that is locked as long as it is open, so that no file is left of the lock; None where
    there are no locks.

    Raises:
        FileError: another process holds it, or the folder cannot be read.
    """
    if fcntl is None:
        return None
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileError(f"{folder} cannot be read ({error.strerror}): choose another folder.") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise FileError(AT_WORK.format(folder)) from None
    except OSError:  # NFS locks what is open for writing, which no folder is
        os.close(held)
        return _locked_file(folder)
    return held


def _locked_file(folder: Path) -> int | None:
    """A descriptor of a file in the folder that is locked; None where there are no locks. The file stays: who takes a
    lock's file away lets two others lock two files.
    """
    try:
        held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise FileError(AT_WORK.format(folder)) from None
    except OSError:
        os.close(held)
        return None
    return held


def _described(config: Plain, kind: str, given: Plain | None = None) -> dict[str, Any]:
    """What config.json holds: what the folder is of, the job, and what the command was given beside it."""
    return {
        "kind": kind,
        **{k: v for k, v in config.items() if k not in ("kind", "given", FIELD)},
        **({"given": dict(given)} if given else {}),
    }


def _difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first field in which two plain values differ, by its dotted name, with both its values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*new, *(key for key in old if key not in new)]
        parts = [(f"{name}.{key}" if name and name != "given" else key, old.get(key), new.get(key)) for key in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{name}[{number}]", *both) for number, both in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else (name, old, new)
    return next((found for part in parts if (found := _difference(part[1], part[2], part[0])) is not None), None)


def _short(value: Any) -> str:
    text = legible(json.dumps(value), 60)
    return text if len(text) < 60 else text[:57] + "..."


@contextmanager
def fitting() -> Iterator[None]:
    """Has what comes of a checkpoint of another run told in a sentence.

    Raises:
        ResumeError: it is not of this run.
    """
    try:
        yield
    except DAMAGED as error:
        raise ResumeError(
            f"The checkpoint does not fit this run ({type(error).__name__}: {first_line(error)}): begin another run "
            "with --config and --out."
        ) from error


def rows_of(data: Any) -> list[dict[str, Any]]:
    """Rows of metrics.csv as a checkpoint holds them.

    Raises:
        SpecError: they are none.
        LookupError: they lack what each has.
    """
    rows = list(from_plain(tuple[dict[str, int | float | None], ...], data, "history"))
    check_rows(rows)
    return rows


def check_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raises `SpecError` or LookupError where rows of metrics.csv lack what each has."""
    for row in rows:
        from_plain(int, row["env_steps"], "env_steps")
        for name in ("train_s", "return"):
            from_plain(float, row[name], name)


def machine() -> dict[str, str]:
    """What may change the last digits of a result: another PyTorch, NumPy, or processor rounds otherwise."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def read_config(path: Path) -> dict[str, Any]:
    """A configuration as `RunFolder` holds it; its relative paths are those of the folder in which it was begun.

    Raises:
        FileError: the file is missing, or holds none.
    """
    return resolve(_written(path), path.parent)


def _written(path: Path) -> dict[str, Any]:
    """A configuration as it stands in its file."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise FileError(f"{path} does not hold a configuration: restore it.")
    return data

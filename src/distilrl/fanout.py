"""Whole runs side by side: one function called with many arguments, here or on a `concurrent.futures.Executor`.

Any executor does: `processes.Processes`, the standard library's, `distributed.RayExecutor`, Dask's
``client.get_executor()``. Results are equal whatever it is. What a run says of itself comes back through a small file
beside it, since that is the one channel which all of them have: runs need a folder that every machine sees anyway.
"""

import json
import os
import pickle
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distilrl.envs import trust, trusted
from distilrl.errors import DistilError, ExtraError, FileError, SpecError, TeacherError, WorkerError
from distilrl.events import (
    Accepted,
    Check,
    Episodes,
    Event,
    Noticed,
    Phase,
    Reached,
    Replaying,
    Resumed,
    Step,
    Unplayed,
    Watch,
    silent,
)
from distilrl.files import read_json, unwritable, write_text
from distilrl.starting import brought_back, quit_by
from distilrl.text import as_file_name, first_line

T = TypeVar("T")
SECONDS = 0.5
"""How often it is asked how far runs are."""
AT_ONCE = (ExtraError, SpecError, TeacherError)
"""What runs of one teacher meet all alike before their first step, if one does."""
SECONDS_TO_BE_REFUSED = 60.0
"""How long the others are waited for then: one whose teacher gives no number after hours says nothing of them."""
PICKLES = (" pickle ", "Can't get local object")
"""What pickle says of what it cannot send; Python 3.13 has other words for functions within functions."""
NOTES = ".distilrl-progress"
"""Folder beside the runs in which they say how far they are; it goes when they end."""


@dataclass(frozen=True)
class Call:
    """Arguments of one of many calls."""

    name: str
    """What it is called to people; other than those beside it."""
    args: tuple[Any, ...]
    """What the function takes, but for ``watch``."""


@contextmanager
def fan_out(
    function: Callable[..., T], calls: Sequence[Call], home: Path, *, executor: Executor | None, watch: Watch
) -> Iterator[Iterator[tuple[int, "Future[T]"]]]:
    """Calls a function many times; gives the number of each call and what came of it, as they end.

    To leave the block early cancels what has not begun.

    Args:
        function: of a module, so that another process finds it; takes ``watch`` too.
        calls: its arguments.
        home: folder that all machines see, for what the calls say while they are under way.
        executor: where; None: here, one after the other, each when it is asked for.
        watch: told of all events where the calls are made here, else how far each is.

    Raises:
        FileError: ``home`` cannot be written.

    Example::

        with fan_out(finish, calls, Path("runs/seeds"), executor=executor, watch=watch) as ended:
            results = {number: future.result() for number, future in ended}
    """
    if executor is None:
        yield _here(function, calls, watch)
        return
    notes = home.absolute() / NOTES
    _clear(notes)  # of a command that was killed
    try:
        notes.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(home, error) from None
    place = _Shared(Place.here(), str(notes))
    futures: dict[Future[T], int] = {}
    try:
        for number, call in enumerate(calls):
            futures[submitted(executor, _elsewhere, function, call, place)] = number
        yield _as_they_end(futures, calls, notes, watch)
    except AT_ONCE:  # the others are refused just now too: once they are, nothing of them is left behind
        waiting = [one for one in futures if getattr(one, "cancel_ends_it", False) or not one.cancel()]
        wait(waiting, SECONDS_TO_BE_REFUSED)
        raise
    finally:
        for future in futures:
            future.cancel()
        _clear(notes)


def try_sending(name: str, args: tuple[Any, ...], home: Path, executor: Executor | None) -> None:
    """Sends what later calls will be given and does nothing with it, so that what cannot be sent is refused before the
    work that those calls are about.

    Args:
        name: what the refusal is about.
        args: what will be sent.
        home: as `fan_out` wants it.
        executor: where to; None: nothing is sent.

    Raises:
        DistilError: what the calls would have met.

    Example::

        try_sending("rule", (teacher, info), Path("runs/plan"), executor)
    """
    if executor is not None:
        with fan_out(_received, [Call(name, args)], home, executor=executor, watch=silent) as ended:
            for _, future in ended:
                future.result()


def _received(*_: Any, watch: Watch) -> None:
    """What comes of what is only sent."""


def submitted(executor: Executor, function: Callable[..., T], *args: Any) -> "Future[T]":
    """A call under way; what the executor refuses at once is told as what it refuses later.

    Example::

        submitted(executor, play_part, game, Place.here()).result()
    """
    try:
        return executor.submit(function, *args)
    except Exception as error:
        refused: Future[T] = Future()
        refused.set_exception(error)
        return refused


def _clear(notes: Path) -> None:
    """Removes the notes; first out of the way of whoever still writes there."""
    with suppress(OSError):
        gone = notes.rename(notes.with_name(f"{NOTES}-{secrets.token_hex(4)}"))
        if gone.is_symlink():  # not ours: what it leads to is none of our business
            gone.unlink()
            return
        for path in gone.iterdir():
            path.unlink()
        gone.rmdir()


def _here(function: Callable[..., T], calls: Sequence[Call], watch: Watch) -> Iterator[tuple[int, "Future[T]"]]:
    for number, call in enumerate(calls):
        future: Future[T] = Future()
        try:
            future.set_result(function(*call.args, watch=watch))
        except SystemExit as error:  # somebody's code would end this program as if all were well
            future.set_exception(quit_by(error))
        except BrokenPipeError:  # nobody reads what is told of any of them
            raise
        except Exception as error:
            future.set_exception(error)
        yield number, future


def _as_they_end(
    futures: "dict[Future[T], int]", calls: Sequence[Call], notes: Path, watch: Watch
) -> Iterator[tuple[int, "Future[T]"]]:
    known: dict[int, Reached] = {}
    said: set[str] = set()
    left = set(futures)
    while left:
        ended, left = wait(left, SECONDS, FIRST_COMPLETED)
        for future in (*left, *ended):
            number = futures[future]
            told, words = _read(notes, calls[number].name)
            for one in words:  # of several runs mostly the same, so once
                if one not in said:
                    said.add(one)
                    watch(Noticed(f"{calls[number].name}: {one}"))
            if told is not None and future in left and told != known.get(number):
                known[number] = told
                watch(told)
        for future in sorted(ended, key=futures.__getitem__):
            yield futures[future], worded(future, calls[futures[future]].name)


def worded(future: "Future[T]", name: str) -> "Future[T]":
    """The same future, or one with a sentence where the executor's own error says nothing to a user."""
    error = None if future.cancelled() else future.exception()
    words: DistilError | None = None
    if isinstance(error, BrokenExecutor):
        words = WorkerError(
            f"'{name}' ended because a worker process died ({first_line(error)}): most often there is not enough "
            "memory, so run fewer at a time; the same command continues what was begun, of one run or a plan --resume."
        )
    elif reason := _unsendable(error):
        words = SpecError(
            f"'{name}' cannot be sent to another process ({reason}): name the teacher's file and the "
            "environment's id instead of giving objects, define losses in a module, or do one run at a time."
        )
    if words is None:
        return future
    told: Future[T] = Future()
    words.__cause__ = error
    told.set_exception(words)
    return told


def _unsendable(error: BaseException | None) -> str:
    """What pickle says where it is pickle that failed; executors wrap it in errors of their own."""
    while error is not None and not isinstance(error, DistilError):
        said = str(error)[:200]
        if isinstance(error, pickle.PicklingError | AttributeError | TypeError) and any(one in said for one in PICKLES):
            return first_line(error)
        error = error.__cause__
    return ""


@dataclass(frozen=True)
class Place:
    """What a call needs that is made elsewhere: what this process was allowed, where it finds modules and files."""

    trusted: tuple[str, ...]
    """Modules that files may import."""
    paths: tuple[str, ...]
    """Where modules are looked for, as PYTHONPATH or a script has it."""
    folder: str
    """Folder from which relative paths count."""
    command: tuple[str, ...] = ()
    """What was typed, as results tell it: that of the other process is its executor's own."""

    @classmethod
    def here(cls) -> "Place":
        """Of this process."""
        return cls(trusted(), tuple(sys.path), str(Path.cwd()), tuple(sys.argv))

    def enter(self) -> None:
        """Makes another process as this one, as far as its machine has the folder."""
        sys.path += [path for path in self.paths if path not in sys.path]
        trust(*self.trusted)
        if self.command:
            sys.argv[:] = self.command
        if os.getcwd() != self.folder and Path(self.folder).is_dir():  # noqa: PTH109 (as it was told)
            os.chdir(self.folder)


@dataclass(frozen=True)
class _Shared:
    """What a call needs beside that: a folder that every machine sees."""

    place: Place
    notes: str
    """Folder for `_Notes`."""


def _elsewhere(function: Callable[..., T], call: Call, place: _Shared) -> T:
    """Makes a call in another process, of this machine or another, as it would be made where it comes from."""
    for folder in (place.place.folder, place.notes):
        if not Path(folder).is_dir():
            raise FileError(
                f"{folder} is not there on {socket.gethostname()}: runs on several machines need a folder that all of "
                "them share, for teachers and results alike."
            )
    place.place.enter()
    with brought_back():
        return function(*call.args, watch=_Notes(_note(Path(place.notes), call.name)))


class _Notes:
    """Watches a call and writes how far it is, at most twice a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._phase, self._returned = "", None
        self._next = 0.0
        self._words: list[str] = []

    def __call__(self, event: Event) -> None:
        before, done, total, said = self._phase, 0, 0, len(self._words)
        match event:
            case Noticed(words=words):
                self._words.append(words)
            case Accepted(unused=unused) if unused:
                self._words += [f"{path} is not used: give it with --normalizer" for path in unused]
            case Resumed(moved=moved) if moved:
                self._words.append(f"resumed elsewhere: {', '.join(moved)}; the last digits may differ")
            case Unplayed(protocol=protocol, why=why):
                self._words.append(f"{protocol}: not played ({why})")
            case Phase(name=name):
                self._phase = name
            case Replaying(done=done, total=total):
                self._phase = "replaying"
            case Step(env_steps=done, budget=total):
                self._phase = "reward" if before == "reward" else "training"
            case Episodes(done=done, total=total) if before not in ("training", "reward"):
                pass
            case Check(row=row):
                self._returned = row["return"]
                return
            case _:
                return
        if self._phase != before or len(self._words) > said or time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS
            told = {"phase": self._phase, "done": done, "total": total, "returned": self._returned}
            self._write(told | {"words": self._words})

    def _write(self, what: dict[str, Any]) -> None:
        if self._path.parent.is_dir():  # else nobody reads it any more
            with suppress(FileError):
                write_text(self._path, json.dumps(what))


def _note(notes: Path, name: str) -> Path:
    return notes / f"{as_file_name(name)}.json"


def _read(notes: Path, name: str) -> tuple[Reached | None, list[str]]:
    """How far a call is, if it has said so, and what a person should know of it."""
    try:
        told = read_json(_note(notes, name))
        words = [str(one) for one in told.pop("words", ())]
        reached = Reached(run=name, **told)
    except (FileError, TypeError, KeyError, AttributeError):
        return None, []
    return (reached if reached.phase else None), words

"""What is seen of work under way, on standard error in 80 columns or below a notebook's cell."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import markup
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from distilrl.events import (
    Accepted,
    Check,
    Drawn,
    Ended,
    Episodes,
    Event,
    Judged,
    Noticed,
    Phase,
    Reached,
    Recalled,
    Replaced,
    Replaying,
    Resumed,
    Step,
    Unplayed,
    Watch,
    silent,
)
from distilrl.played import Returns, TeacherCard, mean_in_words
from distilrl.results import Link
from distilrl.terminal import Terminal
from distilrl.text import abridged, shortened
from distilrl.verdict import difference_in_words, in_words

console = Terminal(stderr=True, highlight=False, emoji=False)
COLORS = {"pass": "green", "within_margin": "yellow", "inconclusive": "yellow", "fail": "red"}
"""Of verdicts."""
STAGES = ("teacher's check", "training", "reward")
"""Phases in which what is trained has a bar of its own."""

SECONDS = 10.0
"""How often a run in another process says how far it is, where there is no terminal."""
LONGEST = 26
"""Characters of what a bar is of: at 80 columns there is no room for more."""
QUIET = 60.0
"""How long this one's work is silent there, but for its checks and verdicts."""
DRAWN = 0.2
"""How often the bars below a notebook's cell are drawn anew, in seconds."""


class Left(ProgressColumn):
    """Time left as far as it is known; where all is done, the time that it took."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        known = not task.finished and task.stop_time is None and task.time_remaining is not None
        seconds = int((task.time_remaining if known else task.elapsed) or 0)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return Text(f"{clock} left" if known else clock, no_wrap=True)


def escape(text: str) -> str:
    """A text that may come from a file, for the terminal: it colours nothing, moves nothing, and has an end."""
    return markup.escape(abridged(text))


class Display:
    """Progress bars and lines of what happens: a watcher of events, used as a context manager.

    Example::

        with Display() as watch:  # also where there is no terminal
            distill(None, job, "runs/cheetah", watch=watch)
    """

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(10),
            TextColumn("{task.fields[far]}"),
            Left(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._live = seen_here()
        self._cell: Any = None
        self._drawn = 0.0
        self._said = time.monotonic()
        self._score: float | None = None
        self._bars: dict[str, TaskID] = {}
        self._stage, self._played = "training", "episodes"
        self._told: dict[str, tuple[str, float]] = {}
        self._recalled = False

    def __enter__(self) -> "Display":
        if console.is_jupyter:  # rich's own way needs ipywidgets
            from IPython.display import display

            self._cell = display(self._progress, display_id=True)
        elif self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drop("episodes")
        if self._cell is not None:
            self._cell.update(self._progress)
        elif self._live:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        self._take(event)
        if self._cell is not None and (now := time.monotonic()) - self._drawn >= DRAWN:
            self._drawn = now
            self._cell.update(self._progress)

    def _take(self, event: Event) -> None:
        match event:
            case Phase(name=name):
                self._begin(name)
            case Accepted(teacher=teacher, kept=kept, unused=unused, of=of):
                self._played = "check"
                if of:
                    console.print(f"[bold]{escape(of)}[/]")
                print_teacher(teacher)
                if kept is not None:
                    console.print("  as an earlier run found (to play it again, set DISTILRL_CACHE to nothing)")
                print_unused(unused)
            case Noticed(words=words):
                console.print(f"[yellow]{escape(words)}[/]", soft_wrap=True)
            case Recalled() if not self._recalled:
                self._recalled = True
                console.print("the teacher's episodes: an earlier run's (DISTILRL_CACHE= plays them again)")
            case Judged(verdict=verdict, of=of):
                whose, words = f"{escape(of)}, " if of else "", escape(difference_in_words(verdict))
                console.print(f"{whose}{verdict.protocol}: {colored(verdict.result)} ({words})")
            case Unplayed(protocol=protocol, why=why):
                console.print(f"[yellow]{escape(protocol)}: not played ({escape(why)})[/]", soft_wrap=True)
            case Resumed(moved=moved) if moved:
                words = ", ".join(moved)
                console.print(
                    f"[yellow]resumed elsewhere: {escape(words)}; the last digits may differ from those of a run that "
                    "was not broken[/]",
                    soft_wrap=True,
                )
            case Replaying(done=done, total=total):
                self._advance("steps", "replaying (steps)", done, total)
                if done >= total:
                    self._drop("steps")
            case Step(env_steps=done, budget=budget, training_return=recent):
                note = None if recent is None else f"return {recent:,.2f}"
                note = note if self._score is None else f"score {self._score:.3f}"
                self._advance("steps", f"{self._stage} (steps)", done, budget, note)
            case Check(row=row):
                self._measured(row)
            case Episodes(done=done, total=total, mean=mean, steps=steps):
                note = f"mean {mean:,.2f}" if done else f"step {steps:,}"
                self._advance("episodes", self._played, done, total, note)
                if done >= total:
                    self._drop("episodes")
            case Drawn(done=done, total=total):
                self._advance("episodes", "animation (steps)", done, total)
            case Reached():
                self._reached(event)
            case Ended(run=run, verdict=verdict, words=words):
                self._drop(f"run {run}")
                self._drop("steps")
                console.print(f"{escape(run)}: {colored(verdict)}, {escape(words)}", soft_wrap=True)
            case Replaced():
                where = f"collector {event.collector} on {event.node} died; another on {event.new_node}"
                console.print(f"[yellow]{escape(where)} plays {event.steps:,} recorded steps again and goes on[/]")

    def _reached(self, event: Reached) -> None:
        """How far a run in another process is: a bar, or a line now and then where there is no terminal."""
        note = "" if event.returned is None else f"return {event.returned:,.2f}"
        if self._live:
            if self._told.get(event.run, ("",))[0] != event.phase:
                self._drop(f"run {event.run}")
            self._advance(f"run {event.run}", f"{event.run}, {event.phase}", event.done, event.total, note)
            self._told[event.run] = (event.phase, 0.0)
            return
        phase, when = self._told.get(event.run, ("", 0.0))
        now = time.monotonic()
        if phase != event.phase or now - when >= SECONDS:
            self._told[event.run] = (event.phase, now)
            far = f" {event.done:,} of {event.total:,}" if event.total else ""
            console.print(escape(f"{event.run}: {event.phase}{far}{', ' + note if note else ''}"), soft_wrap=True)

    def _begin(self, phase: str) -> None:
        """Another kind of work: a bar of its own for what is trained in it."""
        self._played = "check" if phase in ("training", "reward") else phase
        self._drop("episodes")
        if phase in STAGES:  # a run of several begins anew, or imitation is over
            self._drop("steps")
            self._score = None
            self._stage = "reward" if phase == "reward" else "training"
        else:  # how far it is will be said; that it has begun can be seen
            if phase == "verdict" and "steps" in self._bars:
                self._progress.stop_task(self._bars["steps"])
            self._advance("episodes", self._played, 0, None)

    def _advance(self, bar: str, what: str, done: int, total: int | None, note: str | None = None) -> None:
        """Moves a bar on; the first time it appears. Without a terminal, a line where nothing was said for long."""
        far = f"{_few(done)}/{_few(total)}" if total else ""
        if not self._live:
            if time.monotonic() - self._said >= QUIET:
                self._say(" ".join(part for part in (f"{what}:", far, note or "") if part))
            return
        short = shortened(what, LONGEST)
        if bar not in self._bars:
            self._bars[bar] = self._progress.add_task(short, total=total, note="", far=far)
        self._progress.update(self._bars[bar], completed=done, total=total, far=far, description=short)
        if note is not None:
            self._progress.update(self._bars[bar], note=note)

    def _say(self, line: str) -> None:
        """A line where there is no terminal."""
        self._said = time.monotonic()
        console.print(line, markup=False, soft_wrap=True)

    def _drop(self, bar: str) -> None:
        """Takes a bar away, if it is there."""
        if bar in self._bars:
            self._progress.remove_task(self._bars.pop(bar))

    def _measured(self, row: dict[str, Any]) -> None:
        """A line for a check."""
        parts = [f"return {row['return']:,.2f}"]
        parts += [f"score {row['score']:.3f}"] if row["score"] is not None else []
        parts += [f"agreement {row['agreement']:.2f}"] if row["agreement"] is not None else []
        parts += [f"{name.removeprefix('return/')} {row[name]:,.2f}" for name in row if name.startswith("return/")]
        self._said, self._score = time.monotonic(), row["score"]
        console.print(f"{row['env_steps']:>9,} steps {row['train_s']:7.1f} s  {escape(', '.join(parts))}")
        if self._score is not None and "steps" in self._bars:  # of the last check no step tells
            self._progress.update(self._bars["steps"], note=f"score {self._score:.3f}")


def _few(count: int) -> str:
    """A count in at most six characters: bars of several stand in the same columns."""
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M"
    return f"{count // 1000}k" if count >= 100_000 else f"{count:,}"


def seen_here() -> bool:
    """Whether bars can be drawn: in a terminal, and below a notebook's cell."""
    return console.is_interactive or console.is_jupyter


@contextmanager
def watching(watch: Watch | None) -> Iterator[Watch]:
    """Who watches: whoever is named; else a display where it can be seen, and nobody where output goes to a file."""
    if watch is not None:
        yield watch
    elif seen_here():
        with Display() as display:
            yield display
    else:
        yield silent


def print_teacher(card: TeacherCard) -> None:
    """The teacher and what its acceptance check found."""
    found = card.acceptance
    console.print(f"teacher: {escape(card.format)}, {counted(card.params)} parameters", soft_wrap=True)
    console.print(
        f"  return {returned(found)} over {found.episodes} episodes; random play {found.random_return_mean:,.2f}"
    )
    if note := card.meta.get("note"):
        console.print(f"  {escape(str(note))}", style="yellow", soft_wrap=True)


def print_unused(normalizers: Sequence[Path]) -> None:
    """VecNormalize files that a policy's file was not read with."""
    for path in normalizers:
        console.print(f"  not used: {escape(str(path))}", style="yellow", soft_wrap=True)
        console.print("  (give it with --normalizer if the policy was trained behind it)", style="yellow")


def colored(result: str | None, style: str = "") -> str:
    """A verdict in its colour; without one it was an error."""
    return f"[{COLORS.get(result or '', 'red')} {style}]{in_words(result) or 'error'}[/]"


def returned(result: Returns | Link) -> str:
    """A mean return and its interval."""
    return result.in_words() if isinstance(result, Returns) else mean_in_words(result.return_mean, result.return_ci95)


def counted(value: int | None) -> str:
    """A number, if it is known."""
    return "?" if value is None else f"{value:,}"

"""What a user sees of work under way and of its results; all of it on standard error, in 80 columns."""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich import markup
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from distilrl.events import (
    Accepted,
    Check,
    Drawn,
    Ended,
    Episodes,
    Event,
    Judged,
    Phase,
    Reached,
    Replaced,
    Replaying,
    Resumed,
    Step,
)
from distilrl.measures import Mean, Measured, rounded
from distilrl.played import Agreement, PlayedTeacher, Returns, TeacherCard, mean_in_words
from distilrl.results import (
    Link,
    PlanResults,
    Results,
    SeedsResults,
    StudentSide,
    TasksResults,
    TeacherSide,
)
from distilrl.spaces import action_from_json
from distilrl.studies import Studies
from distilrl.studies import in_words as pair_in_words
from distilrl.sweep import COLUMNS, SweepRow, shown
from distilrl.text import abridged
from distilrl.verdict import Verdict, in_words

console = Console(stderr=True, highlight=False, emoji=False)
COLORS = {"pass": "green", "within_margin": "yellow", "inconclusive": "yellow", "fail": "red"}
"""Of verdicts."""
PLAYED = {"teacher": "teacher's check", "random": "random play", "reward": "check"}
"""What episodes are for in each phase, where its name does not say so."""
STAGES = ("teacher", "reward")
"""Phases in which what is trained has a bar of its own."""

LONGEST_ERROR = 4_000
"""Characters of an error that are shown."""
SECONDS = 10.0
"""How often a run in another process says how far it is, where there is no terminal."""
QUIET = 60.0
"""How long this one's work is silent there, but for its checks and verdicts."""


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


def print_error(sentence: str) -> None:
    """What was wrong, in red."""
    text = markup.escape(abridged(sentence, LONGEST_ERROR))
    console.print(f"[red]error:[/] {text}", highlight=False, soft_wrap=True)


class Display:
    """Progress bars and lines of what happens: a watcher of events, used as a context manager.

    Example::

        with Display() as watch:
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
        self._live = console.is_interactive
        self._said = time.monotonic()
        self._score: float | None = None
        self._bars: dict[str, TaskID] = {}
        self._stage, self._played = "training", "episodes"
        self._told: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> "Display":
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drop("episodes")
        if self._live:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case Phase(name=name):
                self._begin(name)
            case Accepted(teacher=teacher, kept=kept):
                self._played = "check"
                print_teacher(teacher)
                if kept is not None:
                    console.print("  as an earlier run found (to play it again, set DISTILRL_CACHE to nothing)")
            case Judged(verdict=verdict):
                console.print(f"{verdict.protocol}: {_colored(verdict.result)} ({escape(_difference(verdict))})")
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
                console.print(f"{escape(run)}: {_colored(verdict)}, {escape(words)}", soft_wrap=True)
            case Replaced():
                where = f"collector {event.collector} on {event.node} died; another on {event.new_node}"
                console.print(f"[yellow]{escape(where)} plays {event.steps:,} recorded steps again and goes on[/]")

    def _reached(self, event: Reached) -> None:
        """How far a run in another process is: a bar, or a line now and then where there is no terminal."""
        what = PLAYED.get(event.phase, event.phase)
        note = "" if event.returned is None else f"return {event.returned:,.2f}"
        if self._live:
            if self._told.get(event.run, ("",))[0] != event.phase:
                self._drop(f"run {event.run}")
            self._advance(f"run {event.run}", f"{event.run}, {what}", event.done, event.total, note)
            self._told[event.run] = (event.phase, 0.0)
            return
        phase, when = self._told.get(event.run, ("", 0.0))
        now = time.monotonic()
        if phase != event.phase or now - when >= SECONDS:
            self._told[event.run] = (event.phase, now)
            far = f" {event.done:,} of {event.total:,}" if event.total else ""
            console.print(escape(f"{event.run}: {what}{far}{', ' + note if note else ''}"), soft_wrap=True)

    def _begin(self, phase: str) -> None:
        """Another kind of work: a bar of its own for what is trained in it."""
        self._played = PLAYED.get(phase, phase)
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
        if bar not in self._bars:
            self._bars[bar] = self._progress.add_task(what, total=total, note="", far=far)
        self._progress.update(self._bars[bar], completed=done, total=total, far=far, description=what)
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


def _few(count: int) -> str:
    """A count in at most six characters: bars of several stand in the same columns."""
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M"
    return f"{count // 1000}k" if count >= 100_000 else f"{count:,}"


def print_teacher(card: TeacherCard) -> None:
    """The teacher and what its acceptance check found."""
    found = card.acceptance
    console.print(f"teacher: {escape(card.format)}, {_number(card.params)} parameters", soft_wrap=True)
    console.print(
        f"  return {_returned(found)} over {found.episodes} episodes; random play {found.random_return_mean:,.2f}"
    )


def print_facts(facts: dict[str, Any], play: PlayedTeacher | None = None) -> None:
    """What `Inspect` prints, on standard output.

    Args:
        facts: of `inspection.inspect`.
        play: of `inspection.inspect_play` where it was played.
    """
    shown = {name: value for name, value in facts.items() if name not in ("layers", "not_executed", "action")}
    unknown = "known only beside its environment"
    shown["kind"] = facts["kind"] or unknown
    shown["outputs"] = facts["outputs"] or unknown
    shown["actions"] = action_from_json(facts["action"]).describe() if facts["action"] else unknown
    rows = [
        (name.replace("_", " "), _plain(value)) for name, value in shown.items() if value not in (None, {}, "", False)
    ]
    rows += [
        ("" if number else "layers", f"{one['name']} {tuple(one['shape'])}")
        for number, one in enumerate(facts["layers"])
    ]
    rows.append(("not executed", _plain(facts.get("not_executed")) or "nothing in it would have needed executing"))
    _print_rows(rows)
    if play is not None:
        ways = {"greedy": play, **play.disturbed}
        random = ("return, random play", f"{play.random_return_mean:,.2f}")
        _print_rows([random, *((f"return, {name}", _returned(result)) for name, result in ways.items())])
        for warning in play.warnings:
            console.print(f"[yellow]{escape(warning)}[/]")


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, on standard output."""
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(markup.escape(abridged(name, 60)), escape(value))
    Console(emoji=False).print(table)


def print_results(results: Results | SeedsResults | TasksResults) -> None:
    """The short table."""
    match results:
        case TasksResults(tasks=tasks, student=student):
            for run in tasks:
                console.print(f"[bold]{escape(run.env)}[/]")
                print_results(run)
            verdict = _colored(results.verdict.result, "bold")
            console.print(f"all tasks: {verdict}, {student.params:,} parameters together")
        case SeedsResults(verdict=over_seeds):
            print_verdict(over_seeds, "student - teacher")
        case Results():
            for link in results.chain:
                size = f"{link.params:,} parameters"
                console.print(f"{escape(link.name)}: {size}, return {_returned(link)}, {in_words(link.verdict)}")
            _print_sides(results)
            console.print(escape(f"training: {results.env_steps:,} steps, {results.train_s:.1f} s ({results.stopped})"))
            console.print(f"on states that the student visits: {_alike(results.agreement)}")
            print_verdict(results.verdict, "student - teacher")
            if results.measures:
                _print_measures(results.measures)
            for way in (one.verdict for one in results.disturbed.values()):
                reason = f"; {way.reason}" if way.reason else ""
                console.print(
                    f"  {way.protocol}: {_colored(way.result)} ({escape(_difference(way))}){reason}", soft_wrap=True
                )


def _print_sides(results: Results) -> None:
    """Teacher and student, a row each."""
    table = Table(box=None, header_style="bold")
    for column in ("", "return", "95 % interval", "parameters", "MACs", "µs"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    sides: tuple[tuple[str, TeacherSide | StudentSide], ...]
    sides = (("teacher", results.teacher), ("student", results.student))
    for name, one in sides:
        numbers = (_number(one.params), _number(one.macs), f"{one.latency_us:,.0f}")
        ends = "{:,.2f} … {:,.2f}".format(*one.interval) if one.interval else "exact"
        table.add_row(name, f"{one.return_mean:,.2f}", ends, *numbers)
    console.print(table)


def _print_measures(measures: Sequence[Measured]) -> None:
    """A row for each measure, and its verdict below."""
    table = Table(box=None, header_style="bold")
    for column in ("measured", "teacher", "student", "random"):
        table.add_column(column, justify="left" if column == "measured" else "right", overflow="fold")
    for one in measures:
        table.add_row(escape(one.words), *(_mean(side) for side in (one.teacher, one.student, one.random)))
    console.print(table)
    for one in measures:
        if one.verdict is not None:
            worse = "above" if one.better == "lower" else "below"
            off = _difference(one.verdict, lambda number: rounded(number, "+"))
            words = f"student - teacher {off}, at most {rounded(one.verdict.margin)} {worse}"
            reason = f"; {one.verdict.reason}" if one.verdict.reason else ""
            console.print(
                f"{escape(one.words)}: {_colored(one.verdict.result, 'bold')} ({escape(words)}){reason}", soft_wrap=True
            )


def _mean(mean: Mean | None) -> str:
    """A mean and its interval; a dash where there is none."""
    return "–" if mean is None else escape(mean.in_words())


def _alike(agreement: Agreement) -> str:
    """How near the student's actions are to the teacher's."""
    if agreement.dimensions:
        return f"action error {agreement.student_states_error:.3f} half-ranges (RMS)"
    return f"same choice in {agreement.student_states:.1%}"


def print_fields(rows: list[dict[str, Any]]) -> None:
    """Fields of use, on standard output: in each environment the teacher, and the smallest student that passed."""
    out = Console()
    for (field, page, extra), own in groupby(rows, key=itemgetter("field", "page", "extra")):
        out.print(f"[bold]{escape(field)}[/]: {escape(f'{page}, pip install distilrl[{extra}]')}", soft_wrap=True)
        for row in own:
            sizes = f"{_number(row['teacher_params'])} -> {_number(row['params'])} parameters"
            returns = f"return {row['return']:,.2f} of {row['teacher_return']:,.2f}"
            nearest = "" if row["passes"] else ", the nearest: none passed"
            out.print(
                f"  {escape(row['env'])}: {sizes}\n    {escape(row['student'])}, {returns}{nearest}", soft_wrap=True
            )


def print_plan(results: PlanResults) -> None:
    """The frontier."""
    table = Table(box=None, header_style="bold")
    table.add_column("", overflow="fold")
    for column in ("parameters", "µs", "score over seeds", "best", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results.frontier:
        low, high = row.score_ci95 or (row.score_mean, row.score_mean)
        numbers = (_number(row.params), f"{row.latency_us:.0f}")
        score = f"{row.score_mean:.3f} [{low:.2f}, {high:.2f}]"
        table.add_row(escape(row.student), *numbers, escape(score), f"{row.best_score:.3f}", in_words(row.verdict))
    console.print(table)
    smallest = f"[green bold]{escape(results.winner)}[/]" if results.winner else "[red bold]none[/]"
    console.print(
        f"smallest within the margin: {smallest}; {results.env_steps:,} labelled states, {results.wall_s:.1f} s in all"
    )


def print_sweep(rows: Sequence[SweepRow]) -> None:
    """A table for each environment, and the errors below."""
    for env in dict.fromkeys(row.env for row in rows):
        table = Table(box=None, header_style="bold", title=escape(env), title_justify="left", title_style="bold")
        for name in COLUMNS:
            words = name in ("run", "student", "return [95 %]")
            if name != "environment":
                table.add_column(escape(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
        for row in (row for row in rows if row.env == env):
            run, _, *cells, _ = shown(row)
            table.add_row(*map(escape, (run, *cells)), _colored(row.verdict))
        console.print(table)
    for row in rows:
        if row.error:
            console.print(f"{escape(row.run)}: [red]error:[/] {escape(row.error)}", soft_wrap=True)


def print_studies(found: Studies) -> None:
    """A row for each study and each pair, on standard output."""
    table = Table(box=None, header_style="bold")
    for column in ("study", "runs", "IQM of scores [95 %]", "mean", "lowest", "within margin"):
        table.add_column(column, justify="left" if column == "study" else "right", overflow="fold")
    for row in found.rows:
        low, high = row.iqm_ci95
        words = (f"{row.iqm:.3f} [{low:.3f}, {high:.3f}]", f"{row.mean:.3f}", f"{row.lowest:.3f}")
        table.add_row(escape(row.name), str(row.runs), *map(escape, words), f"{row.passed} of {row.runs}")
    pairs = Table(box=None, header_style="bold")
    for column in ("pair", "P(first above second)", "first - second"):
        pairs.add_column(column, justify="left" if column == "pair" else "right", overflow="fold")
    for pair in found.pairs:
        pairs.add_row(escape(f"{pair.one}, {pair.other}"), *map(escape, pair_in_words(pair)))
    out = Console(highlight=False)
    out.print(table)
    if found.pairs:
        out.print(pairs)


def print_verdict(verdict: Verdict, what: str) -> None:
    """A verdict in one line, and below it of what play it speaks, and why there is none."""
    margin = f"margin {verdict.margin:,.2f}"
    console.print(f"verdict: {_colored(verdict.result, 'bold')} ({what} {escape(_difference(verdict))}, {margin})")
    if verdict.protocol:
        console.print(f"  played: {verdict.protocol}", soft_wrap=True)
    if verdict.reason:
        console.print(f"  {verdict.reason}", soft_wrap=True)


def _colored(result: str | None, style: str = "") -> str:
    """A verdict in its colour; without one it was an error."""
    return f"[{COLORS.get(result or '', 'red')} {style}]{in_words(result) or 'error'}[/]"


def _difference(verdict: Verdict, number: Callable[[float], str] = "{:+,.2f}".format) -> str:
    """The difference and the interval that decided, which several looks make wider than 95 %."""
    if verdict.exact:
        return f"{number(verdict.difference)} exactly"
    low, high = verdict.interval
    words = f"{number(verdict.difference)} [{number(low)}, {number(high)}]"
    return words + (f" at {verdict.confidence:.1%}" if verdict.confidence > 0.95 else "")


def _returned(result: Returns | Link) -> str:
    """A mean return and its interval."""
    return result.in_words() if isinstance(result, Returns) else mean_in_words(result.return_mean, result.return_ci95)


def _plain(value: Any) -> str:
    """A value of a file in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"

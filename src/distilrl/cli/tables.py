"""Results in a terminal of 80 columns: what is asked for on standard output, the rest on standard error."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import markup
from rich.table import Table

from distilrl.display import colored, console, counted, escape, returned
from distilrl.measures import Mean, Measured, rounded
from distilrl.next_steps import next_commands
from distilrl.played import Agreement, PlayedTeacher
from distilrl.results import Results, StudentSide, TeacherSide
from distilrl.spaces import action_from_json
from distilrl.studies import Studies, with_interval
from distilrl.studies import in_words as pair_in_words
from distilrl.summaries import AnyResults, PlanResults, SeedsResults, TasksResults
from distilrl.sweep import COLUMNS, SweepRow, shown
from distilrl.terminal import Terminal
from distilrl.text import abridged, legible
from distilrl.verdict import Verdict, difference_in_words, digits_of, in_words, margin_in_words, units_in_words


def print_next(results: AnyResults, out: Path) -> None:
    """What to do next, each command under what it is for."""
    for why, command in next_commands(results, out):
        console.print(f"[dim]next: {escape(why)}[/]", soft_wrap=True)
        console.print(f"  {legible(command, len(command))}", markup=False, soft_wrap=True)


def print_facts(facts: dict[str, Any], play: PlayedTeacher | None = None) -> None:
    """What `Inspect` prints, on standard output.

    Args:
        facts: of `inspection.inspect`.
        play: of `inspection.inspect_play` where it was played.
    """
    shown = {name: value for name, value in facts.items() if name not in ("layers", "not_executed", "action")}
    unknown = "known only beside its environment"
    if not any(key for key, *_ in shown.get("observation") or ()):  # of one without parts obs_shape says it
        shown.pop("observation", None)
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
        _print_rows([random, *((f"return, {name}", returned(result)) for name, result in ways.items())])
        for warning in play.warnings:
            console.print(f"[yellow]{escape(warning)}[/]")


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, on standard output; into a file or a pipe each on one line, whatever its length."""
    out = Terminal(emoji=False)
    if not out.is_terminal:
        shown = [(abridged(name, 60), value) for name, value in rows]
        width = max(len(name) for name, _ in shown)
        for name, value in shown:
            out.print(f" {markup.escape(name.ljust(width))}  {escape(value)}", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(markup.escape(abridged(name, 60)), escape(value))
    out.print(table)


def print_results(results: Results | SeedsResults | TasksResults) -> None:
    """The short table."""
    match results:
        case TasksResults(tasks=tasks, student=student):
            for run in tasks:
                console.print(f"[bold]{escape(run.env)}[/]")
                print_results(run)
            verdict = colored(results.verdict.result, "bold")
            console.print(f"all tasks: {verdict}, {student.params:,} parameters together")
        case SeedsResults(verdict=over_seeds):
            print_verdict(over_seeds, "student - teacher")
            if results.counted:
                console.print(f"  {results.counted}")
            for name, worst in results.measured.items():
                console.print(f"{escape(name)}: {colored(worst, 'bold')} {results.with_how_many(name)}")
        case Results():
            for link in results.chain:
                size = f"{link.params:,} parameters"
                console.print(f"{escape(link.name)}: {size}, return {returned(link)}, {escape(in_words(link.verdict))}")
            _print_sides(results)
            console.print(escape(f"training: {results.env_steps:,} steps, {results.train_s:.1f} s ({results.stopped})"))
            console.print(f"on states that the student visits: {_alike(results.agreement)}")
            print_verdict(
                results.verdict, "student - teacher", results.teacher.return_mean - results.random.return_mean
            )
            print_measures(results.measures)
            for way in (one.verdict for one in results.disturbed.values()):
                reason = f"; {escape(way.reason)}" if way.reason else ""
                console.print(
                    f"  {escape(way.protocol)}: {colored(way.result)} ({escape(difference_in_words(way))}){reason}",
                    soft_wrap=True,
                )


def _print_sides(results: Results) -> None:
    """Teacher and student, a row each."""
    table = Table(box=None, header_style="bold")
    for column in ("", "return", "95 % interval", "parameters", "MACs", "µs"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    sides: tuple[tuple[str, TeacherSide | StudentSide], ...]
    sides = (("teacher", results.teacher), ("student", results.student))
    number = f"{{:,.{digits_of(results.verdict.margin)}f}}".format
    for name, one in sides:
        numbers = (counted(one.params), counted(one.macs), f"{one.latency_us:,.0f}")
        ends = " … ".join(map(number, one.interval)) if one.interval else "exact"
        table.add_row(name, number(one.return_mean), ends, *numbers)
    console.print(table)


def print_measures(measures: Sequence[Measured], sides: tuple[str, str] = ("teacher", "student")) -> None:
    """A row for each measure, and its verdict below; ``sides`` are the names of teacher and student."""
    if not measures:
        return
    table = Table(box=None, header_style="bold")
    for column in ("measured", *sides, "random"):
        table.add_column(column, justify="left" if column == "measured" else "right", overflow="fold")
    for one in measures:
        table.add_row(escape(one.words), *(_mean(side) for side in (one.teacher, one.student, one.random)))
    console.print(table)
    for one in measures:
        if one.verdict is not None:
            worse = "above" if one.better == "lower" else "below"
            off = difference_in_words(one.verdict, lambda number: rounded(number, "+"))
            off = f"{sides[1]} - {sides[0]} {off}" if one.difference is not None else "no difference"
            words = f"{off}, at most {rounded(one.verdict.margin)} {worse}{_units(one.verdict)}"
            reason = f"; {escape(one.verdict.reason)}" if one.verdict.reason else ""
            console.print(
                f"{escape(one.words)}: {colored(one.verdict.result, 'bold')} ({escape(words)}){reason}", soft_wrap=True
            )


def _mean(mean: Mean | None) -> str:
    """A mean and its interval; a dash where there is none."""
    return "–" if mean is None else escape(mean.in_words())


def _alike(agreement: Agreement) -> str:
    """How near the student's actions are to the teacher's."""
    if agreement.dimensions:
        return f"action error {agreement.student_states_error:.3f} half-ranges (RMS)"
    effect = agreement.student_states_in_effect
    beside = "" if effect is None else f", one that does the same in {effect:.1%}"
    return f"same choice in {agreement.student_states:.1%}{beside}"


def print_plan(results: PlanResults) -> None:
    """The frontier."""
    table = Table(box=None, header_style="bold")
    table.add_column("", overflow="fold")
    for column in ("parameters", "µs", "score", "worst", "best", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results.frontier:
        numbers = (counted(row.params), f"{row.latency_us:.0f}")
        scores = ("–" if one is None else f"{one:.3f}" for one in (row.score_mean, row.worst_score, row.best_score))
        table.add_row(escape(row.student), *numbers, *scores, in_words(row.verdict))
    console.print(table)
    if results.diverged:
        console.print(f"diverged: {escape(', '.join(results.diverged))}")
    none = "[yellow bold]undecided[/]" if results.undecided else "[red bold]none[/]"
    smallest = f"[green bold]{escape(results.winner)}[/]" if results.winner else none
    console.print(
        f"smallest within the margin: {smallest}; {results.labelled_states:,} labelled states, "
        f"this took {results.wall_s:.1f} s"
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
            table.add_row(*map(escape, (run, *cells)), colored(row.verdict))
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
        words = (with_interval(row.iqm, row.iqm_ci95, "{:.3f}"), f"{row.mean:.3f}", f"{row.lowest:.3f}")
        table.add_row(escape(row.name), str(row.runs), *map(escape, words), f"{row.passed} of {row.runs}")
    pairs = Table(box=None, header_style="bold")
    for column in ("pair", "P(first above second) [95 %]", "first - second [95 %]"):
        pairs.add_column(column, justify="left" if column == "pair" else "right", overflow="fold")
    for pair in found.pairs:
        pairs.add_row(escape(f"{pair.one}, {pair.other}"), *map(escape, pair_in_words(pair)))
    out = Terminal(highlight=False)
    out.print(table)
    if found.pairs:
        out.print(pairs)


def print_verdict(verdict: Verdict, what: str, lost_by_random: float | None = None) -> None:
    """A verdict in one line, and below it of what play it speaks, why there is none, and whether random play, which
    returns so much less, keeps within its margin as well.
    """
    found = f"{what} {escape(difference_in_words(verdict))}, margin {margin_in_words(verdict)}"
    console.print(f"verdict: {colored(verdict.result, 'bold')} ({found})")
    if verdict.protocol:
        console.print(escape(f"  played: {verdict.protocol}{_units(verdict)}"), soft_wrap=True)
    if verdict.reason:
        console.print(escape(f"  {verdict.reason}"), soft_wrap=True)
    if lost_by_random is not None and lost_by_random <= verdict.margin:
        far = f"{abs(lost_by_random):.{digits_of(verdict.margin)}f}"
        told = f"loses {far}" if lost_by_random >= 0 else f"returns {far} more"
        console.print(f"  random play keeps within this margin, too: it {told}", soft_wrap=True)


def _units(verdict: Verdict) -> str:
    """How many clusters of which kind were counted; empty where episodes were."""
    return "" if verdict.cluster is None else f"; units: {verdict.distinct} {units_in_words(verdict.cluster)}"


def _plain(value: Any) -> str:
    """A value of a file in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)

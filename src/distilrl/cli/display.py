"""What a user sees of work under way and of its results; all of it on standard error."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(stderr=True)
COLORS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


class Display:
    """Progress bars from what the work tells; used as a context manager that gives the function to tell."""

    def __enter__(self) -> "Display":
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._progress.start()
        self._train: Any = None
        self._play: Any = None
        self._what = "episodes"
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: str, numbers: dict[str, Any]) -> None:
        """Shows one event of `train.Tell`."""
        handler = getattr(self, f"_on_{event}", None)
        if handler is not None:
            handler(numbers)

    def _on_phase(self, numbers: dict[str, Any]) -> None:
        self._what = {"teacher": "teacher's check", "verdict": "verdict"}[numbers["name"]]

    def _on_accepted(self, numbers: dict[str, Any]) -> None:
        acceptance = numbers["acceptance"]
        low, high = acceptance["return_ci95"]
        console.print(
            f"teacher: {numbers['format']}, {_number(numbers['params'])} parameters, return {acceptance['return_mean']:.2f} "
            f"[{low:.2f}, {high:.2f}] over {acceptance['episodes']} episodes; random play {acceptance['random_return_mean']:.2f}"
        )
        self._what = "check"

    def _on_replay(self, numbers: dict[str, Any]) -> None:
        if self._train is None:
            self._train = self._progress.add_task("replaying", total=numbers["total"], note="")
        self._progress.update(self._train, completed=numbers["done"])
        if numbers["done"] >= numbers["total"]:
            self._progress.remove_task(self._train)
            self._train = None

    def _on_step(self, numbers: dict[str, Any]) -> None:
        if self._train is None:
            self._train = self._progress.add_task("training (steps)", total=numbers["budget"], note="")
        self._progress.update(self._train, completed=numbers["env_steps"])

    def _on_check(self, row: dict[str, Any]) -> None:
        parts = [f"return {row['return']:.2f}"]
        parts += [f"score {row['score']:.3f}"] if row["score"] is not None else []
        parts += [f"agreement {row['agreement']:.2f}"] if row["agreement"] is not None else []
        parts += [f"{name.removeprefix('return/')} {row[name]:.2f}" for name in row if name.startswith("return/")]
        note = ", ".join(parts)
        self._progress.update(self._train, note=note)
        console.print(f"{row['env_steps']:>9,} steps {row['train_s']:7.1f} s  {note}")

    def _on_episodes(self, numbers: dict[str, Any]) -> None:
        if self._play is None:
            self._play = self._progress.add_task(self._what, total=numbers["total"], note="")
        self._progress.update(self._play, completed=numbers["done"], total=numbers["total"], note=f"mean return {numbers['mean']:.2f}")
        if numbers["done"] >= numbers["total"]:
            self._progress.remove_task(self._play)
            self._play = None


def print_facts(facts: dict[str, Any]) -> None:
    """What `Inspect` prints."""
    play = facts.pop("play", None)
    layers, not_executed = facts.pop("layers"), facts.pop("not_executed", [])
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, {}, ""):
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else escape(str(value)))
    for one in layers:
        table.add_row("", f"{one['name']} {tuple(one['shape'])}")
    table.add_row("not executed", escape(", ".join(not_executed)) or "nothing in it would have needed executing")
    rows = {"random play": {"return_mean": play["random_return_mean"]}, "greedy": play, **play["disturbed"]} if play else {}
    for name, result in rows.items():
        interval = f" [{result['return_ci95'][0]:.2f}, {result['return_ci95'][1]:.2f}]" if "return_ci95" in result else ""
        table.add_row(f"return, {name}", f"{result['return_mean']:.2f}{interval}")
    Console().print(table)
    for warning in play["warnings"] if play else []:
        console.print(f"[yellow]{escape(warning)}[/]")


def print_results(results: dict[str, Any]) -> None:
    """The short table."""
    for run in results.get("tasks", []):
        console.print(f"[bold]{run['env']}[/]")
        print_results(run)
    if "tasks" in results:
        verdict = results["verdict"]["result"]
        console.print(f"all tasks: [{COLORS[verdict]} bold]{verdict}[/], {results['student']['params']:,} parameters together")
        return
    for link in results.get("chain", []):
        low, high = link["return_ci95"]
        console.print(
            f"{link['name']}: {link['params']:,} parameters, return {link['return_mean']:.2f} [{low:.2f}, {high:.2f}], {link['verdict']}"
        )
    if "runs" not in results:
        table = Table(box=None, header_style="bold")
        for column in ("", "return", "95 % interval", "parameters", "MACs", "µs a decision"):
            table.add_column(column, justify="right" if column else "left")
        for side in ("teacher", "student"):
            one = results[side]
            table.add_row(
                side, f"{one['return_mean']:.2f}", f"{one['return_ci95'][0]:.2f} … {one['return_ci95'][1]:.2f}",
                _number(one["params"]), _number(one["macs"]), f"{one['latency_us']:.0f}",
            )  # fmt: skip
        console.print(table)
        console.print(f"training: {results['env_steps']:,} steps, {results['train_s']:.1f} s ({results['stopped']})")
    print_verdict(results["verdict"], "student - teacher")


def print_plan(result: dict[str, Any]) -> None:
    """The frontier."""
    table = Table(box=None, header_style="bold")
    for column in ("", "parameters", "µs", "score over seeds", "best", "verdict"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in result["frontier"]:
        low, high = row["score_ci95"] or (row["score_mean"], row["score_mean"])
        numbers = (_number(row["params"]), f"{row['latency_us']:.0f}")
        table.add_row(
            row["student"], *numbers, f"{row['score_mean']:.3f} [{low:.2f}, {high:.2f}]", f"{row['best_score']:.3f}", row["verdict"] or ""
        )
    console.print(table)
    smallest = f"[green bold]{result['winner']}[/]" if result["winner"] else "[red bold]none[/]"
    console.print(f"smallest that passes: {smallest}; {result['env_steps']:,} labelled states, {result['wall_s']:.1f} s in all")


def print_verdict(verdict: dict[str, Any], what: str) -> None:
    """The verdict in one line."""
    color = COLORS[verdict["result"]]
    low, high = verdict["difference_ci95"]
    console.print(
        f"verdict: [{color} bold]{verdict['result']}[/] ({what} {verdict['difference']:+.2f} [{low:+.2f}, {high:+.2f}], "
        f"margin {verdict['margin']:.2f})"
    )


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"

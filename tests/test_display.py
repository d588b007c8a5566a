"""What is seen in a terminal of 80 columns."""

import io
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import instances
import pytest
from rich.console import Console
from rich.progress import ProgressSample

from distilrl import display
from distilrl.cli import tables
from distilrl.cli.faults import print_error
from distilrl.cli.tables import print_facts, print_plan, print_results, print_sweep
from distilrl.display import Display, watching
from distilrl.events import (
    Accepted,
    Check,
    Drawn,
    Ended,
    Episodes,
    Judged,
    Phase,
    Reached,
    Replaced,
    Replaying,
    Resumed,
    Step,
    silent,
)
from distilrl.played import PlayedTeacher
from distilrl.results import Link
from distilrl.summaries import TasksResults
from distilrl.sweep import SweepRow

ROW = {"env_steps": 9_750_000, "train_s": 12345.6, "return": 12045.33, "score": 0.987, "agreement": 0.93}
VERDICT = replace(
    instances.VERDICT,
    result="inconclusive",
    difference=-1012.5,
    interval=(-1400.0, -5.0),
)


@pytest.fixture
def screen(monkeypatch):
    """The terminal: a file whose text is what was printed, without colours."""
    file = io.StringIO()
    made = Console(file=file, width=80, highlight=False, emoji=False)
    for module in (display, tables):
        monkeypatch.setattr(module, "console", made)
    return file


@pytest.fixture
def terminal(monkeypatch):
    """A terminal with bars that move: a file whose text is all that was printed."""
    file = io.StringIO()
    made = Console(file=file, width=80, highlight=False, force_terminal=True, force_interactive=True, color_system=None)
    monkeypatch.setattr(display, "console", made)
    return file


def frames(terminal):
    """Lines that were seen, without what moves the cursor."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def lines(screen):
    return screen.getvalue().splitlines()


def wide(found):
    """Results whose numbers are as wide as they get."""
    size = {"params": 1_234_567, "macs": 1_234_567, "latency_us": 12345.0}
    changes = {"train_s": 45.3, "stopped": "[red]budget[/] used", "verdict": VERDICT}
    return replace(found, teacher=replace(found.teacher, **size), student=replace(found.student, **size), **changes)


def test_a_run_fits_and_every_event_is_taken(terminal):
    with Display() as watch:
        watch(Phase("teacher's check"))
        watch(Episodes(10, 20, 12045.33))
        watch(Episodes(20, 20, 12045.33))
        normalizer = Path("logs/[red]/vecnormalize.pkl")
        watch(Accepted(instances.card(format="sb3-contrib [bold]TQC", params=None), unused=(normalizer,)))
        watch(Replaying(500, 1000))
        watch(Replaying(1000, 1000))
        watch(Step(9_750_000, 10_000_000, 12045.33))
        watch(Check(ROW))
        watch(Phase("reward"))
        watch(Step(1_000, 20_000, 12045.33))
        watch(Check(ROW | {"agreement": None, "score": None}))
        watch(Phase("verdict"))
        watch(Judged(VERDICT))
        watch(Judged(replace(instances.NOISY, interval=(-12.5, -12.5), confidence=1.0, result="within_margin")))
        watch(Episodes(50, 100, 12045.33))
        watch(Phase("random actions (0.01)"))
        watch(Step(9_750_000, 10_000_000, 12045.33))
        watch(Episodes(299, 300, 12045.33))
        watch._progress.refresh()
        watch(Phase("animation"))
        watch(Drawn(299, 600))
        watch._progress.refresh()
    assert max(map(len, frames(terminal))) <= 80
    said = "\n".join(frames(terminal))
    assert "teacher: sb3-contrib [bold]TQC, ? parameters" in said
    assert f"  not used: {normalizer}" in said
    assert "return 12,045.33 [11,900.12, 12,190.55] over 20 episodes; random play -258.39" in said
    assert "9,750,000 steps 12345.6 s  return 12,045.33, score 0.987, agreement 0.93" in said
    assert "reward (steps)" in said
    assert "verdict" in said
    assert "9.75M/10.00M" in said
    assert "animation (steps)" in said
    assert "…" not in said, "nothing is cut"


def test_a_collector_that_died_is_said(screen):
    with Display() as watch:
        watch(Step(8_000, 30_000, None))
        watch(Replaced(3, "node-a", "node-b", shards=2, steps=16_384))
    said = " ".join(screen.getvalue().split())
    assert "collector 3 on node-a died; another on node-b plays 16,384 recorded steps again and goes on" in said


def test_the_bar_of_a_stage_with_reward_begins_anew(terminal):
    with Display() as watch:
        watch(Step(100, 100))
        watch(Phase("reward"))
        watch(Step(7, 20))
        (bar,) = watch._progress.tasks
        assert (bar.description, bar.completed, bar.total) == ("reward (steps)", 7, 20)


def test_work_without_a_bar_left_prints_nothing(screen):
    with Display() as watch:
        watch(Episodes(3, 3, 1.0))
    assert screen.getvalue() == ""


def test_without_a_terminal_a_check_whose_episodes_do_not_end_is_not_silent(screen, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with Display() as watch:
        for phase in ("teacher's check", "random play"):
            watch(Phase(phase))
            clock[0] += 61
            watch(Episodes(0, 20, 0.0, 34_100))
    assert lines(screen) == ["teacher's check: 0/20 step 34,100", "random play: 0/20 step 34,100"]


def test_without_a_terminal_there_is_a_line_for_each_check_and_nothing_that_moves(screen, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with Display() as watch:
        watch(Phase("teacher's check"))
        watch(Step(7, 20))
        watch(Check(ROW))
        watch(Phase("verdict"))
        watch(Episodes(3, 300, 1.0))
        clock[0] += 61
        watch(Episodes(30, 300, 1.0))
        watch(Episodes(31, 300, 1.0))
        watch(Phase("report"))
    assert [line.split(",")[0] for line in lines(screen)] == ["9", "verdict: 30/300 mean 1.00"]
    assert not set(screen.getvalue()) & set("\x1b\r━")


def test_what_is_printed_after_a_bar_has_a_line_of_its_own(terminal):
    with Display() as watch:
        watch(Step(7, 20))
    display.console.print("then")
    assert frames(terminal)[-1] == "then"


def test_the_score_so_far_stands_behind_the_bar(terminal):
    with Display() as watch:
        for row in (ROW, ROW | {"score": None}):
            watch(Step(7, 20, 5.0))
            watch(Check(row))
            watch(Step(8, 20, 5.0))
            (bar,) = watch._progress.tasks
            assert bar.fields["note"] == ("score 0.987" if row["score"] else "return 5.00")


def test_the_bar_that_is_left_shows_the_last_check(terminal):
    """No step comes behind it, and the score was that of the check before."""
    with Display() as watch:
        for steps, score in ((100, 0.5), (200, 0.75)):
            watch(Step(steps, 200))
            watch(Check({"env_steps": steps, "train_s": 1.0, "return": 1.0, "score": score, "agreement": None}))
        left = watch._progress.tasks[-1]
    assert left.fields["note"] == "score 0.750"


def test_the_time_left_is_shown_until_training_ends(terminal):
    with Display() as watch:
        watch(Step(7, 20))
        (bar,) = watch._progress.tasks
        bar._progress.extend([ProgressSample(bar.start_time, 0.0), ProgressSample(bar.start_time + 1, 1.0)])
        assert str(display.Left().render(bar)).endswith(" left")
        watch(Phase("verdict"))
        assert not str(display.Left().render(bar)).endswith(" left")


def test_runs_of_several_begin_anew(terminal):
    with Display() as watch:
        for _ in range(2):
            watch(Phase("teacher's check"))
            watch(Accepted(instances.card()))
            watch(Step(30, 100))
            watch(Check(ROW))
            watch(Phase("verdict"))
            watch(Episodes(3, 3, 1.0))
        assert [bar.completed for bar in watch._progress.tasks] == [30]


def test_returns_of_tasks_are_named_as_they_are(screen):
    with Display() as watch:
        watch(Check(ROW | {"return/[red]Mine-v0": 3.0}))
    assert "[red]Mine-v0 3.00" in " ".join(screen.getvalue().split())


def test_results_of_real_actions_and_of_choices(screen):
    print_results(wide(instances.results()))
    print_results(wide(instances.choices([[1]])))
    assert max(map(len, lines(screen))) <= 80
    said = " ".join(screen.getvalue().split())
    assert "11,900.12 … 12,190.55 1,234,567 1,234,567 12,345" in said
    assert "training: 30,000 steps, 45.3 s ([red]budget[/] used)" in said
    assert "action error 0.123 half-ranges (RMS)" in said
    assert "same choice in 90.0%" in said
    assert "inconclusive (student - teacher -1,012.50 [-1,400.00, -5.00] at 98.3%, margin 620.50)" in said


def test_results_of_tasks_and_of_a_chain(screen):
    one = wide(instances.results(env="[red]A-v0"))
    print_results(TasksResults.of([one, one], 9000))
    print_results(replace(one, chain=(Link.of(instances.results(), Path("run/assistant-1")),)))
    assert "[red]A-v0" in lines(screen)
    assert "all tasks: inconclusive, 9,000 parameters together" in lines(screen)
    assert "mlp:8: 100 parameters, return 12,045.33 [11,900.12, 12,190.55], pass" in lines(screen)


def test_a_plan_fits(screen):
    row = instances.plan_row(
        student="cnn:4k8s4,8k4s2,8k3s2:24", params=1_234_567, latency_us=1234.0, score_mean=0.987, worst_score=0.95,
        best_score=1.01, verdict="inconclusive",
    )  # fmt: skip
    print_plan(instances.plan_results(row, winner=None, env_steps=1_000_000))
    assert max(map(len, lines(screen))) <= 80
    said = screen.getvalue()
    parts = ("cnn:4k8s4", "1,234,567", "0.987", "0.950", "1.010", "inconclusive", "undecided")
    assert all(part in said for part in parts)


def test_facts_of_a_teacher_without_an_environment(screen, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    facts = {
        "path": "[red]evil",
        "kind": None,
        "outputs": None,
        "action": None,
        "critic": False,
        "layers": [],
        "bytes": None,
    }
    print_facts(dict(facts))
    said = capsys.readouterr().out
    assert "[red]evil" in said
    assert said.count("known only beside its environment") == 3
    assert "nothing in it would have needed executing" in said
    assert "critic" not in said


def test_facts_with_play(screen, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    facts = {"kind": "gaussian", "outputs": 12, "action": {"low": [-1.0] * 6, "high": [1.0] * 6, "shape": []}}
    facts |= {"layers": [{"name": "layers.0.weight", "shape": [256, 17]}], "not_executed": ["lr_schedule", "[b]x"]}
    facts |= {"sha256": "a" * 64, "policy_kwargs": {"use_sde": False}, "params": 71942}
    found = vars(instances.acceptance(12045.33, -258.39))
    disturbed = {"epsilon 0.01": instances.RETURNS}
    print_facts(
        facts, PlayedTeacher(**found, env="Mine-v0", protocol={}, disturbed=disturbed, warnings=("[b]careful",))
    )
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "6 real numbers" in said
    assert "use_sde: no" in said
    assert "lr_schedule, [b]x" in said
    assert " ".join(said.split()).endswith("return, epsilon 0.01 12,045.33 [11,900.12, 12,190.55]")
    assert "[b]careful" in screen.getvalue()


def test_the_interval_shown_is_the_one_that_decided(screen):
    """At 95 % this student has failed; three looks ask for more, and so the verdict is open."""
    tables.print_verdict(VERDICT, "student - teacher")
    said = " ".join(screen.getvalue().split())
    assert "inconclusive (student - teacher -1,012.50 [-1,400.00, -5.00] at 98.3%, margin 620.50)" in said
    tables.print_verdict(replace(VERDICT, interval=(-1.0, 1.0), confidence=0.95), "student - teacher")
    assert "[-1.00, +1.00], margin" in " ".join(screen.getvalue().split())


def test_runs_in_other_processes_have_a_line_for_each_phase_where_there_is_no_terminal(screen, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with Display() as watch:
        for done in (8, 80):
            watch(Reached("seed-[0]", "training", done, 1600))
        clock[0] += 11
        watch(Reached("seed-[0]", "training", 800, 1600, 9.5))
        watch(Reached("seed-[0]", "reward", 10, 800, 9.5))
        watch(Reached("seed-[0]", "verdict", 0, 0, 9.5))
        watch(Ended("seed-[0]", "pass", "return 9.95 [9.85, 10.00]"))
        watch(Ended("b", None, "[red]wrong."))
    assert lines(screen) == [
        "seed-[0]: training 8 of 1,600",
        "seed-[0]: training 800 of 1,600, return 9.50",
        "seed-[0]: reward 10 of 800, return 9.50",
        "seed-[0]: verdict, return 9.50",
        "seed-[0]: pass, return 9.95 [9.85, 10.00]",
        "b: error, [red]wrong.",
    ]


def test_runs_in_other_processes_have_a_bar_each_in_a_terminal(screen, monkeypatch):
    monkeypatch.setattr(display, "console", Console(file=screen, width=80, force_terminal=True, force_interactive=True))
    with Display() as watch:
        watch(Reached("a", "training", 8, 1600))
        watch(Reached("b", "verdict", 8, 100))
        watch(Reached("a", "training", 80, 1600, 9.5))
        assert [(bar.description, bar.completed) for bar in watch._progress.tasks] == [
            ("a, training", 80),
            ("b, verdict", 8),
        ]
        watch(Ended("a", "pass", "return 1"))
        assert [bar.description for bar in watch._progress.tasks] == ["b, verdict"]


def test_a_sweep_fits(screen):
    row = SweepRow(
        run="a-run-of-some-length", env="[red]Mine-v0", student="cnn:16,16,16:64", params=61_174, env_steps=250_048,
        train_s=1467.2,
        return_mean=12045.33, return_ci95=(11900.12, 12190.55), score=0.987, verdict="inconclusive",
    )  # fmt: skip
    print_sweep([row, SweepRow(run="b", env="Other-v0", student="mlp:8", error="[b]wrong.")])
    assert max(map(len, lines(screen))) <= 80
    said = screen.getvalue()
    assert all(part in said for part in ("[red]Mine-v0", "61,174", "inconclusive", "b: error: [b]wrong."))


def test_text_of_a_file_stays_text_in_a_terminal(screen, monkeypatch, capsys):
    hostile = "[/x] \x1b[2J\x07\nline :b: \u202e" + "v" * 5_000_000
    with Display() as watch:
        watch(Accepted(instances.card(format=hostile)))
        watch(Ended(hostile, "pass", hostile))
        watch(Reached(hostile, "training", 1, 2))
    print_error(hostile)
    print_facts(
        {"kind": "q", "outputs": 2, "action": None, "layers": [{"name": hostile, "shape": [2]}], hostile: hostile}
    )
    for said in (screen.getvalue(), *capsys.readouterr()):
        said = " ".join(said.split())
        assert "[/x] ?[2J??line :b: ?vvv" in said
        assert "\x1b" not in said
        assert re.search(r"v\.\.\. ?\(5,000,0", said)
        assert len(said) < 20_000


def test_a_run_that_goes_on_elsewhere_says_what_differs(screen):
    with Display() as watch:
        watch(Resumed(800))
        watch(Resumed(800, ("torch 3.0 (was 2.13)",)))
    assert " ".join(screen.getvalue().split()) == (
        "resumed elsewhere: torch 3.0 (was 2.13); the last digits may differ from those of a run that was not broken"
    )


class Cell:
    """What a notebook offers below a cell: outputs, some of which can be drawn anew."""

    def __init__(self):
        self.shown, self.bars = [], []

    def display(self, what, display_id=False):
        self.shown.append(what._repr_mimebundle_([], [])["text/plain"])
        return self if display_id else None

    def update(self, what):
        self.bars.append(what._repr_mimebundle_([], [])["text/plain"])


def test_a_notebook_has_lines_and_bars_that_are_drawn_anew(monkeypatch):
    cell = Cell()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=cell.display))
    monkeypatch.setattr(display, "console", Console(force_jupyter=True, width=80, highlight=False))
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with watching(None) as watch:
        watch(Step(7, 20))
        watch(Step(8, 20))
        assert ["7/20" in bars for bars in cell.bars] == [True], "not at every event"
        clock[0] += 2 * display.DRAWN
        watch(Step(9, 20))
        watch(Check(ROW))
        watch(Step(20, 20))
    assert "9/20" in cell.bars[1]
    assert "20/20" in cell.bars[-1], "and once more at the end"
    assert sum("return 12,045.33, score 0.987" in line for line in cell.shown) == 1


def test_who_watches_where_nobody_is_named(terminal, monkeypatch):
    with watching(None) as watch:
        assert isinstance(watch, Display)
    with watching(silent) as watch:
        assert watch is silent
    file = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=file, width=80))
    with watching(None) as watch:
        watch(Check(ROW))
    assert file.getvalue() == "", "where output goes to a file there is none"


def test_a_long_way_of_playing_leaves_room_for_how_far_it_is(terminal):
    """Of a student with sensors the bars vanished, and counts became ``2,00…``."""
    with Display() as watch:
        watch(Phase("noisy observations (0.00562 to 0.0649), the teacher's too, observations late by 1 step"))
        watch(Episodes(1_299, 1_300, 12045.33))
        watch._progress.refresh()
    assert max(map(len, frames(terminal))) <= 80
    said = "\n".join(frames(terminal))
    assert "1,299/1,300" in said
    assert "mean 12,045.33" in said


def test_of_several_tasks_each_line_says_which_it_is_of(screen):
    with Display() as watch:
        watch(Accepted(instances.card(), of="Acrobot-v1"))
        watch(Judged(VERDICT, of="Acrobot-v1"))
    first, *_, last = [line for line in screen.getvalue().splitlines() if "Acrobot-v1" in line]
    assert first.strip() == "Acrobot-v1"
    assert last.startswith(f"Acrobot-v1, {VERDICT.protocol}: ")

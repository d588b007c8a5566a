"""Tables of the comparison of methods, from the lines that methods.py leaves; tables.py prints them.

Scores are (return − random) / (teacher − random), the mean of 100 episodes for each training seed; their intervals are
percentile bootstraps over training seeds. Differences are to the default with the same training seed and in the same
episode; their intervals and p-values (paired.py) are over both, and p-values are Holm-corrected over the methods of one
table, that is of one environment and one student.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import numpy as np
from lines import RESULTS, made
from paired import Paired, crossed_interval, holm, pooled, seed_interval, sign_flip, t_test

from distilrl.verdict import non_inferiority

OUT = RESULTS / "methods"
PAGES = Path(__file__).parents[1] / "docs" / "methods"
ENVS = ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "MountainCar-v0", "MiniGrid-DoorKey-5x5-v0")
DEFAULT, AS_SHIPPED = "distil", ", as it ships"
SHIPPED = (f"{DEFAULT}{AS_SHIPPED}", f"cloning{AS_SHIPPED}")
"""Methods with the settings of their recipes."""
COMFORTABLE, KINDS = "mlp:16,16", ("comfortable", "small")
"""The student that is large enough everywhere, and the kinds of students for which settings are chosen."""
NOT_TESTED = (*SHIPPED, "dqn")
"""Rows to hold the others against, of which nothing is asked."""
FINITE = ("MiniGrid-DoorKey-5x5-v0",)
"""Environments with so few starts, 48, that the hundred episodes, of 38 of them, are taken for all there is."""
SEEDS = range(12)
"""Training seeds of every method; an environment has a table when all are there."""
WAYS = ("noise", "attack", "changed", "starts")
LEVEL = 0.05
Row = dict[str, Any]


@dataclass(eq=False)
class Runs:
    """The lines of an environment."""

    env: str = ""
    teacher: Row = field(default_factory=dict)
    groups: dict[tuple[str, str], dict[int, Row]] = field(default_factory=dict)
    """(student, method) → training seed → line."""

    @property
    def students(self) -> list[str]:
        return list(dict.fromkeys(student for student, _ in self.groups))

    def score(self, value: Any) -> Any:
        """Of a return, or of several (E,), by the undisturbed teacher and random play."""
        return (value - self.teacher["random"]) / (mean(self.teacher["returns"]) - self.teacher["random"])

    def scores(self, student: str, method: str) -> dict[int, float]:
        """Training seed → score; a run that diverged counts as random play."""
        return {seed: float(each.mean()) for seed, each in self.table(student, method).items()}

    def table(self, student: str, method: str) -> dict[int, np.ndarray]:
        """Training seed → score of each episode, (E,)."""
        nothing = np.zeros(len(self.teacher["returns"]))
        return {
            seed: self.score(np.array(row["returns"])) if "returns" in row else nothing
            for seed, row in sorted(self.groups.get((student, method), {}).items())
        }

    def passes(self, student: str, method: str) -> int | None:
        """Runs whose verdict over these episodes is a pass; None where there are too few starts for a verdict."""
        if self.env in FINITE:
            return None
        told = (tuple(self.teacher["returns"]), self.teacher["margin"], self.teacher["span"])
        whole = [row for row in self.groups[student, method].values() if "returns" in row]
        return sum(kept(tuple(row["returns"]), *told) for row in whole)


@cache
def kept(returns: tuple[float, ...], teacher: tuple[float, ...], margin: float, span: float) -> bool:
    """Whether the verdict over these episodes is a pass; many students return just the same."""
    if mean(returns) < mean(teacher) - margin:  # then the interval's lower end is below it too: no bootstrap is needed
        return False
    return non_inferiority(returns, teacher, margin, np.random.default_rng(0), span=span).result == "pass"


@dataclass(frozen=True)
class Difference:
    """A method's score minus the default's."""

    mean: float
    interval: tuple[float, float]
    p: float | None
    """Holm-corrected; None where nothing is asked."""

    @property
    def survives(self) -> bool:
        return self.p is not None and self.p <= LEVEL

    def __str__(self) -> str:
        text = f"{signed(self.mean)} [{signed(self.interval[0])}, {signed(self.interval[1])}]"
        return f"**{text}**" if self.survives else text

    @property
    def p_told(self) -> str:
        """The p-value in a cell, which is empty where nothing is asked."""
        return "" if self.p is None else f"{self.p:.3f}" if self.p >= 0.001 else "< 0.001"


def kind_of(student: str) -> str:
    """The kind of a student."""
    return KINDS[student != COMFORTABLE]


def signed(value: float) -> str:
    """With its sign, and none of what rounds to 0."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


@cache
def settings() -> dict[str, dict[str, Row]]:
    """What was chosen for each kind of student and method."""
    path = OUT / "settings.json"
    return json.loads(path.read_text()) if path.exists() else {kind: {} for kind in KINDS}


@cache
def runs_of(env: str) -> Runs:
    """The lines of an environment that were made with the settings chosen, of methods that have every seed with every
    student; none as long as the default has not.
    """
    runs = Runs(env)
    for row in made(OUT / f"{env}.jsonl"):
        method = row["method"]
        chosen = settings()[kind_of(row["student"])].get(method, {})
        if method == "teacher":
            runs.teacher = row
        elif all(row[name] == chosen.get(name) for name in ("learning_rate", "entropy_share")):
            runs.groups.setdefault((row["student"], method), {})[row["seed"]] = row
    students = runs.students
    whole = {
        method for _, method in runs.groups
        if all(len(runs.groups.get((student, method), ())) >= len(SEEDS) for student in students)
    }  # fmt: skip
    runs.groups = {key: group for key, group in runs.groups.items() if key[1] in whole}
    return runs if DEFAULT in whole else Runs()


def paired_with_default(runs: Runs, student: str) -> dict[str, Paired]:
    """Each method's differences to the default over the training seeds that both have."""
    default, paired = runs.table(student, DEFAULT), {}
    for method in dict.fromkeys(method for other, method in runs.groups if other == student and method != DEFAULT):
        own = runs.table(student, method)
        if each := [own[seed] - default[seed] for seed in own if seed in default]:
            paired[method] = Paired(np.array(each), finite=runs.env in FINITE)
    return paired


@cache
def differences(runs: Runs, student: str) -> dict[str, Difference]:
    """Each method's mean difference to the default, corrected together."""
    paired = paired_with_default(runs, student)
    asked = [method for method in paired if method not in NOT_TESTED]
    p_values = [max(sign_flip(paired[method].seeds), t_test([paired[method]])) for method in asked]
    corrected = dict(zip(asked, holm(p_values), strict=True))
    return {
        method: Difference(float(each.table.mean()), crossed_interval([each]), corrected.get(method))
        for method, each in paired.items()
    }


def with_interval(scores: list[float]) -> str:
    """Mean and interval; one alone has none."""
    if len(scores) < 2:
        return f"{mean(scores):.2f}"
    low, high = seed_interval(scores)
    return f"{mean(scores):.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def setting(row: Row) -> str:
    """Learning rate, and entropy share where there is one."""
    share = row["entropy_share"]
    return f"{row['learning_rate']:g}" + (f", {share:g}" if share is not None else "")


def linked(method: str) -> str:
    return f"[{method}](methods/{method}.md)" if (PAGES / f"{method}.md").exists() else method


def one_student(runs: Runs, student: str) -> list[str]:
    """The table of an environment and a student, the best first."""
    kind = settings()[kind_of(student)]
    found, ways = differences(runs, student), [way for way in WAYS if way in runs.teacher]
    methods = [method for other, method in runs.groups if other == student]
    methods.sort(key=lambda method: -mean(runs.scores(student, method).values()))
    params = next(row["params"] for row in runs.groups[student, methods[0]].values() if "params" in row)
    lines = [
        f"`{student}`, {params:,} parameters:",
        "",
        "| method | setting | seeds | score | difference to the default | p | passes | agreement | updates "
        f"| {' | '.join(ways)} |",
        f"|---|---|--:|---|---|--:|--:|--:|--:|{'--:|' * len(ways)}",
    ]
    for method in methods:
        passes = runs.passes(student, method)
        rows, difference = list(runs.groups[student, method].values()), found.get(method)
        whole = [row for row in rows if "returns" in row] or [{"updates": 0}]
        failed = [0.0 for row in rows if "returns" not in row]  # what diverged
        p = "" if difference is None else difference.p_told
        cells = [
            linked(method), "its own" if method in SHIPPED else setting(kind[method]), str(len(rows)),
            with_interval(list(runs.scores(student, method).values())), str(difference or ""), p,
            "–" if passes is None else str(passes), f"{mean([row.get('agreement', 0.0) for row in rows]):.2f}",
            f"{mean(row['updates'] for row in whole):,.0f}",
        ]  # fmt: skip
        for way in ways:
            each = [runs.score(row[way]) for row in rows if way in row]
            cells.append(f"{mean(each + failed):.2f}".replace("-", "−") if each else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def methods(env: str) -> str:
    """The tables of an environment, one for each student."""
    runs = runs_of(env)
    if not runs.groups or not runs.teacher:
        return "Not run."
    teacher = runs.teacher
    own = ", ".join(f"{way} {runs.score(teacher[way]):.2f}" for way in WAYS if way in teacher)
    text = f"Teacher {mean(teacher['returns']):.2f}, random {teacher['random']:.2f}; {teacher['steps']:,} steps."
    blocks = [
        f"{text} Teacher's own scores: {own}.".replace("-", "−"),
        *("\n".join(one_student(runs, student)) for student in runs.students),
    ]
    return "\n\n".join(blocks)


def surviving() -> str:
    """Differences to the default that survive the correction, in words."""
    lines = []
    for env in ENVS:
        runs = runs_of(env)
        for student in runs.students if runs.teacher else ():
            found = differences(runs, student)
            sides = []
            for word, sign in (("ahead", 1), ("behind", -1)):
                there = [m for m, d in found.items() if d.survives and d.mean * sign > 0]
                there.sort(key=lambda m: -abs(found[m].mean))
                sides.append(f"{word} " + (", ".join(f"`{m}` ({signed(found[m].mean)})" for m in there) or "none"))
            lines.append(f"- {env} `{student}`: {'; '.join(sides)}.")
    return "\n".join(lines) or "Not run."


@dataclass(frozen=True)
class Whole:
    """A method's score minus the default's over all environments and students."""

    method: str
    difference: Difference
    each: tuple[float, ...]
    """Mean difference of each environment and student."""


@cache
def wholes() -> list[Whole]:
    """Of each method that has all runs, the best first."""
    groups: dict[str, list[tuple[str, Paired]]] = {}
    pairs = [(runs, student) for runs in map(runs_of, ENVS) for student in (runs.students if runs.teacher else ())]
    for runs, student in pairs:
        for method, each in paired_with_default(runs, student).items():
            groups.setdefault(method, []).append((runs.env, each))
    found = {method: together(each) for method, each in groups.items() if len(each) == len(pairs)}
    asked = [method for method in found if method not in NOT_TESTED]
    corrected = dict(zip(asked, holm([found[method][2] for method in asked]), strict=True))
    return [
        Whole(
            method, Difference(*found[method][:2], corrected.get(method)),
            tuple(float(each.table.mean()) for _, each in groups[method]),
        )
        for method in sorted(found, key=lambda method: -found[method][0])
    ]  # fmt: skip


def overall() -> str:
    """Each method's difference to the default over all environments and students, the best first."""
    lines = ["| method | difference to the default | p | worst | best |", "|---|---|--:|--:|--:|"]
    for one in wholes():
        worst, best = signed(min(one.each)), signed(max(one.each))
        lines.append(f"| {linked(one.method)} | {one.difference} | {one.difference.p_told} | {worst} | {best} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run."


def against_default(method: str) -> str:
    """What is shown of a method, in a sentence; nothing of the default and of methods of which nothing is asked."""
    whole = next((one for one in wholes() if one.method == method and one.difference.p is not None), None)
    if whole is None:
        return ""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for runs in map(runs_of, ENVS):
        for student in runs.students:
            found = differences(runs, student)[method]
            if found.survives:
                sides[found.mean > 0].append(f"{runs.env} `{student}` ({signed(found.mean)})")
    over_all = f"{whole.difference} of the score (corrected p {whole.difference.p_told})"
    ahead, behind = (", ".join(sides[side]) or "none" for side in (True, False))
    return f"Difference to the default over all: {over_all}. Shown to be ahead: {ahead}; behind: {behind}."


def together(groups: list[tuple[str, Paired]]) -> tuple[float, tuple[float, float], float]:
    """Mean difference over environments and students, its interval and p-value; the students of one environment meet
    the same episodes, so that these are of their mean.
    """
    by_env: dict[str, list[Paired]] = {}
    for env, one in groups:
        by_env.setdefault(env, []).append(one)
    envs = [Paired(np.mean([one.table for one in each], axis=0), each[0].finite) for each in by_env.values()]
    p = max(pooled([one.seeds for _, one in groups]), t_test(envs))
    return float(np.mean([one.table.mean() for one in envs])), crossed_interval(envs), p


def chosen() -> str:
    """What the choice of settings gave, each with its mean score and the scores of all that were tried."""
    lines = [
        "| method | its own setting | for comfortable students | mean score | for small ones | mean score |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(method for kind in KINDS for method in settings()[kind]):
        cells = []
        for found in (settings()[kind].get(method) for kind in KINDS):
            cells += [setting(found), tried(found)] if found else ["", ""]
        own = next(settings()[kind][method]["own"] for kind in KINDS if method in settings()[kind])
        lines.append(f"| {linked(method)} | {setting(own)} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run."


def tried(found: Row) -> str:
    """Score of what was chosen, and from the lowest to the highest that there was."""
    scores = {(one["learning_rate"], one["entropy_share"]): one["score"] for one in found["tried"]}
    best = scores[found["learning_rate"], found["entropy_share"]]
    return f"{best:.2f} ({min(scores.values()):.2f} to {max(scores.values()):.2f})".replace("-", "−")


def cells_of(method: str) -> tuple[list[str], list[str]]:
    """Heads and cells of a method's own page."""
    head, cells = [], []
    for env in ENVS:
        runs = runs_of(env)
        for student in runs.students if runs.teacher else ():
            scores = list(runs.scores(student, method).values())
            if scores:
                head.append(f"{env} `{student}` ({len(scores)} seed{'s' * (len(scores) > 1)})")
                cells.append(with_interval(scores))
    return head, cells

"""The six fields of use: teachers, trivial rules, and students from large to small, each by the command line itself.

    python benchmarks/fields.py FIELD run [ROW ...]    # a line per row, student and seed, to results/fields/FIELD.jsonl
    python benchmarks/fields.py FIELD table            # what is there, as text; microseconds are field_speed.py's

FIELD is a module of field_rows; its page (docs/fields) has the commands that make its teachers. --seeds N trains each
student N times instead of three, --jobs N makes N lines at a time. A line holds the results.json of `distilrl distill`
(or `tree`), and what `distilrl export` wrote in bytes of weights, of integers what they played; of a rule, returns on
the verdict's seeds, of as many as any run of the row had played by then. `python benchmarks/tables.py --write` puts the
tables into the pages and into `distilrl fields`.
"""

import functools
import importlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from field_rows import Field, Row
from lines import RESULTS, fill, jobs_of, machine, made, run_or_go_on, taken

from distilrl import EnvRef, export_policy, stats, trust
from distilrl.episodes import Episodes
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.files import read_json
from distilrl.measures import Mean
from distilrl.verdict import HOLDS, Result, in_words
from distilrl.verdict import RESULTS as WORST_FIRST

OUT = RESULTS / "fields"
RUNS = Path(__file__).parent / "runs" / "fields"
"""Where runs lie until their lines are made."""
FIELDS = ("driving", "robots", "games", "images", "treatment", "trading", "environment")
"""In the order of the tables; those whose module is not there yet are left out."""
RULE = "rule: "
CHANGED = "2026-11-29T00:05"
"""Since when verdicts reckon with what an episode may lose, and not with what random play loses in the mean."""
EARLIER = "†"
"""Behind a verdict of before, which that may change."""
NOTES = (
    f"{EARLIER} by the rule of before 29 November 2026, which reckoned with the mean loss of random play as the worst.",
    f"{EARLIER} 按 2026 年 11 月 29 日之前的规则：把随机策略的平均损失当作最大的损失。",
)
"""What it means, in either language."""
LEFT_OUT = ("disturbed", "action", "protocol")
"""Parts of results.json that neither a table nor a page needs."""
VERDICTS_IN_CHINESE = {"pass": "通过", "within_margin": "差，但在余量内", "inconclusive": "未定", "fail": "不通过"}


def field(name: str) -> Field:
    """A field by its name."""
    found: Field = importlib.import_module(f"field_rows.{name}").FIELD
    return found


def fields() -> dict[str, Field]:
    """All that are there."""
    rows = Path(__file__).parent / "field_rows"
    return {name: field(name) for name in FIELDS if (rows / f"{name}.py").is_file()}


def line(name: str, row: str, student: str, seed: int) -> dict[str, Any]:
    """One run, or a rule."""
    begun = time.process_time()
    if student.startswith(RULE):
        result = _rule(name, row, student.removeprefix(RULE))
    else:
        result = _run(field(name).rows[row], student, seed, RUNS / name / f"{row}, {student}, seed {seed}")
    return result | {"cpu_s": round(time.process_time() - begun, 1)}


def command(row: Row, student: str, seed: int, out: Path) -> list[str]:
    """The command."""
    kind, _, leaves = student.partition(":")
    tree = kind == "tree"
    how = ["tree", "--leaves", leaves] if tree else ["distill", "--student", student]
    how += ["--teacher", row.teacher, "--env", row.env, "--seed", str(seed), "--threads", "1", "--out", str(out)]
    return how + shlex.split(row.options) + shlex.split(row.growing if tree else row.training)


def _run(row: Row, student: str, seed: int, out: Path) -> dict[str, Any]:
    """In a folder of its own, where training that was killed goes on; it is gone when the line is known."""
    run_or_go_on(command(row, student, seed, out), out)
    targets = ("c",) if is_tree(student) else row.exports
    cards = {target: _card(out, target) for target in targets}
    results = results_in(out)
    shutil.rmtree(out)
    played = {"integers": cards["int8"]["played"]["policy.c"]} if "int8" in cards else {}
    return {"results": results, "exports": {target: _bytes(card) for target, card in cards.items()}} | played


def results_in(run: Path) -> dict[str, Any]:
    """A run's results, without what a line does not keep."""
    return {key: value for key, value in read_json(run / "results.json").items() if key not in LEFT_OUT}


def _card(run: Path, target: str) -> dict[str, Any]:
    """The card of an exported student."""
    written = run / "export" / target / "export.json"
    if written.is_file():
        return read_json(written)  # type: ignore[no-any-return]
    return export_policy(run, target)  # type: ignore[arg-type]


def _bytes(card: dict[str, Any]) -> int:
    """Bytes of weights of an exported student, 0 of a tree's C; of what is not C, of the file."""
    return int(card.get("weight_bytes", max(card["files"].values())))


def _rule(name: str, row: str, rule: str) -> dict[str, Any]:
    """Returns of a rule, on as many episodes of the verdict as the teacher had at most."""
    runs = [one["results"] for one in made(OUT / f"{name}.jsonl") if one["row"] == row and "results" in one]
    ref = EnvRef.from_json(runs[0].get("verdict_environment") or runs[0]["environment"], "environment")
    trust(*ref.modules)
    seeds = seeds_from(VERDICT_SEEDS, max(run["teacher"]["episodes"] for run in runs))
    played, rng, measured = field(name).rows[row].rules[rule](ref, seeds), np.random.default_rng(0), {}
    if isinstance(played, Episodes):
        for one, numbers in zip(runs[0].get("measures", ()), played.measured.T, strict=True):
            mean = Mean.of(numbers, one["how"], rng, played.units)
            measured[one["name"]] = mean and mean.to_json()
        played = played.returns
    interval = stats.mean_interval(played, rng)
    return {"return_mean": stats.mean(played), "return_ci95": interval, "episodes": len(seeds), "measured": measured}


def run(name: str, rows: list[str], seeds: int, jobs: int) -> None:
    """Makes the lines that are missing, seed by seed, the rules at last."""
    known, make = field(name).rows, functools.partial(line, name)
    trained = [
        {"row": row, "student": student, "seed": seed}
        for seed in range(seeds)
        for row in rows
        for student in known[row].students
    ]
    ruled = [{"row": row, "student": RULE + rule, "seed": 0} for row in rows for rule in known[row].rules]
    for keys in (trained, ruled):
        fill(OUT / f"{name}.jsonl", make, keys, jobs)


@dataclass(frozen=True)
class Found:
    """What the lines of a row say."""

    row: Row
    teacher: dict[str, Any]
    """As results.json has it."""
    random: float
    """Random play's return."""
    rules: dict[str, dict[str, Any]]
    """By name."""
    runs: list[dict[str, Any]]
    """Of the smallest student that kept within the margin with every seed; where none did, of the one that did so with
    most, and of these the one whose worst seed came nearest."""
    held: bool
    """Whether it did."""
    earlier: list[bool]
    """Of which of them the verdict is of the earlier rule."""
    speed: dict[str, Any] | None
    """Its line of field_speed.py, if it has one."""

    @property
    def verdict(self) -> dict[str, Any]:
        """Of its first seed."""
        verdict: dict[str, Any] = self.runs[0]["results"]["verdict"]
        return verdict

    @property
    def student(self) -> dict[str, Any]:
        """Of its first seed, as results.json has it."""
        student: dict[str, Any] = self.runs[0]["results"]["student"]
        return student

    @property
    def returned(self) -> float:
        """The student's return, the mean over its training seeds."""
        return stats.mean([run["results"]["student"]["return_mean"] for run in self.runs])

    @property
    def taught(self) -> float:
        """The teacher's return beside it, in the same runs."""
        return stats.mean([run["results"]["teacher"]["return_mean"] for run in self.runs])

    def told(self, results: list[str], chinese: bool = False) -> list[str]:
        """Verdicts of its runs, in words, with a mark behind those of the earlier rule."""
        words = [verdict_in_words(result, chinese) for result in results]
        return [word + EARLIER * earlier for word, earlier in zip(words, self.earlier, strict=True)]

    def with_how_many(self, chinese: bool = False) -> str:
        """With how many of its seeds the student kept within the margin, if not with all."""
        kept, tried = sum(map(_holds, self.runs)), len(self.runs)
        if self.held:
            return ""
        if not kept:
            return "（没有；最接近者）" if chinese else " (none; the nearest)"
        return f"（{tried} 个种子中的 {kept} 个）" if chinese else f" (with {kept} of {tried} seeds)"

    @property
    def unlearnt(self) -> tuple[str, float]:
        """The best of random play and the rules, and its return."""
        known = {"random": self.random} | {name: one["return_mean"] for name, one in self.rules.items()}
        best = max(known, key=known.__getitem__)
        return best, known[best]

    @property
    def bytes(self) -> int:
        """Of the first seed's weights in C, or of its file."""
        return int(self.runs[0]["exports"].get("c") or self.student["bytes"])

    @property
    def smaller(self) -> float | None:
        """How many times smaller the student is, in parameters; a tree, whose nodes are several numbers, in bytes."""
        of = "bytes" if is_tree(self.student["name"]) else "params"
        return self.teacher[of] / self.student[of] if self.teacher["params"] else None


def found(name: str) -> dict[str, Found]:
    """By name of the row, those of which there are lines."""
    lines, result = made(OUT / f"{name}.jsonl"), {}
    speeds = {(one["field"], one["row"], one["student"]): one for one in made(OUT / "speed.jsonl")}
    for row, about in field(name).rows.items():
        own = [one for one in lines if one["row"] == row]
        rules = {one["student"].removeprefix(RULE): one for one in own if one["student"].startswith(RULE)}
        tried = [
            sorted((one for one in own if one["student"] == student), key=itemgetter("seed"))
            for student in about.students
        ]
        tried = sorted(filter(None, tried), key=lambda runs: runs[0]["results"]["student"]["bytes"])
        if not tried:
            continue
        good = [runs for runs in tried if all(map(_holds, runs))]
        best = good[0] if good else max(tried, key=_nearest)
        first = best[0]["results"]
        random, speed = first["random"]["return_mean"], speeds.get((name, row, first["student"]["name"]))
        earlier = [_reckons_with_the_mean(run, [one for runs in tried for one in runs]) for run in best]
        result[row] = Found(about, first["teacher"], random, rules, best, bool(good), earlier, speed)
    return result


def _reckons_with_the_mean(run: dict[str, Any], beside: list[dict[str, Any]]) -> bool:
    """Whether a verdict is of before the rule was changed, and nothing ``beside`` it of since then shows that it is the
    same by either, because no episode of random play loses much more than the mean.
    """
    since = [one["results"]["verdict"] for one in beside if one["results"]["provenance"]["date"] >= CHANGED]
    same = any(one["span"] < 1.01 * one["margin"] / 0.05 for one in since)
    exact = run["results"]["verdict"]["confidence"] == 1.0
    return run["results"]["provenance"]["date"] < CHANGED and not exact and not same


def _holds(run: dict[str, Any]) -> bool:
    """Whether the return, and all that was measured beside it, is kept within its margin."""
    return worst_verdict(run) in HOLDS


def worst_verdict(run: dict[str, Any]) -> Result:
    """The worst of its verdicts, on the return and on what was claimed beside it."""
    verdicts = [run["results"]["verdict"], *(one["verdict"] for one in run["results"].get("measures", ()))]
    return min((one["result"] for one in verdicts if one is not None), key=WORST_FIRST.index)


def _nearest(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """With which share of its seeds a student kept within the margin, and the return of the worst."""
    return float(np.mean([*map(_holds, runs)])), min(float(run["results"]["student"]["return_mean"]) for run in runs)


def is_tree(student: str) -> bool:
    """Whether a student's name is a tree's."""
    return student.startswith("tree:")


def size(student: dict[str, Any], nodes: str = "nodes") -> str:
    """Its parameters; of a tree, whose nodes are no parameters, its nodes."""
    return f"{student['params']:,}{f' {nodes}' if is_tree(student['name']) else ''}"


def table(name: str, chinese: bool = False) -> list[list[str]]:
    """A row for each environment, and one for each claim of its own beside the return."""
    told = functools.partial(verdict_in_words, chinese=chinese)
    nodes = "个节点" if chinese else "nodes"
    rows = []
    for row, one in found(name).items():
        student, results = one.student, [run["results"] for run in one.runs]
        rules = [f"{rule} {number(known['return_mean'])}" for rule, known in one.rules.items()]
        params = one.teacher["params"]
        rows.append(
            [
                row,
                f"{params:,}" if params else "-",
                number(one.taught),
                "; ".join([f"random {number(one.random)}", *rules]),
                f"`{student['name']}`{one.with_how_many(chinese)}",
                size(student, nodes),
                f"{one.bytes:,}",
                f"{one.speed['student_c_us']:.2g} ({one.speed['teacher_pytorch_us']:.0f})" if one.speed else "-",
                ", ".join(number(run["student"]["return_mean"]) for run in results),
                f"{lost(one.verdict)}, {student['episodes']:,}",
                counted(one.told([run["verdict"]["result"] for run in results], chinese)),
                f"{one.smaller:,.0f}" if one.smaller else "-",
            ]
        )
        seeds = zip(*(run.get("measures", ()) for run in results), strict=True)
        rows += [_measured(list(measure), one.rules, told) for measure in seeds]
    return rows


def counted(verdicts: list[str]) -> str:
    """How often each was given."""
    return ", ".join(f"{verdicts.count(each)} × {each}" for each in dict.fromkeys(verdicts))


def verdict_in_words(result: str, chinese: bool = False) -> str:
    """A verdict as tables say it."""
    return VERDICTS_IN_CHINESE.get(result, result) if chinese else in_words(result)


def _measured(seeds: list[dict[str, Any]], rules: dict[str, dict[str, Any]], told: Callable[[str], str]) -> list[str]:
    """A row for what is claimed beside the return, of each training seed; its interval is the first one's."""
    one = seeds[0]
    means = {side: number(one[side]["mean"]) if one[side] else "-" for side in ("teacher", "random")}
    verdict = one["verdict"]
    end = ["", ""]
    if verdict is not None:
        end = [lost(verdict), counted([told(each["verdict"]["result"]) for each in seeds])]
    elif (off := one["difference"]) is not None:
        end[0] = apart(off["difference"], off["difference_ci95"])
    name = f"{one['name']} ({one['how']})"
    known = {rule: line.get("measured", {}).get(one["name"]) for rule, line in rules.items()}
    others = [f"random {means['random']}", *(f"{rule} {number(mean['mean'])}" for rule, mean in known.items() if mean)]
    ours = ", ".join(number(each["student"]["mean"]) if each["student"] else "-" for each in seeds)
    return [name, "", means["teacher"], "; ".join(others), *[""] * 4, ours, *end, ""]


def lost(verdict: dict[str, Any]) -> str:
    """What is claimed, its interval and its margin."""
    return f"{apart(verdict['difference'], verdict['interval'])} of {number(verdict['margin'])}"


def apart(difference: float, interval: Sequence[float]) -> str:
    """A difference and its interval."""
    low, high = interval
    return f"{number(difference, '+')} [{number(low, '+')}, {number(high, '+')}]"


def number(value: float, sign: str = "") -> str:
    """Three or four digits, whatever the size."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:{sign},.{digits}f}"


HEADS = {
    "": (
        "environment", "teacher's parameters", "return", "without learning",
        "smallest student that keeps within the margin", "parameters", "bytes", "µs in C (teacher, PyTorch)",
        "return, each seed",
        "student − teacher [interval] of margin, episodes, of the first seed", "verdicts", "times smaller",
    ),
    ".zh-CN": (
        "环境", "教师参数", "回报", "无需学习的策略", "损失在余量内的最小学生", "参数", "字节",
        "C 每次决策微秒（教师，PyTorch）", "各种子的回报",
        "第一个种子：学生 − 教师 [区间]，余量，局数", "判定", "缩小倍数",
    ),
}  # fmt: skip


def markdown(name: str) -> str:
    """The table of a field's page; of ``NAME.zh-CN`` under Chinese heads."""
    base = name.removesuffix(".zh-CN")
    rows = table(base, chinese=name != base) if base in fields() else []
    head = HEADS[name.removeprefix(base)]
    rule = "|---|--:|--:|---|---|--:|--:|--:|---|---|---|--:|"
    if not rows:
        return "Not run."
    return noted(
        "\n".join((f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows))), name != base
    )


def noted(table: str, chinese: bool) -> str:
    """A table, and below it what its mark means, if it has one."""
    return f"{table}\n\n{NOTES[chinese]}" if EARLIER in table else table


def listed() -> list[dict[str, Any]]:
    """What `distilrl fields` shows, a row for each environment."""
    rows = []
    for name, about in fields().items():
        for row, one in found(name).items():
            rows.append(
                {
                    "field": about.title,
                    "env": row,
                    "teacher_params": one.teacher["params"],
                    "teacher_return": one.taught,
                    "student": one.student["name"],
                    "params": one.student["params"],
                    "return": one.returned,
                    "verdicts": counted([in_words(worst_verdict(run)) for run in one.runs]),
                    "without_learning": one.unlearnt[0],
                    "without_learning_return": one.unlearnt[1],
                    "page": about.page,
                    "extra": about.extra,
                }
            )
    return rows


def main() -> None:
    jobs, seeds = jobs_of(sys.argv), int(taken(sys.argv, "--seeds", "3"))
    name, what, *rows = sys.argv[1:]
    if what == "run":
        machine(OUT)
        run(name, rows or list(field(name).rows), seeds, jobs)
    elif what == "table":
        for one in table(name):
            print(" | ".join(one))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

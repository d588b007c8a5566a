"""The smallest student that `distilrl plan` finds in each of the six fields, by the command line itself.

    python benchmarks/field_plans.py [FIELD ...]    # one line per plan, to results/fields/plans.jsonl

A plan has the teacher, the environment, the verdict and the steps of its row of field_rows, and the tool's own ladder
of sizes with three students of each. What a row sets of training by hand (`--set`) a plan has not, and it plays nothing
disturbed. A line holds its plan.json and, where a size kept within the margin, that one's results.json. `python
benchmarks/tables.py --write` puts them into docs/fields.md.
"""

import shlex
import shutil
import sys
import time
from typing import Any

from fields import OUT, RUNS, counted, fields, lost, number, results_in, verdict_in_words
from lines import fill, machine, made, run_or_go_on

from distilrl.files import read_json

LINES = OUT / "plans.jsonl"
PLANS = (
    ("driving", "merge", ""),
    ("robots", "BipedalWalker", ""),
    ("robots", "BipedalWalker", "--episodes 300"),
    ("games", "MinAtar Breakout", ""),
    ("games", "MinAtar Breakout", "--check-episodes 100"),
    ("games", "MiniGrid DoorKey", ""),
    ("games", "MiniGrid DoorKey", "--episodes 1200"),
    ("games", "MiniGrid DoorKey", "--check-episodes 100"),
    ("images", "brain MR slices", "--check-episodes 200"),
    ("treatment", "ICU-Sepsis", "--check-episodes 1000"),
    ("treatment", "ICU-Sepsis, the untried is fatal", "--check-episodes 1000"),
    ("trading", "SP500-v0", ""),
    ("environment", "Sensor-v0", ""),
)
"""Rows of each field and further options: more episodes are what a plan proposed when its verdicts were inconclusive,
larger checks are for episodes of a single decision or a bare 1 or 0.
"""
SEEDS = 3
NOT_OF_PLANS = ("--set", "--disturbed-episodes")


def line(field: str, row: str, more: str, seed: int) -> dict[str, Any]:
    """One plan, in a folder of its own, where one that was killed goes on; it is gone when the line is known."""
    begun, out = time.process_time(), RUNS / "plans" / f"{field}, {row}{more}-{seed}"
    about = fields()[field].rows[row]
    words = ["plan", "--teacher", about.teacher, "--env", about.env, "--seed", str(seed), "--seeds", str(SEEDS)]
    words += ["--threads", "1", "--out", str(out), *_of_plans(f"{about.options} {about.training} {more}")]
    run_or_go_on(words, out)
    plan = read_json(out / "plan.json")
    winner = results_in(out / "winner") if plan["winner"] is not None else None
    shutil.rmtree(out)
    return {"plan": plan, "winner": winner, "cpu_s": round(time.process_time() - begun, 1)}


def _of_plans(options: str) -> list[str]:
    """A row's options without those that a plan has not."""
    words = shlex.split(options)
    left_out = {at + value for at, word in enumerate(words) if word in NOT_OF_PLANS for value in (0, 1)}
    return [word for at, word in enumerate(words) if at not in left_out]


def markdown(chinese: bool = False) -> str:
    """The table: what a plan of each field found."""
    head = (
        "| 领域 | 环境 | 步数 | 试过的规模 | 损失在余量内的最小学生 | 参数（缩小倍数） | 回报（教师） "
        "| 学生 − 教师 [区间]，余量，局数 | 判定 |"
        if chinese
        else "| field | environment | steps | sizes tried | smallest within the margin | parameters (times smaller) "
        "| return (teacher) | student − teacher [interval] of margin, episodes | verdicts |"
    )
    told, none = (lambda verdict: verdict_in_words(verdict, chinese)), "没有" if chinese else "none"
    rows = [head, "|---|---|--:|--:|---|---|---|---|---|"]
    places = {key: place for place, key in enumerate(PLANS)}
    for one in sorted(made(LINES), key=lambda one: places[one["field"], one["row"], one["more"]]):
        plan, winner, field = one["plan"], one["winner"], fields()[one["field"]]
        row = f"{one['row']}, `{one['more']}`" if one["more"] else one["row"]
        taken = [told(size["verdict"]) for size in reversed(plan["frontier"]) if size["verdict"] is not None]
        cells = [field.title_zh if chinese else field.title, row, f"{plan['env_steps']:,}", str(len(plan["frontier"]))]
        if winner is None:
            cells += [none, "-", "-", "-"]
        else:
            student, teacher = winner["student"], winner["teacher"]
            smaller = teacher["params"] / student["params"]
            cells += [f"`{plan['winner']}`", f"{student['params']:,} ({smaller:,.0f})"]
            cells += [f"{number(student['return_mean'])} ({number(teacher['return_mean'])})"]
            cells += [f"{lost(winner['verdict'])}, {student['episodes']:,}"]
        rows.append(f"| {' | '.join([*cells, counted(taken) or none])} |")
    return "\n".join(rows)


if __name__ == "__main__":
    machine(OUT)
    keys = [dict(zip(("field", "row", "more"), plan, strict=True)) | {"seed": 0} for plan in PLANS]
    fill(LINES, line, [key for key in keys if key["field"] in (sys.argv[1:] or key.values())])

"""Robots where the world is rougher than where they were distilled: returns and falls of teacher and student.

    python benchmarks/robots.py [ROBOT ...]     # a line per robot, way and seed, to results/robots/ROBOT.jsonl
    python benchmarks/robots.py table

ROBOT is a row of field_rows/robots.py, whose page (docs/fields/robots.md) says where its teacher is; its students of
`STUDENTS` are distilled into benchmarks/runs/robots, unless they lie there or in `KEPT`. 100 greedy episodes each, on
the same seeds for both; pushes of 0.5 m/s (Unitree's: 1 m/s) every 50 to 150 steps, sliding friction within 30 % of its
own, noise of 0.05 on each number of the observation (Unitree's: as its policies were trained with), actions one step
late. --seeds N distils each student N times.
"""

import functools
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from field_rows.robots import FIELD
from lines import RESULTS, fill, jobs_of, machine, made, run_or_go_on, taken, there

from distilrl import Play, Policy, TrainConfig, load_network, play, stats, trust
from distilrl.evaluate import load_teachers, seeds_from
from distilrl.files import read_json
from distilrl.measures import Measure

OUT, RUNS = RESULTS / "robots", Path("benchmarks/runs/robots")
SEEDS = seeds_from(90_000_000, 100)
"""On which nothing else is chosen or judged."""
ROUGH: dict[str, dict[str, Any]] = {
    "undisturbed": {}, "pushes": {"push": 0.5}, "friction": {"friction": [0.7, 1.3]}, "noise": {"noise": 0.05},
    "a step late": {"delay": 1},
}  # fmt: skip
UNITREE = ROUGH | {"pushes": {"push": 1.0}, "noise": {"noise": 1.0}}
IN_CHINESE = {"undisturbed": "无干扰", "pushes": "推", "friction": "摩擦", "noise": "噪声", "a step late": "晚一步"}
STUDENTS = {name: row.students[:1] for name, row in FIELD.rows.items() if row.env.startswith("examples.")}
STUDENTS["Unitree G1"] += ("mlp:28+gru:10@relu",)
STUDENTS["Walker2d"] += ("mlp:16,16",)
STUDENTS["Unitree G1, 150,000 steps"] = ("mlp:20+gru:3", "mlp:24")
del STUDENTS["Unitree G1, 400,000 steps"], STUDENTS["Unitree Go1, 150,000 steps"]
KEPT = {("Unitree G1", "mlp:28+gru:10@relu"): RESULTS / "boards" / "g1-2992"}
"""Run folders of students that ship with the results."""


def distilled(robot: str, network: str, seed: int) -> Path:
    """The run folder of a student, distilled where it is not there."""
    row, run = FIELD.rows[robot], RUNS / f"{robot}, {network}, {seed}".replace(" ", "-")
    run = run if seed else KEPT.get((robot, network), run)
    if not (run / "results.json").exists():
        words = ["distill", "--teacher", row.teacher, "--env", row.env, "--student", network, "--threads", "1"]
        words += ["--seed", str(seed), "--out", str(run)]
        run_or_go_on([*words, *shlex.split(f"{row.options} {row.training}")], run)
    return run


def line(robot: str, way: str, network: str, seed: int) -> dict[str, Any]:
    """Both in one world."""
    run = distilled(robot, network, seed)
    config = TrainConfig.from_json(read_json(run / "config.json")["train"])
    trust(*config.env.modules)
    plain = {key: value for key, value in config.env.kwargs.items() if key not in ("push", "noise")}
    world = (UNITREE if "Unitree" in robot else ROUGH)[way]
    how = Play(replace(config.env, kwargs=plain | world), threads=1, measures=(Measure.of("fallen=max"),))
    student = load_network(run / "student")
    teacher = load_teachers(config.tasks[0].teacher, config.env, config.combine)
    fps, found, returns = gymnasium.make(config.env.id, **how.env.kwargs).metadata["render_fps"], {}, {}
    for side, policy in (("teacher", teacher.policy), ("student", Policy(student.network, student.head))):
        games = play(policy, how, SEEDS)
        returns[side] = games.returns
        interval = stats.mean_interval(games.returns, np.random.default_rng(0))
        found[side] = {
            "return": stats.mean(games.returns), "ci95": interval, "falls": int(games.measured[:, 0].sum()),
            "hours": round(int(games.lengths.sum()) / fps / 3600, 4),
        }  # fmt: skip
    lost = returns["student"] - returns["teacher"]
    off = {"difference": stats.mean(lost), "difference_ci95": stats.mean_interval(lost, np.random.default_rng(0))}
    return {"params": student.network.spec.params, **found, **off}


def run(robots: Sequence[str], seeds: int, jobs: int) -> None:
    for robot in robots:
        ways, path = UNITREE if "Unitree" in robot else ROUGH, OUT / f"{robot}.jsonl"
        for seed, network in itertools.product(range(seeds), STUDENTS[robot]):
            keys = [{"way": way, "network": network, "seed": seed} for way in ways]
            if not all(there(path, key) for key in keys):  # before its lines, which are made side by side
                distilled(robot, network, seed)
            fill(path, functools.partial(line, robot), keys, jobs)


def table(chinese: bool = False) -> list[tuple[str, ...]]:
    """A row for each robot, student and way: returns with their intervals, or those of each seed; falls, and in
    brackets how many an hour. The difference of several seeds is their mean, with the interval of Student's t.
    """
    rows = []
    for robot in STUDENTS:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for one in made(OUT / f"{robot}.jsonl"):
            groups.setdefault((one["network"], one["way"]), []).append(one)
        for (network, way), ones in groups.items():
            first, students = ones[0], [one["student"] for one in ones]
            shown = ", ".join(f"{one['return']:,.0f}" for one in students) if len(ones) > 1 else _interval(students[0])
            differences, off = [one["student"]["return"] - one["teacher"]["return"] for one in ones], "-"
            if ends := stats.t_interval(differences) if len(ones) > 1 else first.get("difference_ci95"):
                off = "{:+,.0f} [{:+,.0f}, {:+,.0f}]".format(stats.mean(differences), *ends)
            world, falls = IN_CHINESE[way] if chinese else way, (_falls([first["teacher"]]), _falls(students))
            rows.append((robot, f"`{network}`", world, _interval(first["teacher"]), shown, off, *falls))
    return rows


def _interval(side: dict[str, Any]) -> str:
    return f"{side['return']:,.0f} [{side['ci95'][0]:,.0f}, {side['ci95'][1]:,.0f}]"


def _falls(sides: list[dict[str, Any]]) -> str:
    rate = sum(side["falls"] for side in sides) / sum(side["hours"] for side in sides)
    return f"{', '.join(str(side['falls']) for side in sides)} ({rate:,.{0 if rate >= 10 else 1}f})"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["table"]:
        for row in table():
            print(" | ".join(row))
    else:
        machine(OUT, "mujoco")
        seeds, jobs = int(taken(sys.argv, "--seeds", "1")), jobs_of(sys.argv)
        run(sys.argv[1:] or list(STUDENTS), seeds, jobs)

"""Atari students: trains each and keeps its results, from the root of a checkout.

    python benchmarks/pong.py NAME [NAME ...] [--seed N]    # without a name, lists them

Raw results go to benchmarks/results/NAME/, of another seed than 0 to benchmarks/results/NAME-seedN/ (results.json,
metrics.csv, config.json, teacher.json, and the student itself). A run that was cut short goes on. The config.json of
one that is kept there is as the version that made it wrote it; what the run was is said here.
"""

import platform
import shutil
import sys
from pathlib import Path

import torch
from lines import run_or_go_on, taken

from distilrl import EnvRef, Play, evaluate_policy, load_teacher
from distilrl.files import write_json
from distilrl.provenance import processor

KEPT = ("results.json", "metrics.csv", "config.json", "teacher.json", "episodes.json", "tree.json", "tree.txt")
HERE = Path("benchmarks")  # run from the root of the checkout, so that results name no folder of this machine
OF_PONG = ["--teacher", "zoo/pong-dqn", "--env", "PongNoFrameskip-v4"]
PONG = ["distill", *OF_PONG]
BREAKOUT = [
    "distill", "--teacher", "zoo/breakout-dqn", "--env", "BreakoutNoFrameskip-v4", "--eval-epsilon", "0.01",
    "--steps", "1400000", "--threads", "1", "--disturbed-episodes", "0",
    "--set", "average=0.999", "--set", "capacity=300000", "--set", "agreement=0.9",
    "--set", "check-every=140032", "--set", "check-episodes=16",
    "--set", 'behaviour={"name": "mixed", "beta": {"begin": 0.5, "end": 0.25, "share": 0.5}}',
]  # fmt: skip
SMALL = ["--threads", "1", "--disturbed-episodes", "0"]
FIRST = ["--set", "n-envs=64", "--set", "updates=8"]
"""What the recipe gave Pong when the first runs were made; today it is half of either."""
SELDOM = [*FIRST, "--set", "check-every=9600"]
RUNS = {
    # "under 2 minutes of training", with 40 episodes of each disturbance
    "pong-61k": [*PONG, "--student", "cnn:16,16,16:64", "--steps", "48000", "--disturbed-episodes", "40", *SELDOM],
    # the headline command as README.md prints it: the recipe's own budget, ended by the stop rule
    "pong-61k-default": [*PONG, "--student", "cnn:16,16,16:64", "--disturbed-episodes", "20"],
    "pong-61k-textbook": [
        *PONG, "--student", "cnn:16,16,16:64", "--steps", "48000", "--recipe", "policy_distillation",
        "--disturbed-episodes", "0", *SELDOM,
    ],
    "pong-61k-case-study": [
        *PONG, "--student", "cnn:16,16,16:64", "--steps", "48000", "--recipe", "case_study", "--disturbed-episodes",
        "0",
    ],
    "pong-8k": [
        *PONG, "--student", "cnn:8k8s4,8k4s2,8k3s2:32", "--steps", "100000", "--disturbed-episodes", "0", *SELDOM,
    ],
    "pong-4k": [*PONG, "--student", "cnn:4k8s4,8k4s2,8k3s2:16", "--steps", "180000", *SMALL, *SELDOM],
    "pong-2k-fine": [*PONG, "--student", "cnn:4k6s4,4k4s2,6k3s2:8", "--steps", "250000", *SMALL, *SELDOM],
    # the same student, pruned from one of twice its width while it learns
    "pong-2k-pruned": [
        *PONG, "--student", "cnn:4k6s4,4k4s2,6k3s2:8", "--prune-from", "cnn:8k6s4,8k4s2,12k3s2:16", "--steps",
        "250000", *SMALL, *SELDOM,
    ],
    # what lies in results/ of seed 0 was made with SELDOM
    "pong-2k": [*PONG, "--student", "cnn:3k8s4,6k4s3,8k3s2:8", "--steps", "250000", *SMALL],
    # collected under sticky actions for the whole budget; then `disturbed` in the game without them
    "pong-61k-robust": [
        "distill", "--teacher", "zoo/pong-dqn", "--env", "ALE/Pong-v5", "--student", "cnn:16,16,16:64",
        "--accept-weak-teacher",
        "--steps", "320000", "--episodes", "100", *SMALL,
        "--set", "check-every=32000", "--set", "check-episodes=16", "--set", "patience=999", *FIRST,
    ],
    "pong-tree": [
        "tree", *OF_PONG, "--extractor", "pong", "--leaves", "96", "--iterations", "10", "--states", "6000", *SMALL,
    ],
    # 1.4 million steps, 300,000 states held, a longer average
    "breakout-61k": [*BREAKOUT, "--student", "cnn:16,16,16:64"],
    "breakout-61k-case-study": [*BREAKOUT, "--student", "cnn:16,16,16:64", "--recipe", "case_study"],
    # half of its parameters, trained the same; what lies in results/ of seed 0 was made with --set n-envs=64 --set
    # updates=8
    "breakout-32k": [*BREAKOUT, "--student", "cnn:8,16,16:32"],
}  # fmt: skip


def disturbed(kept: Path, episodes: int = 60) -> None:
    """Teacher and student in the game without sticky actions, under random actions and sticky ones."""
    rows: dict = {}
    for way in ({"epsilon": 0.01}, {"epsilon": 0.05}, {"sticky": 0.25}):
        name = "_".join(str(part) for pair in way.items() for part in pair)
        for side, path in (("teacher", "zoo/pong-dqn"), ("student", str(kept / "student"))):
            rows.setdefault(name, {})[side] = evaluate_policy(
                load_teacher(path), Play(EnvRef("PongNoFrameskip-v4"), **way), episodes=episodes
            ).to_json()
    write_json(kept / "disturbed.json", rows)


def run(name: str, seed: int) -> None:
    kept = HERE / "results" / (f"{name}-seed{seed}" if seed else name)
    folder, words = HERE / "runs" / kept.name, [*RUNS[name], "--seed", str(seed)]
    run_or_go_on([*words, "--out", str(folder)], folder)
    kept.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if (folder / file).exists():
            shutil.copy(folder / file, kept / file)
    if (folder / "student").exists():  # a tree is two files
        shutil.copytree(folder / "student", kept / "student", dirs_exist_ok=True)
    (kept / "verdict.json").unlink(missing_ok=True)  # of judge.py, about a student that lay here before
    if name == "pong-61k-robust":
        disturbed(kept)
    machine = {
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    write_json(kept / "machine.json", machine | {"command": ["distilrl", *words]})


if __name__ == "__main__":
    seed = int(taken(sys.argv, "--seed", "0"))
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(RUNS):
        print("\n".join(RUNS))
        sys.exit(2)
    for name in sys.argv[1:]:
        run(name, seed)

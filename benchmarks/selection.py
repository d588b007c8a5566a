"""What choosing the best of many noisy checks costs, and what is left of it where the best three meet again.

    python benchmarks/selection.py raw               # best check against verdict, of the runs that lie in results/
    python benchmarks/selection.py run FOLDER        # FOLDER holds acrobot-dqn-sb3.zip
    python benchmarks/selection.py table

Each line of results/selection/rows.jsonl is a training seed with its whole budget, whose student is chosen twice: by
the best check alone (``finalists`` 1), and by 50 other episodes of the best three checks. Both play 300 episodes of the
verdict's seeds. Training is the same to the byte.
"""

import csv
import functools
import sys
from pathlib import Path

from lines import RESULTS, fill, jobs_of, made
from methods import taught

from distilrl import EnvRef, Play, make_config, play, stats, train
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.files import read_json

OUT = RESULTS / "selection" / "rows.jsonl"
TASKS = {
    "Acrobot-v1": ("acrobot-dqn-sb3.zip", "mlp:4", 10_000, 500),
    "LunarLander-v3": ("zoo/lunarlander-dqn", "mlp:16,16", 30_000, 2_000),
}
SEEDS = range(10)


def raw() -> str:
    """The runs that lie in results/ with their checks."""
    lines = [
        "| run | checks | best check | verdict's return | loss, share of (teacher − random) |",
        "|---|--:|--:|--:|--:|",
    ]
    for path in sorted(RESULTS.glob("*/results.json")):
        found, file = read_json(path), path.with_name("metrics.csv")
        if "student" not in found or not file.is_file():
            continue
        checks = [float(row["return"]) for row in csv.DictReader(file.read_text().splitlines()) if row.get("return")]
        mean, span = found["student"]["return_mean"], found["teacher"]["return_mean"] - found["random"]["return_mean"]
        lost = (max(checks) - mean) / span
        lines.append(f"| {path.parent.name} | {len(checks)} | {max(checks):.2f} | {mean:.2f} | {lost:+.3f} |")
    return "\n".join(lines)


def line(folder: Path, env: str, seed: int) -> dict:
    file, student, steps, every = TASKS[env]
    teacher, acceptance, _ = taught(folder, env, file)
    row = {"span": acceptance.return_mean - acceptance.random_return_mean}
    for name, finalists in (("best", 1), ("three", 3)):
        config = make_config(
            "distil", env, network=student, seed=seed, env_steps=steps, check_every=every, check_episodes=10, gap=-99.0,
            finalists=finalists, threads=1,
        )  # fmt: skip
        trained = train(config, teacher, acceptance=acceptance)
        games = play(trained.policy, Play(EnvRef(env), threads=1), seeds_from(VERDICT_SEEDS, 300))
        row |= {f"{name}_check": max(one["return"] for one in trained.history), name: stats.mean(games.returns)}
    return row


def table() -> str:
    lines = [
        "| environment | seeds | best check | its student's return | the best of three's | gain of three, share |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for env in TASKS:
        rows = [row for row in made(OUT) if row["env"] == env]
        if not rows:
            continue
        gains = [(row["three"] - row["best"]) / row["span"] for row in rows]
        low, high = stats.t_interval(gains)
        means = [stats.mean([row[name] for row in rows]) for name in ("best_check", "best", "three")]
        lines.append(
            f"| {env} | {len(rows)} | "
            + " | ".join(f"{mean:.1f}" for mean in means)
            + f" | {stats.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}] |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    match sys.argv[1:]:
        case ["raw"]:
            print(raw())
        case ["table"]:
            print(table())
        case ["run", folder]:
            keys = [{"env": env, "seed": seed} for seed in SEEDS for env in TASKS]
            fill(OUT, functools.partial(line, Path(folder)), keys, jobs)

"""Prints the tables of README.md and benchmarks/README.md from the raw results, so that no figure is typed by hand."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

RESULTS = Path(__file__).parent / "results"


def lines(name: str) -> list[dict]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(part: dict) -> str:
    return f"{part['return_mean']:.2f} [{part['return_ci95'][0]:.2f}, {part['return_ci95'][1]:.2f}]"


def atari() -> str:
    rows = [
        "| run | parameters | MACs | steps | updates | seconds | student's return | teacher's | verdict |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for path in sorted(RESULTS.glob("*/results.json")):
        r = json.loads(path.read_text())
        s = r["student"]
        rows.append(
            f"| {path.parent.name} `{s['name']}` | {s['params']:,} | {s['macs'] / 1e6:.2f} M | {r['env_steps']:,} | {r['updates']:,} | {r['train_s']:.0f} "
            f"| {interval(s)} | {interval(r['teacher'])} | {r['verdict']['result']} |"
        )
    return "\n".join(rows)


def disturbed() -> str:
    rows = ["| run | disturbance | student's return | teacher's |", "|---|---|--:|--:|"]
    for path in sorted(RESULTS.glob("*/results.json")):
        for way, sides in json.loads(path.read_text())["disturbed"].items():
            rows.append(f"| {path.parent.name} | {way} | {interval(sides['student'])} | {interval(sides['teacher'])} |")
    return "\n".join(rows)


def vectors() -> str:
    groups = defaultdict(list)
    for row in lines("vectors.jsonl"):
        groups[row["env"], row["student"], row["params"]].append(row)
    rows = [
        "| environment | student | parameters | seeds at parity | steps | seconds | return, each seed | teacher |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for (env, student, params), runs in groups.items():
        there = [run for run in runs if run["parity_s"] is not None]
        steps = f"{median(run['parity_steps'] for run in there):,.0f}" if there else "-"
        seconds = f"{median(run['parity_s'] for run in there):.2f}" if there else "-"
        each = ", ".join(f"{run['return_mean']:.1f}" for run in runs)
        rows.append(
            f"| {env} | `{student}` | {params} | {len(there)}/{len(runs)} | {steps} | {seconds} | {each} | {mean(r['teacher_return_mean'] for r in runs):.1f} |"
        )
    return "\n".join(rows)


def peers() -> str:
    groups = defaultdict(list)
    for row in lines("peers.jsonl"):
        groups[row["env"], row["algorithm"]].append(row)
    rows = ["| environment | method | seeds at parity | steps | seconds |", "|---|---|--:|--:|--:|"]
    for (env, algorithm), runs in groups.items():
        there = [run for run in runs if run["parity_s"] is not None]
        steps = f"{median(run['parity_steps'] for run in there):,.0f}" if there else "-"
        seconds = f"{median(run['parity_s'] for run in there):.2f}" if there else f"> {runs[0]['cap_s']:.0f}"
        rows.append(f"| {env} | {algorithm} | {len(there)}/{len(runs)} | {steps} | {seconds} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print("\n\n".join((atari(), disturbed(), vectors(), peers())))

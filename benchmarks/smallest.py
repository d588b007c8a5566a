"""The smallest student that passes, and what finding it costs against single runs.

    python benchmarks/smallest.py ENV TEACHER [--cost]

Writes results/smallest/ENV.json: the plan, and with --cost the seconds of one `distil` run of the middle size with the
same verdict, in the same process. One thread. ENV is CartPole-v1, Acrobot-v1, MountainCar-v0, LunarLander-v3 or
PongNoFrameskip-v4.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from lines import RESULTS, machine

from distilrl import Comparison, Job, TeacherFile, distill, make_config, plan
from distilrl.cli.tables import print_plan
from distilrl.display import Display

BUDGETS = {
    "CartPole-v1": {"env_steps": 3_000}, "Acrobot-v1": {"env_steps": 4_000}, "MountainCar-v0": {"env_steps": 6_000},
    "LunarLander-v3": {"env_steps": 12_000},
    "PongNoFrameskip-v4": {"env_steps": 96_000, "updates": 8},
}  # fmt: skip
PIXELS = (
    "cnn:3k8s4,6k4s3,8k3s2:8",
    "cnn:4k8s4,8k4s2,8k3s2:16",
    "cnn:8k8s4,8k4s2,8k3s2:16",
    "cnn:8k8s4,8k4s2,8k3s2:32",
    "cnn:8,16,16:32",
    "cnn:16,16,16:64",
)


def main(env_id: str, teacher: str, cost: bool) -> None:
    torch.set_num_threads(1)
    pixels = env_id.startswith("Pong")
    changes = BUDGETS[env_id] | {"threads": 1, "check_episodes": 8 if pixels else 10}
    config = make_config(
        "distil",
        env_id,
        teacher=TeacherFile(teacher),
        network="cnn:8k8s4,8k4s2,8k3s2:32" if pixels else "mlp:16,16",
        **changes,
    )
    job = Job(config, Comparison(disturbed_episodes=0))
    folder, out = Path("benchmarks/runs") / f"plan-{env_id}", RESULTS / "smallest" / f"{env_id}.json"
    for path in (folder, Path(f"{folder}-single")):
        shutil.rmtree(path, ignore_errors=True)
    result = {}
    if cost:
        started = time.perf_counter()
        single = make_config("distil", env_id, teacher=TeacherFile(teacher), network=config.student.network, threads=1)
        with Display() as watch:
            distill(None, Job(single, Comparison(disturbed_episodes=0)), f"{folder}-single", watch=watch)
        result["single_run_s"] = time.perf_counter() - started
    with Display() as watch:
        found = plan(
            None, job, folder, sizes=PIXELS if pixels else (), seeds=1 if pixels else 5, refine=not pixels, watch=watch
        )
    print_plan(found)
    result = found.to_json() | result | {"teacher": Path(teacher).name}
    if cost:
        result["plan_in_single_runs"] = result["wall_s"] / result["single_run_s"]
        runs = f"{result['plan_in_single_runs']:.2f} single runs of {result['single_run_s']:.1f} s"
        print(f"plan {result['wall_s']:.1f} s = {runs}")
    machine(out.parent)
    out.write_text(json.dumps(result, indent=2) + "\n")
    if found.winner:
        shutil.copytree(folder / "winner" / "student", out.with_suffix(""), dirs_exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--cost" in sys.argv)

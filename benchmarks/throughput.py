"""How fast states are collected: ALE alone, the teacher's forward pass alone, and both in the collector, in turn.

Usage, from the root of a checkout: python benchmarks/throughput.py [OUT.json]. 64 environments, 2 threads.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from lines import RESULTS

from distilrl import describe_env, load_teacher, make_vec_env
from distilrl.collect import Behaviour, Collector
from distilrl.replay import Replay, ReplaySpec

N, THREADS, STEPS, ROUNDS = 64, 2, 60, 7


def rate(work: Callable[[], object]) -> float:
    """States a second."""
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    return N * STEPS / (time.perf_counter() - start)


def main(out: Path) -> None:
    torch.set_num_threads(THREADS)
    teacher = load_teacher("zoo/pong-dqn").fitted(describe_env("PongNoFrameskip-v4"))
    envs = make_vec_env("PongNoFrameskip-v4", N, threads=THREADS)
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(envs.reset(np.arange(N)).copy())

    def ale() -> None:
        envs.send(envs.info.action.sample(N, rng))
        envs.recv()

    others = make_vec_env("PongNoFrameskip-v4", N, threads=THREADS)
    replay = Replay(ReplaySpec(20_000, N, envs.info.obs, envs.info.action, teacher.head.width), torch.device("cpu"))
    collector = Collector(others, replay, Behaviour("teacher"), rng, teacher)
    steps = collector.steps(np.arange(N))
    works = {"ale": ale, "teacher": lambda: teacher.numbers(obs), "collector": lambda: next(steps)}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _, (name, work) in itertools.product(range(ROUNDS), works.items()):
        rates[name].append(rate(work))
    shares = [c / min(a, t) for a, t, c in zip(rates["ale"], rates["teacher"], rates["collector"], strict=True)]
    in_turn = [c * (1 / a + 1 / t) for a, t, c in zip(rates["ale"], rates["teacher"], rates["collector"], strict=True)]
    result = {
        "states_per_s": {name: round(median(values), 1) for name, values in rates.items()},
        "share_of_the_slower": round(median(shares), 3),
        "share_of_both_in_turn": round(median(in_turn), 3),
        "rounds": rates,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS / "throughput.json"))

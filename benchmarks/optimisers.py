"""Adam against SOAP on a fixed set of labelled states of HalfCheetah: how well a small student fits its teacher.

    python benchmarks/optimisers.py TEACHERS     # a folder with tqc-HalfCheetah-v3.zip

Writes benchmarks/results/optimisers.jsonl: root mean square error of actions, in half-ranges, on states held out, and
seconds of one core.
"""

import json
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch
from lines import RESULTS
from torch import Tensor

from distilrl import NetworkSpec, Teacher, describe_env, load_teacher
from distilrl.networks import build
from distilrl.optimisers import dense_layers, make_optimisers, move_average, set_learning_rate

OUT = RESULTS / "optimisers.jsonl"
RUNS = [
    (optimiser, lr, network, batch, updates)
    for network in ("mlp:24,24,24@silu", "mlp:32,32")
    for optimiser, lr, batch, updates in (
        ("adam", 2e-3, 256, 20_000), ("adam", 4e-3, 256, 20_000), ("adam", 4e-3, 1024, 20_000),
        ("adam", 4e-3, 1024, 60_000),
        ("soap", 1e-2, 256, 10_000), ("soap", 1e-2, 256, 20_000), ("soap", 2e-2, 256, 20_000),
    )
]  # fmt: skip


def collected(teacher: Teacher, steps: int = 7_500) -> tuple[Tensor, Tensor]:
    """States of eight cheetahs driven by the teacher under noise of eight sizes, and its actions in −1 to 1."""
    teacher = teacher.fitted(describe_env("HalfCheetah-v5"))
    envs, rng = [gymnasium.make("HalfCheetah-v5") for _ in range(8)], np.random.default_rng(0)
    now = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
    sizes = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])[:, None]
    states, actions = [], []
    for _ in range(steps):
        obs = torch.from_numpy(now.astype(np.float32))
        with torch.no_grad():
            wanted = teacher.head.greedy(teacher.network(obs))
        states.append(obs)
        actions.append(wanted)
        for i, (env, action) in enumerate(zip(envs, wanted.numpy() + sizes * rng.standard_normal((8, 6)), strict=True)):
            now[i], _, terminated, truncated, _ = env.step(action.clip(-1, 1))
            if terminated or truncated:
                now[i], _ = env.reset()
    return torch.cat(states), torch.cat(actions)


def fitted(states: Tensor, actions: Tensor, network: str, optimiser: str, lr: float, batch: int, updates: int) -> float:
    """Error on the last tenth of shuffled states after training on the others, averaged weights."""
    generator = torch.Generator().manual_seed(0)
    student = build(NetworkSpec.parse(network, (17,), 6), generator)
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(1))
    train, held = order[: -len(order) // 10], order[-len(order) // 10 :]
    student.standardise(states[train].mean(0), 1 / states[train].std(0))
    parameters = list(student.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimisers = make_optimisers(optimiser, dense_layers(student), parameters, lr).values()  # type: ignore[arg-type]
    for update in range(updates):
        set_learning_rate(optimisers, lr, update, update / updates)
        index = train[torch.randint(len(train), (batch,), generator=generator)]
        for one in optimisers:
            one.zero_grad()
        (torch.tanh(student(states[index])) - actions[index]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        for one in optimisers:
            one.step()
        move_average(averages, parameters, 0.995, update + 1)
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
        return float((torch.tanh(student(states[held])) - actions[held]).square().mean().sqrt())


if __name__ == "__main__":
    torch.set_num_threads(1)
    states, actions = collected(load_teacher(Path(sys.argv[1]) / "tqc-HalfCheetah-v3.zip"))
    OUT.unlink(missing_ok=True)
    for optimiser, lr, network, batch, updates in RUNS:
        started = time.process_time()
        error = fitted(states, actions, network, optimiser, lr, batch, updates)
        row = {"network": network, "optimiser": optimiser, "learning_rate": lr, "batch": batch, "updates": updates}
        row |= {"error": error, "cpu_s": time.process_time() - started}
        with OUT.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

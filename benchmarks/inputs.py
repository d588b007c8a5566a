"""How inputs are standardised: LunarLander seen clearly, and through noise of a tenth of each feature's spread.

    python benchmarks/inputs.py [--jobs N]

The teacher is zoo/lunarlander-dqn. One line per run goes to results/inputs.jsonl. Recipe `distil`, the whole budget,
100 greedy episodes on the verdict's seeds each way.

first        as it is: statistics of the first states, limited
running      of all states collected so far, taken anew whenever their number has doubled; weights and Adam's moments
             move along, so that the function stays the same
unlimited    of the first states, 1 / standard deviation however small it is
clip5        first, and clipped at 5 in training and in play; "noise@3", "noise@5" are of a student of `first` that is
             clipped in play alone
contact=X    first, but the scale of both leg contacts, which hardly a first state shows, is X
"""

import copy
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from lines import RESULTS, fill, jobs_of
from torch import Tensor, nn

import distilrl.tasks
from distilrl import EnvRef, Play, Policy, describe_env, load_teacher, make_config, play, stats, train
from distilrl.acceptance import accept
from distilrl.config import TrainConfig
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.networks import Network
from distilrl.sensors import Sensors
from distilrl.stream import Stream
from distilrl.tasks import Task, input_statistics

ENV = "LunarLander-v3"
CONTACTS = [6, 7]
SEEDS = range(3)
FORWARD = Network.forward
RUNS = [
    *((arm, student, 10_000) for student in ("mlp:16,16", "mlp:64,64") for arm in ("first", "running")),
    *((arm, "mlp:16,16", 10_000) for arm in ("contact=255", "contact=10", "contact=0.039", "clip5", "unlimited")),
    *((arm, student, 40_000) for student in ("mlp:16,16", "mlp:64,64") for arm in ("first", "running")),
]


def statistics(arm: str, config: TrainConfig, stream: Stream) -> tuple[Tensor, Tensor]:
    """Mean and scale as an arm has them."""
    mean, scale, _ = input_statistics(config, stream)
    if arm.startswith("contact="):
        scale[CONTACTS] = float(arm.split("=")[1])
    if arm == "unlimited":
        states = stream.replay.observations(torch.arange(len(stream.replay)))
        scale = 1 / states.std(0).clamp_min(1e-6)
    return mean, scale


class Running(Task):
    """A task whose student is standardised anew whenever the states have doubled; what is kept brings its statistics
    along.
    """

    looked_at = moved = 0

    def batches(self, index: Tensor, generator: torch.Generator) -> list[Any]:
        count = len(self.stream.replay)
        self.looked_at = self.looked_at or count
        if count >= 2 * self.looked_at and self.stream.env_steps < 0.9 * self.config.data.env_steps:
            self.looked_at = count
            self.move(*input_statistics(self.config, self.stream)[:2])
        return super().batches(index, generator)

    def move(self, mean: Tensor, scale: Tensor) -> None:
        """Other statistics, the same function."""
        Running.moved += 1
        student = self.pupil.student
        ratio, shift = scale / student.obs_scale, (student.obs_mean - mean) * scale
        for network in self.pupil.copies:
            first, before = network.layers[0], network.obs_mean.double()
            with torch.no_grad():
                raw = first.weight.double() * network.obs_scale
                first.bias.add_(raw @ (mean - before))
                first.weight.copy_(raw / scale)
            network.standardise(mean, scale)
        weight, bias, *_ = self.learner.optimisers["adam"].state_dict()["state"].values()
        weight["exp_avg"].mul_(ratio).add_(bias["exp_avg"].unsqueeze(1) * shift)
        weight["exp_avg_sq"].mul_(ratio.square())

    def keep(self, place: int) -> None:
        folded = copy.deepcopy(self.pupil.average)
        folded.fold()
        self.kept.insert(place, folded.state_dict())
        del self.kept[self.config.stop.finalists :]

    def best_network(self, place: int = 0) -> Network:
        network = copy.deepcopy(self.pupil.average)
        network.fold()
        network.load_state_dict(self.kept[place])
        return network.eval().requires_grad_(False)


class Clipped(nn.Module):
    """A folded student whose standardised inputs are clipped."""

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor, most: float) -> None:
        super().__init__()
        self.network, self.mean, self.scale, self.most = network, mean, scale, most

    def forward(self, obs: Tensor) -> Tensor:
        seen = ((obs - self.mean) * self.scale).clamp(-self.most, self.most)
        return self.network(self.mean + seen / self.scale)


def clipped(most: float, network: Network, obs: Tensor) -> Tensor:
    """`Network.forward` of an MLP whose inputs, where they are standardised, are clipped; the teacher's are not."""
    if bool((network.obs_scale == 1).all()):
        return FORWARD(network, obs)
    first, *rest = network.layers
    seen = ((obs.float() - network.obs_mean) * network.obs_scale).clamp(-most, most)
    return nn.Sequential(*rest)(F.linear(seen, first.weight, first.bias))


@contextmanager
def made_as(arm: str, found: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Training as an arm has it; ``found`` gets the statistics of the first states."""

    def look(config: TrainConfig, stream: Stream) -> tuple[Tensor, Tensor]:
        found.append(statistics(arm, config, stream))
        return found[-1]

    with patch.object(distilrl.tasks, "input_statistics", look):
        if arm == "running":
            Running.moved = 0
            with patch.object(distilrl.tasks, "Task", Running):
                yield
            if not Running.moved:
                sys.exit("No task of this run took its statistics anew: see what distilrl.tasks makes of its tasks.")
        elif arm == "clip5":
            with (
                patch.object(Network, "forward", lambda network, obs: clipped(5.0, network, obs)),
                patch.object(Network, "fold", lambda _: None),
            ):
                yield
        else:
            yield


@functools.cache
def taught() -> tuple[Any, Any, np.ndarray]:
    """The teacher, what is known of it, and the spread of its states."""
    teacher = load_teacher("zoo/lunarlander-dqn").fitted(describe_env(ENV))
    seen = play(teacher.policy, Play(EnvRef(ENV), keep_states=1000), seeds_from(VERDICT_SEEDS, 20)).states
    return teacher, accept(teacher, Play(EnvRef(ENV), threads=1), episodes=100), seen.std(0)


def measure(policy: Policy, spread: np.ndarray) -> dict[str, float]:
    """Mean returns, clean and under noise."""
    ways = {"return": (), "noise": tuple((0.1 * spread).tolist())}
    seeds = seeds_from(VERDICT_SEEDS, 100)
    return {
        k: round(stats.mean(play(policy, Play(EnvRef(ENV), sensors=Sensors(noise)), seeds).returns), 1)
        for k, noise in ways.items()
    }


def line(arm: str, student: str, steps: int, seed: int) -> dict[str, Any]:
    teacher, acceptance, spread = taught()
    if arm == "teacher":
        return measure(teacher.policy, spread)
    config = make_config("distil", ENV, network=student, seed=seed, env_steps=steps, gap=-99.0, threads=1)
    found: list[tuple[Tensor, Tensor]] = []
    with made_as(arm, found):
        trained = train(config, teacher, acceptance=acceptance)
        row = measure(trained.policy, spread)
    if arm == "first" and steps == 10_000:
        for most in (3.0, 5.0):
            policy = Policy(Clipped(trained.network, *found[0], most), trained.policy.head)
            row[f"noise@{most:g}"] = measure(policy, spread)["noise"]
    return row


def main(jobs: int) -> None:
    keys = [{"arm": "teacher", "student": "", "steps": 0, "seed": 0}]
    keys += [
        {"arm": arm, "student": student, "steps": steps, "seed": seed} for seed in SEEDS for arm, student, steps in RUNS
    ]
    fill(RESULTS / "inputs.jsonl", line, keys, jobs)


if __name__ == "__main__":
    main(jobs_of(sys.argv))

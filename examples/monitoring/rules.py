"""What a sensor does without learning, on the verdict's days, beside policies of yours.

    python -m examples.monitoring.rules --policy zoo/monitoring-dqn --policy runs/monitoring/student

Either rule has its best settings on the days of training: how often it measures, and what change it sends.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from distilrl.envs import describe_env
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher, load_teacher
from examples.monitoring.sensor import MEASURE, SEND, SLEEP
from examples.playing import Row, row_of, write_table

MEASURES = ("error=mean", "energy=sum", "measured=sum", "sent=sum")
EVERY = (2, 3, 4, 5, 6)
"""Steps between two measurements that are tried."""
CHANGE = (0.5, 1.0, 1.5, 2.0)
"""Changes that are tried, in degrees."""


class Every:
    """Measures and sends at every k-th step.

    Args:
        steps: k.
        place: where ``since_sent`` stands in an observation.
    """

    def __init__(self, steps: int, place: int) -> None:
        self.steps, self.place = steps, place

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions (B,) of observations (B, D)."""
        return torch.where(2 * obs[:, self.place] > self.steps - 1.5, SEND, SLEEP)


class OnChange:
    """Measures at every k-th step, and measures and sends where the last measurement differs from what it sent last.

    Args:
        steps: k.
        change: by how many degrees.
        measured: where ``since_measured`` stands in an observation.
        moved: where ``moved`` stands.
    """

    def __init__(self, steps: int, change: float, measured: int, moved: int) -> None:
        self.steps, self.change, self.measured, self.moved = steps, change, measured, moved

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions (B,) of observations (B, D)."""
        due = torch.where(2 * obs[:, self.measured] > self.steps - 1.5, MEASURE, SLEEP)
        return torch.where(obs[:, self.moved].abs() > self.change, SEND, due)


def sensor(held_out: bool) -> EnvRef:
    """The sensor on the days of the verdict, or on those of training."""
    return EnvRef("examples.monitoring:Sensor-v0", {"held_out": held_out})


def best(rules: list[tuple[str, Every | OnChange]], episodes: int) -> tuple[str, Teacher]:
    """The rule with the highest return on days of training."""
    teachers = [(name, Teacher.from_callable(rule, name=name)) for name, rule in rules]
    returns = [row_of(name, teacher, sensor(False), episodes).return_mean for name, teacher in teachers]
    return teachers[returns.index(max(returns))]


def rows(policies: list[str], episodes: int) -> list[Row]:
    """A row for each policy and each rule, on held-out days."""
    env, obs = sensor(True), describe_env(sensor(True)).obs
    sent, measured, moved = (obs.places(name)[0] for name in ("since_sent", "since_measured", "moved"))
    every = [(f"every {steps}th step", Every(steps, sent)) for steps in EVERY]
    change = [
        (f"on change of {degrees}, every {steps}th", OnChange(steps, degrees, measured, moved))
        for steps in (1, 2, 3)
        for degrees in CHANGE
    ]
    known = [(path, load_teacher(path)) for path in policies]
    tuned = [best(list(rules), max(episodes // 3, 1)) for rules in (every, change)]
    return [row_of(name, one, env, episodes, MEASURES) for name, one in (*known, *tuned)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", default=[], help="a teacher or a run folder; may be repeated")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    write_table(rows(args.policy, args.episodes), {"episodes": args.episodes}, args.out)

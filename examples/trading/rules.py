"""What everybody can do in the market without learning, on the verdict's episodes, beside policies of yours.

    python -m examples.trading.rules --policy zoo/trading-dqn --policy runs/trading/student

The random policy trades as much as the first ``--policy`` and is as much in the market: on a day it draws its position
anew, with a probability that makes the same turnover, and from shares that make the same mean position.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distilrl.envs import describe_env
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher, load_teacher
from examples.playing import Row, row_of, write_table
from examples.trading import DAYS
from examples.trading.market import POSITIONS

HELD_OUT = (2013, 2018)
"""Years of the verdict."""
MEASURES = ("turnover=sum", "position=mean")


def market(years: tuple[int, int] = HELD_OUT) -> EnvRef:
    """The market of these years."""
    return EnvRef("examples.trading:SP500-v0", {"years": list(years)})


class Hold:
    """Always the same position: buy and hold, cash, or half of each.

    Args:
        action: which of `POSITIONS`.
    """

    def __init__(self, action: int) -> None:
        self.action = action

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions (B,) of observations (B, D)."""
        return torch.full((len(obs),), self.action)


class AtRandom:
    """Draws its position anew now and then, each half of it in the market or not.

    Args:
        turnover: of a year, which settles how often.
        exposure: mean position, 0 to 1, which settles how much is in the market.
        place: where the position stands in an observation.
        generator: draws.
    """

    def __init__(self, turnover: float, exposure: float, place: int, generator: torch.Generator) -> None:
        self.shares = torch.tensor([(1 - exposure) ** 2, 2 * exposure * (1 - exposure), exposure**2])
        moved = sum(
            float(p * q) * abs(a - b)
            for a, p in zip(POSITIONS, self.shares, strict=True)
            for b, q in zip(POSITIONS, self.shares, strict=True)
        )
        self.chance = min(turnover / (DAYS - 1) / max(moved, 1e-9), 1.0)
        self.place, self.generator = place, generator

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions (B,) of observations (B, D)."""
        now = (obs[:, self.place : self.place + 1] - torch.tensor(POSITIONS)).abs().argmin(1)
        moved = torch.rand(len(obs), generator=self.generator) < self.chance
        drawn = torch.multinomial(self.shares, len(obs), replacement=True, generator=self.generator)
        return torch.where(moved, drawn, now)


class Trend:
    """In the market while the index stands above its mean of 200 days, else in cash.

    Args:
        place: where ``above_200`` stands in an observation.
    """

    def __init__(self, place: int) -> None:
        self.place = place

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions (B,) of observations (B, D)."""
        return (obs[:, self.place] > 0).long() * (len(POSITIONS) - 1)


def rows(policies: list[str], years: tuple[int, int], episodes: int, seed: int) -> list[Row]:
    """A row for each policy and each rule."""
    env = market(years)
    obs = describe_env(env).obs
    found = [row_of(path, load_teacher(path), env, episodes, MEASURES) for path in policies]
    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "buy and hold": Hold(len(POSITIONS) - 1),
        "cash": Hold(0),
        "half in, half out": Hold(1),
        "trend of 200 days": Trend(obs.places("above_200")[0]),
    }
    if found:
        generator = torch.Generator().manual_seed(seed)
        own, place = found[0].measures, obs.places("position")[0]
        rules["random, equal turnover and position"] = AtRandom(own["turnover"], own["position"], place, generator)
    return found + [
        row_of(name, Teacher.from_callable(rule, name=name), env, episodes, MEASURES) for name, rule in rules.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", default=[], help="a teacher or a run folder; may be repeated")
    parser.add_argument("--years", type=int, nargs=2, default=HELD_OUT)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    years = (args.years[0], args.years[1])
    found = rows(args.policy, years, args.episodes, args.seed)
    write_table(found, {"years": list(years), "episodes": args.episodes, "seed": args.seed}, args.out)

"""What a grower does without learning, on the verdict's seasons: the package's own reference controllers.

python -m examples.greenhouse.rules --policy runs/greenhouse/student
python -m examples.greenhouse.rules --policy runs/greenhouse/student --starts 40 40 --episodes 1  # that of others
"""

import argparse
from pathlib import Path

import lettuce_greenhouse_gym as lettuce
import numpy as np
from lettuce_greenhouse_gym.baselines.base import Controller, run_episode
from lettuce_greenhouse_gym.baselines.heuristic import GrowerHeuristic
from lettuce_greenhouse_gym.baselines.simple import AllOff, ConstantControl

from distilrl.evaluate import VERDICT_SEEDS
from distilrl.played import Returns
from distilrl.spaces import EnvRef
from distilrl.teachers import TeacherFile, load_teacher
from examples import greenhouse
from examples.playing import Row, row_of, write_table

HOURS = 0.5
"""Between two starts: as in the verdict of docs/fields/environment.md."""
PARTS = ("revenue", "energy_cost", "co2_cost", "penalty")
"""What the return is made of, euro a square metre but for the penalty."""


def controlled(name: str, controller: Controller, episodes: int, starts: tuple[float, float]) -> Row:
    """As `row_of`, of one of the package's controllers, which read the environment itself."""
    env = greenhouse.make(starts, hours=HOURS)
    logs = [run_episode(env, controller, seed=VERDICT_SEEDS + number) for number in range(episodes)]
    found = Returns.of([log.total_return for log in logs], np.random.default_rng(0))
    means = {part: float(np.mean([sum(info[part] for info in log.info) for log in logs])) for part in PARTS}
    return Row(name, found.return_mean, found.return_ci95, means)


def rows(
    policies: list[str], normalizer: str | None, episodes: int, starts: tuple[float, float] = greenhouse.HELD_OUT
) -> list[Row]:
    """A row for each policy and each controller, on seasons that begin between two days of the year."""
    env = EnvRef("examples.greenhouse:Lettuce-v0", {"starts": list(starts), "hours": HOURS})
    sums = [f"{part}=sum" for part in PARTS]
    files = [TeacherFile(path, normalizer=normalizer if path.endswith(".zip") else None) for path in policies]
    held = ConstantControl(lettuce.EnvConfig().effective_u0())
    rules: dict[str, Controller] = {"all off": AllOff(), "always as at the start": held, "grower": GrowerHeuristic()}
    return [row_of(file.path, load_teacher(file), env, episodes, sums) for file in files] + [
        controlled(name, controller, episodes, starts) for name, controller in rules.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", default=[], help="a teacher or a run folder; may be repeated")
    parser.add_argument("--normalizer", help="VecNormalize pickle of those policies that are zips")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--starts", type=float, nargs=2, default=greenhouse.HELD_OUT, help="days of the year")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    write_table(
        rows(args.policy, args.normalizer, args.episodes, tuple(args.starts)), {"episodes": args.episodes}, args.out
    )

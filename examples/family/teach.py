r"""A teacher that sees a Hopper's physics: sb3-contrib's TRPO on a hundred members.

Writes `teacher.zip` and `vecnormalize.pkl`, by which the state alone is normalised::

    python -m examples.family.teach --out runs/hoppers-teacher
    distilrl distill --teacher runs/hoppers-teacher/teacher.zip --normalizer runs/hoppers-teacher/vecnormalize.pkl \
        --env examples.family:Hoppers-v0 --hide physics --student mlp:24+gru:12 \
        --verdict-env-kwargs '{"members": [100, 200]}' --out runs/hoppers
"""

import argparse
import time
from pathlib import Path
from typing import Any

from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


def teach(out: Path, steps: int, seed: int) -> None:
    """Trains and writes the files.

    Args:
        out: folder to write.
        steps: environment steps.
        seed: of everything.
    """
    made: Any = make_vec_env("examples.family:Hoppers-v0", n_envs=16, seed=seed)
    envs = VecNormalize(made, norm_obs_keys=["state"])  # physics and actions lie between -1 and 1
    model = TRPO(
        "MultiInputPolicy",
        envs,
        n_steps=256,
        batch_size=256,
        n_critic_updates=10,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
        verbose=1,
    )
    started = time.perf_counter()
    model.learn(steps, log_interval=50)  # a table about every 200,000 steps
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "teacher.zip")
    envs.save(str(out / "vecnormalize.pkl"))
    print(f"{steps:,} steps in {(time.perf_counter() - started) / 60:.1f} minutes: {out / 'teacher.zip'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=0)
    teach(**vars(parser.parse_args()))

"""A teacher for the greenhouse: stable-baselines3's PPO on the training days.

    python -m examples.greenhouse.teach --out runs/greenhouse/teacher

Settings are those of the environment's authors, who train for a million steps.
"""

import argparse
import time
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from examples import greenhouse


def teach(out: Path, steps: int, seed: int) -> None:
    """Trains and writes ``ppo.zip`` and ``vecnormalize.pkl``.

    Args:
        out: folder to write.
        steps: environment steps.
        seed: of everything.
    """
    envs = VecNormalize(make_vec_env(greenhouse.make, n_envs=8, seed=seed), gamma=0.95)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=4096 // 8,
        batch_size=1024,
        n_epochs=10,
        gamma=0.95,
        policy_kwargs={"net_arch": [128, 128]},
        seed=seed,
        device="cpu",
    )
    started = time.perf_counter()
    model.learn(steps)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "ppo.zip")
    envs.save(str(out / "vecnormalize.pkl"))
    print(f"{steps:,} steps in {(time.perf_counter() - started) / 60:.1f} minutes: {out / 'ppo.zip'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0)
    teach(**vars(parser.parse_args()))

r"""Teachers that see the physics, of a hundred members: a Hopper's by sb3-contrib's TRPO, a quadrotor's by PPO.

Writes `teacher.zip` and `vecnormalize.pkl`, by which the state alone is normalised::

    python -m examples.family.teach hoppers --out runs/hoppers-teacher
    distilrl distill --teacher runs/hoppers-teacher/teacher.zip --normalizer runs/hoppers-teacher/vecnormalize.pkl \
        --env examples.family:Hoppers-v0 --hide physics --student mlp:24+gru:12 \
        --verdict-env-kwargs '{"members": [100, 1100]}' --cluster member --out runs/hoppers

What it wrote with its defaults is in zoo/hoppers-trpo and zoo/quadrotors-ppo. It needs stable-baselines3 and
sb3-contrib.

With `--blind` the same learns without being shown the physics: domain randomisation, which has no student behind it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

HOW: dict[str, tuple[str, Any, dict[str, Any], int | None]] = {
    "hoppers": ("examples.family:Hoppers-v0", TRPO, {"n_steps": 256, "batch_size": 256, "n_critic_updates": 10}, None),
    "quadrotors": (
        "examples.family:Quadrotors-v0",
        PPO,
        {"n_steps": 512, "batch_size": 512, "learning_rate": lambda left: 3e-4 * left},
        150,
    ),
}
"""Environment, algorithm, its settings, and after how many steps an episode is cut: of a quadrotor's five seconds the
first one decides whether it is lost, and is seldom seen where episodes are played to their end.
"""


def teach(family: str, out: Path, steps: int, seed: int, *, blind: bool = False) -> None:
    """Trains and writes the files.

    Args:
        family: a key of `HOW`.
        out: folder to write.
        steps: environment steps.
        seed: of everything.
        blind: it is not shown the physics.
    """
    env, algorithm, settings, cut = HOW[family]
    kwargs: dict[str, Any] = ({"max_episode_steps": cut} if cut else {}) | ({"shows": "nothing"} if blind else {})
    made: Any = make_vec_env(env, n_envs=16, seed=seed, env_kwargs=kwargs)
    envs = VecNormalize(made, norm_obs_keys=["state"])  # physics and actions lie between -1 and 1
    model = algorithm(
        "MultiInputPolicy",
        envs,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
        verbose=1,
        **settings,
    )
    started = time.perf_counter()
    model.learn(steps, log_interval=200_000 // (16 * settings["n_steps"]))  # a table about every 200,000 steps
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "teacher.zip")
    envs.save(str(out / "vecnormalize.pkl"))
    print(f"{steps:,} steps in {(time.perf_counter() - started) / 60:.1f} minutes: {out / 'teacher.zip'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=HOW)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blind", action="store_true", help="without the physics: domain randomisation")
    teach(**vars(parser.parse_args()))

"""Trains the racetrack's teacher: stable-baselines3's SAC, which steers, at a constant speed, past one other car.

    python -m examples.driving.train_racetrack racetrack-sac.zip --steps 16000 --seed 0

The zip is what ``distilrl distill --teacher`` reads.
"""

import argparse
import sys
import time

import gymnasium
import highway_env  # noqa: F401  (registers the environments)
import torch
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor

ENV, SECONDS = "racetrack-v1", 30
"""Highway-env's own episodes are five minutes long, 1,500 steps, and what goes wrong does so in the first."""


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="zip to write")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = Monitor(FlattenObservation(gymnasium.make(ENV, config={"duration": SECONDS})))
    # what lies two seconds ahead decides: a short horizon is learnt sooner
    model = SAC(
        "MlpPolicy",
        env,
        gamma=0.95,
        learning_rate=1e-3,
        learning_starts=1_000,
        batch_size=256,
        policy_kwargs={"net_arch": [128, 128]},
        seed=options.seed,
        verbose=1,
    )
    started = time.perf_counter()
    model.learn(options.steps, log_interval=20)
    model.save(options.out)
    sys.stderr.write(f"{options.steps} steps in {(time.perf_counter() - started) / 60:.1f} minutes\n")


if __name__ == "__main__":
    main()

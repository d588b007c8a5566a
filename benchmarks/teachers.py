"""Teachers from nothing: `distilrl train-teacher` against stable-baselines3's DQN with rl-zoo3's hyperparameters.

    python benchmarks/teachers.py [--jobs N] [ENV ...]

Steps and seconds until the mean return of 20 greedy episodes reaches the environment's threshold. Both look as often as
our recipe does, and time spent looking is not counted; what reaching it is worth, 100 fresh episodes say. One line for
each environment, seed and library, in turn, in results/teachers/runs.jsonl; lines that are there are not made again.
Needs stable-baselines3 and, for LunarLander, gymnasium[box2d].
"""

import sys
import time
import warnings
from typing import Any

import numpy as np
from lines import RESULTS, fill, jobs_of, machine
from rl_zoo import DQN

from distilrl import EnvRef, Play, evaluate_policy, make_config, train

OUT = RESULTS / "teachers"
THRESHOLDS = {"CartPole-v1": 475, "Acrobot-v1": -100, "MountainCar-v0": -110, "LunarLander-v3": 200}
SEEDS = range(5)
OURS, SB3 = "distilrl", "stable-baselines3"


def line(env: str, seed: int, who: str) -> dict[str, Any]:
    return {"threshold": THRESHOLDS[env]} | {OURS: ours, SB3: sb3}[who](env, seed)


def ours(env: str, seed: int) -> dict[str, Any]:
    config = make_config("dqn", env, seed=seed, at_return=float(THRESHOLDS[env]))
    trained = train(config, None)
    reached = next((row for row in trained.history if row["return"] >= THRESHOLDS[env]), None)
    final = evaluate_policy(trained.policy, Play(EnvRef(env), threads=1), episodes=100)
    return {
        "steps": reached and reached["env_steps"],
        "seconds": reached and reached["train_s"],
        "steps_in_all": trained.env_steps,
        "seconds_in_all": trained.train_s,
        "return_mean": final.return_mean,
        "checks": [row["return"] for row in trained.history],
    }


def sb3(env: str, seed: int) -> dict[str, Any]:
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy as play

    every = make_config("dqn", env).stop.check_every

    class Look(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.returns: list[float] = []
            self.looking, self.start = 0.0, time.perf_counter()

        def _on_step(self) -> bool:
            if self.num_timesteps % every:
                return True
            began = time.perf_counter()
            returns, _ = play(self.model, looked_at, n_eval_episodes=20, return_episode_rewards=True)
            self.looking += time.perf_counter() - began
            self.returns.append(float(np.mean(returns)))
            return self.returns[-1] < THRESHOLDS[env]

    warnings.simplefilter("ignore")
    looked_at, fresh = gymnasium.make(env), gymnasium.make(env)
    looked_at.reset(seed=1000 + seed)
    fresh.reset(seed=2000 + seed)
    steps, settings = DQN[env]
    model = stable_baselines3.DQN("MlpPolicy", env, seed=seed, device="cpu", **settings)
    look = Look()
    model.learn(steps, callback=look)
    seconds = time.perf_counter() - look.start - look.looking
    reached = look.returns[-1] >= THRESHOLDS[env]
    final, _ = play(model, fresh, n_eval_episodes=100, return_episode_rewards=True)
    return {
        "steps": model.num_timesteps if reached else None,
        "seconds": seconds if reached else None,
        "steps_in_all": model.num_timesteps,
        "seconds_in_all": seconds,
        "return_mean": float(np.mean(final)),
        "checks": look.returns,
    }


def main(words: list[str]) -> None:
    jobs = jobs_of(words)
    machine(OUT, "stable-baselines3")
    keys = [
        {"env": env, "seed": seed, "who": who} for env in words or THRESHOLDS for seed in SEEDS for who in (OURS, SB3)
    ]
    fill(OUT / "runs.jsonl", line, keys, jobs)


if __name__ == "__main__":
    main(sys.argv[1:])

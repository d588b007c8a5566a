"""Teachers from nothing: `distilrl train-teacher` against stable-baselines3's DQN with rl-zoo3's hyperparameters.

Steps and seconds until the mean return of 20 greedy episodes, looked at every 2,000 steps, reaches the environment's
threshold; time spent looking is not counted, for either. Needs stable-baselines3 and, for LunarLander,
gymnasium[box2d].

    python benchmarks/teachers.py ours CartPole-v1 Acrobot-v1 MountainCar-v0 LunarLander-v3
    python benchmarks/teachers.py sb3 CartPole-v1 Acrobot-v1 MountainCar-v0 LunarLander-v3
"""

import sys
import time
import warnings

import numpy as np
import torch
from lines import RESULTS
from rl_zoo import DQN

from distilrl import EnvRef, Play, __version__, evaluate_policy, make_config, train
from distilrl.files import write_json

THRESHOLDS = {"CartPole-v1": 475, "Acrobot-v1": -100, "MountainCar-v0": -110, "LunarLander-v3": 200}
SEEDS = range(5)


def ours(env_id: str, seed: int) -> dict:
    config = make_config("dqn", env_id, seed=seed, at_return=float(THRESHOLDS[env_id]))
    trained = train(config, None)
    reached = next((row for row in trained.history if row["return"] >= THRESHOLDS[env_id]), None)
    final = evaluate_policy(trained.policy, Play(EnvRef(env_id), threads=1), episodes=100)
    return {
        "steps": reached and reached["env_steps"], "seconds": reached and reached["train_s"],
        "updates": trained.updates,
        "steps_in_all": trained.env_steps, "seconds_in_all": trained.train_s, "return_mean": final.return_mean,
        "return_ci95": final.return_ci95, "checks": [row["return"] for row in trained.history],
    }  # fmt: skip


def sb3(env_id: str, seed: int) -> dict:
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy as play

    class Look(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.returns, self.looking, self.start, self.reached = [], 0.0, time.perf_counter(), None

        def _on_step(self) -> bool:
            if self.num_timesteps % 2000:
                return True
            now = time.perf_counter()
            returns, _ = play(self.model, looked_at, n_eval_episodes=20, return_episode_rewards=True)
            self.looking += time.perf_counter() - now
            self.returns.append(float(np.mean(returns)))
            if self.returns[-1] >= THRESHOLDS[env_id]:
                self.reached = (self.num_timesteps, now - self.start - self.looking + (time.perf_counter() - now))
                return False
            return True

    warnings.simplefilter("ignore")
    looked_at = gymnasium.make(env_id)
    looked_at.reset(seed=1000 + seed)
    steps, settings = DQN[env_id]
    model = stable_baselines3.DQN("MlpPolicy", env_id, seed=seed, device="cpu", **settings)
    look = Look()
    model.learn(steps, callback=look)
    seconds = time.perf_counter() - look.start - look.looking
    final, _ = play(model, gymnasium.make(env_id), n_eval_episodes=100, return_episode_rewards=True)
    return {
        "steps": look.reached and look.reached[0], "seconds": look.reached and look.reached[1],
        "steps_in_all": model.num_timesteps,
        "seconds_in_all": seconds, "return_mean": float(np.mean(final)), "checks": look.returns,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    who, *envs = sys.argv[1:]
    for env_id in envs or THRESHOLDS:
        rows = []
        for seed in SEEDS:
            row = {
                "env": env_id,
                "who": who,
                "seed": seed,
                "threshold": THRESHOLDS[env_id],
                **{"ours": ours, "sb3": sb3}[who](env_id, seed),
            }
            rows.append(row)
            print(env_id, who, seed, row["steps"], row["seconds"], f"{row['return_mean']:.1f}", flush=True)
            out = RESULTS / "teachers" / f"{env_id}-{who}.json"
            write_json(out, {"distilrl": __version__, "torch": torch.__version__, "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()

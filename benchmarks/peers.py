"""The same teachers through imitation (BC, DAgger) and DQN from scratch: seconds and steps to 99 % of the teacher.

Runs in a virtual environment of its own, since imitation 1.0.1 pins old versions (see benchmarks/README.md for the commands).
Usage: python benchmarks/peers.py FOLDER_WITH_TEACHERS OUT.jsonl. Seconds are of rollouts and training on one thread; checks are not counted.
A check plays 50 greedy episodes; parity is a mean of at least teacher − 1 % of (teacher − random).
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch
from imitation.algorithms import bc
from imitation.algorithms.dagger import SimpleDAggerTrainer
from imitation.data import rollout
from imitation.data.wrappers import RolloutInfoWrapper
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

TASKS = {
    "CartPole-v1": (
        "cartpole-dqn-sb3.zip",
        500.0,
        21.0,
        50_000,
        {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
        },
    ),
    "Acrobot-v1": (
        "acrobot-dqn-sb3.zip",
        -76.1,
        -497.5,
        100_000,
        {
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
        },
    ),
}  # fmt: skip  (hyperparameters of rl-zoo3's dqn.yml, network 256-256)
CAP_S = 40.0
SEEDS = {"dagger": 3, "bc": 1, "dqn from scratch": 1}


def returns(policy, env_id: str) -> float:
    env = DummyVecEnv([lambda: gymnasium.make(env_id)] * 10)
    env.seed(500_000)
    return float(np.mean(evaluate_policy(policy, env, n_eval_episodes=50, return_episode_rewards=True, warn=False)[0]))


def student_policy(env) -> ActorCriticPolicy:
    return ActorCriticPolicy(env.observation_space, env.action_space, lambda _: 1e-3, net_arch=[16, 16])


def until_parity(advance, policy, env_id: str, threshold: float, cap_s: float) -> dict:
    """Alternates ``advance`` (timed; returns the steps so far) and checks."""
    spent, best = 0.0, -np.inf
    while spent < cap_s:
        start = time.perf_counter()
        steps = advance()
        spent += time.perf_counter() - start
        mean = returns(policy, env_id)
        best = max(best, mean)
        if mean >= threshold:
            return {"parity_s": spent, "parity_steps": steps, "return": mean}
    return {"parity_s": None, "parity_steps": None, "return": best, "cap_s": cap_s}


def run(env_id: str, algorithm: str, seed: int, folder: Path) -> dict:
    name, teacher_return, random_return, scratch_steps, hyper = TASKS[env_id]
    threshold = teacher_return - 0.01 * (teacher_return - random_return)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    probe = gymnasium.make(env_id)
    venv = DummyVecEnv([lambda: RolloutInfoWrapper(gymnasium.make(env_id))] * 8)
    venv.seed(seed)
    spaces = {"observation_space": probe.observation_space, "action_space": probe.action_space}
    if algorithm == "dqn from scratch":
        model = DQN("MlpPolicy", gymnasium.make(env_id), policy_kwargs={"net_arch": [256, 256]}, seed=seed, **hyper)
        chunks = iter(range(1_000, scratch_steps + 1, 1_000))
        model._setup_learn(scratch_steps, None)

        def advance() -> int:
            steps = next(chunks, None)
            if steps is None:
                time.sleep(CAP_S * 10)
            model.learn(1_000, reset_num_timesteps=False)
            return model.num_timesteps

        return until_parity(advance, model, env_id, threshold, CAP_S)
    expert = DQN.load(
        folder / name,
        custom_objects=spaces | {"learning_rate": 1e-3, "lr_schedule": None, "exploration_schedule": None},
    )
    policy = student_policy(venv)
    trainer = bc.BC(observation_space=venv.observation_space, action_space=venv.action_space, rng=rng, policy=policy)
    if algorithm == "bc":
        steps = 0

        def advance() -> int:
            nonlocal steps
            if steps == 0:
                games = rollout.rollout(expert, venv, rollout.make_sample_until(min_episodes=50), rng=rng, unwrap=False)
                flat = rollout.flatten_trajectories(games)
                steps = len(flat)
                trainer.set_demonstrations(flat)
            trainer.train(n_epochs=1, progress_bar=False, log_interval=10**9)
            return steps

        return until_parity(advance, policy, env_id, threshold, CAP_S)
    with tempfile.TemporaryDirectory() as scratch:
        dagger = SimpleDAggerTrainer(
            venv=venv, scratch_dir=scratch, expert_policy=expert.policy, bc_trainer=trainer, rng=rng
        )
        taken = 0

        def advance() -> int:
            nonlocal taken
            dagger.train(
                1,
                rollout_round_min_episodes=3,
                rollout_round_min_timesteps=500,
                bc_train_kwargs={"progress_bar": False, "log_interval": 10**9},
            )
            taken = len(dagger._all_demos) and sum(len(demo) for demo in dagger._all_demos)
            return taken

        return until_parity(advance, dagger.policy, env_id, threshold, CAP_S)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Path(sys.argv[2]).open("w") as file:
        for env_id in TASKS:
            for algorithm, seeds in SEEDS.items():
                for seed in range(seeds):
                    row = {"env": env_id, "algorithm": algorithm, "seed": seed} | run(
                        env_id, algorithm, seed, Path(sys.argv[1])
                    )
                    print(json.dumps(row), file=file, flush=True)
                    print(row, flush=True)

"""CartPole and Acrobot students of four sizes over five seeds: steps and seconds to parity, and the return on the verdict's seeds.

Usage: python benchmarks/vectors.py FOLDER_WITH_TEACHERS [OUT.jsonl]. The folder holds cartpole-dqn-sb3.zip and acrobot-dqn-sb3.zip
(the DQN agents of rl-trained-agents). Parity: a check, every 250 steps on 50 selection seeds, at which the score is at least 0.99.
Seconds are of collecting and learning on one thread; checks are not counted.
"""

import json
import sys
from pathlib import Path

import torch

from distilrl import EnvRef, Play, describe_env, evaluate_policy, load_teacher, make_config, train
from distilrl.acceptance import accept

TASKS = {"CartPole-v1": "cartpole-dqn-sb3.zip", "Acrobot-v1": "acrobot-dqn-sb3.zip"}
STUDENTS = ("mlp:16,16", "mlp:8", "mlp:4", "mlp:")


def main(teachers: Path, out: Path) -> None:
    torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w") as file:
        for env_id, name in TASKS.items():
            teacher = load_teacher(teachers / name).fitted(describe_env(env_id))
            acceptance = accept(teacher, Play(EnvRef(env_id)), episodes=100)
            for student in STUDENTS:
                for seed in range(5):
                    config = make_config(
                        "distil",
                        env_id,
                        network=student,
                        seed=seed,
                        check_every=250,
                        check_episodes=50,
                        env_steps=8_000,
                        agreement=0.0,
                    )
                    trained = train(config, teacher, acceptance=acceptance)
                    parity = next((row for row in trained.history if row["score"] >= 0.99), {})
                    result = evaluate_policy(trained.policy, env_id, episodes=100, threads=1)
                    row = {
                        "env": env_id, "student": student, "seed": seed, "params": trained.network.spec.params,
                        "parity_steps": parity.get("env_steps"), "parity_s": parity.get("train_s"), "parity_updates": parity.get("updates"),
                        "env_steps": trained.env_steps, "train_s": trained.train_s, **result.to_json(),
                        "teacher_return_mean": acceptance.return_mean, "random_return_mean": acceptance.random_return_mean,
                    }  # fmt: skip
                    print(json.dumps(row), file=file, flush=True)
                    print(
                        env_id,
                        student,
                        seed,
                        parity.get("env_steps"),
                        parity.get("train_s"),
                        result.return_mean,
                        flush=True,
                    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent / "results" / "vectors.jsonl"),
    )

"""CartPole and Acrobot students of four sizes over five seeds: steps and seconds to parity, and the return.

Usage: python benchmarks/vectors.py FOLDER_WITH_TEACHERS [OUT.jsonl] [--jobs N]. Lines that OUT has are not made again.
The folder holds cartpole-dqn-sb3.zip and acrobot-dqn-sb3.zip (the DQN agents of rl-trained-agents). Parity: the second
check in a row, every 250 steps on 50 selection seeds, at which the score is at least 0.99, where it is so on 50 fresh
episodes too, on which the teacher plays as well: there the run ends. Seconds are of collecting and learning on one
thread; checks are not counted.
"""

import functools
import sys
from pathlib import Path

from lines import RESULTS, fill, jobs_of

from distilrl import (
    Acceptance,
    EnvRef,
    Play,
    Teacher,
    describe_env,
    evaluate_policy,
    load_teacher,
    make_config,
    train,
)
from distilrl.acceptance import accept

TASKS = {"CartPole-v1": "cartpole-dqn-sb3.zip", "Acrobot-v1": "acrobot-dqn-sb3.zip"}
STUDENTS = ("mlp:16,16", "mlp:8", "mlp:4", "mlp:")


@functools.cache
def taught(teachers: Path, env_id: str) -> tuple[Teacher, Acceptance]:
    teacher = load_teacher(teachers / TASKS[env_id]).fitted(describe_env(env_id))
    return teacher, accept(teacher, Play(EnvRef(env_id)), episodes=100)


def line(teachers: Path, env: str, student: str, seed: int) -> dict:
    teacher, acceptance = taught(teachers, env)
    config = make_config(
        "distil", env, network=student, seed=seed, check_every=250, check_episodes=50, env_steps=8_000, agreement=0.0,
        gap=0.01, patience=2, final_episodes=50,
    )  # fmt: skip
    trained = train(config, teacher, acceptance=acceptance)
    parity = trained.history[-1] if trained.stopped.startswith("good enough") else {}
    result = evaluate_policy(trained.policy, Play(EnvRef(env), threads=1), episodes=100)
    return {
        "params": trained.network.spec.params,
        "parity_steps": parity.get("env_steps"), "parity_s": parity.get("train_s"),
        "parity_updates": parity.get("updates"),
        "env_steps": trained.env_steps, "train_s": trained.train_s, **result.to_json(),
        "teacher_return_mean": acceptance.return_mean, "random_return_mean": acceptance.random_return_mean,
    }  # fmt: skip


def main(teachers: Path, out: Path, jobs: int) -> None:
    keys = [
        {"env": env_id, "student": student, "seed": seed}
        for env_id in TASKS for student in STUDENTS for seed in range(5)
    ]  # fmt: skip
    fill(out, functools.partial(line, teachers), keys, jobs)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    own = RESULTS / "vectors.jsonl"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else own, jobs)

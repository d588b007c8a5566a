"""Several teachers in one student, and one teacher by way of assistants.

    python benchmarks/several.py tasks FOLDER           # CartPole + Acrobot; FOLDER holds cartpole-dqn-sb3.zip and acrobot-dqn-sb3.zip
    python benchmarks/several.py NAME FOLDER            # Pong + Breakout, a key of ATARI below; FOLDER holds breakout-dqn-sb3.zip
    python benchmarks/several.py assistants FOLDER      # 0, 1 and 2 assistants at one budget in all, CartPole and Acrobot
    python benchmarks/several.py pruned FOLDER          # small from the start, or pruned from a wider one; FOLDER also holds lunarlander/

Results go to results/several/NAME.jsonl (one line per run) and, for Pong + Breakout, results/several/NAME/.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from distilrl import (
    Behaviour,
    Comparison,
    EnvRef,
    Job,
    Play,
    Schedule,
    TaskFile,
    TeacherFile,
    describe_env,
    distill,
    distill_chain,
    evaluate_policy,
    load_teacher,
    make_config,
    train,
)
from distilrl.acceptance import accept
from distilrl.cli.display import Display

SEEDS = range(5)
BREAKOUT = {
    "capacity": 300_000,
    "check_episodes": 16,
    "behaviour": Behaviour("mixed", beta=Schedule(0.5, 0.25, share=0.5)),
}
"""As a student of Breakout alone is distilled in benchmarks/pong.py."""
ATARI = {
    "atari": {
        "network": "cnn:16,16,16:64",
        "env_steps": 600_000,
        "capacity": 150_000,
        "check_every": 60_032,
        "check_episodes": 8,
    },
    "atari-wide": {
        "network": "cnn:32,32,32:128",
        "env_steps": 1_280_000,
        "capacity": 200_000,
        "check_every": 128_000,
        "check_episodes": 8,
        "learning_rate": 2e-3,
    },
    "atari-balanced": {
        "network": "cnn:16,16,16:64",
        "env_steps": 2_400_000,
        "check_every": 240_000,
        "learning_rate": 3e-3,
        **BREAKOUT,
    },
    "atari-convolutions": {
        "network": "cnn:16,16,16:64",
        "env_steps": 2_000_000,
        "check_every": 250_000,
        "learning_rate": 3e-3,
        "share": "convolutions",
        **BREAKOUT,
        "check_episodes": 24,
    },
    "atari-wide-balanced": {
        "network": "cnn:32,32,32:128",
        "env_steps": 2_000_000,
        "check_every": 200_000,
        "learning_rate": 2e-3,
        **BREAKOUT,
    },
}
VECTORS = {"CartPole-v1": "cartpole-dqn-sb3.zip", "Acrobot-v1": "acrobot-dqn-sb3.zip"}


def tasks(folder: Path) -> Iterator[dict]:
    """One body, two heads, against a student of its own for each task at half of the steps."""
    teachers = {env_id: load_teacher(folder / name).fitted(describe_env(env_id)) for env_id, name in VECTORS.items()}
    accepted = {
        env_id: accept(teacher, Play(EnvRef(env_id), threads=1), episodes=100) for env_id, teacher in teachers.items()
    }
    first, second = VECTORS
    base = {"check_every": 2_000, "check_episodes": 50, "gap": -99.0}
    for student in ("mlp:16,16", "mlp:32,32"):
        for seed in SEEDS:
            for mix in ("one", "all"):
                config = make_config(
                    "distil",
                    first,
                    network=student,
                    seed=seed,
                    env_steps=32_000,
                    mix=mix,
                    tasks=(TaskFile(EnvRef(first)), TaskFile(EnvRef(second))),
                    **base,
                )
                trained = train(config, list(teachers.values()), acceptance=list(accepted.values()))
                yield row(
                    "together, a step and an update of " + mix,
                    student,
                    seed,
                    trained.params,
                    dict(zip(VECTORS, trained.networks, strict=True)),
                    accepted,
                )
            apart = {}
            for env_id, teacher in teachers.items():
                config = make_config("distil", env_id, network=student, seed=seed, env_steps=16_000, **base)
                apart[env_id] = train(config, teacher, acceptance=accepted[env_id]).network
            yield row("apart", student, seed, sum(network.spec.params for network in apart.values()), apart, accepted)


def row(method: str, student: str, seed: int, params: int, networks: dict, accepted: dict) -> dict:
    returns = {
        env_id: evaluate_policy(network, env_id, episodes=100, threads=1).return_mean
        for env_id, network in networks.items()
    }
    teachers = {env_id: known.return_mean for env_id, known in accepted.items()}
    return {
        "method": method,
        "student": student,
        "seed": seed,
        "params": params,
        "returns": returns,
        "teachers": teachers,
    }


def assistants(folder: Path) -> Iterator[dict]:
    """The same steps in all, shared evenly by the links of a chain."""
    for env_id, name in VECTORS.items():
        teacher = load_teacher(folder / name).fitted(describe_env(env_id))
        for student in ("mlp:4", "mlp:2"):
            for seed in SEEDS:
                for count in (0, 1, 2):
                    config = make_config(
                        "distil", env_id, network=student, seed=seed, env_steps=18_000 // (count + 1), check_every=1_000, gap=-99.0,
                        teacher=TeacherFile(str(folder / name)),
                    )  # fmt: skip
                    run = Path("benchmarks/runs/assistants")
                    shutil.rmtree(run, ignore_errors=True)
                    job = Job(
                        config, Comparison(100, 100, 0, margin=10.0)
                    )  # a margin that no link fails: the chain goes on to its end
                    results = distill_chain(teacher, job, run, count)
                    chain = [[link.name, link.return_mean] for link in results.chain]
                    yield {
                        "env": env_id,
                        "student": student,
                        "seed": seed,
                        "assistants": count,
                        "return": results.student.return_mean,
                        "chain": chain,
                    }


def pruned(folder: Path) -> Iterator[dict]:
    """A student of its size from the start, and one of the same size pruned from a wider one, at one budget."""
    for env_id, name, student, wide in (
        ("CartPole-v1", VECTORS["CartPole-v1"], "mlp:2", "mlp:16"),
        ("Acrobot-v1", VECTORS["Acrobot-v1"], "mlp:2", "mlp:16"),
        ("LunarLander-v3", "lunarlander", "mlp:6", "mlp:32"),
    ):
        teacher = load_teacher(folder / name).fitted(describe_env(env_id))
        acceptance = accept(teacher, Play(EnvRef(env_id), threads=1), episodes=100)
        for seed in SEEDS:
            for wider in (None, wide):
                config = make_config(
                    "distil", env_id, network=student, seed=seed, env_steps=12_000, check_every=1_000, check_episodes=20, gap=-99.0,
                    prune_from=wider,
                )  # fmt: skip
                network = train(config, teacher, acceptance=acceptance).network
                played = evaluate_policy(network, env_id, episodes=100, threads=1)
                yield {
                    "env": env_id, "student": student, "pruned_from": wider, "seed": seed, "params": network.spec.params,
                    "return": played.return_mean, "teacher": acceptance.return_mean,
                }  # fmt: skip


def atari(folder: Path, name: str) -> Iterator[dict]:
    """Pong and Breakout in one network no larger than one teacher."""
    files = {"PongNoFrameskip-v4": "zoo/pong-dqn", "BreakoutNoFrameskip-v4": str(folder / "breakout-dqn-sb3.zip")}
    games = tuple(TaskFile(EnvRef(env_id), (TeacherFile(path),)) for env_id, path in files.items())
    config = make_config(
        "distil", games[0].env, tasks=games, threads=1, eval_epsilon=0.01, n_envs=32, average=0.999, agreement=0.9, **ATARI[name]
    )  # fmt: skip
    run, kept = Path("benchmarks/runs") / name, Path("benchmarks/results/several") / name
    job = Job(config, Comparison(disturbed_episodes=0))
    with Display() as watch:
        results = distill(None, job, run, resume=(run / "config.json").is_file(), watch=watch)
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "metrics.csv", "config.json"):
        shutil.copy(run / file, kept / file)
    yield {
        "verdict": results.verdict.to_json(),
        "params": results.student.params,
        "teachers": results.teachers.params,
    } | {one.env: [one.student.return_mean, one.student.return_ci95, one.teacher.return_mean] for one in results.tasks}


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    out = Path("benchmarks/results/several") / f"{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w") as file:
        for line in (
            atari(folder, name)
            if name in ATARI
            else {"tasks": tasks, "assistants": assistants, "pruned": pruned}[name](folder)
        ):
            print(json.dumps(line), file=file, flush=True)
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Several teachers in one student, and one teacher by way of assistants.

    python benchmarks/several.py NAME [FOLDER]

tasks           CartPole + Acrobot; FOLDER holds cartpole-dqn-sb3.zip and acrobot-dqn-sb3.zip
a key of ATARI  Pong + Breakout; teachers are in zoo/
assistants      0, 1 and 2 assistants at one budget in all, CartPole and Acrobot
pruned          small from the start, or pruned from a wider one; in LunarLander too
driving         highway, merge and roundabout in one network; teachers are in zoo/
robots          Hopper, Ant and Walker2d in one network; FOLDER holds their public teachers
intersection    the highway's teacher transferred to an intersection

Results go to results/several/NAME.jsonl (one line per run; a line that is there is not made again, and --jobs N makes N
at a time) and, for Pong + Breakout, results/several/NAME/.
"""

import functools
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lines import RESULTS, fill, jobs_of, teacher_file

from distilrl import (
    Acceptance,
    Behaviour,
    Comparison,
    EnvRef,
    Job,
    Measure,
    Play,
    Schedule,
    TaskFile,
    Teacher,
    TeacherFile,
    describe_env,
    distill,
    distill_chain,
    evaluate_policy,
    load_teacher,
    make_config,
    play,
    stats,
    train,
)
from distilrl.acceptance import accept
from distilrl.display import Display
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.recipes import TEACHERLESS

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


TOGETHER = "together, a step and an update of "


@functools.cache
def taught(folder: Path, env_id: str, name: str) -> tuple[Teacher, Acceptance]:
    teacher = load_teacher(teacher_file(folder, name)).fitted(describe_env(env_id))
    return teacher, accept(teacher, Play(EnvRef(env_id), threads=1), episodes=100)


def tasks_line(folder: Path, method: str, student: str, seed: int) -> dict:
    known = {env_id: taught(folder, env_id, name) for env_id, name in VECTORS.items()}
    first, second = VECTORS
    base = {"network": student, "seed": seed, "check_every": 2_000, "check_episodes": 50, "gap": -99.0}
    if method == "apart":
        networks = {
            env_id: train(
                make_config("distil", env_id, env_steps=16_000, **base), teacher, acceptance=acceptance
            ).network
            for env_id, (teacher, acceptance) in known.items()
        }
        params = sum(network.spec.params for network in networks.values())
    else:
        both = (TaskFile(EnvRef(first)), TaskFile(EnvRef(second)))
        mix = method.removeprefix(TOGETHER)
        config = make_config("distil", first, env_steps=32_000, mix=mix, tasks=both, **base)
        teachers, acceptances = zip(*known.values(), strict=True)
        trained = train(config, list(teachers), acceptance=list(acceptances))
        networks, params = dict(zip(VECTORS, trained.networks, strict=True)), trained.params
    returns = {
        env_id: evaluate_policy(network, Play(EnvRef(env_id), threads=1), episodes=100).return_mean
        for env_id, network in networks.items()
    }
    return {
        "params": params,
        "returns": returns,
        "teachers": {env_id: acceptance.return_mean for env_id, (_, acceptance) in known.items()},
    }


def tasks() -> list[dict]:
    """One body, two heads, against a student of its own for each task at half of the steps."""
    return [
        {"method": method, "student": student, "seed": seed}
        for student in ("mlp:16,16", "mlp:32,32")
        for seed in SEEDS
        for method in (TOGETHER + "one", TOGETHER + "all", "apart")
    ]


def assistants_line(folder: Path, env: str, student: str, seed: int, assistants: int) -> dict:
    file = folder / VECTORS[env]
    config = make_config(
        "distil", env, network=student, seed=seed, env_steps=18_000 // (assistants + 1), check_every=1_000, gap=-99.0,
        teacher=TeacherFile(str(file)),
    )  # fmt: skip
    job = Job(
        config, Comparison(100, 100, 0, margin_abs=1e6)
    )  # a margin that no link fails: the chain goes on to its end
    with tempfile.TemporaryDirectory() as run:
        results = distill_chain(load_teacher(file).fitted(describe_env(env)), job, Path(run) / "chain", assistants)
    return {
        "return": results.student.return_mean,
        "chain": [[link.name, link.return_mean] for link in results.chain],
    }


def assistants() -> list[dict]:
    """The same steps in all, shared evenly by the links of a chain."""
    return [
        {"env": env_id, "student": student, "seed": seed, "assistants": count}
        for env_id in VECTORS for student in ("mlp:4", "mlp:2") for seed in SEEDS for count in (0, 1, 2)
    ]  # fmt: skip


PRUNED = {
    "CartPole-v1": (VECTORS["CartPole-v1"], "mlp:2", "mlp:16"),
    "Acrobot-v1": (VECTORS["Acrobot-v1"], "mlp:2", "mlp:16"),
    "LunarLander-v3": ("zoo/lunarlander-dqn", "mlp:6", "mlp:32"),
}


def pruned_line(folder: Path, env: str, student: str, pruned_from: str | None, seed: int) -> dict:
    teacher, acceptance = taught(folder, env, PRUNED[env][0])
    config = make_config(
        "distil", env, network=student, seed=seed, env_steps=12_000, check_every=1_000, check_episodes=20, gap=-99.0,
        prune_from=pruned_from,
    )  # fmt: skip
    network = train(config, teacher, acceptance=acceptance).network
    played = evaluate_policy(network, Play(EnvRef(env), threads=1), episodes=100)
    return {"params": network.spec.params, "return": played.return_mean, "teacher": acceptance.return_mean}


def pruned() -> list[dict]:
    """A student of its size from the start, and one of the same size pruned from a wider one, at one budget."""
    return [
        {"env": env_id, "student": student, "pruned_from": wider, "seed": seed}
        for env_id, (_, student, wide) in PRUNED.items() for seed in SEEDS for wider in (None, wide)
    ]  # fmt: skip


def atari_line(name: str) -> dict:
    """Pong and Breakout in one network no larger than one teacher."""
    files = {"PongNoFrameskip-v4": "zoo/pong-dqn", "BreakoutNoFrameskip-v4": "zoo/breakout-dqn"}
    games = tuple(TaskFile(EnvRef(env_id), (TeacherFile(path),)) for env_id, path in files.items())
    config = make_config(
        "distil",
        games[0].env,
        tasks=games,
        threads=1,
        eval_epsilon=0.01,
        n_envs=32,
        average=0.999,
        agreement=0.9,
        **ATARI[name],
    )
    run, kept = Path("benchmarks/runs") / name, RESULTS / "several" / name
    job = Job(config, Comparison(disturbed_episodes=0))
    with Display() as watch:
        results = distill(None, job, run, resume=(run / "config.json").is_file(), watch=watch)
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "metrics.csv", "config.json"):
        shutil.copy(run / file, kept / file)
    return {
        "verdict": results.verdict.to_json(),
        "params": results.student.params,
        "teachers": results.teachers.params,
    } | {one.env: [one.student.return_mean, one.student.return_ci95, one.teacher.return_mean] for one in results.tasks}


@dataclass(frozen=True)
class Fleet:
    """Tasks for one network, with a first layer and a head for each and the same body."""

    tasks: dict[str, tuple[EnvRef, TeacherFile]]
    """Environment and teacher, which is in zoo/ or in FOLDER, by the task's name."""
    student: str
    changes: dict[str, Any]
    """Of the default's settings."""
    measures: tuple[str, ...]
    seeds: int
    """Training seeds."""


def _road(env: str, teacher: str) -> tuple[EnvRef, TeacherFile]:
    """A scenario of highway-env in steps of a fifth of a second: 25 numbers and five choices."""
    return EnvRef(f"highway_env:{env}", {"config": {"simulation_frequency": 5}}), TeacherFile(f"zoo/{teacher}")


def _robot(name: str, teacher: str, normalizer: str, zeros: int = 0, **kwargs: Any) -> tuple[EnvRef, TeacherFile]:
    """A robot as docs/fields/robots.md has it, with its teacher's statistics."""
    ref = EnvRef("examples.robots:Rough-v0", {"robot": name} | kwargs)
    return ref, TeacherFile(teacher, normalizer=normalizer, zeros=zeros)


FLEETS = {
    "driving": Fleet(
        {
            "highway": _road("highway-fast-v0", "highway-dqn"),
            "merge": _road("merge-v1", "merge-dqn"),
            "roundabout": _road("roundabout-v1", "roundabout-dqn"),
        },
        "mlp:32,32",
        {"env_steps": 32_000, "check_every": 8_000},
        ("crashed=max<=0.05",),
        seeds=2,
    ),
    "robots": Fleet(
        {
            "Hopper": _robot("Hopper-v5", "trpo-Hopper-v3.zip", "trpo-Hopper-v3.vecnormalize.pkl"),
            "Ant": _robot(
                "Ant-v5", "trpo-Ant-v3.zip", "trpo-Ant-v3.vecnormalize.pkl", 84, include_cfrc_ext_in_observation=False
            ),
            "Walker2d": (
                EnvRef("examples.robots:Rough-v0", {"robot": "Walker2d-v5"}),
                TeacherFile("tqc-Walker2d-v3.zip"),
            ),
        },
        "mlp:32,32@tanh",
        {"env_steps": 160_000, "check_every": 16_000},
        ("fallen=max<=0.05",),
        seeds=1,
    ),
}


KEPT = ("teacher", "student", "random", "verdict", "measures")
"""Parts of a task's results.json."""


def fleet_line(name: str, folder: Path, student: str, seed: int) -> dict:
    """One network for several tasks, each judged against a teacher of its own."""
    fleet, run = FLEETS[name], Path("benchmarks/runs") / f"{name}-{student}-{seed}"
    tasks = tuple(TaskFile(ref, (_in(folder, file),)) for ref, file in fleet.tasks.values())
    config = make_config("distil", tasks[0].env, tasks=tasks, network=student, seed=seed, threads=1, **fleet.changes)
    job = Job(config, Comparison(disturbed_episodes=0, measures=tuple(map(Measure.of, fleet.measures))))
    with Display() as watch:
        results = distill(None, job, run, resume=(run / "config.json").is_file(), watch=watch)
    shutil.rmtree(run)
    of_each = [{name: one.to_json()[name] for name in KEPT} for one in results.tasks]
    told = dict(zip(fleet.tasks, of_each, strict=True))
    return {"params": results.student.params, "env_steps": results.tasks[0].env_steps, "tasks": told}


def _in(folder: Path, file: TeacherFile) -> TeacherFile:
    """A teacher's files where they are."""
    if file.path.startswith("zoo/"):
        return file
    return replace(
        file,
        path=str(folder / file.path),
        normalizer=str(folder / file.normalizer) if file.normalizer else None,
    )


def fleets(name: str) -> list[dict]:
    """Seed by seed."""
    return [{"student": FLEETS[name].student, "seed": seed} for seed in range(FLEETS[name].seeds)]


CROSSING = EnvRef(
    "highway_env:intersection-v2",
    {
        "config": {
            "simulation_frequency": 5,
            "observation": {
                "type": "Kinematics", "vehicles_count": 5, "features": ["presence", "x", "y", "vx", "vy"],
                "features_range": {"x": [-100, 100], "y": [-100, 100], "vx": [-20, 20], "vy": [-20, 20]},
            },
            "action": {"type": "DiscreteMetaAction", "target_speeds": [0, 4.5, 9]},
        }
    },
)  # fmt: skip
"""An intersection with the highway's 25 numbers and five choices, the speeds being its own."""
AS_IT_IS = "the highway's teacher as it is"


def crossing_line(folder: Path, method: str, seed: int) -> dict:  # noqa: ARG001  (as the other queues)
    """A student of the highway's size in the intersection, with and without the highway's teacher."""
    teacher = load_teacher("zoo/highway-dqn").fitted(describe_env(CROSSING))
    policy = teacher.policy
    if method != AS_IT_IS:
        config = make_config(
            method, CROSSING, network="mlp:256,256", seed=seed, env_steps=6_000, threads=1, gamma=0.8, n_step=1,
            n_envs=8, updates=8, batch_size=64, learning_rate=5e-4, learning_starts=400, target_every=50,
            average=0.99, check_every=1_000, check_episodes=10, gap=-99.0,
        )  # fmt: skip
        acceptance = accept(teacher, Play(CROSSING, threads=1), episodes=30, weak_ok=True)
        policy = train(config, None if method in TEACHERLESS else teacher, acceptance=acceptance).policy
    how = Play(CROSSING, threads=1, measures=(Measure("crashed", "max"), Measure("speed", "mean")))
    played = play(policy, how, seeds_from(VERDICT_SEEDS, 200))
    return {
        "returns": played.returns.tolist(),
        "crashed": played.measured[:, 0].tolist(),
        "speed": stats.mean(played.measured[:, 1]),
    }


def crossing() -> list[dict]:
    """Equal steps and equal settings of TD."""
    return [{"method": AS_IT_IS, "seed": 0}] + [
        {"method": method, "seed": seed} for seed in range(2) for method in ("transfer", "dqn")
    ]


QUEUES = {
    "tasks": (tasks_line, tasks),
    "assistants": (assistants_line, assistants),
    "pruned": (pruned_line, pruned),
    "intersection": (crossing_line, crossing),
} | {name: (functools.partial(fleet_line, name), functools.partial(fleets, name)) for name in FLEETS}


def main(name: str, folder: Path, jobs: int) -> None:
    out = RESULTS / "several" / f"{name}.jsonl"
    if name in QUEUES:
        line, keys = QUEUES[name]
        fill(out, functools.partial(line, folder), keys(), jobs)
        return
    torch.set_num_threads(1)
    row = atari_line(name)
    out.write_text(json.dumps(row) + "\n")
    print(row, flush=True)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "teachers"), jobs)

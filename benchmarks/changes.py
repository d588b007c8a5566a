"""When the world is another than the teacher's or the run's first: dynamic, transfer, hidden features, Reptile.

    python benchmarks/changes.py FOLDER [dynamic] [transfer] [hidden] [reptile]     # FOLDER holds cartpole-dqn-sb3.zip

CartPole, five seeds. Results go to results/changes/NAME.jsonl, one line per run; returns are of 100 greedy episodes on
the verdict's seeds.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import variants
from lines import RESULTS

from distilrl import (
    EnvRef,
    Play,
    Policy,
    Schedule,
    Teacher,
    describe_env,
    evaluate_policy,
    load_teacher,
    make_config,
    play,
    reptile,
    stats,
    train,
)
from distilrl.acceptance import accept
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.played import Acceptance
from distilrl.sensors import EXACT, Sensors

SEEDS = range(5)
ENV = "CartPole-v1"
LONG = "variants/CartPole-long"
STUDENT = "mlp:16,16"


def accepted(teacher: Teacher, env_id: str) -> Acceptance:
    return accept(teacher, Play(EnvRef(env_id), threads=1), episodes=50, weak_ok=True)


def after(policy: Teacher | Policy, env_id: str = LONG) -> float:
    return float(evaluate_policy(policy, Play(EnvRef(env_id), threads=1), episodes=100).return_mean)


def dynamic(teacher: Teacher) -> Iterator[dict]:
    """Poles double in length in the middle of 24,000 steps: who still balances them at the end, and how often was the
    teacher asked?
    """
    turning, acceptance = "variants/CartPole-turning", accepted(teacher, ENV)
    base = {"network": STUDENT, "env_steps": 24_000, "check_every": 1_000, "check_episodes": 20}
    for seed in SEEDS:
        static = make_config("distil", turning, seed=seed, gap=-99.0, **base)
        early = replace(static.data.behaviour, labels=(Schedule(1.0, 0.0, 0.26, start=0.25),))
        runs = {
            "distil, stops when good": make_config("distil", turning, seed=seed, **base),
            "distil, labels in the first quarter": static.but(behaviour=early),
            "distil, labels throughout": static,
            "dynamic": make_config("dynamic", turning, seed=seed, **base),
        }
        for name, config in runs.items():
            trained = train(config, teacher, acceptance=acceptance)
            rows = [[row["env_steps"], row["return"], row["drift"], row["labelled_states"]] for row in trained.history]
            yield {
                "method": name,
                "seed": seed,
                "before_turn": after(trained.policy, ENV),
                "after_turn": after(trained.policy),
                "labelled_states": trained.labelled_states,
                "env_steps": trained.env_steps,
                "checks": rows,
            }
    yield {"method": "teacher", "seed": 0, "before_turn": after(teacher, ENV), "after_turn": after(teacher)}


def transfer(teacher: Teacher) -> Iterator[dict]:
    """A teacher of plain CartPole that is weak in another (poles of 1.25, gravity 14, its weights disturbed): 30,000
    steps there.
    """
    there = "variants/CartPole-1.25-14.0"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    acceptance = accepted(teacher, there)
    yield {"method": "teacher", "seed": 0, "home": after(teacher, ENV), "there": after(teacher, there)}
    # where the teacher is hardly better than random play, a score of a hundred is soon there
    base = {"network": STUDENT, "env_steps": 30_000, "gap": -1e9, "check_every": 1_000, "check_episodes": 20}
    for seed in SEEDS:
        for name in ("transfer", "finetune", "qdagger", "distil", "dqn"):
            config = make_config(name, there, seed=seed, **base)
            trained = train(config, teacher if name != "dqn" else None, acceptance=acceptance)
            curve = [[row["env_steps"], row["return"]] for row in trained.history]
            yield {"method": name, "seed": seed, "there": after(trained.policy, there), "checks": curve}


def hidden(teacher: Teacher) -> Iterator[dict]:
    """Students that do not see velocities, or see everything through noise, of a teacher that does."""
    acceptance = accepted(teacher, ENV)
    spread, seeds = (0.1, 0.3, 0.03, 0.3), seeds_from(VERDICT_SEEDS, 100)
    base = {"network": STUDENT, "env_steps": 12_000, "gap": -99.0, "check_every": 1_000, "check_episodes": 20}
    ways = {
        "sees all": {},
        "no cart velocity": {"hidden_features": (1,)},
        "no pole velocity": {"hidden_features": (3,)},
        "noise": {"noise": spread},
    }
    for seed in SEEDS:
        for name, change in ways.items():
            trained = train(make_config("distil", ENV, seed=seed, **base, **change), teacher, acceptance=acceptance)
            how = Play(EnvRef(ENV), sensors=Sensors(spread) if name == "noise" else EXACT)
            returns = play(trained.policy, how, seeds).returns
            yield {"method": name, "seed": seed, "return": stats.mean(returns)}
        unaware = train(make_config("distil", ENV, seed=seed, **base), teacher, acceptance=acceptance).policy
        returns = play(unaware, Play(EnvRef(ENV), sensors=Sensors(spread)), seeds).returns
        yield {"method": "noise, trained without", "seed": seed, "return": stats.mean(returns)}


def meta(teacher: Teacher) -> Iterator[dict]:
    """Updates until a score of 0.95 in CartPoles that the start has not seen; the family is the corners and middle of
    the grid.
    """
    grid = [f"variants/CartPole-{length}-{gravity}" for length in variants.LENGTHS for gravity in variants.GRAVITIES]
    new = grid[1::4]
    family = [env_id for env_id in grid if env_id not in new]
    inner = make_config(
        "distil", ENV, network=STUDENT, env_steps=1_200, learning_starts=400, check_every=1_200, check_episodes=4
    )
    quick = {
        "network": STUDENT,
        "env_steps": 4_000,
        "learning_starts": 400,
        "updates": 1,
        "check_every": 80,
        "check_episodes": 10,
        "patience": 1,
    }
    for seed in SEEDS:
        start = reptile(inner.but(learning_rate=2e-3), family, teacher, rounds=60, seed=seed)
        joint = train(
            make_config("distil", ENV, network=STUDENT, seed=seed, env_steps=12_000, gap=-99.0),
            teacher,
            acceptance=accepted(teacher, ENV),
        )
        for env_id in new:
            acceptance = accepted(teacher, env_id)
            for name, initial in (
                ("reptile", start),
                ("a student of plain CartPole", joint.network),
                ("new weights", None),
            ):
                config = make_config("distil", env_id, seed=seed + 100, gap=0.05, agreement=0.0, **quick)
                trained = train(config, teacher, acceptance=acceptance, initial=initial)
                reached = next((row["updates"] for row in trained.history if row["score"] >= 0.95), None)
                yield {
                    "method": name,
                    "seed": seed,
                    "env": env_id,
                    "updates": reached,
                    "teacher": acceptance.return_mean,
                }


STORIES = {"dynamic": dynamic, "transfer": transfer, "hidden": hidden, "reptile": meta}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or STORIES:
        out = RESULTS / "changes" / f"{name}.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w") as file:
            for row in STORIES[name](load_teacher(folder / "cartpole-dqn-sb3.zip").fitted(describe_env(ENV))):
                print(json.dumps(row), file=file, flush=True)
                print(name, {k: v for k, v in row.items() if k != "checks"}, flush=True)


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    main(Path(sys.argv[1]), sys.argv[2:])

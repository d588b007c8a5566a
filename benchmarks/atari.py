"""The methods that matter most on Pong and Breakout, at equal budgets of data and updates.

    python benchmarks/atari.py [ENV ...]     # teachers are in zoo/

`distil` (the default), `policy_distillation` (the textbook: the teacher drives), `case_study` (L_KL + L_adv), `cloning`
(the teacher's choice alone), `dkd` and `qdagger`; with Pong's small student also the textbook with the default's
learning rate and temperature, the default without each of what else it does beside the textbook, and the default whose
student speaks in units of its teacher's values, both divided by one temperature. One line per run goes to
results/methods/ENV.jsonl; runs that are there already are not made again, and --jobs N makes N at a time. One thread
each. No early stop; the best three checks meet on other episodes; `return` is of 100 episodes on the verdict's seeds,
`epsilon_0.05` and `sticky_0.25` of 40 of them under random and sticky actions.
"""

import functools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from lines import fill, jobs_of
from method_tables import OUT

from distilrl import (
    Acceptance,
    Behaviour,
    EnvRef,
    Play,
    Policy,
    Teacher,
    describe_env,
    load_teacher,
    make_config,
    play,
    stats,
    train,
)
from distilrl.acceptance import accept
from distilrl.agreement import agreement
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.objective import TeacherTerm

DEFAULT, TEXTBOOK = "distil", "policy_distillation"
METHODS = (DEFAULT, TEXTBOOK, "case_study", "cloning", "dkd", "qdagger")
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "policy_distillation, set as the default": (
        TEXTBOOK, {"terms": (TeacherTerm("forward_kl"),), "learning_rate": 3e-3, "entropy_share": 0.5}
    ),
    "distil, the teacher drives": (DEFAULT, {"behaviour": Behaviour("teacher", greedy_share=0.0)}),
    "distil, no average": (DEFAULT, {"average": 0.0}),
    "distil, uniform draws": (DEFAULT, {"stakes_exponent": 0.0}),
    "distil, in units": (
        DEFAULT, {"terms": (TeacherTerm("forward_kl", student_temperature=None),), "value_units": True}
    ),
}  # fmt: skip
"""What lies between the textbook and the default, and what `case_study` does to its KL: recipe and what is changed."""
PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"
SMALL = "cnn:4k8s4,8k4s2,8k3s2:16"
"""What the default can just train to play."""
LARGE = "cnn:16,16,16:64"
STUDENTS = {PONG: {SMALL: range(3), LARGE: range(1)}, BREAKOUT: {LARGE: range(3)}}
"""Students of each game, and the seeds of each."""
MORE = [{"method": method, "student": SMALL, "seed": seed} for seed in range(3, 6) for method in (DEFAULT, "cloning")]
"""Further runs in Pong, of two methods that differ by their loss alone: three seeds could not tell which is ahead."""
TEACHERS = {PONG: "zoo/pong-dqn", BREAKOUT: "zoo/breakout-dqn"}
EPSILON = {PONG: 0.0, BREAKOUT: 0.01}
BUDGETS = {
    PONG: {"env_steps": 48_000, "n_envs": 32, "updates": 4, "batch_size": 64, "capacity": 50_000, "check_every": 9_600},
    BREAKOUT: {
        "env_steps": 320_000,
        "n_envs": 64,
        "updates": 8,
        "batch_size": 64,
        "capacity": 200_000,
        "check_every": 64_000,
    },
}
DISTURBED = ({"epsilon": 0.05}, {"sticky": 0.25})


def equal(env_id: str) -> dict[str, Any]:
    """Settings that all methods have in common."""
    shared = {"check_episodes": 8, "learning_starts": 1_280, "gap": -99.0, "threads": 1}
    return shared | {"eval_epsilon": EPSILON[env_id]} | BUDGETS[env_id]


def measure(student: Policy, teacher: Teacher, env_id: str) -> dict:
    """Mean returns with their interval, clean and disturbed, and agreement."""
    how = Play(EnvRef(env_id), epsilon=EPSILON[env_id], keep_states=1000, threads=1)
    games = play(student, how, seeds_from(VERDICT_SEEDS, 100))
    low, high = stats.mean_interval(games.returns, np.random.default_rng(0), clusters=games.fingerprints)
    row = {
        "return": stats.mean(games.returns),
        "return_ci95": [low, high],
        "agreement": agreement(teacher, student, games),
    }
    for way in DISTURBED:
        disturbed = play(student, replace(how, keep_states=0, **way), seeds_from(VERDICT_SEEDS, 40))
        row["_".join(str(part) for pair in way.items() for part in pair)] = stats.mean(disturbed.returns)
    return row


@functools.cache
def taught(env_id: str) -> tuple[Teacher, Acceptance]:
    teacher = load_teacher(TEACHERS[env_id]).fitted(describe_env(env_id))
    return teacher, accept(teacher, Play(EnvRef(env_id), epsilon=EPSILON[env_id], threads=1), episodes=20)


def line(env_id: str, method: str, student: str, seed: int) -> dict:
    teacher, acceptance = taught(env_id)
    if method == "teacher":
        about = {"params": teacher.params, "random": acceptance.random_return_mean, **BUDGETS[env_id]}
        return {**about, **measure(teacher.policy, teacher, env_id)}
    recipe, changes = PARTS.get(method, (method, {}))
    config = make_config(recipe, env_id, network=student, seed=seed, **equal(env_id)).but(**changes)
    if env_id == BREAKOUT and config.optim.average > 0:
        config = config.but(average=0.999)
    trained = train(config, teacher, acceptance=acceptance)
    return {
        "params": trained.network.spec.params,
        "updates": trained.updates,
        "train_s": round(trained.train_s, 1),
        "best_check": max(r["return"] for r in trained.history),
        **measure(trained.policy, teacher, env_id),
    }


def main(env_ids: list[str], jobs: int) -> None:
    for env_id in env_ids:
        keys = [{"method": "teacher", "student": "", "seed": 0}]
        keys += [
            {"method": method, "student": student, "seed": seed}
            for student, seeds in STUDENTS[env_id].items()
            for seed in seeds
            for method in (*METHODS, *(PARTS if student == SMALL else ()))
        ]  # fmt: skip
        keys += MORE if env_id == PONG else []
        fill(OUT / f"{env_id}.jsonl", functools.partial(line, env_id), keys, jobs)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    main(sys.argv[1:] or [PONG, BREAKOUT], jobs)

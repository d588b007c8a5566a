"""Every method on CartPole, Acrobot and LunarLander, five seeds, two students, equal budgets of data and updates.

    python benchmarks/methods.py FOLDER [ENV ...]     # FOLDER holds cartpole-dqn-sb3.zip, acrobot-dqn-sb3.zip and lunarlander/ (a teacher)

One line per run goes to results/methods/ENV.jsonl; runs that are there already are not made again. Needs gymnasium[box2d] for
LunarLander. Every run takes its whole budget (no early stop), the checkpoint is the best by 20 selection episodes, and everything
below is of 100 greedy episodes on the verdict's seeds (50 for the disturbed ones):

noise     each feature seen through noise of a tenth of its spread over the teacher's states
attack    each observation moved by at most a tenth of that spread to where the student departs most from what it would have said
changed   another physics: poles twice as long, second link 1.5 times as heavy, wind
starts    first states further out than any seen
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import variants  # noqa: F401  (registers the changed environments)
from torch import Tensor

from distilrl import NetworkSpec, Teacher, evaluate, load_teacher, losses, make_config, recipe, stats, train
from distilrl.evaluate import VERDICT_SEEDS, Play, play, seeds_from, weighted_agreement
from distilrl.recipes import RECIPES, TEACHERLESS
from distilrl.specs import scaled

TASKS = {
    "CartPole-v1": (
        "cartpole-dqn-sb3.zip",
        ("mlp:16,16", "mlp:2"),
        6_000,
        {"changed": "CartPole-long", "starts": "CartPole-starts"},
    ),
    "Acrobot-v1": (
        "acrobot-dqn-sb3.zip",
        ("mlp:16,16", "mlp:2"),
        6_000,
        {"changed": "Acrobot-heavy", "starts": "Acrobot-starts"},
    ),
    "LunarLander-v3": ("lunarlander", ("mlp:16,16", "mlp:4"), 10_000, {"changed": "LunarLander-wind"}),
}
METHODS = (*(name for name in RECIPES if name not in ("attention", *TEACHERLESS)), "assistant", "dqn")
SEEDS = range(5)
EQUAL = {
    "updates": 3,
    "batch_size": 128,
    "n_envs": 8,
    "learning_starts": 800,
    "check_every": 1_000,
    "check_episodes": 20,
    "stop_gap": -99.0,
}


def attacked(student: Callable[[Tensor], Tensor], reach: Tensor) -> Callable[[Tensor], Tensor]:
    """The student, each of whose observations is moved first: three steps of gradient ascent on the KL from its own clean answer."""

    def policy(obs: Tensor) -> Tensor:
        clean = student(obs).detach()
        scale = clean.std(1, keepdim=True).clamp_min(1e-6)
        moved = obs + 0.1 * reach
        for _ in range(3):
            with torch.enable_grad():
                moved = moved.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(
                    losses.forward_kl(student=student(moved) / scale, teacher=clean / scale).sum(), moved
                )
            moved = obs + (moved - obs + 0.5 * reach * slope.sign()).clamp(-reach, reach)
        return student(moved.detach())

    return policy


def measure(
    policy: Callable[[Tensor], Tensor], teacher: Teacher, env_id: str, spread: np.ndarray, changed: dict[str, str]
) -> dict:
    """Mean returns, clean and disturbed, and agreement."""
    seeds, fewer = seeds_from(VERDICT_SEEDS, 100), seeds_from(VERDICT_SEEDS, 50)
    clean = play(policy, Play(env_id, keep_states=1000), seeds)
    reach = torch.from_numpy(spread).float() * 0.1
    row = {
        "return": stats.mean(clean.returns),
        "agreement": weighted_agreement(teacher.action_values, policy, clean.states, "cpu"),
        "noise": stats.mean(play(policy, Play(env_id, noise=tuple((0.1 * spread).tolist())), fewer).returns),
        "attack": stats.mean(play(attacked(policy, reach), Play(env_id), fewer).returns),
    }
    return row | {
        name: stats.mean(play(policy, Play(f"variants/{other}"), fewer).returns) for name, other in changed.items()
    }


def student_of(method: str, env_id: str, student: str, seed: int, steps: int, teacher: Teacher, acceptance: dict):
    """One run of a method, and how many of its budget's steps an assistant took."""
    if method == "assistant":  # half of the budget each, so that the chain has no more data and updates than the others
        config = make_config("distil", env_id, student=student, seed=seed, env_steps=steps // 2, **EQUAL)
        info = evaluate.describe_env(env_id)
        own = NetworkSpec.parse(student, info.obs_shape, info.n_actions)
        middle = scaled(own, round((own.params * (teacher.params or own.params)) ** 0.5)).describe()
        assistant = train(replace(config, student=middle), teacher, acceptance=acceptance)
        return train(
            config, Teacher(assistant.network, "q", "assistant", "memory", "0" * 64), acceptance=acceptance
        ), steps // 2
    changes = dict(EQUAL)
    base = recipe(method, pixels=False)
    if base.priority_exponent == 0 and method in ("dqn",):
        changes |= {"learning_starts": 800}
    config = make_config(method, env_id, student=student, seed=seed, **(changes | {"env_steps": steps}))
    with_teacher = method not in TEACHERLESS
    return train(config, teacher if with_teacher else None, acceptance=acceptance), 0


def main(folder: Path, env_ids: list[str]) -> None:
    torch.set_num_threads(1)
    for env_id in env_ids:
        name, students, steps, changed = TASKS[env_id]
        teacher = load_teacher(folder / name)
        acceptance = evaluate.accept(teacher, Play(env_id, threads=1), episodes=100)
        spread = play(teacher.action_values, Play(env_id, keep_states=1000), seeds_from(VERDICT_SEEDS, 20)).states.std(
            0
        )
        out = Path("benchmarks/results/methods") / f"{env_id}.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        done = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
        known = {(row["method"], row["student"], row["seed"]) for row in done}
        with out.open("a") as file:
            if not done:
                about = {"params": teacher.params, "random": acceptance["random_return_mean"], "steps": steps, **EQUAL}
                row = {
                    "method": "teacher",
                    "student": "",
                    "seed": 0,
                    **about,
                    **measure(teacher.network, teacher, env_id, spread, changed),
                }
                print(json.dumps(row), file=file, flush=True)
            for seed in SEEDS:
                for student in students:
                    for method in METHODS:
                        if (method, student, seed) in known:
                            continue
                        trained, before = student_of(method, env_id, student, seed, steps, teacher, acceptance)
                        parity = next(
                            (row["env_steps"] + before for row in trained.history if row["score"] >= 0.99), None
                        )
                        row = {
                            "method": method, "student": student, "seed": seed, "params": trained.network.spec.params,
                            "updates": trained.updates, "train_s": round(trained.train_s, 2), "parity_steps": parity,
                            "labelled_states": trained.labelled_states,
                            **measure(trained.network, teacher, env_id, spread, changed),
                        }  # fmt: skip
                        print(json.dumps(row), file=file, flush=True)
                        print(env_id, student, method, seed, f"{row['return']:.1f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(TASKS))

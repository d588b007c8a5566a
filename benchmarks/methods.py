"""Every method on CartPole, Acrobot and LunarLander, five seeds, two students, equal budgets of data and updates.

    python benchmarks/methods.py FOLDER [ENV ...]     # FOLDER holds cartpole-dqn-sb3.zip, acrobot-dqn-sb3.zip and lunarlander/ (a teacher)

One line per run goes to results/methods/ENV.jsonl; runs that are there already are not made again, and --jobs N makes N at a time. Needs gymnasium[box2d] for
LunarLander. Every run takes its whole budget (no early stop), the checkpoint is the best by 20 selection episodes, and everything
below is of 100 greedy episodes on the verdict's seeds (50 for the disturbed ones):

noise     each feature seen through noise of a tenth of its spread over the teacher's states
attack    each observation moved by at most a tenth of that spread to where the student departs most from what it would have said
changed   another physics: poles twice as long, second link 1.5 times as heavy, wind
starts    first states further out than any seen
"""

import functools
import sys
from pathlib import Path

import numpy as np
import torch
import variants  # noqa: F401  (registers the changed environments)
from lines import fill, jobs_of
from torch import Tensor, nn

from distilrl import (
    RECIPES,
    EnvRef,
    NetworkSpec,
    Play,
    Policy,
    Teacher,
    Trained,
    describe_env,
    load_teacher,
    losses,
    make_config,
    play,
    stats,
    train,
)
from distilrl.acceptance import accept
from distilrl.comparison import agreement
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.played import Acceptance
from distilrl.recipes import TEACHERLESS
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
    "gap": -99.0,
}


class Attacked(nn.Module):
    """The student, each of whose observations is moved first: three steps of gradient ascent on the KL from its own clean answer."""

    def __init__(self, student: Policy, reach: Tensor) -> None:
        super().__init__()
        self.student, self.reach = student, reach

    def forward(self, obs: Tensor) -> Tensor:
        clean = self.student.forward(obs)[0].detach()
        scale = clean.std(1, keepdim=True).clamp_min(1e-6)
        moved = obs + 0.1 * self.reach
        for _ in range(3):
            with torch.enable_grad():
                moved = moved.detach().requires_grad_(True)
                answer = self.student.forward(moved)[0]
                kl = losses.forward_kl(student=answer / scale, teacher=clean / scale)
                (slope,) = torch.autograd.grad(kl.sum(), moved)
            moved = obs + (moved - obs + 0.5 * self.reach * slope.sign()).clamp(-self.reach, self.reach)
        return self.student.forward(moved.detach())[0]


def measure(policy: Policy, teacher: Teacher, env_id: str, spread: np.ndarray, changed: dict[str, str]) -> dict:
    """Mean returns, clean and disturbed, and agreement."""
    seeds, fewer = seeds_from(VERDICT_SEEDS, 100), seeds_from(VERDICT_SEEDS, 50)
    env = EnvRef(env_id)
    clean = play(policy, Play(env, keep_states=1000), seeds)
    attacked = Policy(Attacked(policy, torch.from_numpy(spread).float() * 0.1), policy.head)
    row = {
        "return": stats.mean(clean.returns),
        "agreement": agreement(teacher, policy, clean),
        "noise": stats.mean(play(policy, Play(env, noise=tuple((0.1 * spread).tolist())), fewer).returns),
        "attack": stats.mean(play(attacked, Play(env), fewer).returns),
    }
    return row | {
        name: stats.mean(play(policy, Play(EnvRef(f"variants/{other}")), fewer).returns)
        for name, other in changed.items()
    }


def student_of(
    method: str, env_id: str, student: str, seed: int, steps: int, teacher: Teacher, acceptance: Acceptance
) -> tuple[Trained, int]:
    """One run of a method, and how many of its budget's steps an assistant took."""
    if method == "assistant":  # half of the budget each, so that the chain has no more data and updates than the others
        config = make_config("distil", env_id, network=student, seed=seed, env_steps=steps // 2, **EQUAL)
        info = describe_env(env_id)
        own = NetworkSpec.of(student, info.obs, teacher.head.width)
        middle = scaled(own, round((own.params * (teacher.params or own.params)) ** 0.5)).describe()
        assistant = train(config.but(network=middle), teacher, acceptance=acceptance).network
        between = Teacher(assistant, "q", "assistant", "memory", "0" * 64).fitted(info)
        return train(config, between, acceptance=acceptance), steps // 2
    config = make_config(method, env_id, network=student, seed=seed, **(EQUAL | {"env_steps": steps}))
    return train(config, None if method in TEACHERLESS else teacher, acceptance=acceptance), 0


@functools.cache
def taught(folder: Path, env_id: str) -> tuple[Teacher, Acceptance, np.ndarray]:
    """The teacher, what is known of it, and the spread of its states."""
    teacher = load_teacher(folder / TASKS[env_id][0]).fitted(describe_env(env_id))
    acceptance = accept(teacher, Play(EnvRef(env_id), threads=1), episodes=100)
    seen = play(teacher.policy, Play(EnvRef(env_id), keep_states=1000), seeds_from(VERDICT_SEEDS, 20)).states
    return teacher, acceptance, seen.std(0)


def line(folder: Path, env_id: str, method: str, student: str, seed: int) -> dict:
    _, _, steps, changed = TASKS[env_id]
    teacher, acceptance, spread = taught(folder, env_id)
    if method == "teacher":
        about = {"params": teacher.params, "random": acceptance.random_return_mean, "steps": steps, **EQUAL}
        return {**about, **measure(teacher.policy, teacher, env_id, spread, changed)}
    trained, before = student_of(method, env_id, student, seed, steps, teacher, acceptance)
    parity = next((row["env_steps"] + before for row in trained.history if row["score"] >= 0.99), None)
    return {
        "params": trained.network.spec.params,
        "updates": trained.updates, "train_s": round(trained.train_s, 2), "parity_steps": parity,
        "labelled_states": trained.labelled_states,
        **measure(trained.policy, teacher, env_id, spread, changed),
    }  # fmt: skip


def main(folder: Path, env_ids: list[str], jobs: int) -> None:
    for env_id in env_ids:
        keys = [{"method": "teacher", "student": "", "seed": 0}]
        keys += [
            {"method": method, "student": student, "seed": seed}
            for seed in SEEDS for student in TASKS[env_id][1] for method in METHODS
        ]  # fmt: skip
        out = Path("benchmarks/results/methods") / f"{env_id}.jsonl"
        fill(out, functools.partial(line, folder, env_id), keys, jobs)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    main(Path(sys.argv[1]), sys.argv[2:] or list(TASKS), jobs)

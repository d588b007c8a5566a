"""Every method in five environments, two students, twelve training seeds, with settings chosen elsewhere by one rule.

    python benchmarks/methods.py FOLDER teachers              # makes those of zoo/ again that FOLDER lacks
    python benchmarks/methods.py FOLDER choose [METHOD ...]   # learning rate and temperature of each method
    python benchmarks/methods.py FOLDER table [ENV ...] [METHOD ...]    # the runs of the table, or some methods'
    python benchmarks/methods.py FOLDER smoke                 # one tiny run of everything, kept nowhere

FOLDER holds cartpole-dqn-sb3.zip and acrobot-dqn-sb3.zip of rl-trained-agents; the other teachers are in zoo/. Needs
gymnasium[box2d] and minigrid 3.2. One line per run goes to results/methods/{choose,ENV}.jsonl; lines that are there
are not made again, and --jobs N makes N at a time.

choose    A grid of learning rates and temperatures (method_settings.py), on other environments than the table's and
          other training seeds, apart for a comfortable student and one that is too small. What it chooses is written
          to results/methods/settings.json.
table     Every run takes its whole budget; its best three checks of 20 selection episodes meet on 50 others.
          `returns` are of 100 greedy episodes on the verdict's seeds, the same for teacher and students. Of the first
          seeds also the mean of 30 episodes of each disturbance:

noise     each feature seen through noise of a tenth of its spread over the teacher's states
attack    each observation moved by at most a tenth of that spread to where the student departs most from what it
          would have said
changed   another physics: poles twice as long, second link 1.5 times as heavy, wind
starts    first states further out than any seen
"""

import functools
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import variants  # noqa: F401  (registers the changed environments)
from lines import fill, jobs_of, machine, made, teacher_file
from method_settings import BEYOND, EQUAL, METHODS, RATES, chosen, config_of, grid
from method_tables import COMFORTABLE, KINDS, OUT, SEEDS, SHIPPED, kind_of
from torch import Tensor, nn

from distilrl import (
    Comparison,
    EnvRef,
    NetworkSpec,
    Play,
    Policy,
    Teacher,
    TrainConfig,
    Trained,
    describe_env,
    load_teacher,
    losses,
    make_config,
    play,
    stats,
    train,
    train_teacher,
)
from distilrl.acceptance import accept
from distilrl.agreement import agreement
from distilrl.errors import NotFiniteError
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.files import write_json
from distilrl.played import Acceptance
from distilrl.recipes import TEACHERLESS
from distilrl.sensors import Sensors
from distilrl.widths import scaled

SETTINGS = OUT / "settings.json"


@dataclass(frozen=True)
class Task:
    """An environment and what is distilled in it."""

    env: str
    """Gymnasium id."""
    teacher: str
    """Its teacher, in FOLDER or in zoo/."""
    students: tuple[str, ...]
    """A comfortable one, and one that is too small."""
    steps: int = 6_000
    """Budget of environment steps."""
    decimals: int = 0
    """Of single returns, as they are kept."""
    ways: tuple[str, ...] = ("noise", "attack")
    """Disturbances beside `changed`."""
    changed: dict[str, str] = field(default_factory=dict)
    """Name of a column → changed environment."""


TABLE = {
    "CartPole-v1": Task(
        "CartPole-v1", "cartpole-dqn-sb3.zip", ("mlp:16,16", "mlp:2"),
        changed={"changed": "variants/CartPole-long", "starts": "variants/CartPole-starts"},
    ),
    "Acrobot-v1": Task(
        "Acrobot-v1", "acrobot-dqn-sb3.zip", ("mlp:16,16", "mlp:2"),
        changed={"changed": "variants/Acrobot-heavy", "starts": "variants/Acrobot-starts"},
    ),
    "LunarLander-v3": Task(
        "LunarLander-v3", "zoo/lunarlander-dqn", ("mlp:16,16", "mlp:4"), steps=10_000, decimals=1,
        changed={"changed": "variants/LunarLander-wind"},
    ),
    "MountainCar-v0": Task("MountainCar-v0", "zoo/mountaincar-dqn", ("mlp:16,16", "mlp:2")),
    "MiniGrid-DoorKey-5x5-v0": Task(
        "variants/MiniGrid-DoorKey", "zoo/doorkey-dqn", ("mlp:16,16", "mlp:3"), decimals=3, ways=("noise",)
    ),
}  # fmt: skip
"""The table. On the last two no default was ever tuned."""
TUNING = {
    "CartPole-long": Task("variants/CartPole-long", "cartpole-dqn-sb3.zip", (COMFORTABLE, "mlp:3")),
    "Acrobot-heavy": Task("variants/Acrobot-heavy", "acrobot-dqn-sb3.zip", (COMFORTABLE, "mlp:3")),
    "Pendulum-torques": Task("variants/Pendulum-torques", "zoo/pendulum-dqn", (COMFORTABLE, "mlp:3")),
}
"""Where settings are chosen: teachers of the table's environments in changed ones, and a pendulum with five torques."""
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lunarlander": ("LunarLander-v3", {"seed": 2, "at_return": 200.0}),
    "mountaincar": ("MountainCar-v0", {"at_return": -110.0}),
    "doorkey": ("variants/MiniGrid-DoorKey", {"at_return": 0.955}),
    "pendulum": ("variants/Pendulum-torques", {"at_return": -150.0}),
}
"""Teachers of our own making: folder, environment, and what is not the recipe's."""
DISTURBED, TUNING_SEEDS = 5, (500, 501)
TINY = {"env_steps": 2_000, "check_every": 1_000, "check_episodes": 2}


class Attacked(nn.Module):
    """The student, each of whose observations is moved first: three steps of gradient ascent on the KL from its own
    clean answer.
    """

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


# -- one run


@functools.cache
def taught(folder: Path, env: str, file: str) -> tuple[Teacher, Acceptance, np.ndarray]:
    """The teacher, what is known of it by 100 episodes, and the spread of its states."""
    teacher = load_teacher(teacher_file(folder, file)).fitted(describe_env(env))
    acceptance = accept(teacher, Play(EnvRef(env), threads=1), episodes=100)
    seen = play(teacher.policy, Play(EnvRef(env), keep_states=1000), seeds_from(VERDICT_SEEDS, 20)).states
    return teacher, acceptance, seen.std(0, dtype=np.float64)


def student_of(config: TrainConfig, method: str, teacher: Teacher, acceptance: Acceptance) -> tuple[Trained, int]:
    """One run of a method, and its updates with those of an assistant."""
    if method != "assistant":
        trained = train(config, None if method in TEACHERLESS else teacher, acceptance=acceptance)
        return trained, trained.updates
    config = config.but(env_steps=config.data.env_steps // 2)  # half each: no more data than the others
    info = describe_env(config.env)
    own = NetworkSpec.of(config.student.network, info.obs, teacher.head.width)
    middle = scaled(own, round((own.params * (teacher.params or own.params)) ** 0.5)).describe()
    first = train(config.but(network=middle), teacher, acceptance=acceptance)
    between = Teacher(first.network, "q", "assistant", "memory", "0" * 64).fitted(info)
    trained = train(config, between, acceptance=acceptance)
    return trained, first.updates + trained.updates


def clean(policy: Policy, teacher: Teacher, task: Task, episodes: int) -> dict[str, Any]:
    """Single returns on the verdict's seeds, and agreement."""
    games = play(policy, Play(EnvRef(task.env), keep_states=1000), seeds_from(VERDICT_SEEDS, episodes))
    returns = [round(one, task.decimals) if task.decimals else round(one) for one in games.returns.tolist()]
    return {"returns": returns, "agreement": round(agreement(teacher, policy, games), 4)}


def disturbed(policy: Policy, task: Task, spread: np.ndarray, episodes: int) -> dict[str, float]:
    """Mean return under each disturbance."""
    env, reach = EnvRef(task.env), 0.1 * spread
    ways = {"noise": (policy, Play(env, sensors=Sensors(tuple(reach.tolist()))))}
    if "attack" in task.ways:
        ways["attack"] = (Policy(Attacked(policy, torch.from_numpy(reach).float()), policy.head), Play(env))
    ways |= {name: (policy, Play(EnvRef(other))) for name, other in task.changed.items()}
    seeds = seeds_from(VERDICT_SEEDS, episodes)
    return {name: round(stats.mean(play(one, how, seeds).returns), 3) for name, (one, how) in ways.items()}


def line(
    folder: Path, name: str, method: str, student: str, seed: int, learning_rate: float | None,
    entropy_share: float | None, tiny: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A line of the table."""
    task, begun = TABLE[name], time.process_time()
    teacher, acceptance, spread = taught(folder, task.env, task.teacher)
    episodes, fewer = (2, 2) if tiny else (100, 30)
    if method == "teacher":
        told = {"random": acceptance.random_return_mean, **vars(Comparison().tolerance_of(acceptance))}
        about = {"params": teacher.params, **told, "steps": task.steps, **EQUAL}
        return about | clean(teacher.policy, teacher, task, episodes) | disturbed(teacher.policy, task, spread, fewer)
    budget = TINY if tiny else {"env_steps": task.steps}
    config = config_of(method, task.env, learning_rate, entropy_share, network=student, seed=seed, **budget)
    try:
        trained, updates = student_of(config, method, teacher, acceptance)
    except NotFiniteError as error:
        return {"diverged": str(error)}
    row = {
        "params": trained.network.spec.params, "updates": updates, "train_s": round(trained.train_s, 2),
        "labelled_states": trained.labelled_states, **clean(trained.policy, teacher, task, episodes),
    }  # fmt: skip
    if seed < DISTURBED:
        row |= disturbed(trained.policy, task, spread, fewer)
    return row | {"cpu_s": round(time.process_time() - begun, 2)}


# -- the choice of settings


def tried(
    folder: Path, env: str, method: str, student: str, seed: int, learning_rate: float, entropy_share: float | None
) -> dict[str, Any]:
    """A line of the choice."""
    task, begun = TUNING[env], time.process_time()
    teacher, acceptance, _ = taught(folder, task.env, task.teacher)
    config = config_of(method, task.env, learning_rate, entropy_share, network=student, seed=seed, env_steps=task.steps)
    try:
        trained, updates = student_of(config, method, teacher, acceptance)
    except NotFiniteError as error:
        return {"diverged": str(error), "score": 0.0}
    games = play(trained.policy, Play(EnvRef(task.env)), seeds_from(VERDICT_SEEDS, 50))
    score = stats.score(stats.mean(games.returns), acceptance.return_mean, acceptance.random_return_mean)
    return {"score": score, "updates": updates, "cpu_s": round(time.process_time() - begun, 2)}


# -- queues


def choose(folder: Path, methods: list[str], jobs: int) -> None:
    """Makes the lines of the choice, and writes the settings of all methods that have theirs."""

    def make(kind: str, methods: list[str], rates: Iterable[float]) -> None:
        keys = [
            {"env": env, "method": method, "student": student, "seed": seed, "learning_rate": rate, "entropy_share": s}
            for method in methods for rate, s in grid(method, rates) for env, task in TUNING.items()
            for student in task.students if kind_of(student) == kind for seed in TUNING_SEEDS
        ]  # fmt: skip
        fill(path, functools.partial(tried, folder), keys, jobs)

    path = OUT / "choose.jsonl"
    for kind in KINDS:
        make(kind, methods, RATES)
        found = chosen_for(kind, made(path))
        make(kind, [one for one in methods if found[one]["learning_rate"] >= RATES[-1]], [BEYOND])
    rows = made(path)
    write_json(SETTINGS, {kind: chosen_for(kind, rows) for kind in KINDS})


def chosen_for(kind: str, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The setting of each method whose lines are complete, by the students of one kind."""
    own, count = [row for row in rows if kind_of(row["student"]) == kind], len(TUNING) * len(TUNING_SEEDS)
    found = {method: chosen(method, own, count) for method in METHODS}
    return {method: setting for method, setting in found.items() if setting is not None}


def settings() -> dict[tuple[str, str], tuple[float | None, float | None]]:
    """What was chosen: learning rate and entropy share of each kind of student and method."""
    found = json.loads(SETTINGS.read_text()) if SETTINGS.exists() else {kind: {} for kind in KINDS}
    missing = sorted({method for kind in KINDS for method in METHODS if method not in found[kind]})
    if missing:
        sys.exit(f"No settings of {', '.join(missing)}: run `choose` first.")
    return {
        (kind, method): (one["learning_rate"], one["entropy_share"])
        for kind in KINDS for method, one in found[kind].items()
    }  # fmt: skip


def table(folder: Path, names: list[str], jobs: int) -> None:
    """Makes the lines of the table, seed by seed; ``names`` are of environments and of methods."""
    known = settings() | {(kind, method): (None, None) for kind in KINDS for method in SHIPPED}
    every = (*METHODS, *SHIPPED)
    if unknown := [name for name in names if name not in (*TABLE, *every)]:
        sys.exit(f"Neither an environment nor a method: {', '.join(unknown)}.")
    wanted = [method for method in every if method in names] or every
    for name in [name for name in TABLE if name in names] or TABLE:
        runs = [("teacher", "", 0, (None, None))]
        runs += [
            (method, student, seed, known[kind_of(student), method])
            for seed in SEEDS for student in TABLE[name].students for method in wanted
        ]  # fmt: skip
        keys = [
            {"method": method, "student": student, "seed": seed, "learning_rate": rate, "entropy_share": share}
            for method, student, seed, (rate, share) in runs
        ]
        fill(OUT / f"{name}.jsonl", functools.partial(line, folder, name), keys, jobs)


def smoke(folder: Path) -> None:
    """One tiny run of every method, student and environment."""
    for name, task in TABLE.items():
        for method in ("teacher", *METHODS, *SHIPPED):
            for student in task.students:
                rate, share = grid(method)[-1] if method in METHODS else (None, None)
                row = line(folder, name, method, student, 0, rate, share, tiny=True)
                print(
                    name, method, student, row.get("updates"), row.get("returns"), row.get("diverged", ""), flush=True
                )


def teachers(folder: Path) -> None:
    """Trains those of zoo/ that are missing in FOLDER."""
    for name, (env, changes) in TEACHERS.items():
        if not (folder / name).exists():
            found = train_teacher(make_config("dqn", env, threads=1, **changes), folder / name)
            print(name, found.student.return_mean, found.student.return_ci95, flush=True)


def main() -> None:
    jobs = jobs_of(sys.argv)
    folder, what, *names = Path(sys.argv[1]), *sys.argv[2:]
    if what in ("choose", "table"):
        machine(OUT, "minigrid")
    if what == "choose":
        choose(folder, names or list(METHODS), jobs)
    elif what == "table":
        table(folder, names, jobs)
    elif what == "smoke":
        smoke(folder)
    elif what == "teachers":
        teachers(folder)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

"""Students that remember beside those that do not: velocities hidden from them, and a humanoid whose teacher remembers.

    python benchmarks/memory.py FOLDER run [TASK ...]         # one line per run, to results/memory/TASK.jsonl
    python benchmarks/memory.py FOLDER table                  # what is there, as text
    python benchmarks/memory.py FOLDER own                    # what each member's own teacher made when it was trained

FOLDER holds cartpole-dqn-sb3.zip, tqc-HalfCheetah-v3.zip and tqc-Walker2d-v3.zip of rl-trained-agents and Unitree's
robots (examples/unitree/README.md); the other teachers are those of zoo/. Of each task the teacher and a student that
see everything, then students from which the velocities, or the physics, are hidden: without memory, with a history,
with a cell; in one task they see the rest through noise, and in Pong each frame is black to them with probability a
half. `returns` are of 100 greedy episodes, 300 of each kind of CartPole, of the lander and of quadrotors, and where
each member has a teacher of its own four of each of the verdict's members, on the verdict's seeds, the same for all; of
a family those of members that training never drew, by which its verdicts are.

A family has rivals more. `dqn` learns from reward, without a teacher and without seeing the physics, for as many steps
as the students; `reptile` is a start (distilrl.reptile) that is distilled on for a while in each of the verdict's
members, with that member's teacher; neither remembers. `randomised` is domain randomisation: what the teacher's own
algorithm learns in as many steps where it is not shown the physics (`python -m examples.family.teach NAME --blind --out
FOLDER/NAME-blind`). `raptor` is the policy of RAPTOR (Eschmann et al. 2025) as its
authors publish it (`pip install foundation-policy`), distilled by them from a thousand teachers of quadrotors that they
drew otherwise, for other flights. In `cartpoles-own` each member has a teacher of its own (benchmarks/README.md trains
all hundred and eighty). --jobs N makes N lines at a time.
"""

import functools
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from fields import verdict_in_words
from lines import RESULTS, fill, jobs_of, machine, made, taken, teacher_file

from distilrl import (
    EnvRef,
    Play,
    TaskFile,
    Teacher,
    TeacherFile,
    describe_env,
    load_teacher,
    make_config,
    play,
    reptile,
    stats,
    train,
)
from distilrl.acceptance import accept
from distilrl.comparison import Comparison
from distilrl.envs import trust
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.files import read_json, write_json
from distilrl.plain import to_plain
from distilrl.played import Acceptance
from distilrl.sensors import Sensors
from distilrl.spaces import ObsSpec
from distilrl.verdict import non_inferiority

OUT = RESULTS / "memory"
Returns = np.ndarray[Any, np.dtype[np.float64]]
NEVER = -10.0
"""A gap that ends no training before its budget is used: being good enough in a family's own members says little of
others.
"""
ROUNDS, OWN_STEPS = 60, 2_000
"""Of Reptile: rounds, which share a student's steps, and steps in each of the verdict's members."""


@dataclass(frozen=True)
class Task:
    """An environment, its teacher, and what students see of it."""

    env: str
    teacher: str
    """In FOLDER, or in zoo/."""
    steps: int
    """Budget of environment steps."""
    sees: tuple[str, ...]
    """Students that see everything."""
    hidden: str = ""
    """What the others do not see; ``noise=S``: what they see has noise of this deviation; ``flicker=P``: each frame is
    black with probability P.
    """
    blind: tuple[str, ...] = ()
    """Those."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """What the environment is made with."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """What it is made with besides where returns are counted."""
    episodes: int = 100
    """How many are counted."""
    each: int = 0
    """Or how many of each of the verdict's members, by the first of the verdict's seeds that draw it."""
    own: bool = False
    """Each member has a teacher of its own, FOLDER/TEACHER/NUMBER, which sees no more than the student."""
    rivals: tuple[str, ...] = ()
    """``dqn NETWORK``, ``reptile NETWORK``, ``randomised`` and ``raptor``, which see none of what is hidden."""

    @property
    def ref(self) -> EnvRef:
        """Where students learn."""
        return EnvRef(self.env, self.kwargs)

    @property
    def judged(self) -> EnvRef:
        """Where returns are counted."""
        return EnvRef(self.env, self.kwargs | self.verdict)


TASKS = {
    "cartpole": Task(
        "CartPole-v1", "cartpole-dqn-sb3.zip", 30_000, ("mlp:16",), "obs[1] obs[3]",
        ("mlp:16", "mlp:4@history=2", "mlp:16@history=3", "gru:5", "mlp:4+gru:4"), episodes=300,
    ),
    "cartpole-noise": Task(
        "CartPole-v1", "cartpole-dqn-sb3.zip", 30_000, (), "obs[1] obs[3] noise=0.01",
        ("mlp:16@history=3", "mlp:16@history=8", "mlp:8+gru:8", "mlp:8+gru:8@history=2"), episodes=300,
    ),
    "lunarlander": Task(
        "LunarLander-v3", "zoo/lunarlander-dqn", 150_000, ("mlp:16,16",), "obs[2:4] obs[5]",
        ("mlp:16,16", "mlp:16@history=2", "mlp:16,16@history=3", "mlp:16+gru:6", "mlp:16+gru:6@history=2"),
        episodes=300,
    ),
    "halfcheetah": Task(
        "HalfCheetah-v5", "tqc-HalfCheetah-v3.zip", 100_000, ("mlp:32,32",), "obs[8:17]",
        ("mlp:32,32", "mlp:32,32@history=3", "mlp:32+gru:12", "mlp:32+gru:12@history=2"),
    ),
    "walker2d": Task(
        "Walker2d-v5", "tqc-Walker2d-v3.zip", 100_000, ("mlp:32,32",), "obs[8:17]",
        ("mlp:32,32", "mlp:32,32@history=3", "mlp:32+gru:12", "mlp:32+gru:12@history=2"),
    ),
    "cartpoles": Task(
        "examples.family:CartPoles-v0", "zoo/cartpoles-dqn", 150_000, ("mlp:16",), "physics",
        ("mlp:16", "mlp:16@history=8", "gru:8", "mlp:16+gru:8"), verdict={"members": [100, 1100]}, episodes=300,
        rivals=("dqn mlp:64,64", "reptile mlp:16"),
    ),
    "cartpoles-own": Task(
        "examples.family:CartPoles-v0", "cartpoles-own", 150_000, (), "member",
        ("mlp:16", "mlp:16@history=8", "gru:8", "mlp:16+gru:8"), kwargs={"shows": "member"},
        verdict={"members": [100, 180]}, each=4, own=True,
    ),
    "hoppers": Task(
        "examples.family:Hoppers-v0", "zoo/hoppers-trpo/trpo.zip", 100_000, ("mlp:32,32",), "physics",
        ("mlp:32,32", "mlp:24,16@history=4", "mlp:24+gru:12", "mlp:20+gru:12@history=2"),
        verdict={"members": [100, 1100]}, rivals=("randomised",),
    ),
    "hoppers-300k": Task(
        "examples.family:Hoppers-v0", "zoo/hoppers-trpo/trpo.zip", 300_000, (), "physics",
        ("mlp:32,32", "mlp:24,16@history=4", "mlp:24+gru:12"), verdict={"members": [100, 1100]},
    ),
    "quadrotors": Task(
        "examples.family:Quadrotors-v0", "zoo/quadrotors-ppo/ppo.zip", 200_000, ("mlp:32,32",), "physics",
        ("mlp:32,32", "mlp:24,24@history=2", "mlp:16+gru:16", "mlp:16+gru:12@history=2"),
        verdict={"members": [100, 1100]}, episodes=300, rivals=("raptor", "randomised", "reptile mlp:32,32"),
    ),
    "g1": Task(
        "examples.unitree:G1-v0", "unitree_g1/motion.pt", 60_000,
        ("mlp:16", "mlp:32,32", "mlp:16@history=3", "gru:8", "gru:12", "mlp:16+gru:6", "mlp:28+gru:10"),
    ),
    "go1": Task(
        "examples.unitree:Go1-v0", "unitree_go1/policy.onnx", 20_000,
        ("mlp:16", "mlp:32,32", "mlp:16@history=3", "mlp:16+gru:8", "mlp:64,64"), kwargs={"noise": 1.0, "push": 1.0},
    ),
    "pong": Task(
        "PongNoFrameskip-v4", "zoo/pong-dqn", 48_000, (), "flicker=0.5", ("cnn:8,8,8:32", "cnn:8,8,8:32+gru:16"),
    ),
    "pong-200k": Task(
        "PongNoFrameskip-v4", "zoo/pong-dqn", 200_000, (), "flicker=0.5", ("cnn:8,8,8:32", "cnn:8,8,8:32+gru:16"),
    ),
}  # fmt: skip


@functools.cache
def taught(folder: Path, name: str) -> tuple[Teacher, Acceptance]:
    """The teacher of a task, and what 100 episodes say of it."""
    task = TASKS[name]
    os.environ.setdefault("UNITREE_MODELS", str(folder))
    trust("examples")
    teacher = read(teacher_file(folder, task.teacher), task.ref, own=task.own)
    return teacher, accept(teacher, Play(task.ref, threads=1), episodes=100)


def read(path: Path, env: EnvRef, *, own: bool = False) -> Teacher:
    """A policy, with the normaliser that lies beside it, or a folder with one for each member."""
    beside = path.with_name("vecnormalize.pkl")
    of_members: dict[str, Any] = {"member": "member", "reads": ("action", "state")} if own else {}
    file = TeacherFile(str(path), normalizer=str(beside) if beside.exists() else None, **of_members)
    return load_teacher(file).fitted(describe_env(env))


def blind(env: EnvRef) -> EnvRef:
    """A family that does not show its physics."""
    return EnvRef(env.id, env.kwargs | {"shows": "nothing"})


def seen_through(hidden: str, obs: ObsSpec) -> tuple[tuple[int, ...], Sensors]:
    """The numbers of an observation that are hidden, and the sensors through which the others are seen."""
    names, told = parts_of(hidden)
    places = tuple(place for name in names for place in obs.places(name))
    noise, flicker = (float(told.get(sensor, 0)) for sensor in ("noise", "flicker"))
    return places, Sensors((noise,) * obs.shape[0], flicker=flicker)


def parts_of(hidden: str) -> tuple[list[str], dict[str, str]]:
    """What of an observation is hidden, and what is wrong with the sensors, by name."""
    words = [word.partition("=") for word in hidden.split()]
    return [name for name, _, value in words if not value], {name: value for name, _, value in words if value}


def line(folder: Path, name: str, student: str, hidden: str, seed: int) -> dict[str, Any]:
    """One run, or the teacher, whose line of a family says which member each episode is of."""
    begun, task = time.process_time(), TASKS[name]
    returns, about = returns_of(folder, name, student, hidden, seed)
    about |= {"returns": returns.round(2).tolist(), "cpu_s": round(time.process_time() - begun, 1)}
    return about | {"members": members_of(task)} if student == "teacher" and task.verdict else about


def members_of(task: Task) -> list[int]:
    """Which member of a family each of the verdict's episodes is of."""
    return [member for _, member in drawn_by(task, seeds_of(task))]


def drawn_by(task: Task, seeds: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Each seed, and the member that it draws."""
    env = gymnasium.make(task.judged.id, **task.judged.kwargs)
    for seed in seeds:
        yield seed, int(env.reset(seed=seed)[1]["member"])


def seeds_of(task: Task) -> list[int]:
    """The seeds of the episodes that are counted."""
    if not task.each:
        return seeds_from(VERDICT_SEEDS, task.episodes)
    missing = dict.fromkeys(range(*task.verdict["members"]), task.each)
    seeds = []
    for seed, member in drawn_by(task, itertools.count(VERDICT_SEEDS)):
        if missing[member]:
            missing[member] -= 1
            seeds.append(seed)
        if not any(missing.values()):
            break
    return seeds


def returns_of(folder: Path, name: str, student: str, hidden: str, seed: int) -> tuple[Returns, dict[str, Any]]:
    """What a student, or the teacher, makes on the verdict's seeds, and how it came about."""
    task = TASKS[name]
    teacher, acceptance = taught(folder, name)
    env, seeds = task.judged, seeds_of(task)
    if student == "teacher":
        judged = accept(teacher, Play(env, threads=1), episodes=100) if task.verdict else acceptance
        told = {"random": judged.random_return_mean, **vars(Comparison().tolerance_of(judged))}
        about = {"params": teacher.params, **told}
        return play(teacher.policy, Play(env, threads=1), seeds).returns, about
    if student == "raptor":
        return raptor(env, seeds)
    if student == "randomised":  # examples/family/teach.py NAME --blind
        env = blind(env)
        alone = read(folder / f"{name}-blind" / "teacher.zip", env)
        return play(alone.policy, Play(env, threads=1), seeds).returns, {"params": alone.params}
    how, _, network = student.rpartition(" ")
    places, sensors = seen_through(hidden, describe_env(task.ref).obs)
    changes = {"network": network, "hidden_features": places, "env_steps": task.steps, "seed": seed, "threads": 1}
    changes |= {"gap": NEVER} if task.verdict else {}
    if how == "reptile":
        return adapted(task, teacher, seeds, changes)
    if how == "dqn":
        env = blind(env)
        trained = train(make_config("dqn", blind(task.ref), **changes | {"hidden_features": ()}))
    else:
        config = make_config("distil", task.ref, noise=sensors.noise, flicker=sensors.flicker, **changes)
        trained = train(config, teacher, acceptance=acceptance)
    about = {
        "params": trained.network.spec.params, "env_steps": trained.env_steps, "updates": trained.updates,
        "train_s": round(trained.train_s, 1), "stopped": trained.stopped,
    }  # fmt: skip
    return play(trained.policy, Play(env, threads=1, sensors=sensors), seeds).returns, about


def adapted(task: Task, teacher: Teacher, seeds: list[int], changes: dict[str, Any]) -> tuple[Returns, dict[str, Any]]:
    """Returns of a student for each of the verdict's members; all begin with the weights that Reptile found."""
    known = range(task.verdict["members"][0])  # those before the verdict's
    base = changes | {"learning_starts": 400, "check_episodes": 4}
    one = make_config("distil", task.env, **base | {"env_steps": task.steps // ROUNDS, "check_every": task.steps})
    start = reptile(one, [member(task, at) for at in known], teacher, rounds=ROUNDS, seed=changes["seed"])
    config = make_config("distil", task.env, **base | {"env_steps": OWN_STEPS, "check_every": OWN_STEPS})
    drawn = np.array(members_of(task))
    returns = np.zeros(len(seeds))
    for at in np.unique(drawn).tolist():
        policy = train(config.but(tasks=(TaskFile(member(task, at)),)), teacher, initial=start).policy
        own = [seed for seed, one in zip(seeds, drawn, strict=True) if one == at]
        returns[drawn == at] = play(policy, Play(task.judged, threads=1), own).returns
    return returns, {"params": start.spec.params, "env_steps": task.steps, "own_steps": OWN_STEPS}


def raptor(ref: EnvRef, seeds: list[int]) -> tuple[Returns, dict[str, Any]]:
    """Returns of RAPTOR's policy, which reads what our students do: the state, and the last action behind it."""
    from foundation_policy import Raptor

    env, policy, returns = gymnasium.make(ref.id, **ref.kwargs), Raptor(), np.zeros(len(seeds))
    for episode, seed in enumerate(seeds):
        policy.reset()
        obs, over = env.reset(seed=seed)[0], False
        while not over:
            read = np.concatenate([obs["state"], obs["action"]])[None]
            obs, reward, terminated, truncated, _ = env.step(policy.evaluate_step(read)[0].astype(np.float32))
            returns[episode] += float(reward)
            over = terminated or truncated
    return returns, {"params": 2084}


def member(task: Task, number: int) -> EnvRef:
    """An environment of one member."""
    return EnvRef(task.env, {"members": [number, number + 1]})


def run(folder: Path, names: list[str], seeds: int, jobs: int) -> None:
    """Makes the lines that are missing, seed by seed."""
    for name in names:
        task = TASKS[name]
        keys: list[dict[str, Any]] = [{"student": "teacher", "hidden": "", "seed": 0}]
        for seed in range(seeds):
            keys += [{"student": student, "hidden": "", "seed": seed} for student in task.sees]
            others = [one for one in task.blind + task.rivals if seed == 0 or one not in ("raptor", "randomised")]
            keys += [
                {"student": student, "hidden": task.hidden, "seed": seed} for student in others
            ]  # two have no seed
        fill(OUT / f"{name}.jsonl", functools.partial(line, folder, name), keys, jobs)


def own_teachers(home: Path) -> dict[str, dict[str, Any]]:
    """Of each member: what its own teacher made in the evaluation of its training, in how many steps and seconds."""
    found = {path.parent.name: read_json(path) for path in home.glob("*/results.json")}
    return {
        member: {
            "return": found[member]["student"]["return_mean"],
            **{n: found[member][n] for n in ("env_steps", "train_s")},
        }
        for member in sorted(found, key=int)
    }


@functools.cache  # for the table is in two languages
def judged(name: str) -> tuple[dict[str, Any] | None, dict[tuple[str, str], list[dict[str, Any]]]]:
    """The teacher's line of a task, and by student and what is hidden from it the others, each with its verdict."""
    lines = made(OUT / f"{name}.jsonl")
    teacher = next((one for one in lines if one["student"] == "teacher"), None)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in lines:
        if teacher is not None and one is not teacher:
            result = _verdict(np.array(one["returns"]), np.array(teacher["returns"]), teacher)
            groups.setdefault((one["student"], one["hidden"]), []).append(one | {"result": result})
    return teacher, groups


def table(names: list[str], chinese: bool = False) -> list[list[str]]:
    """A row for each kind of student: sees, parameters, seeds, score, verdicts."""
    whole, who = ("全部", "教师") if chinese else ("all of it", "teacher")
    rows = []
    for name in names:
        teacher, lines = judged(name)
        if teacher is None or not lines:
            continue
        theirs = np.array(teacher["returns"])
        where = f"{TASKS[name].env}, {TASKS[name].steps:,} {'步' if chinese else 'steps'}"
        each = "，每个成员一位教师" if chinese else ", a teacher for each member"
        where += each if TASKS[name].own else ""
        rows.append([where, who, whole, f"{teacher['params']:,}", "", f"{theirs.mean():,.1f}", ""])
        for (student, hidden), own in lines.items():
            means = [stats.mean(np.array(one["returns"])) for one in own]
            results = [one["result"] for one in own]
            told = ", ".join(f"{results.count(one)} {verdict_in_words(one, chinese)}" for one in dict.fromkeys(results))
            sees = in_words(hidden, chinese) or whole
            middle = f"{np.mean(means):,.1f}" + (f" ± {np.std(means, ddof=1):,.1f}" if len(means) > 1 else "")
            rows.append(["", student, sees, f"{own[0]['params']:,}", str(len(own)), middle, told])
    return rows


def in_words(hidden: str, chinese: bool) -> str:
    """What is hidden, as the table says it."""
    but, named = (
        ("除去", {"noise": "噪声", "flicker": "黑帧"})
        if chinese
        else ("without", {"noise": "noise", "flicker": "black frames"})
    )
    places, sensors = parts_of(hidden)
    told = [f"{but} {' '.join(places)}"] if places else []
    told += [f"{named[name]} ({value})" for name, value in sensors.items()]
    return ("，" if chinese else ", ").join(told)


def markdown(chinese: bool = False) -> str:
    """The table of docs/memory.md."""
    head = ("environment", "student", "sees", "parameters", "seeds", "return", "verdicts")
    head = ("环境", "学生", "看到", "参数", "种子数", "回报", "判定") if chinese else head
    rows = [f"| {' | '.join(row)} |" for row in table(list(TASKS), chinese)]
    return "\n".join((f"| {' | '.join(head)} |", "|---|---|---|--:|--:|--:|---|", *rows)) if rows else "Not run."


def _verdict(ours: np.ndarray, theirs: np.ndarray, teacher: dict[str, Any]) -> str:
    """As `distil` would say it after one look, of a family by its members (`--cluster member`)."""
    clusters, rng = teacher.get("members"), np.random.default_rng(0)
    return non_inferiority(ours, theirs, teacher["margin"], rng, span=teacher["span"], clusters=clusters).result


def main() -> None:
    jobs, seeds = jobs_of(sys.argv), int(taken(sys.argv, "--seeds", "1"))
    folder, what, *names = Path(sys.argv[1]), *sys.argv[2:]
    names = names or list(TASKS)
    if what == "run":
        machine(OUT, "mujoco")
        write_json(OUT / "tasks.json", {name: to_plain(task) for name, task in TASKS.items()})
        run(folder, names, seeds, jobs)
    elif what == "table":
        for row in table(names):
            print(" | ".join(row))
    elif what == "own":
        write_json(OUT / "own-teachers.json", own_teachers(folder / TASKS["cartpoles-own"].teacher))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

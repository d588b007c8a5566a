"""What L_KD = L_KL + L_adv is made of: every L_adv that was tried, and how well its student's values can be read.

    python benchmarks/case_study.py FOLDER [--jobs N] [--seeds A-B] [--ways "NAME;NAME"] [--steps N,N]
        [--students SPEC+SPEC] [ENV ...]                              # FOLDER: see methods.py
    python benchmarks/case_study.py table [--seeds A-B] [--ways "NAME;NAME"] [ENV ...]    # what is there, as Markdown
    python benchmarks/case_study.py verdicts FOLDER [--jobs N] [--seeds A-B] [ENV ...]    # as they ship: verdicts.jsonl
    python benchmarks/case_study.py values FOLDER RUN ...             # of students of results/: values.jsonl

Equal data and updates (three of 128 states for each vector step of eight environments), no early stop, the best of a
check each 1,000 steps; one line per run in results/case-study/ENV.jsonl, runs that are there already are not made
again. The ways were tried on seeds 100 to 102; what was chosen meets `distil` on seeds 0 to 4, and on 0 to 2 at the
settings that each of the two ships with, early stop and all, with a verdict of 300 episodes or more.

score, agreement   100 greedy episodes on the verdict's seeds
max, mean          Pearson correlation of max_a Q and of mean_a Q with the teacher's, on 2,000 states of these episodes
advantage          the same of all Q minus their mean over actions
error, spread      root mean square difference of max_a Q, and the standard deviation of the teacher's there
"""

import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import atari
import torch
import torch.nn.functional as F
from lines import RESULTS, fill, jobs_of, machine, made, taken, teacher_file
from methods import TABLE
from torch import Tensor

from distilrl import (
    Comparison,
    EnvRef,
    Job,
    Play,
    Policy,
    Schedule,
    Teacher,
    TrainConfig,
    describe_env,
    distill,
    load_teacher,
    losses,
    make_config,
    play,
    stats,
    term,
    train,
)
from distilrl.acceptance import accept
from distilrl.agreement import agreement
from distilrl.episodes import Episodes
from distilrl.evaluate import VERDICT_SEEDS, seeds_from
from distilrl.files import read_json
from distilrl.heads.units import units_of
from distilrl.plain import to_plain
from distilrl.played import Acceptance

OUT = RESULTS / "case-study"
RUNS = Path(__file__).parent / "runs" / "case-study"
EQUAL = {
    "updates": 3,
    "batch_size": 128,
    "n_envs": 8,
    "learning_starts": 800,
    "check_every": 1_000,
    "check_episodes": 20,
    "gap": -99.0,
    "finalists": 1,
}
BUDGETS = {
    "CartPole-v1": (6_000,),
    "Acrobot-v1": (6_000,),
    "LunarLander-v3": (10_000, 40_000),
    atari.PONG: (48_000,),
    atari.BREAKOUT: (320_000,),
}
STUDENTS = {env_id: task.students for env_id, task in TABLE.items()}
STUDENTS |= {atari.PONG: (atari.SMALL,), atari.BREAKOUT: (atari.LARGE,)}


# -- forms of the worst action's gap; differences (B, A) to (B,)


def p_norm(*, student: Tensor, teacher: Tensor) -> Tensor:
    """The 4-norm instead of the maximum, squared, of centred values."""
    return (losses.centre(student - teacher).abs() + 1e-9).pow(4).sum(1).sqrt()


def soft_maximum(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Squared gaps of centred values, each action weighted by the softmax of them."""
    gap = losses.centre(student - teacher).square()
    return (gap.detach().softmax(1) * gap).sum(1)


def centred_huber(*, student: Tensor, teacher: Tensor) -> Tensor:
    return huber(student=losses.centre(student), teacher=losses.centre(teacher))


def huber(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Half the square up to 1, a straight line beyond, of the worst action."""
    worst = (student - teacher).abs().amax(1)
    return F.huber_loss(worst, torch.zeros_like(worst), reduction="none")


def wide_cauchy(*, student: Tensor, teacher: Tensor) -> Tensor:
    """As far up as 2 units nearly a square."""
    return 2 * torch.log1p(((student - teacher).abs().amax(1) / 2).square())


def squared(*, student: Tensor, teacher: Tensor) -> Tensor:
    return 0.5 * (student - teacher).square().amax(1)


def mean_cauchy(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Of all actions the mean instead of the maximum."""
    return torch.log1p((student - teacher).square()).mean(1)


def p_norm_cauchy(*, student: Tensor, teacher: Tensor) -> Tensor:
    return torch.log1p((student - teacher).abs().add(1e-6).pow(4).mean(1).sqrt())


def state_value(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the mean over actions alone."""
    return 0.5 * (student - teacher).mean(1).square()


def state_value_huber(*, student: Tensor, teacher: Tensor) -> Tensor:
    return F.huber_loss(student.mean(1), teacher.mean(1), reduction="none")


def sharp_teacher(*, student: Tensor, teacher: Tensor) -> Tensor:
    """The KL of a teacher at a quarter of its temperature and a student at the whole of it."""
    return losses.forward_kl(student=student, teacher=4 * teacher)


# -- the ways


def in_temperatures(loss: Any, weight: Any = 0.1) -> dict[str, Any]:
    """Centred values in units of the teacher's temperature, as they were until now."""
    return {
        "terms": (term("forward_kl"), term(loss, weight=weight)),
        "scale_head": True,
        "value_units": False,
        "enough": None,
    }


def in_units(loss: Any, weight: Any = 1.0, **changes: Any) -> dict[str, Any]:
    """Values, offset and all, in units of what they vary by."""
    return {
        "terms": (term("forward_kl", student_temperature=None), term(loss, weight=weight, scale="units")),
        **changes,
    }


def and_value(loss: Any, weight: float, value: Any) -> dict[str, Any]:
    """A centred gap in temperatures, and a regression of the state's value in units of its own."""
    kl, both = term("forward_kl", student_temperature=None), {"student_temperature": None}
    return {"terms": (kl, term(loss, weight=weight, **both), term(value, scale="units"))}


WORST = term("worst_value_gap", scale="units")
BY_SCORE = Schedule(0.1, 1.0, 0.95, start=0.8, by="score")
BY_AGREEMENT = Schedule(0.1, 1.0, 0.9, start=0.7, by="agreement")
WAYS: dict[str, dict[str, Any]] = {
    "squared, 0.1 (before)": in_temperatures("worst_action_gap"),
    "a: 4-norm": in_temperatures(p_norm),
    "a: soft maximum": in_temperatures(soft_maximum),
    "b: weight 0.01": in_temperatures("worst_action_gap", 0.01),
    "b: weight 0.001": in_temperatures("worst_action_gap", 0.001),
    "c: squared + V": and_value("worst_action_gap", 0.1, state_value),
    "c: Huber + V": and_value(centred_huber, 0.1, state_value_huber),
    "d: units, squared": in_units(squared),
    "e: falling": in_temperatures("worst_action_gap", Schedule(0.1, 0.0)),
    "e: rising": in_temperatures("worst_action_gap", Schedule(0.0, 0.1)),
    "f: Huber": in_temperatures(centred_huber),
    "e: units, Cauchy, by score": in_units("worst_value_gap", BY_SCORE),
    "e: units, Huber, by agreement": in_units(huber, BY_AGREEMENT),
    "f: units, Huber": in_units(huber),
    "f: units, Huber, best check": in_units(huber, enough=None),
    "f: units, Huber, 0.3": in_units(huber, 0.3),
    "f: units, Huber, 0.1": in_units(huber, 0.1),
    "f: units, Cauchy, 0.15": in_units("worst_value_gap", 0.15),
    "f: units, Cauchy, 0.5": in_units("worst_value_gap", 0.5),
    "f: units, Cauchy, 1.5": in_units("worst_value_gap", 1.5),
    "f: units, Cauchy of 2": in_units(wide_cauchy),
    "a: units, Cauchy, mean of actions": in_units(mean_cauchy),
    "a: units, Cauchy, 4-norm": in_units(p_norm_cauchy),
    "d: units, Cauchy, centred": in_units(losses.worst_centred_gap),
    "d: units, Cauchy, dueling": in_units("worst_value_gap", dueling=True),
    "g: KL of a quarter of the temperature": {
        "terms": (term("forward_kl", sharpness=4.0, student_temperature=None), WORST)
    },
    "g: KL of a sharp teacher alone": {"terms": (term(sharp_teacher, student_temperature=None), WORST)},
    "h: the same KL alone": {"terms": (term("forward_kl", student_temperature=None),)},
}


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, of all numbers; 0 where one of them does not vary."""
    a, b = (x.double().flatten() - x.double().mean() for x in (one, other))
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30))


def watched(policy: Policy, env_id: str, episodes: int, states: int) -> Episodes:
    """Episodes on the verdict's seeds, and so many of their states."""
    how = Play(EnvRef(env_id), epsilon=atari.EPSILON.get(env_id, 0.0), keep_states=states, threads=1)
    return play(policy, how, seeds_from(VERDICT_SEEDS, episodes))


def measure(policy: Policy, teacher: Teacher, acceptance: Acceptance, env_id: str) -> dict[str, float]:
    """How it plays, and how its values can be read where it plays."""
    games = watched(policy, env_id, 100, 2000)
    states, mean = torch.as_tensor(games.states), stats.mean(games.returns)
    theirs, ours = teacher.numbers(states), policy.forward(states)[0]
    best, mine = theirs.amax(1), ours.amax(1)
    return {
        "return": mean,
        "score": stats.score(mean, acceptance.return_mean, acceptance.random_return_mean),
        "agreement": agreement(teacher, policy, games),
        "max": correlation(mine, best),
        "mean": correlation(ours.mean(1), theirs.mean(1)),
        "advantage": correlation(losses.centre(ours), losses.centre(theirs)),
        "error": float((mine - best).square().mean().sqrt()),
        "spread": float(best.std()),
    }  # fmt: skip


@functools.cache
def taught(folder: Path, env_id: str) -> tuple[Teacher, Acceptance]:
    """The teacher, and what is known of it."""
    if env_id in atari.BUDGETS:
        return atari.taught(env_id)
    teacher = load_teacher(teacher_file(folder, TABLE[env_id].teacher)).fitted(describe_env(env_id))
    return teacher, accept(teacher, Play(EnvRef(env_id), threads=1), episodes=100)


def config_of(way: str, env_id: str, student: str, seed: int, steps: int) -> TrainConfig:
    """The run: a recipe by its name, or one of `WAYS`."""
    equal = EQUAL | {"env_steps": steps}
    if env_id in atari.BUDGETS:
        equal = atari.equal(env_id) | {"env_steps": steps}
        equal |= {"average": 0.999} if env_id == atari.BREAKOUT else {}
    settings = {"network": student, "seed": seed} | equal
    if way in WAYS:
        return make_config("case_study", env_id, **settings).but(**WAYS[way])
    return make_config(way, env_id, **settings)


def line(folder: Path, env_id: str, way: str, student: str, seed: int, steps: int) -> dict[str, Any]:
    teacher, acceptance = taught(folder, env_id)
    trained = train(config_of(way, env_id, student, seed, steps), teacher, acceptance=acceptance)
    curve = [[row["env_steps"], row["score"], row["agreement"]] for row in trained.history]
    return measure(trained.policy, teacher, acceptance, env_id) | {"checks": curve}


def verdict(folder: Path, env: str, way: str, student: str, seed: int) -> dict[str, Any]:
    """A recipe at its own settings, judged; in a folder that is gone when its verdict is known."""
    out = RUNS / f"{env}, {way}, {student}, {seed}"
    config = make_config(way, env, network=student, seed=seed, threads=1)
    job, begun = Job(config, Comparison(300, disturbed_episodes=0)), (out / "config.json").is_file()
    results = distill(teacher_file(folder, TABLE[env].teacher), job, out, resume=begun)
    policy = load_teacher(out / "student").fitted(describe_env(env)).policy
    found = measure(policy, *taught(folder, env), env)
    shutil.rmtree(out)
    return {
        "verdict": to_plain(results.verdict),
        "return_mean": results.student.return_mean,
        "teacher_return_mean": results.teacher.return_mean,
        "params": results.student.params,
        "env_steps": results.env_steps,
        "stopped": results.stopped,
        "max": found["max"],
        "mean": found["mean"],
        "agreement": found["agreement"],
    }


def values(folder: Path, run: str) -> dict[str, Any]:
    """How a student of results/ plays, and how its values can be read; and on 3,000 states of 20 episodes of its
    teacher's, how far the teacher's worst action is off the mean of all in units of what is usual: median and 99 %.
    """
    student = load_teacher(RESULTS / run / "student")
    env_id = read_json(RESULTS / run / "results.json")["env"]
    teacher, acceptance = taught(folder, env_id)
    found = measure(student.fitted(describe_env(env_id)).policy, teacher, acceptance, env_id)
    states = torch.as_tensor(watched(teacher.policy, env_id, 20, 3000).states)
    numbers = torch.cat([teacher.numbers(part) for part in states.split(512)])
    worst = losses.centre(units_of([numbers]).numbers(numbers)).abs().amax(1)
    return found | {"teacher_worst": torch.quantile(worst, torch.tensor([0.5, 0.99])).tolist()}


def table(seeds: range, env_ids: list[str], ways: Sequence[str] = ()) -> str:
    """A row for each way (all that there are, or these), a column for each environment, budget and student: score (the
    least of the seeds), correlation of max Q (likewise), seeds.
    """
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    columns: dict[str, None] = {}
    for env_id in env_ids:
        known = made(OUT / f"{env_id}.jsonl")
        rows = [row for row in known if row["seed"] in seeds and (not ways or row["way"] in ways)]
        for row in sorted(rows, key=lambda row: (row["steps"], row["student"])):
            column = f"{env_id.split('-')[0]} `{row['student']}`, {row['steps']} steps"
            columns[column] = None
            cells.setdefault(row["way"], {}).setdefault(column, []).append(row)
    lines = [f"| way | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for way in (name for name in ("distil", "case_study", *WAYS) if name in cells):
        texts = [_cell(cells[way].get(column, [])) for column in columns]
        lines.append(f"| {way} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _cell(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "-"
    score, best = ([run[name] for run in runs] for name in ("score", "max"))
    return f"{stats.mean(score):.2f} ({min(score):.2f}), {stats.mean(best):.2f} ({min(best):.2f}), {len(runs)}"


def main(words: list[str]) -> None:
    jobs, ways, budgets = jobs_of(words), taken(words, "--ways", ""), taken(words, "--steps", "")
    students = taken(words, "--students", "")
    first, last = map(int, taken(words, "--seeds", "0-2" if words[0] == "verdicts" else "100-102").split("-"))
    if words[0] == "table":
        print(table(range(first, last + 1), words[1:] or list(BUDGETS), ways.split(";") if ways else ()))
        return
    machine(OUT)
    if words[0] == "verdicts":
        keys = [
            {"env": env, "way": way, "student": TABLE[env].students[0], "seed": seed}
            for seed in range(first, last + 1)
            for env in words[2:] or ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
            for way in ("distil", "case_study")
        ]
        fill(OUT / "verdicts.jsonl", functools.partial(verdict, Path(words[1])), keys, jobs)
        return
    if words[0] == "values":
        keys = [{"run": run} for run in words[2:]]
        fill(OUT / "values.jsonl", functools.partial(values, Path(words[1])), keys, jobs)
        return
    folder, env_ids = Path(words[0]), words[1:] or list(BUDGETS)
    for env_id in env_ids:
        keys = [
            {"way": way, "student": student, "seed": seed, "steps": steps}
            for steps in (map(int, budgets.split(",")) if budgets else BUDGETS[env_id])
            for seed in range(first, last + 1)
            for way in (ways.split(";") if ways else ("distil", "case_study", *WAYS))
            for student in (students.split("+") if students else STUDENTS[env_id])
        ]
        out = OUT / f"{env_id}.jsonl"
        fill(out, functools.partial(line, folder, env_id), keys, jobs)


if __name__ == "__main__":
    main(sys.argv[1:])

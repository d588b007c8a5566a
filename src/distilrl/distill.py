"""The whole job: accept the teacher, train the student, compare them, write results.json."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilrl import stats
from distilrl.checkpoints import read_json, save_network, write_json
from distilrl.config import TrainConfig
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import (
    ACCEPT_SEEDS,
    VERDICT_SEEDS,
    Comparison,
    Play,
    Tell,
    Values,
    accept,
    compare,
    latency_us,
    load_teachers,
    play,
    seeds_from,
    size,
    ticker,
)  # fmt: skip
from distilrl.plain import check_number, check_numbers, from_plain
from distilrl.recipes import recipe, settings
from distilrl.runs import RunFolder, write_metrics
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher, TeacherFile
from distilrl.train import Trained, silent, train


@dataclass(frozen=True)
class Job:
    """A distillation from beginning to end; ``config.json`` of a run folder holds one."""

    train: TrainConfig
    """How the student is trained."""
    comparison: Comparison = dataclasses.field(default_factory=Comparison)
    """How it is compared with its teacher."""
    accept_episodes: int = 20
    """Episodes of the teacher's acceptance check."""
    accept_weak_teacher: bool = False
    """Go on with a teacher that is no better than random play."""

    def __post_init__(self) -> None:
        check_numbers(self, accept_episodes="[2, inf)")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Job":
        """Reads `to_json`'s data.

        Raises:
            SpecError: a key is unknown or missing, or a value has another type or means nothing.
        """
        job: Job = from_plain(cls, data, "config.json")
        return job


def make_config(name: str, env_id: str, *, teacher: str | Path | TeacherFile | Sequence[TeacherFile] = (), **changes: Any) -> TrainConfig:
    """A recipe's configuration for an environment, with some of its fields changed; ``teacher`` is only noted down.

    Raises:
        SpecError: unknown recipe or a value that means nothing.
    """
    config = recipe(name, pixels=describe_env(env_id).pixels)
    if isinstance(teacher, str | Path):
        teacher = TeacherFile(str(teacher))
    files = (teacher,) if isinstance(teacher, TeacherFile) else tuple(teacher)
    return replace(config, env_id=env_id, teacher=files, **(settings(name, env_id) | changes))


def distill(
    teacher: Teacher | Sequence[Teacher] | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    against: Teacher | None = None,
    wandb: bool = False,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Distils a teacher into a student and proves what became of the score; or several teachers into one student of several tasks.

    Args:
        teacher: a teacher, or the file or folder that it is read from; one per task; None: what the job names.
        job: what to do.
        out: run folder.
        resume: continue the run in ``out``.
        against: whom score and verdict are about, where it is not the one who teaches (a chain of assistants).
        wandb: log to Weights & Biases too.
        tell: called as the work goes on.

    Returns:
        The contents of ``out/results.json``. With several tasks, ``out`` holds a run folder for each.

    Raises:
        DistilError: anything that the user can mend.
    """
    config = job.train
    tell = tell or silent
    tasks = config.tasks
    teachers = _teachers(teacher, config)
    infos = [describe_env(env_id) for env_id, _ in tasks]
    for one, info in zip(teachers, infos, strict=True):
        one.check_fits(info)
        NetworkSpec.parse(config.student, info.obs_shape, info.n_actions)
    started = time.perf_counter()
    folder = RunFolder(out)
    homes = [folder.of_task(env_id) if len(tasks) > 1 else folder for env_id, _ in tasks]
    if not resume:
        folder.begin(job.to_json())
    judges = [against] if against is not None else teachers
    accepted = [take_acceptance(*what, job, tell) for what in zip(judges, infos, homes, strict=True)]
    trained = train(config, teachers, acceptance=accepted, folder=folder, wandb=wandb, tell=tell)
    runs = []
    for number, (one, info, home) in enumerate(zip(judges, infos, homes, strict=True)):
        save_network(home.student, trained.networks[number], kind="q", env=info.id, recipe=config.recipe)
        one.network.cpu()
        results, episodes = results_of(one, trained, number, job, info, accepted[number], tell)
        results["wall_s"] = time.perf_counter() - started
        write_json(home.episodes, episodes)
        if len(tasks) > 1:
            write_json(home.config, replace(job, train=config.seen_from(number)).to_json())
            write_metrics(home.metrics, trained.history_of(number))
        write_json(home.results, results)
        runs.append(results)
    if len(tasks) == 1:
        return runs[0]
    together = _over_tasks(runs, trained)
    write_json(folder.results, together)
    return together


def _teachers(teacher: Teacher | Sequence[Teacher] | str | Path | None, config: TrainConfig) -> list[Teacher]:
    """The teachers themselves, one per task, from wherever they are named."""
    if isinstance(teacher, Teacher):
        return [teacher]
    if isinstance(teacher, list | tuple):
        if len(teacher) != len(config.tasks):
            raise SpecError(f"There are {len(config.tasks)} tasks but {len(teacher)} teachers: give one for each.")
        return list(teacher)
    if teacher is not None:
        return [load_teachers([TeacherFile(str(teacher))], config.env_id, config.combine)]
    if not all(files for _, files in config.tasks):
        raise SpecError("There is no teacher: name its file.")
    return [load_teachers(files, env_id, config.combine) for env_id, files in config.tasks]


def load_one(teacher: Teacher | str | Path | None, config: TrainConfig) -> Teacher:
    """The teacher of a run of one task, from wherever it is named.

    Raises:
        SpecError: there is none, or the run has several tasks.
    """
    (one, *others) = _teachers(teacher, config)
    if others:
        raise SpecError("This needs a run of one task: give one --env and its --teacher.")
    return one


def _over_tasks(runs: list[dict[str, Any]], trained: Trained) -> dict[str, Any]:
    """One student of several tasks: it passes where it passes in each."""
    verdicts = [run["verdict"]["result"] for run in runs]
    result = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    return {
        "envs": [run["env"] for run in runs],
        "recipe": runs[0]["recipe"],
        "seed": runs[0]["seed"],
        "env_steps": trained.env_steps,
        "updates": trained.updates,
        "train_s": trained.train_s,
        "student": {"params": trained.params, "score": stats.mean_score([run["student"]["score"] for run in runs])},
        "teachers": {"params": sum(run["teacher"]["params"] or 0 for run in runs)},
        "verdict": {"result": result},
        "tasks": runs,
    }


def take_acceptance(teacher: Teacher, info: EnvInfo, folder: RunFolder, job: Job, tell: Tell) -> dict[str, Any]:
    """The acceptance check, made once per run and kept in teacher.json."""
    if folder.teacher.is_file():
        known = read_json(folder.teacher)
        if known.get("sha256") != teacher.digest:
            raise ResumeError(f"The run in {folder.path} was started with another teacher (its digest differs): give it the same file.")
        return dict(known["acceptance"])
    tell("phase", {"name": "teacher"})
    how = Play(info.id, epsilon=job.train.eval_epsilon, threads=job.train.threads)
    acceptance = accept(teacher, how, episodes=job.accept_episodes, weak_ok=job.accept_weak_teacher, tick=ticker(tell))
    description = {
        "path": teacher.path,
        "sha256": teacher.digest,
        "format": teacher.format,
        "kind": teacher.kind,
        "network": teacher.name,
        "meta": teacher.meta,
        "params": teacher.params,
        "acceptance": acceptance,
    }
    write_json(folder.teacher, description)
    tell("accepted", description)
    return acceptance


def results_of(
    teacher: Teacher, trained: Trained, number: int, job: Job, info: EnvInfo, acceptance: dict[str, Any], tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that results.json holds, and what episodes.json holds beside it."""
    config, student = job.train, trained.networks[number]
    named = {"spec": student.spec.to_json(), "name": student.spec.describe(), **size(student)}
    results, episodes = compared(teacher, student, named, job, info, acceptance, tell)
    about = {
        "seed": config.seed,
        "recipe": config.recipe,
        "env_steps": trained.env_steps,
        "updates": trained.updates,
        "train_s": trained.train_s,
        "device": config.device,
        "stopped": trained.stopped,
        "temperature": trained.temperatures[number],
        "labelled_states": trained.labelled_states,
    }
    return results | about, episodes


def compared(
    teacher: Teacher, student: Values, named: dict[str, Any], job: Job, info: EnvInfo, acceptance: dict[str, Any], tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What results.json holds of teacher, student and verdict, and all of episodes.json; ``named`` says what the student is."""
    tell("phase", {"name": "verdict"})
    config, random = job.train, acceptance["random_return_mean"]
    how = Play(info.id, epsilon=config.eval_epsilon, threads=config.threads)
    parts = compare(teacher, student, how, job.comparison, random, noise=config.obs_noise, tick=ticker(tell))
    results = {
        "env": info.id,
        "protocol": info.protocol | {"epsilon": config.eval_epsilon},
        "wall_s": 0.0,
        "teacher": {
            "format": teacher.format,
            **teacher.size(),
            **parts["teacher"],
            "latency_us": latency_us(teacher.network, info.obs_shape, info.obs_dtype),
        },
        "random": {"return_mean": random},
        "student": named | parts["student"] | {"latency_us": latency_us(student, info.obs_shape, info.obs_dtype)},
        **{name: parts[name] for name in ("agreement", "verdict", "disturbed")},
    }
    return results, {name: parts[name] for name in ("returns", "disagreements")}


def train_teacher(
    config: TrainConfig, out: str | Path, *, resume: bool = False, episodes: int = 100, wandb: bool = False, tell: Tell | None = None
) -> dict[str, Any]:
    """Trains a teacher with TD terms alone and evaluates its best checkpoint; ``out`` then is a teacher, and ``teacher.json`` its card.

    Returns:
        The contents of ``out/results.json``.
    """
    check_number("episodes", episodes, "[1, inf)")
    tell = tell or silent
    folder = RunFolder(out)
    if not resume:
        folder.begin(Job(config).to_json())
    trained = train(config, None, folder=folder, wandb=wandb, tell=tell)
    tell("phase", {"name": "verdict"})
    result = evaluate_policy(trained.network, config.env_id, episodes=episodes, threads=config.threads, tell=tell)
    card = {"return_mean": result["return_mean"], "return_ci95": result["return_ci95"], "episodes": result["episodes"]}
    save_network(folder.student, trained.network, kind="q", env=config.env_id, recipe=config.recipe, result=card)
    results = {
        "env": config.env_id,
        "seed": config.seed,
        "recipe": config.recipe,
        "env_steps": trained.env_steps,
        "updates": trained.updates,
        "train_s": trained.train_s,
        "stopped": trained.stopped,
        "student": {"name": trained.network.spec.describe(), **size(trained.network), **result},
    }
    about = {name: results[name] for name in ("env", "recipe", "env_steps", "updates", "train_s")}
    about["protocol"] = describe_env(config.env_id).protocol
    about["seeds"] = {"training": config.seed, "verdict": [VERDICT_SEEDS, VERDICT_SEEDS + episodes - 1]}
    command = f"distilrl train-teacher --config {folder.config} --out NEW_FOLDER"
    write_json(folder.teacher, about | {"network": trained.network.spec.describe(), **card, "command": command})
    write_json(folder.results, results)
    return results


def evaluate_policy(
    policy: Any,
    env_id: str,
    *,
    episodes: int = 100,
    epsilon: float = 0.0,
    sticky: float | None = None,
    threads: int = 2,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Greedy full episodes of a `Teacher` or `Network` on the verdict's seeds.

    Returns:
        ``return_mean``, ``return_iqm``, ``return_ci95``, ``episodes``, ``distinct_episodes`` and ``params``.
    """
    check_number("episodes", episodes, "[1, inf)")
    if isinstance(policy, Teacher):
        policy.check_fits(describe_env(env_id))
    values = policy.action_values if isinstance(policy, Teacher) else policy
    how = Play(env_id, epsilon=epsilon, sticky=sticky, threads=threads)
    games = play(values, how, seeds_from(VERDICT_SEEDS, episodes), tick=ticker(tell) if tell else None)
    params = policy.params if isinstance(policy, Teacher) else policy.spec.params
    return {**stats.summarise(games.returns, np.random.default_rng(0), games.fingerprints), "params": params}


def evaluate_against(
    policy: Teacher,
    other: Teacher,
    env_id: str,
    *,
    episodes: int = 100,
    margin: float = 0.05,
    epsilon: float = 0.0,
    sticky: float | None = None,
    threads: int = 2,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Two policies on the verdict's seeds, and whether the first falls short of the other by less than the margin; one look.

    Returns:
        ``policy`` and ``against`` as `evaluate_policy` gives them, ``random``, ``agreement`` on the states of either, and ``verdict``.
    """
    comparison = Comparison(episodes, episodes, disturbed_episodes=0, margin=margin)
    info = describe_env(env_id)
    for one in (policy, other):
        one.check_fits(info)
    tick = ticker(tell) if tell else None
    how = Play(env_id, epsilon=epsilon, sticky=sticky, threads=threads)
    random = stats.mean(play(other.action_values, replace(how, epsilon=1.0), seeds_from(ACCEPT_SEEDS, 20)).returns)
    parts = compare(other, policy.action_values, how, comparison, random, tick=tick)
    return {
        "policy": parts["student"] | {"params": policy.params},
        "against": parts["teacher"] | {"params": other.params},
        "random": {"return_mean": random},
        "agreement": parts["agreement"],
        "verdict": parts["verdict"],
    }

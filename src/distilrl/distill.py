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
from distilrl.errors import FileError, ResumeError, SpecError
from distilrl.evaluate import (
    VERDICT_SEEDS,
    Comparison,
    Play,
    Tell,
    accept,
    compare,
    latency_us,
    load_teachers,
    play,
    seeds_from,
    size,
    ticker,
)  # fmt: skip
from distilrl.networks import NetworkSpec
from distilrl.recipes import recipe, settings
from distilrl.runs import RunFolder
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

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Job":
        """Reads `to_json`'s data; an unknown key is refused."""
        try:
            rest = {k: v for k, v in data.items() if k not in ("train", "comparison")}
            return cls(TrainConfig.from_json(data["train"]), Comparison(**data["comparison"]), **rest)
        except (KeyError, TypeError) as error:
            raise SpecError(f"The configuration is damaged or of another version ({error}): start a new run.") from None


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
    teacher: Teacher | str | Path | None, job: Job, out: str | Path, *, resume: bool = False, wandb: bool = False, tell: Tell | None = None
) -> dict[str, Any]:
    """Distils a teacher into a student and proves what became of the score.

    Args:
        teacher: a teacher, or the file or folder that it is read from; None: what the job names.
        job: what to do.
        out: run folder.
        resume: continue the run in ``out``.
        wandb: log to Weights & Biases too.
        tell: called as the work goes on.

    Returns:
        The contents of ``out/results.json``.

    Raises:
        DistilError: anything that the user can mend.
    """
    config = job.train
    tell = tell or silent
    teacher = _teacher(teacher, config)
    info = describe_env(config.env_id)
    teacher.check_fits(info)
    NetworkSpec.parse(config.student, info.obs_shape, info.n_actions)
    started = time.perf_counter()
    folder = RunFolder(out)
    if not resume:
        folder.begin(job.to_json())
    acceptance = _acceptance(teacher, job, folder, tell)
    trained = train(config, teacher, acceptance=acceptance, folder=folder, wandb=wandb, tell=tell)
    save_network(folder.student, trained.network, kind="q", env=config.env_id, recipe=config.recipe)
    teacher.network.cpu()
    results, episodes = _results(teacher, trained, job, info, acceptance, tell)
    results["wall_s"] = time.perf_counter() - started
    write_json(folder.episodes, episodes)
    write_json(folder.results, results)
    return results


def _teacher(teacher: Teacher | str | Path | None, config: TrainConfig) -> Teacher:
    """The teacher itself, from wherever it is named."""
    if isinstance(teacher, Teacher):
        return teacher
    files = config.teacher if teacher is None else (TeacherFile(str(teacher)),)
    if not files:
        raise SpecError("There is no teacher: name its file.")
    return load_teachers(files, config.env_id)


def _acceptance(teacher: Teacher, job: Job, folder: RunFolder, tell: Tell) -> dict[str, Any]:
    """The acceptance check, made once per run and kept in teacher.json."""
    if folder.teacher.is_file():
        known = read_json(folder.teacher)
        if known.get("sha256") != teacher.digest:
            raise ResumeError(f"The run in {folder.path} was started with another teacher (its digest differs): give it the same file.")
        return dict(known["acceptance"])
    tell("phase", {"name": "teacher"})
    how = Play(job.train.env_id, epsilon=job.train.eval_epsilon, threads=job.train.threads)
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


def _results(
    teacher: Teacher, trained: Trained, job: Job, info: EnvInfo, acceptance: dict[str, Any], tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that results.json holds, and what episodes.json holds beside it."""
    tell("phase", {"name": "verdict"})
    config = job.train
    how = Play(config.env_id, epsilon=config.eval_epsilon, threads=config.threads)
    parts = compare(teacher, trained.network, how, job.comparison, acceptance["random_return_mean"], tick=ticker(tell))
    results = {
        "env": config.env_id,
        "protocol": info.protocol | {"epsilon": config.eval_epsilon},
        "seed": config.seed,
        "recipe": config.recipe,
        "env_steps": trained.env_steps,
        "updates": trained.updates,
        "train_s": trained.train_s,
        "wall_s": 0.0,
        "device": config.device,
        "stopped": trained.stopped,
        "temperature": trained.temperature,
        "teacher": {
            "format": teacher.format,
            **teacher.size(),
            **parts["teacher"],
            "latency_us": latency_us(teacher.action_values, info.obs_shape, info.obs_dtype),
        },
        "random": {"return_mean": acceptance["random_return_mean"]},
        "student": {
            "spec": trained.network.spec.to_json(),
            "name": trained.network.spec.describe(),
            **size(trained.network),
            **parts["student"],
            "latency_us": latency_us(trained.network, info.obs_shape, info.obs_dtype),
        },
        **{name: parts[name] for name in ("agreement", "verdict", "disturbed")},
    }
    return results, {name: parts[name] for name in ("returns", "disagreements")}


def distill_seeds(
    teacher: Teacher | str | Path | None, job: Job, out: str | Path, seeds: int, *, wandb: bool = False, tell: Tell | None = None
) -> dict[str, Any]:
    """Trains one student per seed in ``out/seed-K`` and takes the seed as the unit of replication.

    A seed whose folder holds results is not run again, and one that was cut short is resumed.

    Returns:
        The contents of ``out/results.json``: the runs' results, and over seeds the mean return, its 95 % Student t
        interval, and the verdict on the difference to the teacher.
    """
    folder = RunFolder(out)
    runs = []
    for seed in range(job.train.seed, job.train.seed + seeds):
        one = RunFolder(folder.path / f"seed-{seed}")
        if one.results.is_file():
            runs.append(read_json(one.results))
            continue
        job_of_seed = replace(job, train=replace(job.train, seed=seed))
        if one.config.is_file() and Job.from_json(one.read_config()) != job_of_seed:
            raise FileError(f"{one.path} holds a run of another configuration: choose another --out.")
        runs.append(distill(teacher, job_of_seed, one.path, resume=one.config.is_file(), wandb=wandb, tell=tell))
    results = _over_seeds(runs)
    write_json(folder.results, results)
    return results


def _over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics with the training seed as the unit."""
    means = np.array([run["student"]["return_mean"] for run in runs])
    differences = np.array([run["verdict"]["difference"] for run in runs])
    margin = float(np.mean([run["verdict"]["margin"] for run in runs]))
    interval, difference = stats.t_interval(means), stats.t_interval(differences)
    verdict = "pass" if difference[0] > -margin else "fail" if difference[1] < -margin else "inconclusive"
    return {
        "env": runs[0]["env"],
        "recipe": runs[0]["recipe"],
        "seeds": [run["seed"] for run in runs],
        "student": {
            "name": runs[0]["student"]["name"],
            "params": runs[0]["student"]["params"],
            "return_mean": stats.mean(means),
            "return_iqm": stats.iqm(means),
            "return_ci95": list(interval),
            "score": stats.mean([run["student"]["score"] for run in runs]),
        },
        "verdict": {
            "result": verdict,
            "margin": margin,
            "difference": stats.mean(differences),
            "difference_ci95": list(difference),
            "unit": "training seed",
        },
        "runs": runs,
    }


def train_teacher(
    config: TrainConfig, out: str | Path, *, resume: bool = False, episodes: int = 100, wandb: bool = False, tell: Tell | None = None
) -> dict[str, Any]:
    """Trains a teacher with TD terms alone and evaluates its best checkpoint; ``out`` then is a teacher, and ``teacher.json`` its card.

    Returns:
        The contents of ``out/results.json``.
    """
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
    if episodes < 1:
        raise SpecError(f"--episodes must be at least 1, got {episodes}.")
    if isinstance(policy, Teacher):
        policy.check_fits(describe_env(env_id))
    values = policy.action_values if isinstance(policy, Teacher) else policy
    how = Play(env_id, epsilon=epsilon, sticky=sticky, threads=threads)
    games = play(values, how, seeds_from(VERDICT_SEEDS, episodes), tick=ticker(tell) if tell else None)
    params = policy.params if isinstance(policy, Teacher) else policy.spec.params
    return {**stats.summarise(games.returns, np.random.default_rng(0), games.fingerprints), "params": params}

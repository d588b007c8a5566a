"""What is to be done: a job, its configuration, its teachers, and all that can be refused before a step is taken."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from distilrl import evolution
from distilrl.comparison import Comparison, played_once
from distilrl.config import TaskFile, TrainConfig
from distilrl.devices import check_device
from distilrl.envs import asked_of, describe_env, trust
from distilrl.errors import SpecError
from distilrl.evaluate import load_teachers
from distilrl.features import refuse_memory, start_from
from distilrl.heads import student_head
from distilrl.learner import make_pupils
from distilrl.networks import build
from distilrl.objective import FeatureTerm, check_terms
from distilrl.origins import FIELD
from distilrl.plain import check_fields, read_as, to_plain
from distilrl.recipes import recipe, settings
from distilrl.runs import RunFolder
from distilrl.shards import Collectors
from distilrl.spaces import EnvRef, env_ref
from distilrl.specs import activation_of, has_cell, suited
from distilrl.stream import check_labels, check_views
from distilrl.teachers import Teacher, TeacherFile, read_teacher
from distilrl.widths import between

ACCEPT_MORE = 16
"""Times as many episodes of the acceptance check where it is unclear: five looks."""


@dataclass(frozen=True)
class Job:
    """A distillation from beginning to end; ``config.json`` of a run folder holds one."""

    train: TrainConfig
    """How the student is trained."""
    comparison: Comparison = dataclasses.field(default_factory=Comparison)
    """How it is compared with its teacher."""
    accept_episodes: int = 20
    """Episodes of the teacher's acceptance check."""
    accept_max_episodes: int | None = None
    """While these do not tell the teacher from random play they are doubled, up to this many; None: `ACCEPT_MORE` times
    as many, and no more where a weak teacher is taken anyway."""
    accept_weak_teacher: bool = False
    """Go on with a teacher that is no better than random play."""
    verdict_env: EnvRef | None = None
    """Where the verdict is played and what it is about accepted: years, images or physics that training never sees.
    None: where training is."""

    def __post_init__(self) -> None:
        check_fields(self, accept_episodes="[2, inf)", accept_max_episodes=f"[{self.accept_episodes}, inf)")
        if self.verdict_env is not None and len(self.train.tasks) > 1:
            raise SpecError("A verdict in another environment is of one task: give one, or leave 'verdict_env' out.")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Job":
        """Reads `to_json`'s data, or a config.json, which says beside the job what its folder is of.

        Raises:
            SpecError: a key is unknown or missing, or a value has another type or means nothing.
        """
        return read_as(cls, {k: v for k, v in data.items() if k not in ("kind", "given", FIELD)}, "config.json")


@dataclass(frozen=True)
class Machines:
    """Where parts of a run are computed; what comes of it does not depend on that."""

    collectors: Collectors | None = None
    """Who hosts the shards of a run in rounds; None: this process."""
    executor: Executor | None = None
    """Where parts of an evaluation are played at the same time; None: here."""


HERE = Machines()
"""All in this process."""


def _check_verdict_env(job: Job) -> None:
    if job.verdict_env is None:
        return
    here, there = describe_env(job.train.env), describe_env(job.verdict_env)
    if (here.obs.shape, here.action) != (there.obs.shape, there.action):
        raise SpecError(
            f"The verdict's environment {there.ref.label} has observations of shape {there.obs.shape} and "
            f"{there.action.describe()}, and training's has {here.obs.shape} and {here.action.describe()}: both "
            "must be the same."
        )
    if here.obs.names != there.obs.names:
        other, one = next(pair for pair in zip(there.obs.names, here.obs.names, strict=True) if pair[0] != pair[1])
        raise SpecError(
            f"The verdict's environment {there.ref.label} shows {other} where training's shows {one}: both must show "
            "the same numbers in the same order."
        )


@contextmanager
def claimed(folder: RunFolder, job: Job, *, kind: str = "run", resume: bool = False, **given: Any) -> Iterator[None]:
    """Holds a folder for a job while it is done: begun new or, with ``resume``, continued as the same job.

    What fails before anything else is written leaves nothing behind, so that the job can be begun again once that is
    mended.

    Raises:
        FileError: a new job, and the folder holds something already; or none to continue.
        ResumeError: the folder holds another job.
    """
    check_device(job.train.compute.device)
    _check_verdict_env(job)
    for ref in (*(task.env for task in job.train.tasks), *([job.verdict_env] if job.verdict_env is not None else [])):
        if ref.named:  # by the user, not by a file: the report that follows may import what was named here
            trust(*asked_of(ref))
    with folder.lock(), played_once():
        if resume:
            folder.continue_(job.to_json(), kind=kind, given=given, complete=lambda data: Job.from_json(data).to_json())
        else:
            folder.begin(job.to_json(), kind=kind, given=given)
        try:
            yield
        except Exception:
            if not resume:
                folder.abandon()
            raise


def make_config(
    name: str | Callable[..., TrainConfig],
    env: str | EnvRef | Callable[..., Any],
    *,
    teacher: str | Path | TeacherFile | Sequence[str | Path | TeacherFile] = (),
    **changes: Any,
) -> TrainConfig:
    """A recipe's configuration for an environment, with some of its settings changed; ``teacher`` is only noted down.

    Args:
        name: of a recipe, or a function of yours from `EnvInfo` to a configuration.
        env: a Gymnasium id, an `EnvRef`, or a function that makes the environment.
        teacher: file or files of the teacher.
        changes: settings by their own names, as `TrainConfig.but` takes them; a ``network`` that names no activation
            gets the one of `suited`.

    Raises:
        SpecError: unknown recipe or setting, or a value that means nothing.

    Example::

        config = make_config("distil", "HalfCheetah-v5", teacher="tqc.zip", network="mlp:32,32")
    """
    ref = env_ref(env)
    info = describe_env(ref)
    config = recipe(name, info)
    known = settings(name, ref.id) if isinstance(name, str) else {}
    known = {"tasks": (TaskFile(ref, cast("Any", teacher)),)} | known
    if isinstance(name, str) and ":" not in name:  # a recipe of the user's own has decided that
        known |= _for_cell(config, changes)
    config = config.but(**(known | changes))
    if config.student.start != "new":  # the teacher's weights and its activation belong together
        return config
    network, before = suited(config.student.network, real=student_head(info.action).real), config.student.prune_from
    if before is not None and activation_of(before) is None and (activation := activation_of(network)) is not None:
        before = f"{before}@{activation}"
    return config.but(network=network, prune_from=before)


def _for_cell(config: TrainConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """What suits a student with a cell, whose steps follow each other: an update of four times as many states takes
    hardly longer, and half as many of them are needed.
    """
    network = changes.get("network", config.student.network)
    if not isinstance(network, str) or not has_cell(network) or {"batch_size", "updates"} & set(changes):
        return {}
    return {"batch_size": 4 * config.optim.batch_size, "updates": -(-config.optim.updates // 2)}


def teachers_of(
    teacher: Teacher | str | Path | Sequence[Teacher | str | Path] | None, config: TrainConfig
) -> list[Teacher]:
    """The teachers themselves, one per task, each fitted to its environment, from wherever they are named."""
    refs = [task.env for task in config.tasks]
    if teacher is not None:
        given = [teacher] if isinstance(teacher, str) or not isinstance(teacher, Sequence) else list(teacher)
        if len(given) != len(refs):
            raise SpecError(f"There are {len(refs)} tasks but {len(given)} teachers: give one for each.")
        return [read_teacher(one).fitted(describe_env(ref)) for one, ref in zip(given, refs, strict=True)]
    if not refs or not all(task.teacher for task in config.tasks):
        raise SpecError(
            "There is no teacher: name its file, or call distilrl.distill with it again where it was a function."
        )
    return [load_teachers(task.teacher, task.env, config.combine) for task in config.tasks]


def with_files(teacher: Any, job: Job) -> tuple[Any, Job]:
    """A job that names the files in the place of teachers that were given as such, so that config.json names them too;
    other teachers, and the same job, where they were not.

    Raises:
        SpecError: it is no job.
    """
    if not isinstance(job, Job):
        raise SpecError(f"'job' must be a Job, got {job!r:.80}: write Job(config).")
    given = [teacher] if isinstance(teacher, str | Path) else teacher if isinstance(teacher, list | tuple) else []
    tasks = job.train.tasks
    if not given or len(given) != len(tasks) or not all(isinstance(one, str | Path) for one in given):
        return teacher, job
    named = tuple(replace(task, teacher=(TeacherFile(str(one)),)) for task, one in zip(tasks, given, strict=True))
    return None, replace(job, train=job.train.but(tasks=named))


def load_one(teacher: Teacher | str | Path | None, config: TrainConfig) -> Teacher:
    """The teacher of a run of one task, from wherever it is named.

    Raises:
        SpecError: there is none, or the run has several tasks.
    """
    (one, *others) = teachers_of(teacher, config)
    if others:
        raise SpecError("This needs a run of one task: give one --env and its --teacher.")
    return one


def try_student(config: TrainConfig, teachers: Sequence[Teacher]) -> None:
    """Makes the student once, to be thrown away: what cannot be is said before a step is taken or a file written.

    Raises:
        SpecError: what the job asks for cannot be made.
    """
    student, specs, fitted, generator = config.student, [], [], torch.Generator().manual_seed(0)
    for one, task in zip(teachers, config.tasks, strict=True):
        check_terms(config.terms, one.head)
        check_labels(config, remembers=one.policy.remembers, who=one.path)
        if any(isinstance(term, FeatureTerm) for term in config.terms):
            refuse_memory(one.network)
        info = describe_env(task.env)
        check_views(config, info)
        fitted.append(one.fitted(info))
        of = info.obs, one.head.student.width
        spec = student.spec(*of)
        specs.append(student.spec(*of, student.prune_from))
        between(specs[-1], spec, 0.0)
        if config.reward.env_steps > 0:
            evolution.refuse_images(spec)
        if student.prune_from is not None:
            start_from(build(spec, generator), build(specs[-1], generator), "strongest")
    specs = [replace(spec, dueling=student.dueling) for spec in specs]
    heads, (device, *others) = [one.head.student for one in fitted], list({one.policy.device for one in fitted})
    if others:  # until each stream has moved its own
        return
    pupils = make_pupils(specs, heads, fitted, config.terms, student, generator, device)
    for pupil, one in zip(pupils, fitted, strict=True):
        if student.start != "new":
            start_from(pupil.student, one.plain, "strongest")  # refused as "svd" is, and found sooner

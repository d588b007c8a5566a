"""The whole job: accept the teacher, train the student, compare them, write results.json."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch

from distilrl.checkpoints import read_json, save_network, write_json
from distilrl.comparison import Comparison, compare
from distilrl.config import TaskFile, TrainConfig
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import Play, accept, latency_us, load_teachers, size
from distilrl.events import Accepted, Phase, Watch, silent
from distilrl.features import start_from
from distilrl.heads import student_head
from distilrl.networks import build_shared, reuse_head
from distilrl.objective import check_terms
from distilrl.plain import check_numbers, from_plain, read_as
from distilrl.played import Acceptance, RandomPlay, SingleEpisodes, TeacherCard
from distilrl.policies import Policy
from distilrl.recipes import recipe, settings
from distilrl.results import Distilling, Made, Results, StudentSide, TasksResults, TeacherSide, Training
from distilrl.runs import RunFolder, described, write_metrics
from distilrl.spaces import EnvRef, env_ref
from distilrl.specs import NetworkSpec, between, spelled, suited
from distilrl.teachers import Teacher, TeacherFile
from distilrl.train import train
from distilrl.trained import Trained


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
        return dataclasses.asdict(self) | {"train": self.train.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Job":
        """Reads `to_json`'s data, or a config.json, which says beside the job what its folder is of.

        Raises:
            SpecError: a key is unknown or missing, or a value has another type or means nothing.
        """
        job: Job = from_plain(cls, {k: v for k, v in data.items() if k not in ("kind", "given")}, "config.json")
        return job


@contextmanager
def claimed(folder: RunFolder, job: Job, *, kind: str = "run", resume: bool = False, **given: Any) -> Iterator[None]:
    """Holds a folder for a job while it is done: begun new or, with ``resume``, continued as the same job.

    What fails before anything else is written leaves nothing behind, so that the job can be begun again once that is
    mended.

    Raises:
        FileError: a new job, and the folder holds something already; or none to continue.
        ResumeError: the folder holds another job.
    """
    there = folder.path.exists()
    if resume:
        folder.continue_(job.to_json(), kind=kind, given=given, complete=lambda data: Job.from_json(data).to_json())
    else:
        folder.begin(job.to_json(), kind=kind, given=given)
    try:
        yield
    except Exception:
        if not resume:
            folder.abandon()
            if not there and not any(folder.path.iterdir()):
                folder.path.rmdir()
        raise


def make_config(
    name: str | Callable[..., TrainConfig],
    env: str | EnvRef | Callable[..., Any],
    *,
    teacher: str | Path | TeacherFile | Sequence[TeacherFile] = (),
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
    config = recipe(name, info) if isinstance(name, str) else name(info)
    if isinstance(teacher, str | Path):
        teacher = TeacherFile(str(teacher))
    files = (teacher,) if isinstance(teacher, TeacherFile) else tuple(teacher)
    known = settings(name, ref.id) if isinstance(name, str) else {}
    config = config.but(**({"tasks": (TaskFile(ref, files),)} | known | changes))
    if config.student.start != "new":  # the teacher's weights and its activation belong together
        return config
    real, before = student_head(info.action).real, config.student.prune_from
    return config.but(
        network=suited(config.student.network, real=real), prune_from=before and suited(before, real=real)
    )


@overload
def distill(
    teacher: Teacher | str | Path,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    against: Teacher | None = None,
    wandb: bool = False,
    watch: Watch = silent,
) -> Results: ...


@overload
def distill(
    teacher: Sequence[Teacher] | None,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    against: Teacher | None = None,
    wandb: bool = False,
    watch: Watch = silent,
) -> Results | TasksResults: ...


def distill(
    teacher: Teacher | Sequence[Teacher] | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    against: Teacher | None = None,
    wandb: bool = False,
    watch: Watch = silent,
) -> Results | TasksResults:
    """Distils a teacher into a student and proves what became of the score; or several teachers into one student of
    several tasks.

    Args:
        teacher: a teacher, or the file or folder that it is read from; one per task; None: what the job names.
        job: what to do.
        out: run folder.
        resume: continue the run in ``out``, which must be of the same job.
        against: whom score and verdict are about, where it is not the one who teaches (a chain of assistants).
        wandb: log to Weights & Biases too.
        watch: told of what happens.

    Returns:
        The contents of ``out/results.json``: `Results`, or `TasksResults` of several tasks, of which ``out`` then holds
        a run folder each.

    Raises:
        DistilError: anything that the user can mend.

    Example::

        results = distill("ppo.zip", Job(make_config("distil", "CartPole-v1")), "runs/cartpole")
        results.verdict.result, results.student.return_mean
    """
    config = job.train
    teachers = _teachers(teacher, config)
    _check_student(config, teachers)
    folder = RunFolder(out)
    with claimed(folder, job, resume=resume):
        judges = [against] if against is not None else teachers
        runs, trained = run_job(teachers, job, folder, judges, wandb=wandb, watch=watch)
        if len(runs) == 1:
            return runs[0]
        together = TasksResults.of(runs, trained.params)
        write_json(folder.results, together.to_json())
        return together


def _check_student(config: TrainConfig, teachers: Sequence[Teacher]) -> None:
    """Makes the student once, to be thrown away: what cannot be is said before a step is taken or a file written.

    Raises:
        SpecError: what the job asks for cannot be made.
    """
    student, specs, generator = config.student, [], torch.Generator().manual_seed(0)
    for one, task in zip(teachers, config.tasks, strict=True):
        check_terms(config.terms, one.head)
        of = describe_env(task.env).obs, one.head.student.width
        spec = NetworkSpec.of(student.network, *of)
        specs.append(spec if student.prune_from is None else NetworkSpec.of(student.prune_from, *of))
        between(specs[-1], spec, 0.0)
    for network, one in zip(build_shared(specs, generator, student.share), teachers, strict=True):
        if student.reused_head:
            reuse_head(network, one.network, generator)
        if student.start != "new":
            start_from(network, one.network, "strongest")  # refused as "svd" is, and found sooner


def run_job(
    teachers: Sequence[Teacher],
    job: Job,
    folder: RunFolder,
    judges: Sequence[Teacher],
    *,
    wandb: bool = False,
    watch: Watch = silent,
) -> tuple[list[Results], Trained]:
    """What `distill` does in a folder that is held for it; ``judges`` are whom score and verdict are about, one per
    task.

    Returns:
        The results of each task, and what training gave.
    """
    config, tasks = job.train, job.train.tasks
    infos = [describe_env(task.env) for task in tasks]
    started = time.perf_counter()
    homes = [folder.of_task(task.env.label) if len(tasks) > 1 else folder for task in tasks]
    known = [_acceptance(*what, job, watch) for what in zip(judges, infos, homes, strict=True)]
    for home, card in zip(homes, known, strict=True):  # once all are accepted: a refusal leaves nothing behind
        write_json(home.teacher, card.to_json())
    accepted = [card.acceptance for card in known]
    trained = train(config, teachers, acceptance=accepted, folder=folder, wandb=wandb, watch=watch)
    runs = []
    for number, (one, info, home) in enumerate(zip(judges, infos, homes, strict=True)):
        save_student(home, trained, number, info, config)
        one.to("cpu")
        results, episodes = results_of(one, trained, number, job, info, accepted[number], watch)
        results = replace(results, wall_s=time.perf_counter() - started)
        write_json(home.episodes, episodes.to_json())
        if len(tasks) > 1:
            write_json(home.config, described(replace(job, train=config.seen_from(number)).to_json(), "task"))
            write_metrics(home.metrics, trained.history_of(number))
        write_json(home.results, results.to_json())
        runs.append(results)
    return runs, trained


def save_student(
    folder: RunFolder, trained: Trained, number: int, info: EnvInfo, config: TrainConfig, **more: Any
) -> None:
    """Writes the student of a task into its run folder, with all that playing and exporting it needs."""
    about: dict[str, Any] = {"env": info.id, "environment": info.ref.to_json(), "recipe": config.recipe}
    save_network(folder.student, trained.networks[number], trained.heads[number], **about, **more)


def training_of(trained: Trained, config: TrainConfig) -> Training:
    """How a policy was trained, as results say it, whether somebody taught it or not."""
    return Training(
        seed=config.seed,
        recipe=config.recipe,
        env_steps=trained.env_steps,
        updates=trained.updates,
        train_s=trained.train_s,
        stopped=trained.stopped,
    )


def _teachers(teacher: Teacher | Sequence[Teacher] | str | Path | None, config: TrainConfig) -> list[Teacher]:
    """The teachers themselves, one per task, each fitted to its environment, from wherever they are named."""
    refs = [task.env for task in config.tasks]
    if isinstance(teacher, str | Path):
        teacher = load_teachers([TeacherFile(str(teacher))], config.env, config.combine)
    if teacher is not None:
        given = [teacher] if isinstance(teacher, Teacher) else list(teacher)
        if len(given) != len(refs):
            raise SpecError(f"There are {len(refs)} tasks but {len(given)} teachers: give one for each.")
        return [one.fitted(describe_env(ref)) for one, ref in zip(given, refs, strict=True)]
    if not refs or not all(task.teacher for task in config.tasks):
        raise SpecError("There is no teacher: name its file.")
    return [load_teachers(task.teacher, task.env, config.combine) for task in config.tasks]


def load_one(teacher: Teacher | str | Path | None, config: TrainConfig) -> Teacher:
    """The teacher of a run of one task, from wherever it is named.

    Raises:
        SpecError: there is none, or the run has several tasks.
    """
    (one, *others) = _teachers(teacher, config)
    if others:
        raise SpecError("This needs a run of one task: give one --env and its --teacher.")
    return one


def take_acceptance(teacher: Teacher, info: EnvInfo, folder: RunFolder, job: Job, watch: Watch) -> Acceptance:
    """The acceptance check, made once per run and kept in teacher.json."""
    card = _acceptance(teacher, info, folder, job, watch)
    write_json(folder.teacher, card.to_json())
    return card.acceptance


def _acceptance(teacher: Teacher, info: EnvInfo, folder: RunFolder, job: Job, watch: Watch) -> TeacherCard:
    """What teacher.json shall say, or says already."""
    if folder.teacher.is_file():
        known = read_as(TeacherCard, read_json(folder.teacher), str(folder.teacher))
        if known.sha256 != teacher.digest:
            raise ResumeError(
                f"The run in {folder.path} was started with another teacher (its digest differs): give it the same "
                "file."
            )
        return known
    watch(Phase("teacher"))
    acceptance = accept(
        teacher, _how(info, job.train), episodes=job.accept_episodes, weak_ok=job.accept_weak_teacher, watch=watch
    )
    card = TeacherCard(
        path=teacher.path,
        sha256=teacher.digest,
        format=teacher.format,
        kind=teacher.kind,
        head=teacher.head.to_json(),
        network=teacher.name,
        meta=teacher.meta,
        params=teacher.params,
        acceptance=acceptance,
    )
    watch(Accepted(card))
    return card


def _how(info: EnvInfo, config: TrainConfig) -> Play:
    """How teacher and student are played."""
    return Play(info.ref, epsilon=config.eval_epsilon, threads=config.compute.threads, workers=config.data.workers)


def results_of(
    teacher: Teacher, trained: Trained, number: int, job: Job, info: EnvInfo, acceptance: Acceptance, watch: Watch
) -> tuple[Results, SingleEpisodes]:
    """Everything that results.json holds, and what episodes.json holds beside it."""
    config, student = job.train, trained.networks[number]
    made = Made(
        spec=student.spec.to_json(), name=spelled(student.spec, real=trained.heads[number].real), **size(student)
    )
    training = Distilling(
        **vars(training_of(trained, config)),
        labelled_states=trained.labelled_states,
        device=config.compute.device,
        temperature=trained.temperatures[number],
    )
    policy = Policy(student, trained.heads[number])
    return compared(teacher, policy, made, training, job, info, acceptance, watch)


def compared(
    teacher: Teacher,
    student: Policy,
    made: Made,
    training: Distilling,
    job: Job,
    info: EnvInfo,
    acceptance: Acceptance,
    watch: Watch,
) -> tuple[Results, SingleEpisodes]:
    """Compares a student with its teacher; what results.json then holds, seconds of the whole job but 0, and
    episodes.json.
    """
    watch(Phase("verdict"))
    config, random = job.train, acceptance.random_return_mean
    found = compare(
        teacher, student, _how(info, config), job.comparison, random, info, noise=config.student.noise, watch=watch
    )
    results = Results(
        **vars(training),
        env=info.id,
        environment=info.ref.to_json(),
        action=student.head.to_json(),
        protocol=info.protocol | {"epsilon": config.eval_epsilon},
        wall_s=0.0,
        teacher=TeacherSide(
            **vars(found.teacher) | teacher.size(),
            format=teacher.format,
            latency_us=latency_us(teacher.policy, info),
        ),
        random=RandomPlay(return_mean=random),
        student=StudentSide(**vars(found.student), **vars(made), latency_us=latency_us(student, info)),
        agreement=found.agreement,
        verdict=found.verdict,
        disturbed=found.disturbed,
    )
    return results, found.episodes

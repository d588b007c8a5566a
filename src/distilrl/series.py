"""Several runs as one: over training seeds, down a chain of teacher assistants, over a family of environments."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from distilrl.checkpoints import read_json, write_json
from distilrl.config import TaskFile, TrainConfig
from distilrl.distill import distill, run_job
from distilrl.envs import describe_env
from distilrl.errors import SpecError
from distilrl.events import Watch, silent
from distilrl.jobs import Job, claimed, load_one
from distilrl.networks import Network, build
from distilrl.plain import read_as
from distilrl.results import Link, Results, SeedsResults
from distilrl.runs import RunFolder
from distilrl.spaces import EnvLike, env_ref
from distilrl.specs import NetworkSpec, scaled
from distilrl.teachers import Teacher, TeacherFile, load_teacher
from distilrl.train import train


def distill_seeds(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    seeds: int,
    *,
    wandb: bool = False,
    watch: Watch = silent,
) -> SeedsResults:
    """Trains one student per seed in ``out/seed-K`` and takes the seed as the unit of replication.

    A seed whose folder holds results is not run again, and one that was cut short is resumed.

    Returns:
        The contents of ``out/results.json``.

    Raises:
        SpecError: fewer than two seeds, whose interval would have no ends, or several tasks.
        FileError: the folder holds something already that is no study.
        ResumeError: it holds another study.
    """
    if seeds < 2:
        raise SpecError(
            f"'seeds' must be at least 2 for an interval over seeds, got {seeds}: for one student use distill."
        )
    # -- said before days of training, not after
    if len(job.train.tasks) > 1:
        raise SpecError("A study over seeds is of one task: give one environment, or leave the seeds out.")
    job.train.but(seed=job.train.seed + seeds - 1)
    folder = RunFolder(out)
    with claimed(folder, job, kind="seeds", resume=folder.config.is_file(), seeds=seeds):
        return _distill_seeds(teacher, job, folder, seeds, wandb, watch)


def _distill_seeds(
    teacher: Teacher | str | Path | None, job: Job, folder: RunFolder, seeds: int, wandb: bool, watch: Watch
) -> SeedsResults:
    runs: list[Results] = []
    for seed in range(job.train.seed, job.train.seed + seeds):
        one = RunFolder(folder.path / f"seed-{seed}")
        job_of_seed = replace(job, train=replace(job.train, seed=seed))
        if one.results.is_file():
            with claimed(one, job_of_seed, resume=True):
                runs.append(_known(one))
            continue
        by = load_one(teacher, job_of_seed.train)
        runs.append(distill(by, job_of_seed, one.path, resume=one.config.is_file(), wandb=wandb, watch=watch))
    results = SeedsResults.of(runs)
    write_json(folder.results, results.to_json())
    return results


def distill_chain(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    assistants: int,
    *,
    wandb: bool = False,
    watch: Watch = silent,
) -> Results:
    """Distils by way of teacher assistants (Mirzadeh et al. 2020): students that shrink by one factor, each teaching
    the next.

    Score and verdict of each are about the first teacher. The chain ends at the first whose verdict is ``fail``: what
    it lost, those behind it would learn. An assistant whose folder holds results is not trained again.

    Args:
        teacher: the teacher; None: what the job names.
        job: how the last student is distilled; its assistants likewise.
        out: run folder of the last student; ``out/assistant-K`` are theirs.
        assistants: how many stand between teacher and student.
        wandb: log to Weights & Biases too.
        watch: told of what happens.

    Returns:
        Results of the last student trained, with the ``chain``.

    Raises:
        SpecError: the teacher's size is unknown, or the student is no smaller.
        FileError: the folder holds something already that is no chain.
        ResumeError: it holds another chain.
    """
    first = load_one(teacher, job.train)
    info = describe_env(job.train.env)
    spec = NetworkSpec.of(job.train.student.network, info.obs, first.head.student.width)
    if first.params is None or first.params <= spec.params:
        raise SpecError(
            "A chain of assistants needs a teacher of known size that is larger than the student: leave --assistants "
            "out."
        )
    factor = (spec.params / first.params) ** (1 / (assistants + 1))
    names = [scaled(spec, round(first.params * factor**k)).describe() for k in range(1, assistants + 1)]
    whole, folders = RunFolder(out), [RunFolder(Path(out) / f"assistant-{k}") for k in range(1, assistants + 1)]
    files = job.train.tasks[0].teacher
    taught_by = [files, *((TeacherFile(str(folder.path)),) for folder in folders)]
    jobs = [
        (folder, _link(folder, job, name, files))
        for folder, name, files in zip(folders, names, taught_by, strict=False)
    ]
    last = _link(whole, job, job.train.student.network, taught_by[-1])
    given = {"assistants": assistants, "teacher": [asdict(file) for file in files]}
    with claimed(whole, last, kind="chain", resume=whole.config.is_file(), **given):
        return _distill_chain(first, [*jobs, (whole, last)], wandb, watch)


def _link(folder: RunFolder, job: Job, student: str, teacher: tuple[TeacherFile, ...]) -> Job:
    """The job of one link; an assistant who teaches is named as it was before, since one folder may be spelled in
    several ways.
    """
    if folder.config.is_file() and teacher != job.train.tasks[0].teacher:
        known = Job.from_json(folder.read_config()).train.tasks
        teacher = known[0].teacher if known else teacher
    task = replace(job.train.tasks[0], teacher=teacher)
    return replace(job, train=job.train.but(network=student, tasks=(task,)))


def _distill_chain(first: Teacher, links: list[tuple[RunFolder, Job]], wandb: bool, watch: Watch) -> Results:
    chain: list[Link] = []
    current = first
    for number, (folder, one) in enumerate(links, 1):
        if number == len(links):  # its folder is the chain's own
            done = folder.results.is_file()
            results = (
                _known(folder) if done else run_job([current], one, folder, [first], wandb=wandb, watch=watch)[0][0]
            )
        elif folder.results.is_file():
            with claimed(folder, one, resume=True):
                results = _known(folder)
        else:
            results = distill(
                current, one, folder.path, resume=folder.config.is_file(), against=first, wandb=wandb, watch=watch
            )
        chain.append(Link.of(results, folder.path))
        if results.verdict.result == "fail":
            break
        if number < len(links):
            current = load_teacher(TeacherFile(str(folder.path)))
    results = replace(results, chain=tuple(chain))
    write_json(Path(chain[-1].path) / "results.json", results.to_json())
    return results


def _known(folder: RunFolder) -> Results:
    """The results of a finished run."""
    return read_as(Results, read_json(folder.results), str(folder.results))


def reptile(
    config: TrainConfig,
    family: Sequence[EnvLike],
    teacher: Teacher | Sequence[Teacher],
    *,
    rounds: int,
    rate: float = 0.5,
    seed: int = 0,
) -> Network:
    """A student to start from, for new members of a family of environments (Reptile, Nichol et al. 2018).

    Each round distils for a few updates in one member and moves the start by ``rate`` towards what came out, on weights
    for raw observations. Start a run from it with ``train(..., initial=...)``.

    Args:
        config: a round; its ``env_steps`` are those of a round.
        family: environments of one observation and action space; rounds go through them in shuffled order.
        teacher: one for all, or one for each.
        rounds: how many.
        rate: share of the way that the start moves, falling to 0 in a straight line.
        seed: of the first weights and of the order.

    Raises:
        SpecError: the family is empty or its spaces differ.
    """
    refs = [env_ref(env) for env in family]
    infos = [describe_env(ref) for ref in refs]
    if len({(info.obs.shape, info.action) for info in infos}) != 1:
        raise SpecError(
            "A family of environments needs at least one member, and one observation and action space for all."
        )
    given = [teacher] * len(family) if isinstance(teacher, Teacher) else list(teacher)
    teachers = [one.fitted(info) for one, info in zip(given, infos, strict=True)]
    start = build(
        NetworkSpec.of(config.student.network, infos[0].obs, teachers[0].head.student.width),
        torch.Generator().manual_seed(seed),
    )
    order = np.random.default_rng(seed)
    members: list[int] = []
    for number in range(rounds):
        members = members or order.permutation(len(family)).tolist()
        member = members.pop()
        one = config.but(tasks=(TaskFile(refs[member]),), seed=(seed + number) % 900, gap=-10.0)
        learnt = train(one, teachers[member], initial=start if number else None).network
        if number == 0:
            start = learnt
            continue
        with torch.no_grad():
            for mine, theirs in zip(start.parameters(), learnt.parameters(), strict=True):
                mine.lerp_(theirs, rate * (1 - number / rounds))
    return start

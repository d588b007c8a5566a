"""Several runs as one: over training seeds, down a chain of teacher assistants, over a family of environments."""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from distilrl.config import TaskFile, TrainConfig
from distilrl.display import watching
from distilrl.distill import distill, known_card, run_job, write_reports
from distilrl.envs import describe_env
from distilrl.errors import DistilError, EnvError, NotFiniteError, SpecError, WorkerError
from distilrl.events import Ended, Watch, silent
from distilrl.fanout import Call, fan_out
from distilrl.files import read_json_as, write_json
from distilrl.isolation import isolated
from distilrl.jobs import Job, claimed, load_one, teachers_of, try_student, with_files
from distilrl.networks import Network
from distilrl.plain import check_number
from distilrl.played import SingleEpisodes, SingleReturns
from distilrl.results import Link, Results
from distilrl.runs import RunFolder
from distilrl.spaces import EnvLike, env_ref
from distilrl.stream import check_labels, check_views
from distilrl.summaries import SeedsResults, TasksResults
from distilrl.teachers import Teacher, TeacherFile, load_teacher, read_teacher
from distilrl.threads import use_threads
from distilrl.train import train
from distilrl.verdict import in_words as verdict_in_words
from distilrl.widths import scaled


def finish(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    wandb: bool = False,
    watch: Watch = silent,
) -> Results | TasksResults:
    """Brings a run to its end, whatever state its folder is in: begun where there is none, resumed where it was cut
    short, and only read where it is finished.

    What whole runs are done by in other processes: pickle finds it, and a call that is killed is made again.

    Raises:
        DistilError: as `distill`.
    """
    use_threads(job.train.compute.threads)  # also for what comes before training, wherever this is
    named = [teacher] if isinstance(teacher, Teacher) else teacher
    begun = RunFolder(out).config.is_file()
    return distill(named, job, out, resume=begun, wandb=wandb, watch=watch, report=False)


@isolated()
def distill_seeds(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    seeds: int,
    *,
    wandb: bool = False,
    executor: Executor | None = None,
    watch: Watch | None = None,
    report: bool = True,
) -> SeedsResults:
    """Trains one student per seed in ``out/seed-K``; the verdict is on students of this kind, and needs five.

    A seed whose folder holds results is not run again, and one that was cut short is resumed.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: how each student is distilled, the first with the job's own seed.
        out: folder of the study.
        seeds: how many.
        wandb: log to Weights & Biases too.
        executor: where seeds are run side by side, to the same results; None: here, one after the other.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too.

    Returns:
        The contents of ``out/results.json``.

    Raises:
        SpecError: fewer than two seeds, whose interval would have no ends, several tasks, or what cannot be made.
        FileError: the folder holds something already that is no study.
        ResumeError: it holds another study.

    Example::

        with Processes(4) as executor:
            distill_seeds("ppo.zip", job, "runs/seeds", 8, executor=executor)
    """
    check_number("seeds", seeds, "(-inf, inf)", whole=True)
    if seeds < 2:
        raise SpecError(
            f"'seeds' must be at least 2 for an interval over seeds, got {seeds}: for one student use distill."
        )
    teacher, job = with_files(teacher, job)
    # -- said before days of training, not after
    if len(job.train.tasks) > 1:
        raise SpecError("A study over seeds is of one task: give one environment, or leave the seeds out.")
    job.train.but(seed=job.train.seed + seeds - 1)
    try_student(job.train, teachers_of(teacher, job.train))
    folder = RunFolder(out)
    again = _goes_on(folder, "seeds")
    with watching(watch) as watch, claimed(folder, job, kind="seeds", resume=again, seeds=seeds):
        calls = []
        for seed in range(job.train.seed, job.train.seed + seeds):
            of_seed = replace(job, train=replace(job.train, seed=seed))
            calls.append(Call(f"seed-{seed}", (teacher, of_seed, folder.path / f"seed-{seed}")))
        runs: dict[int, Results] = {}
        failed: dict[str, DistilError] = {}
        with fan_out(partial(finish, wandb=wandb), calls, folder.path, executor=executor, watch=watch) as ended:
            for number, future in ended:
                try:
                    run: Results = future.result()  # type: ignore[assignment]
                except (NotFiniteError, EnvError, WorkerError) as error:  # of this one: the others go on
                    failed[calls[number].name] = error
                    watch(Ended(calls[number].name, None, str(error)))
                    continue
                runs[number] = run
                watch(Ended(calls[number].name, run.worst, in_words(run)))
        for name, reason in failed.items():
            raise type(reason)(f"{name}: {reason}") from reason
        returns = [_returns(RunFolder(folder.path / call.name)) for call in calls]
        results = SeedsResults.of([runs[number] for number in sorted(runs)], returns, job.comparison.episodes)
        write_json(folder.results, results.to_json())
        if report:
            write_reports(folder.path, watch=watch)
    return results


def _goes_on(folder: RunFolder, kind: str) -> bool:
    """Whether a folder holds a series of this kind, which goes on; or a damaged config.json, of which that tells."""
    return folder.config.is_file() and folder.kind() in (kind, None)


def _returns(folder: RunFolder) -> SingleReturns:
    """Returns of single episodes of a finished run."""
    return read_json_as(SingleEpisodes, folder.episodes).returns


def in_words(results: Results | TasksResults) -> str:
    """What became of a run, in one line, but for its verdict."""
    if isinstance(results, TasksResults):
        return "; ".join(f"{one.env}: {in_words(one)}" for one in results.tasks)
    student = results.student
    score = "" if student.score is None else f", score {student.score:.3f}"
    measured = "".join(f", {name} {verdict_in_words(one)}" for name, one in results.measured.items())
    return f"return {student.in_words()}{score}{measured}"


@isolated()
def distill_chain(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    assistants: int,
    *,
    wandb: bool = False,
    watch: Watch | None = None,
    report: bool = True,
) -> Results:
    """Distils by way of teacher assistants (Mirzadeh et al. 2020): students that shrink by one factor, each teaching
    the next.

    Score and verdict of each are about the first teacher. The chain ends at the first whose verdict is ``fail``: what
    it lost, those behind it would learn. Assistants see what is there, as whoever teaches does; the student's sensors
    are the last one's. An assistant whose folder holds results is not trained again.

    Args:
        teacher: the teacher; None: what the job names.
        job: how the last student is distilled; its assistants likewise.
        out: run folder of the last student; ``out/assistant-K`` are theirs.
        assistants: how many stand between teacher and student.
        wandb: log to Weights & Biases too.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too.

    Returns:
        Results of the last student trained, with the ``chain``.

    Raises:
        SpecError: the teacher's size is unknown, the student is no smaller or pruned, or it cannot be made.
        FileError: the folder holds something already that is no chain.
        ResumeError: it holds another chain.

    Example::

        distill_chain("ppo.zip", job, "runs/chain", 2).chain  # two assistants and the student
    """
    check_number("assistants", assistants, "[0, inf)", whole=True)
    teacher, job = with_files(teacher, job)
    first = load_one(teacher, job.train)
    info = describe_env(job.train.env)
    spec = job.train.student.spec(info.obs, first.head.student.width)
    check_views(job.train, info)
    if assistants:
        check_labels(job.train, remembers=spec.remembers, who="an assistant of this student")
    if first.params is None or first.params <= spec.params:
        raise SpecError(
            "A chain of assistants needs a teacher of known size that is larger than the student: leave --assistants "
            "out."
        )
    if assistants and job.train.student.prune_from is not None:
        raise SpecError("'prune_from' is of one student, which assistants would share: leave one of them out.")
    factor = (spec.params / first.params) ** (1 / (assistants + 1))
    if assistants and not spec.widths and not spec.convs:
        raise SpecError(
            f"A student of no hidden layer ({spec.describe()}) has no wider ones of its kind to assist it: give it a "
            "layer, or leave --assistants out."
        )
    names = [scaled(spec, round(first.params * factor**k)).describe() for k in range(1, assistants + 1)]
    whole, folders = RunFolder(out), [RunFolder(Path(out) / f"assistant-{k}") for k in range(1, assistants + 1)]
    files = job.train.tasks[0].teacher
    taught_by = [files, *((TeacherFile(str(folder.path)),) for folder in folders)]
    blind = {"noise": (), "delay": 0, "dropout": 0.0, "flicker": 0.0, "hidden_features": ()}
    exact = replace(job, train=job.train.but(**blind))  # who teaches sees what is there
    jobs = [
        (folder, _link(folder, exact, name, files))
        for folder, name, files in zip(folders, names, taught_by, strict=False)
    ]
    last = _link(whole, job, job.train.student.network, taught_by[-1])
    about = {"teacher": [asdict(file) for file in files]}
    given, again = about | {"assistants": assistants}, _goes_on(whole, "chain")
    try_student((jobs[0][1] if jobs else last).train, [first])  # those behind it are of its kind
    with watching(watch) as watch, claimed(whole, last, kind="chain", resume=again, **given):
        of_each = about | {"student": last.train.student.network}
        results = _distill_chain(first, [*jobs, (whole, last)], of_each, wandb, watch)
        if report:
            write_reports(results.chain[-1].path, watch=watch)
    return results


def _link(folder: RunFolder, job: Job, student: str, teacher: tuple[TeacherFile, ...]) -> Job:
    """The job of one link; an assistant who teaches is named as it was before, since one folder may be spelled in
    several ways.
    """
    if folder.config.is_file() and teacher != job.train.tasks[0].teacher:
        known = Job.from_json(folder.read_config()).train.tasks
        teacher = known[0].teacher if known else teacher
    task = replace(job.train.tasks[0], teacher=teacher)
    return replace(job, train=job.train.but(network=student, tasks=(task,)))


def _distill_chain(
    first: Teacher, links: list[tuple[RunFolder, Job]], given: dict[str, Any], wandb: bool, watch: Watch
) -> Results:
    """Every link in turn; ``given`` is what the folder of each assistant says of the chain."""
    chain: list[Link] = []
    current = first
    for number, (folder, one) in enumerate(links, 1):
        begun = folder.config.is_file()
        held = claimed(folder, one, kind="assistant", resume=begun, **given) if number < len(links) else nullcontext()
        with held:  # the last one's folder is the chain's own, which is held already
            if folder.results.is_file():
                known_card(folder, first)
                results = read_json_as(Results, folder.results)
            else:
                results = run_job([current], one, folder, [first], wandb=wandb, watch=watch)[0][0]
        chain.append(Link.of(results, folder.path))
        if results.worst == "fail":
            break
        if number < len(links):
            current = load_teacher(TeacherFile(str(folder.path)))
    results = replace(results, chain=tuple(chain))
    write_json(Path(chain[-1].path) / "results.json", results.to_json())
    return results


@isolated()
def reptile(
    config: TrainConfig,
    family: Sequence[EnvLike],
    teacher: Teacher | str | Path | Sequence[Teacher | str | Path],
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
        teacher: one for all, or one for each; or their files.
        rounds: how many.
        rate: share of the way that the start moves, falling to 0 in a straight line.
        seed: of the order, and of the rounds' training, the first of which gives the first weights.

    Raises:
        SpecError: the family is empty, its spaces differ or its teachers are too few or too many, or a number means
            nothing.

    Example::

        poles = [EnvRef("examples.family:CartPoles-v0", {"members": [n, n + 1]}) for n in range(20)]
        config = make_config("distil", poles[0], network="mlp:16", env_steps=2_000)
        start = reptile(config, poles, "runs/poles-teacher", rounds=60)
    """
    check_number("rounds", rounds, "[1, inf)", whole=True)
    check_number("rate", rate, "(0, 1]")
    check_number("seed", seed, "[0, inf)", whole=True)
    if isinstance(family, str):
        raise SpecError(f"A family is a list of environments, got {family!r}: give ['{family}'] for one.")
    refs = [env_ref(env) for env in family]
    infos = [describe_env(ref) for ref in refs]
    if len({(info.obs.shape, info.action) for info in infos}) != 1:
        raise SpecError(
            "A family of environments needs at least one member, and one observation and action space for all."
        )
    if config.student.reused_head or config.student.prune_from is not None or config.student.start != "new":
        raise SpecError(
            "A start for many members has a head of its own, their own widths and no other start: leave out "
            "'reused_head', 'prune_from' and 'start'."
        )
    given = [teacher] * len(infos) if isinstance(teacher, Teacher | str | Path) else list(teacher)
    if len(given) != len(infos):
        raise SpecError(
            f"The family has {len(infos)} members but {len(given)} teachers: give one for all, or for each."
        )
    teachers = [read_teacher(one).fitted(info) for one, info in zip(given, infos, strict=True)]
    order = np.random.default_rng(seed)
    start: Network | None = None
    members: list[int] = []
    for number in range(rounds):
        members = members or order.permutation(len(family)).tolist()
        member = members.pop()
        one = config.but(tasks=(TaskFile(refs[member]),), seed=(seed + number) % 900, gap=-10.0)
        learnt = train(one, teachers[member], initial=start).network
        if start is None:
            start = learnt
            continue
        with torch.no_grad():
            for mine, theirs in zip(start.parameters(), learnt.parameters(), strict=True):
                mine.lerp_(theirs, rate * (1 - number / rounds))
    return cast("Network", start)

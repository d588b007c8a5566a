"""The whole job: accept the teacher, train the student, compare them, write results.json."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from distilrl.acceptance import accept, kept_acceptance
from distilrl.comparison import compare
from distilrl.config import TrainConfig
from distilrl.display import watching
from distilrl.envs import EnvInfo, describe_env
from distilrl.episodes import Play
from distilrl.errors import ResumeError
from distilrl.evaluate import latency_us, size
from distilrl.events import Accepted, Phase, Watch, named, silent
from distilrl.fanout import try_sending
from distilrl.files import read_json_as, write_json
from distilrl.isolation import isolated
from distilrl.jobs import ACCEPT_MORE, HERE, Job, Machines, claimed, teachers_of, try_student, with_files
from distilrl.metrics import write_metrics
from distilrl.plain import to_plain
from distilrl.played import Acceptance, RandomPlay, SingleEpisodes, TeacherCard
from distilrl.policies import Policy
from distilrl.provenance import Provenance
from distilrl.results import Distilling, Made, Results, StudentSide, TeacherSide, Training
from distilrl.runs import RunFolder
from distilrl.specs import spelled
from distilrl.summaries import TasksResults
from distilrl.teachers import Teacher
from distilrl.teachers.vecnormalize import unused
from distilrl.threads import use_threads
from distilrl.train import train
from distilrl.trained import Trained


@overload
def distill(
    teacher: Teacher | str | Path,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    wandb: bool = False,
    watch: Watch | None = None,
    report: bool = True,
    machines: Machines = HERE,
) -> Results: ...


@overload
def distill(
    teacher: Sequence[Teacher | str | Path] | None,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    wandb: bool = False,
    watch: Watch | None = None,
    report: bool = True,
    machines: Machines = HERE,
) -> Results | TasksResults: ...


@isolated()
def distill(
    teacher: Teacher | Sequence[Teacher | str | Path] | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    resume: bool = False,
    wandb: bool = False,
    watch: Watch | None = None,
    report: bool = True,
    machines: Machines = HERE,
) -> Results | TasksResults:
    """Distils a teacher into a student and proves what became of the score; or several teachers into one student of
    several tasks.

    Args:
        teacher: a teacher, or the file or folder that it is read from; one per task; None: what the job names.
        job: what to do.
        out: run folder.
        resume: continue the run in ``out``, which must be of the same job.
        wandb: log to Weights & Biases too.
        watch: told of what happens; None: bars in a terminal or a notebook, nothing elsewhere; `silent`: nothing.
        report: write ``report.html`` into the folder too.
        machines: where parts of it are computed; the result is the same.

    Returns:
        The contents of ``out/results.json``: `Results`, or `TasksResults` of several tasks, of which ``out`` then holds
        a run folder each.

    Raises:
        DistilError: anything that the user can mend.

    Example::

        results = distill("ppo.zip", Job(make_config("distil", "CartPole-v1")), "runs/cartpole")
        results.verdict.result, results.student.return_mean
    """
    teacher, job = with_files(teacher, job)
    config = job.train
    teachers = teachers_of(teacher, config)
    try_student(config, teachers)
    folder = RunFolder(out)
    results: Results | TasksResults
    with watching(watch) as watch, claimed(folder, job, resume=resume):
        if not resume and len(teachers) > 1:
            for home in _homes(folder, config):  # each is a run folder, and may be one of before
                home.check_free()
        if resume and folder.results.is_file():  # nothing is left to do
            for home, one in zip(_homes(folder, config), teachers, strict=True):
                known_card(home, one)
            several = len(teachers) > 1
            results = read_json_as(TasksResults, folder.results) if several else read_json_as(Results, folder.results)
        else:
            runs, trained = run_job(teachers, job, folder, teachers, wandb=wandb, watch=watch, machines=machines)
            results = runs[0] if len(runs) == 1 else TasksResults.of(runs, trained.params)
            if len(runs) > 1:
                write_json(folder.results, results.to_json())
        if report:
            tasks = results.tasks if isinstance(results, TasksResults) else ()
            write_reports(*(folder.of_task(run.env).path for run in tasks), folder.path, watch=watch)
    return results


def write_reports(*folders: str | Path, watch: Watch) -> None:
    """The reports of finished folders; what draws them is imported here, for who only plays does not wait for it."""
    from distilrl.report import write_report

    for folder in folders:
        write_report(folder, watch=watch)


def run_job(
    teachers: Sequence[Teacher],
    job: Job,
    folder: RunFolder,
    judges: Sequence[Teacher],
    *,
    wandb: bool = False,
    watch: Watch = silent,
    machines: Machines = HERE,
) -> tuple[list[Results], Trained]:
    """What `distill` does in a folder that is held for it; ``judges`` are whom score and verdict are about, one per
    task.

    Returns:
        The results of each task, and what training gave.
    """
    config, tasks = job.train, job.train.tasks
    use_threads(config.compute.threads)
    infos = [describe_env(task.env) for task in tasks]
    started = time.perf_counter()
    homes = _homes(folder, config)
    plays = [how_played(info, config, machines) for info in infos]
    watches = [named(watch, task.env.label) if len(tasks) > 1 else watch for task in tasks]
    for one, info in zip(judges, infos, strict=True):  # refused before training, not by the verdict
        try_sending(one.path, (one.policy, info), folder.path, machines.executor)
    known = [
        _acceptance(one, play, home, job, told)
        for one, play, home, told in zip(judges, plays, homes, watches, strict=True)
    ]
    for card in known:
        job.comparison.tolerance_of(card.judged)  # said before training, not after
    for home, card in zip(homes, known, strict=True):  # once all are accepted: a refusal leaves nothing behind
        write_json(home.teacher, card.to_json())
    trained = train(
        config,
        teachers,
        acceptance=[card.acceptance for card in known],
        judge=judges,
        folder=folder,
        wandb=wandb,
        watch=watch,
        collectors=machines.collectors,
    )
    runs = []
    for number, (one, info, home) in enumerate(zip(judges, infos, homes, strict=True)):
        student = home.save_student(trained.networks[number], trained.heads[number], info, config.recipe)
        one.to("cpu")
        how = replace(plays[number], parts=home.verdict_parts)
        results, episodes = results_of(one, trained, number, job, how, known[number].judged, watches[number])
        results = replace(results, wall_s=time.perf_counter() - started, student_sha256=student)
        write_json(home.episodes, episodes.to_json())
        if len(tasks) > 1:
            home.describe(replace(job, train=config.seen_from(number)).to_json(), "task")
            write_metrics(home.metrics, trained.history_of(number))
        write_json(home.results, results.to_json())
        home.forget_parts()
        runs.append(results)
    return runs, trained


def _homes(folder: RunFolder, config: TrainConfig) -> list[RunFolder]:
    """The folder of each task."""
    labels = [task.env.label for task in config.tasks]
    return [folder.of_task(label) for label in labels] if len(labels) > 1 else [folder]


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


def take_acceptance(
    teacher: Teacher, how: Play, folder: RunFolder, job: Job, watch: Watch, *, searches: bool = False
) -> TeacherCard:
    """The acceptance check, made once per run and kept in teacher.json; ``searches``: by a margin where training is."""
    card = _acceptance(teacher, how, folder, job, watch)
    for known in (card.judged, card.acceptance) if searches else (card.judged,):
        job.comparison.tolerance_of(known)
    write_json(folder.teacher, card.to_json())
    return card


def _acceptance(teacher: Teacher, how: Play, folder: RunFolder, job: Job, watch: Watch) -> TeacherCard:
    """What teacher.json shall say, or says already."""
    if (known := known_card(folder, teacher)) is not None:
        return known
    watch(Phase("teacher's check"))
    apart = job.verdict_env is not None
    acceptance, kept = _accepted(teacher, how if apart else judged_how(how, job), job, watch)
    elsewhere = _accepted(teacher, judged_how(how, job), job, watch)[0] if apart else None
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
        elsewhere=elsewhere,
    )
    watch(Accepted(card, kept, unused(teacher)))
    return card


def known_card(folder: RunFolder, teacher: Teacher) -> TeacherCard | None:
    """What the folder of a run says of its teacher; None where none was accepted yet.

    Raises:
        ResumeError: it is of another one.
    """
    if not folder.teacher.is_file():
        return None
    known = read_json_as(TeacherCard, folder.teacher)
    if not teacher.goes_on(known.sha256, known.meta.get("of_members")):
        raise ResumeError(
            f"The run in {folder.path} was started with another teacher (its digest differs): give it the same file, "
            "or of a function of yours the same with the same name=."
        )
    return known


def _accepted(teacher: Teacher, how: Play, job: Job, watch: Watch) -> tuple[Acceptance, Path | None]:
    """The teacher's acceptance in an environment, and where it is known from."""
    episodes, weak_ok = job.accept_episodes, job.accept_weak_teacher
    most = job.accept_max_episodes or episodes * (1 if weak_ok else ACCEPT_MORE)
    return kept_acceptance(
        teacher,
        how,
        episodes,
        most,
        lambda: accept(teacher, how, episodes=episodes, max_episodes=most, weak_ok=weak_ok, watch=watch),
    )


def judged_how(how: Play, job: Job) -> Play:
    """How the verdict is played, training being played like this."""
    comparison = job.comparison
    return replace(how, env=job.verdict_env or how.env, measures=comparison.measures, cluster=comparison.cluster)


def how_played(info: EnvInfo, config: TrainConfig, machines: Machines = HERE) -> Play:
    """How teacher and student are played."""
    return Play(
        info.ref,
        config.eval_epsilon,
        threads=config.compute.threads,
        workers=config.data.workers,
        at_once=config.compute.eval_envs,
        executor=machines.executor,
    )


def results_of(
    teacher: Teacher, trained: Trained, number: int, job: Job, how: Play, acceptance: Acceptance, watch: Watch
) -> tuple[Results, SingleEpisodes]:
    """Everything that results.json holds, and what episodes.json holds beside it."""
    config, student = job.train, trained.networks[number]
    made = Made(
        spec=to_plain(student.spec.to_json()),
        name=spelled(student.spec, real=trained.heads[number].real),
        **size(student),
    )
    training = Distilling(
        **vars(training_of(trained, config)),
        labelled_states=trained.labelled_states,
        device=config.compute.device,
        temperature=trained.temperatures[number],
    )
    policy = Policy(student, trained.heads[number])
    return compared(teacher, policy, made, training, job, how, acceptance, watch)


def compared(
    teacher: Teacher,
    student: Policy,
    made: Made,
    training: Distilling,
    job: Job,
    how: Play,
    acceptance: Acceptance,
    watch: Watch,
) -> tuple[Results, SingleEpisodes]:
    """Compares a student with its teacher; what results.json then holds, seconds of the whole job but 0, and
    episodes.json.
    """
    watch(Phase("verdict"))
    config, trained_in, how = job.train, describe_env(how.env), judged_how(how, job)
    info = describe_env(how.env)
    found = compare(
        teacher, student, how, job.comparison, acceptance, info, sensors=config.student.sensors, watch=watch
    )
    results = Results(
        **vars(training),
        env=trained_in.id,
        environment=trained_in.ref.to_json(),
        verdict_environment=how.env.to_json() if job.verdict_env not in (None, config.env) else None,
        action=to_plain(student.head.to_json()),
        protocol=info.protocol | {"epsilon": config.eval_epsilon},
        wall_s=0.0,
        teacher=TeacherSide(
            **vars(found.teacher) | teacher.size(),
            format=teacher.format,
            latency_us=latency_us(teacher.policy, info),
        ),
        random=RandomPlay(return_mean=acceptance.random_return_mean),
        student=StudentSide(**vars(found.student), **vars(made), latency_us=latency_us(student, info)),
        agreement=found.agreement,
        verdict=found.verdict,
        disturbed=found.disturbed,
        measures=found.measures,
        provenance=Provenance.of(how.env.id, config.compute.threads),
    )
    return results, found.episodes

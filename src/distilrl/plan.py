"""The smallest student that keeps within the margin: many sizes and seeds from one labelled stream, the verdict for
those that may pass.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distilrl import stats
from distilrl.display import watching
from distilrl.distill import how_played, known_card, results_of, take_acceptance, write_reports
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import ResumeError, SpecError
from distilrl.events import Event, Judged, Noticed, Watch, named, silent
from distilrl.fanout import Call, fan_out, try_sending
from distilrl.files import read_json_as, write_json
from distilrl.heads import Head
from distilrl.isolation import isolated
from distilrl.jobs import Job, Machines, claimed, load_one, with_files
from distilrl.metrics import write_metrics
from distilrl.next_steps import asked_with
from distilrl.objective import check_terms
from distilrl.plain import from_plain
from distilrl.played import Acceptance
from distilrl.provenance import Provenance
from distilrl.runs import RunFolder, fitting
from distilrl.search import Judgement, Row, Search, first_sizes
from distilrl.sizes import Budget, PlanOptions, between_reached, check_plannable, ladder, of_search
from distilrl.specs import NetworkSpec, spelled, suited
from distilrl.stream import check_labels, check_views
from distilrl.summaries import PlanResults
from distilrl.teachers import Teacher
from distilrl.threads import use_threads
from distilrl.trained import Trained
from distilrl.verdict import HOLDS, difference_in_words


@isolated()
def plan(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    sizes: str | Sequence[str] = (),
    seeds: int = 5,
    budget: Budget | None = None,
    refine: bool = True,
    resume: bool = False,
    executor: Executor | None = None,
    watch: Watch | None = None,
    report: bool = True,
) -> PlanResults:
    """Finds the smallest student whose loss is proven to be within the margin (verdict ``pass`` or ``within_margin``).

    All sizes and seeds learn from one stream by the job's own terms; the students drive in turn where the teacher does
    not. Where a size has a cell, all of them learn from sequences. At three checks, half of those that are not there
    yet are dropped (successive halving, Jamieson & Talwalkar 2016). Then sizes between the largest that fell short and
    the smallest that did not are tried the same way. The verdict, on seeds of its own, goes from the largest
    size that scores about as well as the best downwards, with the best seed of each, until one does not hold: so the
    number of sizes needs no correction. No size gets a stage with reward.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: its recipe's settings and the comparison; the student it names is not used, but `make_config` finds larger
            batches where it names one with a cell.
        out: folder to write: plan.json, and ``winner``, a run folder.
        sizes: student specs, or one; `ladder` by default.
        seeds: students of each size.
        budget: sizes beyond it are not tried.
        refine: try sizes between.
        resume: continue the plan in ``out``, which must be of the same job and the same sizes; where one found nothing
            because a verdict was inconclusive, a job of more episodes takes verdicts of its students on other seeds.
        executor: where the verdicts of several sizes are taken side by side, to the same plan; None: here, until one
            does not hold.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too, and the winner's.

    Returns:
        The contents of ``out/plan.json``.

    Raises:
        SpecError: no size fits the budget, or the recipe asks for what a plan cannot do.
        FileError: the folder holds a plan, or something else of distilrl's, already; or nothing to continue.
        ResumeError: it holds another plan, a loss or the environment is not what it was, or its checkpoint is gone.

    Example::

        job = Job(make_config("distil", "CartPole-v1", teacher="ppo.zip", env_steps=30_000))
        plan(None, job, "runs/plan", seeds=3).winner
    """
    options = PlanOptions((sizes,) if isinstance(sizes, str) else tuple(sizes), seeds, budget or Budget(), refine)
    teacher, job = with_files(teacher, job)
    one, config = load_one(teacher, job.train), job.train
    folder, info = RunFolder(out), describe_env(config.env)
    check_terms(config.terms, one.head)
    check_plannable(config)
    check_views(config, info)
    check_labels(config, remembers=one.policy.remembers, who=one.path)
    config.but(seed=config.seed + seeds - 1)
    begun = _begun(folder, job) if resume else job
    with watching(watch) as watch, claimed(folder, begun, kind="plan", resume=resume, **asdict(options)):
        known = _known(folder)
        if known is not None and not _asks_more(known, job):  # nothing is left to do
            _refuse_half_asked(known, folder)
            known_card(RunFolder(folder.path / "winner"), one)
            results = known
        else:
            judge = _Judge(one if isinstance(teacher, Teacher) else teacher, info, folder.path, executor, watch)
            sent = judge.teacher, info, job  # what cannot be is refused before training, not after
            try_sending(one.path, sent, folder.path, executor)
            results = _plan(one, job, options, judge, len(known.asked) if known is not None else 0)
        if report:
            write_reports(*([Path(out) / "winner"] if results.winner else []), Path(out), watch=watch)
    return results


def _begun(folder: RunFolder, job: Job) -> Job:
    """A job with as many episodes as the plan in this folder was begun with, if it may ask for others now: more than
    left it undecided, or what it has asked for since.
    """
    known = _known(folder)
    if known is None or not (job.comparison.max_episodes == known.asked[-1] or _asks_more(known, job)):
        return job
    begun = Job.from_json(folder.read_config()).comparison
    return replace(job, comparison=replace(job.comparison, episodes=begun.episodes, max_episodes=begun.max_episodes))


def _known(folder: RunFolder) -> PlanResults | None:
    """What a plan found that came to its end."""
    done = folder.path / "plan.json"
    return read_json_as(PlanResults, done) if done.is_file() else None


def _asks_more(known: PlanResults, job: Job) -> bool:
    """Whether a job asks for more episodes than left a plan undecided."""
    return known.undecided and job.comparison.max_episodes > known.asked[-1]


def _refuse_half_asked(known: PlanResults, folder: RunFolder) -> None:
    """Does not give the verdicts of before for those of a second question that was cut short.

    Raises:
        ResumeError: the plan in this folder was asked again and has not answered.
    """
    saved = folder.load_state() if known.undecided else None
    with fitting():
        asked: tuple[int, ...] = from_plain(tuple[int, ...], saved[1]["asked"] if saved is not None else [], "asked")
    if len(asked) > len(known.asked):
        raise ResumeError(
            f"{folder.path} was asked again, with up to {asked[-1]:,} episodes, and that was cut short: go on with "
            f"{asked_with(asked[-1])}."
        )


@dataclass(frozen=True)
class _Judge:
    """What the verdicts of a plan need beside its students."""

    teacher: Teacher | str | Path | None
    """The teacher, or where another process reads it."""
    info: EnvInfo
    """Of the environment."""
    folder: Path
    """Of the plan."""
    executor: Executor | None
    watch: Watch

    @property
    def parts(self) -> Path:
        """Where parts of verdicts are kept."""
        return RunFolder(self.folder).verdict_parts


def _sizes(job: Job, options: PlanOptions, info: EnvInfo, head: Head) -> list[NetworkSpec]:
    """Those that fit the budget, each once, the smallest first.

    Raises:
        SpecError: none does, or their settings do not suit them.
    """
    texts = [suited(text, real=head.real) for text in options.sizes or ladder(info.obs, head)]
    specs = {spec.describe(): spec for spec in (job.train.student.spec(info.obs, head.width, text) for text in texts)}
    fit = sorted((s for s in specs.values() if options.budget.allows(s, head, info)), key=lambda spec: spec.params)
    if not fit:
        raise SpecError("No size fits the budget: raise it, or give smaller --sizes.")
    of_search(job.train, fit)
    return fit


def _plan(one: Teacher, job: Job, options: PlanOptions, judge: _Judge, ended: int) -> PlanResults:
    """The plan, whose verdicts were asked for and taken so many times before."""
    started, config, info, folder = time.perf_counter(), job.train, judge.info, judge.folder
    use_threads(config.compute.threads)
    saved = RunFolder(folder).load_state()
    if saved is None and ended > 0:
        raise ResumeError(
            f"{folder} has no checkpoint any more, and so no students of which to ask more: make another plan with "
            "--config."
        )
    # a budget of time would leave out others each time
    specs = first_sizes(saved) if saved is not None else _sizes(job, options, info, one.head.student)
    card = take_acceptance(one, how_played(info, config), RunFolder(folder / "winner"), job, judge.watch, searches=True)
    search = Search(one, job, specs, options.seeds, card, RunFolder(folder), judge.watch)
    with closing(search.stream):
        if saved is not None:
            search.load(saved, ended)
        found = search.round(specs)
        # -- between the largest that fell short and the smallest that did not
        sizes = [row.spec for row in found]
        between = between_reached(sizes, [row.reached for row in found]) if options.refine else []
        between = [spec for spec in between if options.budget.allows(spec, search.head, info)]
        found = sorted([*found, *search.round(between)], key=lambda row: row.spec.params)
        search.finish()
    one.to("cpu")
    winner = _winner(in_turn(found, search.margin), search, judge)
    if winner is not None:
        _write(winner, search, judge, started)
    results = PlanResults(
        env=info.id,
        environment=info.ref.to_json(),
        verdict_environment=job.to_json()["verdict_env"],
        recipe=config.recipe,
        teacher=one.path,
        teacher_params=one.params,
        seeds=options.seeds,
        budget=asdict(options.budget),
        env_steps=search.stream.env_steps,
        labelled_states=search.stream.labelled_states,
        train_s=search.train_s,
        wall_s=time.perf_counter() - started,
        winner=spelled(winner.spec, real=search.head.real) if winner is not None else None,
        frontier=tuple(row.result(search.head) for row in found),
        asked=tuple(search.asked),
        provenance=Provenance.of(info.ref.id, config.compute.threads),
        diverged=tuple(name for one in search.rounds for name in one.diverged),
    )
    write_json(folder / "plan.json", results.to_json())
    RunFolder(folder).forget_parts()
    return results


AS_GOOD = 0.25
"""Of the margin: a size that scores no further below the best one is held to be as good (benchmarks/plan_order.py)."""


def in_turn(rows: Sequence[Row], margin: float | None) -> list[Row]:
    """Sizes that may have a verdict, in the order of their turns: the largest that is as good as the one whose seeds
    scored best in the checks, and those below it downwards.

    A larger one that scored less would end the sequence too soon, and is not what is looked for.

    Args:
        rows: the smallest size first.
        margin: in scores; None where there are none, so that the largest is first.
    """
    may = [row for row in reversed(rows) if row.reached]
    if margin is None or not may:
        return may
    scores = [stats.mean(row.scores) for row in may]
    return may[next(at for at, score in enumerate(scores) if score >= max(scores) - AS_GOOD * margin) :]


def _winner(rows: Sequence[Row], search: Search, judge: _Judge) -> Row | None:
    """The smallest size whose loss is within the margin, of verdicts taken in turn until one does not hold; those taken
    ahead of their turn are forgotten then.

    In this fixed sequence, whose order no episode of a verdict has a part in, each is taken at its full confidence, and
    yet the chance of any false pass is that of one (Maurer et al. 1995): the first size that is not good enough ends
    it, whatever became of those before.
    """
    winner = None
    for row in rows[: len(search.verdicts)]:  # taken before the plan was cut short
        row.judgement = search.verdicts[row.spec.describe()]
        if row.verdict not in HOLDS:
            return winner
        winner = row
    rows = rows[len(search.verdicts) :]
    teacher = search.teacher if judge.executor is None else judge.teacher
    common = (judge.info, search.card.judged, judge.parts if judge.executor is None else None)
    calls = [Call(row.spec.describe(), (teacher, *search.trained(row), *common)) for row in rows]
    taken: dict[int, Future[Judgement]] = {}
    turn = 0
    with fan_out(judged, calls, judge.folder, executor=judge.executor, watch=judge.watch) as ended:
        for number, future in ended:
            taken[number] = future
            while turn in taken:
                search.judged(rows[turn], taken[turn].result())
                if judge.executor is not None:  # which tells how far it is, and nothing of what it found
                    student = spelled(rows[turn].spec, real=search.head.real)
                    judge.watch(Judged(taken[turn].result().of_return, student))
                if rows[turn].verdict not in HOLDS:
                    return winner
                winner, turn = rows[turn], turn + 1
    return winner


@isolated()
def judged(
    teacher: Teacher | str | Path | None,
    trained: Trained,
    job: Job,
    info: EnvInfo,
    acceptance: Acceptance,
    parts: Path | None,
    *,
    watch: Watch = silent,
) -> Judgement:
    """The verdict of one size of a plan, in any process; disturbed play, which decides nothing, is the winner's. Where
    it is taken in another process no ``parts`` of it are kept: that goes on for a while when the plan has ended.
    """
    use_threads(job.train.compute.threads)
    one = teacher if isinstance(teacher, Teacher) else load_one(teacher, job.train)
    job = replace(job, comparison=replace(job.comparison, disturbed_episodes=0))
    how = replace(how_played(info, job.train), parts=parts)
    student = spelled(trained.networks[0].spec, real=trained.heads[0].real)
    results, _ = results_of(one, trained, 0, job, how, acceptance, named(watch, student))
    return Judgement(results.worst, results.verdict)


def _write(winner: Row, search: Search, judge: _Judge, started: float) -> None:
    """The folder of the size that passes, with all that a run of its own would say of it."""
    folder, info, (trained, job) = RunFolder(judge.folder / "winner"), judge.info, search.trained(winner)
    how = replace(how_played(info, job.train, Machines(executor=judge.executor)), parts=judge.parts)

    known = winner.judgement.of_return if winner.judgement is not None else None

    def rest(event: Event) -> None:
        if not (isinstance(event, Judged) and event.verdict == known):  # which was told in its turn
            judge.watch(event)

    results, episodes = results_of(search.teacher, trained, 0, job, how, search.card.judged, rest)
    if known is not None:
        (first, was), (again, result) = ((difference_in_words(one), one.result) for one in (known, results.verdict))
        if (first, was) != (again, result):  # in words: another version may round otherwise
            judge.watch(
                Noticed(
                    f"The winner's verdict was {first} in its turn and is {again} in its folder: {info.id} does not "
                    "give the same episodes for the same seeds, or the plan went on with another version or machine; "
                    "ask again with distilrl evaluate --against --fresh."
                )
            )
    folder.describe(job.to_json(), "winner")
    sha256 = folder.save_student(trained.networks[0], trained.heads[0], info, job.train.recipe)
    write_metrics(folder.metrics, trained.history)
    write_json(folder.episodes, episodes.to_json())
    write_json(folder.results, replace(results, wall_s=time.perf_counter() - started, student_sha256=sha256).to_json())

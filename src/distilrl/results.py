"""What a run, a study over seeds, several tasks, a teacher's training and a plan found: results.json and plan.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distilrl import stats
from distilrl.checkpoints import read_json
from distilrl.measures import Measured
from distilrl.plain import Record, from_plain
from distilrl.played import Agreement, Played, RandomPlay, Returns, RunVerdict, Scored, Sides, SingleReturns
from distilrl.provenance import Provenance
from distilrl.shown import Rows, Shown
from distilrl.stats import Interval
from distilrl.verdict import RESULTS, Result, Verdict, difference_in_words, in_words, verdict_over_seeds


@dataclass(frozen=True, kw_only=True)
class Effort(Record):
    """What training took."""

    seed: int
    """Seed of training."""
    recipe: str
    """Name of the method."""
    env_steps: int
    """Steps of one environment, summed over all."""
    updates: int
    """Gradient steps; rounds, of a tree and of a stage with reward."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""


@dataclass(frozen=True, kw_only=True)
class Training(Effort):
    """How something was trained."""

    stopped: str
    """Why training ended."""


@dataclass(frozen=True, kw_only=True)
class Distilling(Training):
    """How a student was trained."""

    labelled_states: int
    """States that the teacher labelled."""
    device: str
    """Where the networks computed."""
    temperature: float | None = None
    """By which the teacher's numbers were divided, 1 where none was found; a tree has none."""


@dataclass(frozen=True, kw_only=True)
class TeacherSide(Played):
    """The teacher in a run's results."""

    format: str
    """What kind of file it was."""
    params: int | None
    """Parameters; None where they cannot be known."""
    bytes: int | None
    """Bytes of its weights; None where they cannot be known."""
    macs: int | None
    """Multiply-accumulates of a decision; None where they cannot be known."""
    latency_us: float
    """Median microseconds of a greedy decision, in PyTorch on one thread."""


@dataclass(frozen=True, kw_only=True)
class Size(Record):
    """What a student is, and how large."""

    name: str
    """The network or tree in few words."""
    params: int
    """Parameters, or nodes."""
    bytes: int
    """Bytes of its weights."""
    macs: int
    """Multiply-accumulates of a decision."""


@dataclass(frozen=True, kw_only=True)
class Made(Size):
    """What a student is, whole."""

    spec: dict[str, Any]
    """The network's specification, or the tree's facts."""


@dataclass(frozen=True, kw_only=True)
class StudentSide(Scored, Made):
    """The student in a run's results."""

    latency_us: float
    """Median microseconds of a greedy decision, in PyTorch on one thread."""


@dataclass(frozen=True, kw_only=True)
class Link(Record):
    """A student of a chain of assistants."""

    name: str
    """The network in few words."""
    params: int
    """Parameters."""
    return_mean: float
    """Mean return of its verdict."""
    return_ci95: Interval | None
    """95 % interval of it; None where it is exact."""
    score: float | None
    """About the chain's first teacher."""
    verdict: Result
    """About the chain's first teacher."""
    path: str
    """Its run folder."""

    @staticmethod
    def of(results: "Results", path: Path) -> "Link":
        """Of the student's own results and its run folder."""
        student = results.student
        return Link(
            name=student.name,
            params=student.params,
            return_mean=student.return_mean,
            return_ci95=student.interval,
            score=student.score,
            verdict=results.verdict.result,
            path=str(path),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Results(Shown, Distilling):
    """What became of a teacher in one student: the contents of results.json.

    Example::

        results = distill(teacher, Job(config), "runs/cheetah")
        print(results.verdict.result, results.student.return_mean, results.student.return_ci95)
        results.teacher.params / results.student.params  # how many times smaller

        again = read_as(Results, json.loads(Path("runs/cheetah/results.json").read_text()))
    """

    env: str
    """Name of the environment."""
    environment: dict[str, Any]
    """The environment as `EnvRef.from_json` reads it."""
    action: dict[str, Any]
    """The student's head: what its numbers mean."""
    protocol: dict[str, Any]
    """The environment's rules of play, and ``epsilon``."""
    wall_s: float
    """Seconds of the whole job; of one that was cut short and resumed, since then."""
    teacher: TeacherSide
    """The teacher."""
    random: RandomPlay
    """Random play."""
    student: StudentSide
    """The student."""
    agreement: Agreement
    """How alike the two act."""
    verdict: RunVerdict
    """Whether the student keeps the return."""
    disturbed: dict[str, Sides]
    """Both sides under each disturbance, by its name."""
    verdict_environment: dict[str, Any] | None = None
    """Where all of this was played, if that is not where training was."""
    chain: tuple[Link, ...] = ()
    """The chain of assistants, whose last student this is."""
    measures: tuple[Measured, ...] = ()
    """What was measured beside the return."""
    provenance: Provenance | None = None
    """What it was made with."""

    def _told(self) -> tuple[str, Rows]:
        rows: list[tuple[str, ...]] = [("", "return", "parameters", "MACs", "µs")]
        for name, one in (("teacher", self.teacher), ("student", self.student)):
            sizes = ("?" if n is None else f"{n:,}" for n in (one.params, one.macs))
            rows.append((name, one.in_words(), *sizes, f"{one.latency_us:,.0f}"))
        found = f"{difference_in_words(self.verdict)}, margin {self.verdict.margin:,.2f}"
        rows.append(("student - teacher", found, "", "", ""))
        rows += [(words, in_words(result), "", "", "") for words, result in self.measured.items()]
        return f"{self.env}, {self.student.name}, {self.recipe}: {in_words(self.verdict.result)}", rows

    @property
    def worst(self) -> Result:
        """The worst verdict, of the return and of the measures: that all hold needs no correction for their number."""
        return min((self.verdict.result, *self.measured.values()), key=RESULTS.index)

    @property
    def measured(self) -> dict[str, Result]:
        """The verdict of each measure that has one, by its name."""
        return {one.words: one.verdict.result for one in self.measures if one.verdict is not None}


@dataclass(frozen=True, kw_only=True)
class TeacherTrained(Returns, Size):
    """A teacher that was trained, and how it plays."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TeacherResults(Shown, Training):
    """What came of training a teacher: results.json of such a folder."""

    env: str
    """Name of the environment."""
    student: TeacherTrained
    """The policy that was trained."""
    provenance: Provenance | None = None
    """What it was made with."""

    def _told(self) -> tuple[str, Rows]:
        made = self.student
        row = (made.name, made.in_words(), f"{made.params:,}", f"{self.env_steps:,}", f"{self.train_s:,.1f}")
        return f"{self.env}, {self.recipe}", [("", "return", "parameters", "steps", "seconds"), row]


@dataclass(frozen=True, kw_only=True)
class SeedsStudent(Record):
    """The students of several training seeds."""

    name: str
    """The network in few words."""
    params: int
    """Parameters of each."""
    return_mean: float
    """Mean over seeds of the mean return."""
    return_iqm: float
    """Interquartile mean over seeds."""
    return_ci95: Interval
    """95 % Student t interval over seeds."""
    score: float | None
    """Mean over seeds; None where one of them has none."""


@dataclass(frozen=True)
class SeedsVerdict(Verdict):
    """A verdict on students of a kind."""

    unit: Literal["training seed", "training seed and episode"] = "training seed and episode"
    """What is drawn; of a game whose every start is played training seeds alone."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SeedsResults(Shown):
    """What several training seeds give: results.json of a study."""

    env: str
    """Name of the environment."""
    recipe: str
    """Name of the method."""
    seeds: tuple[int, ...]
    """Seeds of training."""
    student: SeedsStudent
    """The students."""
    verdict: SeedsVerdict
    """Whether students of this kind keep the return."""
    runs: tuple[Results, ...]
    """The results of each seed."""

    def _told(self) -> tuple[str, Rows]:
        rows = [("seed", "return", "score", "steps", "seconds", "verdict")]
        for run in self.runs:
            score = "" if run.student.score is None else f"{run.student.score:.3f}"
            effort = (f"{run.env_steps:,}", f"{run.train_s:,.1f}")
            rows.append((str(run.seed), run.student.in_words(), score, *effort, in_words(run.verdict.result)))
        verdict = self.verdict
        found = f"student - teacher {difference_in_words(verdict)}, margin {verdict.margin:,.2f}"
        return f"{self.env}, {self.student.name}, {self.recipe}: {in_words(verdict.result)}, {found}", rows

    @property
    def worst(self) -> Result:
        """The worst verdict, of the return over seeds and of each student's measures."""
        return min(
            (self.verdict.result, *(one for run in self.runs for one in run.measured.values())), key=RESULTS.index
        )

    @staticmethod
    def of(runs: Sequence[Results], returns: Sequence[SingleReturns], episodes: int) -> "SeedsResults":
        """Statistics of the results of each seed, and of the returns of its first episodes, which all seeds have."""
        means = [run.student.return_mean for run in runs]
        first = runs[0]
        common = min(episodes, *(len(one.student) for one in returns))
        differences = np.array([np.subtract(one.student[:common], one.teacher[:common]) for one in returns])
        exact = first.verdict.exact
        verdict = verdict_over_seeds(
            differences,
            first.verdict.margin,
            np.random.default_rng(0),
            span=first.verdict.span,
            distinct=min(common, *(run.verdict.distinct for run in runs)),
            exact=exact,
        )
        verdict = replace(verdict, protocol=first.verdict.protocol)
        student, score = first.student, stats.mean_score([run.student.score for run in runs])
        return SeedsResults(
            env=first.env,
            recipe=first.recipe,
            seeds=tuple(run.seed for run in runs),
            student=SeedsStudent(
                name=student.name,
                params=student.params,
                return_mean=stats.mean(means),
                return_iqm=stats.iqm(means),
                return_ci95=stats.t_interval(means),
                score=score,
            ),
            verdict=SeedsVerdict(**vars(verdict), unit="training seed" if exact else "training seed and episode"),
            runs=tuple(runs),
        )


@dataclass(frozen=True, kw_only=True)
class TasksStudent(Record):
    """One student of several tasks."""

    params: int
    """Parameters; what the tasks share counts once."""
    score: float | None
    """Mean over tasks; None where one of them has none."""


@dataclass(frozen=True, kw_only=True)
class TasksTeachers(Record):
    """The teachers of several tasks."""

    params: int
    """Parameters of all whose number is known."""


@dataclass(frozen=True, kw_only=True)
class TasksVerdict(Record):
    """One student's verdict over several tasks."""

    result: Result
    """The worst of its verdicts; that all are as good needs no correction for their number."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TasksResults(Shown, Effort):
    """What became of several teachers in one student: results.json of a run of several tasks."""

    envs: tuple[str, ...]
    """Names of the environments."""
    student: TasksStudent
    """The student."""
    teachers: TasksTeachers
    """The teachers."""
    verdict: TasksVerdict
    """Whether the student keeps every return."""
    tasks: tuple[Results, ...]
    """The results of each task."""

    def _told(self) -> tuple[str, Rows]:
        rows = [("task", "teacher", "student", "verdict")]
        rows += [
            (run.env, run.teacher.in_words(), run.student.in_words(), in_words(run.verdict.result))
            for run in self.tasks
        ]
        return f"{self.recipe}, {self.student.params:,} parameters: {in_words(self.verdict.result)}", rows

    @property
    def worst(self) -> Result:
        """The worst verdict; there are no measures of several tasks."""
        return self.verdict.result

    @staticmethod
    def of(runs: Sequence[Results], params: int) -> "TasksResults":
        """Of the results of each task, and the student's parameters over all."""
        verdicts = [run.verdict.result for run in runs]
        first = runs[0]
        return TasksResults(
            envs=tuple(run.env for run in runs),
            recipe=first.recipe,
            seed=first.seed,
            env_steps=first.env_steps,
            updates=first.updates,
            train_s=first.train_s,
            student=TasksStudent(params=params, score=stats.mean_score([run.student.score for run in runs])),
            teachers=TasksTeachers(params=sum(run.teacher.params or 0 for run in runs)),
            verdict=TasksVerdict(result=min(verdicts, key=RESULTS.index)),
            tasks=tuple(runs),
        )


@dataclass(frozen=True, kw_only=True)
class PlanRow(Record):
    """The students of one size in a plan."""

    student: str
    """The network in few words."""
    params: int
    """Parameters."""
    bytes: int
    """Bytes of its weights."""
    macs: int
    """Multiply-accumulates of a decision."""
    latency_us: float
    """Median microseconds of a greedy decision, in PyTorch on one thread."""
    score_mean: float
    """Mean over seeds of the best score at a check."""
    score_ci95: Interval | None
    """95 % Student t interval over seeds; None of one seed."""
    best_score: float
    """Of the best seed."""
    best_seed: int
    """Which seed that is, from 0."""
    reached: bool
    """Whether its score is within the margin."""
    verdict: Result | None
    """Of the best seed, the worst of the return's and the measures'; None where none was taken."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PlanResults(Shown):
    """The smallest student that keeps the score: the contents of plan.json."""

    env: str
    """Name of the environment."""
    environment: dict[str, Any]
    """The environment as `EnvRef.from_json` reads it."""
    verdict_environment: dict[str, Any] | None = None
    """Where verdicts were played, if that is not where training and its scores were."""
    recipe: str
    """Name of the method."""
    teacher: str
    """The teacher's file."""
    teacher_params: int | None
    """Its parameters; None where they cannot be known."""
    seeds: int
    """Students of each size."""
    budget: dict[str, int | float | None]
    """Largest sizes that were tried, as `Budget` names them."""
    env_steps: int
    """Steps of one environment, summed over all."""
    labelled_states: int
    """States that the teacher labelled."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""
    wall_s: float
    """Seconds of the whole search."""
    winner: str | None
    """The smallest size whose loss is within the margin; None where there is none."""
    frontier: tuple[PlanRow, ...]
    """A row for each size, smallest first."""
    provenance: Provenance | None = None
    """What it was made with."""

    def _told(self) -> tuple[str, Rows]:
        rows = [("student", "parameters", "µs", "score", "best", "verdict")]
        for row in self.frontier:
            scores = (f"{row.score_mean:.3f}", f"{row.best_score:.3f}")
            rows.append((row.student, f"{row.params:,}", f"{row.latency_us:.0f}", *scores, in_words(row.verdict)))
        return f"{self.env}: the smallest within the margin is {self.winner or 'none'}", rows


AnyResults = Results | SeedsResults | TasksResults | TeacherResults | PlanResults
"""What a results.json or a plan.json may hold; docs/results.schema.json is `schema_of` it."""


def read_results(path: Path) -> AnyResults:
    """The contents of a results.json or a plan.json.

    Raises:
        FileError: the file cannot be read.
        SpecError: it is damaged, or of another version.
    """
    found: AnyResults = from_plain(AnyResults, read_json(path), path.name)
    return found

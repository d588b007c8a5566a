"""What several runs come to: results.json of a study over seeds and of several tasks, plan.json; reads any of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distilrl import stats
from distilrl.errors import SpecError
from distilrl.files import read_json
from distilrl.limits import MAX_EPISODES
from distilrl.plain import Record, from_plain
from distilrl.played import RunVerdict, SingleReturns, labels_of_all
from distilrl.provenance import Provenance
from distilrl.results import Effort, Results, TeacherResults
from distilrl.shown import Rows, Shown
from distilrl.stats import Interval
from distilrl.verdict import (
    RESULTS,
    Result,
    Verdict,
    difference_in_words,
    in_words,
    margin_in_words,
    verdict_over_seeds,
)

Drawn = Literal["training seed", "training seed and episode", "training seed and cluster"]
"""What a verdict on students of a kind counts."""


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
    """95 % Student t interval over seeds, cut at the worst and the best episode that teacher or students played."""
    score: float | None
    """Mean over seeds; None where one of them has none."""


@dataclass(frozen=True)
class SeedsVerdict(Verdict):
    """A verdict on students of a kind."""

    unit: Drawn = "training seed and episode"
    """What is drawn; of a game whose every start is played training seeds alone."""
    episodes: int = 0
    """Of each seed's episodes the first so many, which all seeds have."""


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
            rows.append((str(run.seed), run.student.in_words(), score, *effort, in_words(run.worst)))
        verdict = self.verdict
        found = f"student - teacher {difference_in_words(verdict)}, margin {margin_in_words(verdict)}"
        found += f", {self.counted}" if self.counted else ""
        found += "".join(f"; {name}: {in_words(one)} {self.with_how_many(name)}" for name, one in self.measured.items())
        return f"{self.env}, {self.student.name}, {self.recipe}: {in_words(verdict.result)}, {found}", rows

    @property
    def counted(self) -> str:
        """Which episodes the verdict is of where some seeds have more, of all of which the returns are; else empty."""
        first = self.verdict.episodes
        more = any(run.student.episodes > first for run in self.runs)
        return f"in the first {first} episodes, which all seeds have" if more else ""

    @property
    def measured(self) -> dict[str, Result]:
        """The worst verdict of each measure over the students, by its name."""
        names = self.runs[0].measured
        return {name: min((run.measured[name] for run in self.runs), key=RESULTS.index) for name in names}

    def with_how_many(self, name: str) -> str:
        """With how many of the students a measure has its worst verdict: ``with 2 of 5 students``."""
        count = sum(run.measured[name] == self.measured[name] for run in self.runs)
        return f"with {count} of {len(self.runs)} students"

    @property
    def worst(self) -> Result:
        """The worst verdict, of the return over seeds and of each student's measures."""
        return min((self.verdict.result, *self.measured.values()), key=RESULTS.index)

    @staticmethod
    def of(runs: Sequence[Results], returns: Sequence[SingleReturns], episodes: int) -> "SeedsResults":
        """Statistics of the results of each seed, and of the returns of its first episodes, which all seeds have; of an
        exact game's, of which all starts were played, of them all.
        """
        means = [run.student.return_mean for run in runs]
        first = runs[0]
        least = min(len(one.student) for one in returns)
        common = least if first.verdict.exact else min(episodes, least)
        differences = np.array([np.subtract(one.student[:common], one.teacher[:common]) for one in returns])
        exact, cluster = first.verdict.exact, first.verdict.cluster
        verdict = verdict_over_seeds(
            differences,
            first.verdict.margin,
            np.random.default_rng(0),
            span=first.verdict.span,
            distinct=min(len(set(one.labels(common))) for one in returns),
            clusters=labels_of_all(returns, common),
            exact=exact,
            cluster=cluster,
            repeats=cluster is None,
        )
        verdict = replace(verdict, protocol=first.verdict.protocol)
        seen = np.concatenate([means, *(side for one in returns for side in (one.teacher, one.student))])
        student, score = first.student, stats.mean_score([run.student.score for run in runs])
        drawn: Drawn = "training seed and episode" if cluster is None else "training seed and cluster"
        return SeedsResults(
            env=first.env,
            recipe=first.recipe,
            seeds=tuple(run.seed for run in runs),
            student=SeedsStudent(
                name=student.name,
                params=student.params,
                return_mean=stats.mean(means),
                return_iqm=stats.iqm(means),
                return_ci95=_within(stats.t_interval(means), seen),
                score=score,
            ),
            verdict=SeedsVerdict(**vars(verdict), unit="training seed" if exact else drawn, episodes=common),
            runs=tuple(runs),
        )


def _within(interval: Interval, seen: NDArray[np.float64]) -> Interval:
    """An interval cut where nothing was seen: of few seeds Student's t reaches beyond what a game can give."""
    low, high = np.clip(interval, seen.min(), seen.max()).tolist()
    return low, high


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
    """The worst of its tasks' verdicts, of returns and of measures; that all are as good needs no correction for their
    number."""


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
    """Whether the student keeps every return, and all that was measured beside it."""
    tasks: tuple[Results, ...]
    """The results of each task."""

    def _told(self) -> tuple[str, Rows]:
        rows = [("task", "teacher", "student", "verdict")]
        rows += [(run.env, run.teacher.in_words(), run.student.in_words(), in_words(run.worst)) for run in self.tasks]
        return f"{self.recipe}, {self.student.params:,} parameters: {in_words(self.verdict.result)}", rows

    @property
    def worst(self) -> Result:
        """The worst verdict."""
        return self.verdict.result

    @staticmethod
    def of(runs: Sequence[Results], params: int) -> "TasksResults":
        """Of the results of each task, and the student's parameters over all."""
        verdicts = [run.worst for run in runs]
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
    score_mean: float | None
    """Mean over seeds of the best score at a check; None where the teacher is no better than random play."""
    worst_score: float | None
    """Of the worst seed."""
    best_score: float | None
    """Of the best seed."""
    best_seed: int
    """Which seed that is, from 0."""
    reached: bool
    """Whether its score is within the margin."""
    verdict: Result | None
    """Of the best seed, the worst of the return's and the measures'; None where none was taken."""
    of_return: RunVerdict | None = None
    """The return's own, with its difference and interval."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PlanResults(Shown):
    """The smallest student that keeps within the margin: the contents of plan.json."""

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
    """Seconds of the whole search; of one that was cut short and resumed, since then."""
    winner: str | None
    """The smallest size whose loss is within the margin; None where there is none."""
    frontier: tuple[PlanRow, ...]
    """A row for each size, smallest first."""
    asked: tuple[int, ...]
    """Most episodes of a verdict, each time that they were taken: all but the last left the plan undecided, or were cut
    short."""
    provenance: Provenance
    """What it was made with."""
    diverged: tuple[str, ...] = ()
    """Students whose weights became NaN or infinite on the way, such as ``mlp:16 (seed 3)``: of whom there was a check
    before, that counts; of a size of which there was none there is no row."""

    def __post_init__(self) -> None:
        if not self.asked or not all(0 < most < MAX_EPISODES for most in self.asked):
            raise SpecError(f"'asked' must hold numbers of episodes, got {self.asked!s:.80}.")

    @property
    def undecided(self) -> bool:
        """Whether nothing was found because a verdict could not tell, which more episodes may change."""
        return self.winner is None and any(row.verdict == "inconclusive" for row in self.frontier)

    def _told(self) -> tuple[str, Rows]:
        rows = [("student", "parameters", "µs", "score", "best", "verdict")]
        for row in self.frontier:
            mean, best = ("–" if one is None else f"{one:.3f}" for one in (row.score_mean, row.best_score))
            rows.append((row.student, f"{row.params:,}", f"{row.latency_us:.0f}", mean, best, in_words(row.verdict)))
        return f"{self.env}: the smallest within the margin is {self.winner or 'none'}", rows


AnyResults: TypeAlias = Results | SeedsResults | TasksResults | TeacherResults | PlanResults
"""What a results.json or a plan.json may hold; docs/results.schema.json is made from it."""


def read_results(path: Path) -> AnyResults:
    """The contents of a results.json or a plan.json.

    Raises:
        FileError: the file cannot be read.
        SpecError: it is damaged, or of another version.
    """
    found: AnyResults = from_plain(AnyResults, read_json(path), path.name)
    return found

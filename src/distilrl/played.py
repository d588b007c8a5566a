"""What was found by playing: returns with their interval, the acceptance of a teacher, a student beside its teacher."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilrl import stats
from distilrl.errors import SpecError
from distilrl.plain import Record
from distilrl.stats import Interval
from distilrl.verdict import Verdict, digits_of


def mean_in_words(mean: float, interval: Interval | None) -> str:
    """A mean and its interval, as finely as that tells; None: it is exact.

    Example::

        mean_in_words(0.8751, (0.861, 0.889))  # "0.875 [0.861, 0.889]"
    """
    if interval is None:
        return f"{mean:,.{digits_of(abs(mean) / 10 or 1.0)}f} exactly"
    low, high = interval
    number = f"{{:z,.{digits_of((high - low) / 2 or abs(mean) / 10 or 1.0)}f}}".format
    return f"{number(mean)} [{number(low)}, {number(high)}]"


@dataclass(frozen=True, kw_only=True)
class Returns(Record):
    """Returns of whole episodes, unclipped.

    Example::

        low, high = evaluate_policy(teacher, "CartPole-v1").return_ci95
    """

    return_mean: float
    """Mean."""
    return_iqm: float
    """Interquartile mean."""
    return_ci95: Interval
    """95 % interval of the mean; where it is exact, both ends are the mean."""
    episodes: int
    """Episodes played."""
    distinct_episodes: int
    """Episodes that differ from one another, or clusters of them where the environment tells these: the units of the
    interval. A deterministic game repeats itself."""
    exact: bool
    """Whether the episodes begin from all equally likely starts of a game that repeats itself: the mean is known."""

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean; None where it is exact."""
        return None if self.exact else self.return_ci95

    def in_words(self) -> str:
        """The mean and its interval.

        Example::

            results.student.in_words()  # '11,807.10 [11,640.32, 11,903.55]', or '21.00 exactly'
        """
        return mean_in_words(self.return_mean, self.interval)

    @staticmethod
    def of(
        returns: ArrayLike, rng: np.random.Generator, clusters: ArrayLike | None = None, *, exact: bool = False
    ) -> "Returns":
        """Statistics of returns.

        Args:
            returns: (E,) of each episode.
            rng: source of the bootstrap.
            clusters: (E,) labels of episodes that are one unit, identical ones for instance.
            exact: whether they are of all starts that there are.
        """
        values = np.asarray(returns, dtype=np.float64)
        mean = stats.mean(values)
        return Returns(
            return_mean=mean,
            return_iqm=stats.iqm(values),
            return_ci95=(mean, mean) if exact else stats.mean_interval(values, rng, clusters=clusters),
            episodes=len(values),
            distinct_episodes=len(values) if clusters is None else len(np.unique(np.asarray(clusters))),
            exact=exact,
        )


@dataclass(frozen=True, kw_only=True)
class Acceptance(Returns):
    """What the check before distilling found of a teacher."""

    longest_episode: int
    """Steps of its longest episode."""
    random_return_mean: float
    """Mean return of random play."""
    better_than_random: bool
    """Whether the teacher's return is above random play's beyond chance."""
    worst_loss: float
    """The most by which an episode of random play fell short of the teacher's on the same seed; where every start was
    played, of the teacher's best."""
    cut_random_return_mean: float | None = None
    """Mean return of random play in episodes that end after `check_steps`; None: no episode of its was longer."""

    @property
    def check_steps(self) -> int:
        """Steps after which a check while training ends an episode: twice the teacher's longest."""
        return 2 * self.longest_episode


@dataclass(frozen=True, kw_only=True)
class TeacherCard(Record):
    """A teacher and its acceptance; the contents of a run's teacher.json."""

    path: str
    """The file that it was read from, or a name."""
    sha256: str
    """Digest of the file."""
    format: str
    """What kind of file it is."""
    kind: str | None
    """What its numbers are: ``q``, ``logits``, ``mean`` or ``gaussian``; None where only the environment tells."""
    head: dict[str, Any]
    """What its numbers mean, as plain data."""
    network: str
    """The network in few words."""
    meta: dict[str, Any]
    """What the file says of itself."""
    params: int | None
    """Parameters; None where they cannot be known."""
    acceptance: Acceptance
    """How it plays."""
    elsewhere: Acceptance | None = None
    """How it plays where the verdict is, if that is another environment."""

    @property
    def judged(self) -> Acceptance:
        """What the verdict is about."""
        return self.elsewhere or self.acceptance


@dataclass(frozen=True, kw_only=True)
class Played(Returns):
    """One side of a comparison."""

    truncated: int
    """Episodes that a limit of time or steps cut."""


@dataclass(frozen=True, kw_only=True)
class Scored(Played):
    """The student's side of a comparison."""

    score: float | None
    """Share of the way from random play (0) to the teacher (1); None where these two do not differ."""


@dataclass(frozen=True, kw_only=True)
class Dimension(Record):
    """How far one dimension of a student's real actions is off, on states that the student visits."""

    rms: float
    """Root mean square of student − teacher, in half-ranges."""
    bias: float
    """Mean of student − teacher, in half-ranges."""
    at_bound: float
    """Share of the states in which the teacher's action is at a bound."""
    half_range: float
    """Half the dimension's range, in the environment's own units."""


@dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """How alike two policies act in the same states; with ``tables`` of choices, or ``dimensions`` of real actions."""

    teacher_states: float
    """Mean agreement on states that the teacher visits, 0 to 1."""
    teacher_states_where_it_matters: float
    """The same, each state weighted by what a mistake costs there."""
    teacher_states_error: float
    """Root mean square error there: in half-ranges, or of the share of choices that differ."""
    student_states: float
    """Mean agreement on states that the student visits, 0 to 1."""
    student_states_where_it_matters: float
    """The same, each state weighted by what a mistake costs there."""
    student_states_error: float
    """Root mean square error there."""
    student_states_in_effect: float | None = None
    """As ``student_states``, actions that do the same in this environment counted as equal; None where that is not
    known."""
    tables: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """For each choice, how often the teacher picks the row and the student the column, on the student's states; empty
    of one of more than 256 options."""
    dimensions: tuple[Dimension, ...] = ()
    """Of each dimension of real actions."""


@dataclass(frozen=True, kw_only=True)
class RunVerdict(Verdict):
    """The verdict of a comparison that may play on while it is inconclusive."""

    looks: int
    """How many times it may look at growing data."""
    span: float
    """Loss of the worst episode that it reckons with, as the acceptance check found it."""
    after: int = 0
    """Seeds that it passed over, because an earlier verdict on them may have been inconclusive."""


@dataclass(frozen=True, kw_only=True)
class Sides(Record):
    """Teacher and student under one disturbance."""

    teacher: Returns
    """The teacher's returns."""
    student: Returns
    """The student's."""
    verdict: RunVerdict
    """Whether the student keeps the return there too."""


@dataclass(frozen=True, kw_only=True)
class RandomPlay(Record):
    """Random play."""

    return_mean: float
    """Mean return."""


@dataclass(frozen=True, kw_only=True)
class Disagreement(Record):
    """A state in which teacher and student differ."""

    teacher_action: tuple[int, ...] | tuple[float, ...]
    """What the teacher does, (F,) or (A,)."""
    student_action: tuple[int, ...] | tuple[float, ...]
    """What the student does."""
    stakes: float
    """How much a small mistake costs there."""
    error: float
    """How far the two are apart."""
    obs: tuple[float, ...] | None
    """The observation; None where it has an image."""
    image: str | None
    """Its newest picture as a data URI."""


@dataclass(frozen=True, kw_only=True)
class SingleReturns(Record):
    """Returns of single episodes, in the order of their seeds."""

    teacher: tuple[float, ...]
    """(E,) the teacher's."""
    student: tuple[float, ...]
    """(E,) the student's."""
    pairs: tuple[int, ...] = ()
    """(E,) labels: equal where both played one and the same episode again, or one of the same cluster; empty where each
    stands for itself."""
    teacher_units: tuple[int, ...] = ()
    """(E,) labels: equal where the teacher played one and the same episode again; empty where its returns tell these
    apart, or clusters count."""
    starts: tuple[float, ...] = ()
    """(E,) mean of the numbers of the first observation, by which the environment is known again; empty where a seed
    does not settle it."""

    def __post_init__(self) -> None:
        counts = len(self.teacher), len(self.student), len(self.pairs), len(self.teacher_units), len(self.starts)
        if counts[0] != counts[1] or not counts[0] or {*counts[2:]} - {0, counts[0]}:
            raise SpecError(
                f"'returns' holds {counts[0]} of the teacher, {counts[1]} of the student and {max(counts[2:])} labels, "
                "where each episode has one: the file is damaged or of several runs."
            )

    def labels(self, episodes: int) -> tuple[int, ...]:
        """Those of the first episodes, (E,)."""
        return self.pairs[:episodes] or tuple(range(episodes))


def labels_of_all(runs: Sequence[SingleReturns], episodes: int) -> list[int]:
    """Labels (E,) of the first episodes, equal where they are one unit in each of these runs of the same seeds."""
    labels = list(zip(*(one.labels(episodes) for one in runs), strict=True))
    numbers = {one: number for number, one in enumerate(dict.fromkeys(labels))}
    return [numbers[one] for one in labels]


@dataclass(frozen=True, kw_only=True)
class SingleMeasured(Record):
    """A measure of single episodes, in the order of their seeds."""

    teacher: tuple[float | None, ...]
    """(E,) the teacher's; None where an episode has none."""
    student: tuple[float | None, ...]
    """(E,) the student's."""

    @staticmethod
    def of(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> "SingleMeasured":
        """Of numbers (E,), NaN where there is none."""
        theirs, ours = (tuple(None if math.isnan(one) else one for one in side.tolist()) for side in (teacher, student))
        return SingleMeasured(teacher=theirs, student=ours)


@dataclass(frozen=True, kw_only=True)
class SingleEpisodes(Record):
    """The contents of a run's episodes.json."""

    returns: SingleReturns
    """Of each episode of the verdict."""
    disagreements: tuple[Disagreement, ...]
    """The worst of the states that the student visits."""
    measured: tuple[SingleMeasured, ...] = ()
    """What was measured beside the return, in the order in which it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Difference(Record):
    """How two policies' returns differ on the same episodes."""

    difference: float
    """Mean of the differences."""
    difference_ci95: Interval
    """95 % interval of it."""


@dataclass(frozen=True, kw_only=True)
class PlayedTeacher(Acceptance):
    """How a teacher plays, as `inspect_play` found it."""

    env: str
    """Environment."""
    protocol: dict[str, Any]
    """The environment's rules of play."""
    disturbed: dict[str, Returns]
    """By name of the disturbance."""
    warnings: tuple[str, ...]
    """What to look at, in words."""

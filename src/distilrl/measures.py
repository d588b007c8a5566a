"""What a claim is about beside the return: numbers of an environment's ``info``, one for each episode.

The collision of a car, the speed it made, the energy a sensor used, the disease that was found. A measure with a margin
has a verdict of its own (docs/verdict.md), as the return has.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from distilrl import stats
from distilrl.errors import SpecError
from distilrl.plain import Record
from distilrl.played import Difference, RunVerdict
from distilrl.stats import Interval
from distilrl.verdict import Verdict, difference_interval, non_inferiority

How = Literal["last", "sum", "mean", "max"]
"""How an episode's number is made of those of its steps."""
Better = Literal["lower", "higher"]
"""Which of two numbers is the better one."""
Side = tuple[NDArray[np.float64], NDArray[Any]]
"""Numbers (E,) of episodes, NaN where there is none, and labels (E,) of those that are one unit."""
TEXT = re.compile(r"(?P<name>[^=<>]+)(?:=(?P<how>\w+))?(?:(?P<side><=|>=)(?P<margin>[^=<>]+))?")


@dataclass(frozen=True)
class Measure:
    """A number of each episode, and how much worse a student's may be than its teacher's."""

    name: str
    """Key of the ``info`` that the environment gives at a step; a step whose info lacks it, or has None there, does not
    count, and neither does an episode of such steps alone."""
    how: How = "last"
    """How an episode's number is made of those of its steps."""
    better: Better | None = None
    """Which side the margin is of; None: there is no verdict."""
    margin: float | None = None
    """How much worse the student's mean may be, in the measure's own units, > 0; None: there is no verdict."""

    def __post_init__(self) -> None:
        if not self.name or self.how not in get_args(How) or self.better not in (None, *get_args(Better)):
            raise SpecError(
                f"The measure '{self.name}' is made by '{self.how}', better '{self.better}': name it, make it by one "
                f"of {', '.join(get_args(How))}, and say lower or higher."
            )
        if (self.better is None) != (self.margin is None):
            raise SpecError(f"The measure '{self.name}' needs both, 'better' and 'margin', or neither.")
        if self.margin is not None and not (isinstance(self.margin, int | float) and 0 < self.margin < math.inf):
            raise SpecError(f"The margin of the measure '{self.name}' must be above 0 and finite, got {self.margin}.")

    @staticmethod
    def of(text: str) -> "Measure":
        """Reads ``NAME[=HOW][<=MARGIN|>=MARGIN]``; ``<=``: lower is better, ``>=``: higher is.

        Raises:
            SpecError: the text is not so.

        Example::

            Measure.of("crashed=max<=0.05")  # collisions in 5 of 100 episodes more than the teacher's are too many
        """
        found = TEXT.fullmatch(text)
        try:
            if found is None or found["how"] not in (None, *get_args(How)):
                raise ValueError
            side, margin = found["side"], found["margin"]
            better: Better | None = None if side is None else "lower" if side == "<=" else "higher"
            return Measure(found["name"], found["how"] or "last", better, None if margin is None else float(margin))  # type: ignore[arg-type]
        except ValueError:
            raise SpecError(
                f"The measure '{text}' is not understood: write NAME[=HOW][<=MARGIN or >=MARGIN], HOW one of "
                f"{', '.join(get_args(How))}, e.g. 'crashed=max<=0.05' (quoted, because of < and >)."
            ) from None

    @property
    def words(self) -> str:
        """As people read it, e.g. ``crashed (max)``."""
        return f"{self.name} ({self.how})"

    @property
    def text(self) -> str:
        """As `of` reads it."""
        side = "" if self.better is None else f"{'<=' if self.better == 'lower' else '>='}{self.margin}"
        return f"{self.name}={self.how}{side}"


class Tally:
    """What episodes have of each measure so far.

    Args:
        measures: M of them.
        episodes: how many, E.
    """

    def __init__(self, measures: Sequence[Measure], episodes: int) -> None:
        self._hows = [measure.how for measure in measures]
        self._values: NDArray[np.float64] = np.full((episodes, len(measures)), np.nan)
        self._steps = np.zeros((episodes, len(measures)), np.int64)

    def add(self, episodes: NDArray[np.int64], numbers: NDArray[np.float64]) -> None:
        """Takes the numbers (L, M) of a step of these episodes (L,); NaN where there is none."""
        for m, how in enumerate(self._hows):
            there = ~np.isnan(numbers[:, m])
            rows, new = episodes[there], numbers[there, m]
            old = self._values[rows, m]
            if how == "max":
                new = np.fmax(old, new)
            elif how != "last":
                new = np.where(np.isnan(old), 0.0, old) + new
            self._values[rows, m] = new
            self._steps[rows, m] += 1

    @property
    def result(self) -> NDArray[np.float64]:
        """(E, M); NaN where no step of an episode had a number."""
        means = np.array([how == "mean" for how in self._hows], np.bool_)
        return np.where(means, self._values / np.maximum(self._steps, 1), self._values)


def rounded(number: float, sign: str = "") -> str:
    """A measure's number to three digits, whatever its size: ``0.0123``, ``25.3``, ``12,345``; sign "+" always shows
    one.
    """
    number = round(number, 9) + 0.0  # no minus before a zero
    return f"{number:{sign},.0f}" if abs(number) >= 999.5 else f"{number:{sign}.3g}"


@dataclass(frozen=True, kw_only=True)
class Mean(Record):
    """Mean over episodes of a measure."""

    mean: float
    """Mean."""
    ci95: Interval
    """95 % interval of it; of a share of episodes Wilson's."""
    episodes: int
    """Episodes that have a number."""

    def in_words(self) -> str:
        """The mean and its interval, e.g. ``0.12 [0.07, 0.2]``."""
        return f"{rounded(self.mean)} [{rounded(self.ci95[0])}, {rounded(self.ci95[1])}]"

    @staticmethod
    def of(values: NDArray[np.float64], how: How, rng: np.random.Generator, labels: NDArray[Any]) -> "Mean | None":
        """Of numbers (E,) made in this way, NaN where there is none, and labels (E,) of those that are one unit; None
        where none has one.
        """
        there = ~np.isnan(values)
        values, labels = values[there], labels[there]
        if not len(values):
            return None
        mean = stats.mean(values)
        sizes, rate = stats.cluster_sums(values, labels)[1], _is_rate(values, how)
        if rate and len(sizes) == len(values):
            interval = stats.share_interval(mean, len(values))
        else:
            interval = stats.mean_interval(values, rng, clusters=labels)
            if rate:  # units of several episodes may hold both, of which Wilson knows nothing
                low, high = stats.share_interval(mean, stats.effective(sizes))
                interval = max(0.0, min(low, interval[0])), min(1.0, max(high, interval[1]))
        return Mean(mean=mean, ci95=interval, episodes=len(values))


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """A measure of teacher, student and random play."""

    name: str
    """Key of the environment's ``info``."""
    how: How
    """How an episode's number is made of those of its steps."""
    better: Better | None
    """Which side the margin is of; None where there is none."""
    teacher: Mean | None
    """The teacher's; None where none of its episodes has one."""
    student: Mean | None
    """The student's, on the same seeds."""
    random: Mean | None
    """Random play's, on the seeds of the first look."""
    difference: Difference | None
    """Student − teacher, over the episodes in which both have one; None where there is none."""
    verdict: RunVerdict | None
    """Whether the student is as good; None where there is no margin. Its ``difference`` and ``interval`` are the
    measure's own, student − teacher: where lower is better, a pass is an interval wholly below the margin."""

    @property
    def words(self) -> str:
        """As people read it, e.g. ``crashed (max)``."""
        return f"{self.name} ({self.how})"

    @staticmethod
    def of(
        measure: Measure,
        sides: Sequence[Side],
        pairs: NDArray[Any],
        looks: int,
        protocol: str,
        cluster: str | None = None,
    ) -> "Measured":
        """What episodes say.

        Args:
            measure: of what, and its margin.
            sides: of teacher, student and random play, the first two on the same seeds.
            pairs: (E,) labels of pairs of episodes of these two that are one unit.
            looks: as in `non_inferiority`.
            protocol: of what play this is, in few words.
            cluster: as of `RunVerdict`.
        """
        rng = np.random.default_rng(0)
        teacher, student, random = (Mean.of(values, measure.how, rng, labels) for values, labels in sides)
        span = _reach(measure, [values for values, _ in sides])
        theirs, ours, pairs = _of_both(sides[0][0], sides[1][0], pairs)
        difference, verdict = _difference(theirs, ours, pairs, span, rng, repeats=cluster is None), None
        if measure.margin:
            found = _verdict(measure, theirs, ours, pairs, span, looks, cluster)
            verdict = RunVerdict(**vars(found) | {"protocol": protocol}, looks=looks, span=span)
        return Measured(
            name=measure.name,
            how=measure.how,
            better=measure.better,
            teacher=teacher,
            student=student,
            random=random,
            difference=difference,
            verdict=verdict,
        )

    def again(
        self,
        theirs: NDArray[np.float64],
        ours: NDArray[np.float64],
        labels: NDArray[Any],
        pairs: NDArray[Any],
        cluster: str | None,
    ) -> "Measured":
        """The same of a student that played in another form on these seeds.

        Args:
            theirs: (E,) of the teacher, NaN where there is none.
            ours: (E,) of the student's other form.
            labels: (E,) of its episodes that are one unit.
            pairs: (E,) of pairs of episodes that are.
            cluster: as of `RunVerdict`.
        """
        rng, verdict = np.random.default_rng(0), self.verdict
        student = Mean.of(ours, self.how, rng, labels)
        span = verdict.span if verdict is not None else _reach(self.measure, [theirs, ours])
        theirs, ours, pairs = _of_both(theirs, ours, pairs)
        difference = _difference(theirs, ours, pairs, span, rng, repeats=cluster is None)
        if verdict is not None:
            found = _verdict(self.measure, theirs, ours, pairs, span, verdict.looks, cluster)
            verdict = replace(verdict, **vars(found) | {"protocol": verdict.protocol})
        return replace(self, student=student, difference=difference, verdict=verdict)

    @property
    def measure(self) -> Measure:
        """What was asked for."""
        return Measure(self.name, self.how, self.better, self.verdict.margin if self.verdict is not None else None)


def _of_both(theirs: NDArray[np.float64], ours: NDArray[np.float64], pairs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Numbers and labels (E,) of the episodes in which both have one."""
    both = ~np.isnan(theirs) & ~np.isnan(ours)
    return theirs[both], ours[both], pairs[both]


def _difference(
    theirs: NDArray[np.float64],
    ours: NDArray[np.float64],
    pairs: NDArray[Any],
    span: float,
    rng: np.random.Generator,
    *,
    repeats: bool,
) -> Difference | None:
    """How far the student's numbers (E,) are off; None where there are none."""
    if not len(ours):
        return None
    ends = difference_interval(ours - theirs, rng, span=span, clusters=pairs, repeats=repeats)
    return Difference(difference=stats.mean(ours - theirs), difference_ci95=ends)


def _verdict(
    measure: Measure,
    theirs: NDArray[np.float64],
    ours: NDArray[np.float64],
    pairs: NDArray[Any],
    span: float,
    looks: int,
    cluster: str | None,
) -> Verdict:
    """The return's test of a measure's numbers (E,): where lower is better, of what lies below 0."""
    margin = measure.margin or 0.0
    if not len(ours):
        why = "no episode of both has it"
        return Verdict("inconclusive", margin, 0.0, (-span, span), 0.95, 0, why, cluster=cluster)
    rng, sign = np.random.default_rng(0), -1.0 if measure.better == "lower" else 1.0
    found = non_inferiority(
        sign * ours,
        sign * theirs,
        margin,
        rng,
        span=span,
        clusters=pairs,
        looks=looks,
        of=("values", sign),
        cluster=cluster,
        repeats=cluster is None,
    )
    low, high = sorted(sign * end + 0.0 for end in found.interval)
    return replace(found, difference=sign * found.difference + 0.0, interval=(low, high))


def _reach(measure: Measure, sides: Sequence[NDArray[np.float64]]) -> float:
    """The difference of the worst episode that must be reckoned with: 1 of what an episode has or has not, else the
    range of all that was seen, and never less than twenty margins, as of a return whose margin is 5 %.
    """
    seen = np.concatenate(sides)
    seen = seen[~np.isnan(seen)]
    wide, least = float(np.ptp(seen)) if len(seen) else 0.0, 20 * (measure.margin or 0.0)
    if len(seen) and _is_rate(seen, measure.how) and (measure.margin or 0.0) < 1:
        # a count that was never above 1 has a margin that says what it is; of one that never differed nobody knows
        return 1.0 if wide else max(1.0, least)
    return max(wide, least)


def _is_rate(values: NDArray[np.float64], how: How) -> bool:
    """Whether each episode has the thing or has it not, so that the mean is a share of episodes."""
    return how in ("last", "max") and bool(np.isin(values, (0.0, 1.0)).all())

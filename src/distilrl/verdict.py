"""The verdict: does a student keep its teacher's return? Four outcomes, with stated rates of error.

The question is one of non-inferiority: is the student's mean return below the teacher's by less than a margin that was
fixed before? Where a game repeats itself from a known number of starts, all are played and the answer is exact. Else
episodes are a sample, and the danger is the failure that none of them shows: the bootstrap of a hundred equal
differences has no width. Each end of the interval therefore counts one episode more than were played, the worst that
can be expected at the lower end and the best at the upper. docs/verdict.md derives it; benchmarks/verdict_error.py
measures how often it errs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilrl.errors import NotFiniteError, SpecError
from distilrl.stats import (
    FEW,
    Interval,
    cluster_sums,
    effective,
    mean_interval,
    resample_shares,
    stretch_of_few,
    t_interval,
)

Result = Literal["pass", "within_margin", "inconclusive", "fail"]
RESULTS: tuple[Result, ...] = ("fail", "inconclusive", "within_margin", "pass")
"""From the worst to the best."""
HOLDS: tuple[Result, ...] = ("within_margin", "pass")
"""Those that prove the loss to be less than the margin."""
MIN_DISTINCT = 50
"""Distinct pairs of episodes under which there is no verdict: what fails in one episode of twenty is then missed in 8 %
of the samples, and in 36 % of samples of twenty."""
MIN_SEEDS = 5
"""Training seeds under which there is no verdict on students of a kind."""
NARROW = 0.38
"""Share of the nominal tail at which the bootstrap's quantile is taken. A percentile bootstrap is too narrow for rare
losses: where an episode loses all or nothing the verdict errs, at this share, in at most the nominal 2.5 % whatever the
margin and the number of episodes from `MIN_DISTINCT` on, and in up to 5.0 % without it. A test computes that exactly.
That is with one look, or the three of a run; with two, which only Python and a config.json can ask for, it errs in up
to 2.8 % at some margins.
"""
EPISODES = "distinct episodes"
"""What a verdict's units are called by themselves."""
DRAWS = 5_000
"""Resamples of a table of seeds and episodes."""
TOGETHER = 2**24
"""Weights of resamples that are held at once."""
LEVELS = 256
"""Points of the lattice on which a mean's distribution under resampling is computed, of as wide a range as the worst
unit lies below zero, twice; of a wider one more."""
WIDEST = 64
"""Times the worst unit's distance from zero up to which others count at the lower end: what lies above is taken to lie
there, which makes the end lower, and never by much, for a resample without it is as likely as one with it."""
HALVINGS = 10
"""Of the range in which an end is found to lie, where units differ in size: what is left is less than a hundredth of
the mean's standard deviation."""
OUTWARD = 1e-12
"""Share of what is reckoned with by which ends are moved outwards: one that equals the margin is undecided, whichever
way it was rounded."""


@dataclass(frozen=True)
class Verdict:
    """Is the student's mean return below the teacher's by less than the margin?"""

    result: Result
    """pass: the whole interval of the difference lies above −margin; within_margin: so it does, but wholly below 0, and
    the student is proven worse; fail: it lies below −margin; inconclusive: none of these."""
    margin: float
    """Largest loss of return that is acceptable, in the environment's own units, > 0."""
    difference: float
    """Mean of student − teacher over paired episodes."""
    interval: Interval
    """The interval of the difference that decided; both ends are the difference where it is exact."""
    confidence: float
    """Its confidence: above 0.95 where several looks were allowed, 1 where nothing is left to chance."""
    distinct: int
    """Distinct pairs of episodes, or clusters of them: the units that were drawn."""
    reason: str = ""
    """Why there is no verdict, or none but this one could be, of so few episodes."""
    protocol: str = ""
    """Of what play it speaks, in few words."""
    cluster: str | None = None
    """Key of the environment's ``info`` that says which episodes are one unit, ``distinct`` of which there are; None:
    those that are one and the same."""

    @property
    def exact(self) -> bool:
        """Whether every start was played, so that nothing is left to chance."""
        return self.confidence == 1.0

    @property
    def holds(self) -> bool:
        """Whether the loss is proven to be less than the margin."""
        return self.result in HOLDS


def decide(interval: Interval, margin: float) -> Result:
    """What an interval of the difference says."""
    low, high = interval
    if low > -margin:
        return "within_margin" if high < 0 else "pass"
    return "fail" if high <= -margin else "inconclusive"


def worst_of(*results: Result | None) -> Result | None:
    """The worst of some verdicts, of which None is none; None where there is none.

    Example::

        worst_of("pass", None, "inconclusive")  # 'inconclusive'
    """
    return min((one for one in results if one is not None), key=RESULTS.index, default=None)


def in_words(result: str | None) -> str:
    """A result as people read it; empty where there is none.

    Example::

        in_words("within_margin")  # 'within margin'
    """
    return (result or "").replace("_", " ")


def units_in_words(cluster: str | None) -> str:
    """What a verdict's units are called, clusters by the key of the ``info`` that tells them.

    Example::

        units_in_words("patient")  # "clusters by 'patient'"
    """
    return EPISODES if cluster is None else f"clusters by '{cluster}'"


def digits_of(margin: float) -> int:
    """Digits behind the point that numbers held against a margin need: two of its own at least.

    Example::

        digits_of(24.0), digits_of(0.0044)  # 2, 4
    """
    return max(2, 1 - math.floor(math.log10(margin)))


def difference_in_words(verdict: Verdict, number: Callable[[float], str] | None = None) -> str:
    """The difference and the interval that decided, which several looks make wider than 95 %; ``number`` writes each,
    by default as finely as the margin asks.

    Example::

        difference_in_words(results.verdict)  # '-12.50 [-45.00, +15.00] at 98.3%'
    """
    number = number or f"{{:+,.{digits_of(verdict.margin)}f}}".format
    if verdict.exact:
        return f"{number(verdict.difference)} exactly"
    low, high = verdict.interval
    words = f"{number(verdict.difference)} [{number(low)}, {number(high)}]"
    return words + (f" at {verdict.confidence:.1%}" if verdict.confidence > 0.95 else "")


def margin_in_words(verdict: Verdict) -> str:
    """The margin, as finely as `difference_in_words` has the difference."""
    return f"{verdict.margin:,.{digits_of(verdict.margin)}f}"


def exact_verdict(student: ArrayLike, teacher: ArrayLike, margin: float, *, clusters: ArrayLike) -> Verdict:
    """The verdict where all equally likely starts were played, (E,) each: the difference is known; ``clusters`` (E,)
    are labels of identical episode pairs.

    Raises:
        SpecError, NotFiniteError: as `non_inferiority`.

    Example::

        exact_verdict([21.0, 21.0], [20.0, 21.0], 2.0, clusters=[0, 1]).result  # 'pass'
    """
    differences = _differences(student, teacher, margin)
    _check_labels(clusters, differences)
    difference = float(differences.mean())
    interval = (difference, difference)
    # a loss of the margin is none of less, whichever way the returns' difference was rounded
    tied = abs(difference + margin) <= OUTWARD * max(margin, np.abs(student).max(), np.abs(teacher).max())
    result = "fail" if tied else decide(interval, margin)
    return Verdict(result, margin, difference, interval, 1.0, _distinct(clusters))


def non_inferiority(
    student: ArrayLike,
    teacher: ArrayLike,
    margin: float,
    rng: np.random.Generator,
    *,
    span: float,
    clusters: ArrayLike | None = None,
    looks: int = 1,
    of: tuple[str, float] = ("returns", 1.0),
    cluster: str | None = None,
    repeats: bool = False,
) -> Verdict:
    """Paired non-inferiority test of the mean return over a sample of episodes.

    Args:
        student: returns, (E,).
        teacher: returns of the same seeds, (E,).
        margin: largest acceptable loss, > 0.
        rng: source of the bootstrap.
        span: loss of the worst episode that must be reckoned with, > 0: at least teacher − random.
        clusters: (E,) labels of episode pairs that are one unit, because they are identical or of one patient, day or
            map; by default none are.
        looks: how many times this question may be asked of growing data; the decision is made at
            confidence 1 − 0.05 / looks (Bonferroni), so that all looks together err in at most 5 %.
        of: what is compared, for the reason in words, and -1 where these are its numbers with the sign changed.
        cluster: key of the ``info`` by which the labels are, where they are clusters' of the environment.
        repeats: as in `difference_interval`.

    Raises:
        SpecError: the returns are not of the same episodes, or the margin, the span or the looks mean nothing.
        NotFiniteError: a return or the margin is NaN or infinite, from which no comparison would follow.

    Example::

        rng = np.random.default_rng(0)
        non_inferiority([500.0] * 100, [500.0] * 100, 24.0, rng, span=478.0).result  # 'pass'
    """
    difference = _differences(student, teacher, margin)
    _check_labels(clusters, difference)
    _check_above_zero(span=span)
    if looks < 1 or looks % 1:
        raise SpecError(f"'looks' must be a whole number of at least 1, got {looks}.")
    confidence = 1.0 - 0.05 / looks
    bound = partial(difference_interval, span=span, clusters=clusters, repeats=repeats, confidence=confidence)
    interval = bound(difference, rng)
    sizes = cluster_sums(difference, clusters)[1]
    distinct, counting, units = len(sizes), effective(sizes), units_in_words(cluster)
    reason = too_few(distinct, units, counting)
    result = "inconclusive" if reason else decide(interval, margin)
    if result == "inconclusive" and not reason:
        least, _ = bound(np.zeros_like(difference), rng)
        if least < -margin:
            reason = (
                f"{distinct} {units} are too few for this margin: were all {of[0]} equal, the interval would "
                f"still reach {of[1] * least:,.3g}"
            )
    mean = float(difference.mean())
    return Verdict(result, margin, mean, interval, confidence, distinct, reason, cluster=cluster)


def _distinct(clusters: ArrayLike) -> int:
    """How many labels there are."""
    return len(np.unique(np.asarray(clusters)))


def too_few(distinct: int, units: str = EPISODES, counting: float | None = None) -> str:
    """Why so many units give no verdict, which count as so many where they differ in size; empty where they do."""
    counted = distinct if counting is None else counting
    if min(distinct, counted) >= MIN_DISTINCT:
        return ""
    few = min(round(counted), MIN_DISTINCT - 1)  # 49.6 are not 50
    as_few = "" if distinct < MIN_DISTINCT else f", which count as {few} because some are much larger,"
    return f"{distinct} {units}{as_few} are too few: a verdict needs {MIN_DISTINCT}"


def difference_interval(
    difference: ArrayLike,
    rng: np.random.Generator,
    *,
    span: float,
    clusters: ArrayLike | None = None,
    repeats: bool = False,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of paired differences, (E,), by bootstrap with one episode more at either end.

    At the lower end it differs by −``span`` or the worst that was seen, at the upper by +``span`` or the best. What no
    episode shows then has the weight that it may have: of n equal differences the lower end lies 4 · span / (n + 1)
    below them at 95 %, where an exact (Clopper-Pearson) bound of what was never seen lies 3.7 · span / n below. Of
    units of several episodes it is one of the larger (`unseen_size`): they weigh more, and so does what may be unseen
    of them. Of fewer than `FEW` units it is at least as wide as Student's t.

    No resample is drawn: the distribution of the mean of all of them is computed.

    Args:
        difference: student − teacher, (E,).
        rng: source of what Student's t is not asked for, under `FEW` units.
        span: as in `non_inferiority`.
        clusters: (E,) labels of episodes that are one unit; by default none are.
        repeats: they are one because they are the same episode again, and not because they were drawn together: what is
            often there has been seen, so that the unit that was not is as large as that of a random episode.
        confidence: how often the interval shall cover the mean.

    Example::

        difference_interval([0.0] * 100, np.random.default_rng(0), span=478.0)  # (-18.9, 18.9)
    """
    values = np.asarray(difference, dtype=np.float64)
    sums, sizes = cluster_sums(values, clusters)
    tail, size = NARROW * (1.0 - confidence) / 2.0, unseen_size(sizes, repeats=repeats)
    worst, best = float(min(-span, values.min())), float(max(span, values.max()))
    drawn = np.append(sizes, size)
    low = _lower_end(np.append(sums, worst * size), drawn, worst, tail)
    high = -_lower_end(np.append(-sums, -best * size), drawn, -best, tail)
    low, high = low + OUTWARD * worst, high + OUTWARD * best
    if effective(sizes) < FEW:
        own = mean_interval(values, rng, clusters=clusters, confidence=confidence)
        return min(low, own[0]), max(high, own[1])
    return low, high


def unseen_size(sizes: NDArray[np.float64], *, repeats: bool = False) -> float:
    """How many episodes the unit that was not seen has, where those that were have so many (K,): Σ n⁴ / Σ n³, and of
    ``repeats`` Σ n² / Σ n, what the unit of a random episode has.

    Where a few large clusters hold much of the mean and may be all that loses, those that were drawn may be too few,
    and none of them one that lost: by Σ n² / Σ n, 8 to 20 % of false passes were left where their number is itself
    drawn (docs/decisions/0033-unseen-clusters.md).

    Example::

        unseen_size(np.array([1.0, 1.0, 10.0]))  # 9.98
    """
    power = 1 if repeats else 3
    return float((sizes ** (power + 1)).sum() / (sizes**power).sum())


def _power(values: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """Each to the power of ``count``, by squaring; NumPy's own goes by logarithms from 100 on, which takes longer."""
    found = values if count % 2 else np.ones_like(values)
    while count := count // 2:
        values = values * values
        found = found * values if count % 2 else found
    return found


def _lower_end(sums: NDArray[np.float64], sizes: NDArray[np.float64], worst: float, tail: float) -> float:
    """Below what the mean of a resample of units, whose sums (K,) and sizes (K,) these are, lies with a probability of
    at most ``tail``; ``worst`` is the mean of the worst of them.

    Where all are of one size that is a quantile of their sum. Else the mean lies below x where the sum of Sₖ − x · nₖ
    lies below 0, and the x where that is as probable as ``tail`` is looked for by halving.
    """
    if (sizes == sizes[0]).all():
        step, least, below = _sum_of_draws(sums / sizes[0], worst)
        at = least + np.searchsorted(below, tail, side="right")
        return float(worst + step * at / len(sums))
    high = float(sums.sum() / sizes.sum())
    off = sums - high * sizes
    wide = 4.0 * math.sqrt(off @ off) / float(sizes.sum())
    while worst < (low := high - wide) < high and _below_zero(sums - low * sizes) > tail:
        high = low
    low = max(low, worst)
    for _ in range(HALVINGS if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _below_zero(sums - middle * sizes) <= tail else (low, middle)
    return low


def _below_zero(units: NDArray[np.float64]) -> float:
    """The probability that the sum of K draws from units (K,), some of them below 0, is so."""
    _, least, below = _sum_of_draws(units, 0.0)
    return float(below[min(-least, len(below)) - 1])


def _sum_of_draws(units: NDArray[np.float64], at: float) -> tuple[float, int, NDArray[np.float64]]:
    """The distribution of the sum of K draws from units (K,), the least of them below 0: that of one, convolved with
    itself by Fourier transform, on a lattice of which ``at`` is a point; a unit between two of its points is shared by
    them such that the mean stays.

    Returns:
        The lattice's step, where on it the least sum lies, counted from K · ``at``, and the probabilities that the sum
        is at most that, at most one step more, and so on.
    """
    count, worst = len(units), float(units.min())
    drawn = np.minimum(units, -WIDEST * worst)
    width = float(drawn.max()) - worst
    if width == 0:
        return 0.0, 0, np.ones(1)
    wanted = int(LEVELS * max(1.0, width / (-2.0 * worst)))
    step = width / max(LEVELS // 8, min(wanted, 2**20 // count))
    place = (drawn - at) / step
    least = math.floor(place.min())
    point = np.floor(place).astype(np.int64)
    above, levels = place - point, int(point.max()) + 1 - least
    one = np.bincount(point - least, 1.0 - above, levels + 1) + np.bincount(point + 1 - least, above, levels + 1)
    size = 1 << (count * levels).bit_length()
    sums = np.fft.irfft(_power(np.fft.rfft(one / count, size), count), size).cumsum()
    return step, count * least, sums


def verdict_over_seeds(
    differences: ArrayLike,
    margin: float,
    rng: np.random.Generator,
    *,
    span: float,
    distinct: int,
    clusters: ArrayLike | None = None,
    exact: bool = False,
    cluster: str | None = None,
    repeats: bool = False,
) -> Verdict:
    """The verdict on students of a kind: training seeds and episodes are drawn, both.

    The teacher's returns are common to all seeds, so that an interval over the means of seeds alone would not see how
    uncertain they are (it passes falsely in 26 % of the cases with ten seeds that do not differ). Both are resampled,
    crossed; what a seed is off the mean is stretched by what the bootstrap of few units lacks to Student's t; and there
    is an episode more at either end, as in `difference_interval`.

    Args:
        differences: (S, E) student − teacher of each training seed on the same episodes.
        margin: largest acceptable loss, > 0.
        rng: source of the bootstrap.
        span: as in `non_inferiority`.
        distinct: units that any of the seeds has at least.
        clusters: (E,) labels of episodes that are one unit with every seed; by default none are.
        exact: the episodes are all that there are, so that only seeds are drawn.
        cluster: as in `non_inferiority`.
        repeats: as in `difference_interval`.

    Raises:
        SpecError, NotFiniteError: as `non_inferiority`.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 2 or len(differences) < 2:
        raise SpecError(
            f"Differences over seeds must be (S, E) of two or more seeds, got {differences.shape}: give a row for each."
        )
    _check_above_zero(span=span)
    seeds = len(differences)
    off = _differences(differences.mean(1), np.zeros(seeds), margin)
    _check_labels(clusters, differences[0])
    interval = t_interval(off) if exact else _crossed(differences, off, rng, span, clusters, repeats=repeats)
    sizes = cluster_sums(differences[0], clusters)[1]
    reason = "" if exact else too_few(distinct, units_in_words(cluster), effective(sizes))
    if seeds < MIN_SEEDS:
        reason = f"{seeds} students were trained, and a verdict on their kind needs {MIN_SEEDS}"
    outward = OUTWARD * max(span, np.abs(differences).max())
    outer = interval[0] - outward, interval[1] + outward
    result = "inconclusive" if reason else decide(outer, margin)
    return Verdict(result, margin, float(off.mean()), interval, 0.95, distinct, reason, cluster=cluster)


def _crossed(
    differences: NDArray[np.float64],
    off: NDArray[np.float64],
    rng: np.random.Generator,
    span: float,
    clusters: ArrayLike | None,
    *,
    repeats: bool,
) -> Interval:
    """95 % interval of the mean of a table (S, E) whose rows have these means (S,), both ways resampled."""
    seeds, episodes = differences.shape
    stretched = differences + ((stretch_of_few(seeds, seeds - 1) - 1.0) * (off - off.mean()))[:, None]
    labels = np.arange(episodes) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums, sizes = np.stack([np.bincount(labels, row) for row in stretched]), np.bincount(labels)
    size = unseen_size(sizes.astype(np.float64), repeats=repeats)
    weights = np.append(sizes, size)
    ends = []
    tail = NARROW * 0.025
    for extreme, share in ((min(-span, differences.min()), tail), (max(span, differences.max()), 1.0 - tail)):
        table = np.append(sums, np.full((seeds, 1), extreme * size), axis=1)
        by_seed, means = resample_shares(seeds, rng, DRAWS), []
        for part in np.array_split(by_seed, -(-DRAWS * len(weights) // TOGETHER)):  # many episodes fill the memory
            by_unit = resample_shares(len(weights), rng, len(part))
            means.append(((part @ table) * by_unit).sum(1) / (by_unit @ weights))
        ends.append(float(np.quantile(np.concatenate(means), share)))
    return ends[0], ends[1]


def _differences(student: ArrayLike, teacher: ArrayLike, margin: float) -> NDArray[np.float64]:
    """Student − teacher of the same episodes, all of it finite."""
    shapes = np.shape(student), np.shape(teacher)
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0] == (0,):
        raise SpecError(
            f"The student's returns have shape {shapes[0]} and the teacher's {shapes[1]}: give one of each for every "
            "episode, (E,) and (E,)."
        )
    for side, values in (("student", student), ("teacher", teacher), ("margin", margin)):
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            what = "The margin" if side == "margin" else f"A return of the {side}"
            raise NotFiniteError(
                f"{what} is NaN or infinite: there is no verdict; look at the policy and its environment."
            )
    _check_above_zero(margin=margin)
    with np.errstate(over="ignore"):
        off = np.asarray(student, dtype=np.float64) - np.asarray(teacher, dtype=np.float64)
    if not np.isfinite(off).all():
        raise NotFiniteError(
            "A difference of returns is too large for a number: there is no verdict; scale the reward."
        )
    return off


def _check_above_zero(**numbers: float) -> None:
    """Refuses numbers of which none means anything at zero or below: margin and span."""
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise SpecError(f"'{name}' must be above 0 and finite, got {value}.")


def _check_labels(clusters: ArrayLike | None, differences: NDArray[np.float64]) -> None:
    """Refuses labels that are not one for each episode."""
    if clusters is not None and np.shape(clusters) != differences.shape:
        raise SpecError(
            f"There are labels of shape {np.shape(clusters)} for {len(differences)} episodes: give one for each."
        )

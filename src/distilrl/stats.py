"""Statistics of episode returns, in NumPy, with every random draw from a generator passed in.

A deterministic game repeats itself, so episodes are not independent draws: the interval's unit is a *cluster*
of identical episodes. Percentile bootstrap throughout (Efron 1979), as recommended for RL by Agarwal et al. 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilrl.errors import NotFiniteError

Array = NDArray[np.float64]
Interval = tuple[float, float]


def iqm(returns: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half, a quarter cut from either end (Agarwal et al. 2021)."""
    ordered = np.sort(np.asarray(returns, dtype=np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def mean(returns: ArrayLike) -> float:
    """Arithmetic mean."""
    return float(np.mean(np.asarray(returns, dtype=np.float64)))


def bootstrap_interval(
    returns: ArrayLike,
    rng: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 5000,
) -> Interval:
    """Percentile bootstrap interval of the mean.

    Args:
        returns: one number per episode, (E,).
        rng: source of the resamples.
        clusters: (E,) labels; episodes with one label are drawn together. Default: each episode is its own cluster.
        confidence: share of resampled means inside the interval.
        resamples: number of resamples.

    Returns:
        Lower and upper end. With a single cluster there is no spread to resample and the ends coincide.
    """
    values = np.asarray(returns, dtype=np.float64)
    labels = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(labels, weights=values)
    sizes = np.bincount(labels).astype(np.float64)
    means = np.empty(resamples)
    for start in range(0, resamples, 500):  # bounded memory for many episodes
        block = slice(start, min(start + 500, resamples))
        draw = rng.integers(0, len(sums), size=(block.stop - block.start, len(sums)))
        means[block] = sums[draw].sum(axis=1) / sizes[draw].sum(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """Is the student's mean return below the teacher's by less than the margin?"""

    result: Literal["pass", "fail", "inconclusive"]
    """pass: the whole interval of the difference lies above −margin; fail: it lies below; else inconclusive."""
    margin: float
    """Largest loss of return that is acceptable, in the environment's own units, > 0."""
    difference: float
    """Mean of student − teacher over paired episodes."""
    difference_ci95: Interval
    """95 % interval of the difference."""
    interval: Interval
    """The interval of the difference that decided."""
    confidence: float
    """Its confidence: above 0.95 where several looks were allowed."""


def non_inferiority(
    student: ArrayLike,
    teacher: ArrayLike,
    margin: float,
    rng: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    looks: int = 1,
) -> Verdict:
    """Paired non-inferiority test of the mean return.

    Args:
        student: returns, (E,).
        teacher: returns of the same seeds, (E,).
        margin: largest acceptable loss, > 0.
        rng: source of the bootstrap.
        clusters: (E,) labels of identical episode pairs.
        looks: how many times this question may be asked of growing data; the decision is made at
            confidence 1 − 0.05 / looks (Bonferroni), so that all looks together err in at most 5 %.

    Raises:
        NotFiniteError: a return or the margin is NaN or infinite, from which no comparison would follow.
    """
    for side, values in (("student", student), ("teacher", teacher), ("margin", margin)):
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            what = "The margin" if side == "margin" else f"A return of the {side}"
            raise NotFiniteError(
                f"{what} is NaN or infinite: there is no verdict; look at the policy and its environment."
            )
    difference = np.asarray(student, dtype=np.float64) - np.asarray(teacher, dtype=np.float64)
    confidence = 1.0 - 0.05 / looks
    state = rng.bit_generator.state
    ci95 = bootstrap_interval(difference, rng, clusters=clusters)
    rng.bit_generator.state = state  # both intervals from the same resamples, so that one contains the other
    low, high = bootstrap_interval(difference, rng, clusters=clusters, confidence=confidence)
    result: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if low > -margin:
        result = "pass"
    elif high < -margin:
        result = "fail"
    return Verdict(result, margin, float(difference.mean()), ci95, (low, high), confidence)


def score(student_return: float, teacher_return: float, random_return: float) -> float | None:
    """(return − random) / (teacher − random): 0 is random play, 1 the teacher; None where the teacher is no better
    than random play, since then a higher score would be a lower return.
    """
    span = teacher_return - random_return
    return (student_return - random_return) / span if span > 0 else None


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Mean of some scores; None where one of them is."""
    known = [one for one in scores if one is not None]
    return mean(known) if len(known) == len(scores) else None


def two_sample(one: ArrayLike, other: ArrayLike) -> float:
    """Kolmogorov-Smirnov statistic: the largest difference of the two empirical distribution functions, 0 to 1."""
    a, b = np.sort(np.asarray(one, dtype=np.float64)), np.sort(np.asarray(other, dtype=np.float64))
    at = np.concatenate([a, b])
    return float(
        np.abs(np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)).max()
    )


def median(values: ArrayLike) -> float:
    """Median."""
    return float(np.median(np.asarray(values, dtype=np.float64)))


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def t_interval(values: ArrayLike) -> Interval:
    """95 % Student t interval of the mean of a few independent values, such as one per training seed."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float("-inf"), float("inf")
    half = _T975[min(len(data) - 1, len(_T975)) - 1] * data.std(ddof=1) / np.sqrt(len(data))
    return float(data.mean() - half), float(data.mean() + half)

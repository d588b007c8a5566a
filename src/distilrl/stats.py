"""Statistics of episode returns, in NumPy, with every random draw from a generator passed in.

A deterministic game repeats itself, so episodes are not independent draws: the interval's unit is a *cluster*
of identical episodes. Percentile bootstrap (Efron 1979), as recommended for RL by Agarwal et al. 2021; of few units
Student's t.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]
FEW = 30
"""Clusters below which a bootstrap is too narrow, and Student's t is taken."""


def iqm(returns: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half, a quarter cut from either end (Agarwal et al. 2021)."""
    return float(iqms(np.asarray(returns, dtype=np.float64)))


def iqms(returns: Array) -> Array:
    """The same of each row, (…, S) to (…,)."""
    ordered, cut = np.sort(returns, axis=-1), returns.shape[-1] // 4
    means: Array = ordered[..., cut : returns.shape[-1] - cut].mean(axis=-1)
    return means


def mean(returns: ArrayLike) -> float:
    """Arithmetic mean."""
    return float(np.mean(np.asarray(returns, dtype=np.float64)))


def mean_interval(
    returns: ArrayLike,
    rng: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 5000,
) -> Interval:
    """Interval of the mean: percentile bootstrap, and Student's t of the cluster means below `FEW` clusters.

    Args:
        returns: one number per episode, (E,).
        rng: source of the resamples.
        clusters: (E,) labels; episodes with one label are drawn together. Default: each episode is its own cluster.
        confidence: how often it shall cover the mean.
        resamples: number of resamples.

    Returns:
        Lower and upper end; with a single cluster, which says nothing of any other, the ends coincide. Where clusters
        differ in size so much that they count as fewer (`effective`), these count.

    Example::

        mean_interval([1.0, 2.0, 3.0] * 20, np.random.default_rng(0))
    """
    values = np.asarray(returns, dtype=np.float64)
    sums, sizes = cluster_sums(values, clusters)
    if len(sums) == 1:
        return float(values.mean()), float(values.mean())
    count = effective(sizes)
    if count < FEW:
        # deviations of the clusters from the mean, each weighted by its size
        off = (sums - sizes * values.mean()) / sizes.mean()
        half = t_quantile(max(round(count) - 1, 1), confidence) * off.std(ddof=1) / np.sqrt(len(off))
        return float(values.mean() - half), float(values.mean() + half)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(bootstrap_means(sums, sizes, rng, resamples), [tail, 1.0 - tail])
    return float(low), float(high)


def effective(sizes: NDArray[np.float64]) -> float:
    """How many clusters of one size say as much as clusters of these sizes (K,): (Σ n)² / Σ n² (Kish 1965).

    Example::

        effective(np.array([10.0, 10.0])), effective(np.array([19.0, 1.0]))  # 2.0, 1.1
    """
    return float(sizes.sum() ** 2 / (sizes @ sizes))


def share_interval(share: float, count: float) -> Interval:
    """95 % interval of the probability of what a share of ``count`` independent episodes had (Wilson 1927): it has a
    width also where none had it, or all.

    Example::

        share_interval(0.0, 100)  # (0.0, 0.037)
    """
    z2 = 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = 1.96 * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def cluster_sums(
    values: NDArray[np.float64], clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums (K,) and numbers (K,) of the values (E,) with equal labels (E,), in an order that does not depend on the
    labels; without labels each value stands for itself.
    """
    labels = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums, sizes = np.bincount(labels, weights=values), np.bincount(labels)
    order = np.lexsort((sizes, sums))
    return sums[order].astype(np.float64), sizes[order].astype(np.float64)


def bootstrap_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Means (resamples,) of clusters drawn with replacement, of whose values these are sums (K,) and numbers (K,)."""
    means, equal = np.empty(resamples), bool((sizes == sizes[0]).all())
    for start in range(0, resamples, 100):  # a block stays in the processor's cache
        block = slice(start, min(start + 100, resamples))
        draw = rng.integers(0, len(sums), size=(block.stop - block.start, len(sums)))
        drawn = len(sums) * sizes[0] if equal else sizes.take(draw).sum(axis=1)
        means[block] = sums.take(draw).sum(axis=1) / drawn
    return means


def resample_shares(units: int, rng: np.random.Generator, resamples: int) -> Array:
    """Which share of a resample each of some units is, (resamples, units): the weights of a bootstrap of a table, whose
    rows and columns are drawn apart (Owen 2007).
    """
    shares: Array = rng.multinomial(units, np.full(units, 1 / units), size=resamples) / units
    return shares


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


@functools.cache
def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t, to five digits."""
    angles, shares = _t_shares(freedom)
    return float(np.sqrt(freedom) * np.tan(np.interp(confidence, shares, angles)))


def t_tails(t: float, freedom: float) -> float:
    """Probability that Student's t lies further from 0."""
    angles, shares = _t_shares(freedom)
    return float(1.0 - np.interp(np.arctan(t / np.sqrt(freedom)), angles, shares))


def _t_shares(freedom: float) -> tuple[Array, Array]:
    """Angles θ with √ν tan θ = t, and the probability that Student's t lies no further from 0: its density is as
    cos^(ν−1) θ, whose integral is taken on a grid.
    """
    angles = np.linspace(0.0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    sums = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return angles, sums / sums[-1]


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student t interval of the mean of a few independent values, such as one per training seed."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float("-inf"), float("inf")
    half = t_quantile(len(data) - 1, confidence) * data.std(ddof=1) / np.sqrt(len(data))
    return float(data.mean() - half), float(data.mean() + half)


def stretch_of_few(least: int, freedom: int) -> float:
    """What a percentile bootstrap of so few units lacks in width to Student's t.

    Args:
        least: units of which it draws, at least two.
        freedom: degrees of freedom of the t distribution.
    """
    return float(np.sqrt(least / (least - 1)) * t_quantile(freedom) / 1.96)


# -- several studies side by side (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")


def redrawn(tasks: Sequence[Array], rng: np.random.Generator, resamples: int) -> list[Array]:
    """Tables (resamples, S) of each task's runs (S,), drawn with replacement within their task (stratified)."""
    return [task[rng.integers(0, len(task), size=(resamples, len(task)))] for task in tasks]


def _ends(values: Array, *studies: Sequence[Array]) -> Interval | None:
    """95 % interval of what was drawn; None where a task of one of the studies has a single run, of which a bootstrap
    shows nothing.
    """
    if any(len(task) < 2 for study in studies for task in study):
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def share_above(one: Array, other: Array) -> Array:
    """Of tables (R, S) and (R, S'), for each row the share of pairs whose first is above its second, (R,); equal ones
    count half.
    """
    difference = one[:, :, None] - other[:, None, :]
    share: Array = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
    return share


def aggregate_iqm(
    tasks: Sequence[ArrayLike], rng: np.random.Generator, resamples: int = 2000
) -> tuple[float, Interval | None]:
    """Interquartile mean of the runs of several tasks, and its 95 % interval by stratified percentile bootstrap, wider
    by as much as Student's t is for so few runs; None where a task has a single run.

    Args:
        tasks: for each task the scores of its runs, (S,).
        rng: source of the resamples.
        resamples: number of resamples.
    """
    scores = [np.asarray(task, dtype=np.float64) for task in tasks]
    middle, ends = (
        iqm(np.concatenate(scores)),
        _ends(iqms(np.concatenate(redrawn(scores, rng, resamples), axis=1)), scores),
    )
    if ends is None:
        return middle, None
    runs = [len(task) for task in scores]
    stretch = stretch_of_few(min(runs), sum(runs) - len(runs))
    return middle, (middle + stretch * (ends[0] - middle), middle + stretch * (ends[1] - middle))


def performance_profile(
    tasks: Sequence[ArrayLike], at: ArrayLike, rng: np.random.Generator, resamples: int = 2000
) -> tuple[Array, Array | None]:
    """Share of the runs whose score is above each of some values (T,), tasks counting alike, with its pointwise 95 %
    band (2, T), None where a task has a single run.

    Of two intervals the ends that reach further: Wilson's, which has a width also where all runs are above a value or
    none is, of as many runs as have the variance of the mean over tasks (of one share, which is no narrower than of
    tasks that differ), and the stratified percentile bootstrap's.
    """
    scores, values = [np.asarray(task, dtype=np.float64) for task in tasks], np.asarray(at, dtype=np.float64)
    share = np.mean([(task[:, None] > values).mean(axis=0) for task in scores], axis=0)
    drawn = np.mean([(table[:, :, None] > values).mean(axis=1) for table in redrawn(scores, rng, resamples)], axis=0)
    if min(len(task) for task in scores) < 2:
        return share, None
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    count = len(scores) ** 2 / sum(1 / len(task) for task in scores)
    wilson = np.array([share_interval(float(one), count) for one in share]).T
    return share, np.stack([np.minimum(low, wilson[0]), np.maximum(high, wilson[1])])


def improvement(
    one: Sequence[ArrayLike], other: Sequence[ArrayLike], rng: np.random.Generator, resamples: int = 2000
) -> tuple[float, Interval | None]:
    """Probability that a run of one study scores above a run of another, equal scores counting half, mean over tasks
    (Mann-Whitney), and its 95 % interval; None where a task has a single run.

    Of two intervals the ends that reach further. A score interval (Newcombe 2006, Statistics in Medicine 25, method 5)
    holds every probability of which what was seen is within 1.96 standard deviations, the deviation being that under
    the probability, so that it has a width also where each run of one is above all of the other; of several tasks it is
    that of tasks of one probability, which is hardly narrower than of tasks that differ. It supposes scores whose
    spread is of one shape; the stratified percentile bootstrap does not, and is too narrow of few runs.

    Args:
        one: for each task the scores of its runs, (S,).
        other: the same of the other study, (S',), in the same order of tasks.
        rng: source of the resamples.
        resamples: number of resamples.
    """
    ours, theirs = ([np.asarray(task, dtype=np.float64) for task in study] for study in (one, other))
    pairs = zip(redrawn(ours, rng, resamples), redrawn(theirs, rng, resamples), strict=True)
    drawn = _ends(np.mean([share_above(a, b) for a, b in pairs], axis=0), ours, theirs)
    seen = float(np.mean([share_above(a[None], b[None])[0] for a, b in zip(ours, theirs, strict=True)]))
    if drawn is None:
        return seen, None
    low, high = _score_interval(seen, [(len(a), len(b)) for a, b in zip(ours, theirs, strict=True)])
    return seen, (min(low, drawn[0]), max(high, drawn[1]))


def _score_interval(seen: float, runs: Sequence[tuple[int, int]]) -> Interval:
    """Probabilities of improvement that are within 1.96 of their standard deviations of what was seen of so many."""

    def outside(share: float) -> bool:
        more = (1 - share) / (2 - share) + share / (1 + share)
        spread = sum((1 + ((m + n) / 2 - 1) * more) / (m * n) for m, n in runs) / len(runs) ** 2
        return (seen - share) ** 2 > 1.96**2 * share * (1 - share) * spread

    def end(inner: float, outer: float) -> float:
        for _ in range(50):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if outside(middle) else (middle, outer)
        return outer

    return end(seen, 0.0), end(seen, 1.0)


def crossed_difference(
    one: Sequence[Array],
    other: Sequence[Array],
    rng: np.random.Generator,
    *,
    exact: Sequence[bool],
    clusters: Sequence[ArrayLike] | None = None,
    resamples: int = 2000,
) -> tuple[float, Interval | None]:
    """Mean of one study less that of another on the same episodes, mean over tasks, and its 95 % interval: runs and
    episodes are drawn, both, and an episode that is drawn is drawn for both studies. None where a task has a single
    run.

    What a run is off its study's mean is stretched by what a bootstrap of few units lacks to Student's t.

    Args:
        one: for each task the scores of single episodes, (S, E).
        other: the same of the other study, (S', E), on the same episodes.
        rng: source of the resamples.
        exact: for each task whether its episodes are all that there are, so that none is drawn.
        clusters: for each task labels (E,) of the episodes that are one unit; by default each stands for itself.
        resamples: number of resamples.
    """
    seen, drawn = [], []
    labels = clusters or [np.arange(task.shape[1]) for task in one]
    for ours, theirs, known, units in zip(one, other, exact, labels, strict=True):
        seen.append(ours.mean() - theirs.mean())
        _, unit, size = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
        draw = resample_shares(len(size), rng, resamples)
        weights = np.full((resamples, ours.shape[1]), 1 / ours.shape[1])
        if not known:
            weights = draw[:, unit] / (draw @ size)[:, None]
        means = []
        for table in (ours, theirs):
            runs = len(table)
            stretch = stretch_of_few(runs, runs - 1) if runs > 1 else 1.0
            off = table.mean(axis=1, keepdims=True) - table.mean()
            picked = resample_shares(runs, rng, resamples)
            means.append(((picked @ (table + (stretch - 1.0) * off)) * weights).sum(axis=1))
        drawn.append(means[0] - means[1])
    return float(np.mean(seen)), _ends(np.mean(drawn, axis=0), one, other)

"""Statistics of tables of methods: each method's scores against those of the default, training seed by training seed.

The unit is the training seed. A table asks one question of many methods, so its p-values are corrected (Holm 1979).
"""

from collections.abc import Sequence

import numpy as np

from distilrl import stats
from distilrl.stats import Interval

MOST_EXACT = 16
"""Differences up to which every pattern of signs is gone through."""


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p-value of paired differences: the share of all patterns of signs whose sum lies as far from 0.

    Exact (Fisher 1935) where a difference is as likely as its negative if the two methods are equal; with n of them it
    is never below 2 / 2^n.

    Raises:
        ValueError: there are none, or too many to go through all patterns.
    """
    values = np.asarray(differences, np.float64)
    if not 1 <= len(values) <= MOST_EXACT:
        raise ValueError(f"1 to {MOST_EXACT} differences are needed, got {len(values)}.")
    sums = np.abs(_signed_sums(values))
    return float(np.mean(sums >= sums[0] - 1e-9 * np.abs(values).sum()))  # equal sums may differ by rounding


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The sum under every pattern of signs; the first is the one as it is."""
    patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
    return (1 - 2 * patterns) @ values


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): at a level α, rejecting those at or below it errs in a family at all with at most
    probability α.

    Example::

        holm([0.01, 0.04, 0.03])  # [0.03, 0.06, 0.06]
    """
    count, highest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def seed_interval(values: Sequence[float]) -> Interval:
    """95 % percentile bootstrap interval of the mean over training seeds; it cannot leave what a value can be."""
    data = np.asarray(values, np.float64)
    means = stats.bootstrap_means(data, np.ones(len(data)), np.random.default_rng(0), 5000)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, Interval, float]:
    """Mean over groups of their mean paired differences, its 95 % interval and two-sided p-value.

    Each group counts alike, whatever its scatter: the question is of them all. The interval is a bootstrap over the
    training seeds of each group, the p-value of 100,000 random patterns of signs (Fisher 1935), so it is never below
    0.00001.

    Example::

        pooled([[0.1, 0.2, 0.0], [0.0, -0.1, 0.1]])  # 0.05, its interval and p
    """
    rng, count = np.random.default_rng(0), len(groups)
    means, sums = np.zeros(5000), np.zeros(100_000)
    for group in groups:
        data = np.asarray(group, np.float64)
        means += stats.bootstrap_means(data, np.ones(len(data)), rng, len(means)) / count
        sums += rng.choice(_signed_sums(data), len(sums)) / len(data) / count
    middle = float(np.mean([np.mean(group) for group in groups]))
    low, high = np.quantile(means, [0.025, 0.975])
    further = int((np.abs(sums) >= abs(middle) - 1e-12).sum())
    return middle, (float(low), float(high)), (further + 1) / (len(sums) + 1)

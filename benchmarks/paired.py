"""Statistics of tables of methods: each method's scores against those of the default, training seed by training seed.

All training seeds play the same episodes, so that both are drawn: a difference is shown only if it stands against the
scatter of seeds (an exact sign-flip test) and against that of seeds and episodes (a t test of two random effects). A
table asks one question of many methods, so its p-values are corrected (Holm 1979).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilrl import stats
from distilrl.stats import Interval

RESAMPLES = 2000
"""Of a bootstrap of seeds and episodes."""
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


def pooled(groups: Sequence[Sequence[float]]) -> float:
    """Two-sided p-value of the mean over groups of their mean paired differences, of 100,000 random patterns of signs
    (Fisher 1935), so that it is never below 0.00001. Each group counts alike, whatever its scatter.

    Example::

        pooled([[0.1, 0.2, 0.0], [0.0, -0.1, 0.1]])
    """
    rng, sums = np.random.default_rng(0), np.zeros(100_000)
    for group in groups:
        data = np.asarray(group, np.float64)
        sums += rng.choice(_signed_sums(data), len(sums)) / len(data) / len(groups)
    middle = float(np.mean([np.mean(group) for group in groups]))
    further = int((np.abs(sums) >= abs(middle) - 1e-12).sum())
    return (further + 1) / (len(sums) + 1)


@dataclass(frozen=True, eq=False)
class Paired:
    """Differences of two methods, of each training seed in each episode, which all seeds have in common."""

    table: np.ndarray
    """(S, E)"""
    finite: bool = False
    """The episodes start wherever an episode can start, so that they are not drawn from any others."""

    @property
    def seeds(self) -> np.ndarray:
        """(S,) mean of each training seed."""
        return self.table.mean(1)

    def variance(self) -> tuple[float, float]:
        """Of the mean of the table, and its degrees of freedom: seeds and episodes are random effects, both
        (Satterthwaite 1946), and neither is taken for smaller than it is seen to be.
        """
        count, episodes = self.table.shape
        if self.finite:
            return float(self.seeds.var(ddof=1) / count), count - 1.0
        middle, rows, columns = self.table.mean(), self.table.mean(1, keepdims=True), self.table.mean(0, keepdims=True)
        rest = self.table - rows - columns + middle
        free = np.array([count - 1, episodes - 1, (count - 1) * (episodes - 1)], np.float64)
        squares = np.array([
            episodes * ((rows - middle) ** 2).sum(), count * ((columns - middle) ** 2).sum(), (rest**2).sum()
        ]) / free  # fmt: skip
        whole = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
        spread = float((squares**2 / free).sum())
        return float(whole / (count * episodes)), whole**2 / spread if spread else free[0]


def t_test(groups: Sequence[Paired]) -> float:
    """Two-sided p-value of the mean of groups, whose seeds and episodes are independent of each other's.

    Example::

        t_test([Paired(np.random.default_rng(0).normal(size=(12, 100)))])
    """
    middle = float(np.mean([group.table.mean() for group in groups]))
    found = [group.variance() for group in groups]
    whole = sum(variance for variance, _ in found)
    if whole == 0:
        return float(middle == 0)
    freedom = whole**2 / sum(variance**2 / free for variance, free in found)
    return stats.t_tails(abs(middle) * len(groups) / np.sqrt(whole), freedom)


def crossed_interval(groups: Sequence[Paired]) -> Interval:
    """95 % interval of the mean of groups by a bootstrap of seeds and of episodes, both (Owen 2007)."""
    means = np.zeros(RESAMPLES)
    for group, (by_seed, by_episode) in zip(groups, _drawn(tuple(group.table.shape for group in groups)), strict=True):
        drawn = by_seed @ group.table
        means += (drawn.mean(1) if group.finite else (drawn * by_episode).sum(1)) / len(groups)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@functools.cache
def _drawn(shapes: tuple[tuple[int, int], ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shares of seeds and of episodes in the resamples of tables of these shapes, which many methods have in common."""
    rng = np.random.default_rng(0)
    return [
        (stats.resample_shares(seeds, rng, RESAMPLES), stats.resample_shares(episodes, rng, RESAMPLES))
        for seeds, episodes in shapes
    ]

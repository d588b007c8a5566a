"""How often the intervals of `distilrl compare` hold the truth, of few runs and of many: nominal 95 %.

    python benchmarks/coverage.py run [--jobs N]    # minutes; results/coverage/rows.jsonl
    python benchmarks/coverage.py table             # the table of docs/compare.md

Each line is of 1,000 simulated pairs of studies: the share of intervals that hold the interquartile mean, the
probability of improvement and the difference of means, each by the function that a comparison calls. *plain* are the
first two by the stratified percentile bootstrap alone, as comparisons of few runs are mostly made.
"""

import sys
import zlib
from collections.abc import Callable

import numpy as np
from lines import RESULTS, fill, jobs_of, made
from numpy.typing import NDArray
from result_tables import markdown

from distilrl.stats import aggregate_iqm, crossed_difference, improvement, iqm, iqms, redrawn, share_above

OUT = RESULTS / "coverage" / "rows.jsonl"
PAIRS, EPISODES, RESAMPLES = 1_000, 50, 1_000
RUNS = (2, 3, 5, 10, 30)
NAMES = ("iqm", "improvement", "difference", "plain iqm", "plain improvement")
Array = NDArray[np.float64]
Source = np.random.Generator


def normal(source: Source, runs: int, mean: float) -> Array:
    """Scores that differ by a normal deviation of a tenth."""
    return source.normal(mean, 0.1, runs)


def fails(source: Source, runs: int, mean: float) -> Array:
    """Nearly the same score in four runs of five, and in the others hardly any."""
    return np.where(source.random(runs) < 0.2, source.normal(0.2, 0.1, runs), source.normal(mean, 0.03, runs))


def fails_often(source: Source, runs: int, mean: float) -> Array:
    """The same in seven runs of ten: more fail than the quarter that an interquartile mean leaves out."""
    return np.where(source.random(runs) < 0.3, source.normal(0.2, 0.1, runs), source.normal(mean, 0.03, runs))


SCORES: dict[str, Callable[[Source, int, float], Array]] = {
    "normal": normal, "one in five fails": fails, "three in ten fail": fails_often,
}  # fmt: skip
BEHIND = {"near": (0.05,), "apart": (0.15,), "four environments": (-0.1, 0.0, 0.1, 0.2)}
"""By how much the second study's mean is behind that of the first, which is 1, in each environment."""


def drawn(source: Source, scores: str, behind: str, runs: int) -> tuple[list[Array], list[Array]]:
    """Scores of either study in each environment."""
    one, other = ([SCORES[scores](source, runs, 1.0 - lag * gap) for gap in BEHIND[behind]] for lag in (0, 1))
    return one, other


def truths(scores: str, behind: str) -> tuple[float, float, float]:
    """What the three are, by a million runs of each: of a study with so many in every environment."""
    one, other = drawn(np.random.default_rng(1), scores, behind, 1_000_000)
    above = [(ours > theirs).mean() for ours, theirs in zip(one, other, strict=True)]
    return iqm(np.concatenate(one)), float(np.mean(above)), float(np.mean(one) - np.mean(other))


def plain(source: Source, *studies: list[Array]) -> list[Array]:
    """Ends of the percentile bootstrap, of the interquartile mean and of the probability of improvement."""
    ours, theirs = (redrawn(study, source, RESAMPLES) for study in studies)
    above = [share_above(a, b) for a, b in zip(ours, theirs, strict=True)]
    return [np.quantile(values, [0.025, 0.975]) for values in (iqms(np.concatenate(ours, 1)), np.mean(above, axis=0))]


def line(scores: str, behind: str, runs: int) -> dict[str, float]:
    """Shares of intervals that hold the truth."""
    source = np.random.default_rng(zlib.crc32(f"{scores} {behind} {runs}".encode()))
    middle, above, apart = truths(scores, behind)
    held = np.zeros(len(NAMES))
    for _ in range(PAIRS):
        one, other = drawn(source, scores, behind, runs)
        tables: tuple[list[Array], list[Array]] = ([], [])
        for of_task in zip(one, other, strict=True):
            hard = source.normal(0, 0.2, EPISODES)  # each episode's own difficulty, for all who play it
            for table, of_runs in zip(tables, of_task, strict=True):
                table.append(of_runs[:, None] + hard + source.normal(0, 0.2, (runs, EPISODES)))
        known = [False] * len(one)
        found = (
            (middle, aggregate_iqm(one, source, RESAMPLES)[1]),
            (above, improvement(one, other, source, RESAMPLES)[1]),
            (apart, crossed_difference(*tables, source, exact=known, resamples=RESAMPLES)[1]),
            *zip((middle, above), plain(source, one, other), strict=True),
        )
        held += [ends[0] <= truth <= ends[1] for truth, ends in found]
    return dict(zip(NAMES, (held / PAIRS).tolist(), strict=True))


def table() -> str:
    rows = [
        (row["scores"], row["behind"], str(row["runs"]), *(f"{100 * row[name]:.0f} %" for name in NAMES))
        for row in sorted(made(OUT), key=lambda row: (list(SCORES).index(row["scores"]), row["runs"]))
    ]
    head = ("IQM", "P(first above second)", "first - second", "IQM by bootstrap alone", "P by bootstrap alone")
    return markdown(("scores", "second study", "runs of each", *head), rows, text=2)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    if sys.argv[1:] == ["table"]:
        print(table())
    else:
        keys = [{"scores": scores, "behind": behind, "runs": runs} for scores in SCORES for behind in BEHIND
                for runs in RUNS]  # fmt: skip
        fill(OUT, line, keys, jobs)

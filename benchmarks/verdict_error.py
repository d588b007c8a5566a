"""How often the verdict errs: false passes where the true loss is exactly the margin, and passes where there is none.

    python benchmarks/verdict_error.py run [--jobs N]    # an hour or more of a core; results/verdict-error/rows.jsonl
    python benchmarks/verdict_error.py table    # the table of docs/verdict.md

Each line is of 1,000 simulated comparisons. *plain* is the percentile bootstrap of the differences, which is what most
comparisons of policies are decided by, *t* the interval over the means of seeds, of clusters *now* with each episode
counted by itself; *now* is `non_inferiority` or `verdict_over_seeds` as they are called by a run. Nominal is 2.5 %: a
pass is wrong where the whole of a two-sided 95 % interval lies above −margin and the difference does not.
"""

import sys
import zlib
from collections.abc import Callable

import numpy as np
from lines import RESULTS, fill, jobs_of, made
from numpy.typing import NDArray

from distilrl.stats import bootstrap_means, t_interval
from distilrl.verdict import non_inferiority, verdict_over_seeds

OUT = RESULTS / "verdict-error" / "rows.jsonl"
RUNS = 1_000
KEY = ("kind", "case", "episodes", "looks")
SPAN = 478.0
MARGIN = 0.05 * SPAN
Array = NDArray[np.float64]
Source = np.random.Generator


def normal(source: Source, n: int, loss: float) -> Array:
    """Returns that differ by a normal deviation of an eighth of the span."""
    return source.normal(-loss, 60.0, n)


def lander(source: Source, n: int, loss: float) -> Array:
    """Differences of a mixture like LunarLander's: both land nearly always, else they lose 150 to 400, either side."""
    either = [np.where(source.random(n) < 0.08, -source.uniform(150, 400, n), source.normal(0, 18, n)) for _ in "ab"]
    return either[0] - either[1] - loss


def crash(source: Source, n: int, loss: float) -> Array:
    """A crash of −400 in 2 % of the episodes; the rest of the loss is spread over all the others."""
    failed = source.random(n) < 0.02
    return np.where(failed, -400.0, (8.0 - loss) / 0.98 + source.normal(0, 30, n)) if loss else source.normal(0, 30, n)


def ceiling(source: Source, n: int, loss: float) -> Array:
    """Both at the ceiling but for episodes in which the student loses all; where there is no loss, 1 % of either."""
    if loss:
        return np.where(source.random(n) < loss / SPAN, -SPAN, 0.0)
    return SPAN * ((source.random(n) < 0.01) * 1.0 - (source.random(n) < 0.01))


def beyond(source: Source, n: int, loss: float) -> Array:
    """Both at the ceiling but for episodes in which the student loses twice the span, which nobody reckons with."""
    return 2 * half(source, n, loss / 2) if not loss else np.where(source.random(n) < loss / (2 * SPAN), -2 * SPAN, 0.0)


def half(source: Source, n: int, loss: float) -> Array:
    """The same with twice as many failures of half the span; where there is no loss, 1 % of either."""
    if loss:
        return np.where(source.random(n) < 2 * loss / SPAN, -SPAN / 2, 0.0)
    return SPAN / 2 * ((source.random(n) < 0.01) * 1.0 - (source.random(n) < 0.01))


def skewed(source: Source, n: int, loss: float) -> Array:
    """A tenth of the episodes lose, exponentially much."""
    if loss:
        return np.where(source.random(n) < 0.1, -source.exponential(10 * loss, n), 0.0)
    return source.normal(0, 10, n)


CASES: dict[str, tuple[Callable[[Source, int, float], Array], float]] = {
    "normal": (normal, MARGIN),
    "mixture like LunarLander's": (lander, MARGIN),
    "rare crash of −400": (crash, MARGIN),
    "ceiling, 5 % lose all": (ceiling, MARGIN),
    "ceiling, margin 2 %, 2 % lose all": (ceiling, 0.02 * SPAN),
    "0.5 % lose all, ten times what the mean loses": (ceiling, 0.005 * SPAN),
    "ceiling, 10 % lose half": (half, MARGIN),
    "a tenth lose, exponentially": (skewed, MARGIN),
    "beyond what is reckoned with: 2.5 % lose twice the span": (beyond, MARGIN),
}
"""Kinds of differences, and the margin."""
SAMPLES = ((20, 1), (50, 1), (60, 1), (100, 1), (300, 1), (100, 3))
"""Episodes of a look, and how many looks."""
STARTS = {50: (5, 10, 29), 100: (5, 10, 29), 300: (5, 10, 29, 60, 150)}
"""Episodes of a game of which only some starts are played, and how many are distinct."""
CLUSTERS = (
    ("alike", 60),
    ("alike", 150),
    ("geometric", 150),
    ("ten times in a tenth, which alone lose", 300),
    ("5 times in 5 % by chance, which alone lose", 100),
    ("10 times in 3 % by chance, which alone lose", 150),
    ("15 times in 2 % by chance, which alone lose", 200),
    ("15 times in 2 % by chance, which alone lose", 300),
    ("2 times in 5 % by chance, which alone lose, margin 7 %", 70),
    ("3 times in 3 % by chance, which alone lose, margin 7.5 %", 80),
    ("5 times in 1 % by chance, which alone lose, margin 4.8 %", 150),
)
"""How large clusters are, and how many; each loses all or nothing, and the margin is a tenth of the span where the case
says no other.
"""
SEEDS = ((5, 0.0), (5, 6.0), (5, 12.0), (10, 0.0), (10, 12.0))
"""Training seeds, and how much they differ (standard deviation)."""
OF_SEED = (50, 100, 300)
"""Episodes of each of them."""
EXACT = ("normal", "exponential")
"""How much the seeds lose where every start is played."""
LONG = (
    ("exponential", 300),
    ("one seed in twenty loses all", 300),
    ("one seed in three loses three times the margin", 300),
    ("one seed in five loses five times the margin", 300),
)
"""How much five seeds lose, in each episode alike, and episodes of a look."""


def drawn() -> Source:
    """Draws of a verdict, as a run has them: the same each time."""
    return np.random.default_rng(0)


def plain(difference: Array, margin: float, source: Source, clusters: NDArray[np.int64] | None, looks: int) -> str:
    """What the percentile bootstrap alone would say."""
    labels = np.arange(len(difference)) if clusters is None else clusters
    sums, sizes = np.bincount(labels, weights=difference), np.bincount(labels) * 1.0
    means = bootstrap_means(sums, sizes, source, 1000)
    tail = 0.025 / looks
    return "pass" if np.quantile(means, tail) > -margin else "fail" if np.quantile(means, 1 - tail) < -margin else ""


def sample(case: str, episodes: int, looks: int, loss: float, margin: float, source: Source) -> tuple[bool, bool]:
    """One comparison that plays on while it is inconclusive: whether it passes, by the plain bootstrap and now."""
    difference = CASES[case][0](source, episodes * looks, loss)
    old = new = ""
    for look in range(1, looks + 1):
        seen = difference[: episodes * look]
        old = old or plain(seen, margin, source, None, looks)
        if new in ("", "inconclusive"):
            new = non_inferiority(seen, np.zeros(len(seen)), margin, drawn(), span=SPAN, looks=looks).result
    return old == "pass", new in ("pass", "within_margin")


def starts(count: int, played: int, loss: float, source: Source) -> tuple[bool, bool]:
    """So many episodes of a game that repeats itself, from so many of its starts; 5 % of all starts lose 41."""
    labels = np.arange(played) % count
    of_start = np.where(source.random(count) < loss / 41.0, -41.0, 0.0)
    seen, margin = of_start[labels], 0.05 * 41.0
    old = plain(seen, margin, source, labels, 1)
    new = non_inferiority(seen, np.zeros(played), margin, drawn(), span=41.0, clusters=labels, repeats=True).result
    return old == "pass", new in ("pass", "within_margin")


def clusters(case: str, count: int, loss: float, source: Source) -> tuple[bool, bool]:
    """So many patients: all episodes of one are lost, or none; in the mean over episodes the loss."""
    share = loss / SPAN * np.ones(count)
    if case == "geometric":
        sizes = source.geometric(0.1, count)
    elif case == "alike":
        sizes = np.full(count, 10)
    elif "by chance" in case:
        times, percent = int(case.split()[0]), int(case.split()[3])
        large = source.random(count) < percent / 100
        sizes = np.where(large, 4 * times, 4)
        share = np.where(large, loss / SPAN * (percent * times + 100 - percent) / (percent * times), 0.0)
    else:
        large = np.arange(count) % 10 == 0
        sizes = np.where(large, 50, 5)
        share = np.where(large, loss / SPAN * sizes.sum() / sizes[large].sum(), 0.0)
    lost = np.where(source.random(count) < share, -SPAN, 0.0)
    labels = np.repeat(np.arange(count), sizes)
    seen, margin = lost[labels], margin_of(case)
    apart, now = (
        non_inferiority(seen, np.zeros(len(seen)), margin, drawn(), span=SPAN, clusters=units).holds
        for units in (None, labels)
    )
    return apart, now


def margin_of(case: str) -> float:
    """Of a case of clusters."""
    return float(case.rpartition("margin ")[2].split()[0]) / 100 * SPAN if "margin" in case else 0.1 * SPAN


def over_seeds(seeds: int, episodes: int, spread: float, loss: float, source: Source) -> tuple[bool, bool]:
    """A study over seeds, whose teacher's episodes are common to all."""
    of_seed, of_episode = source.normal(0, spread, (seeds, 1)), source.normal(0, 25, (1, episodes))
    difference = of_seed + of_episode + source.normal(0, 25, (seeds, episodes)) - loss
    old = t_interval(difference.mean(1))[0] > -MARGIN
    return bool(old), verdict_over_seeds(difference, MARGIN, drawn(), span=SPAN, distinct=episodes).holds


def alike(case: str, episodes: int, loss: float, source: Source, *, exact: bool) -> tuple[bool, bool]:
    """A study over five seeds that lose in each episode alike, and differ by half the loss, or lose exponentially much,
    or all now and then; of a game of which every start is played, or a sample.
    """
    if case.startswith("one seed in"):
        one_in = {"three": 3, "five": 5, "twenty": 20}[case.split()[3]]
        lost = -one_in * loss * (source.random(5) < 1 / one_in)
    else:
        lost = -loss * (source.exponential(1.0, 5) if case == "exponential" else source.normal(1.0, 0.5, 5))
    table = np.repeat(lost[:, None], episodes, axis=1)
    holds = verdict_over_seeds(table, MARGIN, drawn(), span=SPAN, distinct=episodes, exact=exact).holds
    return bool(t_interval(lost)[0] > -MARGIN), holds


def played(case: str) -> int:
    """Of a game's starts and of a study's seeds, which are counted by themselves: 100 where the case says nothing."""
    return int(case.rpartition(", of ")[2].split()[0]) if ", of " in case else 100


def line(kind: str, case: str, episodes: int, looks: int) -> dict[str, float]:
    """Shares of passes: where the loss is the margin, and where there is none."""
    source = np.random.default_rng(zlib.crc32(f"{kind} {case} {episodes} {looks}".encode()))
    found = {}
    for name, share in (("false", 1.0), ("power", 0.0)):
        if kind == "sample":
            margin = CASES[case][1]
            runs = [sample(case, episodes, looks, share * margin, margin, source) for _ in range(RUNS)]
        elif kind == "starts":
            runs = [starts(episodes, played(case), share * 0.05 * 41.0, source) for _ in range(RUNS)]
        elif kind == "clusters":
            runs = [clusters(case, episodes, share * margin_of(case), source) for _ in range(RUNS)]
        elif kind in ("exact", "long"):
            each = STARTS[100][-1] if kind == "exact" else episodes
            runs = [alike(case, each, share * MARGIN, source, exact=kind == "exact") for _ in range(RUNS)]
        else:
            spread = float(case.partition(",")[0])
            runs = [over_seeds(episodes, played(case), spread, share * MARGIN, source) for _ in range(RUNS)]
        old, new = np.mean(runs, axis=0)
        found |= {f"{name}_plain": float(old), f"{name}_now": float(new)}
    return found


def keys() -> list[dict[str, object]]:
    """What is simulated."""
    samples = [("sample", case, *size) for case in CASES for size in SAMPLES]
    of = {100: ""} | {count: f", of {count} episodes" for count in (50, 300)}
    games = [("starts", f"5 % of all starts lose 41{of[n]}", count, 1) for n in STARTS for count in STARTS[n]]
    studies = [("seeds", f"{spread:g}{of[n]}", seeds, 1) for n in OF_SEED for seeds, spread in SEEDS]
    every = [("exact", case, 5, 1) for case in EXACT] + [("long", *long, 1) for long in LONG]
    patients = [("clusters", case, count, 1) for case, count in CLUSTERS]
    all_of_them = (*samples, *games, *studies, *every, *patients)
    return [dict(zip(KEY, key, strict=True)) for key in all_of_them]


def table() -> str:
    """The table of docs/verdict.md."""
    rows = [
        "| differences | sample | false passes, plain | now | passes without loss, plain | now |",
        "|---|---|--:|--:|--:|--:|",
    ]
    rank = {tuple(key.values()): place for place, key in enumerate(keys())}
    for row in sorted(made(OUT), key=lambda row: rank[tuple(row[name] for name in KEY)]):
        size = (
            f"{row['episodes']} episodes"
            if row["looks"] == 1
            else f"{row['episodes']} to {row['episodes'] * row['looks']}, 3 looks"
        )
        case = row["case"]
        if row["kind"] == "starts":
            case, size = case.partition(", of ")[0], f"{row['episodes']} distinct of {played(case)}"
        elif row["kind"] == "seeds":
            size = f"{row['episodes']} seeds of {played(case)}"
            case = f"`--seeds`, seeds differ by {case.partition(', of ')[0]} (plain: t over seeds)"
        elif row["kind"] == "clusters":
            case = f"`--cluster`, all or nothing of each, sizes {case} (plain: episodes by themselves)"
            size = f"{row['episodes']} clusters"
        elif row["kind"] == "exact":
            case, size = f"`--seeds` where every start is played, losses {case}", f"{row['episodes']} seeds"
        elif row["kind"] == "long":
            lost = case if "loses" in case else f"losses {case}"
            case, size = f"`--seeds`, {lost} (plain: t over seeds)", f"5 seeds of {row['episodes']:,}"
        shares = [row[name] for name in ("false_plain", "false_now", "power_plain", "power_now")]
        rows.append(f"| {case} | {size} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    jobs = jobs_of(sys.argv)
    if sys.argv[1:] == ["table"]:
        print(table())
    else:
        fill(OUT, line, keys(), jobs)

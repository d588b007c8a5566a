"""Runs and studies side by side: scores over training seeds, as Agarwal et al. 2021 recommend, in one table."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from distilrl import stats
from distilrl.errors import ExtraError, FileError, SpecError
from distilrl.files import read_json_as
from distilrl.plain import Record
from distilrl.played import SingleEpisodes, SingleReturns, labels_of_all
from distilrl.results import Results
from distilrl.runs import RunFolder
from distilrl.shown import Shown
from distilrl.spaces import EnvRef
from distilrl.stats import Interval
from distilrl.summaries import SeedsResults, TasksResults, read_results

POINTS = 201
"""Scores at which a performance profile is drawn."""


@dataclass(frozen=True, kw_only=True)
class StudyRow(Record):
    """Runs that differ in their training seed, in one environment or in several that count alike."""

    name: str
    """Name of the folder."""
    recipe: str
    """Name of the method; several are joined by +."""
    student: str
    """The network in few words; several are joined by +."""
    params: int
    """Parameters of the largest."""
    runs: int
    """Students in all."""
    iqm: float
    """Interquartile mean of their scores, 0 random play and 1 the teacher."""
    iqm_ci95: Interval | None
    """95 % interval of it over training seeds, by stratified bootstrap, as wide as few runs ask; None where an
    environment has a single run.
    """
    mean: float
    """Mean of their scores."""
    lowest: float
    """The lowest of their scores."""
    passed: int
    """Students of which all is proven that is claimed: that the loss is within the margin, and each measure."""
    train_s: float
    """Mean seconds of collecting and learning."""
    profile: tuple[float, ...]
    """Share of the runs whose score is above each of `Studies.at`."""
    profile_low: tuple[float, ...]
    """Lower ends of the profile's 95 % band; none where an environment has a single run."""
    profile_high: tuple[float, ...]
    """Upper ends of it."""


@dataclass(frozen=True, kw_only=True)
class StudyPair(Record):
    """Two studies against each other."""

    one: str
    """Name of the first."""
    other: str
    """Name of the second."""
    improvement: float
    """Probability that a run of the first scores above a run of the second; equal scores count half."""
    improvement_ci95: Interval | None
    """95 % interval of it, as wide as few runs ask; None where an environment has a single run of either."""
    difference: float
    """Mean score of the first less that of the second, on the episodes that all their runs played."""
    difference_ci95: Interval | None
    """95 % interval of it; runs and episodes are drawn, an episode for both studies at once. None as above."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Studies(Shown):
    """Several studies in one table.

    Example::

        found = compare("runs/distil", "runs/cloning")
        found.rows[0].iqm, found.pairs[0].improvement
        found.frame().sort_values("iqm")  # with pandas
    """

    envs: tuple[str, ...]
    """Names of the environments, which all rows share."""
    rows: tuple[StudyRow, ...]
    """A row for each study, as they were named."""
    pairs: tuple[StudyPair, ...]
    """Every two of them."""
    at: tuple[float, ...]
    """Scores at which the profiles are given."""

    def _told(self) -> tuple[str, list[tuple[str, ...]]]:
        """Interquartile means."""
        rows: list[tuple[str, ...]] = [("study", "runs", "IQM of scores", "95 % interval", "mean", "lowest")]
        for row in self.rows:
            ends = "" if row.iqm_ci95 is None else f"{row.iqm_ci95[0]:.3f} … {row.iqm_ci95[1]:.3f}"
            rows.append((row.name, str(row.runs), f"{row.iqm:.3f}", ends, f"{row.mean:.3f}", f"{row.lowest:.3f}"))
        return f"{len(self.rows)} studies in {' + '.join(self.envs)}", rows

    def table(self) -> list[dict[str, str | int | float | None]]:
        """The rows as names and plain values, an interval as two of them, without the profiles."""
        plain: list[dict[str, str | int | float | None]] = []
        for row in self.rows:
            values = {f.name: getattr(row, f.name) for f in fields(row) if not f.name.startswith("profile")}
            low, high = values.pop("iqm_ci95") or (None, None)
            plain.append({**values, "iqm_low": low, "iqm_high": high})
        return plain

    def frame(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
            ExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ExtraError("pandas", "pandas", "A DataFrame") from None
        return pandas.DataFrame(self.table())

    def to_csv(self) -> str:
        """The table as comma-separated values."""
        text = io.StringIO()
        rows = self.table()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table and that of the pairs, rounded for people."""
        lines = ["| study | recipe | student | runs | IQM of scores [95 %] | mean | lowest | within margin | seconds |"]
        lines.append("|---|---|---|--:|--:|--:|--:|--:|--:|")
        for row in self.rows:
            cells = (row.name, row.recipe, row.student, row.runs, with_interval(row.iqm, row.iqm_ci95, "{:.3f}"))
            more = (f"{row.mean:.3f}", f"{row.lowest:.3f}", f"{row.passed} of {row.runs}", f"{row.train_s:,.1f}")
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in (*cells, *more)) + " |")
        if self.pairs:
            lines += ["", "| pair | P(first above second) [95 %] | first - second [95 %] |", "|---|--:|--:|"]
        for pair in self.pairs:
            better, apart = in_words(pair)
            names = f"{pair.one}, {pair.other}".replace("|", "\\|")
            lines.append(f"| {names} | {better} | {apart} |")
        return "\n".join(lines) + "\n"


def in_words(pair: StudyPair) -> tuple[str, str]:
    """Probability of improvement and difference of a pair, each with its interval."""
    return (
        with_interval(pair.improvement, pair.improvement_ci95, "{:.2f}"),
        with_interval(pair.difference, pair.difference_ci95, "{:+.3f}"),
    )


def with_interval(value: float, ends: Interval | None, form: str) -> str:
    """A number and its interval, if it has one, each in this form."""
    number = form.format(value)
    return number if ends is None else f"{number} [{form.format(ends[0])}, {form.format(ends[1])}]"


def compare(*paths: str | Path, seed: int = 0) -> Studies:
    """Puts runs and studies in one table: interquartile means, performance profiles, probabilities of improvement.

    Each path is a row: a run, a study over seeds, a run of several tasks, or a folder of such, whose environments count
    alike. A single folder of several gives a row for each of them that is finished; a plan is its winner.

    Args:
        paths: folders.
        seed: of the bootstrap.

    Raises:
        FileError: a folder holds no results of students.
        SpecError: the rows are not of the same environments, rules of play and teachers, or a run has no score.

    Example::

        compare("runs/distil", "runs/cloning").to_markdown()
    """
    studies = {name: list(_runs(path)) for name, path in _named(paths).items()}
    tasks = _tasks(studies)
    rng = np.random.default_rng(seed)
    # which of a run's looks was the last depends on what it saw: the episodes that all of them played are what counts
    common = [min(len(run.returns.student) for run in chain(*runs)) for runs in zip(*tasks.values(), strict=True)]
    scores = {
        name: [np.array([run.score(episodes) for run in runs]) for runs, episodes in zip(by_env, common, strict=True)]
        for name, by_env in tasks.items()
    }
    everything = np.concatenate([task for one in scores.values() for task in one])
    low, high = float(everything.min()), float(everything.max())
    beside = max(0.05 * (high - low), 1e-3)
    at = np.linspace(low - beside, high + beside, POINTS)
    rows = tuple(_row(name, tasks[name], scores[name], at, rng) for name in tasks)
    pairs = tuple(
        _pair(one, other, (tasks[one], tasks[other]), (scores[one], scores[other]), rng)
        for one, other in combinations(tasks, 2)
    )
    envs = tuple(_label(runs[0].results) for runs in next(iter(tasks.values())))
    return Studies(envs=envs, rows=rows, pairs=pairs, at=tuple(at.tolist()))


@dataclass(frozen=True)
class _Run:
    """A finished run with its single episodes."""

    path: Path
    results: Results
    returns: SingleReturns

    def score(self, episodes: int) -> float:
        """Its score over its first episodes."""
        high, low = self._ends(episodes)
        return (stats.mean(self.returns.student[:episodes]) - low) / (high - low)

    def scores(self, episodes: int) -> list[float]:
        """Scores of its first episodes."""
        high, low = self._ends(episodes)
        return [(one - low) / (high - low) for one in self.returns.student[:episodes]]

    def _ends(self, episodes: int) -> tuple[float, float]:
        """Returns that are 1 and 0, the teacher's in these episodes and random play's: they do not depend on the run.

        Raises:
            SpecError: the teacher is no better than random play, or was none in these episodes.
        """
        if self.results.student.score is None:
            raise SpecError(f"{self.path} has no score, since its teacher is no better than random play: leave it out.")
        high, low = stats.mean(self.returns.teacher[:episodes]), self.results.random.return_mean
        if high <= low:
            raise SpecError(
                f"{self.path} has no score: in its first {episodes} episodes its teacher returns what random does, or "
                "less: leave it out, or compare runs that were judged with more --episodes."
            )
        return high, low


def _named(paths: Sequence[str | Path]) -> dict[str, Path]:
    """A name for each row: that of its folder, with as much of its path as tells apart those of one name."""
    given = [Path(path) for path in paths]
    if not given:
        raise SpecError("Nothing to compare: name run folders, or folders of studies.")
    if len(given) == 1 and given[0].is_dir() and RunFolder(given[0]).kind() is None and not _has_students(given[0]):
        given = [path for path in sorted(given[0].iterdir()) if _has_students(path)] or given
    full = [path.resolve() for path in given]
    if len(set(full)) < len(full):
        raise SpecError("The same folder is named twice: name each once.")
    alike = {path: [other for other in full if other.name == path.name] for path in full}
    return {_apart(path, others): home for (path, others), home in zip(alike.items(), given, strict=True)}


def _apart(path: Path, alike: Sequence[Path]) -> str:
    """A folder's name; where others are called the same, what lies below the last folder that they have in common."""
    if len(alike) == 1:
        return path.name
    try:
        inside = path.relative_to(os.path.commonpath(alike)).as_posix()
    except ValueError:  # on several drives
        return str(path)
    return inside if inside != "." else str(path)


def _has_students(path: Path) -> bool:
    """Whether a folder is a finished run or study of students, or a plan's that has a winner."""
    folder = RunFolder(path).with_student()
    return folder.results.is_file() and folder.kind() != "teacher"


def _runs(path: Path, *, inside: bool = True) -> Iterator[_Run]:
    """The runs of one row."""
    folder = RunFolder(path).with_student()
    path = folder.path
    if not folder.results.is_file():
        # what lies in a folder that is of something, and is not finished, are parts of it
        apart = inside and folder.kind() is None and path.is_dir()
        within = [one for one in sorted(path.iterdir()) if _has_students(one)] if apart else []
        if not within:
            raise folder.lacking("results.json")
        for one in within:
            yield from _runs(one, inside=False)
        return
    found = read_results(folder.results)
    match found:
        case SeedsResults(runs=runs):
            homes = [path / f"seed-{run.seed}" for run in runs]
        case TasksResults(tasks=runs):
            homes = [folder.of_task(run.env).path for run in runs]
        case Results():
            runs, homes = (found,), [path]
        case _:
            raise FileError(f"{path} holds no student beside its teacher: give a run or a study.")
    for run, home in zip(runs, homes, strict=True):
        episodes = read_json_as(SingleEpisodes, RunFolder(home).episodes)
        yield _Run(home, run, episodes.returns)


def _label(results: Results) -> str:
    """The environment in which a run was judged."""
    return EnvRef.from_json(results.verdict_environment or results.environment, "environment").label


def _tasks(studies: dict[str, list[_Run]]) -> dict[str, list[list[_Run]]]:
    """Each study's runs by environment, in one order for all; raises where these cannot be compared."""
    first_name = next(iter(studies))
    envs = list(dict.fromkeys(_label(run.results) for run in studies[first_name]))
    found = {}
    for name, runs in studies.items():
        own = {_label(run.results) for run in runs}
        if own != set(envs):
            apart = ", ".join(sorted(own ^ set(envs)))
            raise SpecError(f"Not both of {first_name} and {name} were judged in {apart}: give studies that share all.")
        found[name] = [[run for run in runs if _label(run.results) == env] for env in envs]
        counts = {len(of_env) for of_env in found[name]}
        if len(counts) > 1:
            raise SpecError(
                f"{name} has {min(counts)} runs in one environment and {max(counts)} in another, and environments "
                "count alike: leave some out."
            )
    for number, env in enumerate(envs):
        alike = [run for by_env in found.values() for run in by_env[number]]
        for run in alike[1:]:
            _check_alike(alike[0], run, env)
    return found


def _check_alike(one: _Run, other: _Run, env: str) -> None:
    """Raises where two runs' scores do not mean the same."""
    if one.results.protocol != other.results.protocol:
        raise SpecError(
            f"{one.path} and {other.path} were judged by different rules of play in {env}: judge one of them again."
        )
    if one.results.verdict.cluster != other.results.verdict.cluster:
        raise SpecError(
            f"{one.path} and {other.path} count different units in {env} (--cluster): judge one of them as the other."
        )
    mine, theirs = one.results.verdict, other.results.verdict
    if (mine.exact, mine.after) != (theirs.exact, theirs.after):
        raise SpecError(
            f"{one.path} and {other.path} were judged on other episodes in {env} (every start and a sample, or a plan "
            "that was asked again): judge one of them as the other."
        )
    random = (one.results.random.return_mean, other.results.random.return_mean)
    if not np.isclose(*random):
        raise SpecError(
            f"{one.path} and {other.path} have random play of {random[0]:,.2f} and {random[1]:,.2f} in {env}, so that "
            "their scores mean different things: make one of them again with the other's --accept-episodes."
        )
    common = min(len(one.returns.teacher), len(other.returns.teacher))
    if not np.allclose(one.returns.teacher[:common], other.returns.teacher[:common]):
        raise SpecError(
            f"{one.path} and {other.path} have different teachers in {env}, so that their scores mean different "
            f"things: use distilrl evaluate {one.path} --env ENV --against {other.path}."
        )


def _row(
    name: str,
    by_env: Sequence[Sequence[_Run]],
    scores: Sequence[stats.Array],
    at: stats.Array,
    rng: np.random.Generator,
) -> StudyRow:
    """What is told of one study."""
    runs = [run.results for of_env in by_env for run in of_env]
    middle, ends = stats.aggregate_iqm(scores, rng)
    share, band = stats.performance_profile(scores, at, rng)
    low, high = band.tolist() if band is not None else ((), ())
    everything = np.concatenate(list(scores))
    return StudyRow(
        name=name,
        recipe=" + ".join(dict.fromkeys(run.recipe for run in runs)),
        student=" + ".join(dict.fromkeys(run.student.name for run in runs)),
        params=max(run.student.params for run in runs),
        runs=len(runs),
        iqm=middle,
        iqm_ci95=ends,
        mean=stats.mean(everything),
        lowest=float(everything.min()),
        passed=sum(run.holds for run in runs),
        train_s=stats.mean([run.train_s for run in runs]),
        profile=tuple(share.tolist()),
        profile_low=tuple(low),
        profile_high=tuple(high),
    )


def _pair(
    one: str,
    other: str,
    tasks: tuple[Sequence[Sequence[_Run]], Sequence[Sequence[_Run]]],
    scores: tuple[Sequence[stats.Array], Sequence[stats.Array]],
    rng: np.random.Generator,
) -> StudyPair:
    """What is told of two studies."""
    better, better_ends = stats.improvement(*scores, rng)
    tables: tuple[list[stats.Array], list[stats.Array]] = ([], [])
    units = []
    for of_both in zip(*tasks, strict=True):
        common = min(len(run.returns.student) for runs in of_both for run in runs)
        for table, runs in zip(tables, of_both, strict=True):
            table.append(np.array([run.scores(common) for run in runs]))
        units.append(labels_of_all([run.returns for runs in of_both for run in runs], common))
    exact = [runs[0].results.verdict.exact for runs in tasks[0]]
    apart, apart_ends = stats.crossed_difference(*tables, rng, exact=exact, clusters=units)
    return StudyPair(
        one=one,
        other=other,
        improvement=better,
        improvement_ci95=better_ends,
        difference=apart,
        difference_ci95=apart_ends,
    )

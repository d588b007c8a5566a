"""Trivial rules beside a teacher and a student: all of them on the episodes of the verdict, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distilrl.envs import describe_env, trust
from distilrl.episodes import Play
from distilrl.evaluate import VERDICT_SEEDS, play, seeds_from
from distilrl.files import write_json
from distilrl.measures import Measure
from distilrl.played import Returns
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher


@dataclass(frozen=True)
class Row:
    """How a policy played."""

    policy: str
    """Its name, or where it lies."""
    return_mean: float
    return_ci95: tuple[float, float]
    measures: dict[str, float]
    """Mean of each measure over the episodes."""


def row_of(name: str, policy: Teacher, env: EnvRef, episodes: int, measures: Sequence[str] = ()) -> Row:
    """A policy on the verdict's episodes, with measures as ``--measure`` takes them.

    Example::

        row_of("hold", Teacher.from_callable(hold), EnvRef("examples.trading:SP500-v0"), 100, ["turnover=sum"])
    """
    trust(*env.modules)
    how = Play(env, threads=1, measures=tuple(Measure.of(text) for text in measures))
    games = play(policy.fitted(describe_env(env)).policy, how, seeds_from(VERDICT_SEEDS, episodes))
    found = Returns.of(games.returns, np.random.default_rng(0), games.units)
    means = np.nanmean(games.measured, axis=0).tolist() if measures else []
    names = [measure.name for measure in how.measures]
    return Row(name, found.return_mean, found.return_ci95, dict(zip(names, means, strict=True)))


def write_table(rows: Sequence[Row], about: Mapping[str, object], out: Path | None) -> None:
    """Prints a row for each policy; writes them, with what they are about, where a file is named."""
    for row in rows:
        low, high = row.return_ci95
        rest = "  ".join(f"{name} {mean:.4g}" for name, mean in row.measures.items())
        print(f"{row.policy:32} {row.return_mean:9.2f} [{low:.2f}, {high:.2f}]  {rest}")
    if out is not None:
        write_json(out, {**about, "rows": [asdict(row) for row in rows]})

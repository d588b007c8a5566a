"""Results as runs write them, whole, with what a test wants otherwise in the place of it."""

from dataclasses import replace

import numpy as np

from distilrl.episodes import Episodes
from distilrl.measures import Mean, Measured
from distilrl.played import (
    Acceptance,
    Agreement,
    Difference,
    Dimension,
    Disagreement,
    RandomPlay,
    Returns,
    RunVerdict,
    Sides,
    SingleEpisodes,
    SingleReturns,
    TeacherCard,
)
from distilrl.provenance import Provenance
from distilrl.results import Results, StudentSide, TeacherSide
from distilrl.summaries import PlanResults, PlanRow

RETURNS = Returns(
    return_mean=12045.33,
    return_iqm=12000.0,
    return_ci95=(11900.12, 12190.55),
    episodes=20,
    distinct_episodes=20,
    exact=False,
)
DIMENSION = Dimension(rms=0.25, bias=-0.1, at_bound=0.5, half_range=1.0)
VERDICT = RunVerdict(
    result="pass", margin=620.5, difference=-12.5, interval=(-45.0, 15.0), confidence=1 - 0.05 / 3, distinct=100,
    looks=3,
    span=12303.71, protocol="greedy",
)  # fmt: skip
NOISY = replace(VERDICT, protocol="noisy observations", looks=1, confidence=0.95)
PROVENANCE = Provenance(
    distilrl="0.1.0", python="3.12.3", torch="2.9.0", gymnasium="1.2.0", environment="", system="Linux x86_64",
    cpu="one",
    threads=1, date="2026-01-01T00:00:00+00:00", command="distilrl distill",
)  # fmt: skip
STATES = {
    f"{side}_states{what}": value
    for side in ("teacher", "student")
    for what, value in (("", 0.9), ("_where_it_matters", 0.95), ("_error", 0.123))
}


def acceptance(return_mean=10.0, random_return_mean=5.0, longest_episode=10) -> Acceptance:
    """What is known of a teacher with such a return."""
    returns = vars(replace(RETURNS, return_mean=return_mean))
    return Acceptance(
        **returns,
        longest_episode=longest_episode,
        random_return_mean=random_return_mean,
        better_than_random=return_mean > random_return_mean,
        worst_loss=return_mean - random_return_mean,
    )


def card(**changes) -> TeacherCard:
    """Of a teacher of the size of an Atari game's."""
    card = TeacherCard(
        path="teacher.zip", sha256="0" * 64, format="sb3", kind="q", head={}, network="cnn", meta={}, params=5,
        acceptance=acceptance(12045.33, -258.39),
    )  # fmt: skip
    return replace(card, **changes)


def measured(result="pass") -> Measured:
    """How often an episode ends in a crash, with such a verdict."""
    share = Mean(mean=0.1, ci95=(0.05, 0.2), episodes=100)
    off = Difference(difference=0.0, difference_ci95=(-0.04, 0.04))
    verdict = replace(VERDICT, result=result)
    return Measured(
        name="crashed", how="max", better="lower", teacher=share, student=share, random=share, difference=off,
        verdict=verdict
    )  # fmt: skip


def results(**changes) -> Results:
    """Of a run with real actions."""
    size = {"params": 1000, "bytes": 4000, "macs": 1000, "latency_us": 40.0}
    found = Results(
        env="Mine-v0", environment={"id": "Mine-v0"}, action={"kind": "mean"}, protocol={"epsilon": 0.0}, seed=0,
        recipe="distil",
        env_steps=30_000, updates=4, train_s=1.5, wall_s=2.5, device="cpu", stopped="budget used", temperature=1.0,
        labelled_states=30_000, random=RandomPlay(return_mean=-258.0), verdict=VERDICT,
        teacher=TeacherSide(**vars(RETURNS), **size, truncated=0, format="sb3"),
        student=StudentSide(
            **vars(RETURNS), **(size | {"params": 100, "bytes": 400, "macs": 100}), truncated=0, score=0.99, spec={},
            name="mlp:8"
        ),
        agreement=Agreement(**STATES, dimensions=(DIMENSION, replace(DIMENSION, rms=0.5, at_bound=0.0))),
        disturbed={"noise_0.1": Sides(teacher=RETURNS, student=RETURNS, verdict=NOISY)}, provenance=PROVENANCE,
    )  # fmt: skip
    return replace(found, **changes)


def choices(*tables, **changes) -> Results:
    """Of a run with choices."""
    made = tuple(tuple(tuple(row) for row in table) for table in tables)
    return results(agreement=Agreement(**STATES, tables=made), **changes)


def difference(**changes) -> Disagreement:
    """Of two policies with two real actions."""
    one = Disagreement(
        teacher_action=(0.75, -1.0), student_action=(-0.25, 0.125), stakes=1.0, error=1.5, obs=(0.5, -2.0), image=None
    )
    return replace(one, **changes)


def episodes(*disagreements, teacher=(1.0, 2.0), student=(1.0, 2.0), starts=()) -> SingleEpisodes:
    """Of two episodes."""
    returns = SingleReturns(teacher=tuple(teacher), student=tuple(student), starts=tuple(starts))
    return SingleEpisodes(returns=returns, disagreements=disagreements)


def games(returns, *, fingerprints=None, measured=None) -> Episodes:
    """One and the same episode again and again, but for what is said otherwise."""
    count = len(returns)
    prints = np.ones(count) if fingerprints is None else fingerprints
    return Episodes(
        np.array(returns, np.float64), np.ones(count, np.int64), np.array(prints, np.uint64), np.zeros(count, np.bool_),
        np.array(measured or [[]] * count, np.float64), np.zeros(count), np.zeros((0, 2), np.float32), np.zeros(0),
    )  # fmt: skip


def plan_row(**changes) -> PlanRow:
    """Of a small size that passes."""
    row = PlanRow(
        student="mlp:8", params=100, bytes=400, macs=90, latency_us=30.0, score_mean=0.9, worst_score=0.85,
        best_score=0.95,
        best_seed=0, reached=True, verdict="pass",
    )  # fmt: skip
    return replace(row, **changes)


def plan_results(*rows, **changes) -> PlanResults:
    """Of a plan with these sizes, of which the first passes."""
    found = PlanResults(
        env="Mine-v0", environment={"id": "Mine-v0"}, recipe="distil", teacher="teacher.zip", teacher_params=None,
        seeds=1,
        budget={"params": None, "bytes": None, "macs": None, "us": 30.0}, env_steps=1000, labelled_states=1000,
        train_s=1.0,
        wall_s=2.0, winner=rows[0].student, frontier=rows, asked=(300,), provenance=PROVENANCE,
    )  # fmt: skip
    return replace(found, **changes)

"""Statistics: known answers, coverage of the intervals, and the verdict's three outcomes."""

import numpy as np
import pytest

from distilrl import stats
from distilrl.played import Returns


def rng(seed=0):
    return np.random.default_rng(seed)


def test_iqm_by_hand():
    assert stats.iqm([1, 2, 3, 4, 5, 6, 7, 100]) == pytest.approx(4.5)
    assert stats.iqm([5.0]) == 5.0


def test_same_generator_same_interval():
    data = rng(1).normal(size=40)
    assert stats.bootstrap_interval(data, rng()) == stats.bootstrap_interval(data, rng())
    assert stats.bootstrap_interval(data, rng()) != stats.bootstrap_interval(data, rng(5))


def test_interval_covers_the_mean_about_as_often_as_it_says():
    source = rng(2)
    hits = 0
    for _ in range(200):
        low, high = stats.bootstrap_interval(source.normal(3.0, 1.0, 40), source, resamples=500)
        hits += low <= 3.0 <= high
    assert 178 <= hits <= 200


def test_identical_episodes_are_one_unit():
    """25 times 17 and 25 times 21 are two episodes, not fifty."""
    returns = np.array([17.0] * 25 + [21.0] * 25)
    naive = stats.bootstrap_interval(returns, rng())
    honest = stats.bootstrap_interval(returns, rng(), clusters=returns)
    assert naive[1] - naive[0] < 1.5
    assert honest == (17.0, 21.0)
    assert Returns.of(returns, rng(), returns).distinct_episodes == 2


@pytest.mark.parametrize(("loss", "result"), [(0.0, "pass"), (10.0, "fail"), (1.0, "inconclusive")])
def test_verdicts(loss, result):
    teacher = rng(3).normal(100, 3, 60)
    student = teacher - loss + rng(4).normal(0, 1, 60)
    assert stats.non_inferiority(student, teacher, 1.0, rng()).result == result


def test_more_looks_ask_for_more_evidence():
    teacher = np.zeros(30)
    student = rng(6).normal(-0.5, 1.0, 30)
    one, three = (stats.non_inferiority(student, teacher, 1.0, rng(), looks=n) for n in (1, 3))
    assert one.difference_ci95 == three.difference_ci95
    assert three.confidence == pytest.approx(1 - 0.05 / 3)
    assert one.confidence == 0.95
    assert one.interval == one.difference_ci95
    assert three.interval[0] < one.interval[0] < one.interval[1] < three.interval[1]


def test_the_verdict_is_told_by_the_interval_that_is_shown():
    """With several looks the 95 % interval may lie above the margin while the verdict is open."""
    student, found = rng(6).normal(-0.5, 1.0, 30), set()
    for margin in np.linspace(0.5, 1.5, 60):
        verdict = stats.non_inferiority(student, np.zeros(30), float(margin), rng(), looks=5)
        assert (verdict.result == "pass") == (verdict.interval[0] > -margin)
        found.add((verdict.result, bool(verdict.difference_ci95[0] > -margin)))
    assert ("inconclusive", True) in found


def test_false_passes_are_rare_even_with_three_looks():
    """A student worse than the teacher by exactly the margin must pass in at most about 5 % of runs."""
    source, passes = rng(7), 0
    for _ in range(150):
        differences = source.normal(-1.0, 2.0, 180)
        for seen in (60, 120, 180):
            verdict = stats.non_inferiority(differences[:seen], np.zeros(seen), 1.0, source, looks=3)
            if verdict.result != "inconclusive":
                passes += verdict.result == "pass"
                break
    assert passes <= 14


def test_score_survives_negative_returns():
    """Ratios of raw returns give −500 against −80 a weight of 0 and Pong a weight of 2."""
    assert stats.score(-500, -80, -500) == 0.0
    assert stats.score(-80, -80, -500) == 1.0
    assert stats.score(-20.7, 20.0, -20.7) == 0.0
    assert stats.score(1, 0, 0) is None


def test_a_teacher_worse_than_random_play_gives_no_score():
    """Between them a worse student would have the higher score."""
    assert stats.score(-20.0, -10.0, 0.0) is None
    assert stats.score(-10.0, -10.0, 0.0) is None


def test_t_interval_by_hand():
    low, high = stats.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == (pytest.approx(3 - 2.776 * np.sqrt(2.5 / 5)), pytest.approx(3 + 2.776 * np.sqrt(2.5 / 5)))
    assert stats.t_interval([1.0]) == (float("-inf"), float("inf"))

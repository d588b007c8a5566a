"""Statistics: known answers, and coverage of the intervals."""

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
    assert stats.mean_interval(data, rng()) == stats.mean_interval(data, rng())
    assert stats.mean_interval(data, rng()) != stats.mean_interval(data, rng(5))


def test_interval_covers_the_mean_about_as_often_as_it_says():
    source = rng(2)
    hits = 0
    for _ in range(200):
        low, high = stats.mean_interval(source.normal(3.0, 1.0, 40), source, resamples=500)
        hits += low <= 3.0 <= high
    assert 178 <= hits <= 200


def test_identical_episodes_are_one_unit():
    """25 times 17 and 25 times 21 are two episodes, not fifty."""
    returns = np.array([17.0] * 25 + [21.0] * 25)
    naive = stats.mean_interval(returns, rng())
    honest = stats.mean_interval(returns, rng(), clusters=returns)
    assert naive[1] - naive[0] < 1.5
    assert honest == pytest.approx(stats.t_interval([17.0, 21.0]))
    assert Returns.of(returns, rng(), returns).distinct_episodes == 2


def test_few_episodes_have_student_s_interval():
    few, many = rng(1).normal(size=29), rng(1).normal(size=30)
    assert stats.mean_interval(few, rng()) == pytest.approx(stats.t_interval(few))
    low, high = stats.t_interval(many)
    assert low < stats.mean_interval(many, rng())[0] < stats.mean_interval(many, rng())[1] < high


def test_every_start_played_leaves_no_interval():
    found = Returns.of([1.0, 2.0, 6.0], rng(), [1, 2, 3], exact=True)
    assert (found.return_mean, found.return_ci95, found.exact) == (3.0, (3.0, 3.0), True)


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


@pytest.mark.parametrize(
    ("freedom", "confidence", "quantile"),
    [(1, 0.95, 12.706), (4, 0.95, 2.776), (29, 0.95, 2.045), (1, 0.99, 63.657), (19, 0.99, 2.861), (120, 0.95, 1.980)],
)
def test_quantiles_of_student_s_t_are_the_printed_ones(freedom, confidence, quantile):
    assert stats.t_quantile(freedom, confidence) == pytest.approx(quantile, abs=6e-4)


def test_a_higher_confidence_is_a_wider_interval():
    for data in (rng(1).normal(size=20), rng(1).normal(size=40)):
        low, high = stats.mean_interval(data, rng())
        wide = stats.mean_interval(data, rng(), confidence=0.99)
        assert wide[0] < low < high < wide[1]


def test_t_interval_by_hand():
    low, high = stats.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.7764 * np.sqrt(2.5 / 5), 3 + 2.7764 * np.sqrt(2.5 / 5)), abs=1e-4)
    assert stats.t_interval([1.0]) == (float("-inf"), float("inf"))

"""The S&P 500 of examples/trading: seeded, paid for, with the years that one asks for."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("gym_trading_env", reason="gym-trading-env is not installed")
pytest.importorskip("arch", reason="arch is not installed")

from examples.trading.market import FEATURES, POSITIONS, prices

MARKET = "examples.trading:SP500-v0"
HOLD = len(POSITIONS) - 1


def played(env, actions, seed=0):
    """Rewards and infos of an episode."""
    _, info = env.reset(seed=seed)
    steps = []
    for action in actions:
        _, reward, terminated, truncated, told = env.step(action)
        steps.append((reward, told))
        if terminated or truncated:
            break
    return info, steps


def test_the_market_is_a_gymnasium_environment_and_a_seed_decides_alone():
    filters = list(warnings.filters)
    env = gymnasium.make(MARKET)
    assert list(warnings.filters) == filters  # its package makes every warning of the process an error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features have no bounds
        check_env(env.unwrapped, skip_render_check=True)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 -- its package draws from this, whatever the seed
    first, _ = env.reset(seed=3)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(8)  # noqa: NPY002
    again, info = env.reset(seed=3)
    assert all(np.array_equal(first[part], again[part]) for part in first)
    assert len({env.reset(seed=seed)[1]["date"] for seed in range(30)}) > 20
    assert info["turnover"] == 0.0


def test_a_year_pays_the_market_less_the_fee():
    env = gymnasium.make(MARKET, years=(2013, 2018), fee=0.01)
    _, steps = played(env, [HOLD] * 300)
    assert len(steps) == 251
    market = sum(told["market_return"] for _, told in steps)
    assert sum(reward for reward, _ in steps) == pytest.approx(market + 100 * np.log(0.99), abs=1e-6)
    assert [told["turnover"] for _, told in steps[:2]] == [1.0, 0.0]
    _, cash = played(env, [0] * 300)
    assert sum(reward for reward, _ in cash) == 0.0
    _, swaying = played(env, [HOLD, 0] * 150)
    assert sum(told["turnover"] for _, told in swaying) == pytest.approx(251)


def test_nothing_is_seen_of_later_days_or_other_years():
    frame = prices()
    close = np.log(frame["close"])
    assert frame["feature_return_5"].iloc[9] == pytest.approx(100 * (close.iloc[9] - close.iloc[4]))
    env = gymnasium.make(MARKET, years=(2013, 2014))
    for seed in range(5):
        info, steps = played(env, [0] * 300, seed)
        assert "2013-01-01" < info["date"] < steps[-1][1]["date"] < "2015-01-01"
        assert {told["year"] for _, told in steps} == {info["year"]} == {int(info["date"][:4])}
    obs, info = env.reset(seed=0)
    assert obs["drawdown"][0] == pytest.approx(frame.loc[info["date"], "feature_drawdown"], abs=1e-4)
    assert set(obs) == {*FEATURES, "position"}


def test_an_episode_may_be_as_long_as_the_years_that_change():
    env = gymnasium.make(MARKET, years=(2000, 2012), days=3200)
    info, steps = played(env, [0] * 4000)
    assert info["date"] < "2001"
    assert steps[-1][1]["date"] > "2012"
    assert len(steps) == 3199


@pytest.mark.parametrize("wrong", [{"years": (2012, 1999)}, {"years": (1998, 2005)}, {"fee": -0.1}, {"days": 5000}])
def test_a_market_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        gymnasium.make(MARKET, **wrong)

"""The greenhouse of examples/greenhouse and the sensor of examples/monitoring, both over the record of one package."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("lettuce_greenhouse_gym", reason="lettuce-greenhouse-gym is not installed")

from examples import greenhouse
from examples.monitoring import DAY
from examples.monitoring.sensor import COST, MEASURE, SEND, SLEEP, record, starts

SENSOR = "examples.monitoring:Sensor-v0"


def test_seasons_of_training_and_verdict_share_no_day():
    first, last = greenhouse.HELD_OUT
    assert last + 40 <= greenhouse.TRAINING[0]
    env = gymnasium.make("examples.greenhouse:Lettuce-v0", starts=(first, last))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations
        check_env(env.unwrapped, skip_render_check=True)
    days = [env.reset(seed=seed)[1]["start_day"] for seed in range(20)]
    assert first <= min(days) < max(days) <= last
    assert days == [env.reset(seed=seed)[1]["start_day"] for seed in range(20)]
    *_, info = env.step(np.zeros(3, np.float32))
    assert {"revenue", "energy_cost", "co2_cost", "penalty"} <= set(info)
    with pytest.raises(ValueError, match="'starts' must be two days"):
        greenhouse.make((60.0, 40.0))


def test_starts_lie_as_many_hours_apart_as_asked():
    env = gymnasium.make("examples.greenhouse:Lettuce-v0", starts=(40, 40.25), hours=0.5)
    days = {env.reset(seed=seed)[1]["start_day"] for seed in range(200)}
    assert np.allclose(sorted(days), 40 + np.arange(13) / 48)
    seen = []
    for day in (40.0, 40.0 + 1 / 48):
        env = greenhouse.make((day, day), hours=0.5)
        env.reset(seed=0)
        seen.append([env.step(np.zeros(3, np.float32))[:2] for _ in range(4)])
    assert seen[0][0][1] != seen[1][0][1]
    assert not np.array_equal(seen[0][0][0], seen[1][0][0])
    with pytest.raises(ValueError, match="'hours' must be above 0"):
        greenhouse.make(hours=0.0)


def test_the_sensors_days_of_training_and_verdict_share_no_moment():
    spans = [{day for start in starts(held_out) for day in (start, start + DAY)} for held_out in (False, True)]
    touched = [{moment // DAY // 7 for moment in span} for span in spans]
    assert touched[0].isdisjoint(touched[1])
    assert len(starts(False)) > 1.9 * len(starts(True)) > 3_000


def test_a_sensor_knows_what_it_measured_and_pays_for_it():
    env = gymnasium.make(SENSOR, budget=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations
        check_env(env.unwrapped, skip_render_check=True)
    obs, info = env.reset(seed=5)
    temperature = record().reshape(-1)[info["start"] :]
    assert obs["measured"][0] == pytest.approx(temperature[0] / 10)
    obs, reward, _, _, told = env.step(SLEEP)
    assert (reward, told["energy"]) == (-abs(temperature[1] - temperature[0]), 0.0)
    obs, _, _, _, told = env.step(MEASURE)
    assert obs["moved"][0] == pytest.approx(temperature[2] - temperature[0], abs=1e-5)
    assert obs["slope"][0] == pytest.approx(temperature[2] - temperature[0], abs=1e-5)
    assert (told["measured"], told["sent"], told["energy"]) == (1, 0, COST[MEASURE])
    obs, reward, _, _, told = env.step(SEND)
    assert (reward, told["measured"], told["sent"]) == (0.0, 1, 1)
    assert obs["since_sent"][0] == 0.0
    *_, told = env.step(SEND)  # 0.03 J are left
    assert (told["measured"], told["sent"], told["energy"]) == (0, 0, 0.0)


@pytest.mark.parametrize("budget", [0.6, 1.2, 2.4])
def test_a_day_begins_neither_ahead_nor_behind_its_budget(budget):
    """It was measured against the usual budget, whatever it had."""
    assert gymnasium.make(SENSOR, budget=budget).reset(seed=0)[0]["ahead"] == pytest.approx(0.0)


def test_a_sensors_day_is_decided_by_its_seed_and_ends():
    env = gymnasium.make(SENSOR, held_out=True)
    returns = []
    for _ in range(2):
        env.reset(seed=11)
        steps = [env.step(SEND) for _ in range(DAY)]
        returns.append(sum(step[1] for step in steps))
        assert [step[2] for step in steps] == [False] * (DAY - 1) + [True]
        assert sum(step[4]["energy"] for step in steps) == pytest.approx(1.2)
    assert returns[0] == returns[1]
    with pytest.raises(ValueError, match="'budget' must be"):
        gymnasium.make(SENSOR, budget=-1.0)

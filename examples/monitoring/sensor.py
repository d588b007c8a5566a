"""The sensor, its battery, and the record that it watches."""

import functools
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.monitoring import DAY

SLEEP, MEASURE, SEND = range(3)
"""The actions: do nothing, measure, or measure and send what was measured."""
COST = (0.0, 0.02, 0.1)
"""Energy of each action, J: an assumption, not a measurement (a fan of 40 mW that ventilates the thermometer for half a
second; then a radio that takes 160 mW for half a second). Sleeping is left out: it is the same for all.
"""
BUDGET = 1.2
"""Energy of a day, J: to measure and send each time would take 4.8."""
WEEKS = 3
"""Every third week of the record is held out."""
NAMES = ("ahead", "day_left", "hour_cos", "hour_sin", "measured", "moved", "since_measured", "since_sent", "slope")
"""What the sensor knows: by how much the share of the energy that is left exceeds that of the day, and the latter; the
hour as an angle; the temperature that it measured last, in tens of degrees; how far this lies from what it sent last,
in degrees; how many hours ago it measured the one and the other; degrees an hour between the last two measurements.
"""


@functools.cache
def record() -> NDArray[np.float64]:
    """(days, 48) outdoor temperature in Bleiswijk from 10 January 2014 on, degrees Celsius every half hour."""
    import lettuce_greenhouse_gym as lettuce

    series = lettuce.default_repository().load(lettuce.BLEISWIJK_2014)
    temperature: NDArray[np.float64] = series.values[lettuce.EXOGENOUS.names.index("out_temp"), ::6]
    return temperature[: len(temperature) // DAY * DAY].reshape(-1, DAY)


def starts(held_out: bool) -> NDArray[np.int64]:
    """Steps of the record from which a whole day lies within weeks of one kind."""
    days = len(record())
    kind = (np.arange(days) // 7 % WEEKS == WEEKS - 1) == held_out
    whole = np.flatnonzero(kind[:-1] & kind[1:])
    return np.unique((whole[:, None] * DAY + np.arange(DAY)).reshape(-1))


class Sensor(gymnasium.Env[Any, Any]):
    """A day that begins at a time drawn from the record. A receiver takes the temperature to be what was sent last; the
    reward is minus how far it is off, in degrees, so that a return of −48 is a mean error of one degree.

    What the charge does not suffice for is not done. ``info`` has ``error`` (degrees), ``measured`` and ``sent`` (0 or
    1) and ``energy`` (J) of the step, and ``day`` of the record on which it began: days that begin within a day share
    most of their weather. The first value is known to the receiver.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, held_out: bool = False, budget: float = BUDGET, render_mode: Literal[None] = None) -> None:
        """Makes the sensor.

        Args:
            held_out: whether the days are of every third week, which training does not see, or of the others.
            budget: energy of a day, J.
            render_mode: None; nothing is drawn.

        Raises:
            ValueError: the budget is negative.
        """
        if budget < 0:
            raise ValueError(f"'budget' must be 0 J or more, got {budget}.")
        self.budget, self.render_mode = float(budget), render_mode
        self._starts, self._record = starts(held_out), record().reshape(-1)
        self.action_space = spaces.Discrete(len(COST))
        self.observation_space = spaces.Dict({name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in NAMES})

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Draws the moment at which the day begins."""
        super().reset(seed=seed)
        self._now = int(self._starts[self.np_random.integers(len(self._starts))])
        self._steps, self._charge, self._day = 0, self.budget, self._now // DAY
        self._sent = self._measured = float(self._record[self._now])
        self._sent_at = self._measured_at = self._now
        self._slope = 0.0
        return self._seen(), {"start": self._now}

    def step(self, action: int) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Acts half an hour later."""
        self._now += 1
        self._steps += 1
        done = int(action) if COST[int(action)] <= self._charge + 1e-9 else SLEEP
        self._charge -= COST[done]
        truth = float(self._record[self._now])
        if done != SLEEP:
            hours = (self._now - self._measured_at) / 2
            self._slope = (truth - self._measured) / hours
            self._measured, self._measured_at = truth, self._now
        if done == SEND:
            self._sent, self._sent_at = truth, self._now
        error = abs(truth - self._sent)
        told = {"error": error, "measured": int(done != SLEEP), "sent": int(done == SEND), "energy": COST[done]}
        told["day"] = self._day
        return self._seen(), -error, self._steps == DAY, False, told  # the charge of a day is for this day

    def _seen(self) -> dict[str, NDArray[np.float32]]:
        left = 1 - self._steps / DAY
        angle = 2 * np.pi * (self._now % DAY) / DAY
        numbers = {
            "ahead": (self._charge / self.budget if self.budget else 0.0) - left,
            "day_left": left,
            "hour_cos": np.cos(angle),
            "hour_sin": np.sin(angle),
            "measured": self._measured / 10,
            "moved": self._measured - self._sent,
            "since_measured": (self._now - self._measured_at) / 2,
            "since_sent": (self._now - self._sent_at) / 2,
            "slope": self._slope,
        }
        return {name: np.array([number], np.float32) for name, number in numbers.items()}

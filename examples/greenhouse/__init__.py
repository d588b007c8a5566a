"""The lettuce greenhouse of van Henten (1994) on seasons of one's own choice: importing this registers ``Lettuce-v0``.

The package's own environment plays the same season again and again; here a season starts on a day drawn from a range,
so that training and verdict have days of their own::

    python -m examples.greenhouse.teach --out runs/greenhouse/teacher
    distilrl distill --teacher runs/greenhouse/teacher/ppo.zip --normalizer runs/greenhouse/teacher/vecnormalize.pkl \
        --env examples.greenhouse:Lettuce-v0 --verdict-env-kwargs '{"starts": [40, 60], "hours": 0.5}' \
        --cluster day --student mlp:16 --out runs/greenhouse/student

Needs lettuce-greenhouse-gym (extra: environment), which is looked for when an environment is made, not here.
"""

from typing import Any

import gymnasium

TRAINING = (101.0, 292.0)
"""Days of the year 2014 on which a season may start: from 11 April, so that none sees a day of the held-out ones."""
HELD_OUT = (40.0, 60.0)
"""From 9 February, the published season, to 1 March: 40 days later the last of these ends, on 10 April."""


def make(
    starts: tuple[float, float] = TRAINING, render_mode: str | None = None, *, hours: float = 6.0
) -> gymnasium.Env[Any, Any]:
    """The package's environment with its published settings (40 days in steps of 30 minutes), weather drawn by seed.

    Args:
        starts: first and last start of a season, in days of the year.
        render_mode: None; the package draws nothing.
        hours: between one start and the next, so that twenty days hold 81 starts, or 961 half an hour apart.

    Raises:
        ValueError: the record, 10 January to 29 November 2014, has no such season, or ``hours`` is not above 0.
    """
    import lettuce_greenhouse_gym as lettuce
    import numpy as np

    first, last = starts
    if not 10 <= first <= last <= 293:
        raise ValueError(f"'starts' must be two days from 10 to 293, the earlier one first, got {starts}.")
    if not hours > 0:
        raise ValueError(f"'hours' must be above 0, got {hours}.")
    count = int((last - first) * 24 / hours + 1e-9) + 1  # the last start counts, whatever division rounds
    days = first + np.arange(count) * (hours / 24)
    sampler = lettuce.RandomWeatherSampler(lettuce.BLEISWIJK_2014, start_days=days.tolist())

    class Dated(lettuce.LettuceGreenhouseEnv):  # type: ignore[misc]
        """Says in ``info`` on which ``day`` of the year a season began: seasons of one day have one weather."""

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            """A step of the package's environment."""
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, info | {"day": int(info["start_day"])}

    env: gymnasium.Env[Any, Any] = Dated(render_mode=render_mode, weather_sampler=sampler)
    return env


if "Lettuce-v0" not in gymnasium.registry:
    gymnasium.register("Lettuce-v0", entry_point=f"{__name__}:make")

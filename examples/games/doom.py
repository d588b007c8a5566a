"""ViZDoom's ``basic`` scenario: a room, a monster at the far wall, a pistol."""

from typing import Any

import gymnasium
import vizdoom.gymnasium_wrapper  # noqa: F401  (importing it registers its environments)
from numpy.typing import NDArray


class Screen(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The screen alone, which shows the ammunition too."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        whole: Any = env.observation_space
        self.observation_space = whole["screen"]

    def observation(self, observation: dict[str, Any]) -> NDArray[Any]:
        """(120, 160, 3) bytes."""
        screen: NDArray[Any] = observation["screen"]
        return screen


def basic(env_id: str = "VizdoomBasic-v1", frame_skip: int = 4, **options: Any) -> gymnasium.Env[Any, Any]:
    """Move left, right, shoot or wait, for four tics at a time: 101 for the monster, −1 a tic, −5 a shot that misses.

    Drawn at 160x120, which is faster than ViZDoom's 320x240.
    """
    small = {"screen_resolution": "RES_160X120"}
    return Screen(gymnasium.make(env_id, **{"frame_skip": frame_skip, **small, **options}))

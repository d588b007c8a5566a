"""MiniGrid's mazes as vectors: the agent's view of 7x7 cells, kind, colour and state of each."""

from typing import Any

import gymnasium
import minigrid  # noqa: F401  (importing it registers its environments)
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.wrappers import ImgObsWrapper
from numpy.typing import NDArray

VIEW = 7 * 7 * 3
"""Numbers of a view."""
PICTURED = [OBJECT_TO_IDX[kind] for kind in ("wall", "ball", "key", "unseen")]
"""Kinds of things that a picture has a channel of."""
CUES = {OBJECT_TO_IDX["key"]: 1.0, OBJECT_TO_IDX["ball"]: -1.0}
"""Kind of thing → cue."""
WEST = 2
"""Direction in which the first room's wall lies."""


def door_key(env_id: str = "MiniGrid-DoorKey-5x5-v0", **options: Any) -> gymnasium.Env[Any, Any]:
    """The view alone, of a maze in which a key opens the door to the goal."""
    return FlattenObservation(ImgObsWrapper(gymnasium.make(env_id, **options)))


def memory(env_id: str, max_steps: int = 300, *, picture: bool = False, **options: Any) -> gymnasium.Env[Any, Any]:
    """The memory task; MiniGrid's own limit of 845 steps makes random play long and a detour cheap."""
    return Reminded(gymnasium.make(env_id, max_steps=max_steps, **options), picture=picture)


class Reminded(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A memory task for a teacher without memory: beside the ``view`` stands the ``cue``, what was seen in the first
    room: 0 before it has been seen, 1 for a key, −1 for a ball. A student from whom the cue is hidden has to remember.

    An episode begins in the first room with the thing in view, as the task's description has it. MiniGrid itself begins
    anywhere in the corridor with one's back to the room. With a ``picture`` the view is there once more, as an image
    (4, 7, 7) for a student of convolutions.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, picture: bool = False) -> None:
        super().__init__(env)
        shown: dict[str, spaces.Space[Any]] = {
            "cue": spaces.Box(-1, 1, (1,), np.float32),
            "view": spaces.Box(0, 255, (VIEW,), np.float32),
        }
        shown |= {"picture": spaces.Box(0, 255, (len(PICTURED), 7, 7), np.uint8)} if picture else {}
        self.observation_space = spaces.Dict(shown)
        self.picture = picture
        self.action_space = spaces.Discrete(3)  # left, right, forward; nothing can be picked up or opened
        self.cue = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Starts an episode two or three cells from the wall, facing it."""
        _, info = self.env.reset(seed=seed, options=options)
        inner: Any = self.unwrapped
        inner.agent_pos, inner.agent_dir = (int(inner.np_random.integers(2, 4)), inner.height // 2), WEST
        self.cue = 0.0
        return self.observation(inner.gen_obs()), info

    def observation(self, observation: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """What is seen, and what was."""
        inner: Any = self.unwrapped
        image = observation["image"]
        at = inner.relative_coords(1, inner.height // 2 - 1)  # where the task puts the thing; None: not in the view
        if self.cue == 0.0 and at is not None:
            self.cue = CUES.get(int(image[at][0]), 0.0)  # unless a wall stands before it
        seen = {"cue": np.array([self.cue], np.float32), "view": image.reshape(-1).astype(np.float32)}
        if self.picture:
            seen["picture"] = np.stack([255 * (image[..., 0] == kind) for kind in PICTURED]).astype(np.uint8)
        return seen

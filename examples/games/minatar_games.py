"""MinAtar's games (Young & Tian 2019), seeded whole and drawn without a plotting library."""

import logging
import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_silenced = logging.root.manager.disable
logging.disable(max(_silenced, logging.WARNING))  # MinAtar says on import that it cannot draw; it is drawn here
from minatar import Environment  # noqa: E402

logging.disable(_silenced)

COLOURS = np.array(
    [
        (0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0),
        (0, 114, 178), (160, 160, 160), (255, 255, 255), (120, 200, 120),
    ],
    np.uint8,
)  # fmt: skip
"""Of nothing, then of each channel (Okabe & Ito's palette first)."""


class MinAtar(gymnasium.Env[Any, Any]):
    """A game with the actions that do something in it; sticky actions (0.1) and growing difficulty as MinAtar has them.

    Its own Gymnasium class keeps the last action, which may stick, beyond the end of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, game: str, render_mode: str | None = None, **options: Any) -> None:
        """Makes the game.

        Args:
            game: its name, such as ``SpaceInvaders``.
            render_mode: None or ``rgb_array``.
            options: ``sticky_action_prob`` and ``difficulty_ramping`` of MinAtar's own.
        """
        self.render_mode = render_mode
        self.game = Environment(re.sub(r"(?<!^)(?=[A-Z])", "_", game).lower(), **options)
        self.actions: list[int] = self.game.minimal_action_set()
        self.action_space = spaces.Discrete(len(self.actions))
        self.observation_space = spaces.Box(0, 1, tuple(self.game.state_shape()), np.bool_)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Starts an episode."""
        super().reset(seed=seed)
        self.game.seed(int(self.np_random.integers(2**32)))
        self.game.last_action = 0
        self.game.reset()
        return self.game.state(), {}

    def step(self, action: int) -> tuple[NDArray[np.bool_], float, bool, bool, dict[str, Any]]:
        """One frame."""
        reward, over = self.game.act(self.actions[action])
        return self.game.state(), float(reward), bool(over), False, {}

    def render(self) -> Any:
        """One pixel for each cell, (10, 10, 3): of several things in a cell, the one of the last channel."""
        state = self.game.state()
        return COLOURS[(state * np.arange(1, state.shape[2] + 1)).max(2)]

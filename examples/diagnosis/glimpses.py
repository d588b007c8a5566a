"""The same slices through a window: look where it is worth it, then answer."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.diagnosis.brain import NOTE, BrainMR
from examples.diagnosis.images import SIDE

__all__ = ["ACROSS", "MOST", "PRICE", "WINDOW", "Glimpses", "unopened"]

ACROSS = 4
"""Windows across the image, and down."""
WINDOW = SIDE // ACROSS
"""Height and width of a window."""
MOST = 8
"""Windows that may be opened, the first included: half of the image."""
PRICE = 0.01
"""Of each window but the first."""


def unopened(seen: NDArray[np.bool_], wanted: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The windows that looks at ``wanted`` (...) open, where ``seen`` (..., 16) says which are open: the first at or
    after each that is not, the first window being after the last.

    Example::

        unopened(np.arange(16) == 3, 3)  # 4
    """
    windows = seen.shape[-1]
    after = (np.asarray(wanted)[..., None] + np.arange(windows)) % windows
    first = np.take_along_axis(seen, after, -1).argmin(-1)
    return np.take_along_axis(after, first[..., None], -1)[..., 0]


class Glimpses(BrainMR):
    """A slice of which a window of 16x16 pixels is seen, drawn by chance. Actions 0 and 1 answer that there is no
    tumour and that there is one, which ends the episode; action 2 + k opens window k, row by row, or where that is
    open the next that is not (`unopened`), for a hundredth of a right answer. Who wants to open a ninth window has not
    answered.

    An observation is (2, 64, 64) bytes: what has been seen, black elsewhere, and 255 where it was seen. The last step's
    ``info`` holds ``right`` and ``windows`` beside what `BrainMR` says; made as that is.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2, "note": NOTE}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(2 + ACROSS * ACROSS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Draws an image, and a window."""
        _, info = super().reset(seed=seed, options=options)
        self._canvas = np.zeros((2, SIDE, SIDE), np.uint8)
        self._open(int(self.np_random.integers(ACROSS * ACROSS)))
        return self._canvas.copy(), info

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Answers or looks."""
        seen = self._canvas[1, ::WINDOW, ::WINDOW].reshape(-1) > 0
        if action >= 2 and seen.sum() < MOST:
            self._open(int(unopened(seen, int(action) - 2)))
            return self._canvas.copy(), -PRICE, False, False, {}
        right = float(action == int(self._tumour))
        told = {"right": right, "windows": int(seen.sum())}
        return self._canvas.copy(), right, True, False, told | self._told(right)

    def get_action_meanings(self) -> list[str]:
        """What the actions are called."""
        looks = [f"look {row + 1}.{column + 1}" for row in range(ACROSS) for column in range(ACROSS)]
        return [*super().get_action_meanings(), *looks]

    def render(self) -> NDArray[np.uint8]:
        """What has been seen, four times as large; the rest in blue."""
        seen = self._canvas.repeat(4, 1).repeat(4, 2)
        return np.where(seen[1, ..., None] > 0, seen[0, ..., None], np.array([20, 40, 90], np.uint8))

    def _open(self, window: int) -> None:
        down, right = WINDOW * (window // ACROSS), WINDOW * (window % ACROSS)
        at = np.s_[down : down + WINDOW, right : right + WINDOW]
        self._canvas[0][at], self._canvas[1][at] = self._image[0][at], 255

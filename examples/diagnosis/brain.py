"""The environment: a slice, a decision, the end."""

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.diagnosis.images import SIDE, load

__all__ = ["BrainMR", "disturbed"]

NOTE = "Not a medical device: an example of distillation, taught by the public images of one collection."
"""What an export says of itself."""
SHIFT = 4
"""Pixels by which a training image is moved at most, each way."""


class BrainMR(gymnasium.Env[NDArray[np.uint8], Any]):
    """One slice of (1, 64, 64) bytes, of an image drawn at each reset; action 1 says that it shows a tumour. The reward
    is 1 where that is right, else 0, and the episode is over.

    Training images are mirrored and moved by chance, which changes no diagnosis; those held out are shown as they are.
    The last step's ``info`` holds ``sensitivity`` where there is a tumour and ``specificity`` where there is none, 1 or
    0: their means over episodes are the rates of that name. Its ``cluster`` is the number of the image's cluster of
    near-duplicates, which say the same: `--cluster cluster` has the verdict count these.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1, "note": NOTE}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, split: Literal["train", "held-out"] = "train", render_mode: str | None = None) -> None:
        """Makes the environment.

        Args:
            split: which images.
            render_mode: None or ``rgb_array``.

        Raises:
            ValueError: there is no such split.
            ModuleNotFoundError: the images are not installed.
        """
        if split not in ("train", "held-out"):
            raise ValueError(f"'split' must be 'train' or 'held-out', got {split!r}.")
        self.split, self.render_mode = split, render_mode
        slices = load()
        mine = slices.held_out if split == "held-out" else ~slices.held_out
        self._places, self._slices = np.flatnonzero(mine), slices

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Draws an image."""
        super().reset(seed=seed)
        place = int(self._places[self.np_random.integers(len(self._places))])
        image = self._slices.images[place]
        if self.split == "train":
            image = disturbed(image, self.np_random)
        self._image, self._tumour = image[None], bool(self._slices.tumour[place])
        self._cluster = int(self._slices.cluster[place])
        return self._image.copy(), {"image": place}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Takes the answer."""
        right = float(bool(action) == self._tumour)
        return self._image.copy(), right, True, False, self._told(right)

    def _told(self, right: float) -> dict[str, Any]:
        """What the last ``info`` says of an answer."""
        return {"sensitivity" if self._tumour else "specificity": right, "cluster": self._cluster}

    def get_action_meanings(self) -> list[str]:
        """What the two answers are called."""
        return ["no tumour", "tumour"]

    def render(self) -> NDArray[np.uint8]:
        """The image, four times as large, in three equal colours."""
        return np.repeat(self._image[0].repeat(4, 0).repeat(4, 1)[..., None], 3, axis=2)


def disturbed(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image (H, W) mirrored by chance and moved by up to 4 pixels each way, its edge repeated behind it."""
    image = image[:, ::-1] if rng.random() < 0.5 else image
    down, right = rng.integers(2 * SHIFT + 1, size=2)
    height, width = image.shape
    return np.pad(image, SHIFT, mode="edge")[down : down + height, right : right + width]

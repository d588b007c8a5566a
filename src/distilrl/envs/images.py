"""What is done to images before a policy sees them: grey, another size, a stack of frames."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import EnvError
from distilrl.spaces import Edit, EnvRef, ObsSpec

Change = Callable[[NDArray[Any]], NDArray[Any]]
"""A function of an image (C, H, W)."""
LUMA = (0.2125, 0.7154, 0.0721)
"""Weights of red, green and blue in `gymnasium.wrappers.GrayscaleObservation`."""


def image_editor(ref: EnvRef) -> Edit | None:
    """What to do to one frame, as `Edit` of its spec; None for nothing."""
    if not ref.grey and ref.resize is None:
        return None

    def edit(spec: ObsSpec) -> tuple[ObsSpec, Change]:
        channels, height, width = spec.shape
        if ref.grey and channels != 3:
            raise EnvError(
                f"'{ref.label}' has an image with {channels} channels, and only one with 3 has colours to lose: "
                "leave out 'grey'."
            )
        size = ref.resize or (height, width)
        after = (1 if ref.grey else channels, *size)
        resize = area_resize((height, width), size) if size != (height, width) else None

        def frame(image: NDArray[Any]) -> NDArray[Any]:
            image = to_grey(image) if ref.grey else image
            return resize(image) if resize is not None else image

        return replace(spec, shape=after, image=after), frame

    return edit


def to_grey(image: NDArray[Any]) -> NDArray[Any]:
    """(3, H, W) to (1, H, W), to the bit as `gymnasium.wrappers.GrayscaleObservation`: bytes are cut, not rounded."""
    grey: NDArray[Any] = (image[0] * LUMA[0] + image[1] * LUMA[1] + image[2] * LUMA[2]).astype(image.dtype)[None]
    return grey


def area_resize(before: tuple[int, int], after: tuple[int, int]) -> Change:
    """Resizes (C, H, W) so that each new pixel is the mean of the area that it covers, as OpenCV's INTER_AREA.

    Args:
        before: (H, W) of the images given.
        after: (H, W) of those wanted.
    """
    rows, columns = (_areas(old, new) for old, new in zip(before, after, strict=True))
    across = np.ascontiguousarray(columns.T)

    def resize(image: NDArray[Any]) -> NDArray[Any]:
        mean = rows @ image.astype(np.float32) @ across
        return mean if image.dtype != np.uint8 else np.rint(mean).astype(np.uint8)

    return resize


def _areas(old: int, new: int) -> NDArray[np.float32]:
    """(new, old) share of each old pixel in each new one, along one side; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    cover = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    share: NDArray[np.float32] = (cover.clip(0) * (new / old)).astype(np.float32)
    return share


def stacked(spec: ObsSpec, frames: int) -> ObsSpec:
    """Spec of an observation whose image holds several frames, the newest last."""
    if frames == 1 or spec.image is None:
        return spec
    channels, height, width = spec.image
    image = (channels * frames, height, width)
    if spec.pixels:
        return replace(spec, shape=image, image=image, frames=frames)
    size = math.prod(spec.image)
    reach = (*spec.reach[: spec.vector], *spec.reach[spec.vector :] * frames)
    return replace(spec, shape=(spec.vector + size * frames,), image=image, frames=frames, reach=reach)


def push(row: NDArray[Any], new: NDArray[Any], vector: int, first: bool) -> None:
    """Puts an observation with a new frame into a row, in place.

    Args:
        row: the observation before, flat: the vector, then the frames, the newest last.
        new: the observation now, flat, with one frame.
        vector: numbers of the vector.
        first: an episode begins: the frames before it are zeros.
    """
    size = len(new) - vector
    row[:vector] = new[:vector]
    frames = row[vector:]
    frames[:-size] = 0 if first else frames[size:].copy()
    frames[-size:] = new[vector:]

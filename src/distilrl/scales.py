"""What inputs are multiplied by while a student learns, from the first states."""

import torch
from torch import Tensor

FURTHEST = 10.0
"""Standardised, no feature of the first states lies further from its mean than this: where VecNormalize clips."""
VARIES = 1e-6
"""What varies by no more, as a share of its mean or of 1, is rounding."""
MOST_BLOWN_UP = 100.0
"""A feature is scaled up at most so many times as much as the one of median deviation."""
MOST_COUNTED = 1e3
"""A move is scaled up until the observation that it is of would count so many: floats then hold a move to 1e-4."""
MEANT = 1e6
"""A space that allows this much or more, as one of 64-bit integers does, says nothing of what will come."""


def of_pixels(held: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (1,) over all pixels."""
    pixels = held.float()
    mean, std = pixels.mean().view(1), pixels.std().view(1)
    return mean, scale_of(mean, std)


def scale_of(mean: Tensor, std: Tensor, furthest: Tensor | None = None, reach: Tensor | None = None) -> Tensor:
    """What brings standard deviations to 1, except where few states cannot tell what a feature will do later.

    The statistics come from the first states, and the scale is folded into the first layer, so that it cannot be
    clipped as running statistics are: what is too large stays too large for good. Therefore

    - a feature that did not vary (by more than rounding) keeps its own unit, scale 1: a contact that was never made in
      the first states must not count thousands when it is; where its space lets it come further than `FURTHEST`, as a
      byte of memory, the end of its space lies there;
    - one that was at rest but for a few states is scaled so that the furthest of them lies at `FURTHEST`, where usual
      clips lie;
    - none is blown up more than `MOST_BLOWN_UP` times as much as the typical feature, unless its own unit does that.

    Args:
        mean: of each feature, (D,).
        std: standard deviations, (D,); of moves their root mean square.
        furthest: largest distance from the mean, or move, (D,); None where outliers do not count, as for pixels.
        reach: largest absolute value that the space allows, (D,) or (1,), infinite where it says nothing; None: it says
            nothing of any.
    """
    varies = std > VARIES * mean.abs().clamp_min(1.0)
    scale = 1 / std.clamp_min(torch.finfo(std.dtype).tiny)
    if furthest is not None:
        scale = torch.minimum(scale, FURTHEST / furthest.clamp_min(torch.finfo(std.dtype).tiny))
    if bool(varies.any()):
        scale = scale.clamp_max(max(MOST_BLOWN_UP / float(std[varies].median()), 1.0))
    own = torch.ones_like(scale)
    if reach is not None:
        own = torch.where(reach < MEANT, (FURTHEST / (reach + mean.abs())).clamp_max(1.0), own)
    return torch.where(varies, scale, own)

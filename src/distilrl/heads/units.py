"""Units in which a student of action values is trained: numbers of order 1, which an affine map takes to values."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distilrl import losses
from distilrl.devices import doubled

NORMAL = 1.349
"""Distance of the quartiles of a normal distribution in standard deviations."""
MASKED = 1e5
"""Times what lies between the best option of a state and the next: what lies further below is masked."""
ROUNDED = 1e-6
"""Differences of floats below this share of the largest value are of rounding."""


@dataclass(frozen=True, eq=False)
class Units:
    """``values = matrix · numbers + offset``: what a student of order 1 says, on its teacher's scale.

    Outputs that are standardised while a network learns, and an exact inverse in its last layer when it ships, are
    PopArt's (van Hasselt et al. 2016). Here the state's value, the mean over actions, and what the actions make of it
    have a unit each: where an action seldom matters, one unit for both would leave the choice to the last digits. A
    number added to all actions of a block and a positive multiple of their differences change no greedy action.

    Example::

        units = head.find_units(labels)
        units.values(units.numbers(labels))  # labels
    """

    matrix: Tensor
    """(P, P)."""
    offset: Tensor
    """(P,)."""

    def values(self, numbers: Tensor) -> Tensor:
        """Action values (..., P) of a student's numbers (..., P)."""
        return torch.nn.functional.linear(numbers, self.matrix, self.offset)

    def numbers(self, values: Tensor) -> Tensor:
        """Numbers (..., P) that stand for action values (..., P)."""
        return torch.nn.functional.linear(values - self.offset, self.inverse)

    @cached_property
    def inverse(self) -> Tensor:
        """(P, P) of ``matrix``."""
        inverse: Tensor = torch.linalg.inv(doubled(self.matrix)).to(self.matrix)
        return inverse


def units_of(blocks: Sequence[Tensor]) -> Units:
    """Units of action values: for each block the median of its state values, their standard deviation as the quartiles
    tell it, and the median of the root mean square by which actions differ in a state.

    Medians, because a few states far from those that matter have values far from all others: in CartPole, where the
    pole has fallen, the actions differ by three hundred times as much as where it is balanced.

    Args:
        blocks: action values (K, n) of each choice, in the same K states.
    """
    matrices, offsets = [], []
    for block in blocks:
        size = block.shape[1]
        values = unmasked(block)
        worth, differences = values.mean(1), losses.centre(values)
        least = ROUNDED * float(values.abs().max())
        middle, spread = _middle(worth, least)
        squares = differences.square().mean(1)
        gap = _unit(float(squares.sqrt().median()), float(squares.mean().sqrt()), least)
        mean = torch.full((size, size), 1 / size, dtype=torch.float64)
        matrices.append(gap * (torch.eye(size, dtype=torch.float64) - mean) + spread * mean)
        offsets.append(torch.full((size,), middle, dtype=torch.float64))
    device = blocks[0].device
    matrix: Tensor = torch.block_diag(*matrices)  # type: ignore[no-untyped-call]
    return Units(matrix.float().to(device), torch.cat(offsets).float().to(device))


def unmasked(values: Tensor) -> Tensor:
    """Numbers (K, n) of options in K states, in double precision, without what a mask of −1e8 makes of some: none lies
    further below the best of its state than a hundred thousand times what the next best usually does.

    Example::

        unmasked(torch.tensor([[1.0, 0.5, -1e8], [0.0, 0.5, -1e8]]))[0]  # [1.0, 0.5, -49999.0]
    """
    values = doubled(values)
    best = values.amax(1, keepdim=True)
    behind = best - values
    nearest = torch.where(behind > 0, behind, torch.inf).amin(1)
    nearest = nearest[nearest.isfinite()]
    return torch.maximum(values, best - MASKED * nearest.median()) if len(nearest) else values


def _middle(worth: Tensor, least: float) -> tuple[float, float]:
    """Median and spread of state values (K,)."""
    low, middle, high = torch.quantile(worth, worth.new_tensor([0.25, 0.5, 0.75])).tolist()
    return middle, _unit((high - low) / NORMAL, float(worth.std(correction=0)), least)


def _unit(usual: float, overall: float, least: float) -> float:
    """What is usual; where most states are alike, what is so overall; 1 where nothing differs by more than rounding."""
    return usual if usual > least else overall if overall > least else 1.0

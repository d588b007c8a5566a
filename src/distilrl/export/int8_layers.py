"""One layer in integers: its weights and how its sums become the next layer's numbers, and the same in NumPy."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import SpecError
from distilrl.export.c_kernels import channels_last
from distilrl.export.steps import Step

Ints = NDArray[np.int64]
BYTE = 255
"""Largest number between layers."""
BIAS_LIMIT = 2**24
"""A channel's scale is such that its bias stays below this, far from where sums would overflow."""


@dataclass(frozen=True)
class IntStep:
    """One layer in integers."""

    step: Step
    """The layer that it stands for."""
    weight: Ints
    """(out, run) in -127 to 127, the run with channels innermost."""
    bias: Ints
    """(out,) in units of the sums."""
    multiplier: Ints
    """(out,): sum · multiplier >> shift is the next layer's byte; of the head, a number proportional to the value; of a
    cell, its gates' numbers."""
    shift: int
    """Bits."""
    scale: NDArray[np.float64]
    """(out,): sum · scale is the real number."""


def sums(one: IntStep, x: Ints) -> Ints:
    """Sums (B, H, W, out) or (B, out); float64 holds them exactly."""
    exact: NDArray[np.float64] = runs(one.step, x).astype(np.float64) @ one.weight.T.astype(np.float64)
    return exact.astype(np.int64) + one.bias


def runs(step: Step, x: NDArray[Any]) -> NDArray[Any]:
    """What each output of a layer reads, (B, H, W, run) or (B, run), of inputs with channels innermost."""
    if step.weight.ndim != 4:
        return x.reshape(len(x), -1)
    kernel = step.weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[
        :, :: step.stride, :: step.stride
    ]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)


def sum_units(step: Step, scale_in: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Real numbers (out,) of one unit of a layer's sums; ``scale_in`` is as for `in_integers`."""
    largest = np.abs(channels_last(step).astype(np.float64) * scale_in).max(1) / 127
    units: NDArray[np.float64] = np.maximum(np.maximum(largest, np.abs(step.bias) / BIAS_LIMIT), 1e-12)
    return units


def in_integers(step: Step, scale_in: NDArray[np.float64] | float, unit: float, bits: int) -> IntStep:
    """A layer in integers.

    Args:
        step: the layer.
        scale_in: real number of one unit of what it reads; of a vector (D,) one for each.
        unit: that of what it gives.
        bits: of its multipliers.
    """
    units = sum_units(step, scale_in)
    real = channels_last(step).astype(np.float64) * scale_in  # an input's scale is part of the weights it meets
    weight = np.round(real / units[:, None]).astype(np.int64)
    bias = np.round(step.bias / units).astype(np.int64)
    ratio = units / unit
    shift = max(bits - 1 - math.floor(math.log2(float(ratio.max()))), 1)
    multiplier = np.minimum(np.round(ratio * 2.0**shift), 2**bits - 1).astype(np.int64)
    return IntStep(step, weight, bias, multiplier, shift, units)


def check_sums(one: IntStep, largest: int) -> None:
    """Makes sure that no input, of whose numbers none is larger than this, takes a sum out of 32 bits.

    Raises:
        SpecError: one does.
    """
    most = int((np.abs(one.weight).sum(1) * largest + np.abs(one.bias)).max())
    if most >= 2**31:
        raise SpecError(
            f"A layer of {one.weight.shape[1]:,} inputs cannot be written in integers, because its sums may reach "
            f"{most:,} and 32 bits hold less than {2**31:,}: export to c or onnx, or distil a smaller one."
        )


def scaled(one: IntStep, x: Ints) -> Ints:
    """Sums in the unit of what comes behind, before they are clipped."""
    result: Ints = (sums(one, x) * one.multiplier + (1 << (one.shift - 1))) >> one.shift
    return result

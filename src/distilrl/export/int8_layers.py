"""One layer in integers: its weights and how its sums become the next layer's numbers, and the same in NumPy."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import SpecError
from distilrl.export.c_kernels import channels_last
from distilrl.export.steps import Step
from distilrl.scales import FURTHEST, VARIES

Ints = NDArray[np.int64]
BYTE = 255
"""Largest number between layers."""
BIAS_LIMIT = 2**24
"""A channel's scale is such that its bias stays below this, far from where sums would overflow."""
SUM_LIMIT = 2**31
"""Sums stay below this."""
INPUT_LIMIT = 127
"""Floats are read as -127 to 127, one scale and one zero for each number of a vector or for all of an image."""


FINE = 8
"""Bits more in which the observations of a history are kept: how far a number moves in a step is a small part of it."""


@dataclass(frozen=True)
class Entry:
    """How floats become integers: round((x − zero) · gain), cut off at ``limit``."""

    gain: NDArray[np.float32]
    """(D,) for vectors, also those beside an image; (1,) for images."""
    zero: NDArray[np.float32]
    """As many: 0 but for numbers that lie far from it, such as temperatures in kelvins."""
    limit: int = INPUT_LIMIT
    """`INPUT_LIMIT`, or more of what is read finer; `BYTE` of bytes that come as floats."""

    @property
    def fine(self) -> "Entry":
        """With so many bits more."""
        return replace(self, gain=self.gain * np.float32(1 << FINE), limit=INPUT_LIMIT << FINE)

    def finer_for(self, weight: NDArray[np.float64], beside: NDArray[np.float64]) -> "Entry":
        """As fine as it must be for the weights of no number to be larger than those beside them usually are, with
        which they share their rows' scales: eight bits would not hold both.

        Args:
            weight: (out, D) of these numbers.
            beside: (out, F) of what is read beside them, in units of that.
        """
        usual, own = float(np.median(np.abs(beside).max(1))), np.abs(weight).max(0) / self.gain
        most = min(1 << FINE, SUM_LIMIT // (2 * INPUT_LIMIT * INPUT_LIMIT * len(own)))  # half of what a sum may be
        finer = np.clip(own / usual, 1.0, max(most, 1)) if usual else np.ones(len(own))
        limit = math.ceil(INPUT_LIMIT * finer.max())
        return replace(self, gain=(self.gain * finer).astype(np.float32), limit=limit)

    @classmethod
    def of(cls, obs: NDArray[Any]) -> "Entry | None":
        """That of observations (K, *obs_shape); None for images of bytes, which enter as they are.

        A number whose values lie far on one side of 0 is counted from their middle, with half their span to spare on
        either side, where that halves its unit at least. One that did not vary (by more than rounding) says nothing of
        its size, and keeps its own unit, as while the student learns (a contact that was never made may come): counted
        from where it is, if that is further than `FURTHEST` from 0, and else at least that.

        Example::

            Entry.of(np.array([[1.0, -10.0, 300.0], [-1.0, 10.0, 302.0]]))  # gains 127, 12.7, 63.5; zeros 0, 0, 301
        """
        if obs.dtype == np.uint8:
            return None
        numbers = obs if obs.ndim == 2 else obs.reshape(-1, 1)
        low, high = numbers.min(0).astype(np.float64), numbers.max(0).astype(np.float64)
        largest, span = np.maximum(np.abs(low), np.abs(high)), high - low
        middle = (low + high) / 2
        still = span <= VARIES * np.maximum(np.abs(middle), 1.0)
        far = np.where(still, largest > FURTHEST, span <= largest / 2)
        reach = np.where(far, np.where(still, 1.0, span), np.where(still, np.maximum(largest, 1.0), largest))
        middle = np.where(far, middle, 0.0)
        return cls((INPUT_LIMIT / reach).astype(np.float32), middle.astype(np.float32))

    @property
    def shifts(self) -> bool:
        """Whether any number has another zero than 0."""
        return bool(self.zero.any())

    def integers(self, x: NDArray[Any]) -> "Ints":
        """Observations, channels innermost, as they enter; by the very arithmetic of the C code."""
        rounded = np.floor((np.asarray(x, np.float32) - self.zero) * self.gain + np.float32(0.5))
        entered: Ints = np.clip(rounded, -self.limit, self.limit).astype(np.int64)
        return entered


def counted_from(first: Step, zero: NDArray[np.float32]) -> Step:
    """The same first layer, of observations from which ``zero`` was subtracted: (run,) or (1,), channels innermost."""
    moved = first.bias + (channels_last(first).astype(np.float64) * zero).sum(1)
    return replace(first, bias=moved.astype(np.float32))


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
    units = np.maximum(units, units.max() / 2 ** (bits - 8))  # beside a bias alone a multiplier would have no bits
    real = channels_last(step).astype(np.float64) * scale_in  # an input's scale is part of the weights it meets
    weight = np.round(real / units[:, None]).astype(np.int64)
    bias = np.round(step.bias / units).astype(np.int64)
    ratio = units / unit
    shift = max(bits - 1 - math.floor(math.log2(float(ratio.max()))), 1)
    multiplier = np.minimum(np.round(ratio * 2.0**shift), 2**bits - 1).astype(np.int64)
    return IntStep(step, weight, bias, multiplier, shift, units)


def check_sums(one: IntStep, largest: int | Ints) -> None:
    """Makes sure that no input, of whose numbers none is larger than this (or (run,) than its own), takes a sum out of
    32 bits.

    Raises:
        SpecError: one does.
    """
    most = int(((np.abs(one.weight) * largest).sum(1) + np.abs(one.bias)).max())
    if most >= SUM_LIMIT:
        raise SpecError(
            f"A layer of {one.weight.shape[1]:,} inputs cannot be written in integers, because its sums may reach "
            f"{most:,} and 32 bits hold less than {SUM_LIMIT:,}: export to c or onnx, or distil a smaller one."
        )


def scaled(one: IntStep, x: Ints) -> Ints:
    """Sums in the unit of what comes behind, before they are clipped."""
    result: Ints = (sums(one, x) * one.multiplier + (1 << (one.shift - 1))) >> one.shift
    return result

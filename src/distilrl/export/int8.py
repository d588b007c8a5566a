"""Eight-bit integers: per-channel weights, calibrated activations, and an exact model of the arithmetic in NumPy.

Post-training quantisation as in Jacob et al. 2018, with zero points for numbers of observations alone: pixels are bytes
0 to 255 as they come, activations after a ReLU are bytes 0 to 255 of a calibrated scale, weights are -127 to 127 with
one scale per output channel, sums are 32-bit integers. Between layers a sum becomes a byte by one multiplication with a
15-bit integer and a shift. Numbers beside an image enter in 16 bits, as fine as their weights ask for beside those of
the image's features. Choices are made among integers; real actions are a few floats at the end. What a student
remembers is of integers too (`distilrl.export.int8_memory`). The C code of it is `distilrl.export.int8_c`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distilrl.export.c_kernels import channels_last
from distilrl.export.int8_layers import (
    BYTE,
    Entry,
    Ints,
    IntStep,
    check_sums,
    counted_from,
    in_integers,
    runs,
    scaled,
    sum_units,
    sums,
)
from distilrl.export.int8_memory import (
    FEATURE_BITS,
    STATE_BITS,
    STATE_UNIT,
    IntCell,
    Moves,
    cell_in_integers,
    of_moves,
    past_as_moves,
    with_past,
)
from distilrl.export.steps import TOGETHER, CellStep, Step

PERCENTILES = (99.99, 99.9, 99.999, 100.0)
"""Where activations may be cut off; which is best differs from student to student."""
MOVES_PERCENTILES = (100.0, 98.0)
"""Where moves may be."""
BYTES = Entry(np.ones(1, np.float32), np.zeros(1, np.float32), BYTE)
"""How bytes enter that come as floats."""


@dataclass(frozen=True)
class Quantised:
    """A student in integers."""

    steps: list[IntStep | IntCell]
    """Its layers."""
    entry: Entry | None
    """How observations become integers; None for images of bytes. Where numbers lie beside an image, how that does."""
    activation_scales: list[float]
    """Real number of one unit of each activation; of a cell's layer, of what it gives."""
    moves: Moves | None = None
    """How it reads a history; None where it has none."""
    vector: Entry | None = None
    """How the numbers beside an image become integers; None where there are none."""

    @property
    def head(self) -> IntStep:
        """Its last layer."""
        return cast("IntStep", self.steps[-1])

    def values(self, obs: NDArray[Any], begins: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Numbers (B, P) of raw observations (B, *obs_shape), by the very arithmetic of the C code.

        Args:
            obs: of a student with memory, in the order in which they are seen.
            begins: (B,) where an episode begins; by default with the first alone.
        """
        begins = np.arange(len(obs)) == 0 if begins is None else begins
        x = self._enter(obs)
        if self.moves is not None:
            x = self.moves.read(with_past(x, begins, self.moves.history))
        for one in self.steps[:-1]:
            x = self._behind(x, one.step, obs)
            x = (
                one.outputs(x.reshape(len(x), -1), begins)
                if isinstance(one, IntCell)
                else np.clip(scaled(one, x), 0, BYTE)
            )
        last: NDArray[np.float32] = (
            sums(self.head, self._behind(x, self.head.step, obs)).reshape(len(obs), -1).astype(np.float32)
        )
        return last * self.head.scale.astype(np.float32)

    def _behind(self, x: Ints, step: Step | CellStep, obs: NDArray[Any]) -> Ints:
        """What a layer reads: what the one before it gave, and behind that its numbers from beside an image."""
        if self.vector is None or not step.vector:
            return x
        return np.concatenate([x.reshape(len(x), -1), self.vector.integers(obs[:, list(step.vector)])], axis=1)

    def _enter(self, obs: NDArray[Any]) -> Ints:
        """Integers with channels innermost."""
        x = _seen_first(self.steps[0].step, obs)
        return self.entry.integers(x) if self.entry is not None else x.astype(np.int64)


def _seen_first(first: Step | CellStep, obs: NDArray[Any]) -> NDArray[Any]:
    """What the first layer reads of observations (B, *obs_shape), channels innermost: beside a vector the image."""
    image = first.in_shape
    if len(image) < 3:
        return obs
    pictures = obs.reshape(len(obs), -1)[:, -math.prod(image) :].reshape(-1, *image)
    return pictures.transpose(0, 2, 3, 1)


def quantise(
    steps: Sequence[Step | CellStep], calibration: NDArray[Any], begins: NDArray[np.bool_] | None = None,
    *, percentile: float = 99.99, moves_percentile: float = 100.0, image_bytes: bool = False,
) -> Quantised:  # fmt: skip
    """Chooses scales from what the network sees.

    Args:
        steps: the student.
        calibration: (K, *obs_shape) raw observations of its own play; of a student with memory in their order.
        begins: (K,) where its episodes begin; by default with the first observation alone.
        percentile: activations above this are cut off, a trade of range against resolution.
        moves_percentile: so are moves of a history.
        image_bytes: whether an image beside a vector is of bytes, which come as floats there.

    Raises:
        SpecError: a cell is too large, or a layer's sums are.
    """
    pictures = len(steps[0].in_shape) == 3
    x: Any = _seen_first(steps[0], calibration)
    entry = BYTES if image_bytes else Entry.of(x)
    begins = np.arange(len(calibration)) == 0 if begins is None else begins
    history = 1 if pictures else steps[0].in_shape[0] // calibration.shape[1]
    x, vector = x if entry is None else x.astype(np.float64), None
    scale_in: Any = 1.0
    largest: int | Ints = BYTE
    if entry is not None:
        x, scale_in, largest = x - entry.zero, 1.0 / entry.gain.astype(np.float64), entry.limit
        zero = np.tile(entry.zero, history)
        steps = [_reading(steps[0], lambda first: counted_from(first, zero)), *steps[1:]]
    moves = None
    if entry is not None and history > 1:
        entry = entry.fine
        moves = Moves.of(with_past(entry.integers(calibration), begins, history), history, moves_percentile)
        x = past_as_moves(with_past(x, begins, history), history)
        scale_in = moves.units(1.0 / entry.gain.astype(np.float64))
        steps = [_reading(steps[0], lambda first: of_moves(first, history)), *steps[1:]]
    result: list[IntStep | IntCell] = []
    scales: list[float] = []
    for step in steps:
        if step.vector:
            vector = _beside(step.inputs if isinstance(step, CellStep) else step, calibration, scale_in)
            step, count = _reading(step, partial(_counted_beside, vector=vector)), math.prod(step.in_shape)
            numbers = calibration[:, list(step.vector)] - vector.zero.astype(np.float64)
            x = np.concatenate([x.reshape(len(x), -1), numbers], axis=1)
            scale_in = np.concatenate([np.full(count, scale_in), 1.0 / vector.gain.astype(np.float64)])
            largest = np.repeat([largest, vector.limit], [count, len(vector.gain)])
        if isinstance(step, CellStep):
            cell, unit = cell_in_integers(step, scale_in, largest), STATE_UNIT
            result.append(cell)
            scale_out = np.array([unit] * step.size + [scale_in / (1 << FEATURE_BITS)] * step.beside)
            x = cell.outputs(np.round(x.reshape(len(x), -1) / scale_in).astype(np.int64), begins) * scale_out
            scale_in = scale_out
        else:
            x = _real(step, x)
            unit = float(sum_units(step, scale_in).max())
            if step.activation:  # of a layer that was never active, a part of it
                unit = max(float(np.percentile(x, percentile)) / BYTE, unit / 128)
            # the head's multipliers decide between close values
            result.append(one := in_integers(step, scale_in, unit, 15 if step.activation else 21))
            check_sums(one, largest)
            scale_in = unit
        largest = 1 << STATE_BITS if isinstance(step, CellStep) else BYTE
        scales.append(unit)
    return Quantised(result, entry, scales, moves, vector)


def _beside(step: Step, calibration: NDArray[Any], scale_in: float) -> Entry:
    """How the numbers beside an image enter that a layer reads behind features in units of ``scale_in``."""
    weight, count = channels_last(step).astype(np.float64), math.prod(step.in_shape)
    plain = cast("Entry", Entry.of(calibration[:, list(step.vector)]))
    return plain.finer_for(weight[:, count:], weight[:, :count] * scale_in)


def _counted_beside(step: Step, vector: Entry) -> Step:
    """A layer of features and numbers beside them from which their zeros were subtracted."""
    return counted_from(step, np.concatenate([np.zeros(math.prod(step.in_shape), np.float32), vector.zero]))


def _reading(step: Step | CellStep, change: Callable[[Step], Step]) -> Step | CellStep:
    """A layer that reads observations otherwise; what goes past a cell is never one."""
    return replace(step, inputs=change(step.inputs)) if isinstance(step, CellStep) else change(step)


def _real(step: Step, x: NDArray[Any]) -> NDArray[np.float64]:
    """The layer in floats, channels innermost; of images a few at a time, since what each output reads is copied."""
    weight = channels_last(step).astype(np.float64).T
    parts = [x] if step.weight.ndim != 4 else np.array_split(x, -(-len(x) // TOGETHER))
    result: NDArray[np.float64] = np.concatenate([runs(step, part.astype(np.float64)) @ weight for part in parts])
    result += step.bias
    return np.maximum(result, 0.0) if step.activation else result

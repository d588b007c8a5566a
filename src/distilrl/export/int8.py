"""Eight-bit integers: per-channel weights, calibrated activations, and an exact model of the arithmetic in NumPy.

Post-training quantisation as in Jacob et al. 2018, with zero points for numbers of observations alone: pixels are bytes
0 to 255 as they come, activations after a ReLU are bytes 0 to 255 of a calibrated scale, weights are -127 to 127 with
one scale per output channel, sums are 32-bit integers. Between layers a sum becomes a byte by one multiplication with a
15-bit integer and a shift. Numbers beside an image enter in 16 bits, as fine as their weights ask for beside those of
the image's features. Choices are made among integers; real actions are a few floats at the end. What a student
remembers is of integers too (`distilrl.export.int8_memory`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distilrl.export.c import Source, beside_memory, declared, scratch_buffers, source, vector_behind
from distilrl.export.c_kernels import channels_last, geometry
from distilrl.export.c_maths import maths
from distilrl.export.c_memory import INTEGERS, Memory
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
    CELLS,
    COARSE,
    FEATURE_BITS,
    REMEMBER,
    STATE_BITS,
    STATE_UNIT,
    TABLE,
    IntCell,
    Moves,
    cell_code,
    cell_in_integers,
    of_moves,
    past_as_moves,
    with_past,
)
from distilrl.export.last import Last, last_step, literals
from distilrl.export.steps import CellStep, Step, dense
from distilrl.heads import Categorical, Head
from distilrl.spaces import ObsSpec

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
    x, vector = x.astype(np.float64), None
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


def _real(step: Step, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The layer in floats, channels innermost."""
    result: NDArray[np.float64] = runs(step, x) @ channels_last(step).astype(np.float64).T + step.bias
    return np.maximum(result, 0.0) if step.activation else result


def write(student: Quantised, head: Head, obs: ObsSpec, comment: str) -> Source:
    """C99 in integers; floats occur where floats enter, in ``policy_values``, and in the last step of real actions.

    Args:
        student: in integers.
        head: what its numbers mean.
        obs: what it reads.
        comment: the first line of both files.

    Example::

        written = write(quantise(steps(network, "int8"), seen), head, info.obs, "my policy")
    """
    steps, last = student.steps, last_step(head)
    memory = Memory.of([one.step for one in steps], obs, INTEGERS)
    final = len(steps) - 1
    parts = [f'/* {comment} */\n#include "policy.h"\n', maths(last.uses)]
    weight_bytes = 0
    for name, one in dense(steps, IntCell):
        parts += [_array("int8_t", f"w{name}", one.weight), _array("int32_t", f"b{name}", one.bias)]
        weight_bytes += one.weight.size + 4 * len(one.bias)
        if one is not student.head or last.element == "int32_t":  # real actions have nothing to compare
            width = 4 if one is student.head else 2
            parts.append(_array(f"int{8 * width}_t", f"m{name}", one.multiplier))
            weight_bytes += width * len(one.bias)
    parts.append(_floats("scale", student.head.scale))
    weight_bytes += 4 * len(student.head.scale)
    for entry, beside in ((student.entry, ""), (student.vector, BESIDE)):
        if entry is not None:
            arrays = {"gain": entry.gain} | ({"zero": entry.zero} if entry.shifts else {})
            parts += [_floats(f"{name}{beside}", values) for name, values in arrays.items()]
            weight_bytes += sum(4 * len(values) for values in arrays.values())
            parts.append(ENTER.replace("@beside", beside).replace("@limit", str(entry.limit)))
    if student.moves is not None:
        parts += [_array("int8_t", "moves", student.moves.bits), COARSE]
        weight_bytes += len(student.moves.bits)
    buffers, pictures = scratch_buffers([one.step for one in steps], "int16_t"), obs.image is not None
    parts.append(f"{buffers.text if pictures else ''}{SUMS}")
    rounded = {one.shift in UPPER_HALF for one in steps[:-1] if isinstance(one, IntStep)}
    parts += [text for text, kind in ((TO_BYTE, True), (SHIFTED, False)) if kind in rounded]
    cell = next((one for one in steps if isinstance(one, IntCell)), None)
    if cell is not None:
        parts += [CELLS, REMEMBER[cell.step.kind].replace("@size", str(cell.step.size))]
        weight_bytes += 2 * len(TABLE)
    enter = _enter(student.entry, "obs[i]", "i")
    inside = "" if pictures else buffers.text + _entered(obs.shape[0], memory, student.moves, enter)
    calls = _calls(student, "ring" if pictures else "past" if student.moves is not None else "entered", obs)
    parts.append(memory.reset() if memory is not None else "")
    parts.append(f"\nstatic void run({declared(obs, memory)}, int32_t *head) {{\n{inside}{calls}}}\n")
    parts.append(_act(obs, last, head.width, final, memory))
    scratch = 2 * buffers.count if pictures else 0
    # choices ship without what they have in common, as `distilrl.export.steps.without_offset` says
    told = "action values as differences from their mean" if isinstance(head, Categorical) else ""
    return source(obs, last, comment, "".join(parts), scratch, weight_bytes, head.width, memory, numbers=told)


def _act(obs: ObsSpec, last: Last, width: int, final: int, memory: Memory | None) -> str:
    """``policy_values`` and ``policy_act``: choices compare integers."""
    given = "state, obs" if memory is not None else "obs"
    start = f"    int32_t head[{width}];\n    run({given}, head);\n"
    weighed = f"(int64_t)head[{{}}] * m{final}[{{}}]"
    above = f"{weighed.format('{0}', '{0}')} > {weighed.format('{1}', '{1}')}"
    body = last.c_body("((float)head[{0}] * scale[{0}])", above=above)
    return (
        f"\nvoid policy_values({declared(obs, memory)}, float values[{width}]) {{\n{start}"
        f"    for (int a = 0; a < {width}; a++) values[a] = (float)head[a] * scale[a];\n}}\n"
        f"\n{last.prototype(declared(obs, memory))} {{\n{start}{body}}}\n"
    )


SUMS = """
#if defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define VECTORS 1
#else
#define VECTORS 0
/* Four outputs at once, in a function of its own, so that the loop has all registers. */
#ifdef __GNUC__
__attribute__((noinline))
#endif
static void dots(const int16_t *x, const int8_t *w, int apart, int run, int32_t *sums) {
    const int8_t *second = w + apart, *third = second + apart, *fourth = third + apart;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int i = 0; i < run; i++) {
        const int32_t v = x[i];
        s0 += v * w[i];
        s1 += v * second[i];
        s2 += v * third[i];
        s3 += v * fourth[i];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#endif

static inline int32_t dot(const int16_t *x, const int8_t *w, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += (int32_t)x[i] * w[i]; /* an int may have 16 bits */
    return sum;
}

/* All outputs of one pixel. Compilers with vectors do one output after the other. */
static void layer(const int16_t *const *rows, int height, int run, const int8_t *w, const int32_t *b, int outputs,
                  int32_t *sums) {
    for (int k = 0; k < outputs; k++) sums[k] = b[k];
    int k = 0;
#if !VECTORS
    const int apart = height * run;
    for (; k + 4 <= outputs; k += 4, w += 4 * apart)
        for (int r = 0; r < height; r++) dots(rows[r], w + r * run, apart, run, sums + k);
#endif
    for (; k < outputs; k++)
        for (int r = 0; r < height; r++, w += run) sums[k] += dot(rows[r], w, run);
}
"""
TO_BYTE = """
static inline int16_t to_byte(int32_t sum, int32_t multiplier) { /* the upper half of the product, rounded */
    int32_t scaled = (int32_t)(((int64_t)sum * multiplier + (int64_t)0x80000000u) >> 32);
    return (int16_t)(scaled < 0 ? 0 : scaled > 255 ? 255 : scaled);
}
"""
SHIFTED = """
static inline int16_t shifted(int32_t sum, int32_t multiplier, int shift) {
    int64_t scaled = ((int64_t)sum * multiplier + ((int64_t)1 << (shift - 1)));
    scaled = scaled < 0 ? 0 : scaled >> shift;
    return (int16_t)(scaled > 255 ? 255 : scaled);
}
"""
UPPER_HALF = range(17, 33)
"""Shifts of which `TO_BYTE` does the same as `SHIFTED` with a multiplier of 31 bits, in fewer instructions."""


BESIDE = "_beside"
"""Behind the names of what makes integers of the numbers beside an image."""
ENTER = """
static int16_t enter@beside(float x, float by) {
    float scaled = x * by + 0.5f;
    if (!(scaled > -@limit.0f)) return -@limit;
    if (scaled >= @limit.0f) return @limit;
    int32_t n = (int32_t)scaled;
    return (int16_t)((float)n > scaled ? n - 1 : n);
}
"""


def _enter(entry: Entry | None, read: str, index: str, beside: str = "") -> str:
    """The expression of one number of an observation as an integer."""
    if entry is None:
        return read
    moved = f"{read} - zero{beside}[{index}]" if entry.shifts else read
    return f"enter{beside}({moved}, gain{beside}[{index}])"


def _entered(size: int, memory: Memory | None, moves: Moves | None, enter: str) -> str:
    """Statements that make integers of a vector, put it behind those before it, and read them all."""
    text = f"    int16_t entered[{size}];\n    for (int i = 0; i < {size}; i++) entered[i] = {enter};\n"
    return text if memory is None or moves is None else text + memory.seen("entered") + moves.c()


def _calls(student: Quantised, read: str, obs: ObsSpec) -> str:
    """The calls of all layers, each of which reads what the one before it wrote; ``read`` is what the first reads."""
    text, steps = "", student.steps
    for index, one in enumerate(steps):
        text += vector_behind(one.step, read, _enter(student.vector, "obs[{}]", "i", BESIDE))
        if isinstance(one, IntCell):
            code = cell_code(str(index), one, read)
            more, read = beside_memory(one.step, read, f"buffer{index % 2}", f" * {1 << FEATURE_BITS}")
            text += code + more
        else:
            text += _layer(index, one, read, student.entry, obs.vector, last=index == len(steps) - 1)
            read = f"buffer{index % 2}"
    return text


def _layer(index: int, one: IntStep, source: str, entry: Entry | None, pixels: int, *, last: bool) -> str:
    """The call of one layer; ``entry`` is how an image of floats becomes integers, and ``pixels`` where in an
    observation it begins.
    """
    step = one.step
    rows, _, _ = geometry(step)
    out = f"buffer{index % 2}"
    if step.weight.ndim != 4:
        told = f"const int16_t *rows[1] = {{{source}}};"
        return f"    {{\n        {told}\n{_pixel(index, one, out, ' ' * 8, last=last)}    }}\n"
    channels, height, width = step.in_shape
    _, out_height, out_width = step.out_shape
    fill, row = "", f"{source} + (y * {step.stride} + r) * {width * channels} + x * {step.stride * channels}"
    if index == 0:
        row = f"ring[(y * {step.stride} + r) % {rows}] + x * {step.stride * channels}"
        at = f"{pixels} + " if pixels else ""
        read = _enter(entry, f"obs[{at}(c * {height} + filled) * {width} + x]", "0")
        fill = (
            f"        for (; filled < y * {step.stride} + {rows}; filled++)\n"
            f"            for (int c = 0; c < {channels}; c++)\n"
            f"                for (int x = 0; x < {width}; x++)\n"
            f"                    ring[filled % {rows}][x * {channels} + c] = {read};\n"
        )
    start = "    int filled = 0;\n" if index == 0 else ""
    pixel = _pixel(index, one, f"({out} + (y * {out_width} + x) * {len(step.bias)})", " " * 12, last=last)
    return (
        f"{start}    for (int y = 0; y < {out_height}; y++) {{\n{fill}"
        f"        for (int x = 0; x < {out_width}; x++) {{\n            const int16_t *rows[{rows}];\n"
        f"            for (int r = 0; r < {rows}; r++) rows[r] = {row};\n{pixel}        }}\n    }}\n"
    )


def _pixel(index: int, one: IntStep, out: str, pad: str, *, last: bool) -> str:
    """All outputs of one pixel of a layer."""
    rows, run, _ = geometry(one.step)
    outputs = len(one.bias)
    call = f"{pad}layer(rows, {rows}, {run}, w{index}, b{index}, {outputs}, {'head' if last else 'sums'});\n"
    if last:
        return call
    byte = f"shifted(sums[k], m{index}[k], {one.shift})"
    if one.shift in UPPER_HALF:
        byte = f"to_byte(sums[k], (int32_t)m{index}[k] * {1 << (32 - one.shift)})"
    return f"{pad}int32_t sums[{outputs}];\n{call}{pad}for (int k = 0; k < {outputs}; k++) {out}[k] = {byte};\n"


def _array(kind: str, name: str, values: Ints) -> str:
    return f"static const {kind} {name}[{values.size}] = {{{','.join(map(str, values.reshape(-1).tolist()))}}};\n"


def _floats(name: str, values: NDArray[Any]) -> str:
    return f"static const float {name}[{len(values)}] = {{{literals(values.astype(np.float32))}}};\n"

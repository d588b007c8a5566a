"""Eight-bit integers: per-channel weights, calibrated activations, and an exact model of the arithmetic in NumPy.

Post-training quantisation as in Jacob et al. 2018, without zero points: pixels are bytes 0 to 255 as they come,
activations after a ReLU are bytes 0 to 255 of a calibrated scale, weights are -127 to 127 with one scale per output
channel, sums are 32-bit integers. Between layers a sum becomes a byte by one multiplication with a 15-bit integer and a
shift. Choices are made among integers; real actions are a few floats at the end.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import SpecError
from distilrl.export.c import Source, declared, scratch_buffers, source
from distilrl.export.c_kernels import channels_last, geometry
from distilrl.export.c_maths import maths
from distilrl.export.last import Last, last_step, literals
from distilrl.export.steps import Step
from distilrl.heads import Head
from distilrl.spaces import ObsSpec

Ints = NDArray[np.int64]
INPUT_LIMIT = 127
"""Floats are quantised to -127 to 127, one scale for each number of a vector or for all of an image."""
BIAS_LIMIT = 2**24
"""A channel's scale is such that its bias stays below this, far from where sums would overflow."""

PERCENTILES = (99.99, 99.9, 99.999, 100.0)
"""Where activations may be cut off; which is best differs from student to student."""


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
    """(out,): sum · multiplier >> shift is the next layer's byte; of the head, a number proportional to the value."""
    shift: int
    """Bits."""
    scale: NDArray[np.float64]
    """(out,): sum · scale is the real number."""


@dataclass(frozen=True)
class Quantised:
    """A student in integers."""

    steps: list[IntStep]
    """Its layers."""
    input_scale: NDArray[np.float32] | None
    """(D,) for vectors, (1,) for images of floats: they are multiplied by it and rounded; None for images of bytes."""
    activation_scales: list[float]
    """Real number of one unit of each activation."""

    def values(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers (B, P) of raw observations (B, *obs_shape), by the very arithmetic of the C code."""
        x = self._enter(obs)
        for one in self.steps[:-1]:
            sums = _sums(one, x)
            x = np.clip((sums * one.multiplier + (1 << (one.shift - 1))) >> one.shift, 0, 255)
        head = self.steps[-1]
        values: NDArray[np.float32] = _sums(head, x).reshape(len(obs), -1).astype(np.float32) * head.scale.astype(
            np.float32
        )
        return values

    def _enter(self, obs: NDArray[Any]) -> Ints:
        """Integers with channels innermost."""
        x = obs.transpose(0, 2, 3, 1) if obs.ndim == 4 else obs
        if self.input_scale is None:
            return x.astype(np.int64)
        rounded = np.floor(np.asarray(x, np.float32) * self.input_scale + np.float32(0.5))
        entered: Ints = np.clip(rounded, -INPUT_LIMIT, INPUT_LIMIT).astype(np.int64)
        return entered


def _sums(one: IntStep, x: Ints) -> Ints:
    """Sums (B, H, W, out) or (B, out); float64 holds them exactly."""
    exact: NDArray[np.float64] = _runs(one.step, x).astype(np.float64) @ one.weight.T.astype(np.float64)
    return exact.astype(np.int64) + one.bias


def _runs(step: Step, x: NDArray[Any]) -> NDArray[Any]:
    """What each output of a layer reads, (B, H, W, run) or (B, run), of inputs with channels innermost."""
    if step.weight.ndim != 4:
        return x.reshape(len(x), -1)
    kernel = step.weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[
        :, :: step.stride, :: step.stride
    ]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)


def quantise(steps: list[Step], calibration: NDArray[Any], *, percentile: float = 99.99) -> Quantised:
    """Chooses scales from what the network sees.

    Args:
        steps: the student.
        calibration: (K, *obs_shape) raw observations of its own play.
        percentile: activations above this are cut off, a trade of range against resolution.

    Raises:
        SpecError: an activation is not ReLU.
    """
    if any(s.activation not in ("relu", None) for s in steps):
        raise SpecError(
            "Only ReLU students can be written in integers: distil one with @relu in its spec, such as mlp:64,64@relu, "
            "or export to c or onnx."
        )
    input_scale = input_gain(calibration)
    x: NDArray[np.float64] = calibration.astype(np.float64)
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    scale_in: NDArray[np.float64] | float = 1.0 if input_scale is None else 1.0 / input_scale.astype(np.float64)
    result: list[IntStep] = []
    scales: list[float] = []
    for step in steps:
        real = channels_last(step).astype(np.float64) * scale_in  # an input's scale is part of the weights it meets
        per_channel = np.maximum(np.maximum(np.abs(real).max(1) / 127, np.abs(step.bias) / BIAS_LIMIT), 1e-12)
        weight = np.round(real / per_channel[:, None]).astype(np.int64)
        bias = np.round(step.bias / per_channel).astype(np.int64)
        x = _real(step, x)
        unit = float(np.percentile(x, percentile)) / 255 if step.activation else float(per_channel.max())
        unit = max(unit, float(per_channel.max()) / 128)  # of a layer that was never active
        ratio = per_channel / unit
        bits = 15 if step.activation else 21  # the head's decide between close values
        shift = bits - 1 - math.floor(math.log2(float(ratio.max())))
        multiplier = np.minimum(np.round(ratio * 2.0**shift), 2**bits - 1).astype(np.int64)
        result.append(IntStep(step, weight, bias, multiplier, shift, per_channel))
        scales.append(unit)
        scale_in = unit
    return Quantised(result, input_scale, scales)


def input_gain(obs: NDArray[Any]) -> NDArray[np.float32] | None:
    """What observations (K, *obs_shape) are multiplied by before they are rounded.

    (D,) for vectors, (1,) for images of floats, None for images of bytes.

    Example::

        input_gain(np.array([[1.0, -10.0]]))  # [127, 12.7]
    """
    if obs.dtype == np.uint8:
        return None
    largest = np.abs(obs).max(0) if obs.ndim == 2 else np.abs(obs).max().reshape(1)
    gain: NDArray[np.float32] = (INPUT_LIMIT / np.maximum(largest, 1e-6)).astype(np.float32)
    return gain


def _real(step: Step, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The layer in floats, channels innermost."""
    result: NDArray[np.float64] = _runs(step, x) @ channels_last(step).astype(np.float64).T + step.bias
    return np.maximum(result, 0.0) if step.activation else result


def write(student: Quantised, head: Head, obs: ObsSpec, comment: str) -> Source:
    """C99 in integers; floats occur where floats enter, in ``policy_values``, and in the last step of real actions.

    Args:
        student: in integers.
        head: what its numbers mean.
        obs: what it reads.
        comment: the first line of both files.

    Example::

        written = write(quantise(steps(network, "integers"), seen), head, info.obs, "my policy")
    """
    steps, last = student.steps, last_step(head)
    final = len(steps) - 1
    parts = [f'/* {comment} */\n#include "policy.h"\n', maths(last.uses)]
    weight_bytes = 0
    for index, one in enumerate(steps):
        parts += [_array("int8_t", f"w{index}", one.weight), _array("int32_t", f"b{index}", one.bias)]
        weight_bytes += one.weight.size + 4 * len(one.bias)
        if index < final or last.element == "int32_t":  # real actions have nothing to compare
            width = 4 if index == final else 2
            parts.append(_array(f"int{8 * width}_t", f"m{index}", one.multiplier))
            weight_bytes += width * len(one.bias)
    parts.append(_floats("scale", steps[-1].scale))
    if student.input_scale is not None:
        parts.append(_floats("gain", student.input_scale) + ENTER)
    buffers = scratch_buffers([one.step for one in steps], "int16_t")
    parts.append(f"{buffers.text if obs.pixels else ''}{SUMS}")
    rounded = {one.shift in UPPER_HALF for one in steps[:-1]}
    parts += [text for text, kind in ((TO_BYTE, True), (SHIFTED, False)) if kind in rounded]
    inside = "" if obs.pixels else buffers.text + _entered(obs.shape[0])
    gain = "gain[0]" if student.input_scale is not None else None
    calls = "".join(_layer(i, one, obs.pixels, gain, last=i == final) for i, one in enumerate(steps))
    parts.append(f"\nstatic void run({declared(obs)}, int32_t *head) {{\n{inside}{calls}}}\n")
    parts.append(_act(obs, last, head.width, final))
    scratch = 2 * buffers.count if obs.pixels else 0
    return source(obs, last, comment, "".join(parts), scratch, weight_bytes, head.width)


def _act(obs: ObsSpec, last: Last, width: int, final: int) -> str:
    """``policy_values`` and ``policy_act``: choices compare integers."""
    start = f"    int32_t head[{width}];\n    run(obs, head);\n"
    weighed = f"(int64_t)head[{{}}] * m{final}[{{}}]"
    above = f"{weighed.format('{0}', '{0}')} > {weighed.format('{1}', '{1}')}"
    body = last.c_body("((float)head[{0}] * scale[{0}])", above=above)
    return (
        f"\nvoid policy_values({declared(obs)}, float values[{width}]) {{\n{start}"
        f"    for (int a = 0; a < {width}; a++) values[a] = (float)head[a] * scale[a];\n}}\n"
        f"\n{last.prototype(declared(obs))} {{\n{start}{body}}}\n"
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
    for (int i = 0; i < n; i++) sum += x[i] * w[i];
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


ENTER = f"""
static int16_t enter(float x, float by) {{
    float scaled = x * by + 0.5f;
    if (!(scaled > -{INPUT_LIMIT}.0f)) return -{INPUT_LIMIT};
    if (scaled >= {INPUT_LIMIT}.0f) return {INPUT_LIMIT};
    int32_t n = (int32_t)scaled;
    return (int16_t)((float)n > scaled ? n - 1 : n);
}}
"""


def _entered(size: int) -> str:
    return f"    int16_t entered[{size}];\n    for (int i = 0; i < {size}; i++) entered[i] = enter(obs[i], gain[i]);\n"


def _layer(index: int, one: IntStep, pixels: bool, gain: str | None, *, last: bool) -> str:
    """The call of one layer; ``gain`` is what an image of floats is multiplied by."""
    step = one.step
    rows, _, _ = geometry(step)
    out = f"buffer{index % 2}"
    source = ("ring" if pixels else "entered") if index == 0 else f"buffer{(index - 1) % 2}"
    if step.weight.ndim != 4:
        told = f"const int16_t *rows[1] = {{{source}}};"
        return f"    {{\n        {told}\n{_pixel(index, one, out, ' ' * 8, last=last)}    }}\n"
    channels, height, width = step.in_shape
    _, out_height, out_width = step.out_shape
    fill, row = "", f"{source} + (y * {step.stride} + r) * {width * channels} + x * {step.stride * channels}"
    if index == 0:
        row = f"ring[(y * {step.stride} + r) % {rows}] + x * {step.stride * channels}"
        read = f"obs[(c * {height} + filled) * {width} + x]"
        read = f"enter({read}, {gain})" if gain else read
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
        byte = f"to_byte(sums[k], m{index}[k] * {1 << (32 - one.shift)})"
    return f"{pad}int32_t sums[{outputs}];\n{call}{pad}for (int k = 0; k < {outputs}; k++) {out}[k] = {byte};\n"


def _array(kind: str, name: str, values: Ints) -> str:
    return f"static const {kind} {name}[{values.size}] = {{{','.join(map(str, values.reshape(-1).tolist()))}}};\n"


def _floats(name: str, values: NDArray[Any]) -> str:
    return f"static const float {name}[{len(values)}] = {{{literals(values.astype(np.float32))}}};\n"

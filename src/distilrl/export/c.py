"""C99: one self-contained file and a header, no allocation, weights in constant memory.

Layout: activations are stored with channels innermost, so that what a convolution reads of one row of its input is one run of
numbers. Its kernel multiplies each number of the run with the weights of a group of output channels, which lie side by side, for several
pixels at once; with GCC and Clang the groups are vectors (the compilers' own extension, no intrinsics), elsewhere plain loops. The
input of the first convolution is turned into floats row by row, in a ring that holds as many rows as its kernel is high.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilrl.export.steps import Step

ACTIVATIONS = {
    "relu": "static float act_relu(float x) { return x > 0.0f ? x : 0.0f; }",
    "tanh": "static float act_tanh(float x) { return tanhf(x); }",
    "elu": "static float act_elu(float x) { return x > 0.0f ? x : expm1f(x); }",
}
VECTORS = """#if defined(__AVX__)
#define LANES 8
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
#elif defined(__SSE__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define LANES 4
typedef float vec __attribute__((vector_size(16), aligned(4), may_alias));
#else
#define LANES 1
#endif
"""


@dataclass(frozen=True)
class Source:
    """What is written."""

    header: str
    """policy.h."""
    code: str
    """policy.c."""
    scratch_bytes: int
    """Static memory that it writes to."""
    weight_bytes: int
    """Constant memory."""


def header(obs_size: int, n_actions: int, pixels: bool, comment: str, scratch: int, weights: int) -> str:
    """policy.h of any C export."""
    kind, told = ("uint8_t", "raw bytes, frames (4, 84, 84), the newest last") if pixels else ("float", "raw numbers")
    return f"""/* {comment} */
#ifndef POLICY_H
#define POLICY_H
#include <stdint.h>

#define POLICY_OBS_SIZE {obs_size}
#define POLICY_ACTIONS {n_actions}
#define POLICY_SCRATCH_BYTES {scratch}
#define POLICY_WEIGHT_BYTES {weights}

typedef {kind} obs_t;

/* Action values of one observation ({told}). */
void policy_values(const obs_t *obs, float *values);

/* The greedy action. Not reentrant: the scratch memory is static. */
int policy_act(const obs_t *obs);

#endif
"""


ACT = """
int policy_act(const obs_t *obs) {
    float values[POLICY_ACTIONS];
    int best = 0;
    policy_values(obs, values);
    for (int a = 1; a < POLICY_ACTIONS; a++)
        if (values[a] > values[best]) best = a;
    return best;
}
"""


def write(steps: list[Step], comment: str) -> Source:
    """Floats: the same action values as the network, up to the order of summation."""
    pixels = len(steps[0].in_shape) == 3
    parts = [f'/* {comment} */\n#include "policy.h"\n']
    used = sorted({s.activation for s in steps if s.activation})
    parts.append("#include <math.h>\n" if {"tanh", "elu"} & set(used) else "")
    parts.append("\n" + VECTORS + "\n" + "\n".join(ACTIVATIONS[name] for name in used) + "\n")
    weight_bytes = scratch = 0
    sizes: list[int] = []
    for index, step in enumerate(steps):
        weight, bias, lanes = _packed(step)
        weight_bytes += weight.nbytes + bias.nbytes
        parts.append(f"\nstatic const float w{index}[{weight.size}] = {{{_numbers(weight)}}};\n")
        parts.append(f"static const float b{index}[{bias.size}] = {{{_numbers(bias)}}};\n")
        parts.append(_kernel(index, step, lanes))
        sizes.append(math.prod(step.out_shape))
    for side in (0, 1):
        size = max([n for i, n in enumerate(sizes[:-1]) if i % 2 == side], default=0)
        if size:
            parts.append(f"\nstatic float buffer{side}[{size}];\n")
            scratch += 4 * size
    if pixels:
        channels, _, width = steps[0].in_shape
        kernel = steps[0].weight.shape[2]
        parts.append(f"static float ring[{kernel}][{width * channels}];\n")
        scratch += 4 * kernel * width * channels
    calls = [_layer(i, s, pixels, last=i == len(steps) - 1) for i, s in enumerate(steps)]
    parts.append("\nvoid policy_values(const obs_t *obs, float *values) {\n" + "".join(calls) + "}\n" + ACT)
    obs_size, n_actions = math.prod(steps[0].in_shape), steps[-1].out_shape[0]
    return Source(header(obs_size, n_actions, pixels, comment, scratch, weight_bytes), "".join(parts), scratch, weight_bytes)


def _packed(step: Step) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Weights as [row of the kernel][number in the run][output], outputs filled up to a multiple of 4; and that multiple."""
    weight = channels_last(step)
    outputs = len(step.bias)
    lanes = _lanes(outputs)
    padded = np.zeros((lanes, weight.shape[1]), np.float32)
    padded[:outputs] = weight
    bias = np.zeros(lanes, np.float32)
    bias[:outputs] = step.bias
    return np.ascontiguousarray(padded.T), bias, lanes


def channels_last(step: Step) -> NDArray[np.float32]:
    """Weights (out, run) in the order in which a run of activations is stored, channels innermost."""
    if step.weight.ndim == 4:
        return np.ascontiguousarray(step.weight.transpose(0, 2, 3, 1).reshape(len(step.bias), -1))
    if len(step.in_shape) == 3:  # the first dense layer after convolutions: PyTorch flattens channels first
        shaped = step.weight.reshape(len(step.bias), *step.in_shape).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(shaped.reshape(len(step.bias), -1))
    return step.weight


def geometry(step: Step) -> tuple[int, int, int]:
    """(rows of the kernel, numbers in the run of one row, output pixels in a row)."""
    if step.weight.ndim == 4:
        return step.weight.shape[2], step.weight.shape[2] * step.in_shape[0], step.out_shape[2]
    return 1, math.prod(step.in_shape), 1


def _lanes(outputs: int) -> int:
    """Outputs, filled up to a multiple of 4."""
    return -(-outputs // 4) * 4


def _together(lanes: int, width: int) -> int:
    """How many neighbouring output pixels are summed at once: as many as registers hold."""
    return next((p for p in (4, 2) if width >= p and lanes * p <= 64), 1)


def _kernel(index: int, step: Step, lanes: int) -> str:
    """Functions ``k{index}_p{P}``: P neighbouring output pixels, all their channels."""
    _, _, width = geometry(step)
    together = _together(lanes, width)
    counts = sorted({together, 1} if width % together else {together})
    return "".join(_pixels(index, step, lanes, count) for count in counts)


def _pixels(index: int, step: Step, lanes: int, pixels: int) -> str:
    rows, run, _ = geometry(step)
    hop = step.stride * step.in_shape[0] if step.weight.ndim == 4 else 0
    outputs = len(step.bias)
    act = f"act_{step.activation}(%s)" if step.activation else "%s"
    head = f"\nstatic void k{index}_p{pixels}(const float *const *rows, float *out) {{\n    float sums[{pixels}][{lanes}];\n"
    branches = []
    for guard, width in (("#if LANES == 8", 8), ("#elif LANES == 4", 4), ("#else", 1)):
        branches.append(f"{guard}\n{_sums(index, rows, run, hop, lanes, pixels, width)}")
    result = act % "sums[p][k]"
    tail = f"    for (int p = 0; p < {pixels}; p++)\n        for (int k = 0; k < {outputs}; k++) out[p * {outputs} + k] = {result};\n}}\n"
    return head + "".join(branches) + "#endif\n" + tail


def _sums(index: int, rows: int, run: int, hop: int, lanes: int, pixels: int, width: int) -> str:
    """The innermost loops, with vectors of 8 and 4 floats, or plain ones."""
    if width == 1:
        loads = "".join(f"                sums[{p}][k] += x[i + {p * hop}] * w[k];\n" for p in range(pixels))
        return (
            f"    const float *w = w{index};\n"
            f"    for (int p = 0; p < {pixels}; p++)\n        for (int k = 0; k < {lanes}; k++) sums[p][k] = b{index}[k];\n"
            f"    for (int r = 0; r < {rows}; r++) {{\n        const float *x = rows[r];\n"
            f"        for (int i = 0; i < {run}; i++, w += {lanes})\n"
            f"            for (int k = 0; k < {lanes}; k++) {{\n{loads}            }}\n    }}\n"
        )
    text = ""
    at = 0
    while at < lanes:
        wide = min(lanes - at, 32 if pixels <= 2 else 16)
        starts = _starts(at, wide, width)
        text += _block(index, rows, run, hop, lanes, pixels, starts)
        at += wide
    return text


def _starts(at: int, wide: int, width: int) -> list[tuple[int, int]]:
    """(first output, vector width) of the groups of one block; a remainder of 4 under width 8 is summed one by one."""
    groups = [(at + i, width) for i in range(0, wide - wide % width, width)]
    return groups + [(at + wide - wide % width + i, 1) for i in range(wide % width)]


def _block(index: int, rows: int, run: int, hop: int, lanes: int, pixels: int, groups: list[tuple[int, int]]) -> str:
    kind = {1: "float"}
    lines = ["    {", f"        const float *w = w{index};"]
    for p in range(pixels):
        for start, width in groups:
            name = kind.get(width, "vec")
            lines.append(f"        {name} s{p}_{start} = *(const {name} *)(b{index} + {start});")
    lines += [f"        for (int r = 0; r < {rows}; r++) {{", "            const float *x = rows[r];"]
    lines.append(f"            for (int i = 0; i < {run}; i++, w += {lanes}) {{")
    lines += [f"                const float x{p} = x[i + {p * hop}];" for p in range(pixels)]
    for start, width in groups:
        name = kind.get(width, "vec")
        lines.append(f"                const {name} w_{start} = *(const {name} *)(w + {start});")
        lines += [f"                s{p}_{start} += x{p} * w_{start};" for p in range(pixels)]
    lines += ["            }", "        }"]
    for p in range(pixels):
        for start, width in groups:
            lines.append(f"        *({kind.get(width, 'vec')} *)(&sums[{p}][{start}]) = s{p}_{start};")
    return "\n".join([*lines, "    }\n"])


def _layer(index: int, step: Step, pixels: bool, *, last: bool) -> str:
    """The call of one layer."""
    out = "values" if last else f"buffer{index % 2}"
    source = "obs" if index == 0 else f"buffer{(index - 1) % 2}"
    if step.weight.ndim != 4:
        if index == 0 and pixels:
            raise AssertionError("pixels go through a convolution first")
        return f"    {{\n        const float *rows[1] = {{{source}}};\n        k{index}_p1(rows, {out});\n    }}\n"
    channels, height, width = step.in_shape
    outputs, out_height, out_width = step.out_shape
    kernel, stride = step.weight.shape[2], step.stride
    together = _together(_lanes(outputs), out_width)
    fill = ""
    row = f"{source} + (y * {stride} + r) * {width * channels} + x * {stride * channels}"
    if index == 0:
        row = f"ring[(y * {stride} + r) % {kernel}] + x * {stride * channels}"
        fill = (
            f"        for (; filled < y * {stride} + {kernel}; filled++)\n"
            f"            for (int c = 0; c < {channels}; c++)\n"
            f"                for (int x = 0; x < {width}; x++)\n"
            f"                    ring[filled % {kernel}][x * {channels} + c] = (float)obs[(c * {height} + filled) * {width} + x];\n"
        )
    whole = out_width - out_width % together

    def loop(first: int, end: int, count: int) -> str:
        return (
            f"        for (int x = {first}; x < {end}; x += {count}) {{\n            const float *rows[{kernel}];\n"
            f"            for (int r = 0; r < {kernel}; r++) rows[r] = {row};\n"
            f"            k{index}_p{count}(rows, {out} + (y * {out_width} + x) * {outputs});\n        }}\n"
        )

    loops = loop(0, whole, together) + (loop(whole, out_width, 1) if whole < out_width else "")
    start = "    int filled = 0;\n" if index == 0 else ""
    return f"{start}    for (int y = 0; y < {out_height}; y++) {{\n{fill}{loops}    }}\n"


def _numbers(array: NDArray[np.float32]) -> str:
    """Literals that read back to the same floats."""
    return ",".join(_literal(float(x)) for x in array.reshape(-1))


def _literal(value: float) -> str:
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    return f"{text}f"


EXAMPLE = """/* cc -O3 -std=c99 example.c policy.c -lm -o example && ./example golden.bin */
#include <stdio.h>
#include "policy.h"

int main(int argc, char **argv) {
    static obs_t obs[POLICY_OBS_SIZE];
    int32_t action;
    int seen = 0, same = 0;
    FILE *golden = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!golden) return 2;
    while (fread(&action, sizeof action, 1, golden) == 1 && fread(obs, sizeof obs, 1, golden) == 1) {
        seen++;
        same += policy_act(obs) == action;
    }
    fclose(golden);
    printf("%d of %d actions as expected\\n", same, seen);
    return same == seen && seen > 0 ? 0 : 1;
}
"""

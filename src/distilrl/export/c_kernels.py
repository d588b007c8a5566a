"""C of what multiplies with weights: the kernels of convolutions and dense layers.

A kernel multiplies each number of a run with the weights of a group of output channels, which lie side by side, for
several pixels at once. With GCC and Clang the groups are vectors where the processor has them (the compilers' own
extension, no intrinsics). Elsewhere, as on microcontrollers, all layers share functions that sum up to eight outputs in
registers. Every output is summed in the same order everywhere, so that all machines give the same bits where the
compiler fuses no products and sums (-ffp-contract=off, which is GCC's way under -std=c99).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilrl.export.steps import Step

VECTORS = """#if !defined(__GNUC__)
#define LANES 1
#elif defined(__AVX__)
#define LANES 8
typedef float vec8 __attribute__((vector_size(32), aligned(4), may_alias));
#elif defined(__SSE__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define LANES 4
#else
#define LANES 1
#endif
#if LANES > 1
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));
#endif
"""


def packed(step: Step) -> NDArray[np.float32]:
    """Weights as [row of the kernel][number in the run][output]."""
    return np.ascontiguousarray(channels_last(step).T)


def channels_last(step: Step) -> NDArray[np.float32]:
    """Weights (out, run) in the order in which a run of activations is stored, channels innermost."""
    if step.weight.ndim == 4:
        return np.ascontiguousarray(step.weight.transpose(0, 2, 3, 1).reshape(len(step.bias), -1))
    if len(step.in_shape) == 3:  # the first dense layer after convolutions: PyTorch flattens channels first
        features = math.prod(step.in_shape)
        shaped = step.weight[:, :features].reshape(len(step.bias), *step.in_shape).transpose(0, 2, 3, 1)
        return np.concatenate([shaped.reshape(len(step.bias), -1), step.weight[:, features:]], axis=1)
    return step.weight


def geometry(step: Step) -> tuple[int, int, int]:
    """(rows of the kernel, numbers in the run of one row, output pixels in a row)."""
    if step.weight.ndim == 4:
        return step.weight.shape[2], step.weight.shape[2] * step.in_shape[0], step.out_shape[2]
    return 1, math.prod(step.in_shape) + len(step.vector), 1


def together(outputs: int, width: int) -> int:
    """How many neighbouring output pixels are summed at once: as many as registers hold."""
    return next((p for p in (4, 2) if width >= p and outputs * p <= 64), 1)


def pixel_functions(index: str, step: Step) -> str:
    """Functions ``k{index}_p{P}``: P neighbouring output pixels, all their channels."""
    _, _, width = geometry(step)
    count = together(len(step.bias), width)
    counts = sorted({count, 1} if width % count else {count})
    return "".join(_pixels(index, step, pixels) for pixels in counts)


def _pixels(index: str, step: Step, pixels: int) -> str:
    rows, run, _ = geometry(step)
    hop = step.stride * step.in_shape[0] if step.weight.ndim == 4 else 0
    outputs = len(step.bias)
    text = f"\nstatic void k{index}_p{pixels}(const float *const *rows, float *out) {{\n"
    for guard, width in (("#if LANES == 8", 8), ("#elif LANES == 4", 4)):
        text += f"{guard}\n"
        wide = 32 if pixels <= 2 else 16
        for at in range(0, outputs, wide):
            groups = _groups(at, min(at + wide, outputs), width)
            text += _block(index, rows, run, hop, outputs, pixels, groups)
    text += f"#else\n{_plainly(index, rows, run, hop, outputs, pixels)}#endif\n"
    if step.activation:  # a loop of its own, which vectorises
        text += f"    for (int k = 0; k < {pixels * outputs}; k++) out[k] = act_{step.activation}(out[k]);\n"
    return text + "}\n"


def _groups(at: int, end: int, width: int) -> list[tuple[int, int]]:
    """(first output, how many) of the vectors of one block. The last may overlap the one before it, so that weights
    are not filled up; fewer outputs than the smallest vector are summed one by one.
    """
    groups = []
    for size in (8, 4) if width == 8 else (4,):
        while end - at >= size:
            groups.append((at, size))
            at += size
    if at < end:
        groups += [(end - 4, 4)] if end >= 4 else [(k, 1) for k in range(at, end)]
    return groups


def _block(index: str, rows: int, run: int, hop: int, outputs: int, pixels: int, groups: list[tuple[int, int]]) -> str:
    """The innermost loops of a group of outputs, in vectors."""
    kind = {1: "float", 4: "vec4", 8: "vec8"}
    lines = ["    {", f"        const float *w = w{index};"]
    for p in range(pixels):
        for start, width in groups:
            name = kind[width]
            lines.append(f"        {name} s{p}_{start} = *(const {name} *){_at(f'b{index}', start)};")
    lines += [f"        for (int r = 0; r < {rows}; r++) {{", "            const float *x = rows[r];"]
    lines.append(f"            for (int i = 0; i < {run}; i++, w += {outputs}) {{")
    lines += [f"                const float x{p} = x[{f'i + {p * hop}' if p else 'i'}];" for p in range(pixels)]
    for start, width in groups:
        lines.append(f"                const {kind[width]} w_{start} = *(const {kind[width]} *){_at('w', start)};")
        lines += [f"                s{p}_{start} += x{p} * w_{start};" for p in range(pixels)]
    lines += ["            }", "        }"]
    for p in range(pixels):
        for start, width in groups:
            lines.append(f"        *({kind[width]} *){_at('out', p * outputs + start)} = s{p}_{start};")
    return "\n".join([*lines, "    }\n"])


def _at(array: str, place: int) -> str:
    """C's address of a place in an array."""
    return f"({array} + {place})" if place else array


PLAIN = (8, 4, 2, 1)
"""Outputs that are summed together where there are no vectors, in as many registers."""


def shared(steps: Sequence[Step]) -> str:
    """Functions ``sum{N}``, which all layers share where there are no vectors: N outputs of one pixel."""
    used = {size for step in steps for size, _ in _parts_of(len(step.bias))}
    zeros = any(step.activation == "relu" for step in steps)
    text = "".join(_sum(size, zeros) for size in PLAIN if size in used)
    return f"\n#if LANES == 1\n{ZEROS if zeros else ''}{text}#endif\n"


ZEROS = """#if defined(__SOFTFP__) || (defined(__riscv) && !defined(__riscv_flen))
#define SKIPPED(x) ((x) == 0.0f) /* floats are the compiler's functions: what ReLU made 0 is not multiplied */
#else
#define SKIPPED(x) 0
#endif
"""


def _sum(size: int, zeros: bool) -> str:
    starts = ", ".join(f"s{k} = b[{k}]" for k in range(size))
    adds = "".join(f"            s{k} += x[i] * w[{k}];\n" for k in range(size))
    ends = "".join(f"    out[{k}] = s{k};\n" for k in range(size))
    skip = "            if (SKIPPED(x[i])) continue;\n" if zeros else ""
    return (
        f"static void sum{size}(const float *w, const float *b, int outputs, const float *const *rows, int height,\n"
        f"                 int run, int at, float *out) {{\n    float {starts};\n"
        f"    for (int r = 0; r < height; r++) {{\n        const float *x = rows[r] + at;\n"
        f"        for (int i = 0; i < run; i++, w += outputs) {{\n{skip}{adds}        }}\n    }}\n{ends}}}\n"
    )


def _parts_of(outputs: int) -> list[tuple[int, int]]:
    """(N, how many times) of the functions ``sum{N}`` that make all outputs of a pixel."""
    parts = []
    for size in PLAIN:
        if outputs >= size:
            parts.append((size, outputs // size))
            outputs %= size
    return parts


def _plainly(index: str, rows: int, run: int, hop: int, outputs: int, pixels: int) -> str:
    """Calls of the shared functions."""
    lines, first = [], 0
    pixel = f"    for (int p = 0; p < {pixels}; p++) {{" if pixels > 1 else "    {"
    at, out = (f"p * {hop}", f"out + p * {outputs}") if pixels > 1 else ("0", "out")
    for size, count in _parts_of(outputs):
        behind = f" + {first}" if first else ""
        loop = ""
        if count > 1:
            loop, behind = f"for (int k = {first}; k < {first + size * count}; k += {size}) ", " + k"
        given = f"w{index}{behind}, b{index}{behind}, {outputs}, rows, {rows}, {run}, {at}, {out}{behind}"
        lines.append(f"        {loop}sum{size}({given});")
        first += size * count
    return "\n".join([pixel, *lines, "    }\n"])

"""C99 of a student in integers (`distilrl.export.int8`): the arithmetic that its model in NumPy does, to the bit.

Products of 16-bit numbers and 8-bit weights are summed in 32 bits, four outputs at once where a processor has no
vectors; floats occur where floats enter and at the very end. What a student remembers is `distilrl.export.int8_memory`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.export.c import Source, beside_memory, declared, scratch_buffers, source, vector_behind
from distilrl.export.c_kernels import geometry
from distilrl.export.c_maths import maths
from distilrl.export.c_memory import INTEGERS, Memory
from distilrl.export.int8 import Quantised
from distilrl.export.int8_layers import Entry, Ints, IntStep
from distilrl.export.int8_memory import CELLS, COARSE, FEATURE_BITS, REMEMBER, TABLE, IntCell, Moves, cell_code
from distilrl.export.last import Last, last_step, literals
from distilrl.export.steps import dense
from distilrl.heads import Categorical, Head
from distilrl.spaces import ObsSpec


def write(student: Quantised, head: Head, obs: ObsSpec, comment: str) -> Source:
    """C99 in integers; floats occur where floats enter, in ``policy_values``, and in the last step of real actions.

    Args:
        student: in integers.
        head: what its numbers mean.
        obs: what it reads.
        comment: the first line of both files.

    Example::

        written = int8_c.write(int8.quantise(steps(network, "int8"), seen), head, info.obs, "my policy")
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

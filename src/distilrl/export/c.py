"""C99: one self-contained file and a header, no allocation, no library, weights in constant memory.

Layout: activations are stored with channels innermost, so that what a convolution reads of one row of its input is one
run of numbers. The input of the first convolution is turned into floats row by row, in a ring that holds as many rows
as its kernel is high. A dense layer is a convolution of one pixel. tanh and exp are our own: without branches, so that
compilers do several at once, and the same on every machine.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import cast

from distilrl.export.c_kernels import VECTORS, packed, pixel_functions, shared, together
from distilrl.export.c_maths import ACTIVATIONS, CELLS, maths
from distilrl.export.c_memory import Memory
from distilrl.export.examples import c_example
from distilrl.export.last import Last, last_step, literals
from distilrl.export.steps import CellStep, Step, dense
from distilrl.heads import Head
from distilrl.spaces import ObsSpec

MOST_NAMES = 64
"""Of numbers, in a comment."""


@dataclass(frozen=True)
class Source:
    """What is written."""

    header: str
    """policy.h."""
    code: str
    """policy.c."""
    example: str
    """example.c."""
    scratch_bytes: int
    """Static memory that it writes to; 0 where it can be called from several threads at once."""
    weight_bytes: int
    """Constant memory of weights and scales."""
    stack_bytes: int = 0
    """What a decision keeps between its layers where that is no static memory."""


def declared(obs: ObsSpec, memory: Memory | None = None) -> str:
    """C's declaration of an observation as a function's argument, behind the state of a policy that has one."""
    argument = "const obs_t *obs" if obs.pixels else f"const float obs[{obs.shape[0]}]"
    return f"policy_state *state, {argument}" if memory is not None else argument


def source(
    obs: ObsSpec, last: Last, comment: str, code: str, scratch: int, weights: int, width: int,
    memory: Memory | None = None, *, numbers: str = "",
) -> Source:  # fmt: skip
    """The header and the example of any C export, beside its code.

    Args:
        obs: what the policy reads.
        last: its last step.
        comment: what it is.
        code: policy.c.
        scratch: bytes of static memory.
        weights: bytes of constant memory.
        width: how many numbers its head gives.
        memory: what it remembers.
        numbers: what the head's numbers are, where it is not what their name says.
    """
    kind = {"uint8": "uint8_t", "float32": "float"}[obs.dtype]
    told = "raw numbers" + _parts(obs)
    if obs.pixels:
        frames = f", {obs.frames} frames, the newest last" if obs.frames > 1 else ""
        told = f"raw {'bytes' if obs.dtype == 'uint8' else 'numbers'}, channels, rows and columns {obs.shape}{frames}"
    threads = "Not reentrant: it writes to static memory." if scratch else "Reentrant: it writes to the stack alone."
    if memory is not None and not scratch:
        threads = "Reentrant: it writes to the stack and to the state that it is given."
    once = ""
    if memory is not None:
        once = "\nThey take the memory one step on, as policy_act does: call one of the two at each step."
    remembered = memory.declaration() if memory is not None else ""
    numbers = numbers or last.numbers_name.replace("_", " ")
    if obs.dtype == "float32":
        kept = ", nor what is remembered until policy_reset" if memory is not None else ""
        once += f"\nNumbers must be finite: of NaN or infinity the answer means nothing{kept}."
    header = f"""/* {comment} */
#ifndef POLICY_H
#define POLICY_H
#include <stdint.h>

#define POLICY_OBS_SIZE {math.prod(obs.shape)}
#define POLICY_VALUES {width}
#define POLICY_ACTION_SIZE {last.size}
#define POLICY_SCRATCH_BYTES {scratch}
#define POLICY_WEIGHT_BYTES {weights}

typedef {kind} obs_t;

#ifdef __cplusplus
extern "C" {{
#endif

{remembered}/* The head's numbers ({numbers}) of one observation ({told}).{once} */
void policy_values({declared(obs, memory)}, float values[{width}]);

/* {last.comment()}
{threads} */
{last.prototype(declared(obs, memory))};

#ifdef __cplusplus
}}
#endif
#endif
"""
    return Source(header, code, c_example(last, remembers=memory is not None), scratch, weights)


def _parts(obs: ObsSpec) -> str:
    """Where each part of a Dict or a Tuple begins; nothing of a single one."""
    split = [name.rpartition("[") for name in obs.names]
    parts = [(part, [int(own[2][:-1]) for own in same]) for part, same in groupby(split, lambda own: own[0])]
    runs = [run for part, places in parts for run in _runs(_readable(part), places)]
    whole = len(parts) == len(runs) == 1 and "[" not in runs[0][0]
    if len(parts) == 1 and not whole and len(obs.names) <= MOST_NAMES:  # some of them are hidden
        return f": {', '.join(map(_readable, obs.names))}"
    begins = accumulate((size for _, size in runs), initial=0)
    told = ", ".join(
        f"{run} at {begin}{_one_hot(obs.codes[begin : begin + size])}"
        for (run, size), begin in zip(runs, begins, strict=False)
    )
    beside = f", pixels {obs.image} at {len(obs.names)}" if obs.image is not None and parts else ""
    return f", flattened: {told}{beside}" if beside or (parts and not whole) else _one_hot(obs.codes)


def _readable(name: str) -> str:
    """A name that ends no comment of C."""
    return re.sub(r"[^][\w. -]", "_", name)


def _runs(part: str, places: list[int]) -> list[tuple[str, int]]:
    """Names of what lies side by side of a part, and how many numbers each has; all from the first on are the part."""
    if places == list(range(len(places))):
        return [(part, len(places))]
    cuts = [0, *(at for at in range(1, len(places)) if places[at] != places[at - 1] + 1), len(places)]
    rows = [places[begin:end] for begin, end in pairwise(cuts)]
    return [(f"{part}[{row[0]}{f' to {row[-1]}' if len(row) > 1 else ''}]", len(row)) for row in rows]


def _one_hot(codes: Sequence[str]) -> str:
    """Of which choice each number of a part is 1, where they are choices."""
    if not any(codes):
        return ""
    runs = [(place, [code.rpartition(" ")[2] for code in same]) for place, same in groupby(codes, _place)]
    told = "; ".join(
        f"{f'of {place} ' if place else ''}{', '.join(own) if len(own) < 4 else f'{own[0]} to {own[-1]}'}"
        for place, own in runs
    )
    return f" (1 for the choice that is made, else 0: {told})"


def _place(code: str) -> str:
    """Which of several choices a code is of; empty of one alone."""
    return code.rpartition(" ")[0]


def act(obs: ObsSpec, last: Last, memory: Memory | None = None) -> str:
    """``policy_act`` of the numbers that ``policy_values`` gives."""
    given = "state, obs" if memory is not None else "obs"
    body = f"    float values[POLICY_VALUES];\n    policy_values({given}, values);\n" + last.c_body()
    return f"\n{last.prototype(declared(obs, memory))} {{\n{body}}}\n"


def write(steps: list[Step | CellStep], head: Head, obs: ObsSpec, comment: str) -> Source:
    """Floats: the same numbers and actions as the policy's, up to the order of summation.

    Args:
        steps: the network, as `distilrl.export.steps.steps` gives it.
        head: what its numbers mean.
        obs: what it reads.
        comment: the first line of both files.

    Example::

        written = write(steps(network, "c"), head, info.obs, "my policy")
        Path("policy.c").write_text(written.code)
    """
    last, memory = last_step(head), Memory.of(steps, obs)
    used = sorted({s.activation for s in steps if s.activation})
    needed = {name for activation in used for name in ACTIVATIONS[activation][0]} | last.uses
    cell = next((step for step in steps if isinstance(step, CellStep)), None)
    needed |= {"tanh", "exp"} if cell is not None else set()
    parts = [f'/* {comment} */\n#include "policy.h"\n\n', VECTORS, "\n", maths(needed)]
    parts += [f"{ACTIVATIONS[name][1]}\n" for name in used]
    parts.append(shared([step for _, step in dense(steps)]))
    weight_bytes = 0
    for name, step in dense(steps):
        weight, bias = packed(step), step.bias
        weight_bytes += weight.nbytes + bias.nbytes
        parts.append(f"\nstatic const float w{name}[{weight.size}] = {{{literals(weight)}}};\n")
        parts.append(f"static const float b{name}[{bias.size}] = {{{literals(bias)}}};\n")
        parts.append(pixel_functions(name, step))
    if cell is not None:
        parts.append(CELLS[cell.kind].replace("@size", str(cell.size)))
    buffers = scratch_buffers(steps, "float")
    calls = (memory.seen() if memory is not None else "") + _calls(steps, memory, obs.vector)
    # images need much scratch memory, which small machines have no stack for
    outside, inside = (buffers.text, "") if obs.image is not None else ("", buffers.text)
    parts.append("\n" + outside if outside else "")
    parts.append(memory.reset() if memory is not None else "")
    values = f"void policy_values({declared(obs, memory)}, float values[{head.width}])"
    parts.append(f"\n{values} {{\n{inside}{calls}}}\n{act(obs, last, memory)}")
    between = buffers.count * 4
    gates = sum(2 * 4 * len(step.inputs.bias) for step in steps if isinstance(step, CellStep))
    scratch, stack = (between, gates) if obs.image is not None else (0, between + gates)
    made = source(obs, last, comment, "".join(parts), scratch, weight_bytes, head.width, memory)
    return replace(made, stack_bytes=stack + 4 * head.width)


def _calls(steps: Sequence[Step | CellStep], memory: Memory | None, pixels: int) -> str:
    """The calls of all layers, each of which reads what the one before it wrote; ``pixels``: where in an observation
    they begin.
    """
    read = "state->seen" if memory is not None and memory.history > 1 else "obs"
    text = ""
    for index, step in enumerate(steps):
        out = "values" if index == len(steps) - 1 else f"buffer{index % 2}"
        text += vector_behind(step, read)
        if isinstance(step, CellStep):
            gates = len(step.inputs.bias)
            text += (
                f"    {{\n        float gates[{gates}], past[{gates}];\n"
                f"        const float *rows[1] = {{{read}}};\n        k{index}i_p1(rows, gates);\n"
                f"        rows[0] = state->h;\n        k{index}r_p1(rows, past);\n"
                f"        remember(state, gates, past);\n    }}\n"
            )
            more, read = beside_memory(step, read, out)
            text += more
            continue
        text += _layer(str(index), step, read, out, pixels if index == 0 else None)
        read = out
    return text


def vector_behind(step: Step | CellStep, features: str, number: str = "obs[{}]") -> str:
    """Statements that put what a layer reads beside an image behind the image's features; ``number`` is C of the i-th
    of these, with the place of it in an observation to be filled in.
    """
    if not step.vector:
        return ""
    count, begin = math.prod(step.in_shape), step.vector[0]
    if step.vector == tuple(range(begin, begin + len(step.vector))):
        place, table = f"{begin} + i" if begin else "i", ""
    else:  # others between them are hidden
        place, table = "seen[i]", f"        static const int seen[] = {{{', '.join(map(str, step.vector))}}};\n"
    copied = f"for (int i = 0; i < {len(step.vector)}; i++) {features}[{count} + i] = {number.format(place)};\n"
    return f"    {{\n{table}        {copied}    }}\n" if table else f"    {copied}"


def beside_memory(step: CellStep, source: str, out: str, scale: str = "") -> tuple[str, str]:
    """Statements that put what a cell gives and what goes past it, ``source`` times ``scale``, into ``out``, and what
    the next layer reads: that, or the state itself where nothing goes past it.
    """
    if not step.beside:
        return "", "state->h"
    text = (
        f"    for (int i = 0; i < {step.size}; i++) {out}[i] = state->h[i];\n"
        f"    for (int i = 0; i < {step.beside}; i++) {out}[{step.size} + i] = {source}[i]{scale};\n"
    )
    return text, out


@dataclass(frozen=True)
class Buffers:
    """Where activations are kept."""

    text: str
    """C's declarations."""
    count: int
    """Numbers in all of them."""


def scratch_buffers(steps: Sequence[Step | CellStep], kind: str) -> Buffers:
    """Two buffers in turn, and with images the ring of rows; static with images, else local."""
    pixels = len(steps[0].in_shape) == 3
    place = "static " if pixels else "    "
    # what a cell alone gives is read where it is kept
    sizes = [
        0 if isinstance(one, CellStep) and not one.beside else math.prod(one.out_shape) + len(after.vector)
        for one, after in pairwise(steps)
    ]
    named = {f"buffer{side}": max(sizes[side::2], default=0) for side in (0, 1)}
    text = "".join(f"{place}{kind} {name}[{size}];\n" for name, size in named.items() if size)
    count = sum(named.values())
    if pixels:
        channels, _, width = steps[0].in_shape
        kernel = cast("Step", steps[0]).weight.shape[2]
        text += f"static {kind} ring[{kernel}][{width * channels}];\n"
        count += kernel * width * channels
    return Buffers(text, count)


def _layer(index: str, step: Step, source: str, out: str, pixels: int | None) -> str:
    """The call of one layer; ``pixels``: where in an observation they begin, for the first."""
    if step.weight.ndim != 4:
        return f"    {{\n        const float *rows[1] = {{{source}}};\n        k{index}_p1(rows, {out});\n    }}\n"
    channels, height, width = step.in_shape
    outputs, out_height, out_width = step.out_shape
    kernel, stride = step.weight.shape[2], step.stride
    many = together(outputs, out_width)
    fill = ""
    row = f"{source} + (y * {stride} + r) * {width * channels} + x * {stride * channels}"
    if pixels is not None:
        row = f"ring[(y * {stride} + r) % {kernel}] + x * {stride * channels}"
        at = f"{pixels} + " if pixels else ""
        fill = (
            f"        for (; filled < y * {stride} + {kernel}; filled++)\n"
            f"            for (int c = 0; c < {channels}; c++)\n"
            f"                for (int x = 0; x < {width}; x++)\n"
            f"                    ring[filled % {kernel}][x * {channels} + c] =\n"
            f"                        (float)obs[{at}(c * {height} + filled) * {width} + x];\n"
        )
    whole = out_width - out_width % many

    def loop(begin: int, end: int, count: int) -> str:
        return (
            f"        for (int x = {begin}; x < {end}; x += {count}) {{\n            const float *rows[{kernel}];\n"
            f"            for (int r = 0; r < {kernel}; r++) rows[r] = {row};\n"
            f"            k{index}_p{count}(rows, {out} + (y * {out_width} + x) * {outputs});\n        }}\n"
        )

    loops = loop(0, whole, many) + (loop(whole, out_width, 1) if whole < out_width else "")
    start = "    int filled = 0;\n" if pixels is not None else ""
    return f"{start}    for (int y = 0; y < {out_height}; y++) {{\n{fill}{loops}    }}\n"

"""What a student remembers, in integers, and the same in NumPy.

A cell's output is kept in 16 bits, an LSTM's cells in 32, both in units of 1/16384: a weight is rounded once, a state
at each step, and one that changes slowly would stand still in eight bits. What reads a cell's output reads all of it.
Sums become gates' numbers in units of 1/4096; σ is read from a table in steps of 1/16 with lines between them, and
tanh x = 2 σ(2x) − 1 from the same. A history keeps observations in 16 bits, and the first layer reads bytes of them:
how far each number moved from one to the next, and where it is now (`Moves`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import SpecError
from distilrl.export.int8_layers import FINE, INPUT_LIMIT, Ints, IntStep, check_sums, in_integers, scaled
from distilrl.export.steps import CellStep, Step

STATE_BITS, GATE_BITS, SHARE_BITS = 14, 12, 15
"""Binary digits behind the point of what is kept, of gates' numbers, and of σ."""
STATE_UNIT = 2.0**-STATE_BITS
FEATURE_BITS = 6
"""Bits that bytes which go past a cell are shifted by, to be as large as what it gives beside them."""
WIDEST = 1000
"""Numbers: 127 · 2^14 · 1000, and a bias, are the largest sum that 32 bits hold."""
FAR = 2**24
"""Gates' numbers are cut off here, 4096 in their unit, where σ and tanh have long been flat."""
MOST = 2**30
"""An LSTM's cells are cut off here."""
STEP = 2**8
"""Gates' units from one number of the table to the next, 1/16."""
TABLE = np.round(2.0**SHARE_BITS / (1.0 + np.exp(-np.arange(12 * 16 + 1) / 16))).astype(np.int64)
"""σ of 0 to 12, where it is 1 to the last bit."""


@dataclass(frozen=True)
class IntCell:
    """A memory cell in integers."""

    step: CellStep
    """The cell that it stands for."""
    inputs: IntStep
    """What comes in, to gates' numbers."""
    recurrent: IntStep
    """What it gave before, to gates' numbers."""

    def outputs(self, x: Ints, begins: NDArray[np.bool_]) -> Ints:
        """What it gives, and what goes past it, (K, H + F), of what comes in (K, D), step after step; it starts anew
        where ``begins`` (K,).
        """
        gates, rows = _gates(self.inputs, x), []
        fresh = np.zeros((1, self.step.size), np.int64)
        h = c = fresh
        for now, begin in zip(gates, begins, strict=True):
            h, c = (fresh, fresh) if begin else (h, c)
            h, c = self._remembered(now[None], _gates(self.recurrent, h), h, c)
            rows.append(h)
        return np.concatenate([np.concatenate(rows), x[:, : self.step.beside] << FEATURE_BITS], axis=1)

    def _remembered(self, gates: Ints, past: Ints, h: Ints, c: Ints) -> tuple[Ints, Ints]:
        """What is kept after a step, by the formulas of `distilrl.blocks.MemoryCell`; a GRU has no ``c``."""
        parts = len(self.inputs.bias) // h.shape[1]
        into, own = np.split(gates, parts, axis=1), np.split(past, parts, axis=1)
        if self.step.kind == "gru":
            reset, update = (sigmoid(into[k] + own[k]) for k in (0, 1))
            candidate = tanh(into[2] + part(reset, own[2]))
            return candidate + part(update, h - candidate), c
        enter, forget, out = (sigmoid(into[k] + own[k]) for k in (0, 1, 3))
        c = np.clip(part(forget, c) + part(enter, tanh(into[2] + own[2])), -MOST, MOST)
        return part(out, tanh(c >> (STATE_BITS - GATE_BITS))), c


def cell_in_integers(step: CellStep, scale_in: NDArray[np.float64] | float, largest: int | Ints) -> IntCell:
    """A memory cell in integers; ``scale_in`` is as for `distilrl.export.int8_layers.in_integers`, and ``largest`` what
    comes in at most.

    Raises:
        SpecError: its sums would not fit into 32 bits.
    """
    (size,) = step.out_shape
    if size > WIDEST:
        beside = f" with {step.beside} beside it" if step.beside else ""
        raise SpecError(
            f"A cell of {step.size} numbers{beside} cannot be written in integers, whose sums hold {WIDEST}: export to "
            "c or onnx, or distil a smaller one."
        )
    unit, bits = 2.0**-GATE_BITS, 15
    recurrent = in_integers(step.recurrent, STATE_UNIT, unit, bits)
    inputs = in_integers(step.inputs, scale_in, unit, bits)
    check_sums(inputs, largest)
    return IntCell(step, inputs, recurrent)


def _gates(one: IntStep, x: Ints) -> Ints:
    """Gates' numbers of one side."""
    clipped: Ints = np.clip(scaled(one, x), -FAR, FAR)
    return clipped


def sigmoid(x: Ints) -> Ints:
    """σ in units of 2^-15, of gates' numbers."""
    size = np.minimum(np.abs(x), (len(TABLE) - 1) * STEP - 1)
    at, beyond = size // STEP, size % STEP
    right = TABLE[at] + (((TABLE[at + 1] - TABLE[at]) * beyond + STEP // 2) // STEP)
    result: Ints = np.where(x < 0, 2**SHARE_BITS - right, right)
    return result


def tanh(x: Ints) -> Ints:
    """Tanh in units of the state, of gates' numbers."""
    result: Ints = sigmoid(2 * x) - 2**STATE_BITS
    return result


def part(share: Ints, of: Ints) -> Ints:
    """That share, in σ's unit, of a number; rounded."""
    result: Ints = (share * of + 2 ** (SHARE_BITS - 1)) >> SHARE_BITS
    return result


def with_past(x: NDArray[Any], begins: NDArray[np.bool_], history: int) -> NDArray[Any]:
    """Each observation (K, D) behind those before it, (K, history · D), the oldest first.

    The first of an episode stands for those before it.
    """
    if history == 1:
        return x
    first = np.maximum.accumulate(np.where(begins, np.arange(len(x)), 0))
    places = np.maximum(np.arange(len(x))[:, None] - np.arange(history - 1, -1, -1), first[:, None])
    windows: NDArray[Any] = x[places]
    return windows.reshape(len(x), -1)


@dataclass(frozen=True)
class Moves:
    """How the first layer reads a history of observations that are kept in finer units.

    Weights for two observations one step apart are nearly opposite, and eight bits would not tell them apart; of how
    far a number moved they can be small.
    """

    history: int
    """Observations."""
    bits: Ints
    """(D,) that a move of each number loses, so that the furthest that counts is `INPUT_LIMIT` at most."""

    @classmethod
    def of(cls, past: Ints, history: int, percentile: float = 100.0) -> "Moves":
        """Those that suit observations and those before them (K, history · D), in finer units; moves above this
        percentile are cut off, as where an angle that ends at π begins again at -π.
        """
        moved = past_as_moves(past, history).reshape(len(past), history, -1)[:, :-1]
        furthest = np.percentile(np.abs(moved).reshape(-1, moved.shape[2]), percentile, axis=0)
        needed = np.ceil(np.log2(np.maximum(furthest, 1) / INPUT_LIMIT)).clip(0).astype(np.int64)
        return cls(history, np.where(furthest == 0, FINE, needed))

    def read(self, past: Ints) -> Ints:
        """What the first layer reads, as many numbers, by the very arithmetic of the C code."""
        lost = np.concatenate([np.tile(self.bits, self.history - 1), np.full(len(self.bits), FINE)])
        half = np.where(lost > 0, 1 << np.maximum(lost - 1, 0), 0)
        numbers: Ints = np.clip((past_as_moves(past, self.history) + half) >> lost, -INPUT_LIMIT, INPUT_LIMIT)
        return numbers

    def units(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Real numbers (history · D,) of one unit of what is read; ``unit`` (D,) are those in which observations are
        kept.
        """
        return np.concatenate([*[unit * 2.0**self.bits] * (self.history - 1), unit * 2.0**FINE])

    def c(self) -> str:
        """Statements that read ``past`` out of the state."""
        size, before = len(self.bits), (self.history - 1) * len(self.bits)
        return (
            f"    int16_t past[{before + size}];\n"
            f"    for (int i = 0; i < {before}; i++)\n"
            f"        past[i] = coarse((int32_t)state->seen[i + {size}] - state->seen[i], moves[i % {size}]);\n"
            f"    for (int i = {before}; i < {before + size}; i++) past[i] = coarse(state->seen[i], {FINE});\n"
        )


def past_as_moves(past: NDArray[Any], history: int) -> NDArray[Any]:
    """How observations (K, history · D) moved from one to the next, and the latest."""
    windows = past.reshape(len(past), history, -1)
    return np.concatenate([np.diff(windows, axis=1), windows[:, -1:]], axis=1).reshape(len(past), -1)


def of_moves(step: Step, history: int) -> Step:
    """A first layer for how observations moved, and where they are now, in place of one for observations."""
    so_far = step.weight.reshape(len(step.bias), history, -1).astype(np.float64).cumsum(1)
    weight = np.concatenate([-so_far[:, :-1], so_far[:, -1:]], axis=1).reshape(step.weight.shape)
    return replace(step, weight=weight.astype(np.float32))


COARSE = f"""
static inline int16_t coarse(int32_t x, int bits) {{ /* bits fewer, rounded */
    x = bits > 0 ? (x + ((int32_t)1 << (bits - 1))) >> bits : x;
    return (int16_t)(x < -{INPUT_LIMIT} ? -{INPUT_LIMIT} : x > {INPUT_LIMIT} ? {INPUT_LIMIT} : x);
}}
"""
"""C of what a history is read by."""
CELLS = f"""
/* A sum as a gate's number, in units of 1/{2**GATE_BITS}. */
static inline int32_t gate_of(int32_t sum, int32_t multiplier, int shift) {{
    int64_t scaled = ((int64_t)sum * multiplier + ((int64_t)1 << (shift - 1))) >> shift;
    return (int32_t)(scaled < -{FAR} ? -{FAR} : scaled > {FAR} ? {FAR} : scaled);
}}

static const uint16_t sigmoids[{len(TABLE)}] = {{{",".join(map(str, TABLE.tolist()))}}};
static inline int32_t sigmoid_at(int32_t x) {{ /* times {2**SHARE_BITS}: steps of 1/16, and lines between them */
    int32_t size = x < 0 ? -x : x;
    size = size < {(len(TABLE) - 1) * STEP} ? size : {(len(TABLE) - 1) * STEP - 1};
    const uint16_t *at = sigmoids + size / {STEP};
    int32_t right = at[0] + ((at[1] - at[0]) * (size % {STEP}) + {STEP // 2}) / {STEP};
    return x < 0 ? {2**SHARE_BITS} - right : right;
}}
static inline int32_t tanh_at(int32_t x) {{ return sigmoid_at(2 * x) - {2**STATE_BITS}; }} /* times {2**STATE_BITS} */
static inline int32_t part(int32_t share, int32_t of) {{ /* of what is kept, rounded */
    return (int32_t)(((int64_t)share * of + {2 ** (SHARE_BITS - 1)}) >> {SHARE_BITS});
}}
"""
"""C of what all cells use."""
REMEMBER = {
    "gru": """
static void remember(policy_state *state, const int32_t *gates, const int32_t *past) {
    for (int k = 0; k < @size; k++) {
        int32_t reset = sigmoid_at(gates[k] + past[k]), update = sigmoid_at(gates[@size + k] + past[@size + k]);
        int32_t candidate = tanh_at(gates[2 * @size + k] + part(reset, past[2 * @size + k]));
        state->h[k] = (int16_t)(candidate + part(update, state->h[k] - candidate));
    }
}
""",
    "lstm": f"""
static void remember(policy_state *state, const int32_t *gates, const int32_t *past) {{
    for (int k = 0; k < @size; k++) {{
        int32_t into = sigmoid_at(gates[k] + past[k]), forget = sigmoid_at(gates[@size + k] + past[@size + k]);
        int32_t candidate = tanh_at(gates[2 * @size + k] + past[2 * @size + k]);
        int32_t c = part(forget, state->c[k]) + part(into, candidate);
        state->c[k] = c < -{MOST} ? -{MOST} : c > {MOST} ? {MOST} : c;
        state->h[k] = (int16_t)part(sigmoid_at(gates[3 * @size + k] + past[3 * @size + k]),
                                    tanh_at(state->c[k] >> {STATE_BITS - GATE_BITS}));
    }}
}}
""",
}
"""C of what the gates make of what is remembered."""


def cell_code(name: str, one: IntCell, source: str) -> str:
    """The statements that take a cell one step on, after which ``state->h`` is what it gives.

    Args:
        name: of its layer's arrays.
        one: the cell.
        source: what it reads.
    """
    gates, size, read = len(one.inputs.bias), one.step.size, one.inputs.weight.shape[1]
    return (
        f"    {{\n        const int16_t *rows[1] = {{{source}}};\n        int32_t gates[{gates}], before[{gates}];\n"
        f"        layer(rows, 1, {read}, w{name}i, b{name}i, {gates}, gates);\n"
        f"        rows[0] = state->h;\n"
        f"        layer(rows, 1, {size}, w{name}r, b{name}r, {gates}, before);\n"
        f"        for (int k = 0; k < {gates}; k++) {{\n"
        f"            gates[k] = gate_of(gates[k], m{name}i[k], {one.inputs.shift});\n"
        f"            before[k] = gate_of(before[k], m{name}r[k], {one.recurrent.shift});\n"
        f"        }}\n        remember(state, gates, before);\n    }}\n"
    )

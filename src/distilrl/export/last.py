"""The last step of an exported policy: from the head's numbers to the action that the environment takes.

One class for each kind of action, each of which says the same step in every target's language; exporters ask
`last_step` and know no kinds of actions apart.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.errors import SpecError
from distilrl.heads import Categorical, Head, Point
from distilrl.spaces import Bounds, Choices

BEYOND_INT = 2**31
"""C's int holds less on all machines that this is for."""
CLOSE = 1e-5
"""Two real actions are the same where they differ by this share of a half-range or less, and by rounding."""
ROUNDED = 4 * 2.0**-23
"""Share of a number that is lost where a float holds it and it was summed in another order."""
TOLERANCE = 1e-5
"""By how much a file's numbers may differ, as a share; choices only between values closer than that."""
ROUNDINGS = 4
"""Times a student's own rounding by which a file's numbers may differ beyond that: it sums in another order."""
FURTHEST = 100
"""Times what usually lies between the best option of a state and the next, beyond which how far one lies below says
nothing of how finely they are told apart."""
COARSEST = 1e-3
"""And no further: a student that is rounded by more is none to hold a file to."""


class Last(Protocol):
    """How a head's numbers become an action."""

    @property
    def size(self) -> int:
        """Numbers in an action, F or A."""

    @property
    def element(self) -> str:
        """C's type of one of them: int32_t or float."""

    @property
    def scalar(self) -> bool:
        """Whether an action is returned as one number instead of a row."""

    @property
    def uses(self) -> frozenset[str]:
        """Functions of `c_maths.MATHS` that `c_body` calls."""

    @property
    def numbers_name(self) -> str:
        """What the head's numbers are called in ONNX."""

    def prototype(self, obs: str) -> str:
        """C's declaration of ``policy_act`` for this declaration of its observation, without the semicolon."""

    def check_c(self) -> None:
        """Makes sure that C can hold the action.

        Raises:
            SpecError: it cannot.
        """

    def comment(self) -> str:
        """What the action is, for the header; lines of plain text."""

    def c_body(self, values: str = "values[{}]", *, above: str = "values[{}] > values[{}]") -> str:
        """C's statements from the numbers to the action.

        Args:
            values: expression of one of the numbers.
            above: condition that one choice of a block is better than another.
        """

    def onnx(self, graph: Any, numbers: str) -> None:
        """Adds the nodes and the outputs that end a graph."""

    def module(self) -> nn.Module:
        """The step for torch.export: (B, P) to actions as the file gives them."""

    def rows(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions as a file gives them, as (B, F) or (B, A)."""

    def shifted(self, actions: NDArray[Any]) -> NDArray[Any]:
        """The policy's own actions (B, F) or (B, A) as a file gives them: in what the environment takes."""

    def unshifted(self, actions: NDArray[Any]) -> Tensor:
        """`shifted`'s inverse."""

    def possible(self, actions: NDArray[Any]) -> bool:
        """Whether a file's actions (B, F) or (B, A) are such as the environment takes, but for rounding."""

    def golden(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions (B, F) or (B, A) as example.c reads them."""

    def tolerance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """How far real actions may be off: so much, (A,), and such a share of themselves, (A,); None for choices."""

    def near(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """How far others may be from these actions (B, F) or (B, A), of each number: what `tolerance` says."""

    def scales(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        """What differences of numbers (B, P) are counted as a share of, (P,): of choices the largest of all; of real
        actions the largest of each, or its half-range where that is more.
        """

    def allowed(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """How far a file's numbers may be from these (B, P), which are ``rounded`` (P,) themselves, (P,)."""

    def tie(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """As `allowed`, by how much an action may follow from other numbers than these, as `same` takes it."""

    def same(
        self, ours: NDArray[Any], theirs: NDArray[Any], numbers: NDArray[np.float32], tie: NDArray[np.float64]
    ) -> bool:
        """Whether all of a file's actions ``ours`` are ``theirs``.

        Args:
            ours: the file's, (B, F) or (B, A).
            theirs: what is expected.
            numbers: (B, P) from which the expected ones come.
            tie: (P,) numbers that differ by no more than this are the same but for the order of summation; choices
                between such are equally good.
        """

    def distance(self, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
        """How far actions differ: the share of choices, or the root mean square in half-ranges."""


def last_step(head: Head) -> Last:
    """The last step of a policy with this head.

    Raises:
        SpecError: the head's numbers are more than an exported policy gives.

    Example::

        last_step(head).prototype("const obs_t *obs")  # int policy_act(const obs_t *obs)
    """
    if isinstance(head, Categorical):
        return ChoiceStep(head.action, head)
    if isinstance(head, Point) and head.width == head.action.size:
        return RealStep(head.action, head)
    raise SpecError(
        f"A policy whose numbers are '{head.to_json()['kind']}' is not exported as it is: distil it, and export its "
        "student."
    )


@dataclass(frozen=True)
class ChoiceStep:
    """The best of each block of values, counted as the environment counts."""

    action: Choices
    head: Categorical

    numbers_name = "action_values"
    element = "int32_t"
    uses: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return self.action.size

    @property
    def scalar(self) -> bool:
        return self.size == 1

    @property
    def _start(self) -> tuple[int, ...]:
        return self.action.start or (0,) * self.size

    def prototype(self, obs: str) -> str:
        return f"int policy_act({obs})" if self.scalar else f"void policy_act({obs}, int action[{self.size}])"

    def comment(self) -> str:
        ranges = [f"{first} to {first + n - 1}" for first, n in zip(self._start, self.action.nvec, strict=True)]
        if self.scalar:
            return f"The greedy action, {ranges[0]}."
        lines = [f"action[{i}] from {text}" for i, text in enumerate(ranges)]
        return "\n".join(["The greedy action, one number for each choice:", *lines])

    def check_c(self) -> None:
        if max(abs(start) + n for start, n in zip(self._start, self.action.nvec, strict=True)) > BEYOND_INT:
            raise SpecError(
                "Choices that are numbered beyond 31 bits have no place in C's int: number them from 0 in a wrapper, "
                "or distil a network and export it to onnx."
            )

    def c_body(self, values: str = "values[{}]", *, above: str = "values[{}] > values[{}]") -> str:  # noqa: ARG002
        self.check_c()
        lines = ["    int best;"]
        first = 0
        for index, (n, start) in enumerate(zip(self.action.nvec, self._start, strict=True)):
            lines += [f"    best = {first};", f"    for (int a = {first + 1}; a < {first + n}; a++)"]
            lines += [f"        if ({above.format('a', 'best')}) best = a;"]
            moved = (
                "best" if start == first else f"best - {first - start}" if first > start else f"best + {start - first}"
            )
            lines.append(f"    return {moved};" if self.scalar else f"    action[{index}] = {moved};")
            first += n
        return "\n".join(lines) + "\n"

    def onnx(self, graph: Any, numbers: str) -> None:
        graph.output(graph.node("Identity", [numbers], "action_values"), "FLOAT", self.head.width)
        parts = ["action_values"]
        if not self.scalar:
            split = graph.constant(np.array(self.action.nvec, np.int64))
            parts = graph.nodes_of("Split", ["action_values", split], self.size, axis=1)
        best = [graph.node("ArgMax", [part], axis=1, keepdims=0 if self.scalar else 1) for part in parts]
        together = best[0] if self.scalar else graph.node("Concat", best, axis=1)
        kind = "Add" if self.action.start else "Identity"
        start = [graph.constant(np.array(self._start, np.int64))] if self.action.start else []
        graph.output(graph.node(kind, [together, *start], "action"), "INT64", *([] if self.scalar else [self.size]))

    def module(self) -> nn.Module:
        return _Choose(self.action.nvec, self._start)

    def rows(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.reshape(len(actions), self.size).astype(np.int64)

    def shifted(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions + np.asarray(self._start, np.int64)

    def unshifted(self, actions: NDArray[Any]) -> Tensor:
        return torch.from_numpy(actions - np.asarray(self._start, np.int64))

    def possible(self, actions: NDArray[Any]) -> bool:
        first = np.asarray(self._start, np.int64)
        return bool(((actions >= first) & (actions < first + np.asarray(self.action.nvec, np.int64))).all())

    def golden(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.astype("<i4")

    def tolerance(self) -> None:
        return None

    def near(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        return np.zeros(actions.shape)

    def scales(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.full(numbers.shape[1], max(float(np.abs(numbers).max()), 1e-12))

    def allowed(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        scales = self.scales(numbers)
        return np.minimum(TOLERANCE * scales + ROUNDINGS * np.max(rounded), COARSEST * scales)

    def tie(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        # what tells options apart may be a thousandth of what they have in common, or of how far below a mask lies
        blocks = np.split(numbers.astype(np.float64), np.cumsum(self.action.nvec)[:-1], axis=1)
        behind = [np.sort(block.max(1, keepdims=True) - block, axis=1)[:, 1:] for block in blocks]
        apart = [min(one.max(), FURTHEST * float(np.median(one[:, 0]))) if one.size else 0.0 for one in behind]
        tie = TOLERANCE * np.repeat(apart, self.action.nvec) + 2 * ROUNDINGS * np.max(rounded)  # both are rounded
        return np.minimum(tie, self.allowed(numbers, rounded))

    def same(
        self, ours: NDArray[Any], theirs: NDArray[Any], numbers: NDArray[np.float32], tie: NDArray[np.float64]
    ) -> bool:
        first = 0
        for index, (n, start) in enumerate(zip(self.action.nvec, self._start, strict=True)):
            block, apart, first = numbers[:, first : first + n], tie[first], first + n
            one, other = (np.clip(side[:, index] - start, 0, n - 1)[:, None] for side in (ours, theirs))
            behind = np.take_along_axis(block, other, 1) - np.take_along_axis(block, one, 1)
            if bool((behind > apart).any()):
                return False
        return self.possible(ours)

    def distance(self, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
        return float((ours != theirs).mean())


@dataclass(frozen=True)
class RealStep:
    """Real numbers brought into their bounds, in the environment's own units."""

    action: Bounds
    head: Point

    numbers_name = "mean"
    element = "float"
    scalar = False

    @property
    def size(self) -> int:
        return self.action.size

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"tanh"} if self.head.squash == "tanh" else ())

    def prototype(self, obs: str) -> str:
        return f"void policy_act({obs}, float action[{self.size}])"

    def check_c(self) -> None:
        """Floats hold all."""

    def comment(self) -> str:
        ends = [
            " ".join(
                f"{word} {value:.9g}"
                for word, value in (("from", low), ("to", high))
                if value is not None
            )
            or "without bounds"
            for low, high in zip(self.action.low, self.action.high, strict=True)
        ]  # fmt: skip
        how = "squashed by tanh into its bounds" if self.head.squash == "tanh" else "clipped to its bounds"
        told = f"The action in the environment's own units, {how}:"
        if len(set(ends)) == 1:
            return f"{told}\neach number {ends[0]}."
        return "\n".join([told, *(f"action[{i}] {text}" for i, text in enumerate(ends))])

    def c_body(self, values: str = "values[{}]", *, above: str = "") -> str:  # noqa: ARG002
        size = self.size
        if self.head.squash == "tanh":
            arrays = (("middle", self.action.middle), ("half", self.action.half))
            return (
                "".join(f"    static const float {name}[{size}] = {{{literals(array)}}};\n" for name, array in arrays)
                + f"    for (int i = 0; i < {size}; i++)\n"
                + f"        action[i] = middle[i] + half[i] * tanh_of({values.format('i')});\n"
            )
        lines = []
        for i, (low, high) in enumerate(zip(self.action.low, self.action.high, strict=True)):
            text = value = values.format(i)
            text = text if high is None else f"{value} > {literal(high)} ? {literal(high)} : {text}"
            text = text if low is None else f"{value} < {literal(low)} ? {literal(low)} : {text}"
            lines.append(f"    action[{i}] = {text};\n")
        return "".join(lines)

    def onnx(self, graph: Any, numbers: str) -> None:
        graph.output(graph.node("Identity", [numbers], "mean"), "FLOAT", self.size)
        if self.head.squash == "tanh":
            scaled = graph.node("Mul", [graph.node("Tanh", ["mean"]), graph.constant(self.action.half)])
            last = graph.node("Add", [scaled, graph.constant(self.action.middle)], "action")
        else:
            low, high = self._ends()
            above = graph.node("Max", ["mean", graph.constant(low)])
            last = graph.node("Min", [above, graph.constant(high)], "action")
        graph.output(last, "FLOAT", self.size)

    def _ends(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low, high = (end.astype(np.float32) for end in self.action.ends)
        return low, high

    def module(self) -> nn.Module:
        if self.head.squash == "tanh":
            return _Squash(torch.from_numpy(self.action.middle), torch.from_numpy(self.action.half))
        low, high = self._ends()
        return _Clip(torch.from_numpy(low), torch.from_numpy(high))

    def rows(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.reshape(len(actions), self.size).astype(np.float32)

    def shifted(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions

    def unshifted(self, actions: NDArray[Any]) -> Tensor:
        return torch.from_numpy(actions)

    def possible(self, actions: NDArray[Any]) -> bool:
        low, high = self.action.ends
        spare = [self.near(np.where(np.isfinite(end), end, 0.0)) for end in (low, high)]
        return bool(((actions >= low - spare[0]) & (actions <= high + spare[1])).all())

    def golden(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.astype("<f4")

    @property
    def _open(self) -> NDArray[np.bool_]:
        """(A,) where a side is open, so that only the numbers themselves say how large they are."""
        return np.array([None in pair for pair in zip(self.action.low, self.action.high, strict=True)])

    def tolerance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        share = np.where(self._open, CLOSE, ROUNDED)
        return (CLOSE * self.action.half).astype(np.float32), share.astype(np.float32)

    def near(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        close, share = self.tolerance()
        near: NDArray[np.float64] = close + share * np.abs(actions).astype(np.float64)
        return near

    def _units(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        """(P,) of which small shares do not matter in an action."""
        if self.head.squash == "tanh":
            return np.ones(self.size)
        largest = np.maximum(np.abs(numbers).max(0).astype(np.float64), 1e-12)
        return np.where(self._open, largest, self.action.half)

    def scales(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        scales: NDArray[np.float64] = np.maximum(np.abs(numbers).max(0), self._units(numbers))
        return scales

    def allowed(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        # numbers that reach far beyond the bounds are summed of such as large, of which less is left within them
        summed = ROUNDINGS * rounded + ROUNDED * np.abs(numbers).max(0)
        allowed: NDArray[np.float64] = TOLERANCE * self._units(numbers) + summed
        return np.minimum(allowed, COARSEST * self.scales(numbers))

    def tie(self, numbers: NDArray[np.float32], rounded: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return self.allowed(numbers, rounded)

    def same(
        self,
        ours: NDArray[Any],
        theirs: NDArray[Any],
        numbers: NDArray[np.float32],  # noqa: ARG002
        tie: NDArray[np.float64],
    ) -> bool:
        inside = tie * (self.action.half if self.head.squash == "tanh" else 1.0)
        return bool((np.abs(ours - theirs) <= self.near(theirs) + inside).all())

    def distance(self, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
        # an open side has no half-range: there the spread of the actions is the measure, where that is larger
        spread = np.where(self._open, theirs.std(0), 0.0)
        return float(np.sqrt(np.square((ours - theirs) / np.maximum(self.action.half, spread)).mean()))


class _Choose(nn.Module):
    """(B, P) to (B,) of one choice or (B, F) of several, counted from their starts."""

    start: Tensor

    def __init__(self, nvec: tuple[int, ...], start: tuple[int, ...]) -> None:
        super().__init__()
        self.nvec = nvec
        self.register_buffer("start", torch.tensor(start))

    def forward(self, numbers: Tensor) -> Tensor:
        blocks = torch.split(numbers, list(self.nvec), dim=1)
        best = torch.stack([block.argmax(1) for block in blocks], dim=1) + self.start
        return best[:, 0] if len(self.nvec) == 1 else best


class _Squash(nn.Module):
    """(B, A) to (B, A) within bounds by tanh."""

    middle: Tensor
    reach: Tensor

    def __init__(self, middle: Tensor, reach: Tensor) -> None:
        super().__init__()
        self.register_buffer("middle", middle)
        self.register_buffer("reach", reach)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.middle + self.reach * torch.tanh(numbers)


class _Clip(nn.Module):
    """(B, A) to (B, A) within bounds by clipping."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, numbers: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(numbers, self.high), self.low)


def literals(array: NDArray[np.float32]) -> str:
    """C's literals of an array, with commas, that read back to the same floats."""
    return ",".join(literal(float(x)) for x in array.reshape(-1))


def literal(value: float) -> str:
    """C's literal of a number in single precision."""
    return f"{np.format_float_scientific(np.float32(value), unique=True, trim='0')}f"

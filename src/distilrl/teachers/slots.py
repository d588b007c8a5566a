"""What an ONNX graph remembers: inputs that carry a state, each with the output from which it goes on.

Exporters give the two one name with a word for the direction, ``h_in`` and ``h_out`` or ``state`` and ``next_state``,
and one shape.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import FileError
from distilrl.limits import MAX_STATE

DIRECTIONS = {"in", "out", "input", "output", "next", "new"}
"""Words of a name that only say whether it is before or after a step."""
FLOATS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


MOST_INPUTS = 64
"""Of a graph: an observation, and a state in parts."""


@dataclass(frozen=True)
class Slot:
    """One part of a state."""

    input: str
    output: str
    shape: tuple[int, ...]
    """Of one episode's: the input's without the batch."""
    axis: int
    """Of the batch in the input."""
    dtype: type[np.generic]

    def feed(self, part: NDArray[Any]) -> NDArray[Any]:
        """States (N, *shape) as the input wants them."""
        return np.ascontiguousarray(np.moveaxis(part.astype(self.dtype), 0, self.axis))

    def after(self, part: NDArray[Any]) -> NDArray[Any]:
        """What the output gives as states (N, *shape)."""
        return np.moveaxis(part, self.axis, 0)

    def zeros(self, count: int) -> NDArray[Any]:
        """States (count, *shape) at the start of episodes."""
        return np.zeros((count, *self.shape), np.float32)


def find_slots(inputs: Sequence[Any], outputs: Sequence[Any], path: Path) -> tuple[Any, tuple[Slot, ...], int | None]:
    """The input that is an observation, the state, and how many episodes a call takes; None: any number.

    Args:
        inputs: of the session.
        outputs: of the session.
        path: the file.

    Raises:
        FileError: more than one input has no output to go on from, or the size of a state is not fixed.
    """
    if len(inputs) > MOST_INPUTS:
        raise FileError(f"{path} has {len(inputs)} inputs, more than {MOST_INPUTS}: export the policy alone.")
    pairs = [(one, _partner(one, inputs, outputs)) for one in inputs] if len(inputs) > 1 else [(inputs[0], None)]
    seen = [one for one, partner in pairs if partner is None]
    if len(seen) != 1:
        names = ", ".join(str(one.name) for one in inputs)[:120]
        raise FileError(
            f"{path} has {len(inputs)} inputs ({names}): one observation is needed (the parts of a Dict as one vector, "
            "an image last), and beside it only states, each with an output of its shape whose name differs as h_in "
            "and h_out do."
        )
    states = [(one, partner) for one, partner in pairs if partner is not None]
    first = tuple(seen[0].shape)[:1]
    free = all(any(not _fixed(n) for n in one.shape) for one, _ in states) and not (first and _fixed(first[0]))
    batch = None if free else next((n for n in first if _fixed(n)), 1)
    slots = tuple(_slot(one, partner, batch, path) for one, partner in states)
    if sum(math.prod(slot.shape) for slot in slots) > MAX_STATE:
        raise FileError(f"{path} has a state of more than {MAX_STATE:,} numbers: no policy remembers so much.")
    return seen[0], slots, batch


def _partner(one: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The output that an input goes on from; None where there is none, or where several could be."""
    if not _key(one.name):  # a bare 'input' is no state
        return None
    same = [other for other in inputs if _key(other.name) == _key(one.name)]
    fits = [out for out in outputs if _key(out.name) == _key(one.name) and _alike(out, one)]
    return fits[0] if len(same) == len(fits) == 1 and one.type in FLOATS and fits[0].type == one.type else None


def _key(name: str) -> tuple[str, ...]:
    """A name's words without those for a direction; PyTorch's h0 and hn are both h."""
    words = re.findall(r"[a-z]+\d*|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return tuple(re.sub(r"^([hc])[0nxy]$", r"\1", word) for word in words if word not in DIRECTIONS)


def _alike(out: Any, one: Any) -> bool:
    """Whether two shapes may be the same."""
    pairs = zip(out.shape, one.shape, strict=False)
    return len(out.shape) == len(one.shape) and all(a == b for a, b in pairs if _fixed(a) and _fixed(b))


def _fixed(size: Any) -> bool:
    return isinstance(size, int) and size > 0


def _slot(one: Any, partner: Any, batch: int | None, path: Path) -> Slot:
    sizes = list(one.shape)
    free = [axis for axis, size in enumerate(sizes) if not _fixed(size)]
    whole = [axis for axis in ([1, 0] if len(sizes) > 2 else [0]) if sizes[axis : axis + 1] == [batch]]
    axes = free or whole
    if len(free) > 1 or not axes or len(sizes) < 2 or math.prod(n for n in sizes if _fixed(n)) > MAX_STATE:
        raise FileError(
            f"{path} has the state '{one.name}' of shape {tuple(sizes)}: one of its sizes must be the batch's, and "
            "the others small and fixed, as in (layers, batch, numbers)."
        )
    shape = tuple(size for axis, size in enumerate(sizes) if axis != axes[0])
    return Slot(one.name, partner.name, shape, axes[0], FLOATS[one.type])

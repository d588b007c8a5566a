"""Gymnasium's spaces as stable-baselines3 prints them into its zips: readable text beside a pickled object that is
never looked at.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from distilrl.errors import SpecError
from distilrl.limits import MAX_PRINTED
from distilrl.spaces import SMALLEST_IMAGE, ActionSpec, Bounds, Choices, channels_last, in_front

MOST_SIDES = 64
"""Sides of a space."""
_NUMBER = re.compile(r"[+-]?(?:inf|\d{1,30}\.?\d{0,30}(?:e[+-]?\d{1,3})?|\.\d{1,30})", re.IGNORECASE)
_SPACE = re.compile(r"'([^']{1,100})'(?:: |, )(Box|Discrete|MultiBinary|MultiDiscrete)\(")


@dataclass(frozen=True)
class Leaf:
    """One part of an observation space."""

    key: str
    """Its key in a Dict; empty for a space of one part."""
    shape: tuple[int, ...]
    """Its shape after flattening what is no Box."""
    image: bool = False
    """Whether stable-baselines3 takes it for an image: a Box of three dimensions and bytes from 0 to 255."""
    picture: bool = False
    """Whether this project does: any Box of three dimensions, or of bytes and two."""
    dtype: str = ""
    """Type of a Box's numbers; empty for others."""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def last(self) -> bool:
        """Whether this project brings its last side to the front, and stable-baselines3 takes it as it comes. What that
        takes for an image is printed with its channels in front, unless all sides are alike.
        """
        return self.picture and channels_last(self.shape) and (not self.image or len(set(self.shape)) == 1)

    @property
    def seen(self) -> tuple[int, ...]:
        """Its shape as this project gives it: (C, H, W) of a picture, else (D,)."""
        if not self.picture:
            return (self.size,)
        return in_front(self.shape) if self.last or len(self.shape) == 2 else self.shape


def action_spec(space: Any) -> ActionSpec | None:
    """The actions of a printed space; None where it is not printed, printed in part (long arrays), or of a kind that is
    not known.

    Example::

        action_spec({":type:": "<class 'gymnasium.spaces.box.Box'>", "shape": [1], "low": "[-2.]", "high": "[2.]"})
    """
    kind = kind_of(space)
    try:
        if kind == "Box":
            shape = _shape(space)
            low, high = (_array(space, side, math.prod(shape)) for side in ("low", "high"))
            if shape and low and high:
                return Bounds(low, high, shape if len(shape) != 1 else ())
        elif kind == "Discrete":
            return Choices((_whole(space.get("n")),))
        elif kind == "MultiDiscrete":
            shape = _shape(space)
            nvec = _array(space, "nvec", math.prod(shape))
            if nvec:
                return Choices(tuple(_whole(n) for n in nvec), (), "MultiDiscrete", shape)
        elif kind == "MultiBinary":
            shape = _shape(space)
            return Choices((2,) * math.prod(shape), (), "MultiBinary", shape)
    except (SpecError, ValueError, TypeError, OverflowError):
        pass
    return None


def leaves(space: Any) -> list[Leaf] | None:
    """Parts of a printed observation space, in its own order; None where it cannot be read."""
    kind = kind_of(space)
    try:
        if kind == "Box":
            full = (_printed(space.get("low")), _printed(space.get("high"))) == ({0.0}, {255.0})
            return [_box("", _shape(space), str(space.get("dtype")), full)]
        if kind == "Dict":
            return _dict(str(space.get("spaces"))[:MAX_PRINTED])
    except (ValueError, TypeError, OverflowError):
        pass
    return None


def kind_of(space: Any) -> str:
    """Name of a space's class."""
    found = re.search(r"\.(\w+)'>$", str(space.get(":type:"))[-100:]) if isinstance(space, dict) else None
    return found[1] if found else ""


def _shape(space: dict[str, Any]) -> tuple[int, ...]:
    """Shape of a space, each side at least 1."""
    shape = space.get("shape", space.get("_shape"))
    if shape is None and "n" in space:
        shape = space["n"]
    listed = shape if isinstance(shape, list) else [shape]
    if len(listed) > MOST_SIDES:
        raise ValueError(f"a space of {len(listed)} sides")
    sides = tuple(_whole(n) for n in listed)
    if math.prod(sides) > MAX_PRINTED:
        raise ValueError(f"a space of shape {sides}")
    return sides


def _whole(value: Any) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | str)
        or len(str(value)) > 20
        or int(float(value)) < 1
    ):
        raise ValueError(f"size {value!r:.40}")
    return int(float(value))


def _array(space: dict[str, Any], name: str, size: int) -> tuple[float | None, ...] | None:
    """Numbers of a printed array, None for infinite ones; None where numpy left some out."""
    text = space.get(name)
    numbers = _numbers(text)
    if numbers is None or len(numbers) != size:
        one = _numbers(space.get(f"{name}_repr"))  # a long array of one number is printed in full as that number
        numbers = one * size if one is not None and len(one) == 1 else None
    return None if numbers is None else tuple(n if abs(n) < 1e30 else None for n in numbers)


def _printed(text: Any) -> set[float]:
    """The different numbers of a printed array, of which numpy leaves some out where it is long."""
    return set(_numbers(str(text).replace("...", " ")) or ())


def _numbers(text: Any) -> list[float] | None:
    if not isinstance(text, str) or len(text) > MAX_PRINTED:
        return None
    words = re.sub(r"[\[\],]", " ", text).split()
    return [float(word) for word in words] if words and all(_NUMBER.fullmatch(word) for word in words) else None


def _dict(text: str) -> list[Leaf] | None:
    """Parts of a Dict, printed as ``{'a': Box(-1.0, 1.0, (3,), float32), 'b': Discrete(4)}``."""
    found = []
    rest, end = _SPACE.sub("", text), 0
    while (match := _SPACE.search(text, end)) is not None:
        body = _within(text, match.end())
        end = match.end() + len(body)
        if match[2] == "Box":
            tail = re.search(r"\((\d[\d, ]{0,60})\), (\w+)$", body)
            if tail is None:
                return None
            full = _printed(body[: tail.start()]) == {0.0, 255.0}
            found.append(_box(match[1], tuple(int(n) for n in re.findall(r"\d+", tail[1])), tail[2], full))
        else:
            numbers = [int(n) for n in re.findall(r"\d{1,9}", body.split("start")[0])]
            size = math.prod(numbers) if match[2] == "MultiBinary" else sum(numbers)
            found.append(Leaf(match[1], (size,)))
    return found if found and "Dict(" not in rest.replace("OrderedDict(", "") and "Tuple(" not in rest else None


def _box(key: str, shape: tuple[int, ...], dtype: str, full: bool) -> Leaf:
    """A Box; ``full``: its numbers go from 0 to 255."""
    small = len(shape) == 2 and dtype == "uint8" and min(shape) >= SMALLEST_IMAGE
    return Leaf(key, shape, len(shape) == 3 and dtype == "uint8" and full, len(shape) == 3 or small, dtype)


def _within(text: str, start: int) -> str:
    """What follows an opening bracket, up to its closing one.

    Raises:
        ValueError: there is none.
    """
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    raise ValueError("a bracket that is not closed")

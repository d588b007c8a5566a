"""What an environment takes: choices, or real numbers between bounds.

An action is one row of numbers: the index chosen in each of F factors (`Choices`), or A real numbers in the space's
own units (`Bounds`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from distilrl.errors import BoundsError, EnvError, SpecError


@dataclass(frozen=True)
class Choices:
    """F choices, each of a few: Discrete (F = 1), MultiDiscrete, MultiBinary. Inside the project all count from 0."""

    nvec: tuple[int, ...]
    """(F,) how many there are to choose from."""
    start: tuple[int, ...] = ()
    """(F,) what the environment adds to the first of each; () for 0."""
    space: Literal["Discrete", "MultiDiscrete", "MultiBinary"] = "Discrete"
    """Kind of the environment's space."""
    shape: tuple[int, ...] = ()
    """Shape of the environment's action; () for Discrete."""

    def __post_init__(self) -> None:
        if not self.nvec or min(self.nvec) < 1:
            raise SpecError(f"Choices need at least one factor, and each something to choose from, got {self.nvec}.")
        if self.start and len(self.start) != len(self.nvec):
            raise SpecError(f"Choices have {len(self.nvec)} factors but {len(self.start)} starts: give one for each.")

    @property
    def size(self) -> int:
        """Numbers in an action, F."""
        return len(self.nvec)

    @property
    def counted_from(self) -> tuple[int, ...]:
        """What the environment adds to the first of each, (F,); empty where all count from 0."""
        return self.start if any(self.start) else ()

    @property
    def bounded(self) -> bool:
        """Whether every action lies within bounds: choices do."""
        return True

    @property
    def numpy(self) -> type[np.generic]:
        """Type in which an action of the policy is passed on."""
        return np.int64

    @property
    def stored(self) -> type[np.generic]:
        """Smallest type that holds an action."""
        return np.uint8 if max(self.nvec) <= 256 else np.int32 if max(self.nvec) <= 2**31 else np.int64

    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Choices have no bounds.

        Raises:
            BoundsError: always.
        """
        raise BoundsError("numbers from −1 to 1 cannot stand for choices: leave --squash out")

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Random actions (count, F)."""
        return np.stack([rng.integers(0, n, count) for n in self.nvec], axis=1)

    def for_env(self, actions: NDArray[Any]) -> list[Any]:
        """Actions (N, F) as the environment takes them, one by one."""
        moved = actions + np.asarray(self.start, np.int64) if self.start else actions
        if self.space == "Discrete":
            return list(moved[:, 0].astype(np.int64))  # scalars, as `Discrete.sample` gives them
        kind = np.int8 if self.space == "MultiBinary" else np.int64
        return list(moved.astype(kind).reshape(-1, *self.shape))

    def holds(self, action: Sequence[float]) -> bool:
        """Whether these numbers are one of these actions."""
        pairs = zip(action, self.nvec, strict=False)
        return len(action) == self.size and all(0 <= a < n and a == int(a) for a, n in pairs)

    def within(self, env: "ActionSpec") -> "Choices":
        """These choices as an environment has them.

        Raises:
            SpecError: its actions are others.
        """
        if not isinstance(env, Choices) or env.nvec != self.nvec:
            raise SpecError(f"These are {self.describe()}, but the environment has {env.describe()}.")
        return env

    def describe(self) -> str:
        """In few words."""
        return f"{self.nvec[0]} actions" if self.size == 1 else f"choices of {', '.join(map(str, self.nvec))}"


@dataclass(frozen=True)
class Bounds:
    """A real numbers between bounds: Box.

    A side without a bound is None; where a scale is needed, its half-range counts as 1 around 0.
    """

    low: tuple[float | None, ...]
    """(A,) smallest values."""
    high: tuple[float | None, ...]
    """(A,) largest values."""
    shape: tuple[int, ...] = ()
    """Shape of the environment's action; () for (A,)."""

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise SpecError(
                f"Bounds need as many low as high ends, at least one, got {len(self.low)} and {len(self.high)}."
            )
        if any(
            low is not None and high is not None and not low < high
            for low, high in zip(self.low, self.high, strict=True)
        ):
            raise SpecError(f"The low end of an action must lie below its high end, got {self.low} and {self.high}.")

    @property
    def size(self) -> int:
        """Numbers in an action, A."""
        return len(self.low)

    @property
    def counted_from(self) -> tuple[int, ...]:
        """Real numbers are not counted."""
        return ()

    @property
    def numpy(self) -> type[np.generic]:
        """Type in which an action of the policy is passed on."""
        return np.float32

    @property
    def stored(self) -> type[np.generic]:
        """Type that holds an action."""
        return np.float32

    @property
    def bounded(self) -> bool:
        """Whether every side has a bound."""
        return None not in (*self.low, *self.high)

    @property
    def half(self) -> NDArray[np.float32]:
        """(A,) half of each range; 1 where a side is open."""
        pairs = zip(self.low, self.high, strict=True)
        return np.array([1.0 if low is None or high is None else (high - low) / 2 for low, high in pairs], np.float32)

    @property
    def middle(self) -> NDArray[np.float32]:
        """(A,) middle of each range; 0 where a side is open."""
        pairs = zip(self.low, self.high, strict=True)
        return np.array([0.0 if low is None or high is None else (high + low) / 2 for low, high in pairs], np.float32)

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest values, (A,) each; infinite where a side is open."""
        low = [-np.inf if n is None else n for n in self.low]
        high = [np.inf if n is None else n for n in self.high]
        return np.array(low, np.float64), np.array(high, np.float64)

    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Middle and half (A,) of each range, of which −1 to 1 are the ends.

        Raises:
            BoundsError: a side is open.
        """
        if not self.bounded:
            raise BoundsError(
                "numbers from −1 to 1 cannot stand for bounds of which one is open: say --squash clip where they are "
                "the action itself"
            )
        return self.middle, self.half

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Random actions (count, A), uniform; where a side is open, from [-1, 1], cut at the other side, or up to 2
        from that where it lies beyond.
        """
        low, high = self.ends
        above, below = np.isinf(high) & (low >= 1), np.isinf(low) & (high <= -1)
        middle = np.where(above, low + 1, np.where(below, high - 1, self.middle))
        drawn = middle + self.half * rng.uniform(-1, 1, (count, self.size))
        return np.clip(drawn, low, high).astype(np.float32)

    def for_env(self, actions: NDArray[Any]) -> list[Any]:
        """Actions (N, A) as the environment takes them, one by one."""
        return list(actions.astype(np.float32).reshape(-1, *(self.shape or (self.size,))))

    def holds(self, action: Sequence[float]) -> bool:
        """Whether these numbers are an action; one beyond its bounds is clipped to them."""
        return len(action) == self.size and all(math.isfinite(a) for a in action)

    def within(self, env: "ActionSpec") -> "Bounds":
        """These bounds, by which a policy was scaled, in an environment with as many numbers; a side that is open here
        ends where the environment's does.

        Raises:
            SpecError: its actions are others.
            BoundsError: it has other bounds.
        """
        if not isinstance(env, Bounds) or env.size != self.size:
            raise SpecError(f"These are {self.describe()}, but the environment has {env.describe()}.")
        for place, sides in enumerate(zip(self.low, env.low, self.high, env.high, strict=True)):
            if _apart(*sides[:2]) or _apart(*sides[2:]):
                low, known_low, high, known_high = ("open" if side is None else f"{side:g}" for side in sides)
                raise BoundsError(
                    f"number {place} of its actions goes from {low} to {high}, and of the environment's from "
                    f"{known_low} to {known_high}: choose the environment it was trained in, or wrap this one"
                )
        return replace(self, low=_filled(self.low, env.low), high=_filled(self.high, env.high))

    def describe(self) -> str:
        """In few words."""
        return f"{self.size} real number{'s' if self.size > 1 else ''}"


def _apart(one: float | None, other: float | None) -> bool:
    """Whether two ends differ by more than rounding; an open one is no other."""
    return one is not None and other is not None and abs(one - other) > 1e-4 * max(1.0, abs(one))


def _filled(own: Sequence[float | None], theirs: Sequence[float | None]) -> tuple[float | None, ...]:
    """One side's ends, those of the other where it is open."""
    return tuple(other if one is None else one for one, other in zip(own, theirs, strict=True))


ActionSpec = Choices | Bounds


def read_actions(space: spaces.Space[Any], name: str) -> ActionSpec:
    """The spec of an action space.

    Raises:
        EnvError: it is none of Discrete, MultiDiscrete, MultiBinary and Box.
    """
    if isinstance(space, spaces.Discrete):
        return Choices((int(space.n),), (int(space.start),) if space.start else ())
    if isinstance(space, spaces.MultiDiscrete):
        start = tuple(int(n) for n in np.asarray(space.start).reshape(-1))
        nvec = tuple(int(n) for n in np.asarray(space.nvec).reshape(-1))
        return Choices(nvec, start if any(start) else (), "MultiDiscrete", tuple(space.shape))
    if isinstance(space, spaces.MultiBinary):
        return Choices((2,) * math.prod(space.shape), (), "MultiBinary", tuple(space.shape))
    if isinstance(space, spaces.Box):
        low, high = (tuple(finite_or_none(v) for v in side.reshape(-1)) for side in (space.low, space.high))
        try:
            return Bounds(low, high, tuple(space.shape) if len(space.shape) != 1 else ())
        except SpecError as error:
            raise EnvError(f"'{name}' has actions that cannot be used: {error}") from None
    raise EnvError(
        f"'{name}' has {type(space).__name__} actions: Discrete, MultiDiscrete, MultiBinary and Box can be used; "
        "flatten the others in a wrapper."
    )


def action_from_json(data: Any, where: str = "action") -> ActionSpec:
    """Reads what ``dataclasses.asdict`` made of an action spec.

    Raises:
        SpecError: it is damaged.
    """
    try:
        if "nvec" in data:
            kind = data.get("space", "Discrete")
            if kind not in ("Discrete", "MultiDiscrete", "MultiBinary"):
                raise ValueError(f"space {kind!r:.40}")
            nvec, start, shape = (tuple(int(n) for n in data.get(name, ())) for name in ("nvec", "start", "shape"))
            return Choices(nvec, start, kind, shape)
        low, high = (tuple(None if n is None else _number(n) for n in data[name]) for name in ("low", "high"))
        return Bounds(low, high, tuple(int(n) for n in data.get("shape", ())))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SpecError(f"'{where}' is damaged ({error}): it needs 'nvec', or 'low' and 'high'.") from None


def _number(value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"bound {value!r}")
    return float(value)


def finite_or_none(value: Any) -> float | None:
    """None for a bound that is none: infinite, or so large that nobody means it."""
    return float(value) if abs(float(value)) < 1e30 else None

"""Spaces as plain data: what a policy reads, what it answers, and which environment gives and takes it.

An observation is one array. An image alone stays an image (C, H, W), bytes where the space has bytes; anything else (a Box of any shape,
Discrete, MultiDiscrete, MultiBinary, and Tuples and Dicts of these) is flattened into one vector (D,) of floats. Where there are both, the
image's numbers follow the vector's, and `ObsSpec.image` says how many they are.

An action is one row of numbers: the index chosen in each of F factors (`Choices`), or A real numbers in the space's own units (`Bounds`).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from distilrl.errors import EnvError, SpecError

SMALLEST_IMAGE = 8
"""A picture without channels must be at least this high and wide to be taken for one."""

LARGEST_OBSERVATION = 2**24
"""Numbers that a file may ask for in one observation."""


@dataclass(frozen=True)
class ObsSpec:
    """What a policy reads."""

    shape: tuple[int, ...]
    """Shape of one observation: (C, H, W) of an image alone, else (D,)."""
    image: tuple[int, int, int] | None = None
    """(C, H, W) of the image, if there is one. Beside a vector, it is the last C·H·W numbers of the observation."""
    dtype: Literal["uint8", "float32"] = "float32"
    """Bytes for an image of bytes alone, else floats."""
    frames: int = 1
    """Frames of time that are stacked in an image's channels, the newest last."""
    reach: tuple[float | None, ...] = ()
    """Largest absolute value of each number of a vector, as its space declares it; None where it declares none."""
    names: tuple[str, ...] = ()
    """Name of each number of a vector."""

    @property
    def pixels(self) -> bool:
        """Whether the observation is an image alone."""
        return len(self.shape) == 3

    @property
    def vector(self) -> int:
        """Numbers of the vector; 0 where there is an image alone."""
        return 0 if self.pixels else self.shape[0] - (math.prod(self.image) if self.image else 0)

    @property
    def numpy(self) -> type[np.generic]:
        """NumPy's type of one number."""
        return np.uint8 if self.dtype == "uint8" else np.float32


@dataclass(frozen=True)
class Choices:
    """F choices, each of a few: Discrete (F = 1), MultiDiscrete, MultiBinary. Inside the project all of them count from 0."""

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
    def bounded(self) -> bool:
        """There are as many as there are."""
        return True

    @property
    def numpy(self) -> type[np.generic]:
        """Type in which an action of the policy is passed on."""
        return np.int64

    @property
    def stored(self) -> type[np.generic]:
        """Smallest type that holds an action."""
        return np.uint8 if max(self.nvec) <= 256 else np.int32 if max(self.nvec) <= 2**31 else np.int64

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Random actions (count, F)."""
        return np.stack([rng.integers(0, n, count) for n in self.nvec], axis=1)

    def for_env(self, actions: NDArray[Any]) -> list[Any]:
        """Actions (N, F) as the environment takes them, one by one."""
        moved = actions + np.asarray(self.start, np.int64) if self.start else actions
        if self.space == "Discrete":
            return [int(a) for a in moved[:, 0]]
        kind = np.int8 if self.space == "MultiBinary" else np.int64
        return list(moved.astype(kind).reshape(-1, *self.shape))

    def holds(self, action: Sequence[float]) -> bool:
        """Whether these numbers are one of these actions."""
        return len(action) == self.size and all(0 <= a < n and a == int(a) for a, n in zip(action, self.nvec, strict=True))

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
    """A real numbers between bounds: Box. A side without a bound is None; where a scale is needed, its half-range counts as 1 around 0."""

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

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Random actions (count, A), uniform; where a side is open, from [-1, 1], cut at the other side."""
        drawn = self.middle + self.half * rng.uniform(-1, 1, (count, self.size))
        low = [-np.inf if n is None else n for n in self.low]
        high = [np.inf if n is None else n for n in self.high]
        return np.clip(drawn, low, high).astype(np.float32)

    def for_env(self, actions: NDArray[Any]) -> list[Any]:
        """Actions (N, A) as the environment takes them, one by one."""
        return list(actions.astype(np.float32).reshape(-1, *(self.shape or (self.size,))))

    def holds(self, action: Sequence[float]) -> bool:
        """Whether these numbers are an action; one beyond its bounds is clipped to them."""
        return len(action) == self.size and all(math.isfinite(a) for a in action)

    def within(self, env: "ActionSpec") -> "Bounds":
        """These bounds, by which a policy was scaled, in an environment with as many numbers.

        Raises:
            SpecError: its actions are others.
        """
        if not isinstance(env, Bounds) or env.size != self.size:
            raise SpecError(f"These are {self.describe()}, but the environment has {env.describe()}.")
        return self

    def describe(self) -> str:
        """In few words."""
        return f"{self.size} real numbers"


ActionSpec = Choices | Bounds


@dataclass(frozen=True)
class EnvRef:
    """An environment by name, and what is put around it: all that another machine needs to make it again."""

    id: str
    """Gymnasium id; ``module:Env-id`` imports the module first."""
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    """What the environment is made with."""
    wrappers: tuple[str, ...] = ()
    """``module:Class`` around it, the innermost first, each made with the environment alone."""
    grey: bool = False
    """Images lose their colours."""
    resize: tuple[int, int] | None = None
    """(H, W) to which images are shrunk or grown."""
    stack: int = 1
    """Frames of time in one image."""
    zeros: int = 0
    """Zeros appended to a vector, for policies that were trained with more numbers than the environment now gives."""
    factory: Callable[..., gymnasium.Env[Any, Any]] | None = field(default=None, repr=False)
    """Makes the environment instead of ``id``; from Python only, and not kept in config.json."""
    named: bool = field(default=True, compare=False, repr=False)
    """Whether the user wrote it; a file's modules are imported only if they are trusted (`trust`)."""

    def __post_init__(self) -> None:
        if not self.id:
            raise SpecError("An environment needs an id, e.g. CartPole-v1 or my_package:MyEnv-v0.")
        if self.stack < 1 or (self.resize is not None and min(self.resize) < 1) or self.zeros < 0:
            raise SpecError(f"'stack' and 'resize' of {self.id} must be at least 1, and 'zeros' at least 0.")
        if self.stack * math.prod(self.resize or (1, 1)) + self.zeros > LARGEST_OBSERVATION:
            raise SpecError(
                f"'stack', 'resize' and 'zeros' of {self.id} ask for more than {LARGEST_OBSERVATION:,} numbers: choose less."
            )

    @property
    def label(self) -> str:
        """The environment in few words: its id, and what it is made with."""
        return self.id + (f" {json.dumps(self.kwargs, default=str)}" if self.kwargs else "")

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that making it imports by name."""
        return tuple(text.partition(":")[0] for text in (self.id, *self.wrappers) if ":" in text)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back; what is not set is left out.

        Raises:
            SpecError: ``kwargs`` hold what JSON cannot.
        """
        default = EnvRef(self.id)
        kept = [f.name for f in fields(self) if f.name not in ("factory", "named")]
        data = {
            name: getattr(self, name) for name in kept if name == "id" or getattr(self, name) != getattr(default, name)
        }
        try:
            plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"The kwargs of '{self.id}' must be plain numbers, texts, lists and objects ({error})."
            ) from None
        return plain

    @classmethod
    def from_json(cls, data: Any, where: str = "env") -> "EnvRef":
        """Reads what a file says; modules that it names are then imported only if they are trusted.

        Raises:
            SpecError: the data is damaged.
        """
        if isinstance(data, str):
            return cls(data, named=False)
        kinds = {"id": str, "kwargs": dict, "wrappers": list, "grey": bool, "resize": list, "stack": int, "zeros": int}
        if not isinstance(data, dict) or "id" not in data or set(data) - set(kinds):
            raise SpecError(
                f"'{where}' must be an environment's id, or an object of {', '.join(kinds)}, got {data!r:.120}."
            )
        for name, value in data.items():
            if type(value) is not kinds[name]:
                raise SpecError(f"'{where}.{name}' must be a {kinds[name].__name__}, got {value!r:.60}.")
        resize, wrappers = data.get("resize", [1, 1]), data.get("wrappers", [])
        if len(resize) != 2 or any(type(n) is not int for n in resize):
            raise SpecError(f"'{where}.resize' must be [height, width], got {resize!r:.60}.")
        if any(type(text) is not str for text in wrappers):
            raise SpecError(f"'{where}.wrappers' must be a list of 'module:Class', got {wrappers!r:.60}.")
        given = {name: value for name, value in data.items() if name not in ("resize", "wrappers")}
        sized = (resize[0], resize[1]) if "resize" in data else None
        return cls(**given, resize=sized, wrappers=tuple(wrappers), named=False)

    from_file = from_json


EnvLike = str | EnvRef | Callable[..., gymnasium.Env[Any, Any]]
"""What stands for an environment: its id, an `EnvRef`, or a function that makes one."""


def env_ref(env: EnvLike) -> EnvRef:
    """The environment as an `EnvRef`: of its id, or of a function that makes it."""
    if isinstance(env, EnvRef):
        return env
    if isinstance(env, str):
        return EnvRef(env)
    return EnvRef(getattr(env, "__qualname__", type(env).__name__), factory=env)


Reader = Callable[[Any], NDArray[Any]]
"""Makes one array of one observation, or raises `Unreadable`."""
Edit = Callable[[ObsSpec], tuple[ObsSpec, Callable[[NDArray[Any]], NDArray[Any]]]]
"""Takes the spec of an image; gives the spec after an edit, and the function of (C, H, W) that edits."""


class Unreadable(ValueError):
    """An observation is not as its space says."""


def read_observations(space: spaces.Space[Any], name: str, edit: Edit | None = None) -> tuple[ObsSpec, Reader]:
    """The spec of an observation space, and the function that makes one array of one observation.

    Example::

        spec, read = read_observations(gymnasium.spaces.Discrete(3), "mine")
        spec.shape, read(1)  # (3,), [0, 1, 0]

    Args:
        space: of one environment.
        name: what to call the environment in an error.
        edit: what is done to its image.

    Raises:
        EnvError: a part of the space has no fixed size, there are two images, or nothing at all.
    """
    leaves = list(_leaves(space, ()))
    images = [(path, leaf) for path, leaf in leaves if _is_image(leaf)]
    flat = [(path, leaf) for path, leaf in leaves if not _is_image(leaf)]
    for _, leaf in flat:
        if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise EnvError(
                f"'{name}' has observations of {leaf}, which have no fixed size: wrap it so that they are vectors or images."
            )
    if len(images) > 1:
        raise EnvError(
            f"'{name}' has {len(images)} images in one observation: wrap it so that there is one, with more channels."
        )
    if not leaves or any(spaces.flatdim(leaf) == 0 for _, leaf in leaves):
        raise EnvError(f"'{name}' has observations of {space}, some of which hold no number: wrap it so that they do.")
    if not images:
        return _vector(flat)
    picture, read = _image(*images[0], edit)
    if not flat:
        return picture, read
    vector, read_vector = _vector(flat)
    size = math.prod(picture.shape)
    spec = replace(
        vector,
        shape=(vector.shape[0] + size,),
        image=picture.image,
        reach=(*vector.reach, *[_top(images[0][1])] * size),
    )
    return spec, lambda obs: np.concatenate([read_vector(obs), read(obs).reshape(-1).astype(np.float32)])


def append_zeros(spec: ObsSpec, read: Reader, count: int) -> tuple[ObsSpec, Reader]:
    """A vector with zeros behind it: the spec, and the function that reads it."""
    if count == 0:
        return spec, read
    longer = replace(
        spec,
        shape=(spec.shape[0] + count,),
        reach=(*spec.reach, *[1.0] * count),
        names=(*spec.names, *[f"zero[{i}]" for i in range(count)]),
    )
    return longer, lambda obs: np.pad(read(obs), (0, count))


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
        low, high = (tuple(_finite(v) for v in side.reshape(-1)) for side in (space.low, space.high))
        try:
            return Bounds(low, high, tuple(space.shape) if len(space.shape) != 1 else ())
        except SpecError as error:
            raise EnvError(f"'{name}' has actions that cannot be used: {error}") from None
    raise EnvError(
        f"'{name}' has {type(space).__name__} actions: Discrete, MultiDiscrete, MultiBinary and Box can be used; flatten the others in a "
        "wrapper."
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


def _finite(value: Any) -> float | None:
    """None for a bound that is none: infinite, or so large that nobody means it."""
    return float(value) if abs(float(value)) < 1e30 else None


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...]) -> Sequence[tuple[tuple[Any, ...], spaces.Space[Any]]]:
    """Parts of a space that have no parts, in its own order, and the keys that lead to each."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _leaves(part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for key, part in enumerate(space.spaces) for leaf in _leaves(part, (*path, key))]
    return [(path, space)]


def _is_image(space: spaces.Space[Any]) -> bool:
    """A Box of three dimensions, or one of bytes and of two."""
    if not isinstance(space, spaces.Box):
        return False
    two = len(space.shape) == 2 and space.dtype == np.uint8 and min(space.shape) >= SMALLEST_IMAGE
    return len(space.shape) == 3 or two


def _at(obs: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            raise Unreadable(f"an observation without the part {key!r} that its space has") from None
    return obs


def _array(value: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """A part of an observation as an array of its space's shape."""
    if value is None:
        raise Unreadable("None for an observation")
    try:
        array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(
            f"an observation of {type(value).__name__} where its space has an array of shape {shape}"
        ) from None
    if array.shape != shape:
        raise Unreadable(f"an observation of shape {array.shape} where its space has {shape}")
    return array


def _vector(leaves: Sequence[tuple[tuple[Any, ...], spaces.Space[Any]]]) -> tuple[ObsSpec, Reader]:
    """All that is no image, one after the other."""
    names = tuple(n for path, leaf in leaves for n in _feature_names(path, leaf))
    spec = ObsSpec((len(names),), reach=tuple(n for _, leaf in leaves for n in _reach(leaf)), names=names)
    readers = [_leaf_reader(leaf) for _, leaf in leaves]
    if len(leaves) == 1:
        (path, _), read = leaves[0], readers[0]
        return spec, read if not path else lambda obs: read(_at(obs, path))
    return spec, lambda obs: np.concatenate(
        [read(_at(obs, path)) for (path, _), read in zip(leaves, readers, strict=True)]
    )


def _leaf_reader(space: spaces.Space[Any]) -> Reader:
    """Reads one part as a vector, as `gymnasium.spaces.flatten` does: real numbers as they are, choices one-hot."""
    shape: tuple[int, ...] = tuple(int(n) for n in space.shape or ())
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        nvec = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64).reshape(-1)
        start = np.asarray(space.start, np.int64).reshape(-1)
        offsets = np.cumsum(nvec) - nvec

        def one_hot(obs: Any) -> NDArray[Any]:
            index = _array(obs, shape, np.int64).reshape(-1) - start
            if (index < 0).any() or (index >= nvec).any():
                raise Unreadable(f"the observation {obs!r:.60} outside its space {space}")
            vector = np.zeros(int(nvec.sum()), np.float32)
            vector[offsets + index] = 1.0
            return vector

        return one_hot
    if len(shape) == 1:
        return lambda obs: _array(obs, shape, np.float32)
    return lambda obs: _array(obs, shape, np.float32).reshape(-1)


def _image(path: tuple[Any, ...], space: spaces.Box, edit: Edit | None) -> tuple[ObsSpec, Reader]:
    """Spec of an image and the function that brings its channels to the front: they are the smallest of the three sides."""
    shape = tuple(int(n) for n in space.shape)
    dtype: Literal["uint8", "float32"] = "uint8" if space.dtype == np.uint8 else "float32"
    kind = np.uint8 if dtype == "uint8" else np.float32
    channels_last = len(shape) == 3 and shape[2] < shape[0]
    front = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if channels_last else shape
    image = (front[0], front[1], front[2])
    spec = ObsSpec(image, image, dtype)

    def read(obs: Any) -> NDArray[Any]:
        array = _array(_at(obs, path), shape, kind)
        return array.transpose(2, 0, 1) if channels_last else array.reshape(image)

    if edit is None:
        return spec, read
    edited, change = edit(spec)
    return edited, lambda obs: change(read(obs))


def _top(space: spaces.Space[Any]) -> float | None:
    return _finite(np.abs(space.high).max()) if isinstance(space, spaces.Box) else 1.0


def _reach(space: spaces.Space[Any]) -> list[float | None]:
    """Largest absolute value of each number that the space is flattened to."""
    if isinstance(space, spaces.Box):
        return [_finite(n) for n in np.maximum(np.abs(space.low), np.abs(space.high)).reshape(-1)]
    return [1.0] * spaces.flatdim(space)


def _feature_names(path: tuple[Any, ...], space: spaces.Space[Any]) -> list[str]:
    name = ".".join(map(str, path)) or "obs"
    return [f"{name}[{i}]" for i in range(spaces.flatdim(space))]

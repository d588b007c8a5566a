"""What a policy reads, and how it is read from an observation of any space.

An observation is one array. An image alone stays an image (C, H, W), bytes where the space has bytes or truth values;
anything else (a Box of any shape, Discrete, MultiDiscrete, MultiBinary, and Tuples and Dicts of these) is flattened to
one vector (D,) of floats. Where there are both, the image's numbers follow the vector's, and `ObsSpec.image` says how
many they are.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeGuard

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from distilrl.errors import EnvError, SpecError
from distilrl.limits import LARGEST_OBSERVATION
from distilrl.spaces.actions import finite_or_none

SMALLEST_IMAGE = 8
"""A picture without channels must be at least this high and wide to be taken for one."""


@dataclass(frozen=True)
class ObsSpec:
    """What a policy reads."""

    shape: tuple[int, ...]
    """Shape of one observation: (C, H, W) of an image alone, else (D,)."""
    image: tuple[int, int, int] | None = None
    """(C, H, W) of the image, if there is one. Beside a vector, it is the last C·H·W numbers of the observation."""
    dtype: Literal["uint8", "float32"] = "float32"
    """Bytes for an image alone of bytes or of truth values, else floats."""
    frames: int = 1
    """Frames of time that are stacked in an image's channels, the newest last."""
    reach: tuple[float | None, ...] = field(default=(), repr=False)
    """Largest absolute value of each number of a vector, as its space declares it; None where it declares none. Of an
    image alone one for all pixels."""
    names: tuple[str, ...] = ()
    """Name of each number of a vector."""
    codes: tuple[str, ...] = ()
    """Of each number of a vector: the choice where it is 1 and else 0, ``3``, or ``[1] 3`` of one of several; empty of
    a number that stands for itself."""
    image_bytes: bool = False
    """Of an image beside a vector: whether it is of bytes, which come as floats there."""

    @property
    def pixels(self) -> bool:
        """Whether the observation is an image alone."""
        return len(self.shape) == 3

    @property
    def board(self) -> bool:
        """Whether the image is a board, whose cells hold something or do not: bytes that are 0 or 1."""
        return self.dtype == "uint8" and self.reach[-1:] == (1.0,)

    @property
    def vector(self) -> int:
        """Numbers of the vector; 0 where there is an image alone."""
        return 0 if self.pixels else self.shape[0] - (math.prod(self.image) if self.image else 0)

    def places(self, text: str) -> tuple[int, ...]:
        """Places of the numbers of a vector that a text names: ``obs[3]``, ``obs[12:20]``, or a whole part of a Dict.

        Raises:
            SpecError: there is no such number; names the parts that there are.

        Example::

            describe_env("CartPole-v1").obs.places("obs[2:4]")  # (2, 3)
        """
        found = re.fullmatch(r"(.+?)(?:\[(\d*)(:?)(\d*)\])?", text)
        name, first, several, end = found.groups() if found else (text, None, None, None)
        own = [place for place, known in enumerate(self.names) if known.rpartition("[")[0] == name]
        if several:
            own = own[int(first or 0) : int(end) if end else None]
        elif first is not None:
            own = own[int(first) : int(first) + 1] if first else []
        if not own:
            sizes = Counter(known.rpartition("[")[0] for known in self.names)
            parts = ", ".join(f"{part}[0:{size}]" for part, size in sizes.items())
            raise SpecError(f"'{text}' names no number of these observations: they have {parts or 'an image alone'}.")
        return tuple(own)

    def in_ranges(self, places: Sequence[int]) -> list[str]:
        """The fewest texts that `places` reads as these numbers of a vector.

        Example::

            describe_env("CartPole-v1").obs.in_ranges([1, 2, 3])  # ["obs[1:4]"]
        """
        parts: dict[str, list[bool]] = {}
        for place, known in enumerate(self.names):
            parts.setdefault(known.rpartition("[")[0], []).append(place in places)
        texts = []
        for part, wanted in parts.items():
            for named, run in groupby(enumerate(wanted), itemgetter(1)):
                if named:
                    at = [number for number, _ in run]
                    few = f"[{at[0]}:{at[-1] + 1}]" if len(at) > 1 else f"[{at[0]}]"
                    texts.append(part if len(at) == len(wanted) else part + few)
        return texts

    @property
    def short_names(self) -> tuple[str, ...]:
        """Names of the numbers as people read them: a part that is a single number goes without its place.

        Example::

            describe_env("CartPole-v1").obs.short_names  # ("obs[0]", "obs[1]", "obs[2]", "obs[3]")
        """
        sizes = Counter(known.rpartition("[")[0] for known in self.names)
        alone = {f"{part}[0]" for part, size in sizes.items() if size == 1}
        return tuple(known.removesuffix("[0]") if known in alone else known for known in self.names)

    def part(self, places: Sequence[int]) -> "ObsSpec":
        """What is left where only these numbers are read: of a vector, or all of the image beside one."""
        if self.image is not None:
            kind: Literal["uint8", "float32"] = "uint8" if self.image_bytes else "float32"
            return ObsSpec(self.image, self.image, kind, frames=self.frames, reach=self.reach[-1:])
        reach = tuple(self.reach[place] for place in places) if self.reach else ()
        names = tuple(self.names[place] for place in places) if self.names else ()
        codes = tuple(self.codes[place] for place in places) if self.codes else ()
        return replace(self, shape=(len(places),), reach=reach, names=names, codes=codes)

    @property
    def numpy(self) -> type[np.generic]:
        """NumPy's type of one number."""
        return np.uint8 if self.dtype == "uint8" else np.float32


@dataclass(frozen=True)
class Excerpt:
    """Some of the numbers of an observation, which are all that somebody reads."""

    places: tuple[int, ...]
    """Where they are in the whole observation (D,)."""
    spec: ObsSpec
    """What they are alone."""

    def of(self, obs: NDArray[Any]) -> NDArray[Any]:
        """Observations (N, D) to what is read of them, (N, *shape)."""
        return obs[:, list(self.places)].reshape(len(obs), *self.spec.shape).astype(self.spec.numpy, copy=False)


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
        EnvError: a part of the space has no fixed size, there are two images, nothing at all, or too much.
    """
    leaves = list(_leaves(space, ()))
    images = [(path, leaf) for path, leaf in leaves if _is_image(leaf)]
    flat = [(path, leaf) for path, leaf in leaves if not _is_image(leaf)]
    for _, leaf in flat:
        if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise EnvError(
                f"'{name}' has observations of {leaf}, which have no fixed size: "
                "wrap it so that they are vectors or images."
            )
    if len(images) > 1:
        raise EnvError(
            f"'{name}' has {len(images)} images in one observation: wrap it so that there is one, with more channels."
        )
    if not leaves or any(spaces.flatdim(leaf) == 0 for _, leaf in leaves):
        raise EnvError(f"'{name}' has observations of {space}, some of which hold no number: wrap it so that they do.")
    numbers = sum(spaces.flatdim(leaf) for _, leaf in leaves)
    if numbers > LARGEST_OBSERVATION:
        raise EnvError(f"'{name}' has {numbers:,} numbers in one observation: wrap it so that there are fewer.")
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
        image_bytes=picture.dtype == "uint8",
        reach=(*vector.reach, *[_top(images[0][1])] * size),
    )
    return spec, lambda obs: np.concatenate([read_vector(obs), read(obs).reshape(-1).astype(np.float32)])


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...]) -> Sequence[tuple[tuple[Any, ...], spaces.Space[Any]]]:
    """Parts of a space that have no parts, in its own order, and the keys that lead to each."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _leaves(part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for key, part in enumerate(space.spaces) for leaf in _leaves(part, (*path, key))]
    return [(path, space)]


def _is_image(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
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
    if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:  # as most are
        return value
    if value is None:
        raise Unreadable("None for an observation")
    try:
        with np.errstate(invalid="ignore"):  # what does not fit is found below
            array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(
            f"an observation of {type(value).__name__} where its space has an array of shape {shape}"
        ) from None
    if array.shape != shape:
        raise Unreadable(f"an observation of shape {array.shape} where its space has {shape}")
    if array.dtype.kind != "f" and array.dtype != (given := np.asarray(value)).dtype and (array != given).any():
        raise Unreadable(f"an observation of numbers that the {array.dtype} of its space does not hold")
    return array


def _vector(leaves: Sequence[tuple[tuple[Any, ...], spaces.Space[Any]]]) -> tuple[ObsSpec, Reader]:
    """All that is no image, one after the other."""
    names = tuple(n for path, leaf in leaves for n in _feature_names(path, leaf))
    reach = tuple(n for _, leaf in leaves for n in _reach(leaf))
    codes = tuple(code for _, leaf in leaves for code in _codes(leaf))
    spec = ObsSpec((len(names),), reach=reach, names=names, codes=codes if any(codes) else ())
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
        nvec, start = _choices(space)
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


def _choices(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many there are of each choice, and from what on they are counted."""
    nvec = space.n if isinstance(space, spaces.Discrete) else space.nvec
    return np.asarray(nvec, np.int64).reshape(-1), np.asarray(space.start, np.int64).reshape(-1)


def _codes(space: spaces.Space[Any]) -> list[str]:
    """Which choice each number stands for that the space is flattened to; empty where it is a number itself."""
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return [""] * spaces.flatdim(space)
    several, pairs = isinstance(space, spaces.MultiDiscrete), zip(*_choices(space), strict=True)
    return [
        f"[{place}] {first + n}" if several else str(first + n)
        for place, (count, first) in enumerate(pairs)
        for n in range(count)
    ]


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the last side of a picture is taken for its channels: the smallest of three."""
    return len(shape) == 3 and shape[2] <= min(shape[:2])


def in_front(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a picture's shape."""
    first, *rest = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if channels_last(shape) else shape
    return first, rest[0], rest[1]


def _image(path: tuple[Any, ...], space: spaces.Box, edit: Edit | None) -> tuple[ObsSpec, Reader]:
    """Spec of an image, and the function that brings its channels, the smallest of its three sides, to the front."""
    shape = tuple(int(n) for n in space.shape)
    dtype: Literal["uint8", "float32"] = "uint8" if space.dtype in (np.uint8, np.bool_) else "float32"
    kind = np.uint8 if dtype == "uint8" else np.float32
    last, image = channels_last(shape), in_front(shape)
    spec = ObsSpec(image, image, dtype, reach=(_top(space),))

    def read(obs: Any) -> NDArray[Any]:
        array = _array(_at(obs, path), shape, kind)
        return array.transpose(2, 0, 1) if last else array.reshape(image)

    if edit is None:
        return spec, read
    edited, change = edit(spec)
    return edited, lambda obs: change(read(obs))


def _top(space: spaces.Space[Any]) -> float | None:
    return finite_or_none(_furthest(space).max()) if isinstance(space, spaces.Box) else 1.0


def _reach(space: spaces.Space[Any]) -> list[float | None]:
    """Largest absolute value of each number that the space is flattened to."""
    if isinstance(space, spaces.Box):
        return [finite_or_none(n) for n in _furthest(space).reshape(-1)]
    return [1.0] * spaces.flatdim(space)


def _furthest(space: spaces.Box) -> NDArray[np.float64]:
    """The largest absolute value of each number; in doubles, for the least whole number has none of its own type."""
    return np.maximum(np.abs(space.low.astype(np.float64)), np.abs(space.high.astype(np.float64)))


def _feature_names(path: tuple[Any, ...], space: spaces.Space[Any]) -> list[str]:
    name = ".".join(map(str, path)) or "obs"
    return [f"{name}[{i}]" for i in range(spaces.flatdim(space))]

"""What stands before the dense layers of a stable-baselines3 policy, and its critics.

That is nothing, a Nature CNN, or one part for each key of a Dict.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distilrl.errors import FileError
from distilrl.networks import Network
from distilrl.teachers.layers import Layer, Stack, assemble, encode, layer, sequential, with_strides
from distilrl.teachers.printed import Leaf

_SIDEWAYS = (
    "reads a picture whose first side are its channels, where the last one would be taken for them: export the policy "
    "to ONNX instead."
)


@dataclass(frozen=True)
class Source:
    """A policy's tensors and what its file says of its observations."""

    label: str
    """What to call the file in an error."""
    state: Mapping[str, Tensor]
    """Its tensors, by name."""
    parts: Sequence[Leaf] | None
    """Parts of its observation space; None where the file does not say."""
    scale: float
    """Pixels of bytes from 0 to 255 are divided by it."""

    @property
    def alone(self) -> Leaf | None:
        """The only part of its observation space; None where there are several, or the file does not say."""
        return self.parts[0] if self.parts is not None and len(self.parts) == 1 else None

    @property
    def divisor(self) -> float:
        """What the numbers of an image alone are divided by."""
        return self.scale if self.alone is None or self.alone.image else 1.0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of an observation of one part: of an image, or flat; None where it is not known."""
        return None if self.alone is None else self.alone.seen

    def find(self, prefixes: Sequence[str], inside: str) -> str | None:
        """The first of some prefixes under which there is something of this name."""
        return next((p for p in prefixes if any(name.startswith(f"{p}.{inside}.") for name in self.state)), None)

    def nature(self, prefix: str) -> list[Layer]:
        """The convolutions and the dense layer of a Nature CNN."""
        names = [*(f"{prefix}.cnn.{i}" for i in (0, 2, 4)), f"{prefix}.linear.0"]
        layers = [layer(self.state, name, self.label, "relu") for name in names]
        return [*with_strides(layers[:3], self.label), layers[3]]


class Combined(nn.Module):
    """A flat observation whose image goes through convolutions; their features stand among the rest where the image's
    key stood.
    """

    def __init__(self, images: nn.Module, image: tuple[int, ...], before: int, vector: int, divisor: float) -> None:
        """Says where the image is.

        Args:
            images: (B, C, H, W) to features.
            image: (C, H, W); the last C·H·W numbers of an observation.
            before: numbers of the vector that come before the image's features.
            vector: numbers of the vector.
            divisor: pixels are divided by it.
        """
        super().__init__()
        self.images, self.image, self.before, self.vector, self.divisor = images, image, before, vector, divisor
        self.obs_shape = (vector + math.prod(image),) if vector else image

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, D), or (B, C, H, W) where there is no vector, to features (B, F)."""
        obs = obs.flatten(1)
        vector = obs[:, : self.vector].float()
        seen = self.images(obs[:, self.vector :].float().view(-1, *self.image) / self.divisor)
        return torch.cat([vector[:, : self.before], seen, vector[:, self.before :]], dim=1)


class Flat(nn.Module):
    """Raw observations as one row of floats."""

    def __init__(self, divisor: float = 1.0, last: bool = False) -> None:
        """Says how pictures are read.

        Args:
            divisor: pixels are divided by it.
            last: whether their channels come last in the row.
        """
        super().__init__()
        self.divisor, self.last = divisor, last

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to (B, D)."""
        return (obs.permute(0, 2, 3, 1) if self.last else obs).float().flatten(1) / self.divisor


class Critic(nn.Module):
    """Values of actions: the least of several critics, or the mean of all their quantiles."""

    def __init__(self, features: nn.Module, towers: Sequence[nn.Module], quantiles: bool) -> None:
        super().__init__()
        self.features, self.towers, self.quantiles = features, nn.ModuleList(towers), quantiles

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) and actions (B, A) in −1 to 1 to values (B,)."""
        seen = torch.cat([self.features(obs), actions], dim=1)
        values = torch.stack([tower(seen) for tower in self.towers])
        return values.mean(dim=(0, 2)) if self.quantiles else values.squeeze(2).amin(0)


def network(source: Source, prefixes: Sequence[str], dense: Sequence[Layer]) -> Network | Stack:
    """The network of an extractor, under the first of some prefixes where there is one, and dense layers.

    Raises:
        FileError: shapes do not chain, or the extractor is of another kind.
    """
    label = source.label
    nature, parted = _parts(source, prefixes)
    if nature is not None:
        return assemble([*source.nature(nature), *dense], label, divisor=source.divisor, obs_shape=source.shape)
    if parted is not None:
        features, size = _combined(source, parted)
        head = sequential([*dense[:-1], replace(dense[-1], activation=None)], label)
        if dense[0].weight.shape[1] != size:
            raise FileError(
                f"{label} has parts of observations with {size} features, but reads {dense[0].weight.shape[1]}: it "
                "is damaged."
            )
        return Stack(nn.Sequential(features, head), features.obs_shape, dense[-1].weight.shape[0])
    _refuse_pictures(source)
    if source.alone is not None and source.alone.last and dense[0].weight.shape[1] == source.alone.size:
        height, width, channels = source.alone.shape
        columns = dense[0].weight.view(-1, height, width, channels).permute(0, 3, 1, 2).flatten(1)
        dense = [replace(dense[0], weight=columns), *dense[1:]]
    return assemble(dense, label, divisor=source.divisor, obs_shape=source.shape)


def encoder(source: Source, prefixes: Sequence[str], size: int) -> tuple[nn.Module, tuple[tuple[int, ...], int]]:
    """The extractor of a file, under the first of some prefixes where there is one.

    Args:
        source: the file.
        prefixes: under which the extractor may be.
        size: numbers that are read of it, which a flat observation has.

    Returns:
        Raw observations (B, *obs_shape) to features (B, F); obs_shape and F.

    Raises:
        FileError: shapes do not chain, or the extractor is of another kind.
    """
    nature, parted = _parts(source, prefixes)
    if nature is not None:
        stack = encode(source.nature(nature), source.label, divisor=source.divisor, obs_shape=source.shape)
        return stack, (stack.obs_shape, stack.outputs)
    if parted is not None:
        features, size = _combined(source, parted)
        return features, (features.obs_shape, size)
    _refuse_pictures(source)
    shape = source.shape
    if shape is None or math.prod(shape) != size:
        return Flat(), ((size,), size)
    return Flat(source.divisor, source.alone is not None and source.alone.last), (shape, size)


def critic(
    source: Source, prefixes: Sequence[str], towers: Sequence[Sequence[Layer]], actions: int, *, quantiles: bool
) -> Critic:
    """The critics of a file, each a chain of dense layers that reads features and actions.

    Raises:
        FileError: shapes do not chain.
    """
    features, (_, size) = encoder(source, prefixes, towers[0][0].weight.shape[1] - actions)
    for tower in towers:
        if tower[0].weight.shape[1] != size + actions or (not quantiles and tower[-1].weight.shape[0] != 1):
            raise FileError(
                f"{source.label}: its critic '{tower[0].name}' does not read observations and actions: the file is "
                "damaged."
            )
    made = [sequential([*tower[:-1], replace(tower[-1], activation=None)], source.label) for tower in towers]
    return Critic(features, made, quantiles)


def _parts(source: Source, prefixes: Sequence[str]) -> tuple[str | None, str | None]:
    """The first of some prefixes under which there is a Nature CNN, and under which there are parts of a Dict."""
    nature = source.find(prefixes, "cnn")
    if nature is not None and source.alone is not None and source.alone.last:
        raise FileError(f"{source.label} {_SIDEWAYS}")
    return nature, source.find(prefixes, "extractors")


def _combined(source: Source, prefix: str) -> tuple[Combined, int]:
    """The extractor of a Dict with one image, and how many features it gives."""
    images = sorted(
        {m[1] for name in source.state if (m := re.match(rf"{re.escape(prefix)}\.extractors\.([^.]+)\.cnn\.", name))}
    )
    parts = source.parts
    if parts is None or images != [part.key for part in parts if part.key in images] or len(images) != 1:
        raise FileError(
            f"{source.label} reads a Dict of observations with {len(images)} images, whose sizes it does not say or "
            "of which there are "
            "several: export the policy to ONNX instead."
        )
    at = next(i for i, part in enumerate(parts) if part.key in images)
    if any(part.picture for part in parts if part is not parts[at]):
        raise FileError(
            f"{source.label} reads a picture as a vector beside an image: export the policy to ONNX instead."
        )
    layers = source.nature(f"{prefix}.extractors.{images[0]}")
    shape = parts[at].seen
    if parts[at].shape != shape or parts[at].last:
        raise FileError(f"{source.label} {_SIDEWAYS}")
    assemble([*layers], source.label, obs_shape=shape)  # checks that the image's size fits
    before, vector = sum(part.size for part in parts[:at]), sum(part.size for part in parts) - math.prod(shape)
    combined = Combined(
        sequential(layers, source.label), shape, before, vector, source.scale if parts[at].image else 1.0
    )
    return combined, vector + layers[-1].weight.shape[0]


def _refuse_pictures(source: Source) -> None:
    """A Dict's picture that is read as a vector stands elsewhere in our observations."""
    if source.parts is not None and len(source.parts) > 1 and any(part.picture for part in source.parts):
        raise FileError(f"{source.label} reads a picture as a part of a vector: export the policy to ONNX instead.")

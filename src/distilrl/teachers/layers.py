"""From arrays of weights to a network: shapes must chain, what no file says (strides, activations) is asked for."""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distilrl.checkpoints import load_weights
from distilrl.errors import FileError
from distilrl.networks import Network
from distilrl.specs import ACTIVATIONS, NATURE_KERNELS, NetworkSpec

ATARI_SIZE = 84
USUAL_SIZES = (ATARI_SIZE, 64, 96, 128, 256)
"""Sides of images, the likeliest first: convolutions give as much of a few more or less."""
CLASSES = {kind.__name__: name for name, kind in ACTIVATIONS.items()}
"""Activations by the names of their classes."""


@dataclass(frozen=True)
class Layer:
    """A convolution (weight of 4 dimensions) or a dense layer (2), with the activation that follows it."""

    name: str
    """What its file calls it."""
    weight: Tensor
    """(out, in, kernel, kernel) or (out, in)."""
    bias: Tensor
    """(out,)."""
    activation: str | None = "relu"
    """Name of the activation that follows; None after the head."""
    stride: int = 1
    """Of a convolution."""


class Asked(dict[str, Tensor]):
    """Tensors by name that know which of them were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        self.asked.add(name)
        return super().get(name, default)

    def check_all(self, label: str, others: str) -> None:
        """Makes sure that what acts was read whole: a layer that is left out makes another policy of it, which may well
        play, and nothing else would tell.

        Args:
            label: what to call the file in an error.
            others: pattern of the names of what does not act.

        Raises:
            FileError: names a tensor that nothing has asked for.
        """
        bodies = {_row(name) for name in self.asked if name in self} - {""}
        for name, tensor in self.items():
            # what stands among the layers that act, as a normalisation does, acts too, whatever they are called
            if name not in self.asked and (_row(name) in bodies or not re.search(others, name)):
                raise FileError(
                    f"{label} holds the tensor '{name[:80]}' of shape {tuple(tensor.shape)}, for which the network "
                    "that it seems to be has no place: export the policy to ONNX instead, with all that it does to "
                    "its observations."
                )


def _row(name: str) -> str:
    """The row of layers that a tensor belongs to: ``actor`` of ``actor.2.weight``, none of ``fc1.weight``."""
    found = re.fullmatch(r"(.+)\.\d+\.\w+", name)
    return found[1] if found else ""


def layer(tensors: Mapping[str, Tensor], name: str, label: str, activation: str | None = "relu") -> Layer:
    """The layer ``name``; a missing bias is 0.

    Raises:
        FileError: there is no such weight, or its numbers are not finite.
    """
    weight = tensors.get(f"{name}.weight")
    if weight is None:
        raise FileError(f"{label} lacks the tensor '{name}.weight': it is not the network that it seems to be.")
    if weight.ndim not in (2, 4) or not min(weight.shape, default=0):
        raise FileError(
            f"Tensor '{name}.weight' in {label} has shape {tuple(weight.shape)}, which is no dense or convolutional "
            "layer's: export the policy to ONNX instead."
        )
    bias = (
        vector(tensors, f"{name}.bias", weight.shape[0], label)
        if f"{name}.bias" in tensors
        else torch.zeros(weight.shape[0])
    )
    return Layer(name, finite(weight, f"{name}.weight", label), bias, activation)


def told_activation(activation: str | None, label: str) -> str:
    """What the user told of the activation between dense layers, which the file does not hold.

    Raises:
        FileError: nothing.
    """
    if activation is None:
        raise FileError(
            f"{label} holds dense layers and not their activation: say which with --activation relu (or another of "
            f"{', '.join(ACTIVATIONS)})."
        )
    return activation


def vector(tensors: Mapping[str, Tensor], name: str, size: int, label: str) -> Tensor:
    """The tensor ``name`` as ``size`` floats.

    Raises:
        FileError: it is missing, of another shape, or not finite.
    """
    if name not in tensors:
        raise FileError(f"{label} lacks the tensor '{name}': it is not the network that it seems to be.")
    if tuple(tensors[name].shape) != (size,):
        raise FileError(
            f"Tensor '{name}' in {label} has shape {tuple(tensors[name].shape)}, not {(size,)}: the file is damaged."
        )
    return finite(tensors[name], name, label)


def finite(tensor: Tensor, name: str, label: str) -> Tensor:
    """The tensor in float32.

    Raises:
        FileError: it holds NaN or infinite numbers.
    """
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise FileError(f"Tensor '{name}' in {label} holds NaN or infinite numbers: the file is damaged, use another.")
    return tensor


def numbered(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Names of the layers ``prefix.0``, ``prefix.2``, …, in the order of their numbers."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d{{1,4}})\.weight")
    numbers = sorted(int(m[1]) for name in tensors if (m := pattern.fullmatch(name)))
    return [f"{prefix}.{n}" for n in numbers]


def joined(mean: Layer, log_std: Layer) -> Layer:
    """Two heads that read the same features as one layer of 2 A outputs.

    Raises:
        FileError: their shapes differ.
    """
    if mean.weight.shape != log_std.weight.shape:
        raise FileError(f"The heads '{mean.name}' and '{log_std.name}' differ in their shapes: the file is damaged.")
    return replace(mean, weight=torch.cat([mean.weight, log_std.weight]), bias=torch.cat([mean.bias, log_std.bias]))


def with_constants(head: Layer, constants: Tensor) -> Layer:
    """A head that gives some constants (K,) after its own outputs: rows of zero weights, the constants in the bias."""
    rows = torch.zeros(len(constants), head.weight.shape[1])
    return replace(head, weight=torch.cat([head.weight, rows]), bias=torch.cat([head.bias, constants]))


def against_zero(head: Layer) -> Layer:
    """A head of n Bernoulli logits x as 2 n logits (0, x), which say the same as choices of two."""
    weight, bias = (torch.stack([torch.zeros_like(t), t], dim=1).flatten(0, 1) for t in (head.weight, head.bias))
    return replace(head, weight=weight, bias=bias)


def preceded(one: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """A dense layer that sees x · scale + shift, both (in,), as one that sees x."""
    weight = one.weight.double()
    return replace(
        one, weight=(weight * scale.double()).float(), bias=(one.bias.double() + weight @ shift.double()).float()
    )


def assemble(
    layers: Sequence[Layer],
    label: str,
    *,
    divisor: float = 255.0,
    kernels: Sequence[tuple[int, int]] = NATURE_KERNELS,
    obs_shape: tuple[int, ...] | None = None,
) -> "Network | Stack":
    """A network of these layers, taking raw observations.

    Args:
        layers: in order, the head last.
        label: what to call the file in an error.
        divisor: pixels are divided by it; vectors are taken as they are.
        kernels: (kernel, stride) of each convolution.
        obs_shape: of one observation; a vector, or images of 84x84 where it is not known.

    Returns:
        A `Network` where one activation serves all layers, else a plain stack of modules.

    Raises:
        FileError: shapes do not chain.
    """
    convs = [one for one in layers if one.weight.ndim == 4]
    dense = layers[len(convs) :]
    if not dense or any(one.weight.ndim != 2 for one in dense):
        raise FileError(
            f"{label} is not a chain of convolutions followed by dense layers: name its network with --teacher-network."
        )
    convs = with_strides(convs, label, kernels)
    first = layers[0].weight.shape[1]
    if obs_shape is None or (convs and obs_shape[0] != first) or (not convs and math.prod(obs_shape) != first):
        obs_shape = (first, *[_side_of(convs, dense[0].weight.shape[1], label)] * 2) if convs else (first,)
    spec = NetworkSpec(
        obs_shape=obs_shape,
        outputs=dense[-1].weight.shape[0],
        convs=tuple((c.weight.shape[0], c.weight.shape[2], c.stride) for c in convs),
        hidden=tuple(one.weight.shape[0] for one in dense[:-1]),
    )
    activations = [str(one.activation) for one in layers[:-1]]
    network = Network(replace(spec, activation=activations[0]) if activations else spec)
    load_weights(network, _state(network, layers), label, describes=spec.describe())
    if len(obs_shape) == 3:
        network.standardise(torch.zeros(1), torch.full((1,), 1 / divisor))
    if len(set(activations)) > 1:
        modules = sequential([*convs, *dense[:-1], replace(dense[-1], activation=None)], label)
        return Stack(modules, obs_shape, spec.outputs, divisor if len(obs_shape) == 3 else 1.0)
    return network


def _side_of(convs: Sequence[Layer], features: int, label: str) -> int:
    """Side of square images of which convolutions give so many features: a usual one if it can, else the least.

    Raises:
        FileError: there is none.
    """
    kernels = [(int(one.weight.shape[2]), one.stride) for one in convs]
    for side in itertools.chain(USUAL_SIZES, range(1, 513)):
        after = functools.reduce(lambda size, kernel: (size - kernel[0]) // kernel[1] + 1, kernels, side)
        if after > 0 and after * after * len(convs[-1].weight) == features:
            return side
    raise FileError(
        f"Of no square image do the convolutions of {label} make the {features:,} numbers that its dense layer reads "
        "(numbers beside the image, another shape, or padded or pooled convolutions): export it to ONNX."
    )


def with_strides(
    convs: Sequence[Layer], label: str, kernels: Sequence[tuple[int, int]] = NATURE_KERNELS
) -> list[Layer]:
    """Convolutions with the strides that belong to their kernels.

    Raises:
        FileError: their kernels are others.
    """
    if [c.weight.shape[2:] for c in convs] != [(k, k) for k, _ in kernels[: len(convs)]]:
        sizes = ", ".join("x".join(map(str, c.weight.shape[2:])) for c in convs)
        raise FileError(
            f"{label} has convolutions of {sizes}, whose strides no file holds: name its network with "
            "--teacher-network."
        )
    return [replace(one, stride=stride) for one, (_, stride) in zip(convs, kernels, strict=False)]


def sequential(layers: Sequence[Layer], label: str) -> nn.Sequential:
    """Layers as plain modules, each with its own activation, an image flattened before the first dense layer.

    Raises:
        FileError: shapes do not chain.
    """
    modules: list[nn.Module] = []
    before: Layer | None = None
    for one in layers:
        out, fan_in = one.weight.shape[:2]
        dense = one.weight.ndim == 2
        if before is not None:
            flattens = dense and before.weight.ndim == 4
            if fan_in != before.weight.shape[0] and not (flattens and fan_in % before.weight.shape[0] == 0):
                raise FileError(
                    f"Tensor '{one.name}.weight' in {label} has shape {tuple(one.weight.shape)}, but '{before.name}' "
                    "before it gives "
                    f"{before.weight.shape[0]} numbers: the file is damaged."
                )
            modules += [nn.Flatten()] if flattens else []
        module = nn.Linear(fan_in, out) if dense else nn.Conv2d(fan_in, out, one.weight.shape[2], one.stride)
        module.load_state_dict({"weight": one.weight, "bias": one.bias})
        modules += [module, *([ACTIVATIONS[one.activation]()] if one.activation else [])]
        before = one
    return nn.Sequential(*modules)


class Stack(nn.Module):
    """Plain modules behind a division of pixels."""

    def __init__(self, layers: nn.Module, obs_shape: tuple[int, ...], outputs: int, divisor: float = 1.0) -> None:
        super().__init__()
        self.layers, self.obs_shape, self.outputs, self.divisor = layers, obs_shape, outputs, divisor

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        return self.layers(obs.float() / self.divisor)  # type: ignore[no-any-return]


def encode(
    layers: Sequence[Layer],
    label: str,
    *,
    divisor: float = 255.0,
    kernels: Sequence[tuple[int, int]] = NATURE_KERNELS,
    obs_shape: tuple[int, ...] | None = None,
) -> Stack:
    """As `assemble`, but an activation follows the last layer too: what stands before something else.

    Raises:
        FileError: shapes do not chain.
    """
    whole = assemble(layers, label, divisor=divisor, kernels=kernels, obs_shape=obs_shape)
    shape = whole.obs_shape if isinstance(whole, Stack) else whole.spec.obs_shape
    convs = [one for one in layers if one.weight.ndim == 4]
    modules = sequential([*with_strides(convs, label, kernels), *layers[len(convs) :]], label)
    return Stack(modules, shape, layers[-1].weight.shape[0], divisor if len(shape) == 3 else 1.0)


class Clamped(nn.Module):
    """A network whose outputs are held within ± a limit."""

    def __init__(self, network: nn.Module, limit: float) -> None:
        super().__init__()
        self.network, self.limit = network, limit

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        return self.network(obs).clamp(-self.limit, self.limit)  # type: ignore[no-any-return]


def assemble_residual(
    tensors: Mapping[str, Tensor], stages: Sequence[str], dense: Sequence[str], label: str, *, divisor: float
) -> Network:
    """An IMPALA network: each of ``stages`` names ``conv``, ``res_block0`` and ``res_block1`` with ``conv0`` and
    ``conv1``.
    """
    parts = ("conv", "res_block0.conv0", "res_block0.conv1", "res_block1.conv0", "res_block1.conv1")
    names = [f"{stage}.{part}" for stage in stages for part in parts]
    layers = [layer(tensors, name, label) for name in (*names, *dense)]
    side = _side(layers[len(names)].weight.shape[1], layers[len(names) - 1].weight.shape[0], len(stages))
    spec = NetworkSpec(
        obs_shape=(layers[0].weight.shape[1], side, side),
        outputs=layers[-1].weight.shape[0],
        blocks=tuple(layers[5 * i].weight.shape[0] for i in range(len(stages))),
        hidden=tuple(one.weight.shape[0] for one in layers[len(names) : -1]),
    )
    network = Network(spec)
    load_weights(network, _state(network, layers), label)
    network.standardise(torch.zeros(1), torch.full((1,), 1 / divisor))
    return network


def _state(network: Network, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The layers' tensors under the network's own names, in its order."""
    names = [name.removesuffix(".weight") for name in network.state_dict() if name.endswith(".weight")]
    return {
        f"{name}.{part}": getattr(one, part)
        for name, one in zip(names, layers, strict=True)
        for part in ("weight", "bias")
    }


def _side(features: int, channels: int, stages: int) -> int:
    """Side of square observations: 84 where that fits, else the largest multiple of 2^stages."""
    side, after = round((features / channels) ** 0.5), ATARI_SIZE
    for _ in range(stages):
        after = (after + 1) // 2
    return ATARI_SIZE if side == after else side << stages

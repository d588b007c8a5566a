"""From arrays of weights to a network: shapes must chain, and what a file cannot say (strides, activations) is told or asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distilrl.checkpoints import load_weights
from distilrl.errors import FileError
from distilrl.networks import Network
from distilrl.specs import ACTIVATIONS, NATURE_KERNELS, NetworkSpec

ATARI_SIZE = 84


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


def layer(tensors: Mapping[str, Tensor], name: str, label: str, activation: str | None = "relu") -> Layer:
    """The layer ``name``; a missing bias is 0.

    Raises:
        FileError: there is no such weight, or its numbers are not finite.
    """
    weight = tensors.get(f"{name}.weight")
    if weight is None:
        raise FileError(f"{label} lacks the tensor '{name}.weight': it is not the network that it seems to be.")
    if weight.ndim not in (2, 4) or not min(weight.shape, default=0):
        raise FileError(f"Tensor '{name}.weight' in {label} has shape {tuple(weight.shape)}, which is no dense or convolutional layer's.")
    bias = tensors.get(f"{name}.bias", torch.zeros(weight.shape[0]))
    if bias.shape != weight.shape[:1]:
        raise FileError(
            f"Tensor '{name}.bias' in {label} has shape {tuple(bias.shape)}, not {tuple(weight.shape[:1])}: the file is damaged."
        )
    for part, tensor in (("weight", weight), ("bias", bias)):
        if not torch.isfinite(tensor.float()).all():
            raise FileError(f"Tensor '{name}.{part}' in {label} holds NaN or infinite numbers: the file is damaged, use another.")
    return Layer(name, weight.float(), bias.float(), activation)


def assemble(
    layers: Sequence[Layer], label: str, *, divisor: float = 255.0, kernels: Sequence[tuple[int, int]] = NATURE_KERNELS
) -> nn.Module:
    """A network of these layers, taking raw observations.

    Args:
        layers: in order, the head last.
        label: what to call the file in an error.
        divisor: pixels are divided by it; vectors are taken as they are.
        kernels: (kernel, stride) of each convolution.

    Returns:
        A `Network` where one activation serves all layers, else a plain stack of modules.

    Raises:
        FileError: shapes do not chain.
    """
    convs = [one for one in layers if one.weight.ndim == 4]
    dense = layers[len(convs) :]
    if not dense or any(one.weight.ndim != 2 for one in dense):
        raise FileError(f"{label} is not a chain of convolutions followed by dense layers: name its network with --teacher-network.")
    if [c.weight.shape[2:] for c in convs] != [(k, k) for k, _ in kernels[: len(convs)]]:
        sizes = ", ".join("x".join(map(str, c.weight.shape[2:])) for c in convs)
        raise FileError(f"{label} has convolutions of {sizes}, whose strides no file holds: name its network with --teacher-network.")
    convs = [replace(one, stride=stride) for one, (_, stride) in zip(convs, kernels, strict=False)]
    spec = NetworkSpec(
        obs_shape=(convs[0].weight.shape[1], ATARI_SIZE, ATARI_SIZE) if convs else (dense[0].weight.shape[1],),
        n_actions=dense[-1].weight.shape[0],
        convs=tuple((c.weight.shape[0], c.weight.shape[2], c.stride) for c in convs),
        hidden=tuple(one.weight.shape[0] for one in dense[:-1]),
    )
    activations = [str(one.activation) for one in layers[:-1]]
    one_for_all = Network(replace(spec, activation=activations[0]) if activations else spec)
    network = Stack(one_for_all, [*activations, None]) if len(set(activations)) > 1 else one_for_all
    load_weights(network, _state(one_for_all, layers), label, describes=spec.describe())
    if spec.convs:
        network.standardise(torch.zeros(1), torch.full((1,), 1 / divisor))
    return network


class Stack(nn.Module):
    """The layers of a `Network`, each with an activation of its own."""

    def __init__(self, network: Network, activations: Sequence[str | None]) -> None:
        super().__init__()
        modules = [m for m in network.layers if isinstance(m, nn.Conv2d | nn.Linear | nn.Flatten)]
        names = iter(activations)
        layers: list[nn.Module] = []
        for module in modules:
            layers.append(module)
            name = None if isinstance(module, nn.Flatten) else next(names)
            layers += [ACTIVATIONS[name]()] if name else []
        self.layers, self.obs_shape, self.n_actions, self.scale = (
            nn.Sequential(*layers),
            network.spec.obs_shape,
            network.spec.n_actions,
            1.0,
        )

    def standardise(self, _mean: Tensor, scale: Tensor) -> None:
        """From now on pixels are multiplied by ``scale``."""
        self.scale = float(scale)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to action values (B, A)."""
        return self.layers(obs.float() * self.scale)  # type: ignore[no-any-return]


def assemble_residual(tensors: Mapping[str, Tensor], stages: Sequence[str], dense: Sequence[str], label: str, *, divisor: float) -> Network:
    """An IMPALA network: each of ``stages`` names ``conv``, ``res_block0`` and ``res_block1`` with ``conv0`` and ``conv1``."""
    parts = ("conv", "res_block0.conv0", "res_block0.conv1", "res_block1.conv0", "res_block1.conv1")
    names = [f"{stage}.{part}" for stage in stages for part in parts]
    layers = [layer(tensors, name, label) for name in (*names, *dense)]
    side = _side(layers[len(names)].weight.shape[1], layers[len(names) - 1].weight.shape[0], len(stages))
    spec = NetworkSpec(
        obs_shape=(layers[0].weight.shape[1], side, side),
        n_actions=layers[-1].weight.shape[0],
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
    return {f"{name}.{part}": getattr(one, part) for name, one in zip(names, layers, strict=True) for part in ("weight", "bias")}


def _side(features: int, channels: int, stages: int) -> int:
    """Side of square observations: 84 where that fits, else the largest multiple of 2^stages."""
    side, after = round((features / channels) ** 0.5), ATARI_SIZE
    for _ in range(stages):
        after = (after + 1) // 2
    return ATARI_SIZE if side == after else side << stages

"""Networks from their specs, alone or with layers in common."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from distilrl.blocks import MemoryCell, ReusedHead, draw_weights
from distilrl.errors import SpecError
from distilrl.isolation import isolated
from distilrl.networks.network import Network
from distilrl.networks.recurrent import RecurrentNetwork
from distilrl.specs import NetworkSpec

Share = Literal["body", "convolutions"]
"""What the networks of several tasks have in common."""


def blank(spec: NetworkSpec) -> Network:
    """A network of this shape, whose weights are still to be set.

    Example::

        network = blank(spec)
        network.load_state_dict(weights)
    """
    with isolated():
        return RecurrentNetwork(spec) if spec.remembers else Network(spec)


def reuse_head(network: Network, teacher: nn.Module, generator: torch.Generator) -> None:
    """Gives a network its teacher's frozen head behind a learned projection; of a wider one the first numbers, a
    Gaussian's mean.

    Raises:
        SpecError: the teacher is not a `Network`, or its head is not of this network's actions.
    """
    theirs, outputs = teacher.layers[-1] if isinstance(teacher, Network) else None, network.spec.outputs
    if not isinstance(theirs, nn.Linear) or theirs.weight.shape[0] < outputs:
        raise SpecError(
            "Only a teacher of plain layers and the student's own kind of head has a head to reuse: choose another "
            "recipe."
        )
    if len(network.layers) == 1:
        raise SpecError("A linear student has no layer before a head that it could reuse: give it one, such as mlp:16.")
    features = network.spec.last_width
    network.layers[-1] = head = ReusedHead(features, theirs.weight[:outputs], cast("Tensor", theirs.bias)[:outputs])
    draw_weights(head.projection, generator)


def build_shared(
    specs: Sequence[NetworkSpec], generator: torch.Generator | None = None, share: Share = "body"
) -> list[Network]:
    """One network per task with one body: what follows the first layer is shared where it is of one shape (the layer
    behind images of unequal sizes is not), and the first layer too where the observations are. Each has its own head,
    and its own dense layers where only ``"convolutions"`` are shared (in Rusu et al. 2016 games have one dense layer in
    common and one each).

    Raises:
        SpecError: some tasks have pixels and some vectors, or there are no convolutions.
    """
    if len({len(spec.obs_shape) for spec in specs}) > 1:
        raise SpecError("Tasks with pixels and tasks with vectors cannot share a body: distil them apart.")
    networks = [build(spec, generator) for spec in specs]
    first = networks[0]
    end = len(first.layers) - 1
    if share == "convolutions":
        if not first.spec.conv_shapes():
            raise SpecError("Networks of vectors have no convolutions to share: leave 'share' at \"body\".")
        end = next(index for index, layer in enumerate(first.layers) if isinstance(layer, nn.Flatten))
    for other in networks[1:]:
        alike = other.spec.obs_shape == first.spec.obs_shape
        for index in range(0 if alike else first._first_index + 1, end):
            ours, theirs = (network.layers[index].state_dict() for network in (first, other))
            if all(theirs[name].shape == weight.shape for name, weight in ours.items()):
                other.layers[index] = first.layers[index]
    return networks


def build(spec: NetworkSpec, generator: torch.Generator | None = None) -> Network:
    """A new network, its weights He-normal from ``generator`` (He et al. 2015), biases 0, and a head near 0.

    Example::

        network = build(NetworkSpec((4,), 2, hidden=(16,)), torch.Generator().manual_seed(0))
    """
    network = blank(spec)
    gain = math.sqrt(2.0) if spec.activation != "tanh" else 1.0
    head = set(network.layers[-1].modules())
    for module in network.layers.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw_weights(module, generator, 0.1 if module in head else gain)
    for cell in (layer for layer in network.layers if isinstance(layer, MemoryCell)):
        cell.draw(generator)
    return network

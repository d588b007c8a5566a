"""A network as a list of steps in plain arrays: what the writers of C and of integers read."""

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilrl import losses
from distilrl.errors import SpecError
from distilrl.heads import Categorical, Head
from distilrl.networks import Network

Floats = NDArray[np.float32]
NAMES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.ELU: "elu", nn.SiLU: "silu"}


@dataclass(frozen=True)
class Step:
    """One layer and the activation that follows it. A dense layer is a convolution that covers its whole input."""

    weight: Floats
    """(out, in channels, kernel, kernel) of a convolution, (out, in) of a dense layer."""
    bias: Floats
    """(out,)."""
    stride: int
    """1 for dense layers."""
    activation: str | None
    """relu, tanh, elu, silu, or None after the head."""
    in_shape: tuple[int, ...]
    """(C, H, W) or (D,)."""
    out_shape: tuple[int, ...]
    """(C, H, W) or (D,)."""


def without_offset(network: Network, head: Head) -> Network:
    """A copy that gives choices as differences from their mean, which are the same choices: a state's value may be a
    thousand times as large as what tells actions apart, and eight bits hold one of the two.
    """
    centred = copy.deepcopy(network)
    last = cast("nn.Linear", centred.layers[-1])
    if isinstance(head, Categorical):
        with torch.no_grad():
            for values in (last.weight.T, last.bias.unsqueeze(0)):
                values.copy_(torch.cat([losses.centre(block) for block in head.split(values)], dim=1))
    return centred


def steps(network: Network, target: str) -> list[Step]:
    """The steps of a folded network.

    Raises:
        SpecError: it has residual blocks, or an image beside a vector, which ``target`` cannot write.

    Example::

        source = c.write(steps(network, "C"), head, "my policy")
    """
    spec = network.spec
    if spec.blocks:
        raise SpecError(
            f"A residual network cannot be written as {target}: export it to onnx or torch, or distil it into a cnn "
            "student."
        )
    if spec.image is not None:
        raise SpecError(
            f"A student that reads an image beside a vector cannot be written as {target}: export it to onnx or torch."
        )
    if len(spec.obs_shape) == 3 and not spec.convs:
        raise SpecError(
            f"A student of dense layers that reads images cannot be written as {target}: export it to onnx or torch."
        )
    shipped = Network(network.spec)
    shipped.load_state_dict(network.state_dict())
    shipped.standardise(network.obs_mean, network.obs_scale)
    shipped.fold()
    result: list[Step] = []
    shape: tuple[int, ...] = network.spec.obs_shape
    modules = [m for m in shipped.layers if not isinstance(m, nn.Flatten)]
    for index, module in enumerate(modules):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight, bias = (cast("torch.Tensor", t).detach().numpy().copy() for t in (module.weight, module.bias))
        after = modules[index + 1] if index + 1 < len(modules) else None
        out: tuple[int, ...] = (len(bias),)
        stride = 1
        if isinstance(module, nn.Conv2d):
            stride = int(module.stride[0])
            kernel = weight.shape[2]
            out = (len(bias), (shape[1] - kernel) // stride + 1, (shape[2] - kernel) // stride + 1)
        result.append(Step(weight, bias, stride, NAMES[type(after)] if after is not None else None, shape, out))
        shape = out
    return result

"""A network as a list of steps in plain arrays: what the writers of C and of integers read."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilrl import losses
from distilrl.blocks import CellKind, MemoryCell
from distilrl.errors import SpecError
from distilrl.heads import Categorical, Head
from distilrl.networks import Network, blank
from distilrl.specs import ACTIVATIONS
from distilrl.targets import Target, check_target

Floats = NDArray[np.float32]
NAMES: dict[type[nn.Module], str] = {kind: name for name, kind in ACTIVATIONS.items()}
TOGETHER = 64
"""Observations, or stretches of play, that are asked about at once: a thousand images and all that a network makes of
them may take more memory than there is."""


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
    """One of `distilrl.specs.ACTIVATIONS`, or None after the head."""
    in_shape: tuple[int, ...]
    """(C, H, W) or (D,)."""
    out_shape: tuple[int, ...]
    """(C, H, W) or (D,)."""
    vector: tuple[int, ...] = ()
    """Places in the observation of the numbers beside an image that it reads, behind the image's features."""


@dataclass(frozen=True)
class CellStep:
    """A memory cell: two dense layers, of what comes in and of what it gave before, and what its gates make of both."""

    kind: CellKind
    """gru or lstm; `distilrl.blocks.MemoryCell` has the formulas."""
    inputs: Step
    """(G · H, in), the gates side by side."""
    recurrent: Step
    """(G · H, H); its bias is that inside a GRU's reset gate, else 0."""
    beside: int
    """Numbers F that go past it: all that come in, or none."""

    activation = None

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return self.inputs.in_shape

    @property
    def vector(self) -> tuple[int, ...]:
        """As of a `Step`."""
        return self.inputs.vector

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(H + F,), what it gives and then what goes past it."""
        return (self.size + self.beside,)

    @property
    def size(self) -> int:
        """Numbers H that it gives."""
        return self.recurrent.in_shape[0]


def dense(steps: Sequence[Any], cell: type[Any] = CellStep) -> Iterator[tuple[str, Any]]:
    """Name and layer of everything that multiplies with weights: of a ``cell``, what comes in and what it gave before.

    Example::

        [name for name, _ in dense(steps)]  # of a GRU before a dense layer: ['0i', '0r', '1']
    """
    for index, one in enumerate(steps):
        if isinstance(one, cell):
            yield from ((f"{index}i", one.inputs), (f"{index}r", one.recurrent))
        else:
            yield str(index), one


def _cell_step(cell: MemoryCell, shape: tuple[int, ...], read: tuple[int, ...], beside: int) -> CellStep:
    size, gates = cell.cell.size, cell.cell.gates
    bias = np.zeros(gates, np.float32)
    if cell.bias is not None:
        bias[-size:] = cell.bias.detach().numpy()
    of_inputs, of_bias, before = (
        t.detach().numpy().copy() for t in (cell.inputs.weight, cell.inputs.bias, cell.recurrent.weight)
    )
    inputs = Step(of_inputs, of_bias, 1, None, shape, (gates,), read)
    return CellStep(cell.cell.kind, inputs, Step(before, bias, 1, None, (size,), (gates,)), beside)


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


def steps(network: Network, target: Target) -> list[Step | CellStep]:
    """The steps of a folded network.

    Raises:
        SpecError: ``target`` cannot hold it.

    Example::

        source = c.write(steps(network, "c"), head, info.obs, "my policy")
    """
    spec = network.spec
    check_target(spec, target)
    shipped = blank(network.spec)
    shipped.load_state_dict(network.state_dict())
    shipped.standardise_as(network)
    shipped.fold()
    result: list[Step | CellStep] = []
    shape, vector = spec.picture or (spec.features,), spec.seen if spec.image is not None else ()
    modules = [m for m in shipped.layers if not isinstance(m, nn.Flatten)]
    for index, module in enumerate(modules):
        if isinstance(module, MemoryCell):
            result.append(_cell_step(module, shape, vector, spec.beside_cell))
            shape, vector = result[-1].out_shape, ()
            continue
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
        read, vector = ((), vector) if isinstance(module, nn.Conv2d) else (vector, ())
        result.append(Step(weight, bias, stride, NAMES[type(after)] if after is not None else None, shape, out, read))
        shape = out
    return result


def layers_of(network: Network, target: Target) -> list[Step]:
    """`steps` of a network without memory.

    Raises:
        SpecError: ``target`` cannot write it, or it remembers.

    Example::

        quantised = int8.quantise(layers_of(network, "int8"), seen)
    """
    found = [step for step in steps(network, target) if isinstance(step, Step)]
    if network.spec.remembers:
        raise SpecError("A student with memory is more than layers: take its `steps`.")
    return found

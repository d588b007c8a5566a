"""What networks are made of beside PyTorch's own layers: residual blocks, heads that fold into plain layers, memory
cells.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl import unrolled

State = tuple[Tensor, ...]
"""What a policy remembers, each (N, ...); () for one without memory."""
CellKind = Literal["gru", "lstm"]
"""Kinds of memory cells."""
GATES: dict[CellKind, int] = {"gru": 3, "lstm": 4}
"""Gates of each, every one as wide as the cell."""


@dataclass(frozen=True)
class Cell:
    """A memory between two layers: what it gives at a step is what it keeps for the next."""

    kind: CellKind
    """``gru`` (Cho et al. 2014) or ``lstm`` (Hochreiter and Schmidhuber 1997, with a forget gate)."""
    size: int
    """Numbers that it keeps; an LSTM keeps as many again, its cells."""

    @property
    def gates(self) -> int:
        """Numbers before its gates' activations."""
        return GATES[self.kind] * self.size

    @property
    def own_biases(self) -> int:
        """Biases that are not of its inputs: a GRU's candidate has one inside its reset gate."""
        return self.size if self.kind == "gru" else 0

    @property
    def kept(self) -> tuple[int, ...]:
        """Sizes of what it keeps from one step to the next."""
        return (self.size,) * (2 if self.kind == "lstm" else 1)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), the convolutions 3x3 and padded (He et al. 2016, in IMPALA's order)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return cast("Tensor", x + self.conv1(F.relu(self.conv0(F.relu(x)))))


class Dueling(nn.Module):
    """V + A − mean A (Wang et al. 2016, eq. 9), V and A linear in the same features."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.value, self.advantage = nn.Linear(features, 1), nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) to numbers (B, P)."""
        return F.linear(x, *self.plain())

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that is the same function."""
        value, advantage = self.value, self.advantage
        return (
            value.weight + advantage.weight - advantage.weight.mean(0),
            value.bias + advantage.bias - advantage.bias.mean(),
        )


class ReusedHead(nn.Module):
    """The teacher's own frozen head behind a learned projection (SimKD, Chen et al. 2022); one plain layer when it
    ships.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.projection = nn.Linear(features, weight.shape[1])
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) to numbers (B, P)."""
        return F.linear(self.projection(x), self.weight, self.bias)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that is the same function."""
        return self.weight @ self.projection.weight, self.weight @ self.projection.bias + self.bias


class MemoryCell(nn.Module):
    """A GRU or an LSTM for one step; what comes in is a linear layer of its own, so that it folds and counts as one.

    GRU (Cho et al. 2014, its reset gate behind the product, as PyTorch and cuDNN have it)::

        r, z = σ(inputs + recurrent h)       n = tanh(inputs + r · (recurrent h + bias))       h' = n + z · (h − n)

    LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000)::

        i, f, o = σ(…)       g = tanh(…)       c' = f · c + i · g       h' = o · tanh(c')
    """

    def __init__(self, features: int, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.inputs = nn.Linear(features, cell.gates)
        self.recurrent = nn.Linear(cell.size, cell.gates, bias=False)
        self.bias = nn.Parameter(torch.zeros(cell.own_biases)) if cell.own_biases else None

    def draw(self, generator: torch.Generator | None) -> None:
        """Normal weights of gain 1, and biases that make it remember at first: 1 where a gate decides what stays
        (Jozefowicz et al. 2015), else 0.
        """
        size = self.cell.size
        for layer in (self.inputs, self.recurrent):
            draw_weights(layer, generator)
        with torch.no_grad():
            self.inputs.bias[size : 2 * size] = 1.0  # a GRU's update gate, an LSTM's forget gate
            if self.bias is not None:
                self.bias.zero_()

    def start(self, count: int) -> State:
        """What is remembered before the first step of ``count`` episodes: zeros, (N, H) each."""
        return tuple(self.recurrent.weight.new_zeros(count, size) for size in self.cell.kept)

    def forward(self, gates: Tensor, state: State) -> tuple[Tensor, State]:
        """Gates (N, G·H) as `inputs` gives them and what is remembered, to the output (N, H) and what is now."""
        size = self.cell.size
        if self.cell.kind == "lstm":
            h, c = state
            together = gates + self.recurrent(h)
            into, forget, candidate, out = together.chunk(4, 1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(candidate)
            h = torch.sigmoid(out) * torch.tanh(c)
            return h, (h, c)
        (h,) = state
        past = self.recurrent(h)
        reset, update = torch.sigmoid(gates[:, : 2 * size] + past[:, : 2 * size]).chunk(2, 1)
        candidate = torch.tanh(gates[:, 2 * size :] + reset * (past[:, 2 * size :] + self.bias))
        h = torch.lerp(candidate, h, update)
        return h, (h,)

    def unrolled(self, gates: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs (N, T, H) of stretches of T steps, of their gates (N, T, G·H) and what is remembered before them; and
        what is remembered after each step, (N, T, H) each, without gradient.
        """
        weight = self.recurrent.weight
        if self.bias is None:
            outputs, cells = unrolled.lstm(gates, weight, *state)
            return outputs, (outputs.detach(), cells)
        outputs = unrolled.gru(gates, weight, self.bias, *state)
        return outputs, (outputs.detach(),)


def interleaved(image: Tensor) -> Tensor:
    """Images (B, C, H, W) of any number type as floats with the channels last in memory, which convolutions want.

    Plane by plane: PyTorch's own conversion takes three times as long on a CPU, a sixth of an update.
    """
    if image.device.type != "cpu" or image.shape[1] > 32 or not image.is_contiguous():
        return image.to(torch.float32, memory_format=torch.channels_last)
    last = image.new_empty((image.shape[0], *image.shape[2:], image.shape[1]), dtype=torch.float32).movedim(-1, 1)
    for channel in range(image.shape[1]):
        last[:, channel].copy_(image[:, channel])
    return last


def draw_weights(module: nn.Module, generator: torch.Generator | None, gain: float = 1.0) -> None:
    """Normal weights of standard deviation gain/√(fan in), biases 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) * (gain / math.sqrt(parameter[0].numel()))
                )
            else:
                parameter.zero_()


def set_head(head: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Makes a plain or dueling head this linear layer."""
    with torch.no_grad():
        if isinstance(head, Dueling):  # V + A − mean A is A itself where V is its mean
            head.value.weight.copy_(weight.mean(0, keepdim=True))
            head.value.bias.copy_(bias.mean(0, keepdim=True))
            head = head.advantage
        cast("nn.Linear", head).weight.copy_(weight)
        cast("nn.Linear", head).bias.copy_(bias)


def plain_layer(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, or of the linear one that a head is."""
    weight, bias = layer.plain() if isinstance(layer, Dueling | ReusedHead) else (layer.weight, layer.bias)
    return cast("Tensor", weight).detach(), cast("Tensor", bias).detach()

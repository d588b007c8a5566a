"""Policies with memory: an LSTM or a GRU between what sees an observation and what reads the memory.

Files hold a memory as PyTorch names its tensors: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``,
and the same for ``l1`` and on where layers are stacked. Rows of a weight tell the kinds apart: an LSTM of H numbers has
4 H, a GRU 3 H.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distilrl.errors import FileError
from distilrl.limits import MAX_LAYERS
from distilrl.networks import Network
from distilrl.policies import State
from distilrl.teachers.before import Normalised
from distilrl.teachers.extractors import Flat
from distilrl.teachers.layers import Layer, Stack, assemble, finite, preceded, sequential, vector

Memory = nn.LSTM | nn.GRU


class Remembering(nn.Module):
    """A policy with memory, as `Policy` plays it."""

    def __init__(
        self, encoder: nn.Module, memory: Memory, decoder: nn.Module, obs_shape: tuple[int, ...], outputs: int
    ) -> None:
        """Puts the parts together, whose sizes were checked.

        Args:
            encoder: raw observations (B, *obs_shape) to what the memory reads, (B, D).
            memory: (1, B, D) and its state to (1, B, H) and the state after it.
            decoder: what the memory gives, (B, H), to numbers (B, P).
            obs_shape: of one observation.
            outputs: P.
        """
        super().__init__()
        self.encoder, self.memory, self.decoder = encoder, memory, decoder
        self.obs_shape, self.outputs = obs_shape, outputs

    def start(self, count: int) -> State:
        """Zeros (count, layers, H): one tensor of a GRU's, two of an LSTM's."""
        zeros = torch.zeros(count, self.memory.num_layers, self.memory.hidden_size)
        return (zeros,) if isinstance(self.memory, nn.GRU) else (zeros, zeros.clone())

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        """Raw observations (B, *obs_shape) and the state before them to numbers (B, P) and the state after them."""
        seen = self.encoder(obs).unsqueeze(0)
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        if isinstance(self.memory, nn.GRU):
            out, hidden = self.memory(seen, *before)
            after: State = (hidden,)
        else:
            out, after = self.memory(seen, before)
        return self.decoder(out.squeeze(0)), tuple(part.transpose(0, 1).contiguous() for part in after)


def read_memory(tensors: Mapping[str, Tensor], prefix: str, label: str) -> Memory:
    """The memory whose tensors are named ``prefix.weight_ih_l0`` and on.

    Raises:
        FileError: a tensor is missing, of another shape or not finite, or the memory is neither an LSTM nor a GRU.
    """
    names = [name.removeprefix(f"{prefix}.") for name in tensors if name.startswith(f"{prefix}.")]
    parts = [re.fullmatch(r"(?:weight|bias)_(?:ih|hh)_l(\d{1,2})", name) for name in names]
    other = next((name for name, part in zip(names, parts, strict=True) if part is None), None)
    if other is not None:
        raise FileError(
            f"{label} has the tensor '{prefix}.{other}', which no plain LSTM or GRU has: export the policy to ONNX "
            "instead."
        )
    layers = 1 + max((int(part[1]) for part in parts if part is not None), default=0)
    if layers > MAX_LAYERS:
        raise FileError(f"{label} has a memory of {layers} layers, more than a policy can need: the file is damaged.")
    rows, hidden = _sides(tensors, f"{prefix}.weight_hh_l0", label)
    _, size = _sides(tensors, f"{prefix}.weight_ih_l0", label)
    made = {4 * hidden: nn.LSTM, 3 * hidden: nn.GRU}.get(rows)
    if made is None:
        raise FileError(
            f"Tensor '{prefix}.weight_hh_l0' in {label} has shape {(rows, hidden)}, which is neither an LSTM's (4 rows "
            "for each number that it remembers) nor a GRU's (3): export the policy to ONNX instead."
        )
    biased = any(name.startswith("bias") for name in names)
    state: dict[str, Tensor] = {}
    for index in range(layers):
        for side, width in (("ih", size if index == 0 else hidden), ("hh", hidden)):
            name = f"weight_{side}_l{index}"
            state[name] = _matrix(tensors, f"{prefix}.{name}", (rows, width), label)
            if biased:
                state[f"bias_{side}_l{index}"] = vector(tensors, f"{prefix}.bias_{side}_l{index}", rows, label)
    memory: Memory = made(size, hidden, layers, bias=biased)
    memory.load_state_dict(state)
    return memory


def remembering(
    encoder: nn.Module,
    sees: tuple[tuple[int, ...], int],
    memory: Memory,
    dense: Sequence[Layer],
    label: str,
) -> Remembering:
    """A policy of what sees, a memory, and dense layers that read it.

    Args:
        encoder: raw observations to what the memory reads.
        sees: shape of an observation, and how many numbers the encoder gives.
        memory: as `read_memory` gives it.
        dense: layers after it, the head last.
        label: what to call the file in an error.

    Raises:
        FileError: sizes do not chain.
    """
    obs_shape, features = sees
    if features != memory.input_size:
        raise FileError(
            f"{label} has a memory that reads {memory.input_size} numbers, but what stands before it gives {features}: "
            "the file is damaged."
        )
    shape = tuple(dense[0].weight.shape)
    if len(shape) != 2 or shape[1] != memory.hidden_size:
        raise FileError(
            f"Tensor '{dense[0].name}.weight' in {label} has shape {shape}, but the memory before it gives "
            f"{memory.hidden_size} numbers: the file is damaged."
        )
    decoder = sequential([*dense[:-1], replace(dense[-1], activation=None)], label)
    return Remembering(encoder, memory, decoder, obs_shape, dense[-1].weight.shape[0])


def statistics_of(
    tensors: Mapping[str, Tensor], prefix: str, size: int, epsilon: float, label: str
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / (deviation + epsilon), each (D,), of a normaliser of rsl_rl's, as `acting` takes them.

    Raises:
        FileError: a tensor is missing, of another size, or not finite, or a deviation is negative.
    """
    names = (f"{prefix}._mean", f"{prefix}._std")
    flat = {name: tensors[name].flatten() for name in names if name in tensors}
    mean, deviation = (vector(flat, name, size, label) for name in names)
    if (deviation < 0).any():
        raise FileError(f"Tensor '{names[1]}' in {label} is negative: the file is damaged.")
    return mean, 1 / (deviation + epsilon)


def acting(
    dense: Sequence[Layer], memory: Memory | None, statistics: tuple[Tensor, Tensor] | None, label: str
) -> "Network | Stack | Remembering":
    """A policy of vectors: dense layers, behind a memory where there is one, of (obs − mean) · scale.

    Args:
        dense: layers, the head last.
        memory: as `read_memory` gives it; None: there is none.
        statistics: mean and scale, each (D,); folded into the first layer where no memory comes before it. None: none.
        label: what to call the file in an error.

    Raises:
        FileError: sizes do not chain.
    """
    if memory is None:
        if statistics is not None:
            mean, scale = statistics
            dense = [preceded(dense[0], scale, -mean * scale), *dense[1:]]
        return assemble(dense, label)
    sees = Flat() if statistics is None else Normalised(nn.Identity(), *statistics, math.inf)
    return remembering(sees, ((memory.input_size,), memory.input_size), memory, dense, label)


def _sides(tensors: Mapping[str, Tensor], name: str, label: str) -> tuple[int, int]:
    """Rows and columns of a weight."""
    if name not in tensors:
        raise FileError(f"{label} lacks the tensor '{name}': it is not the network that it seems to be.")
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or not min(shape):
        raise FileError(f"Tensor '{name}' in {label} has shape {shape}, which is no memory's: the file is damaged.")
    return shape[0], shape[1]


def _matrix(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], label: str) -> Tensor:
    """A weight of this shape in float32."""
    if _sides(tensors, name, label) != shape:
        raise FileError(
            f"Tensor '{name}' in {label} has shape {tuple(tensors[name].shape)}, not {shape}: the file is damaged."
        )
    return finite(tensors[name], name, label)

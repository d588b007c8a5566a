"""Memory cells over whole stretches of steps, with gradients written out: what only weights and states decide is one
product for all steps, so that a step costs a handful of small operations forwards and four or five backwards. Autograd
through a loop of steps takes a GRU 2.2 to 2.7 times as long (benchmarks/cells.py).

Gates are what a cell's inputs make of each step, (N, T, G · H) for N stretches of T steps of a cell with H numbers and
G gates; no gradient goes into what a stretch begins with. `distilrl.blocks.MemoryCell` has the formulas, step by step.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gru(gates: Tensor, recurrent: Tensor, bias: Tensor, start: Tensor) -> Tensor:
    """Outputs (N, T, H) of a GRU, which are also what it keeps.

    Args:
        gates: (N, T, 3 H), the reset gate's, the update gate's and the candidate's.
        recurrent: (3 H, H), its weights.
        bias: (H,), of the candidate, inside the reset gate.
        start: (N, H), what is kept before the first step.

    Example::

        gru(torch.randn(8, 32, 36), torch.randn(36, 12), torch.zeros(12), torch.zeros(8, 12)).shape  # (8, 32, 12)
    """
    return cast("Tensor", _Gru.apply(gates, recurrent, bias, start))  # type: ignore[no-untyped-call]


def lstm(gates: Tensor, recurrent: Tensor, start: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of an LSTM and its cells, without gradient, (N, T, H) each.

    Args:
        gates: (N, T, 4 H), of what comes in, of what is forgotten, the candidate's and of what goes out.
        recurrent: (4 H, H), its weights.
        start: (N, H), its outputs before the first step.
        cells: (N, H), its cells before it.

    Example::

        lstm(torch.randn(8, 32, 48), torch.randn(48, 12), *torch.zeros(2, 8, 12))[0].shape  # (8, 32, 12)
    """
    return cast("tuple[Tensor, Tensor]", _Lstm.apply(gates, recurrent, start, cells))  # type: ignore[no-untyped-call]


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor, bias: Tensor, start: Tensor) -> Tensor:
        count, steps, size = *gates.shape[:2], len(bias)
        into = gates.transpose(0, 1)
        states = gates.new_empty(steps + 1, count, size)
        states[0] = start
        past, opened = gates.new_empty(steps, count, 3 * size), gates.new_empty(steps, count, 2 * size)
        candidates = gates.new_empty(steps, count, size)
        biases, weight = torch.cat([bias.new_zeros(2 * size), bias]), recurrent.t()
        # views of all steps at once: one by one they would cost as much as what is computed
        of_gates, of_candidate = into[..., : 2 * size].unbind(0), into[..., 2 * size :].unbind(0)
        past_gates, past_candidate = past[..., : 2 * size].unbind(0), past[..., 2 * size :].unbind(0)
        reset, update = (part.unbind(0) for part in opened.chunk(2, 2))
        kept, numbers, gate, candidate = (whole.unbind(0) for whole in (states, past, opened, candidates))
        for at in range(steps):
            torch.addmm(biases, kept[at], weight, out=numbers[at])
            torch.add(of_gates[at], past_gates[at], out=gate[at]).sigmoid_()
            torch.addcmul(of_candidate[at], reset[at], past_candidate[at], out=candidate[at]).tanh_()
            torch.lerp(candidate[at], kept[at], update[at], out=kept[at + 1])
        ctx.save_for_backward(states, past, opened, candidates, recurrent)
        return states[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        states, past, opened, candidates, recurrent = ctx.saved_tensors
        steps, count, size = candidates.shape
        before, product = states[:-1], past[..., 2 * size :]
        reset, update = opened.chunk(2, 2)
        # what the slope at a state is multiplied by, to be that at the numbers of gates and candidate before it
        to_candidate = (1 - update) * (1 - candidates.square())
        to_past = to_candidate * reset
        to_reset, to_update = to_past * product * (1 - reset), (before - candidates) * update * (1 - update)
        factors = torch.stack([to_reset, to_update, to_past], 2)
        at_past, at_states = torch.empty_like(factors), slope.transpose(0, 1).clone()
        flat = at_past.view(steps, count, 3 * size)
        for at in reversed(range(steps)):
            torch.mul(at_states[at].unsqueeze(1), factors[at], out=at_past[at])
            if at:
                at_states[at - 1].addcmul_(at_states[at], update[at]).addmm_(flat[at], recurrent)
        at_gates = torch.cat([flat[..., : 2 * size], at_states * to_candidate], 2).transpose(0, 1)
        return at_gates, _weights(flat, before), at_past[:, :, 2].sum((0, 1)), None


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor, start: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        count, steps, size = *gates.shape[:2], recurrent.shape[1]
        into = gates.transpose(0, 1).unbind(0)
        outputs, cells = gates.new_empty(2, steps + 1, count, size).unbind(0)
        outputs[0], cells[0] = start, cell
        opened, seen = gates.new_empty(steps, count, 4 * size), gates.new_empty(steps, count, size)
        weight = recurrent.t()
        written, forgot, candidate, out = (part.unbind(0) for part in opened.chunk(4, 2))
        both = opened[..., : 2 * size].unbind(0)
        for at, numbers in enumerate(opened.unbind(0)):
            torch.addmm(into[at], outputs[at], weight, out=numbers)
            both[at].sigmoid_()
            candidate[at].tanh_()
            out[at].sigmoid_()
            torch.mul(forgot[at], cells[at], out=cells[at + 1]).addcmul_(written[at], candidate[at])
            torch.mul(out[at], torch.tanh(cells[at + 1], out=seen[at]), out=outputs[at + 1])
        ctx.save_for_backward(outputs, cells, opened, seen, recurrent)
        kept = cells[1:].transpose(0, 1)
        ctx.mark_non_differentiable(kept)
        return outputs[1:].transpose(0, 1), kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        outputs, cells, opened, seen, recurrent = ctx.saved_tensors
        steps, count, size = seen.shape
        written, forgot, candidate, out = opened.chunk(4, 2)
        # what the slopes at cells and outputs are multiplied by, to be those at the numbers of gates and candidate
        of_cells = [candidate * written * (1 - written), cells[:-1] * forgot * (1 - forgot)]
        factors = torch.stack([*of_cells, written * (1 - candidate.square())], 2)
        to_out, to_cells = seen * out * (1 - out), out * (1 - seen.square())
        at_gates, at_outputs = seen.new_empty(steps, count, 4, size), slope.transpose(0, 1).clone()
        at_cells = torch.empty_like(seen)
        flat = at_gates.view(steps, count, 4 * size)
        for at in reversed(range(steps)):
            torch.mul(at_outputs[at], to_cells[at], out=at_cells[at])
            if at < steps - 1:
                at_cells[at].addcmul_(at_cells[at + 1], forgot[at + 1])
            torch.mul(at_cells[at].unsqueeze(1), factors[at], out=at_gates[at, :, :3])
            torch.mul(at_outputs[at], to_out[at], out=at_gates[at, :, 3])
            if at:
                at_outputs[at - 1].addmm_(flat[at], recurrent)
        return flat.transpose(0, 1), _weights(flat, outputs[:-1]), None, None


def _weights(numbers: Tensor, before: Tensor) -> Tensor:
    """Slope (G · H, H) at recurrent weights, of those at what they give (T, N, G · H) of states (T, N, H)."""
    return numbers.flatten(0, 1).t() @ before.flatten(0, 1)

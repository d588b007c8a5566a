"""A memory cell over a batch of sequences, forwards and backwards: gradients written out, and automatic ones.

    python benchmarks/cells.py      # for each kind and size milliseconds, the median of 100 in turn, to results/cells

Sequences are of 32 steps. What is compared gives the same numbers (tests/test_memory.py). One thread, of a quiet
machine.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from lines import RESULTS, machine
from torch import Tensor

from distilrl.blocks import Cell, CellKind, MemoryCell
from distilrl.files import write_json

STEPS, REPEATS = 32, 100
KINDS: tuple[CellKind, ...] = ("gru", "lstm")
SIZES = ((8, 12), (32, 32), (8, 64))
"""Sequences in a batch, and numbers that the cell keeps."""


def automatic(cell: MemoryCell, gates: Tensor) -> Tensor:
    """Step by step."""
    outputs, state = [], cell.start(len(gates))
    for one in gates.unbind(1):
        output, state = cell(one, state)
        outputs.append(output)
    return torch.stack(outputs, 1)


def written_out(cell: MemoryCell, gates: Tensor) -> Tensor:
    """At once."""
    return cell.unrolled(gates, cell.start(len(gates)))[0]


def seconds(way: Callable[[MemoryCell, Tensor], Tensor], cell: MemoryCell, gates: Tensor) -> float:
    """Of one update's passes."""
    weights = [gates, cell.recurrent.weight, *([cell.bias] if cell.bias is not None else [])]
    begun = time.perf_counter()
    torch.autograd.grad(way(cell, gates).sum(), weights)
    return time.perf_counter() - begun


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for kind, (count, size) in itertools.product(KINDS, SIZES):
        cell = MemoryCell(4, Cell(kind, size))
        cell.draw(None)
        gates = torch.randn(count, STEPS, cell.cell.gates, requires_grad=True)
        pairs = [(seconds(automatic, cell, gates), seconds(written_out, cell, gates)) for _ in range(REPEATS)]
        slow, fast = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append({"kind": kind, "size": size, "sequences": count, "automatic_ms": slow, "written_out_ms": fast})
    machine(RESULTS / "cells")
    write_json(RESULTS / "cells" / "cells.json", rows)


if __name__ == "__main__":
    main()

"""Which states of a replay may be drawn, and with which chances, at a cost that hardly grows with the replay.

A cumulative sum over all states, anew for each draw, costs the more the more states there are. Here sums are kept of
blocks of states, and only those of blocks in which something changed are made anew: a draw finds its block by them,
then its state in the block. These are many steps on small arrays, so NumPy takes them wherever the replay is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 64
"""States whose sums are kept together."""
BY_WEIGHT, UNIFORMLY = 0.8, 0.2
"""Shares of weighted draws that follow the weights, and that do not."""
Floats = NDArray[np.float64]


class Draws:
    """States of a ring of rows of N, some of which may be drawn: uniformly, or by their weights.

    Example::

        draws = Draws(rows=1000, n_envs=8)
        draws.allow(0, torch.tensor([True] * 8))
        draws.weigh(0, torch.tensor([1.0] * 7 + [3.0]))
        draws.weighted(64, torch.Generator())  # (64,) flat indices, the eighth state the most often
    """

    def __init__(self, rows: int, n_envs: int) -> None:
        self.rows, self.n_envs = rows, n_envs
        blocks = -(-rows * n_envs // BLOCK)
        self._allowed = np.zeros((blocks, BLOCK), np.bool_)
        self._weights = np.zeros((blocks, BLOCK))
        self._counts = np.zeros(blocks, np.int64)
        self._masses = np.zeros(blocks)
        self._stale: set[int] = set()
        """Blocks whose sums are no longer true."""

    @property
    def weights(self) -> Tensor:
        """(rows, N) float64, of all states."""
        return torch.from_numpy(self._weights.reshape(-1)[: self.rows * self.n_envs].reshape(self.rows, self.n_envs))

    def allow(self, row: int, which: Tensor | bool) -> None:
        """Which states of a row may be drawn from now on, (N,) or all alike."""
        self._allowed.reshape(-1)[self._of(row)] = which if isinstance(which, bool) else which.numpy(force=True)

    def weigh(self, row: int, weights: Tensor | float) -> None:
        """Weights of the states of a row, (N,) or one for all."""
        given = weights.numpy(force=True) if isinstance(weights, Tensor) else weights
        self._weights.reshape(-1)[self._of(row)] = given

    def weigh_each(self, index: Tensor, weights: Tensor) -> None:
        """Weights of single states, by flat indices (B,)."""
        places = index.numpy(force=True)
        self._weights.reshape(-1)[places] = weights.numpy(force=True)
        self._stale.update((places // BLOCK).tolist())

    def weigh_all(self, weights: Tensor) -> None:
        """Weights (rows, N) of all states."""
        self._weights.reshape(-1)[: self.rows * self.n_envs] = weights.flatten().numpy(force=True)
        self._stale.update(range(len(self._counts)))

    def _of(self, row: int) -> slice:
        """The flat indices of a row, something of which changes."""
        first, last = row * self.n_envs, (row + 1) * self.n_envs
        self._stale.update(range(first // BLOCK, (last - 1) // BLOCK + 1))
        return slice(first, last)

    def allowed(self, index: Tensor) -> Tensor:
        """Which of some states may be drawn; the indices are flat, of any shape."""
        return torch.from_numpy(self._allowed.reshape(-1)[index.numpy(force=True)]).to(index.device)

    def __len__(self) -> int:
        """How many states may be drawn."""
        self._renew()
        return int(self._counts.sum())

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Flat indices (count,) of states, each with the same chance; there must be some."""
        self._renew()
        ends = self._counts.cumsum()
        point = (_points(count, generator) * ends[-1]).astype(np.int64)
        block = ends.searchsorted(point, side="right")
        rest = point - (ends - self._counts)[block]
        return _flat(block, self._allowed[block].cumsum(1, dtype=np.int64), rest)

    def weighted(self, count: int, generator: torch.Generator) -> Tensor:
        """Flat indices (count,) of states: four draws of five have probability proportional to the weight, the fifth
        is uniform; there must be some.
        """
        self._renew()
        by_weight, uniformly = self._shares()
        chances = self._masses * by_weight + self._counts * uniformly
        ends = chances.cumsum()
        point = _below(_points(count, generator) * ends[-1], ends[-1])
        block = ends.searchsorted(point, side="right")
        inside = ((self._weights[block] * by_weight + uniformly) * self._allowed[block]).cumsum(1)
        rest = _below(point - (ends - chances)[block], inside[:, -1]).clip(0.0)
        return _flat(block, inside, rest)

    def probabilities(self, index: Tensor) -> Tensor:
        """With which probability `weighted` draws each of these states, (B,) float64."""
        self._renew()
        by_weight, uniformly = self._shares()
        places = index.numpy(force=True)
        weights, allowed = self._weights.reshape(-1)[places], self._allowed.reshape(-1)[places]
        return torch.from_numpy((weights * by_weight + uniformly) * allowed)

    def _shares(self) -> tuple[float, float]:
        """What a weight of one makes a state's probability larger by, and what it is at the least."""
        return BY_WEIGHT / max(float(self._masses.sum()), 1e-300), UNIFORMLY / max(int(self._counts.sum()), 1)

    def _renew(self) -> None:
        """Makes the sums true."""
        if self._stale:
            which = list(self._stale)
            allowed = self._allowed[which]
            self._counts[which] = allowed.sum(1)
            self._masses[which] = (self._weights[which] * allowed).sum(1)
            self._stale.clear()


def _points(count: int, generator: torch.Generator) -> Floats:
    """Uniform draws from [0, 1)."""
    points: Floats = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return points


def _below(point: Floats, end: Floats | float) -> Floats:
    """Points that lie before the end also where rounding has put them on it."""
    return np.minimum(point, end * (1 - 2**-52))


def _flat(block: NDArray[np.int64], inside: NDArray[np.int64] | Floats, rest: NDArray[np.int64] | Floats) -> Tensor:
    """Flat indices of the first places in blocks (B,) whose cumulative sums (B, BLOCK) are above what is left (B,)."""
    return torch.from_numpy(block * BLOCK + (inside <= rest[:, None]).sum(1))

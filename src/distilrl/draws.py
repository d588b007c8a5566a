"""Which states of a replay may be drawn, and with which chances, at a cost that hardly grows with the replay.

A cumulative sum over all states, anew for each draw, would soon cost more than the update that the draw is for. Here
sums are kept of blocks of states, and only those of blocks in which something changed are made anew: a draw finds its
block by them, then its state in the block.
"""

import torch
from torch import Tensor

from distilrl.devices import precise

BLOCK = 64
"""States whose sums are kept together."""
BY_WEIGHT, UNIFORMLY = 0.8, 0.2
"""Shares of weighted draws that follow the weights, and that do not."""


class Draws:
    """States of a ring of rows of N, some of which may be drawn: uniformly, or by their weights.

    Example::

        draws = Draws(rows=1000, n_envs=8, device=torch.device("cpu"))
        draws.allow(0, torch.tensor([True] * 8))
        draws.weigh(0, torch.tensor([1.0] * 7 + [3.0]))
        draws.weighted(64, torch.Generator())  # (64,) flat indices, the eighth state the most often
    """

    def __init__(self, rows: int, n_envs: int, device: torch.device) -> None:
        self.rows, self.n_envs, self.device = rows, n_envs, device
        blocks, where = -(-rows * n_envs // BLOCK), precise(device)
        self._allowed = torch.zeros(blocks * BLOCK, dtype=torch.bool, device=where)
        self._weights = torch.zeros(blocks * BLOCK, dtype=torch.float64, device=where)
        self._counts = torch.zeros(blocks, dtype=torch.int64, device=where)
        self._masses = torch.zeros(blocks, dtype=torch.float64, device=where)
        self._stale: set[int] = set()
        """Blocks whose sums are no longer true."""
        self._by_weight = self._uniformly = 0.0

    @property
    def weights(self) -> Tensor:
        """(rows, N), of all states."""
        return self._weights[: self.rows * self.n_envs].view(self.rows, self.n_envs)

    def allow(self, row: int, which: Tensor | bool) -> None:
        """Which states of a row may be drawn from now on, (N,) or all alike."""
        self._allowed[self._of(row)] = which

    def weigh(self, row: int, weights: Tensor | float) -> None:
        """Weights of the states of a row, (N,) or one for all."""
        self._weights[self._of(row)] = weights

    def weigh_each(self, index: Tensor, weights: Tensor) -> None:
        """Weights of single states, by flat indices (B,)."""
        self._weights[index.to(self._weights.device)] = weights
        self._stale.update(torch.div(index, BLOCK, rounding_mode="floor").tolist())

    def weigh_all(self, weights: Tensor) -> None:
        """Weights (rows, N) of all states."""
        self.weights.copy_(weights)
        self._stale.update(range(len(self._counts)))

    def _of(self, row: int) -> slice:
        """The flat indices of a row, something of which changes."""
        first, last = row * self.n_envs, (row + 1) * self.n_envs
        self._stale.update(range(first // BLOCK, (last - 1) // BLOCK + 1))
        return slice(first, last)

    def allowed(self, index: Tensor) -> Tensor:
        """Which of some states may be drawn; the indices are flat, of any shape."""
        return self._allowed[index.to(self._allowed.device)].to(index.device)

    def __len__(self) -> int:
        """How many states may be drawn."""
        self._renew()
        return int(self._counts.sum())

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Flat indices (count,) of states, each with the same chance; there must be some."""
        self._renew()
        ends = self._counts.cumsum(0)
        point = (torch.rand(count, generator=generator, dtype=torch.float64) * int(ends[-1])).long().to(ends.device)
        block = torch.searchsorted(ends, point, right=True)
        rest = point - (ends - self._counts)[block]
        inside = self._allowed.view(-1, BLOCK)[block].cumsum(1)
        return self._flat(block, torch.searchsorted(inside, rest.unsqueeze(1), right=True))

    def weighted(self, count: int, generator: torch.Generator) -> Tensor:
        """Flat indices (count,) of states: four draws of five have probability proportional to the weight, the fifth
        is uniform; there must be some.
        """
        self._renew()
        chances = self._chances(self._masses, self._counts)
        ends = chances.cumsum(0)
        point = torch.rand(count, generator=generator, dtype=torch.float64).to(ends.device) * ends[-1]
        block = torch.searchsorted(ends, _below(point, ends[-1]), right=True)
        allowed = self._allowed.view(-1, BLOCK)[block].double()
        inside = self._chances(self._weights.view(-1, BLOCK)[block] * allowed, allowed).cumsum(1)
        rest = _below(point - (ends - chances)[block], inside[:, -1]).clamp_min(0.0)
        return self._flat(block, torch.searchsorted(inside, rest.unsqueeze(1), right=True))

    def probabilities(self, index: Tensor) -> Tensor:
        """With which probability `weighted` draws each of these states, (B,), in double precision."""
        self._renew()
        index = index.to(self._allowed.device)
        allowed = self._allowed[index].double()
        return self._chances(self._weights[index] * allowed, allowed)

    def _chances(self, masses: Tensor, counts: Tensor) -> Tensor:
        """Probabilities of what has so much of all weights, and so many of all states."""
        return masses * self._by_weight + counts * self._uniformly

    def _flat(self, block: Tensor, inside: Tensor) -> Tensor:
        """Flat indices of places (B, 1) inside blocks (B,)."""
        return (block * BLOCK + inside.squeeze(1)).to(self.device)

    def _renew(self) -> None:
        """Makes the sums true."""
        if not self._stale:
            return
        which = torch.tensor(sorted(self._stale), device=self._counts.device)
        allowed = self._allowed.view(-1, BLOCK)[which]
        self._counts[which] = allowed.sum(1)
        self._masses[which] = (self._weights.view(-1, BLOCK)[which] * allowed).sum(1)
        self._by_weight = BY_WEIGHT / max(float(self._masses.sum()), 1e-300)
        self._uniformly = UNIFORMLY / max(int(self._counts.sum()), 1)
        self._stale.clear()


def _below(point: Tensor, end: Tensor) -> Tensor:
    """Points that lie before the end also where rounding has put them on it."""
    return torch.minimum(point, end * (1 - 2**-52))

"""Networks that remember."""

from typing import cast

import torch
from torch import Tensor

from distilrl.blocks import MemoryCell, State
from distilrl.networks.network import Network
from distilrl.specs import NetworkSpec


class RecurrentNetwork(Network):
    """A network that remembers: a cell between two layers, or the observations before this one, or both.

    What the dense layers before a cell give goes past it, too: a few numbers kept then stand beside what is seen now,
    which need not pass through them.

    It is asked in two ways: step by step, where `forward` takes the state that it gave before, and of whole stretches
    of episodes at once (`going_on`), as it is trained.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self._cell_index = next((i for i, layer in enumerate(self.layers) if isinstance(layer, MemoryCell)), None)

    @property
    def cell(self) -> MemoryCell | None:
        """Its cell; None where it has its history alone."""
        return None if self._cell_index is None else cast("MemoryCell", self.layers[self._cell_index])

    def start(self, count: int) -> State:
        """The state of ``count`` fresh episodes: of the cell, then the observations before and whether there are any,
        (N, H − 1, D) and (N, 1).
        """
        state = self.cell.start(count) if self.cell is not None else ()
        if self.spec.history == 1:
            return state
        past = self.obs_mean.new_zeros(count, self.spec.history - 1, *self.spec.obs_shape)
        return (*state, past, past.new_zeros(count, 1))

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:  # type: ignore[override]
        """Numbers (N, P) of one step's observations (N, *obs_shape), and the state after them."""
        own, past = state, ()
        if self.spec.history > 1:
            (*own, before, begun), new = state, obs.to(torch.float32).unsqueeze(1)  # type: ignore[assignment]
            before = torch.where(begun.unsqueeze(2) > 0, before, new)
            obs = torch.cat([before, new], dim=1)
            past = (obs[:, 1:], torch.ones_like(begun))  # type: ignore[assignment]
            obs = obs.flatten(1)
        x, features = self._before_cell(obs)
        if self.cell is not None:
            x, own = self.cell(x, tuple(own))
        return self._behind_cell(x, features, obs), (*own, *past)

    def going_on(self, obs: Tensor, steps: int, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Numbers (B, P) of stretches of ``steps`` steps each, one after the other, and what is remembered after each
        step, (B, K), without gradient; None where there is no cell.

        Args:
            obs: (B, *obs_shape), B a multiple of ``steps``; with a history (B, H · D), the oldest first.
            steps: of a stretch; 1 where there is no cell.
            memory: (B / steps, K) what is remembered before each, all that the cell keeps side by side; None: zeros.
        """
        x, features = self._before_cell(obs)
        if self.cell is None:
            return self._behind_cell(x, features, obs), None
        gates = x.view(-1, steps, x.shape[1])
        state = self.cell.start(len(gates)) if memory is None else torch.split(memory, list(self.cell.cell.kept), 1)
        x, kept = self.cell.unrolled(gates, state)
        return self._behind_cell(x.flatten(0, 1), features, obs), torch.cat(kept, 2).flatten(0, 1)

    def _before_cell(self, obs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates of the cell, and what goes past it; with no cell, the first layer's numbers."""
        x, first = self._entered(obs), self._first_index
        if self.cell is None or self._cell_index == first:
            return x, None
        features = self._through(x, obs, list(self.layers)[first + 1 : self._cell_index])
        return self.cell.inputs(features), features if self.spec.beside_cell else None

    def _behind_cell(self, x: Tensor, features: Tensor | None, obs: Tensor) -> Tensor:
        after = (self._first_index if self._cell_index is None else self._cell_index) + 1
        x = x if features is None else torch.cat([x, features], dim=1)
        return self.in_units(self._through(x, obs, list(self.layers)[after:]))

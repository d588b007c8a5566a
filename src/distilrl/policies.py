"""Policies: a network, the head that reads its numbers, and the state that it carries from step to step.

A network without memory maps observations to numbers. One with memory has ``start(n)``, which gives the state of ``n``
fresh episodes, a tuple of tensors whose first dimension is n, and maps (observations, state) to (numbers, next state).
Whoever plays a policy threads the state through and starts it anew where an episode ends, so neither kind needs to be
told from the other.
"""

import zlib
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from distilrl.blocks import State
from distilrl.heads import Head

__all__ = ["Policy", "State", "rows_of"]


@dataclass(frozen=True)
class Policy:
    """A network and its head: all that playing needs.

    Example::

        policy = Policy(network, head)
        state = policy.start(1)
        actions, state = policy.act(obs, state)  # (1, *obs_shape) to (1, F) or (1, A)
    """

    network: nn.Module
    """Raw observations (B, *obs_shape) to (B, P), its preprocessing inside."""
    head: Head
    """What the numbers mean."""

    @property
    def device(self) -> torch.device:
        """Where the network's numbers are, and so the observations that it is asked about must be; the CPU where it has
        none.
        """
        first = next(chain(self.network.parameters(), self.network.buffers()), None)
        return first.device if first is not None else torch.device("cpu")

    def checksums(self) -> list[int]:
        """Of each tensor of the network that holds data, which tell these weights from those of another training; none
        where it has no such tensors, and nothing is known of what decides its answers.
        """
        tensors = [one for one in chain(self.network.parameters(), self.network.buffers()) if not one.is_meta]
        return [zlib.crc32(one.detach().cpu().numpy().tobytes()) for one in tensors]

    @property
    def remembers(self) -> bool:
        """Whether the policy has memory."""
        return hasattr(self.network, "start")

    def start(self, count: int) -> State:
        """The state at the start of ``count`` episodes."""
        if not self.remembers:
            return ()
        device = self.device
        return tuple(part.to(device) for part in self.network.start(count))  # type: ignore[operator]

    def forward(self, obs: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Numbers (B, P) of observations (B, *obs_shape), and the state after them."""
        if not self.remembers:
            return self.network(obs), state
        p, state = self.network(obs, state)
        return p, tuple(state)

    def act(self, obs: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Greedy actions (B, F) or (B, A), without gradient, and the state after them."""
        with torch.no_grad():
            p, state = self.forward(obs, state)
            return self.head.greedy(p), state

    def restart(self, state: State, ended: Tensor) -> State:
        """The state after a step, with that of a fresh episode where one ended, (N,) bool."""
        if not state or not bool(ended.any()):
            return state
        fresh = self.start(len(ended))
        return tuple(
            torch.where(ended.view(-1, *[1] * (now.ndim - 1)).to(now.device), new.to(now.device), now)
            for now, new in zip(state, fresh, strict=True)
        )


def rows_of(state: State, index: Tensor) -> State:
    """The state of some of the episodes."""
    return tuple(part[index] for part in state)

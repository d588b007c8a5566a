"""What stands around a teacher's network: statistics, bounds, zeros, a part of the observation; or a function in its
place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distilrl.errors import SpecError, TeacherError
from distilrl.heads import Head
from distilrl.policies import State


class Before(nn.Module):
    """What stands before a network; with memory where the network has some."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def start(self) -> Callable[[int], State]:
        """The network's own ``start``; a network without memory has none, and so neither has this."""
        return self.network.start  # type: ignore[return-value]


class Normalised(Before):
    """A network behind clip((obs − mean) · scale): what stable-baselines3's VecNormalize does before a policy sees
    it.
    """

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor, clip: float | Tensor) -> None:
        super().__init__(network)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("clip", torch.as_tensor(clip, dtype=torch.float32))

    def forward(self, obs: Tensor, *rest: Any) -> Any:
        """Raw observations (B, D), and what else the network reads, to what it gives."""
        return self.network(((obs.float() - self.mean) * self.scale).clamp(-self.clip, self.clip), *rest)


class Scaled(Before):
    """A network whose numbers, −1 to 1, stand for the bounds of an action: middle + reach · x, clipped behind it."""

    middle: Tensor
    reach: Tensor

    def __init__(self, network: nn.Module, middle: Tensor, reach: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("middle", middle)
        self.register_buffer("reach", reach)

    def forward(self, obs: Tensor, *rest: Any) -> Any:
        """Raw observations (B, D), and what else the network reads, to what it gives, in the action's own units."""
        found = self.network(obs, *rest)
        numbers, *state = found if isinstance(found, tuple) else (found,)
        mean, log_std = numbers.tensor_split([len(self.reach)], dim=1)
        scaled = torch.cat([self.middle + self.reach * mean, log_std + self.reach.log()[: log_std.shape[1]]], dim=1)
        return (scaled, *state) if isinstance(found, tuple) else scaled


class BeforeZeros(Before):
    """A network that is given zeros behind each observation (B, D)."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__(network)
        self.count = count

    def forward(self, obs: Tensor, *rest: Any) -> Any:
        """Raw observations (B, D), and what else the network reads, to what it gives."""
        return self.network(nn.functional.pad(obs, (0, self.count)), *rest)


class Reading(Before):
    """A network that is given some of the numbers of each observation (B, D)."""

    places: Tensor

    def __init__(self, network: nn.Module, places: Sequence[int]) -> None:
        super().__init__(network)
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, obs: Tensor, *rest: Any) -> Any:
        """Raw observations (B, D), and what else the network reads, to what it gives."""
        return self.network(obs[:, self.places], *rest)


class Newest(Before):
    """A network that is given the newest frames of each stack (B, C, H, W)."""

    def __init__(self, network: nn.Module, frames: int) -> None:
        super().__init__(network)
        self.frames = frames

    def forward(self, obs: Tensor, *rest: Any) -> Any:
        """Stacks of frames, and what else the network reads, to what it gives."""
        return self.network(obs[:, -self.frames :], *rest)


class Called(nn.Module):
    """Somebody's function, its answer made into numbers (B, P) in float32."""

    def __init__(self, policy: Callable[[Tensor], Any], head: Head | None = None) -> None:
        super().__init__()
        self.policy, self.head = policy, head

    def bound(self, head: Head) -> "Called":
        """The same function for actions that are known."""
        return Called(self.policy, head)

    @property
    def start(self) -> Callable[[int], State]:
        """Its own ``start``, where it has memory; a function without has none."""
        return self.policy.start  # type: ignore[attr-defined, no-any-return]

    def forward(self, obs: Tensor, *state: State) -> Any:
        """Raw observations (B, *obs_shape), and what it remembers, to numbers (B, P), and what it remembers then.

        Raises:
            TeacherError: the function answers with no array, or with no action.
        """
        given = self.policy(obs.clone(), *state)  # it may change what it is given, which is to be learnt from
        if not state:
            return self._numbers(given, obs)
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], tuple)):
            raise TeacherError(
                f"The teacher's module has 'start' and answers with a {type(given).__name__}: return a pair, its "
                "numbers and the tuple of what it remembers then."
            )
        return self._numbers(given[0], obs), given[1]

    def _numbers(self, given: Any, obs: Tensor) -> Tensor:
        """Numbers (B, P) of what it answers."""
        try:
            answer = torch.as_tensor(given).to(obs.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TeacherError(
                f"The teacher's function answers with a {type(given).__name__} that is no array ({error}): return a "
                "tensor or an array, a row for each observation."
            ) from error
        if not answer.is_floating_point() and self.head is not None:
            return self._chosen(answer, len(obs), self.head)
        return answer.float()

    def _chosen(self, actions: Tensor, count: int, head: Head) -> Tensor:
        """The numbers whose greedy actions were chosen."""
        size = head.action.size
        if actions.numel() != count * size or actions.shape[0] != count:
            raise TeacherError(
                f"The teacher's function answers {count} observations with whole numbers of shape "
                f"{tuple(actions.shape)}: chosen actions must be of shape {(count, size)}."
            )
        try:
            return head.inverse(actions.reshape(count, size))
        except SpecError as error:
            raise TeacherError(f"The teacher's function answers with no action: {error}") from error


def bound(network: nn.Module, head: Head) -> nn.Module:
    """The same network; of a function, one for actions that are known."""
    if isinstance(network, BeforeZeros):
        return BeforeZeros(bound(network.network, head), network.count)
    if isinstance(network, Newest):
        return Newest(bound(network.network, head), network.frames)
    if isinstance(network, Reading):
        return Reading(bound(network.network, head), network.places.tolist())
    return network.bound(head) if isinstance(network, Called) else network

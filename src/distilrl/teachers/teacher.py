"""The teacher: a frozen policy and its preprocessing, from raw observations to action values."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.envs import EnvInfo
from distilrl.errors import TeacherError
from distilrl.networks import Network, count_bytes, count_macs

Kind = Literal["q", "logits"]
Combine = Literal["mean", "best"]


@dataclass(frozen=True)
class Teacher:
    """A frozen policy; always in eval mode, never with gradient, never in reduced precision."""

    network: nn.Module
    """Raw observations (B, *obs_shape) to action values (B, A); its preprocessing is inside."""
    kind: Kind
    """``q``: values of actions; ``logits``: of a policy."""
    format: str
    """Where it came from, e.g. ``stable-baselines3 DQN 2.9.2``."""
    path: str
    """File or folder that it was read from."""
    digest: str
    """SHA-256 of its file."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What its file said of itself: environment, protocol, returns, objects in it that were not executed."""
    obs_shape: tuple[int, ...] | None = None
    """Shape of one observation; None: any. A `Network` knows its own."""
    n_actions: int = 0
    """Number of actions A. A `Network` knows its own."""
    params: int | None = None
    """Number of parameters; counted where it is not given, None where there is nothing to count."""

    def __post_init__(self) -> None:
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        if isinstance(self.network, Network):
            self.network.fold()
            object.__setattr__(self, "obs_shape", self.network.spec.obs_shape)
            object.__setattr__(self, "n_actions", self.network.spec.n_actions)
        if self.params is None:
            object.__setattr__(self, "params", sum(p.numel() for p in self.network.parameters()) or None)
        self.network.eval()

    @classmethod
    def from_callable(
        cls,
        policy: Callable[[Tensor], Any],
        n_actions: int,
        *,
        obs_shape: tuple[int, ...] | None = None,
        kind: Kind = "q",
    ) -> "Teacher":
        """Makes a teacher of a function or a module of yours; a decision rule counts.

        Args:
            policy: takes raw observations, a tensor (B, *obs_shape), and returns action values (B, A), or the chosen
                actions (B,) as integers; tensor or array.
            n_actions: number of actions A.
            obs_shape: shape of one observation; None: whatever the environment gives.
            kind: what the values are.
        """
        name = getattr(policy, "__qualname__", type(policy).__name__)
        digest = hashlib.sha256(name.encode())
        if isinstance(policy, nn.Module):
            for key, tensor in policy.state_dict().items():
                digest.update(key.encode() + tensor.detach().cpu().numpy().tobytes())
        return cls(_Called(policy, n_actions), kind, "Python callable", name, digest.hexdigest(), obs_shape=obs_shape, n_actions=n_actions)

    @property
    def name(self) -> str:
        """The network in few words: its spec where it has one."""
        return self.network.spec.describe() if isinstance(self.network, Network) else self.format

    def size(self) -> dict[str, int | None]:
        """Parameters, bytes and multiply-accumulates; None where they cannot be known."""
        if self.params is None or self.obs_shape is None:
            return {"params": self.params, "bytes": None, "macs": None}
        return {
            "params": self.params,
            "bytes": count_bytes(self.network) or 4 * self.params,
            "macs": count_macs(self.network, self.obs_shape),
        }

    def action_values(self, obs: Tensor) -> Tensor:
        """Action values (B, A) in float32 of raw observations (B, *obs_shape), without gradient."""
        with torch.no_grad(), torch.autocast(obs.device.type, enabled=False):
            return self.network(obs)  # type: ignore[no-any-return]

    def check_fits(self, env: EnvInfo) -> None:
        """Refuses an environment whose spaces are not the teacher's.

        Raises:
            TeacherError: names both shapes.
        """
        if self.obs_shape is not None and self.obs_shape != env.obs_shape:
            raise TeacherError(
                f"The teacher {self.path} reads observations of shape {self.obs_shape}, but {env.id} gives "
                f"{env.obs_shape}: choose the environment it was trained in."
            )
        if self.n_actions != env.n_actions:
            raise TeacherError(
                f"The teacher {self.path} has {self.n_actions} actions, but {env.id} has {env.n_actions}: "
                "choose the environment it was trained in."
            )


class Normalised(nn.Module):
    """A network behind clip((obs − mean) · scale): what stable-baselines3's VecNormalize does before a policy sees it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor, clip: float) -> None:
        super().__init__()
        self.network, self.clip = network, clip
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, D) to action values (B, A)."""
        return self.network(((obs.float() - self.mean) * self.scale).clamp(-self.clip, self.clip))  # type: ignore[no-any-return]


class Ensemble(nn.Module):
    """log of the mean of the members' action probabilities, each softmax(values / its own temperature)."""

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.members, self.temperatures = nn.ModuleList(members), tuple(temperatures)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to logits (B, A)."""
        pairs = zip(self.members, self.temperatures, strict=True)
        log_p = torch.stack([F.log_softmax(member(obs) / temperature, dim=1) for member, temperature in pairs])
        return torch.logsumexp(log_p, dim=0) - float(np.log(len(self.members)))


class BestOf(nn.Module):
    """In each state the action values of the member whose greedy action is worth most by its own estimate."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to action values (B, A)."""
        values = torch.stack([member(obs) for member in self.members], dim=1)
        best = values.amax(2).argmax(1)
        return values[torch.arange(len(values), device=values.device), best]


class _Called(nn.Module):
    """Somebody's function, its answer made into action values (B, A) in float32."""

    def __init__(self, policy: Callable[[Tensor], Any], n_actions: int) -> None:
        super().__init__()
        self.policy, self.n_actions = policy, n_actions

    def forward(self, obs: Tensor) -> Tensor:
        answer = torch.as_tensor(self.policy(obs)).to(obs.device)
        if answer.ndim == 1 and not answer.is_floating_point():
            return F.one_hot(answer.long(), self.n_actions).float()
        return answer.float()

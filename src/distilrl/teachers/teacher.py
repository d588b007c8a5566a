"""The teacher: a frozen network that maps raw observations to action values."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from distilrl.envs import EnvInfo
from distilrl.errors import TeacherError
from distilrl.networks import Network

Kind = Literal["q", "logits"]


@dataclass(frozen=True)
class Teacher:
    """A frozen policy; always in eval mode, never with gradient, never in reduced precision.

    Raises:
        TeacherError: on construction, if a weight is not finite.
    """

    network: Network
    """Raw observations (B, *obs_shape) to action values (B, A); its preprocessing is inside."""
    kind: Kind
    """``q``: values of actions; ``logits``: of a policy."""
    format: str
    """Where it came from, e.g. ``stable-baselines3 DQN 2.9.2``."""
    path: str
    """File or folder that it was read from."""
    digest: str
    """SHA-256 of its weights."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What its file said of itself: environment, protocol, returns."""

    def __post_init__(self) -> None:
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.network.fold()
        self.network.eval()

    @property
    def params(self) -> int:
        """Number of parameters."""
        return self.network.spec.params

    def action_values(self, obs: Tensor) -> Tensor:
        """Action values (B, A) in float32 of raw observations (B, *obs_shape), without gradient."""
        with torch.no_grad(), torch.autocast(obs.device.type, enabled=False):
            return self.network(obs)  # type: ignore[no-any-return]

    def check_fits(self, env: EnvInfo) -> None:
        """Refuses an environment whose spaces are not the teacher's.

        Raises:
            TeacherError: names both shapes.
        """
        spec = self.network.spec
        if spec.obs_shape != env.obs_shape:
            raise TeacherError(
                f"The teacher {self.path} reads observations of shape {spec.obs_shape}, but {env.id} gives "
                f"{env.obs_shape}: choose the environment it was trained in."
            )
        if spec.n_actions != env.n_actions:
            raise TeacherError(
                f"The teacher {self.path} has {spec.n_actions} actions, but {env.id} has {env.n_actions}: "
                "choose the environment it was trained in."
            )

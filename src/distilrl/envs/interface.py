"""What a vector of environments is to the rest of the project.

Rule: an environment that ends an episode is reset in the same step (`gymnasium.vector.AutoresetMode.SAME_STEP`); the
observation returned with ``terminated`` or ``truncated`` is the first one of the next episode, and no row of data ever
spans two.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilrl.spaces import ActionSpec, EnvRef, ObsSpec


@dataclass(frozen=True)
class EnvInfo:
    """What the rest of the project must know of an environment."""

    ref: EnvRef
    """How it is made."""
    obs: ObsSpec
    """What it shows."""
    action: ActionSpec
    """What it takes."""
    atari: bool = False
    """It is a game of ALE, stepped by ALE's own vector environment: frames are cheap, budgets large."""
    deterministic: bool = False
    """Equal `VecEnv.start_keys` and equal actions make equal episodes."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """What else fixes the task: sticky actions, no-ops, frame skip, episode cap; ``actions`` are the names of its one
    choice's options, where it has such and says so.
    """
    alike: tuple[int, ...] = ()
    """For each option of its one choice the first that does the same; () where that is not known."""

    @property
    def id(self) -> str:
        """Its name, as a person would write it."""
        return self.ref.label


class Step(NamedTuple):
    """What N environments answer to N actions."""

    obs: NDArray[Any]
    """(N, *obs.shape); of the next episode where this one ended."""
    reward: NDArray[np.float64]
    """(N,), not clipped."""
    terminated: NDArray[np.bool_]
    """(N,): the episode ended by its own rules."""
    truncated: NDArray[np.bool_]
    """(N,): the episode was cut by a limit."""
    measured: NDArray[np.float64]
    """(N, M) numbers of this step's ``info``, of each key that was asked for; NaN where it is not there."""


class VecEnv(ABC):
    """N environments that step together; `send` returns at once where they run on threads or processes of their own.

    Arrays that are handed out belong to the caller.

    Example::

        envs = make_vec_env("CartPole-v1", 2)
        obs = envs.reset(np.arange(2))              # (2, 4)
        envs.send(np.zeros((2, 1), np.int64))
        step = envs.recv()
        envs.close()
    """

    info: EnvInfo
    n_envs: int

    @abstractmethod
    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        """Starts an episode in every environment.

        Args:
            seeds: (N,) one for each.

        Returns:
            Observations (N, *obs.shape).

        Raises:
            EnvError: an environment failed.
        """

    def starts(self, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """What `start_keys` should be after a reset with seeds (S,), as far as that is known before one."""
        return np.arange(len(seeds))

    def every_start(self, first: int) -> list[int] | None:  # noqa: ARG002
        """Seeds, from ``first`` on, that lead to all equally likely starts; None where they cannot be counted."""
        return None

    def start_keys(self) -> NDArray[np.int64]:
        """(N,) after a reset: equal where the episodes start in the same state, as far as that is known."""
        return np.arange(self.n_envs)

    @abstractmethod
    def send(self, actions: NDArray[Any], live: NDArray[np.bool_] | None = None) -> None:
        """Hands over actions.

        Args:
            actions: (N, F) indices or (N, A) real numbers, as the action spec says.
            live: (N,) which environments step, all by default; the others stand still and answer with their last
                observation, reward 0, and no end.
        """

    @abstractmethod
    def recv(self) -> Step:
        """Waits for the answer to the last `send`.

        Raises:
            EnvError: an environment failed.
        """

    @abstractmethod
    def picture(self, index: int) -> NDArray[np.uint8]:
        """RGB image (H, W, 3) of one environment as it is now.

        Raises:
            DistilError: it cannot be drawn here.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the environments hold."""

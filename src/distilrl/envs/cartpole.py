"""CartPole stepped in arrays, by the equations of Gymnasium's own vector of it.

That one takes one seed for all copies, so that the episodes of two policies could not be paired, and steps all or none.
Here each copy starts as its own seed says, from the environment that it would be alone, and only the living move on:
to the bit what `SyncVecEnv` answers.
"""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from distilrl.envs.interface import Step
from distilrl.envs.sync import SyncVecEnv
from distilrl.spaces import EnvRef

MADE_BY = "gymnasium.envs.classic_control.cartpole:"


def is_plain_cartpole(ref: EnvRef, spec: EnvSpec | None) -> bool:
    """Whether it is Gymnasium's CartPole with nothing changed but its limit of time.

    Example::

        is_plain_cartpole(EnvRef("CartPole-v1"), gymnasium.spec("CartPole-v1"))  # True
    """
    limit = ref.kwargs.get("max_episode_steps", 1)
    return (
        spec is not None
        and (spec.entry_point, spec.vector_entry_point) == (f"{MADE_BY}CartPoleEnv", f"{MADE_BY}CartPoleVectorEnv")
        and not (spec.kwargs or spec.additional_wrappers or ref.wrappers)
        and spec.max_episode_steps is not None
        and set(ref.kwargs) <= {"max_episode_steps"}
        and type(limit) is int
        and limit >= 1  # Gymnasium's -1 is no limit
    )


class CartPoleVecEnv(SyncVecEnv):
    """N CartPoles that step as one."""

    def __init__(self, ref: EnvRef, spec: EnvSpec | None, n_envs: int, measured: tuple[str, ...] = ()) -> None:
        super().__init__(ref, spec, n_envs, measured=measured)
        self._arrays: Any = CartPoleVectorEnv(n_envs, self.info.protocol["max_episode_steps"])
        self._arrays.reset()

    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        obs = super().reset(seeds)
        for i in range(self.n_envs):
            self._start(i)
        return obs

    def recv(self) -> Step:
        arrays, live = self._arrays, np.zeros(self.n_envs, np.bool_)
        live[self._stepping] = True
        state, steps = arrays.state, arrays.steps.copy()
        arrays.prev_done[:] = False  # those that ended have been started already
        obs, reward, terminated, truncated, _ = arrays.step(np.array(self._actions))
        arrays.state[:, ~live], arrays.steps[~live] = state[:, ~live], steps[~live]
        self._steps[live] += 1
        self._obs[live] = obs[live]
        for i in np.flatnonzero(live & (terminated | truncated)).tolist():
            self._obs[i], _ = self._envs[i].reset()
            self._start(i)
        measured = np.full((self.n_envs, len(self._measured)), np.nan)
        gained = reward.astype(np.float64) * live
        return Step(self._obs.copy(), gained, terminated & live, truncated & live, measured)

    def _start(self, i: int) -> None:
        """Takes over where a copy stands after its reset."""
        self._arrays.state[:, i], self._arrays.steps[i] = self._envs[i].unwrapped.state, 0  # type: ignore[attr-defined]

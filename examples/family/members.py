"""What families have in common: members that are drawn, and how much of them is shown."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Seen = dict[str, NDArray[np.float32]]


class Family(gymnasium.Env[Any, Any]):
    """An environment whose physics is another member's at each reset.

    ``state`` is the environment's own observation, ``action`` the last action, at first 0, and ``physics`` the
    member's, each from −1 to 1 within its range, or ``member`` its number. A family says in what ranges its members'
    physics lies and how the environment `takes` one.
    """

    RANGES: ClassVar[Mapping[str, tuple[float, float]]]
    """Least and most of each quantity, which is drawn evenly in its logarithm."""

    def __init__(self, inner: Any, members: tuple[int, int], shows: str) -> None:
        """Makes the family.

        Args:
            inner: the environment, without limits of time around it.
            members: the first of those that are drawn, and the first behind them.
            shows: ``physics``, ``member`` (its number) or ``nothing``.

        Raises:
            ValueError: there are none, or ``shows`` is none of these.
        """
        first, end = members
        if not 0 <= first < end:
            raise ValueError(f"'members' must be two numbers from 0 on, the second the larger one, got {members}.")
        if shows not in ("physics", "member", "nothing"):
            raise ValueError(f"'shows' must be physics, member or nothing, got {shows!r}.")
        self.inner, self.members, self.shows = inner, (int(first), int(end)), shows
        self.render_mode, self.action_space = inner.render_mode, inner.action_space
        about = {
            "physics": spaces.Box(-1.0, 1.0, self.within(self.physics_of(first)).shape, np.float32),
            "member": spaces.Box(0, 2**24, (1,), np.float32),
        }
        own: Any = inner.observation_space
        state = spaces.Box(own.low.astype(np.float32), own.high.astype(np.float32), dtype=np.float32)
        pushed = spaces.Box(-1.0, 1.0, self.action_space.shape or (1,), np.float32)
        self._rest = np.zeros(pushed.shape, np.float32)
        parts: dict[str, spaces.Space[Any]] = {"action": pushed, "state": state}
        self.observation_space = spaces.Dict(parts | {name: box for name, box in about.items() if name == shows})

    @classmethod
    def physics_of(cls, member: int) -> dict[str, float]:
        """The physics of a member, always the same.

        Example::

            CartPoles.physics_of(7)["length"]
        """
        draws = np.random.default_rng([2026, member]).random(len(cls.RANGES))
        drawn = zip(cls.RANGES.items(), draws, strict=True)
        return {name: float(low * (high / low) ** draw) for (name, (low, high)), draw in drawn}

    def takes(self, physics: dict[str, float]) -> None:
        """Gives the environment the physics of a member."""
        raise NotImplementedError

    def within(self, physics: dict[str, float]) -> NDArray[np.float32]:
        """A member's physics as it is shown."""
        told = [
            2 * np.log(abs(physics[name]) / low) / np.log(high / low) - 1 for name, (low, high) in self.RANGES.items()
        ]
        return np.array(told, np.float32)

    def as_numbers(self, action: Any) -> NDArray[np.float32]:
        """An action as it is shown."""
        return np.array(action, np.float32)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[Seen, dict[str, Any]]:
        """Draws a member and starts its episode."""
        super().reset(seed=seed)
        member = int(self.np_random.integers(*self.members))
        physics = self.physics_of(member)
        self.takes(physics)
        self._member = {"member": member}
        own = {"physics": self.within(physics), "member": np.array([member], np.float32)}
        self._about = {name: told for name, told in own.items() if name == self.shows}
        state, _ = self.inner.reset(seed=int(self.np_random.integers(2**31)))
        return self._seen(state, self._rest.copy()), dict(self._member)

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """One step of the member."""
        state, reward, terminated, truncated, info = self.inner.step(action)
        seen = self._seen(state, self.as_numbers(action))
        return seen, float(reward), terminated, truncated, info | self._member

    def render(self) -> Any:
        """The environment's own picture."""
        return self.inner.render()

    def close(self) -> None:
        """Frees the window."""
        self.inner.close()

    def _seen(self, state: Any, action: NDArray[np.float32]) -> Seen:
        seen = {"action": action, "state": np.array(state, np.float32)}
        return seen | {name: told.copy() for name, told in self._about.items()}

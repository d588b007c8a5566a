r"""CartPoles that differ in their physics: a family, of whose members some are kept for the verdict.

`CartPoles-v0` draws a member at the start of each episode and shows its physics beside its state; `members` says from
which numbers it draws, so that training and verdict have members of their own::

    distilrl train-teacher --env examples.family:CartPoles-v0 --stop-return 490 --steps 150000 --out runs/poles-teacher
    distilrl distill --teacher runs/poles-teacher --env examples.family:CartPoles-v0 --hide physics --student gru:8 \
        --verdict-env-kwargs '{"members": [100, 200]}' --out runs/poles

The teacher sees what member it has; the student must find out within the episode. With `"shows": "member"` its number
is shown in place of its physics, by which one of many teachers is asked, each of one member.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.typing import NDArray

__all__ = ["CartPoles"]

RANGES = {"length": (0.25, 1.0), "masspole": (0.05, 0.3), "masscart": (0.5, 1.5), "force_mag": (7.0, 14.0)}
"""Half the pole's length, m; masses, kg; force, N. Drawn evenly in their logarithms; the plain CartPole has 0.5, 0.1, 1
and 10. The motor of every other member is wired the wrong way round: its force is negative.
"""


def physics_of(member: int) -> dict[str, float]:
    """The physics of a member, always the same.

    Example::

        physics_of(7)["length"]
    """
    draws = np.random.default_rng([2026, member]).random(len(RANGES))
    drawn = zip(RANGES.items(), draws, strict=True)
    physics = {name: float(low * (high / low) ** draw) for (name, (low, high)), draw in drawn}
    return physics | {"force_mag": physics["force_mag"] * (-1.0) ** member}


class CartPoles(gymnasium.Env[Any, Any]):
    """A cart and a pole of another member at each reset. ``state`` is CartPole's own observation, ``action`` the last
    action, −1 or 1 and at first 0, and ``physics`` the member's, each from −1 to 1 within its range and, as the last,
    which way round the motor is wired, or ``member`` its number; an episode ends as CartPole's does, after 500 steps at
    the latest.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(
        self, members: tuple[int, int] = (0, 100), shows: str = "physics", render_mode: str | None = None
    ) -> None:
        """Makes the family.

        Args:
            members: the first of those that are drawn, and the first behind them.
            shows: ``physics``, ``member`` (its number) or ``nothing``.
            render_mode: None or ``rgb_array``.

        Raises:
            ValueError: there are none, or ``shows`` is none of these.
        """
        first, end = members
        if not 0 <= first < end:
            raise ValueError(f"'members' must be two numbers from 0 on, the second the larger one, got {members}.")
        if shows not in ("physics", "member", "nothing"):
            raise ValueError(f"'shows' must be physics, member or nothing, got {shows!r}.")
        self.shows = shows
        self.members, self.render_mode = (int(first), int(end)), render_mode
        self.inner: Any = CartPoleEnv(render_mode=render_mode)
        self.action_space = self.inner.action_space
        box = spaces.Box(-1.0, 1.0, (len(RANGES) + 1,), np.float32)
        pushed = spaces.Box(-1.0, 1.0, (1,), np.float32)
        parts = {"action": pushed, "state": self.inner.observation_space}
        about = {"physics": box, "member": spaces.Box(0, 2**24, (1,), np.float32)}
        self.observation_space = spaces.Dict(parts | {name: box for name, box in about.items() if name == shows})

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Draws a member and starts its episode."""
        super().reset(seed=seed)
        member = int(self.np_random.integers(*self.members))
        inner, physics = self.inner, physics_of(member)
        for name, value in physics.items():
            setattr(inner, name, value)
        inner.total_mass = inner.masspole + inner.masscart
        inner.polemass_length = inner.masspole * inner.length
        within = [2 * np.log(abs(physics[name]) / low) / np.log(high / low) - 1 for name, (low, high) in RANGES.items()]
        own = {"physics": [*within, np.sign(physics["force_mag"])], "member": [member]}
        self._about = {name: np.array(told, np.float32) for name, told in own.items() if name == self.shows}
        state, _ = inner.reset(seed=int(self.np_random.integers(2**31)))
        return self._seen(state, 0.0), {"member": member}

    def step(self, action: int) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """One step of 0.02 s."""
        state, reward, terminated, truncated, info = self.inner.step(action)
        return self._seen(state, 2.0 * action - 1.0), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """The picture of CartPole."""
        return self.inner.render()

    def close(self) -> None:
        """Frees the window."""
        self.inner.close()

    def _seen(self, state: NDArray[np.float32], pushed: float) -> dict[str, NDArray[np.float32]]:
        seen = {"action": np.array([pushed], np.float32), "state": np.array(state, np.float32)}
        return seen | {name: told.copy() for name, told in self._about.items()}


if "CartPoles-v0" not in gymnasium.registry:
    gymnasium.register("CartPoles-v0", entry_point=f"{__name__}:CartPoles", max_episode_steps=500)

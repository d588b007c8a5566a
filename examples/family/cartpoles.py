"""CartPoles of other lengths, masses and forces, the motor of every other one wired the wrong way round."""

from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.typing import NDArray

from examples.family.members import Family


class CartPoles(Family):
    """A cart and a pole of another member at each reset. An action is shown as −1 or 1, and the last number of the
    physics says which way round the motor is wired; an episode ends as CartPole's does, after 500 steps at the latest.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    RANGES: ClassVar = {
        "length": (0.25, 1.0),
        "masspole": (0.05, 0.3),
        "masscart": (0.5, 1.5),
        "force_mag": (7.0, 14.0),
    }
    """Half the pole's length, m; masses, kg; force, N. The plain CartPole has 0.5, 0.1, 1 and 10. The force of every
    other member is negative.
    """

    def __init__(
        self, members: tuple[int, int] = (0, 100), shows: str = "physics", render_mode: str | None = None
    ) -> None:
        super().__init__(CartPoleEnv(render_mode=render_mode), members, shows)

    @classmethod
    def physics_of(cls, member: int) -> dict[str, float]:
        """The physics of a member, always the same."""
        physics = super().physics_of(member)
        return physics | {"force_mag": physics["force_mag"] * (-1.0) ** member}

    def takes(self, physics: dict[str, float]) -> None:
        """Sets the physics, and what the environment computes of it."""
        inner = self.inner
        for name, value in physics.items():
            setattr(inner, name, value)
        inner.total_mass = inner.masspole + inner.masscart
        inner.polemass_length = inner.masspole * inner.length

    def within(self, physics: dict[str, float]) -> NDArray[np.float32]:
        """A member's physics as it is shown, and which way round its motor is wired."""
        return np.append(super().within(physics), np.float32(np.sign(physics["force_mag"])))

    def as_numbers(self, action: Any) -> NDArray[np.float32]:
        """To the left −1, to the right 1."""
        return np.array([2.0 * action - 1.0], np.float32)

"""Hoppers that are heavier or lighter, stronger or weaker, stiffer or looser, on ground that slips or does not."""

from typing import ClassVar

import numpy as np

from examples.family.members import Family


class Hoppers(Family):
    """A Hopper of MuJoCo of another member at each reset; it fares and ends as Hopper-v5 does."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 125}  # noqa: RUF012
    RANGES: ClassVar = {
        "torso": (0.6, 1.8), "leg": (0.6, 1.8), "hip": (0.6, 1.6), "knee": (0.6, 1.6), "ankle": (0.6, 1.6),
        "damping": (0.5, 2.0), "friction": (0.6, 1.6),
    }  # fmt: skip
    """Factors of Hopper-v5's own: the torso's mass and that of thigh, leg and foot, the torque of each joint, the
    damping of all of them, and the friction of foot and ground.
    """

    def __init__(
        self, members: tuple[int, int] = (0, 100), shows: str = "physics", render_mode: str | None = None
    ) -> None:
        from gymnasium.envs.mujoco.hopper_v5 import HopperEnv  # of an extra that CartPoles do without

        super().__init__(HopperEnv(render_mode=render_mode), members, shows)
        model = self.inner.model
        self._own = {
            name: getattr(model, name).copy()
            for name in ("body_mass", "body_inertia", "actuator_gear", "dof_damping", "geom_friction")
        }

    def takes(self, physics: dict[str, float]) -> None:
        """Scales the model."""
        import mujoco

        model, own = self.inner.model, self._own
        mass = np.array([1.0, physics["torso"], *3 * [physics["leg"]]])  # world, torso, thigh, leg, foot
        model.body_mass[:] = own["body_mass"] * mass
        model.body_inertia[:] = own["body_inertia"] * mass[:, None]
        model.actuator_gear[:, 0] = own["actuator_gear"][:, 0] * [physics["hip"], physics["knee"], physics["ankle"]]
        model.dof_damping[:] = own["dof_damping"] * physics["damping"]
        model.geom_friction[:, 0] = own["geom_friction"][:, 0] * physics["friction"]
        mujoco.mj_setConst(model, self.inner.data)  # what MuJoCo computes of masses when it reads a model

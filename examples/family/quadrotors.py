"""Quadrotors that differ in how strong, how agile and how slow their rotors are, in the simulator of RAPTOR."""

import json
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.family.members import Family

GRAVITY = 9.81


class Quadrotor(gymnasium.Env[Any, Any]):
    """A quadrotor that is to hover where it is told, in l2f (Eschmann et al. 2024, "Learning to Fly in Seconds"): a
    rigid body with four rotors that follow their commands late, in steps of a hundredth of a second.

    An observation is the position (m), the rotation matrix row by row, the velocity (m/s) and the rotation about the
    body's axes (rad/s), 18 numbers; an action is the command of each rotor, -1 for standing still, 1 for the most. A
    step is worth l2f's own reward, 1.1 less each metre of distance, a tenth of the speed, a quarter of the turn about
    the vertical and a fifth of the squared distance from the commands that hover; an episode ends a metre away from
    where it should be, at 2 m/s, or at 35 rad/s.
    """

    metadata = {"render_modes": [], "render_fps": 100}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (18,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    render_mode = None

    def __init__(self) -> None:
        import l2f  # of this family alone

        self._l2f, self._device, self._rng = l2f, l2f.Device(), l2f.Rng()
        self._env, self._parameters = l2f.Environment(), l2f.Parameters()
        self._state, self._next, self._seen = l2f.State(), l2f.State(), l2f.Observation()
        l2f.initialize_rng(self._device, self._rng, 0)  # nothing is drawn of it: there is no noise
        l2f.initialize_environment(self._device, self._env)
        l2f.initial_parameters(self._device, self._env, self._parameters)
        self._nominal = json.loads(l2f.parameters_to_json(self._device, self._env, self._parameters))

    def takes(self, physics: dict[str, float]) -> None:
        """Makes it another quadrotor; ``physics`` is what `Quadrotors.RANGES` names."""
        told = json.loads(json.dumps(self._nominal))
        own = told["dynamics"]
        # -- strength: the thrust of all rotors at full speed over the weight
        curve, weight = np.array(own["rotor_thrust_coefficients"]), own["mass"] * GRAVITY
        curve *= physics["thrust"] * weight / curve.sum()
        # -- agility: the acceleration about an axis by two rotors at full speed and two that stand still
        most = float(curve[0].sum())
        arm, drag = abs(own["rotor_positions"][0][0]), own["rotor_torque_constants"][0]
        inertia = np.diag([2 * arm * most / physics["roll"]] * 2 + [2 * drag * most / physics["yaw"]])
        # -- what hovers: the root of constant + linear x + quadratic x^2 = a quarter of the weight
        constant, linear, quadratic = curve[0]
        self._hover = (np.sqrt(linear**2 + 4 * quadratic * (weight / 4 - constant)) - linear) / (2 * quadratic)
        own.update(
            rotor_thrust_coefficients=curve.tolist(),
            J=inertia.tolist(),
            J_inv=np.diag(1 / np.diag(inertia)).tolist(),
            rotor_time_constants_rising=4 * [physics["rising"]],
            rotor_time_constants_falling=4 * [physics["falling"]],
            hovering_throttle_relative=float(self._hover),
        )
        self._l2f.parameters_from_json(self._device, self._env, json.dumps(told), self._parameters)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Throws it: up to half a metre off along each axis, turned by up to a right angle, on its way somewhere."""
        super().reset(seed=seed)
        draw = self.np_random
        self._l2f.initial_state(self._device, self._env, self._parameters, self._state)
        axis, half = draw.normal(size=3), draw.uniform(0, np.pi / 2) / 2
        self._state.position = draw.uniform(-0.5, 0.5, 3).tolist()
        self._state.orientation = [np.cos(half), *(np.sin(half) * axis / np.linalg.norm(axis))]
        self._state.linear_velocity = draw.uniform(-1, 1, 3).tolist()
        self._state.angular_velocity = draw.uniform(-1, 1, 3).tolist()
        return self._observed(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """A hundredth of a second."""
        commands = np.clip(np.asarray(action, np.float64), -1, 1)
        turned = 2 * np.arccos(1 - abs(float(self._state.orientation[3])))
        away = np.linalg.norm(self._state.position)
        speed = np.linalg.norm(self._state.linear_velocity)
        effort = np.square((commands + 1) / 2 - self._hover).sum()
        self._l2f.step(self._device, self._env, self._parameters, self._state, commands.tolist(), self._next, self._rng)
        self._state.assign(self._next)
        lost = (
            np.abs(self._state.position).max() > 1
            or np.abs(self._state.linear_velocity).max() > 2
            or np.abs(self._state.angular_velocity).max() > 35
        )
        reward = 0.0 if lost else 1.1 - away - 0.1 * speed - 0.25 * turned - 0.2 * effort
        return self._observed(), float(reward), bool(lost), False, {"lost": float(lost), "away": float(away)}

    def _observed(self) -> NDArray[np.float32]:
        self._l2f.observe(self._device, self._env, self._parameters, self._state, self._seen, self._rng)
        return np.array(self._seen.observation[:18], np.float32)


class Quadrotors(Family):
    """A quadrotor of another member at each reset, for five seconds."""

    metadata = {"render_modes": [], "render_fps": 100}  # noqa: RUF012
    RANGES: ClassVar = {
        "thrust": (1.5, 5.0), "roll": (150.0, 1000.0), "yaw": (20.0, 100.0), "rising": (0.03, 0.1),
        "falling": (0.03, 0.3),
    }  # fmt: skip
    """Thrust over weight; the most about the two level axes and about the vertical one, rad/s²; how long the rotors
    take for two thirds of the way to a faster and to a slower command, s. The Crazyflie has 1.4, 650, 59, 0.055 and
    0.25. Neither mass nor size is among them: at the same ratios they change nothing.
    """

    def __init__(self, members: tuple[int, int] = (0, 100), shows: str = "physics") -> None:
        super().__init__(Quadrotor(), members, shows)

    def takes(self, physics: dict[str, float]) -> None:
        """Makes the quadrotor the member."""
        self.inner.takes(physics)

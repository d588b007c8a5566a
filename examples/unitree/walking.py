"""Robots that walk as they are told, in plain MuJoCo: the environments `G1` and `Go1`."""

import functools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from . import robots
from .robots import Robot

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

COMMAND_STEPS = 150
"""Control steps until another command is drawn."""
PUSH_STEPS = (50, 150)
"""Fewest and most control steps from one push to the next."""
JITTER = 0.05
"""The joints start within this of their pose (rad)."""
SPREAD = 0.25
"""Squared error of a speed at which its reward falls to 1/e."""
PERIOD = 0.8
"""Seconds of one stride of the G1."""
CAMERA = "follow"
"""What looks at the robot from its right, and goes where it goes."""
BACK = (0.4, -0.9, 0.25)
"""Direction from the robot to the camera."""


class Walking(gymnasium.Env[Array, Array], ABC):
    """A robot that is rewarded for moving as commanded.

    The reward of a step is exp(−|v − c|² / 0.25) + 0.5 exp(−(w − d)² / 0.25), at most 1.5: v is the base's velocity
    forward and to the side (m/s) and w its turn (rad/s), both in its own frame, c and d what is commanded, uniformly
    drawn every 150 steps. The episode ends when the robot falls, which ``info["fallen"]`` says.

    The action is what the public policy gives, before it is scaled to target angles of the joints: (12,), clipped to
    the space's bounds. What the observation holds stands in `Robot.observation`, one name a number in `Robot.names`.
    """

    robot: ClassVar[Robot]
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012  (Gymnasium's own)

    def __init__(
        self,
        model_dir: str | None = None,
        *,
        push: float = 0.0,
        friction: Sequence[float] = (1.0, 1.0),
        delay: int = 0,
        noise: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        """Loads the robot.

        Args:
            model_dir: folder of the models; None for the one that the variable UNITREE_MODELS names.
            push: speed that the base is given in a random direction of the plane every 1 to 3 seconds, m/s.
            friction: range of the factor of all sliding friction that is drawn for each episode.
            delay: control steps, of 0.02 s, until an action takes effect; before that the robot holds its pose.
            noise: of the sensors, as a multiple of what the public policy was trained with.
            render_mode: ``rgb_array``, or None.

        Raises:
            FileNotFoundError: the models are not there.
            ValueError: an option is out of its range.
        """
        if not (push >= 0 and noise >= 0 and delay >= 0 and int(delay) == delay):
            raise ValueError(f"push={push}, noise={noise} and delay={delay} must be 0 or more, delay a whole number")
        if not (len(friction) == 2 and 0 < friction[0] <= friction[1]):
            raise ValueError(f"friction={friction} must be a lowest and a highest factor above 0, e.g. (0.7, 1.3)")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode='{render_mode}' is unknown: use 'rgb_array' or None")
        self.push, self.friction, self.delay, self.noise = push, (friction[0], friction[1]), int(delay), noise
        self.render_mode = render_mode
        load = _shared if self.friction == (1.0, 1.0) else _load  # another friction is written into the model
        self.model = load(self.robot.find(model_dir), self.robot)
        self.data = mujoco.MjData(self.model)
        self._friction = self.model.geom_friction[:, 0].copy()
        self._pose = np.array(self.robot.pose)
        self._noise = np.array(self.robot.noise)
        self._lever = np.cross(np.eye(3), self.robot.sensor)  # turns an angular velocity into the sensor's own
        self._renderer: Any = None
        bound = np.full(12, self.robot.bound, np.float32)
        self.action_space = gymnasium.spaces.Box(-bound, bound, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(self._noise),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Puts the robot on its feet, its joints within 0.05 rad of their pose."""
        super().reset(seed=seed, options=options)
        mujoco.mj_resetData(self.model, self.data)
        self.model.geom_friction[:, 0] = self._friction * self.np_random.uniform(*self.friction)
        self.data.qpos[:3] = 0.0, 0.0, self.robot.height
        self.data.qpos[7:] = self._pose + self.np_random.uniform(-JITTER, JITTER, 12)
        mujoco.mj_forward(self.model, self.data)
        self.steps = 0
        self.action = np.zeros(12)
        self._waiting = deque([self.action] * self.delay)
        self._draw_command()
        self._draw_push()
        return self._observe(), {"fallen": False}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Holds the action's target angles for 0.02 s."""
        self.action = np.clip(action, -self.robot.bound, self.robot.bound).astype(np.float64)
        self._waiting.append(self.action)
        if self.push and self.steps == self._next_push:
            angle = self.np_random.uniform(0, 2 * math.pi)
            self.data.qvel[:2] += self.push * np.array([math.cos(angle), math.sin(angle)])
            self._draw_push()
        self.data.ctrl[:] = self._waiting.popleft() * self.robot.scale + self._pose
        mujoco.mj_step(self.model, self.data, self.robot.substeps)
        self.steps += 1
        reward = self._reward()
        if self.steps % COMMAND_STEPS == 0:
            self._draw_command()
        fallen = self._fallen()
        return self._observe(), reward, fallen, False, {"fallen": fallen}

    def render(self) -> NDArray[np.uint8] | None:
        """The robot, followed by the camera: (360, 480, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            self._renderer = MujocoRenderer(self.model, self.data, width=480, height=360, camera_name=CAMERA)
        picture: NDArray[np.uint8] = self._renderer.render(self.render_mode)
        return picture

    def close(self) -> None:
        """Lets go of what draws."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @abstractmethod
    def _sense(self) -> tuple[Any, ...]:
        """The parts of the observation without noise."""

    @abstractmethod
    def _fallen(self) -> bool: ...

    # What MuJoCo itself has of the base after a step is of before its last step of the physics; these are of now.

    def _frame(self) -> Floats:
        """Rotation from the base's frame to the world's (3, 3)."""
        frame = np.empty(9)
        mujoco.mju_quat2Mat(frame, self.data.qpos[3:7])
        return frame.reshape(3, 3)

    def _gravity(self) -> Floats:
        """Direction of gravity in the base's frame (3,)."""
        up: Floats = self._frame()[2]
        return -up

    def _linear(self) -> Floats:
        """Velocity of the robot's sensor in the base's frame (3,), m/s."""
        velocity: Floats = self.data.qvel[:3] @ self._frame() + self.data.qvel[3:6] @ self._lever
        return velocity

    def _angular(self) -> Floats:
        """Angular velocity of the base in its own frame (3,), rad/s."""
        velocity: Floats = self.data.qvel[3:6]
        return velocity

    def _observe(self) -> Array:
        obs = np.concatenate(self._sense())
        if self.noise:
            obs = obs + self.noise * self._noise * self.np_random.uniform(-1, 1, len(obs))
        return obs.astype(np.float32)

    def _reward(self) -> float:
        along, across, turn = self.command
        linear = self._linear()
        missed = (linear[0] - along) ** 2 + (linear[1] - across) ** 2
        return math.exp(-missed / SPREAD) + 0.5 * math.exp(-((self._angular()[2] - turn) ** 2) / SPREAD)

    def _draw_command(self) -> None:
        self.command = self.np_random.uniform(*np.transpose(self.robot.commands))

    def _draw_push(self) -> None:
        self._next_push = self.steps + int(self.np_random.integers(*PUSH_STEPS, endpoint=True))


class G1(Walking):
    """Unitree's humanoid, its twelve leg joints driven; it has fallen when its base is below 0.45 m."""

    robot = robots.G1

    def _sense(self) -> tuple[Any, ...]:
        phase = 2 * math.pi * self.steps * self.robot.substeps * self.robot.timestep / PERIOD
        return (
            self._angular() * 0.25,
            self._gravity(),
            self.command * (2.0, 2.0, 0.25),
            self.data.qpos[7:] - self._pose,
            self.data.qvel[6:] * 0.05,
            self.action,
            (math.sin(phase), math.cos(phase)),
        )

    def _fallen(self) -> bool:
        return bool(self.data.qpos[2] < 0.45)


class Go1(Walking):
    """Unitree's quadruped; it has fallen when its upward axis points less than 0.3 up."""

    robot = robots.GO1

    def _sense(self) -> tuple[Any, ...]:
        base = self._linear(), self._angular(), self._gravity()
        return *base, self.data.qpos[7:] - self._pose, self.data.qvel[6:], self.action, self.command

    def _fallen(self) -> bool:
        return bool(-self._gravity()[2] < 0.3)


def _load(scene: Path, robot: Robot) -> Any:
    """The model, driven as the policy expects."""
    spec = mujoco.MjSpec.from_file(str(scene))
    _add_camera(spec, 1.0 + 2.0 * robot.height)
    try:
        model = spec.compile()
    except ValueError:  # Go1's meshes lie in another repository, and are looks alone
        shapes = [geom for geom in spec.geoms if geom.type == mujoco.mjtGeom.mjGEOM_MESH]
        if any(geom.contype or geom.conaffinity for geom in shapes):
            raise
        for thing in (*shapes, *spec.meshes):
            spec.delete(thing)
        model = spec.compile()
    if not model.nmesh:  # draw what touches, which is hidden otherwise
        model.geom_group[:] = 0
    model.opt.timestep = robot.timestep
    if robot.gains is not None:  # motors become springs and dampers: one call then makes all steps of the physics
        stiffness, damping = (np.array(gain) for gain in robot.gains)
        model.actuator_biastype[:] = mujoco.mjtBias.mjBIAS_AFFINE
        model.actuator_gainprm[:, 0] = stiffness
        model.actuator_biasprm[:, 1], model.actuator_biasprm[:, 2] = -stiffness, -damping
    return model


_shared = functools.cache(_load)
"""One model for all copies in a process, since the G1's meshes take 180 MB: whoever changes it changes it for all."""


def _add_camera(spec: Any, distance: float) -> None:
    back = np.array(BACK) / np.linalg.norm(BACK)
    across = np.cross((0.0, 0.0, 1.0), back)
    across /= np.linalg.norm(across)
    turned = np.empty(4)
    mujoco.mju_mat2Quat(turned, np.column_stack([across, np.cross(back, across), back]).ravel())
    following = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    spec.bodies[1].add_camera(name=CAMERA, mode=following, pos=distance * back, quat=turned)

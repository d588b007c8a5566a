"""What the two robots are, as data: how they are driven, what their policies see, and where their models are found."""

import os
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

VARIABLE = "UNITREE_MODELS"
"""Environment variable that names the folder of the models where ``model_dir`` does not."""


@dataclass(frozen=True)
class Part:
    """A part of the observation."""

    name: str
    """What it holds, with its scale."""
    size: int
    """How many numbers."""
    noise: float = 0.0
    """Half-width of the uniform noise that the public policy was trained with, in the observation's units."""


@dataclass(frozen=True)
class Robot:
    """A robot, and how its public policy drives it 50 times a second."""

    name: str
    """What it is called in messages."""
    scene: str
    """File of the scene, a floor and the robot."""
    beside: str
    """A file that lies beside the right scene: others have the same name."""
    homes: tuple[str, ...]
    """Where the scene may lie within the folder of the models."""
    source: str
    """Where the models come from, for the message that they are missing."""
    timestep: float
    """Seconds of one step of the physics."""
    substeps: int
    """Steps of the physics in one control step."""
    height: float
    """Height of the base at the start, metres: the feet just touch the floor."""
    sensor: tuple[float, float, float]
    """Where the velocity is measured, from the base in its frame, metres."""
    pose: tuple[float, ...]
    """Angles of the twelve joints at action 0, radians."""
    scale: float
    """Target angle = action × scale + pose, radians."""
    gains: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Stiffness (N m / rad) and damping (N m s / rad) of each joint; None where the model's own actuators have them."""
    bound: float
    """Largest action, to either side."""
    commands: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """Range of the commanded speed forward and to the left (m/s), and of the commanded turn to the left (rad/s)."""
    observation: tuple[Part, ...]
    """What the policy sees, in this order."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each number of the observation, e.g. ``joint angle - pose 3``."""
        return tuple(f"{part.name} {i}" for part in self.observation for i in range(part.size))

    @property
    def noise(self) -> tuple[float, ...]:
        """The parts' noise, for each number of the observation."""
        return tuple(chain.from_iterable(repeat(part.noise, part.size) for part in self.observation))

    def find(self, model_dir: str | None) -> Path:
        """The scene in a folder of models, which holds this robot's files or a checkout of what they come from.

        Args:
            model_dir: the folder; None for the one that the variable `VARIABLE` names.

        Raises:
            FileNotFoundError: there is no folder, or the robot is not in it.
        """
        folder = model_dir or os.environ.get(VARIABLE)
        if not folder:
            raise FileNotFoundError(
                f"{self.name} needs model_dir or {VARIABLE}, a folder with its model: {self.source}"
            )
        for home in self.homes:
            scene = Path(folder) / home / self.scene
            if scene.is_file() and scene.with_name(self.beside).is_file():
                return scene
        raise FileNotFoundError(f"{self.name} has no {self.scene} with {self.beside} in '{folder}': {self.source}")


G1 = Robot(
    name="G1",
    scene="scene.xml",
    beside="g1_12dof.xml",
    homes=(
        ".",
        "unitree_g1",
        "g1_description",
        "resources/robots/g1_description",
        "unitree_rl_gym/resources/robots/g1_description",
    ),
    source="git clone https://github.com/unitreerobotics/unitree_rl_gym, and name the folder that it lies in",
    timestep=0.002,
    substeps=10,
    height=0.785,
    sensor=(0.0, 0.0, 0.0),
    pose=(-0.1, 0.0, 0.0, 0.3, -0.2, 0.0) * 2,
    scale=0.25,
    gains=((100.0, 100.0, 100.0, 150.0, 40.0, 40.0) * 2, (2.0, 2.0, 2.0, 4.0, 2.0, 2.0) * 2),
    bound=5.0,
    commands=((-0.5, 1.0), (-0.3, 0.3), (-0.5, 0.5)),
    observation=(
        Part("angular velocity × 0.25", 3, 0.05),
        Part("gravity in the body's frame", 3, 0.05),
        Part("command × (2, 2, 0.25)", 3),
        Part("joint angle - pose", 12, 0.01),
        Part("joint velocity × 0.05", 12, 0.075),
        Part("last action", 12),
        Part("sine and cosine of the phase", 2),
    ),
)
GO1 = Robot(
    name="Go1",
    scene="scene_mjx_feetonly_flat_terrain.xml",
    beside="go1_mjx_feetonly.xml",
    homes=(
        ".",
        "unitree_go1",
        "xmls",
        "mujoco_playground/_src/locomotion/go1/xmls",
        "mujoco_playground/mujoco_playground/_src/locomotion/go1/xmls",
    ),
    source="git clone https://github.com/google-deepmind/mujoco_playground, and name the folder that it lies in",
    timestep=0.004,
    substeps=5,
    height=0.278,
    sensor=(-0.01592, -0.06659, -0.00617),
    pose=(0.1, 0.9, -1.8, -0.1, 0.9, -1.8) * 2,
    scale=0.5,
    gains=None,
    bound=1.0,
    commands=((-1.0, 1.5), (-0.5, 0.5), (-1.0, 1.0)),
    observation=(
        Part("linear velocity in the body's frame", 3, 0.1),
        Part("angular velocity", 3, 0.2),
        Part("gravity in the body's frame", 3, 0.05),
        Part("joint angle - pose", 12, 0.03),
        Part("joint velocity", 12, 1.5),
        Part("last action", 12),
        Part("command", 3),
    ),
)

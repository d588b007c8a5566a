"""Environments beside Gymnasium's own; importing it registers them.

Changed members of CartPole, Acrobot and LunarLander, for what a student does outside what it was trained on:
``variants/CartPole-long`` (poles of twice the length), ``variants/CartPole-starts`` (first states four times as far
out), the same for Acrobot (``-heavy``: second link 1.5 times as heavy; ``-starts``: five times) and
``variants/LunarLander-wind``; a family of CartPoles ``variants/CartPole-L-G`` of half-length L and gravity G.
``variants/Pendulum-torques`` has five torques, ``variants/MiniGrid-DoorKey`` is a maze as one vector (needs minigrid).
"""

import functools

import gymnasium
import numpy as np
from gymnasium.wrappers import FlattenObservation

LENGTHS, GRAVITIES = (0.25, 0.5, 0.75, 1.0, 1.25), (6.0, 9.8, 14.0)


class _Starts(gymnasium.Wrapper):
    """Draws the first state from a box of another size."""

    def __init__(self, env: gymnasium.Env, reach: float) -> None:
        super().__init__(env)
        self.reach = reach

    def reset(self, *, seed=None, options=None):  # noqa: ARG002 (Gymnasium's signature)
        return self.env.reset(seed=seed, options={"low": -self.reach, "high": self.reach})


def cartpole(length: float = 0.5, gravity: float = 9.8, **options) -> gymnasium.Env:
    env = gymnasium.make("CartPole-v1", **options)
    inner = env.unwrapped
    inner.length, inner.gravity, inner.polemass_length = length, gravity, inner.masspole * length
    return env


def acrobot(mass: float = 1.0, **options) -> gymnasium.Env:
    env = gymnasium.make("Acrobot-v1", **options)
    env.unwrapped.LINK_MASS_2 = mass
    return env


class _Torques(gymnasium.ActionWrapper):
    """Five torques instead of any."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Discrete(5)

    def action(self, action):
        return np.array([action - 2.0], np.float32)


def minigrid(env_id: str, **options) -> gymnasium.Env:
    """The agent's view of 7x7 cells as one vector of 147 numbers: kind, colour and state of each cell."""
    from minigrid.wrappers import ImgObsWrapper

    env = gymnasium.make(env_id, **options)
    inner = env.unwrapped
    inner.gen_obs = functools.partial(_looked_up, inner, inner.gen_obs)
    return FlattenObservation(ImgObsWrapper(env))


_VIEWS: dict[tuple, np.ndarray] = {}


def _looked_up(env, observe) -> dict:
    """What the agent sees, looked up once seen: that takes most of a step, and the key is all it follows from."""
    cells = tuple(cell and cell.encode() for cell in env.grid.grid)
    pose = tuple(env.agent_pos), env.agent_dir, env.carrying and env.carrying.encode()
    key = env.width, cells, pose, env.agent_view_size, env.see_through_walls
    if key not in _VIEWS:
        _VIEWS[key] = observe()["image"]
    return {"image": _VIEWS[key].copy(), "direction": env.agent_dir, "mission": env.mission}


def _register(name: str, make) -> None:
    if f"variants/{name}" not in gymnasium.registry:
        gymnasium.register(f"variants/{name}", entry_point=make)


_register("CartPole-long", lambda **options: cartpole(1.0, **options))
_register("CartPole-starts", lambda **options: _Starts(gymnasium.make("CartPole-v1", **options), 0.2))
_register("Acrobot-heavy", lambda **options: acrobot(1.5, **options))
_register("Acrobot-starts", lambda **options: _Starts(gymnasium.make("Acrobot-v1", **options), 0.5))
_register(
    "LunarLander-wind", lambda **options: gymnasium.make("LunarLander-v3", enable_wind=True, wind_power=10.0, **options)
)
_register("Pendulum-torques", lambda **options: _Torques(gymnasium.make("Pendulum-v1", **options)))
_register("MiniGrid-DoorKey", functools.partial(minigrid, "MiniGrid-DoorKey-5x5-v0"))
for _length in LENGTHS:
    for _gravity in GRAVITIES:
        _register(
            f"CartPole-{_length}-{_gravity}",
            lambda length=_length, gravity=_gravity, **options: cartpole(length, gravity, **options),
        )


class Turning(gymnasium.Wrapper):
    """CartPole whose poles double in length once training has made `TURN` steps; checks, told by their seeds, see what
    holds then.
    """

    TURN = 12_000
    clock = 0
    training = False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.training = seed < 10_000_000
            if self.training and seed % 10_000 == 0:
                Turning.clock = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        Turning.clock += self.training
        inner = self.unwrapped
        inner.length = 1.0 if Turning.clock > self.TURN else 0.5
        inner.polemass_length = inner.masspole * inner.length
        return self.env.step(action)


_register("CartPole-turning", lambda **options: Turning(gymnasium.make("CartPole-v1", **options)))

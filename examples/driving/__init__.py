"""Driving: the rule beside which the field's policies stand, and a camera for a student that has no list of cars.

The environments are highway-env's own (``highway_env:highway-fast-v0``), and nothing of them is adapted.

Example::

    distilrl evaluate zoo/highway-dqn --env highway_env:highway-fast-v0 --wrapper examples.driving:IDM
"""

import os
from typing import Any

import gymnasium
import numpy as np
from highway_env.envs.common.observation import GrayscaleObservation
from highway_env.vehicle.behavior import IDMVehicle


class _Car(IDMVehicle):  # type: ignore[misc] # its package has no types
    """A car of the rule in the place of a policy's, which is paid as that one is: the roundabout pays for the step of
    speed that was chosen, and else takes 20 m/s for the lowest.
    """

    target_speeds: Any
    """(K,) speeds of the policy's car in m/s, the slowest first; None of one that chooses among none."""

    def __getattr__(self, name: str) -> Any:
        """``speed_index``, which of them is nearest: not there where there are none, as highway-env asks."""
        if name == "speed_index" and self.target_speeds is not None:
            return int(np.abs(self.target_speeds - self.speed).argmin())
        raise AttributeError(name)


class IDM(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The car drives itself, whatever the policy says: the rules by which highway-env's other cars drive.

    Speed by the Intelligent Driver Model (Treiber et al. 2000), lanes by MOBIL (Kesting et al. 2007), with
    highway-env's own parameters. The environment is told of no action in the place of the policy's, since some
    scenarios charge for a change of lanes that was asked for.
    """

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in which a car of the rule has taken the place of the policy's."""
        obs, info = super().reset(**given)
        env: Any = self.unwrapped
        ours = env.vehicle
        rule = _Car(
            env.road,
            ours.position,
            ours.heading,
            ours.speed,
            target_lane_index=getattr(ours, "target_lane_index", None),
            target_speed=max([ours.speed, *env.config.get("reward_speed_range", getattr(ours, "target_speeds", ()))]),
            route=getattr(ours, "route", None),
        )
        rule.target_speeds = getattr(ours, "target_speeds", None)
        env.road.vehicles[env.road.vehicles.index(ours)] = rule
        env.vehicle = rule
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:  # noqa: ARG002
        """A step of the environment, by the rule."""
        kind: Any = self.unwrapped.action_type  # type: ignore[attr-defined]
        named = getattr(kind, "actions_indexes", None)
        return super().step(named["IDLE"] if named else np.zeros(self.action_space.shape, np.float32))


class Camera(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The road from above beside the list of cars: ``{"cars": (5, 5), "road": (2, 24, 96)}``, the last two frames, a
    second apart, in grey as bytes.

    A pixel is a metre: the picture shows 29 m of road behind one's own car and 67 m before it.
    """

    FRAMES, WIDTH, HEIGHT = 2, 96, 24

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        if os.environ.get("SDL_VIDEODRIVER") == "dummy":
            raise RuntimeError("highway-env draws nothing with SDL_VIDEODRIVER=dummy: set it to offscreen")
        road = gymnasium.spaces.Box(0, 255, (self.FRAMES, self.HEIGHT, self.WIDTH), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"cars": env.observation_space, "road": road})
        self._camera: Any = None

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; before its first frame the camera saw black."""
        obs, info = super().reset(**given)
        weights = (0.2989, 0.587, 0.114)  # of red, green and blue, as luma has them
        self._camera = GrayscaleObservation(self.unwrapped, (self.WIDTH, self.HEIGHT), self.FRAMES, weights, scaling=1)
        return self._both(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step of the environment, and a frame of it."""
        obs, reward, terminated, truncated, info = super().step(action)
        return self._both(obs), reward, terminated, truncated, info

    def _both(self, obs: Any) -> dict[str, Any]:
        return {"cars": obs, "road": self._camera.observe().transpose(0, 2, 1)}

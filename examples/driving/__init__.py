"""Driving: the rule beside which the field's policies stand.

The environments are highway-env's own (``highway_env:highway-fast-v0``), and nothing of them is adapted.

Example::

    distilrl evaluate zoo/highway-dqn --env highway_env:highway-fast-v0 --wrapper examples.driving:IDM
"""

from typing import Any

import gymnasium
from highway_env.vehicle.behavior import IDMVehicle


class IDM(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The car drives itself, whatever the policy says: the rules by which highway-env's other cars drive.

    Speed by the Intelligent Driver Model (Treiber et al. 2000), lanes by MOBIL (Kesting et al. 2007), with
    highway-env's own parameters.
    """

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in which a car of the rule has taken the place of the policy's."""
        obs, info = super().reset(**given)
        env: Any = self.unwrapped
        ours = env.vehicle
        rule = IDMVehicle(
            env.road,
            ours.position,
            ours.heading,
            ours.speed,
            target_lane_index=getattr(ours, "target_lane_index", None),
            target_speed=max(ours.speed, env.config.get("reward_speed_range", (0, 0))[1]),
            route=getattr(ours, "route", None),
        )
        env.road.vehicles[env.road.vehicles.index(ours)] = rule
        env.vehicle = rule
        return obs, info

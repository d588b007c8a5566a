"""A robot of Gymnasium's, in MuJoCo or Box2D, that is pushed, slips, measures badly and reacts late: `Rough`."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PUSH_STEPS = (50, 150)
"""Fewest and most steps from one push to the next."""


class Rough(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A robot as it is registered, and what may go wrong with it; ``info["fallen"]`` says whether it fell, which
    is when its environment ends an episode for its posture.

    With all options left out it is the robot itself, to the bit. What goes wrong is drawn from a generator that the
    episode's seed decides.
    """

    def __init__(
        self,
        robot: str = "Hopper-v5",
        *,
        push: float = 0.0,
        friction: Sequence[float] = (1.0, 1.0),
        noise: float = 0.0,
        delay: int = 0,
        **kwargs: Any,
    ) -> None:
        """Makes the robot.

        Args:
            robot: Gymnasium id of an environment in MuJoCo, or of BipedalWalker in Box2D.
            push: speed that the root is given forward or backward every 50 to 150 steps, m/s.
            friction: range of the factor of all sliding friction that is drawn for each episode.
            noise: standard deviation of what is added to each number of the observation.
            delay: steps until an action takes effect; before that the action is 0.
            kwargs: of the robot's environment.

        Raises:
            ValueError: an option is out of its range, or the environment is neither MuJoCo's nor BipedalWalker.
        """
        if not (push >= 0 and noise >= 0 and delay >= 0 and int(delay) == delay):
            raise ValueError(f"push={push}, noise={noise} and delay={delay} must be 0 or more, delay a whole number")
        if not (len(friction) == 2 and 0 < friction[0] <= friction[1]):
            raise ValueError(f"friction={friction} must be a lowest and a highest factor above 0, e.g. (0.7, 1.3)")
        super().__init__(gymnasium.make(robot, **kwargs))
        base: Any = self.unwrapped
        if not (hasattr(base, "model") or hasattr(base, "hull")):
            raise ValueError(f"robot='{robot}' is neither in MuJoCo nor BipedalWalker, which pushes and friction need")
        self.push, self.friction, self.noise, self.delay = push, (friction[0], friction[1]), noise, int(delay)
        self._base, self._box2d, self._space = base, hasattr(base, "hull"), base.observation_space
        self._friction: Floats | None = None if self._box2d else base.model.geom_friction[:, 0].copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode with its own friction."""
        if seed is not None or not hasattr(self, "_rng"):
            self._rng = np.random.default_rng(None if seed is None else [seed, 7])  # not what the robot itself draws
        factor = self._rng.uniform(*self.friction)
        if self._friction is not None:
            self._base.model.geom_friction[:, 0] = self._friction * factor
        obs, info = self.env.reset(seed=seed, options=options)
        if self._box2d and factor != 1.0:
            self._roughen(factor)
        self._waiting = deque([np.zeros(self._base.action_space.shape)] * self.delay)
        self._next_push = int(self._rng.integers(*PUSH_STEPS))
        return self._measured(obs), info | {"fallen": False}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step of the robot."""
        self._waiting.append(np.array(action))  # which may be a buffer that is used again
        if self.push:
            self._next_push -= 1
            if self._next_push == 0:
                self._pushed(self.push * self._rng.choice((-1.0, 1.0)))
                self._next_push = int(self._rng.integers(*PUSH_STEPS))
        obs, reward, terminated, truncated, info = self.env.step(self._waiting.popleft())
        fallen = self._base.game_over if self._box2d else terminated  # the end of Box2D's road ends an episode, too
        return self._measured(obs), reward, terminated, truncated, info | {"fallen": bool(fallen)}

    def _pushed(self, speed: float) -> None:
        """Gives the root a speed forward, m/s."""
        if self._box2d:
            forward, upward = self._base.hull.linearVelocity
            self._base.hull.linearVelocity = (forward + speed, upward)
        else:
            self._base.data.qvel[0] += speed

    def _roughen(self, factor: float) -> None:
        """Multiplies the friction of Box2D's new road; of two that touch it takes the root of the product."""
        for body in self._base.terrain:
            for fixture in body.fixtures:
                fixture.friction *= factor**2

    def _measured(self, obs: Floats) -> Floats:
        """The observation as the sensors have it."""
        if not self.noise:
            return obs
        noisy = obs + self.noise * self._rng.standard_normal(obs.shape)
        return np.clip(noisy, self._space.low, self._space.high).astype(obs.dtype)

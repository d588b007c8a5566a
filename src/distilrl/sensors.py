"""How a student sees what its teacher sees as it is: through noise, late, with frames that are lost or black."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.errors import SpecError
from distilrl.plain import check_fields
from distilrl.spaces import ObsSpec


@dataclass(frozen=True)
class Sensors:
    """What stands between the world and a student.

    Example::

        Sensors(noise=(0.01,) * 17, delay=1, dropout=0.1)
    """

    noise: tuple[float, ...] = ()
    """Standard deviation of the noise on each number of a vector observation, drawn anew at each step; () for none."""
    delay: int = 0
    """Steps by which it is late; the first observation of an episode stands for those before it."""
    dropout: float = 0.0
    """Probability that an observation is lost, so that the last one that came is seen again; never the first."""
    flicker: float = 0.0
    """Probability that a frame of an image is black (Hausknecht & Stone 2015); in a stack of frames it stays so."""

    def __post_init__(self) -> None:
        check_fields(self, noise="[0, 1e30]", delay="[0, 256]", dropout="[0, 1)", flicker="[0, 1)")
        if not any(self.noise):  # a study over noise begins at none
            object.__setattr__(self, "noise", ())

    def check(self, obs: ObsSpec, name: str) -> None:
        """Refuses what observations such as these cannot be seen through.

        Raises:
            SpecError: names the setting, and the environment by ``name``.
        """
        if self.noise and obs.image is not None:
            raise SpecError(
                f"'noise' is for observations without an image, and {name} has one: leave it out, or put a wrapper "
                "that adds the noise around the environment."
            )
        if self.noise and len(self.noise) != obs.shape[0]:
            raise SpecError(
                f"'noise' needs one standard deviation per number of an observation, and {name} has {obs.shape}: "
                f"got {len(self.noise)}."
            )
        if self.flicker and not obs.pixels:
            raise SpecError(
                f"'flicker' is about an observation that is an image alone, and {name} has {obs.shape}: leave it out, "
                "or say dropout (--student-dropout), which loses observations of any kind."
            )

    @property
    def exact(self) -> bool:
        """Whether the student sees what is there."""
        return not (self.noise or self.follows)

    @property
    def late(self) -> bool:
        """Whether what it sees may be of an earlier step."""
        return self.delay > 0 or self.dropout > 0

    @property
    def follows(self) -> bool:
        """Whether what it sees depends on the steps before, so that it must see each of them."""
        return self.late or self.flicker > 0

    @property
    def chance(self) -> bool:
        """Whether chance has its part in what is seen."""
        return bool(self.noise) or self.dropout > 0 or self.flicker > 0

    def behind(self, noise: tuple[float, ...]) -> "Sensors":
        """These, in a world that is noisy itself."""
        if not noise:
            return self
        return replace(self, noise=tuple(np.hypot(self.noise or 0.0, noise).tolist()))

    @property
    def words(self) -> list[str]:
        """What is wrong with them, in few words, the noise first."""
        said = [f"noisy observations ({self._noise_in_words()})"] if self.noise else []
        said += [f"observations {self.delay} {'step' if self.delay == 1 else 'steps'} late"] if self.delay else []
        said += [f"lost observations ({self.dropout:g})"] if self.dropout else []
        return said + ([f"black frames ({self.flicker:g})"] if self.flicker else [])

    def _noise_in_words(self) -> str:
        """Its standard deviation, or the least and the largest."""
        ends = dict.fromkeys(f"{end(self.noise):.3g}" for end in (min, max))
        return " to ".join(ends)


EXACT = Sensors()
"""Those of a teacher."""


class Feed:
    """What the student sees of N episodes, step by step.

    Example::

        feed = Feed(Sensors(delay=1), range(8))
        seen = feed.see(obs, np.arange(8))  # (8, *obs_shape)
        feed.restart(ended)
    """

    def __init__(self, sensors: Sensors, seeds: Sequence[int], frames: int = 1) -> None:
        """Prepares.

        Args:
            sensors: what stands between.
            seeds: (N,) of the draws of each episode; those of noise and of losses are apart, so that a teacher that
                sees through noise alone meets the same.
            frames: of time that are stacked in an image, the newest last.
        """
        seeds = () if sensors.exact else seeds  # then nothing is drawn, and nothing kept
        self.sensors, count = sensors, len(seeds)
        self._blur, self._loss, self._flicker = (
            [np.random.default_rng([int(seed), use]) for seed in seeds] for use in (3, 4, 5)
        )
        self._black = np.zeros((count, frames), np.bool_)
        """(N, frames) which frames of what is there now came black."""
        self.steps = np.zeros(count, np.int64)
        """(N,) how many observations of its episode there were."""
        self.held: NDArray[Any] | None = None
        """(N, *obs_shape) what was seen last."""
        self._past: NDArray[Any] | None = None

    def see(self, obs: NDArray[Any], which: NDArray[np.int64]) -> NDArray[Any]:
        """What is seen of the next observations (L, *obs_shape) of some of the episodes.

        Args:
            obs: what is there.
            which: (L,) of which episodes.
        """
        sensors = self.sensors
        if sensors.exact:
            return obs
        if self._past is None or self.held is None:
            self._past = np.zeros((sensors.delay + 1, len(self.steps), *obs.shape[1:]), obs.dtype)
            self.held = np.zeros((len(self.steps), *obs.shape[1:]), obs.dtype)
        if sensors.flicker:
            obs = self._flickering(obs, which)
        first = self.steps[which] == 0
        self._past[1:, which] = self._past[:-1, which]
        self._past[0, which] = obs
        self._past[:, which[first]] = obs[first]
        seen = self._past[-1, which]
        if sensors.noise:
            noise = np.empty((len(which), len(sensors.noise)))
            for row, own in zip(which, noise, strict=True):
                self._blur[row].standard_normal(out=own)
            seen = (seen + (noise * sensors.noise).astype(np.float32)).astype(obs.dtype)
        if sensors.dropout:
            lost = (np.array([self._loss[row].random() for row in which]) < sensors.dropout) & ~first
            seen[lost] = self.held[which[lost]]
        self.held[which] = seen
        self.steps[which] += 1
        shown: NDArray[Any] = seen
        return shown

    def _flickering(self, obs: NDArray[Any], which: NDArray[np.int64]) -> NDArray[Any]:
        """Images (L, *obs_shape) with their black frames; the newest is drawn, the others are as they came."""
        black = np.roll(self._black[which], -1, axis=1)
        black[:, -1] = [self._flicker[row].random() < self.sensors.flicker for row in which]
        self._black[which] = black
        frames = obs.reshape(*black.shape, -1).copy()
        frames[black] = 0
        return frames.reshape(obs.shape)

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Episodes begin anew, (N,)."""
        if not self.sensors.exact:
            self.steps[ended] = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: plain data and arrays."""
        arrays = {"steps": self.steps, "held": self.held, "past": self._past, "black": self._black}
        draws = [rng.bit_generator.state for rng in (*self._blur, *self._loss, *self._flicker)]
        return {name: None if array is None else array.copy() for name, array in arrays.items()} | {"draws": draws}

    def load(self, state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        self.steps[:], self._black[:] = state["steps"], state["black"]
        for rng, own in zip((*self._blur, *self._loss, *self._flicker), state["draws"], strict=True):
            rng.bit_generator.state = own
        self.held, self._past = (None if state[name] is None else state[name].copy() for name in ("held", "past"))

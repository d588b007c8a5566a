"""What a student senses of stored states: what its `Feed` would have shown it there, drawn anew each time that they are
learnt from.
"""

import torch
from torch import Tensor

from distilrl.sensors import Sensors

LONGEST_LOSS = 8
"""Observations in a row that are lost, at most; more are too rare to be learnt from."""


class Sensed:
    """The steps of sequences as they look through sensors.

    Each sequence has a window of draws: for its steps, for what history and stack have from before them, and for as
    many steps as may be lost, since what is lost at one step is late at the next.

    Example::

        sensed = Sensed(Sensors(delay=1), history=1, sequence=4, frames=1, device=torch.device("cpu"))
        late, _ = sensed.late(8, generator)  # of two sequences: (8, 1), all of them 1
    """

    def __init__(self, sensors: Sensors, history: int, sequence: int, frames: int, device: torch.device) -> None:
        """Prepares.

        Args:
            sensors: what stands between.
            history: observations H of a vector that are seen at once.
            sequence: steps of a sequence, 1 for single states.
            frames: of time that are stacked in an image.
            device: where observations are.
        """
        self.sensors, self.history, self.sequence, self.frames = sensors, history, sequence, frames
        self.device = device
        self._lost = LONGEST_LOSS if sensors.dropout else 0
        self._before = self._lost + history - 1
        """Steps of a window before those of its sequence, for observations that are lost or looked back at."""

    @property
    def latest(self) -> int:
        """Steps by which what is seen may be late."""
        return self.sensors.delay + self._lost

    def late(self, count: int, generator: torch.Generator | None) -> tuple[Tensor | None, Tensor | None]:
        """By how many steps what is seen of states is late, (B, H) for the observations of their histories, None where
        it never is; and in which step of the window it came, (B, H), None where that decides nothing.

        Args:
            count: number of states B.
            generator: source of the losses.
        """
        sensors = self.sensors
        if not sensors.late and not sensors.noise:
            return None, None
        place = torch.arange(self._before + self.sequence).expand(count // self.sequence, -1)
        came = place
        if sensors.dropout:
            lost = torch.rand(place.shape, generator=generator) < sensors.dropout
            came = torch.maximum(torch.where(lost, -1, place).cummax(1).values, place - LONGEST_LOSS)
        late, came = (
            one[:, self._lost :].unfold(1, self.history, 1).flatten(0, 1).to(self.device)
            for one in (sensors.delay + place - came, came)
        )
        return late if sensors.late else None, came

    def blurred(self, obs: Tensor, ages: Tensor, came: Tensor, generator: torch.Generator | None) -> Tensor:
        """Observations (B, H · D) under noise, which is that of the step in which each of them came: what is seen twice
        is seen alike.

        Args:
            obs: what is there.
            ages: (B,) steps of its episode before each state.
            came: (B, H) as `late` says it.
            generator: source of the noise.
        """
        steps = self._steps(len(obs)) + self._before
        came = torch.maximum(came, (steps - ages).unsqueeze(1)).clamp_min(0)  # not before its episode began
        shape = (len(obs) // self.sequence, self._before + self.sequence, obs.shape[1] // self.history)
        drawn = torch.randn(shape, generator=generator)
        blur = (drawn * torch.tensor(self.sensors.noise)).to(self.device)
        return obs + blur[self._windows(len(obs)), came].flatten(1)

    def flickering(self, obs: Tensor, back: Tensor | int, generator: torch.Generator | None) -> Tensor:
        """Images (B, *obs_shape) with frames that came black: in each stack of a sequence that has them.

        Args:
            obs: what is seen, late or not.
            back: (B,) by how many steps it is.
            generator: source of the black frames.
        """
        shape = (len(obs) // self.sequence, self.latest + self.frames - 1 + self.sequence)
        drawn = (torch.rand(shape, generator=generator) < self.sensors.flicker).to(self.device)
        oldest = (self._steps(len(obs)) + self.latest - back).unsqueeze(1)
        black = drawn[self._windows(len(obs)), oldest + torch.arange(self.frames, device=self.device)]
        return obs.view(*black.shape, -1).masked_fill(black.unsqueeze(2), 0).view(obs.shape)

    def _steps(self, count: int) -> Tensor:
        """Which step of its sequence each of B states is, (B,)."""
        return torch.arange(count, device=self.device) % self.sequence

    def _windows(self, count: int) -> Tensor:
        """Which sequence each of B states is of, (B, 1)."""
        return torch.arange(count, device=self.device).div(self.sequence, rounding_mode="floor").unsqueeze(1)

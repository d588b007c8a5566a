"""What a student senses of stored states: what its `Feed` would have shown it there, drawn anew each time that they are
learnt from.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from distilrl.sensors import Sensors

LONGEST_LOSS = 8
"""Observations in a row that are lost, at most; more are too rare to be learnt from."""


class Chance(NamedTuple):
    """What chance does in the windows of W sequences, each of K steps."""

    came: Tensor | None
    """(W, K) in which step of the window came what is seen at each; None where nothing is late or noisy."""
    noise: Tensor | None
    """(W, K, D) what stands on the numbers that came then."""
    black: Tensor | None
    """(W, K') which frames came black."""


class Sensed:
    """The steps of sequences as they look through sensors.

    Each sequence has a window of draws: for its steps and those that their targets look ahead to, for what history and
    stack have from before them, and for as many steps as may be lost, since what is lost at one step is late at the
    next.

    Example::

        sensed = Sensed(Sensors(delay=1), history=1, sequence=4, frames=1, ahead=0, device=torch.device("cpu"))
        late, _ = sensed.late(sensed.draws(8, generator))  # of two sequences: (8, 1), all of them 1
    """

    def __init__(
        self, sensors: Sensors, history: int, sequence: int, frames: int, ahead: int, device: torch.device
    ) -> None:
        """Prepares.

        Args:
            sensors: what stands between.
            history: observations H of a vector that are seen at once.
            sequence: steps of a sequence, 1 for single states.
            frames: of time that are stacked in an image.
            ahead: steps from a state to the one that its target looks at; 0 where none does.
            device: where observations are.
        """
        self.sensors, self.history, self.sequence, self.frames = sensors, history, sequence, frames
        self.ahead, self.device = ahead, device
        self._lost = LONGEST_LOSS if sensors.dropout else 0
        self._before = self._lost + history - 1
        """Steps of a window before those of its sequence, for observations that are lost or looked back at."""

    @property
    def latest(self) -> int:
        """Steps by which what is seen may be late."""
        return self.sensors.delay + self._lost

    def draws(self, count: int, generator: torch.Generator | None) -> Chance:
        """Chance, for B states and what lies ``ahead`` of them: what is seen twice is seen alike.

        Args:
            count: number of states B.
            generator: source of losses, black frames and noise.
        """
        sensors, windows, steps = self.sensors, count // self.sequence, self.sequence + self.ahead
        came = black = noise = None
        if sensors.late or sensors.noise:
            came = torch.arange(self._before + steps).expand(windows, -1)
            if sensors.dropout:
                lost = torch.rand(came.shape, generator=generator) < sensors.dropout
                came = torch.maximum(torch.where(lost, -1, came).cummax(1).values, came - LONGEST_LOSS)
        if sensors.flicker:
            shape = (windows, self.latest + self.frames - 1 + steps)
            black = (torch.rand(shape, generator=generator) < sensors.flicker).to(self.device)
        if sensors.noise:
            unit = torch.randn((windows, self._before + steps, len(sensors.noise)), generator=generator)
            noise = (unit * torch.tensor(sensors.noise)).to(self.device)
        return Chance(came, noise, black)

    def late(self, draws: Chance, ahead: int = 0) -> tuple[Tensor | None, Tensor | None]:
        """By how many steps what is seen of states, or so many steps ``ahead`` of them, is late, (B, H) for the
        observations of their histories, None where it never is; and in which step of the window it came, (B, H), None
        where that decides nothing.
        """
        if draws.came is None:
            return None, None
        place = torch.arange(draws.came.shape[1])
        late, came = (
            one[:, self._lost :]
            .unfold(1, self.history, 1)[:, ahead : ahead + self.sequence]
            .flatten(0, 1)
            .to(self.device)
            for one in (self.sensors.delay + place - draws.came, draws.came)
        )
        return late if self.sensors.late else None, came

    def blurred(self, obs: Tensor, ages: Tensor, came: Tensor, draws: Chance, ahead: int = 0) -> Tensor:
        """Observations (B, H · D) under noise, which is that of the step in which each of them came.

        Args:
            obs: what is there.
            ages: (B,) steps of its episode before each state.
            came: (B, H) as `late` says it.
            draws: of their sequences.
            ahead: as for `late`.
        """
        if draws.noise is None:
            return obs
        steps = self._steps(len(obs)) + self._before + ahead
        came = torch.maximum(came, (steps - ages).unsqueeze(1)).clamp_min(0)  # not before its episode began
        return obs + draws.noise[self._windows(len(obs)), came].flatten(1)

    def flickering(self, obs: Tensor, back: Tensor | int, draws: Chance, ahead: int = 0) -> Tensor:
        """Images (B, *obs_shape) with frames that came black: in each stack of a sequence that has them.

        Args:
            obs: what is seen, late or not.
            back: (B,) by how many steps it is.
            draws: of their sequences.
            ahead: as for `late`.
        """
        if draws.black is None:
            return obs
        oldest = (self._steps(len(obs)) + ahead + self.latest - back).unsqueeze(1)
        black = draws.black[self._windows(len(obs)), oldest + torch.arange(self.frames, device=self.device)]
        return obs.view(*black.shape, -1).masked_fill(black.unsqueeze(2), 0).view(obs.shape)

    def _steps(self, count: int) -> Tensor:
        """Which step of its sequence each of B states is, (B,)."""
        return torch.arange(count, device=self.device) % self.sequence

    def _windows(self, count: int) -> Tensor:
        """Which sequence each of B states is of, (B, 1)."""
        return torch.arange(count, device=self.device).div(self.sequence, rounding_mode="floor").unsqueeze(1)

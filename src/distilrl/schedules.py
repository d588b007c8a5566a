"""Numbers that change as training goes on."""

import math
from dataclasses import dataclass
from typing import Literal

from distilrl.errors import SpecError
from distilrl.plain import check_fields


@dataclass(frozen=True)
class Progress:
    """How far training has come."""

    fraction: float
    """Share of the step budget used, 0 to 1."""
    score: float = 0.0
    """The student's best score so far (since the visited states last drifted): 0 random play, 1 the teacher. It does
    not fall, so what follows it does not come back."""
    agreement: float = 0.0
    """Agreement on student-visited states at the last check, weighted by what a mistake costs."""
    entropy: float = 1.0
    """Mean entropy of the teacher's policy at its temperature on the last states labelled, as a share of the
    largest."""
    drift: float = 0.0
    """How far the states that the student now visits lie from those it was trained on: two-sample statistic, 0 to 1."""


START = Progress(0.0)
"""Before anything was done."""
OVER = Progress(1.0, 1.0, 1.0)
"""At the end of a budget, as good as the teacher."""


def settle(before: float, measured: float, band: float) -> float:
    """Hysteresis: the new measurement where it differs from the one in force by more than ``band``, so that noise
    flaps nothing.

    Example::

        settle(0.50, 0.52, band=0.05)  # 0.50
    """
    return measured if abs(measured - before) > band else before


@dataclass(frozen=True)
class Schedule:
    """A number that goes from ``begin`` to ``end`` in a straight line as training, or the score, goes from ``start``
    to ``share``.

    Example::

        Schedule(1.0)  # constant
        Schedule(1.0, 0.05, 0.5)  # 1 at the start, 0.525 at a quarter, 0.05 from half of the budget on
        Schedule(3.0, 0.0, by="score")  # 3 * (1 - score), and 0 for good once the teacher's score was reached
    """

    begin: float
    """Value at the start."""
    end: float | None = None
    """Value from ``share`` on; ``begin`` where it is None."""
    share: float = 1.0
    """Share of the budget (or score) at which ``end`` is reached, in (0, 1]."""
    start: float = 0.0
    """Share until which the value stays at ``begin``, below ``share``."""
    by: Literal["budget", "score", "agreement", "entropy", "drift"] = "budget"
    """What it follows: the share of the budget used, or a measured number of `Progress`."""

    def __post_init__(self) -> None:
        check_fields(self)
        for value in (self.begin, self.end):
            if value is not None and not math.isfinite(value):
                raise SpecError(f"A schedule must go between finite numbers, got {value}.")
        if not 0 < self.share <= 1:
            raise SpecError(f"A schedule's share must lie in (0, 1], got {self.share}.")
        if not 0 <= self.start < self.share:
            raise SpecError(f"A schedule's start must lie in [0, share), got {self.start}.")

    def __call__(self, progress: Progress) -> float:
        """The number at this point of training."""
        if self.end is None:
            return self.begin
        at = progress.fraction if self.by == "budget" else float(getattr(progress, self.by))
        done = min(max((at - self.start) / (self.share - self.start), 0.0), 1.0)
        return self.begin + (self.end - self.begin) * done

    @property
    def least(self) -> float:
        """The smallest number that it gives."""
        return self.begin if self.end is None else min(self.begin, self.end)

    @property
    def most(self) -> float:
        """The largest number that it gives."""
        return self.begin if self.end is None else max(self.begin, self.end)

    def over(self, progress: Progress) -> bool:
        """Whether the number is 0 now and for the rest of training: it is asked for nothing any more."""
        follows_time = self.by == "budget" and progress.fraction >= self.share
        return self.most == 0 or (follows_time and self(progress) == 0)


CONSTANT = Schedule(1.0)
"""1 throughout."""

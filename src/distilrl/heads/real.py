"""Policies of real actions: a point, or a Gaussian, before it is squashed by tanh or clipped to its bounds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from distilrl import losses
from distilrl.errors import BoundsError
from distilrl.heads.protocol import Loss, Squash
from distilrl.heads.units import Units
from distilrl.spaces import Bounds

NEAR = 0.1
"""Two real actions agree where each dimension differs by no more than this share of its half-range; also the spread
that is assumed of a teacher that has none."""
SMALLEST_USUAL, LARGEST_USUAL = 0.1, 10.0
"""Half-ranges of actions whose own numbers a student learns as well as half-ranges."""


@dataclass(frozen=True)
class Point:
    """A real action of A numbers, before it is squashed by tanh and scaled, or clipped, to its bounds; P = A.

    Losses with ``clip`` see the mean before it is clipped, so that a student on the wrong side of a bound is told how
    far to come back; only `action_regression` does not ask it to follow its teacher beyond one, and
    `clipped_regression` sees what is clipped, which tells nothing there.
    """

    action: Bounds
    """The bounds."""
    squash: Squash = "clip"
    """How the action comes into them."""

    def __post_init__(self) -> None:
        if self.squash == "tanh" and not self.action.bounded:
            raise BoundsError(
                "An action squashed by tanh needs a low and a high bound in each dimension: name the environment's."
            )

    @property
    def real(self) -> bool:
        return True

    @property
    def width(self) -> int:
        return self.action.size

    @property
    def student(self) -> "Point":
        return Point(self.action, self.squash)

    @property
    def unscaled(self) -> "Point":
        return self

    @property
    def losses(self) -> Mapping[str, Loss]:
        return {
            "forward_kl": self._forward_kl,
            "action_regression": self._action_regression,
            "mean_regression": self._mean_regression,
            "clipped_regression": self._clipped_regression,
            "worst_action_gap": self._worst_action_gap,
        }

    @cached_property
    def _half(self) -> Tensor:
        return torch.from_numpy(self.action.half)

    @cached_property
    def _middle(self) -> Tensor:
        return torch.from_numpy(self.action.middle)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        low, high = (torch.from_numpy(end).float() for end in self.action.ends)
        return low, high

    @cached_property
    def _ends_seen(self) -> tuple[Tensor, Tensor]:
        """The ends as `seen` gives an action that lies there."""
        low, high = ((end - self._middle) / self._half for end in self._ends)
        return low, high

    def mean(self, p: Tensor) -> Tensor:
        """(B, A) the action before it is squashed or clipped."""
        return p[:, : self.action.size]

    def units(self, p: Tensor) -> Tensor:
        """(B, A) in half-ranges around the middle, before tanh or clipping, without gradient trouble at the bounds."""
        mean = self.mean(p)
        return mean if self.squash == "tanh" else (mean - self._middle.to(p.device)) / self._half.to(p.device)

    def seen(self, p: Tensor) -> Tensor:
        """(B, A) what the losses compare by default: half-ranges after tanh, or before clipping."""
        return torch.tanh(self.units(p)) if self.squash == "tanh" else self.units(p)

    def spread(self, p: Tensor) -> Tensor | float:  # noqa: ARG002
        """(B, A) the policy's own standard deviation in the units of `compared`; `NEAR` where it has none."""
        return NEAR

    def compared(self, p: Tensor) -> Tensor:
        """(B, A) what the KL compares, in the units of `spread`."""
        return self.seen(p)

    def greedy(self, p: Tensor) -> Tensor:
        mean = self.mean(p).float()
        if self.squash == "tanh":
            return self._middle.to(p.device) + self._half.to(p.device) * torch.tanh(mean)
        low, high = self._ends
        return torch.maximum(torch.minimum(mean, high.to(p.device)), low.to(p.device))

    def inverse(self, actions: Tensor) -> Tensor:
        if self.squash == "clip":
            return actions.float()
        share = (actions - self._middle.to(actions.device)) / self._half.to(actions.device)
        return torch.atanh(share.clamp(-1 + 1e-6, 1 - 1e-6))

    def temper(self, p: Tensor, temperature: float) -> Tensor:  # noqa: ARG002 (real actions have no temperature)
        return p

    def floored(self, p: Tensor) -> Tensor:
        return p

    def find_temperature(self, p: Tensor, share: float) -> float:  # noqa: ARG002
        return 1.0

    def find_units(self, p: Tensor) -> Units | None:
        """Half-ranges around the middle, where an action that is clipped is far from them: a student's numbers begin
        near 0 and grow by steps of order 1. None where it is not, and after a tanh.
        """
        half, middle = self._half.float().to(p.device), self._middle.float().to(p.device)
        usual = (half >= SMALLEST_USUAL) & (half <= LARGEST_USUAL) & (middle.abs() <= half / 2)
        return None if self.squash == "tanh" or bool(usual.all()) else Units(torch.diag(half), middle)

    def entropy_share(self, p: Tensor, temperature: float) -> float:  # noqa: ARG002
        return 1.0

    def stakes(self, p: Tensor) -> Tensor:
        return p.new_ones(len(p))

    def agree(self, one: Tensor, other: Tensor) -> Tensor:
        return ((one - other).abs() <= NEAR * self._half.to(one.device)).all(1).float()

    def error(self, one: Tensor, other: Tensor) -> Tensor:
        return ((one - other) / self._half.to(one.device)).square().mean(1).sqrt()

    def view(self, p: Tensor) -> Tensor:
        return self.seen(p)

    def side_by_side(self, teacher: Tensor, student: Tensor) -> dict[str, Any]:
        """For each dimension, in half-ranges: root mean square and mean error, and the share of states in which the
        teacher is at a bound.
        """
        off = (student - teacher) / self._half
        low, high = self._ends
        bound = ((teacher <= low + 1e-6) | (teacher >= high - 1e-6)).float().mean(0)
        rows = zip(
            off.square().mean(0).sqrt().tolist(),
            off.mean(0).tolist(),
            bound.tolist(),
            self.action.half.tolist(),
            strict=True,
        )
        return {
            "dimensions": [
                {"rms": rms, "bias": bias, "at_bound": at, "half_range": half} for rms, bias, at, half in rows
            ]
        }

    def to_json(self) -> dict[str, Any]:
        return {"kind": "mean", "squash": self.squash, "action": asdict(self.action)}

    # -- losses: the student's numbers are those of a `Point`, the teacher's those of this head

    def _forward_kl(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = self.compared(student), self.compared(teacher)
        spread = torch.as_tensor(self.spread(teacher), device=ours.device).expand_as(ours)
        return losses.gaussian_kl(student=ours, teacher=theirs, student_std=spread, teacher_std=spread)

    def _worst_action_gap(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        unit = torch.as_tensor(self.spread(teacher), device=student.device)
        return losses.worst_dimension_gap(student=self.compared(student) / unit, teacher=self.compared(teacher) / unit)

    def _action_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        low, high = (end.to(student.device) for end in self._ends_seen)
        return losses.bounded_regression(student=self.seen(student), teacher=self.seen(teacher), low=low, high=high)

    def _mean_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return losses.value_regression(student=self.units(student), teacher=self.units(teacher))

    def _clipped_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (
            (self.greedy(p) - self._middle.to(p.device)) / self._half.to(p.device) for p in (student, teacher)
        )
        return losses.value_regression(student=ours, teacher=theirs)


@dataclass(frozen=True)
class Gaussian(Point):
    """Mean and log standard deviation of a real action before it is squashed or clipped; P = 2 A. Its student is a
    `Point`.

    The KL of two Gaussians squashed by one tanh is that before the squash, so dimensions in which the teacher is sure
    weigh more.
    """

    @property
    def width(self) -> int:
        return 2 * self.action.size

    def inverse(self, actions: Tensor) -> Tensor:
        mean = super().inverse(actions)
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def spread(self, p: Tensor) -> Tensor | float:
        log_std = p[:, self.action.size :]
        if self.squash != "tanh":  # in half-ranges, of which alone it can be said what is too small or too large
            log_std = log_std - self._half.to(p.device).log()
        return log_std.clamp(-5, 2).exp()

    def compared(self, p: Tensor) -> Tensor:
        return self.units(p)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "kind": "gaussian"}

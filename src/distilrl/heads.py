"""Heads: what the P numbers of a policy say, as stateless functions of them; the one place that knows kinds of
policies apart.

A policy is a module that gives a flat tensor (B, P). `Categorical` reads it as one block of action values or logits
for each choice, `Gaussian` as mean and log standard deviation of a real action, `Point` as the action itself; the last
two before it is squashed by tanh or clipped to the space. A new kind of policy is a new head here, and nothing else
changes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distilrl import losses
from distilrl.errors import SpecError
from distilrl.spaces import ActionSpec, Bounds, Choices, action_from_json

Kind = Literal["q", "logits", "mean", "gaussian"]
"""What a network's numbers are: values of actions, logits, a real action, or mean and log standard deviation of one."""
Squash = Literal["tanh", "clip"]
"""How a real action comes into its bounds: tanh and a scale, or clipping."""
Loss = Callable[..., Tensor]
"""``loss(student=, teacher=)`` of the numbers of either, (B, P) each, to one number per example (B,)."""

NEAR = 0.1
"""Two real actions agree where each dimension differs by no more than this share of its half-range; also the spread
that is assumed of a teacher that has none."""
CHOICE_LOSSES: dict[str, Loss] = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jsd": losses.jsd,
    "nll": losses.nll,
    "value_regression": losses.value_regression,
    "centred_regression": losses.centred_regression,
    "standardised_regression": losses.standardised_regression,
    "dkd": losses.dkd,
    "correlation": losses.correlation,
    "batch_correlation": losses.batch_correlation,
    "large_margin": losses.large_margin,
    "worst_action_gap": losses.worst_action_gap,
    "expected_cross_entropy": losses.expected_cross_entropy,
}


class Head(Protocol):
    """What a (B, P) tensor of a policy means."""

    @property
    def action(self) -> ActionSpec:
        """The actions that it chooses among."""

    @property
    def real(self) -> bool:
        """Whether actions are real numbers, not choices."""

    @property
    def width(self) -> int:
        """Numbers P that it reads."""

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Losses between a student's numbers and those of a teacher that has this head, by name."""

    @property
    def student(self) -> "Head":
        """The head of a student that learns from a teacher with this one."""

    def greedy(self, p: Tensor) -> Tensor:
        """Actions (B, F) int64 or (B, A) float32 that the policy takes when it does not explore."""

    def inverse(self, actions: Tensor) -> Tensor:
        """Numbers (B, P) of which these actions are the greedy ones."""

    def temper(self, p: Tensor, temperature: float) -> Tensor:
        """The policy sharpened by a temperature below 1, or softened; real actions have none."""

    def find_temperature(self, p: Tensor, share: float) -> float:
        """Temperature at which the mean entropy is this share of the largest; 1 where there is none to find."""

    def entropy_share(self, p: Tensor, temperature: float) -> float:
        """Mean entropy at a temperature, as a share of the largest; 1 for real actions."""

    def stakes(self, p: Tensor) -> Tensor:
        """(B,) how much the choice matters in a state, as far as these numbers tell."""

    def agree(self, one: Tensor, other: Tensor) -> Tensor:
        """(B,) in 0 to 1: how far two actions are the same."""

    def error(self, one: Tensor, other: Tensor) -> Tensor:
        """(B,) distance of two actions: the share of choices that differ, or the root mean square in half-ranges."""

    def view(self, p: Tensor) -> Tensor:
        """(B, ·) what a discriminator sees of a policy: log-probabilities, or the action in half-ranges."""

    def side_by_side(self, teacher: Tensor, student: Tensor) -> dict[str, Any]:
        """What two policies do in the same states, as plain data for results.json: ``tables`` of choices, or
        ``dimensions`` with errors.
        """

    def to_json(self) -> dict[str, Any]:
        """Plain data that `head_from_json` reads back."""


@dataclass(frozen=True)
class Categorical:
    """Action values or logits, one block for each choice; P is the sum of the blocks."""

    action: Choices
    """The choices."""
    kind: Literal["q", "logits"] = "q"
    """``q``: values of actions; ``logits``: of a policy."""

    @property
    def real(self) -> bool:
        return False

    @property
    def width(self) -> int:
        return sum(self.action.nvec)

    @property
    def student(self) -> "Categorical":
        return self

    @property
    def losses(self) -> Mapping[str, Loss]:
        if self.action.size == 1:
            return CHOICE_LOSSES
        return {name: self._summed(loss) for name, loss in CHOICE_LOSSES.items()}

    def _summed(self, loss: Loss) -> Loss:
        """The loss of several independent choices is the sum of the losses of each."""

        def of_all(*, student: Tensor, teacher: Tensor) -> Tensor:
            pairs = zip(self.split(student), self.split(teacher), strict=True)
            return torch.stack([loss(student=one, teacher=other) for one, other in pairs]).sum(0)

        return of_all

    def split(self, p: Tensor) -> tuple[Tensor, ...]:
        """The block (B, n) of each choice."""
        return (p,) if self.action.size == 1 else torch.split(p, list(self.action.nvec), dim=1)

    def greedy(self, p: Tensor) -> Tensor:
        return torch.stack([block.argmax(1) for block in self.split(p)], dim=1)

    def inverse(self, actions: Tensor) -> Tensor:
        pairs = zip(actions.long().unbind(1), self.action.nvec, strict=True)
        return torch.cat([F.one_hot(a, n) for a, n in pairs], dim=1).float()

    def temper(self, p: Tensor, temperature: float) -> Tensor:
        return p / temperature

    def find_temperature(self, p: Tensor, share: float) -> float:
        """By bisection in log τ; numbers that never differ have full entropy at any temperature, and 1 is returned."""
        values = torch.cat([losses.centre(block) for block in self.split(p.double())], dim=1)
        spread = float(values.std())
        if not spread > 0:
            return 1.0
        low, high = math.log(spread) - 14.0, math.log(spread) + 14.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.entropy_share(values, math.exp(middle)) < share else (low, middle)
        return math.exp((low + high) / 2)

    def entropy_share(self, p: Tensor, temperature: float) -> float:
        logs = [torch.log_softmax(block.double() / temperature, dim=1) for block in self.split(p)]
        entropy = sum(float(-(log_p.exp() * log_p).sum(1).mean()) for log_p in logs)
        return entropy / max(sum(math.log(n) for n in self.action.nvec), 1e-12)  # a single choice has none

    def stakes(self, p: Tensor) -> Tensor:
        return torch.stack([losses.value_gap(block) for block in self.split(p)]).sum(0)

    def agree(self, one: Tensor, other: Tensor) -> Tensor:
        return (one == other).float().mean(1)

    def error(self, one: Tensor, other: Tensor) -> Tensor:
        return 1.0 - self.agree(one, other)

    def view(self, p: Tensor) -> Tensor:
        return torch.cat([torch.log_softmax(block, dim=1) for block in self.split(p)], dim=1)

    def side_by_side(self, teacher: Tensor, student: Tensor) -> dict[str, Any]:
        """A table for each choice: how often the teacher picks the row and the student the column."""
        tables = []
        for theirs, ours, n in zip(teacher.unbind(1), student.unbind(1), self.action.nvec, strict=True):
            tables.append(torch.bincount(theirs * n + ours, minlength=n * n).view(n, n).tolist())
        return {"tables": tables}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "action": asdict(self.action)}


@dataclass(frozen=True)
class Point:
    """A real action of A numbers, before it is squashed by tanh and scaled, or clipped, to its bounds; P = A.

    Losses with ``clip`` see the mean before it is clipped, so that a student is told how far beyond the bound its
    teacher points.
    """

    action: Bounds
    """The bounds."""
    squash: Squash = "clip"
    """How the action comes into them."""

    def __post_init__(self) -> None:
        if self.squash == "tanh" and not self.action.bounded:
            raise SpecError(
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
    def losses(self) -> Mapping[str, Loss]:
        return {
            "forward_kl": self._forward_kl,
            "action_regression": self._action_regression,
            "mean_regression": self._mean_regression,
            "clipped_regression": self._clipped_regression,
            "silent_regression": self._silent_regression,
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
        low = [-math.inf if n is None else n for n in self.action.low]
        high = [math.inf if n is None else n for n in self.action.high]
        return torch.tensor(low), torch.tensor(high)

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

    def find_temperature(self, p: Tensor, share: float) -> float:  # noqa: ARG002
        return 1.0

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
        """For each dimension, in half-ranges: root mean square and mean error, and the share of states in which either
        is at a bound.
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
        return losses.value_regression(student=self.seen(student), teacher=self.seen(teacher))

    def _mean_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return losses.value_regression(student=self.units(student), teacher=self.units(teacher))

    def _clipped_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (
            (self.greedy(p) - self._middle.to(p.device)) / self._half.to(p.device) for p in (student, teacher)
        )
        return losses.value_regression(student=ours, teacher=theirs)

    def _silent_regression(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return losses.silent_regression(student=self.seen(student), teacher=self.seen(teacher))


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
        std = p[:, self.action.size :].clamp(-5, 2).exp()
        return std if self.squash == "tanh" else std / self._half.to(p.device)

    def compared(self, p: Tensor) -> Tensor:
        return self.units(p)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "kind": "gaussian"}


ALL_LOSSES = (*CHOICE_LOSSES, *(name for name in Point(Bounds((-1.0,), (1.0,))).losses if name not in CHOICE_LOSSES))
"""Names of all losses between numbers of a teacher and a student."""


def head_for(action: ActionSpec, kind: Kind, squash: Squash = "clip") -> Head:
    """The head of a policy for these actions whose numbers are of this kind.

    Raises:
        SpecError: numbers of this kind say nothing of such actions.
    """
    if isinstance(action, Choices):
        if kind not in ("q", "logits"):
            what = f"gives real actions, but these are {action.describe()}"
            raise SpecError(f"A policy whose numbers are '{kind}' {what}: use q or logits.")
        return Categorical(action, kind)
    if kind in ("q", "logits"):
        what = f"chooses among a few actions, but these are {action.describe()}"
        raise SpecError(f"A policy whose numbers are '{kind}' {what}: use mean or gaussian.")
    return Gaussian(action, squash) if kind == "gaussian" else Point(action, squash)


def default_kind(action: ActionSpec) -> Kind:
    """What the numbers of a network are taken for where nobody says: action values, or the action itself."""
    return "q" if isinstance(action, Choices) else "mean"


def student_head(action: ActionSpec) -> Head:
    """The head of a student without a teacher."""
    return head_for(action, default_kind(action))


def head_from_json(data: Any, where: str = "head") -> Head:
    """Reads what a head's ``to_json`` gave.

    Raises:
        SpecError: it is damaged.
    """
    if not isinstance(data, dict) or data.get("kind") not in ("q", "logits", "mean", "gaussian"):
        raise SpecError(f"'{where}' must be an object whose 'kind' is q, logits, mean or gaussian, got {data!r:.120}.")
    squash = data.get("squash", "clip")
    if squash not in ("tanh", "clip"):
        raise SpecError(f"'squash' of '{where}' must be tanh or clip, got {squash!r:.40}.")
    return head_for(action_from_json(data.get("action"), f"{where}.action"), data["kind"], squash)

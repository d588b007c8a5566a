"""Policies that choose: action values or logits, a block of numbers for each choice."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distilrl import losses
from distilrl.devices import doubled
from distilrl.errors import SpecError
from distilrl.heads.protocol import Loss
from distilrl.heads.units import Units, units_of, unmasked
from distilrl.spaces import Choices

MOST_OPTIONS = 256
"""Options of a choice of which a table says who picked what."""
LOWEST = 100.0
"""Logits that lie further below the largest are masks: what has a probability of e⁻¹⁰⁰ is never chosen, and −1e8 would
be all that a loss or a mean sees."""
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
    "worst_value_gap": losses.worst_value_gap,
    "expected_cross_entropy": losses.expected_cross_entropy,
}


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
    def unscaled(self) -> "Categorical":
        return replace(self, kind="logits")

    @property
    def losses(self) -> Mapping[str, Loss]:
        known = CHOICE_LOSSES
        if self.kind == "logits":  # what is added to all of them says nothing
            known = known | {"worst_value_gap": losses.worst_centred_gap}
        return known if self.action.size == 1 else {name: self._summed(loss) for name, loss in known.items()}

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
        pairs = list(zip(actions.long().unbind(1), self.action.nvec, strict=True))
        for a, n in pairs:
            if len(wrong := a[(a < 0) | (a >= n)]):
                raise SpecError(
                    f"There is no option {int(wrong[0])}: they are counted from 0, whatever the environment calls "
                    f"them, so choose 0 to {n - 1}."
                )
        return torch.cat([F.one_hot(a, n) for a, n in pairs], dim=1).float()

    def temper(self, p: Tensor, temperature: float) -> Tensor:
        return p / temperature

    def floored(self, p: Tensor) -> Tensor:
        if self.kind != "logits":
            return p
        blocks = [torch.maximum(block, block.amax(1, keepdim=True) - LOWEST) for block in self.split(p)]
        return torch.cat(blocks, dim=1)

    def find_temperature(self, p: Tensor, share: float) -> float:
        """By bisection in log τ; numbers that never differ have full entropy at any temperature, and 1 is returned."""
        values = torch.cat([losses.centre(unmasked(block)) for block in self.split(p)], dim=1)
        spread = float(values.std())
        if not spread > 0:
            return 1.0
        low, high = math.log(spread) - 14.0, math.log(spread) + 14.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.entropy_share(values, math.exp(middle)) < share else (low, middle)
        return math.exp((low + high) / 2)

    def find_units(self, p: Tensor) -> Units:
        return units_of(self.split(p))

    def entropy_share(self, p: Tensor, temperature: float) -> float:
        logs = [torch.log_softmax(doubled(block) / temperature, dim=1) for block in self.split(p)]
        entropy = sum(float(-(log_p.exp() * log_p).sum(1).mean()) for log_p in logs)
        return entropy / max(sum(math.log(n) for n in self.action.nvec), 1e-12)  # a single choice has none

    def stakes(self, p: Tensor) -> Tensor:
        return torch.stack([losses.value_gap(block) for block in self.split(self.floored(p))]).sum(0)

    def agree(self, one: Tensor, other: Tensor) -> Tensor:
        return (one == other).float().mean(1)

    def error(self, one: Tensor, other: Tensor) -> Tensor:
        return 1.0 - self.agree(one, other)

    def view(self, p: Tensor) -> Tensor:
        return torch.cat([torch.log_softmax(block, dim=1) for block in self.split(p)], dim=1)

    def side_by_side(self, teacher: Tensor, student: Tensor) -> dict[str, Any]:
        """A table for each choice: how often the teacher picks the row and the student the column; none of more options
        than anybody could look at, whose square no file of results should hold.
        """
        tables: list[Any] = []
        for theirs, ours, n in zip(teacher.unbind(1), student.unbind(1), self.action.nvec, strict=True):
            few = n <= MOST_OPTIONS
            tables.append(torch.bincount(theirs * n + ours, minlength=n * n).view(n, n).tolist() if few else [])
        return {"tables": tables}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "action": asdict(self.action)}

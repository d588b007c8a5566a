"""What every head can say of a policy's numbers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from torch import Tensor

from distilrl.heads.units import Units
from distilrl.spaces import ActionSpec

Kind = Literal["q", "logits", "mean", "gaussian"]
"""What a network's numbers are: values of actions, logits, a real action, or mean and log standard deviation of one."""
Squash = Literal["tanh", "clip"]
"""How a real action comes into its bounds: tanh and a scale, or clipping."""
Loss = Callable[..., Tensor]
"""``loss(student=, teacher=)`` of the numbers of either, (B, P) each, to one number per example (B,)."""


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

    @property
    def unscaled(self) -> "Head":
        """The head of numbers whose scale says nothing: of action values, logits."""

    def greedy(self, p: Tensor) -> Tensor:
        """Actions (B, F) int64 or (B, A) float32 that the policy takes when it does not explore."""

    def inverse(self, actions: Tensor) -> Tensor:
        """Numbers (B, P) of which these actions are the greedy ones."""

    def temper(self, p: Tensor, temperature: float) -> Tensor:
        """The policy sharpened by a temperature below 1, or softened; real actions have none."""

    def floored(self, p: Tensor) -> Tensor:
        """These numbers (B, P) without what a mask makes of some: none says more than that an option is never taken."""

    def find_temperature(self, p: Tensor, share: float) -> float:
        """Temperature at which the mean entropy is this share of the largest; 1 where there is none to find."""

    def find_units(self, p: Tensor) -> Units | None:
        """Units of order 1 of these numbers of many states; None for real actions, which have theirs."""

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

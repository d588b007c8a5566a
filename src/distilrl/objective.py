"""The objective: a list of terms, each a loss with a weight that may change as training goes on.

`forward` makes each network pass that the active terms need exactly once; a term whose weight is 0 costs nothing and
asks for nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from distilrl import losses
from distilrl.errors import SpecError
from distilrl.replay import Batch

LossName = Literal[
    "forward_kl", "reverse_kl", "jsd", "nll", "value_regression", "centred_regression", "standardised_regression", "dkd", "correlation",
    "large_margin", "worst_action_gap", "adversarial_kl", "td", "double_td",
]  # fmt: skip
TD_LOSSES = ("td", "double_td")
TEACHER_LOSSES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jsd": losses.jsd,
    "nll": losses.nll,
    "value_regression": losses.value_regression,
    "centred_regression": losses.centred_regression,
    "standardised_regression": losses.standardised_regression,
    "dkd": losses.dkd,
    "correlation": losses.correlation,
    "large_margin": losses.large_margin,
    "worst_action_gap": losses.worst_action_gap,
    "adversarial_kl": losses.forward_kl,
}
ATTACK_STEPS = 3
"""Steps of projected gradient ascent that find an adversarial state."""


@dataclass(frozen=True)
class Progress:
    """How far training has come."""

    fraction: float
    """Share of the step budget used, 0 to 1."""
    score: float = 0.0
    """The student's best score so far: 0 random play, 1 the teacher; it never falls, so what follows it never comes back."""


@dataclass(frozen=True)
class Schedule:
    """A number that goes from ``begin`` to ``end`` in a straight line as training, or the score, goes from ``start`` to ``share``.

    ``Schedule(1.0)`` is constant; ``Schedule(1.0, 0.05, 0.5)`` is 1 at the start, 0.525 at a quarter, and 0.05 from half
    of the budget on; ``Schedule(3.0, 0.0, by="score")`` is 3 · (1 − score), and 0 for good once the teacher's score was reached.
    """

    begin: float
    """Value at the start."""
    end: float | None = None
    """Value from ``share`` on; ``begin`` where it is None."""
    share: float = 1.0
    """Share of the budget (or score) at which ``end`` is reached, in (0, 1]."""
    start: float = 0.0
    """Share until which the value stays at ``begin``, below ``share``."""
    by: Literal["budget", "score"] = "budget"
    """What it follows: the share of the budget used, or the student's best score."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SpecError(f"A schedule's share must lie in (0, 1], got {self.share}.")
        if not 0 <= self.start < self.share:
            raise SpecError(f"A schedule's start must lie in [0, share), got {self.start}.")
        if self.by not in ("budget", "score"):
            raise SpecError(f"A schedule follows the 'budget' or the 'score', not '{self.by}'.")

    def __call__(self, progress: Progress) -> float:
        """The number at this point of training."""
        if self.end is None:
            return self.begin
        at = progress.fraction if self.by == "budget" else progress.score
        done = min(max((at - self.start) / (self.share - self.start), 0.0), 1.0)
        return self.begin + (self.end - self.begin) * done


@dataclass(frozen=True)
class Term:
    """One loss of the objective."""

    loss: LossName
    """Function of `distilrl.losses`."""
    weight: Schedule = Schedule(1.0)
    """Multiplier, at least 0; at 0 neither the loss nor what it needs is computed."""
    teacher_temperature: float | None = None
    """Divides the teacher's values; None: the temperature found from the teacher's entropy."""
    student_temperature: float | None = 1.0
    """Divides the student's values; None: the same as the teacher's."""
    importance: bool = False
    """Multiply each example by the teacher's value gap over its temperature: mistakes cost where the choice matters."""
    radius: float = 0.1
    """Of ``adversarial_kl``: half the side of the box around a state in which the student is attacked, in standard deviations of each
    input."""

    def __post_init__(self) -> None:
        if self.loss not in TEACHER_LOSSES and self.loss not in TD_LOSSES:
            raise SpecError(f"Unknown loss '{self.loss}': use one of {', '.join((*TEACHER_LOSSES, *TD_LOSSES))}.")
        for temperature in (self.teacher_temperature, self.student_temperature):
            if temperature is not None and not temperature > 0:
                raise SpecError(f"The temperature of '{self.loss}' must be above 0, got {temperature}.")
        if not self.radius > 0:
            raise SpecError(f"The radius of '{self.loss}' must be above 0, got {self.radius}.")

    @property
    def needs_teacher(self) -> bool:
        """Whether it reads the teacher's action values."""
        return self.loss in TEACHER_LOSSES


class Outputs(NamedTuple):
    """What the networks said of a batch; None where no active term asked."""

    values: Tensor
    """(B, A) of the student, with gradient."""
    teacher_values: Tensor | None
    """(B, A) of the teacher."""
    td_target: Tensor | None
    """(B,) target of the plain TD term."""
    double_td_target: Tensor | None
    """(B,) target of the double TD term."""
    adversarial_values: Tensor | None = None
    """(B, A) of the student at adversarial states, with gradient."""


def active(terms: Sequence[Term], progress: Progress) -> list[tuple[Term, float]]:
    """The terms whose weight is above 0 at this point, with their weights."""
    return [(term, weight) for term in terms if (weight := term.weight(progress)) > 0]


def forward(
    terms: Sequence[Term], batch: Batch, student: nn.Module, target: nn.Module | None, discount: float, temperature: float = 1.0
) -> Outputs:
    """Makes each pass that the terms need once.

    Args:
        terms: the active terms.
        batch: B transitions.
        student: network in training.
        target: its lagged copy; needed by TD terms.
        discount: gamma^n.
        temperature: stands in where a term leaves it to be found.
    """
    names = {term.loss for term in terms}
    td_target = double_td_target = None
    if names & set(TD_LOSSES):
        if target is None or batch.next_obs is None:
            raise SpecError("A TD term needs a target network and transitions: set n_step to at least 1.")
        with torch.no_grad():
            lagged = target(batch.next_obs)
            known = {"reward": batch.reward, "discount": discount * ~batch.terminated, "next_values": lagged}
            if "td" in names:
                td_target = losses.td_target(**known)
            if "double_td" in names:
                double_td_target = losses.td_target(**known, next_choice=student(batch.next_obs))
    adversarial = [term for term in terms if term.loss == "adversarial_kl"]
    attacked = student(adversarial_states(adversarial[0], batch, student, temperature)) if adversarial else None
    return Outputs(student(batch.obs), batch.teacher_values, td_target, double_td_target, attacked)


def adversarial_states(term: Term, batch: Batch, student: nn.Module, temperature: float) -> Tensor:
    """States (B, *obs_shape) in a box around the batch's where the student departs most from the teacher's clean answer.

    Projected gradient ascent on the KL (Madry et al. 2018; Goldblum et al. 2020 for distillation), `ATTACK_STEPS` steps of half the
    radius; the box's sides are ``radius`` standard deviations of each input, which the student's own standardisation knows.
    """
    if batch.teacher_values is None:
        raise SpecError("The term 'adversarial_kl' needs a teacher, but the data carries no teacher values.")
    of_teacher = term.teacher_temperature or temperature
    of_student = term.student_temperature or of_teacher
    clean = batch.obs.float()
    reach = term.radius / cast("Tensor", student.obs_scale)
    offset = torch.zeros_like(clean)
    for step in range(ATTACK_STEPS):
        start = clean + offset if step else clean + 0.01 * reach
        state = start.detach().requires_grad_(True)
        loss = losses.forward_kl(student=student(state) / of_student, teacher=batch.teacher_values / of_teacher).sum()
        (slope,) = torch.autograd.grad(loss, state)
        offset = (offset + 0.5 * reach * slope.sign()).clamp(-reach, reach)
    return clean + offset


def term_loss(term: Term, outputs: Outputs, batch: Batch, temperature: float) -> Tensor:
    """The term's loss per example, (B,); ``temperature`` stands in where the term leaves it to be found."""
    if term.loss in TD_LOSSES:
        target = outputs.td_target if term.loss == "td" else outputs.double_td_target
        if target is None:
            raise SpecError("A TD term was evaluated without its target.")
        return losses.td(values=outputs.values, action=batch.action, target=target)
    if outputs.teacher_values is None:
        raise SpecError(f"The term '{term.loss}' needs a teacher, but the data carries no teacher values.")
    of_teacher = term.teacher_temperature or temperature
    of_student = term.student_temperature or of_teacher
    values = outputs.adversarial_values if term.loss == "adversarial_kl" else outputs.values
    if values is None:
        raise SpecError("An adversarial term was evaluated without its states.")
    loss = TEACHER_LOSSES[term.loss](student=values / of_student, teacher=outputs.teacher_values / of_teacher)
    return loss * batch.gap / of_teacher if term.importance else loss


def find_temperature(teacher_values: Tensor, entropy_share: float) -> float:
    """Temperature at which the mean entropy of softmax(values / τ) is ``entropy_share`` of log A (bisection in log τ).

    Values that never differ have full entropy at any temperature; 1.0 is returned then.
    """
    values = losses.centre(teacher_values.double())
    spread = float(values.std())
    if not spread > 0:
        return 1.0
    low, high = math.log(spread) - 14.0, math.log(spread) + 14.0
    for _ in range(60):
        middle = (low + high) / 2
        log_p = torch.log_softmax(values / math.exp(middle), dim=1)
        entropy = float(-(log_p.exp() * log_p).sum(1).mean()) / math.log(values.shape[1])
        low, high = (middle, high) if entropy < entropy_share else (low, middle)
    return math.exp((low + high) / 2)

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
from distilrl.discriminator import Discriminator
from distilrl.errors import SpecError
from distilrl.features import FeatureMaps, Taps
from distilrl.plain import check_numbers
from distilrl.replay import Batch

LossName = Literal[
    "forward_kl", "reverse_kl", "jsd", "nll", "value_regression", "centred_regression", "standardised_regression", "dkd", "correlation",
    "batch_correlation", "large_margin", "worst_action_gap", "adversarial_kl", "expected_cross_entropy", "hint", "attention_transfer",
    "relational_distance", "relational_angle", "similarity", "discriminator", "td", "double_td",
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
    "batch_correlation": losses.batch_correlation,
    "large_margin": losses.large_margin,
    "worst_action_gap": losses.worst_action_gap,
    "adversarial_kl": losses.forward_kl,
    "expected_cross_entropy": losses.expected_cross_entropy,
}
FEATURE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "hint": losses.hint,
    "attention_transfer": losses.attention_transfer,
    "relational_distance": losses.relational_distance,
    "relational_angle": losses.relational_angle,
    "similarity": losses.similarity,
}
ATTACK_STEPS = 3
"""Steps of projected gradient ascent that find an adversarial state."""


@dataclass(frozen=True)
class Progress:
    """How far training has come."""

    fraction: float
    """Share of the step budget used, 0 to 1."""
    score: float = 0.0
    """The student's best score so far (since the visited states last drifted): 0 random play, 1 the teacher. It does not fall, so what
    follows it does not come back."""
    agreement: float = 0.0
    """Agreement on student-visited states at the last check, weighted by the teacher's value gap."""
    entropy: float = 1.0
    """Mean entropy of the teacher's policy at its temperature on the last states labelled, as a share of log A."""
    drift: float = 0.0
    """How far the states that the student now visits lie from those it was trained on: two-sample statistic, 0 to 1."""


def settle(before: float, measured: float, band: float) -> float:
    """Hysteresis: the new measurement where it differs from the one in force by more than ``band``, so that noise flaps nothing."""
    return measured if abs(measured - before) > band else before


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
    by: Literal["budget", "score", "agreement", "entropy", "drift"] = "budget"
    """What it follows: the share of the budget used, or a measured number of `Progress`."""

    def __post_init__(self) -> None:
        check_numbers(self, begin="(-inf, inf)", end="(-inf, inf)")
        if not 0 < self.share <= 1:
            raise SpecError(f"A schedule's share must lie in (0, 1], got {self.share}.")
        if not 0 <= self.start < self.share:
            raise SpecError(f"A schedule's start must lie in [0, share), got {self.start}.")
        if self.by not in ("budget", "score", "agreement", "entropy", "drift"):
            raise SpecError(f"A schedule follows the 'budget', 'score', 'agreement', 'entropy' or 'drift', not '{self.by}'.")

    def __call__(self, progress: Progress) -> float:
        """The number at this point of training."""
        if self.end is None:
            return self.begin
        at = progress.fraction if self.by == "budget" else float(getattr(progress, self.by))
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
    sharpness: Schedule = Schedule(1.0)
    """Divides the teacher's temperature: below 1 it is softer than was found, above 1 sharper; a curriculum goes from soft to sharp."""
    taps: str = "last"
    """Of feature losses: ``last``, ``middle``, ``all``, or ``student.path=teacher.path``."""
    bonus: float = 0.0
    """Of TD losses: this times log p(a'|s') of the teacher is added to what the student's best next action a' is worth."""

    def __post_init__(self) -> None:
        known = (*TEACHER_LOSSES, *FEATURE_LOSSES, "discriminator", *TD_LOSSES)
        if self.loss not in known:
            raise SpecError(f"Unknown loss '{self.loss}': use one of {', '.join(known)}.")
        check_numbers(self, teacher_temperature="(0, inf)", student_temperature="(0, inf)", radius="(0, inf)", bonus="(-inf, inf)")

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks the teacher for anything."""
        return self.loss not in TD_LOSSES or self.bonus != 0

    @property
    def needs_features(self) -> bool:
        """Whether it reads the networks' features."""
        return self.loss in FEATURE_LOSSES


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
    features: dict[Term, list[tuple[Tensor, Tensor]]] | None = None
    """Pairs of features (B, ...), the student's with gradient and first, of each feature term."""
    judged: Tensor | None = None
    """(B,) the discriminator's logits of the student's values, with gradient."""


class Beside(NamedTuple):
    """What stands beside the networks of one task where the terms ask for it."""

    maps: FeatureMaps | None = None
    """Feature taps and projectors."""
    discriminator: Discriminator | None = None
    """The discriminator."""


NOTHING_BESIDE = Beside()


def active(terms: Sequence[Term], progress: Progress) -> list[tuple[Term, float]]:
    """The terms whose weight is above 0 at this point, with their weights."""
    return [(term, weight) for term in terms if (weight := term.weight(progress)) > 0]


def forward(
    terms: Sequence[Term],
    batch: Batch,
    student: nn.Module,
    target: nn.Module | None,
    discount: float,
    temperature: float = 1.0,
    beside: Beside = NOTHING_BESIDE,
) -> Outputs:
    """Makes each pass that the terms need once.

    Args:
        terms: the active terms.
        batch: B transitions.
        student: network in training.
        target: its lagged copy; needed by TD terms.
        discount: gamma^n.
        temperature: stands in where a term leaves it to be found.
        beside: taps and discriminator, where feature terms or the discriminator's are among the terms.
    """
    with_td = [term for term in terms if term.loss in TD_LOSSES]
    lagged = _lagged(batch, target) if with_td else None
    targets = {term.loss: _td_target(term, batch, student, lagged, discount, temperature) for term in with_td if lagged is not None}
    adversarial = [term for term in terms if term.loss == "adversarial_kl"]
    attacked = student(adversarial_states(adversarial[0], batch, student, temperature)) if adversarial else None
    of_features = [term for term in terms if term.needs_features]
    features: dict[Term, list[tuple[Tensor, Tensor]]] | None = None
    if of_features:
        if beside.maps is None:
            raise SpecError("A feature term needs a teacher whose layers can be tapped.")
        theirs = beside.maps.teacher_features(batch.obs)
        with Taps(student, beside.maps.student_paths) as seen:
            values = student(batch.obs)
        features = {t: list(beside.maps.compare(t.taps, seen, theirs, project=t.loss == "hint")) for t in of_features}
    else:
        values = student(batch.obs)
    judged = None
    if any(term.loss == "discriminator" for term in terms):
        judged = judge(beside.discriminator, student, batch.obs, values)
    return Outputs(values, batch.teacher_values, targets.get("td"), targets.get("double_td"), attacked, features, judged)


def _lagged(batch: Batch, target: nn.Module | None) -> Tensor:
    """The lagged network's values (B, A) of the next states."""
    if target is None or batch.next_obs is None:
        raise SpecError("A TD term needs a target network and transitions: set n_step to at least 1.")
    with torch.no_grad():
        values: Tensor = target(batch.next_obs)
        return values


def _td_target(term: Term, batch: Batch, student: nn.Module, lagged: Tensor, discount: float, temperature: float) -> Tensor:
    """Target (B,) of a TD term, without gradient."""
    with torch.no_grad():
        choice = student(batch.next_obs) if term.loss == "double_td" else lagged
        if term.bonus:
            if batch.next_teacher_values is None:
                raise SpecError("A TD term with a 'bonus' needs a teacher that labels the next states.")
            log_p = torch.log_softmax(batch.next_teacher_values / (term.teacher_temperature or temperature), dim=1)
            lagged = lagged + term.bonus * log_p
        return losses.td_target(reward=batch.reward, discount=discount * ~batch.terminated, next_values=lagged, next_choice=choice)


def judge(discriminator: Discriminator | None, student: nn.Module, obs: Tensor, values: Tensor) -> Tensor:
    """The discriminator's logits (B,) of action values (B, A), seen beside the standardised observation."""
    if discriminator is None:
        raise SpecError("The term 'discriminator' needs its discriminator.")
    mean, scale = cast("Tensor", student.obs_mean), cast("Tensor", student.obs_scale)
    x = obs.float()
    if x.ndim == 4:  # of pixels, a coarse picture of the newest frame
        x = nn.functional.adaptive_avg_pool2d(x[:, -1:], 12).flatten(1)
    judged: Tensor = discriminator((x - mean) * scale, torch.log_softmax(values, dim=1))
    return judged


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
    scale = cast("Tensor", student.obs_scale)
    reach = torch.where(scale > 0, term.radius / scale, torch.zeros_like(scale))  # a feature that the student cannot see is not attacked
    offset = torch.zeros_like(clean)
    for step in range(ATTACK_STEPS):
        start = clean + offset if step else clean + 0.01 * reach
        state = start.detach().requires_grad_(True)
        loss = losses.forward_kl(student=student(state) / of_student, teacher=batch.teacher_values / of_teacher).sum()
        (slope,) = torch.autograd.grad(loss, state)
        offset = (offset + 0.5 * reach * slope.sign()).clamp(-reach, reach)
    return clean + offset


def term_loss(term: Term, outputs: Outputs, batch: Batch, temperature: float, progress: Progress = Progress(0.0)) -> Tensor:
    """The term's loss per example, (B,); ``temperature`` stands in where the term leaves it to be found."""
    if term.loss in TD_LOSSES:
        target = outputs.td_target if term.loss == "td" else outputs.double_td_target
        if target is None:
            raise SpecError("A TD term was evaluated without its target.")
        return losses.td(values=outputs.values, action=batch.action, target=target)
    if term.needs_features:
        if outputs.features is None:
            raise SpecError("A feature term was evaluated without its features.")
        each = [FEATURE_LOSSES[term.loss](student=ours, teacher=theirs) for ours, theirs in outputs.features[term]]
        return torch.stack(each).mean(0)
    if term.loss == "discriminator":
        if outputs.judged is None:
            raise SpecError("The term 'discriminator' was evaluated without its judgement.")
        return losses.fooling(outputs.judged)
    if outputs.teacher_values is None:
        raise SpecError(f"The term '{term.loss}' needs a teacher, but the data carries no teacher values.")
    sharpness = term.sharpness(progress)
    of_teacher = (term.teacher_temperature or temperature) / sharpness
    of_student = of_teacher if term.student_temperature is None else term.student_temperature
    values = outputs.adversarial_values if term.loss == "adversarial_kl" else outputs.values
    if values is None:
        raise SpecError("An adversarial term was evaluated without its states.")
    loss = TEACHER_LOSSES[term.loss](student=values / of_student, teacher=outputs.teacher_values / of_teacher)
    return loss * batch.gap / of_teacher if term.importance else loss


def find_temperature(teacher_values: Tensor, share: float) -> float:
    """Temperature at which the mean entropy of softmax(values / τ) is ``share`` of log A (bisection in log τ).

    Values that never differ have full entropy at any temperature; 1.0 is returned then.
    """
    values = losses.centre(teacher_values.double())
    spread = float(values.std())
    if not spread > 0:
        return 1.0
    low, high = math.log(spread) - 14.0, math.log(spread) + 14.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy_share(values, math.exp(middle)) < share else (low, middle)
    return math.exp((low + high) / 2)


def entropy_share(teacher_values: Tensor, temperature: float) -> float:
    """Mean entropy of softmax(values / τ), as a share of log A."""
    log_p = torch.log_softmax(teacher_values.double() / temperature, dim=1)
    return float(-(log_p.exp() * log_p).sum(1).mean()) / math.log(teacher_values.shape[1])

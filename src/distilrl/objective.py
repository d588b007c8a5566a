"""The objective: a tuple of terms, each a loss with a weight that may change as training goes on.

A term is called on a `Context`, which holds a batch and makes the network passes that terms ask for, each once and
none before it is asked for::

    for term, weight in active(terms, progress):
        loss = loss + weight * term(context).mean()

A term whose weight is 0 costs nothing and asks for nothing.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from distilrl import losses
from distilrl.context import Context
from distilrl.envs import is_trusted
from distilrl.errors import DistilError, SpecError
from distilrl.features import Wanted
from distilrl.heads import ALL_LOSSES, Head, Loss
from distilrl.modules import import_named
from distilrl.plain import check_fields, name_of
from distilrl.schedules import CONSTANT, Progress, Schedule
from distilrl.text import raised

FeatureLoss = Literal["hint", "attention_transfer", "relational_distance", "relational_angle", "similarity"]
TDLoss = Literal["td", "double_td"]
FEATURE_LOSSES: dict[str, Loss] = {name: getattr(losses, name) for name in get_args(FeatureLoss)}
AMONG_OTHERS = ("relational_distance", "relational_angle", "similarity", "batch_correlation")
"""Losses that compare examples with each other: of fewer than three they say nothing."""
WHOLE_BATCH = ("batch_correlation",)
"""Losses that compare an example with the others of its batch."""
ATTACK_STEPS = 3
"""Steps of projected gradient ascent that find an adversarial state."""
ATTACK_START = 0.01
"""Where the ascent starts, as a share of the box: the KL of a student that equals its teacher has no slope in the
middle."""


class _Term:
    """What all terms have in common."""

    loss: Any
    weight: Schedule
    needs_features: ClassVar[bool] = False
    """Whether it reads the networks' features."""

    @property
    def name(self) -> str:
        """Name of the loss."""
        return str(self.loss)

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks the teacher for anything."""
        return True

    def reads(self, head: Head) -> bool:  # noqa: ARG002 (most can read any)
        """Whether the loss can compare numbers of this head."""
        return True

    def _check(self) -> None:
        """Refuses a weight, temperature or choice that means nothing."""
        check_fields(self)
        if not self.weight.least >= 0:
            raise SpecError(f"The weight of '{self.name}' must be at least 0, got {self.weight.least}.")
        for which in ("teacher_temperature", "student_temperature"):
            temperature = getattr(self, which, None)
            if temperature is not None and not 0 < temperature < math.inf:
                raise SpecError(f"The {which} of '{self.name}' must be above 0 and finite, got {temperature}.")


@dataclass(frozen=True)
class TeacherTerm(_Term):
    """A loss between the student's numbers and the teacher's."""

    loss: str | Loss
    """One of `heads.ALL_LOSSES`, or a function of yours, ``f(*, student, teacher) -> (B,)``, of numbers (B, P) that
    are divided by the temperatures."""
    weight: Schedule = CONSTANT
    """Multiplier, at least 0."""
    teacher_temperature: float | None = None
    """Divides the teacher's numbers; None: the temperature found from the teacher's entropy. Real actions have none."""
    student_temperature: float | None = 1.0
    """Divides the student's numbers; None: the same as the teacher's."""
    sharpness: Schedule = CONSTANT
    """Divides the teacher's temperature: below 1 it is softer than was found, above 1 sharper; a curriculum goes from
    soft to sharp."""
    scale: Literal["temperature", "units"] = "temperature"
    """What both sides are measured in: their temperatures, or the units of the student's head, which then is trained in
    these (`OptimConfig.value_units`)."""

    def __post_init__(self) -> None:
        if not callable(self.loss) and not isinstance(self.loss, str):
            raise SpecError(f"A loss is named, or a function f(*, student, teacher) -> (B,), not {self.loss!r:.80}.")
        if not callable(self.loss) and self.loss not in ALL_LOSSES and ":" not in self.loss:
            raise SpecError(f"Unknown loss '{self.loss}': use one of {', '.join(LOSSES)}, or a function.")
        if isinstance(self.loss, nn.Module) and next(self.loss.parameters(), None) is not None:
            raise SpecError(
                f"The loss '{self.name}' has weights of its own, which nothing would train: give one without any."
            )
        self._check()
        if not self.sharpness.least > 0:
            raise SpecError(f"The sharpness of '{self.name}' must be above 0, got {self.sharpness.least}.")

    @property
    def name(self) -> str:
        return name_of(self.loss) if callable(self.loss) else self.loss

    @property
    def function(self) -> Loss | None:
        """A function of somebody's own; None of a loss that is here."""
        if callable(self.loss):
            return self.loss
        return imported(self.loss) if ":" in self.loss else None

    def reads(self, head: Head) -> bool:
        return callable(self.loss) or ":" in self.loss or self.loss in head.losses

    def __call__(self, context: Context) -> Tensor:
        """Loss of each example, (B,)."""
        head = context.head
        student, teacher = _tempered(self, context, self.sharpness(context.progress))
        if (function := self.function) is None:
            return _known(head, str(self.loss))(student=student(context.student), teacher=teacher(context.teacher))
        with of_somebody(f"The loss '{self.name}'"):
            loss = function(student=student(context.student), teacher=teacher(context.teacher))
        count = len(context.batch.obs)
        if not isinstance(loss, Tensor) or loss.shape != (count,):
            what = tuple(loss.shape) if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise SpecError(f"The loss '{self.name}' must give ({count},), a number per example, not {what}.")
        return loss


@dataclass(frozen=True)
class AdversarialTerm(_Term):
    """The KL at the worst states near those visited (Goldblum et al. 2020), from the teacher's answer to the clean."""

    loss: Literal["adversarial_kl"] = "adversarial_kl"
    """The loss."""
    weight: Schedule = CONSTANT
    """Multiplier, at least 0."""
    radius: float = 0.1
    """Half the side of the box around a state in which the student is attacked, in what its standardised inputs count:
    standard deviations of each, also of each in a history, unless `standardise` has them otherwise (``space``:
    half-ranges, ``no``: the units of the environment) or the network is residual, whose inputs are divided by their
    root mean square."""
    teacher_temperature: float | None = None
    """Divides the teacher's numbers; None: the temperature found from the teacher's entropy. Real actions have none."""
    student_temperature: float | None = 1.0
    """Divides the student's numbers; None: the same as the teacher's."""

    def __post_init__(self) -> None:
        self._check()
        if not 0 < self.radius < math.inf:
            raise SpecError(f"The radius of '{self.loss}' must be above 0 and finite, got {self.radius}.")

    def reads(self, head: Head) -> bool:
        return "forward_kl" in head.losses

    def __call__(self, context: Context) -> Tensor:
        """Loss of each example, (B,)."""
        return self.divergence(context, context.answer(adversarial_states(self, context)))

    def divergence(self, context: Context, numbers: Tensor) -> Tensor:
        """KL (B,) of a student's numbers (B, P) from the teacher's clean answer."""
        student, teacher = _tempered(self, context)
        return _known(context.head, "forward_kl")(student=student(numbers), teacher=teacher(context.teacher))


@dataclass(frozen=True)
class FeatureTerm(_Term):
    """A loss between features of the student and of the teacher."""

    loss: FeatureLoss
    """Function of `distilrl.losses`."""
    weight: Schedule = CONSTANT
    """Multiplier, at least 0."""
    taps: str = "last"
    """Which features: ``last``, ``middle``, ``all``, or ``student.path=teacher.path``."""
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check()
        if self.taps not in ("last", "middle", "all") and "=" not in self.taps:
            raise SpecError(
                f"Unknown taps '{self.taps}' of '{self.loss}': write last, middle, all, or student.path=teacher.path."
            )

    @property
    def wanted(self) -> Wanted:
        """What it compares."""
        return Wanted(self.taps, self.loss == "attention_transfer")

    @property
    def projects(self) -> bool:
        """Whether it compares element by element, and so needs the student's features in the teacher's shape."""
        return self.loss == "hint"

    def __call__(self, context: Context) -> Tensor:
        """Loss of each example, (B,): the mean over the pairs of taps."""
        pairs = context.features(self.wanted, project=self.projects)
        each = [FEATURE_LOSSES[self.loss](student=ours, teacher=theirs) for ours, theirs in pairs]
        return torch.stack(each).mean(0)


@dataclass(frozen=True)
class JudgedTerm(_Term):
    """A discriminator that the student must fool."""

    loss: Literal["discriminator"] = "discriminator"
    """The loss."""
    weight: Schedule = CONSTANT
    """Multiplier, at least 0."""

    def __post_init__(self) -> None:
        self._check()

    def __call__(self, context: Context) -> Tensor:
        """Loss of each example, (B,)."""
        return losses.fooling(context.judged(context.head.view(context.student)))


@dataclass(frozen=True)
class TDTerm(_Term):
    """A temporal-difference error of the student's action values; for a single choice."""

    loss: TDLoss
    """``td``: the lagged copy chooses the next action; ``double_td``: the student does (van Hasselt et al. 2016)."""
    weight: Schedule = CONSTANT
    """Multiplier, at least 0."""
    bonus: float = 0.0
    """This times log p(a'|s') of the teacher is added to what the best next action a' is worth."""

    def __post_init__(self) -> None:
        self._check()
        if not math.isfinite(self.bonus):
            raise SpecError(f"The bonus of '{self.loss}' must be a finite number, got {self.bonus}.")

    @property
    def needs_teacher(self) -> bool:
        return self.bonus != 0

    def reads(self, head: Head) -> bool:
        return not head.real and head.action.size == 1

    def __call__(self, context: Context) -> Tensor:
        """Loss of each example, (B,)."""
        return losses.td(values=context.student, action=context.batch.action[:, 0], target=self.target(context))

    def target(self, context: Context) -> Tensor:
        """What Q(s, a) should be, (B,), without gradient."""
        batch = context.batch
        choice = context.next_student if self.loss == "double_td" else context.lagged
        worth = context.lagged
        if self.bonus:
            if batch.next_labels is None:
                raise SpecError("A TD term with a 'bonus' needs a teacher that labels the next states.")
            log_p = context.head.view(context.head.temper(batch.next_labels, context.temperature))
            worth = worth + self.bonus * log_p
        discount = context.discount * ~batch.terminated
        return losses.td_target(reward=batch.reward, discount=discount, next_values=worth, next_choice=choice)


Term = TeacherTerm | AdversarialTerm | FeatureTerm | JudgedTerm | TDTerm
"""One loss of the objective."""
_CLASSES: dict[str, type] = {
    "adversarial_kl": AdversarialTerm,
    "discriminator": JudgedTerm,
    **dict.fromkeys(FEATURE_LOSSES, FeatureTerm),
    **dict.fromkeys(get_args(TDLoss), TDTerm),
}
LOSSES = (*ALL_LOSSES, *_CLASSES)
"""Names of all losses."""


def term(loss: str | Loss, **settings: Any) -> Term:
    """The term of a loss, of whichever class has it.

    Args:
        loss: one of `LOSSES`, or a function ``f(*, student, teacher) -> (B,)``.
        settings: fields of the class; a number for a schedule is a constant one.

    Raises:
        SpecError: there is no such loss, or it has no such field.

    Example::

        terms = (term("forward_kl"), term("hint", weight=0.1, taps="all"))
    """
    kind = _CLASSES.get(loss, TeacherTerm) if isinstance(loss, str) else TeacherTerm
    known = [f.name for f in fields(kind) if f.name != "loss"]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise SpecError(f"The loss '{loss}' has no setting '{unknown[0]}': it takes {', '.join(known)}.")
    settings = {
        name: Schedule(value) if name in ("weight", "sharpness") and isinstance(value, int | float) else value
        for name, value in settings.items()
    }
    return cast("Term", kind(loss, **settings))


@functools.cache
def imported(name: str) -> Loss:
    """The function that a file names as ``module:function``.

    Raises:
        SpecError: its module is not trusted, or has no such function.
    """
    module, _, function = name.partition(":")
    if module == "__main__" or "." in function:
        raise SpecError(f"A file names the loss '{name}', which no module has by that name: give the term from Python.")
    if not is_trusted(module):
        raise SpecError(
            f"A file names the loss '{name}', and importing '{module}' runs its code: pass --trust {module}."
        )
    found = own(name, "loss")
    if not callable(found):
        raise SpecError(f"The loss '{name}' is no function: name one, f(*, student, teacher) -> (B,).")
    return cast("Loss", found)


def own(name: str, what: str) -> Any:
    """What somebody's own module has under ``module:name``, a loss or a recipe; importing it runs its code.

    Raises:
        SpecError: there is no such module, or it has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise SpecError(f"The {what} '{name}' names no function: write my_module:my_{what}.")
    try:
        return getattr(import_named(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"The {what} '{name}' cannot be imported ({error}): check its name and PYTHONPATH.") from None


@contextmanager
def of_somebody(what: str) -> Iterator[None]:
    """Around a call of a function of somebody's own, a loss or a recipe: what it raises is said, and is theirs to mend.

    Raises:
        SpecError: the function raised anything that is no error of ours.
    """
    try:
        yield
    except DistilError:
        raise
    except Exception as error:
        raise SpecError(f"{what} {raised(error)}: mend it.") from error


def check_terms(terms: Sequence[Term], head: Head) -> None:
    """Refuses terms that cannot read what the teacher's numbers say.

    Args:
        terms: the objective.
        head: of the labels; of the student where there is no teacher.

    Raises:
        SpecError: names the losses that can.

    Example::

        check_terms(config.terms, teacher.head)
    """
    for one in terms:
        if isinstance(one.loss, str) and ":" in one.loss:
            imported(one.loss)
        valued = one.name == "value_regression" and any(isinstance(term, TDTerm) for term in terms)
        if valued and head.to_json()["kind"] == "logits":
            raise SpecError(
                "'value_regression' would have the student's action values, which it also learns from reward, be a "
                "policy's logits: take a recipe with reward that has no such term (kickstarting, qdagger), or a "
                "teacher of action values."
            )
        if not one.reads(head):
            what = "real actions" if one.name in ALL_LOSSES and not head.real else "choices"
            what = "action values of a single choice" if isinstance(one, TDTerm) else what
            here, known = head.action.describe(), ", ".join(head.losses)
            raise SpecError(f"'{one.name}' compares {what}, but here there are {here}: use one of {known}.")


def active(terms: Sequence[Term], progress: Progress) -> list[tuple[Term, float]]:
    """The terms whose weight is above 0 at this point, with their weights."""
    return [(one, weight) for one in terms if (weight := one.weight(progress)) > 0]


def columns(terms: Sequence[Term]) -> tuple[str, ...]:
    """A name for each term in tables: its loss, and a number where several have one."""
    names = [one.name for one in terms]
    return tuple(
        name if name not in names[:i] else f"{name}.{names[:i].count(name) + 1}" for i, name in enumerate(names)
    )


def adversarial_states(term: AdversarialTerm, context: Context) -> Tensor:
    """States (B, *obs_shape) in a box around the batch's where the student departs most from the teacher's clean
    answer.

    Projected gradient ascent on the KL (Madry et al. 2018; Goldblum et al. 2020 for distillation), `ATTACK_STEPS`
    steps of half the radius; the box's sides are ``radius`` of what the student's standardised inputs count.
    """
    clean = context.batch.obs.float()
    scale = cast("Tensor", context.network.input_scale)
    if clean.ndim == 2:  # beside a vector, the last number is that of all pixels
        scale = torch.cat([scale[:-1], scale[-1:].expand(clean.shape[1] - len(scale) + 1)])
    # what the student cannot see is not attacked
    reach = torch.where(scale > 0, term.radius / scale, torch.zeros_like(scale))
    offset = torch.zeros_like(clean)
    for step in range(ATTACK_STEPS):
        start = clean + offset if step else clean + ATTACK_START * reach
        state = start.detach().requires_grad_(True)
        each = term.divergence(context, context.answer(state))
        if context.batch.valid is not None:  # else what is not learnt from leads, through the memory
            each = each * context.batch.valid
        (slope,) = torch.autograd.grad(each.sum(), state)
        offset = (offset + 0.5 * reach * slope.sign()).clamp(-reach, reach)
    attacked = clean + offset
    return attacked.clamp(0, 255) if context.batch.obs.dtype == torch.uint8 else attacked


def about_teacher(terms: Sequence[Term]) -> TeacherTerm | None:
    """The first term about the teacher, which says on what scale a student is taught."""
    return next((term for term in terms if isinstance(term, TeacherTerm)), None)


def taught_at(terms: Sequence[Term], found: float, head: Head) -> float:
    """The temperature by which a student's numbers are its teacher's values divided: that of the first term about the
    teacher, the one that was found where it has none of its own. Real actions are divided by none.
    """
    if head.real:
        return 1.0
    first = about_teacher(terms)
    return (first.teacher_temperature if first is not None else None) or found


def _tempered(
    term: TeacherTerm | AdversarialTerm, context: Context, sharpness: float = 1.0
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Functions that give the student's and the teacher's numbers by the term's temperatures, or in units."""
    if isinstance(term, TeacherTerm) and term.scale == "units":
        if context.units is None:
            raise SpecError(f"'{term.name}' compares values in units that nobody found: set 'value_units' to true.")
        return context.units.numbers, context.units.numbers
    of_teacher = (term.teacher_temperature or context.temperature) / sharpness
    of_student = of_teacher if term.student_temperature is None else term.student_temperature
    return lambda p: context.head.temper(p, of_student), lambda p: context.head.temper(p, of_teacher)


def _known(head: Head, name: str) -> Loss:
    if name not in head.losses:
        raise SpecError(f"The loss '{name}' cannot read {head.action.describe()}: use one of {', '.join(head.losses)}.")
    return head.losses[name]


def teacher_needed(terms: Sequence[Term], progress: Progress) -> bool:
    """Whether a term asks the teacher for anything now or later."""
    return any(one.needs_teacher and not one.weight.over(progress) for one in terms)

"""Several teachers of one environment as one."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.errors import SpecError, TeacherError
from distilrl.heads import Categorical, Head, head_for
from distilrl.spaces import Choices
from distilrl.teachers.teacher import Teacher

ENTROPY_SHARE = 0.3
"""Share of the largest entropy to which action values are sharpened before their probabilities are averaged."""
CHOOSING = ("q", "logits")
"""Kinds of teachers that choose among a few actions."""
Combine = Literal["mean", "best"]


def ensemble(teachers: Sequence[Teacher], states: Tensor, combine: Combine = "mean") -> Teacher:
    """Several teachers of one environment as one; of real actions it has no critic, so that states are drawn evenly.

    Args:
        teachers: at least two, each with its own preprocessing.
        states: (K, *obs_shape) observations, from which the temperature of each teacher of kind ``q`` is found;
            ``logits`` are taken as they are.
        combine: ``mean``: the logarithm of the mean of their action probabilities, for each choice; of real actions
            the mean action. ``best``: in each state the values of the teacher whose greedy action is worth most by its
            own estimate, which must all be of one reward and discount.

    Raises:
        TeacherError: fewer than two, their spaces differ, one has memory, or ``best`` with a teacher that has no
            values.

    Example::

        both = ensemble([load_teacher("a.zip"), load_teacher("b.zip")], states)
    """
    if combine not in get_args(Combine):
        raise TeacherError(f"Several teachers are one by 'mean' or 'best', not by {combine!r:.40}.")
    if len(teachers) < 2:
        raise TeacherError("An ensemble needs at least two teachers: give more, or use the one alone.")
    first, heads = teachers[0], [_head(t) for t in teachers]
    _check_spaces(teachers, heads)
    network, head, meta = _combined(teachers, heads, states, combine)
    if all("observation" in t.meta for t in teachers):
        meta["observation"] = _keys(teachers)
    return Teacher(
        network,
        "q" if combine == "best" else "logits" if first.kind in CHOOSING else "mean",
        f"{'best' if combine == 'best' else 'ensemble'} of {len(teachers)}",
        " + ".join(t.path for t in teachers),
        hashlib.sha256("".join((combine * (combine != "mean"), *(t.digest for t in teachers))).encode()).hexdigest(),
        meta,
        next((t.obs_shape for t in teachers if t.obs_shape is not None), None),
        head.width,
        sum(t.params or 0 for t in teachers) or None,
        action=head.action,
        squash=getattr(head, "squash", "clip"),
        exact=tuple(sorted({place for t in teachers for place in t.exact})),
    )


def _check_spaces(teachers: Sequence[Teacher], heads: Sequence[Head]) -> None:
    """Refuses teachers of different observations or actions."""
    first = teachers[0]
    for other, head in zip(teachers[1:], heads[1:], strict=True):
        shapes = (first.obs_shape or other.obs_shape, other.obs_shape or first.obs_shape)
        if shapes[0] != shapes[1] or head.action != heads[0].action:
            raise TeacherError(
                f"The teachers {first.path} and {other.path} differ in their spaces ({first.obs_shape}, "
                f"{heads[0].action.describe()}; "
                f"{other.obs_shape}, {head.action.describe()}): an ensemble is of one environment."
            )


def _keys(teachers: Sequence[Teacher]) -> Any:
    """Keys of a Dict in the order in which all read them.

    Raises:
        TeacherError: they read them in different orders.
    """
    first, *others = (t.meta["observation"] for t in teachers)
    if any(other != first for other in others):
        raise TeacherError(
            "The teachers read the keys of their observations in different orders: fit each to the environment first, "
            "teacher.fitted(describe_env(ENV))."
        )
    return first


def _combined(
    teachers: Sequence[Teacher], heads: Sequence[Head], states: Tensor, combine: Combine
) -> tuple[nn.Module, Head, dict[str, Any]]:
    """The network of several, its head, and what is said of it."""
    left_out = sorted({name for t in teachers for name in t.meta.get("not_executed", [])})
    meta: dict[str, Any] = {"members": [t.path for t in teachers], "not_executed": left_out}
    if any(t.members for t in teachers):  # each may be of a family, and gain members
        known = {str(at): t.members or {"": t.digest} for at, t in enumerate(teachers)}
        meta["of_members"] = {f"{at} {name}": one for at, those in known.items() for name, one in those.items()}
    network: nn.Module
    head: Head
    if combine == "best":
        if any(t.kind != "q" for t in teachers):
            raise TeacherError(
                "The best teacher of a state is told by value, and one of these has none (a policy's): use the mean."
            )
        network, head = BestOf([t.network for t in teachers], cast("Categorical", heads[0])), heads[0]
    elif teachers[0].kind in CHOOSING:
        sharp = [
            1.0 if t.kind == "logits" else h.find_temperature(_numbers(t, states), ENTROPY_SHARE)
            for t, h in zip(teachers, heads, strict=True)
        ]
        network = MeanProbability([t.network for t in teachers], sharp, cast("Categorical", heads[0]))
        head = head_for(heads[0].action, "logits")
        meta["temperatures"] = sharp
    else:
        squashes = {t.squash or "clip" for t in teachers}
        head = head_for(heads[0].action, "mean", squashes.pop() if len(squashes) == 1 else "clip")
        network = MeanAction([t.network for t in teachers], heads, head)
    return network, head, meta


def _head(teacher: Teacher) -> Head:
    """A teacher's head; a teacher of values or logits that was not fitted to an environment has one choice."""
    try:
        if teacher.action is None and teacher.kind in CHOOSING and teacher.outputs is not None:
            head = head_for(Choices((teacher.outputs,)), teacher.kind)
        else:
            head = teacher.head
    except SpecError as error:
        raise TeacherError(f"The teacher {teacher.path} cannot be one of several: {error}") from None
    if hasattr(teacher.network, "start"):
        raise TeacherError(f"The teacher {teacher.path} has memory, and one of several must not: use it alone.")
    return head


def _numbers(teacher: Teacher, states: Tensor) -> Tensor:
    with torch.no_grad():
        return teacher.network(states)  # type: ignore[no-any-return]


class MeanProbability(nn.Module):
    """For each choice the log of the mean of the members' probabilities, each softmax(numbers / own temperature)."""

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float], head: Categorical) -> None:
        super().__init__()
        self.members, self.temperatures, self.head = nn.ModuleList(members), tuple(temperatures), head

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to logits (B, P)."""
        pairs = zip(self.members, self.temperatures, strict=True)
        log_p = [[F.log_softmax(block, dim=1) for block in self.head.split(member(obs) / t)] for member, t in pairs]
        mixed = [
            torch.logsumexp(torch.stack(blocks), dim=0) - math.log(len(self.members))
            for blocks in zip(*log_p, strict=True)
        ]
        return torch.cat(mixed, dim=1)


class MeanAction(nn.Module):
    """The numbers of which the mean of the members' actions is the greedy action."""

    def __init__(self, members: Sequence[nn.Module], heads: Sequence[Head], head: Head) -> None:
        super().__init__()
        self.members, self.heads, self.head = nn.ModuleList(members), tuple(heads), head

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to numbers (B, A)."""
        actions = torch.stack([head.greedy(member(obs)) for member, head in zip(self.members, self.heads, strict=True)])
        return self.head.inverse(actions.mean(0))


class BestOf(nn.Module):
    """In each state the action values of the member whose greedy action is worth most by its own estimate."""

    def __init__(self, members: Sequence[nn.Module], head: Categorical) -> None:
        super().__init__()
        self.members, self.head = nn.ModuleList(members), head

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to action values (B, P)."""
        values = torch.stack([member(obs) for member in self.members], dim=1)
        worth = torch.stack(
            [sum((b.amax(1) for b in self.head.split(one)), one.new_zeros(len(one))) for one in values.unbind(1)], dim=1
        )
        return values[torch.arange(len(values), device=values.device), worth.argmax(1)]

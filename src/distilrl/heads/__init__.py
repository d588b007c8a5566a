"""Heads: what the P numbers of a policy say, as stateless functions of them; the one place that knows kinds of
policies apart.

A policy is a module that gives a flat tensor (B, P). `Categorical` reads it as one block of action values or logits
for each choice, `Gaussian` as mean and log standard deviation of a real action, `Point` as the action itself; the last
two before it is squashed by tanh or clipped to the space. A new kind of policy is a new head here, and nothing else
changes.
"""

from typing import Any

from distilrl.errors import SpecError
from distilrl.heads.choices import CHOICE_LOSSES, Categorical
from distilrl.heads.protocol import Head, Kind, Loss, Squash
from distilrl.heads.real import NEAR, Gaussian, Point
from distilrl.heads.units import Units
from distilrl.spaces import ActionSpec, Bounds, Choices, action_from_json

__all__ = [
    "ALL_LOSSES", "CHOICE_LOSSES", "NEAR", "Categorical", "Gaussian", "Head", "Kind", "Loss", "Point", "Squash",
    "Units", "default_kind", "head_for", "head_from_json", "student_head",
]  # fmt: skip

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

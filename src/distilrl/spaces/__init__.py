"""Spaces as plain data: what a policy reads, what it answers, and which environment gives and takes it."""

from distilrl.spaces.actions import ActionSpec, Bounds, Choices, action_from_json, read_actions
from distilrl.spaces.observations import (
    SMALLEST_IMAGE,
    Edit,
    Excerpt,
    ObsSpec,
    Reader,
    Unreadable,
    channels_last,
    in_front,
    read_observations,
)
from distilrl.spaces.reference import EnvLike, EnvRef, env_ref

__all__ = [
    "SMALLEST_IMAGE",
    "ActionSpec",
    "Bounds",
    "Choices",
    "Edit",
    "EnvLike",
    "EnvRef",
    "Excerpt",
    "ObsSpec",
    "Reader",
    "Unreadable",
    "action_from_json",
    "channels_last",
    "env_ref",
    "in_front",
    "read_actions",
    "read_observations",
]

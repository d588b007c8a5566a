"""CleanRL's state dicts of real actions: PPO and RPO, SAC, TD3, DDPG, and the critics in the same file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distilrl.errors import FileError, SpecError
from distilrl.networks import Network
from distilrl.spaces import Bounds
from distilrl.teachers.extractors import Critic, Flat
from distilrl.teachers.layers import (
    Stack,
    assemble,
    finite,
    layer,
    numbered,
    preceded,
    sequential,
    with_constants,
)

UNSAVED = (
    "CleanRL trains PPO on normalised observations and does not save their statistics, without which this policy plays "
    "badly: --normalizer takes them as a .json file."
)

ACTIVATION = "Its activation is not in the file and is taken for {}, CleanRL's: --activation says another."

MEMORY = "lstm"
"""Prefix of the memory of ``ppo_atari_lstm``."""


def is_ppo(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of ``ppo_continuous_action`` or ``rpo_continuous_action``."""
    return "actor_mean.0.weight" in state and "actor_logstd" in state


def is_recurrent(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of ``ppo_atari_lstm``."""
    first = state.get("network.0.weight")
    return first is not None and first.ndim == 4 and {f"{MEMORY}.weight_ih_l0", "actor.weight"} <= set(state)


def is_actor(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of the actor of SAC, TD3 or DDPG."""
    return "fc1.weight" in state and ("fc_mu.weight" in state or "fc_mean.weight" in state)


def is_usual(state: Mapping[str, Tensor]) -> bool:
    """Whether the layers of ``actor_mean`` are as wide as CleanRL's, whose activation is known."""
    return [len(state[f"{name}.weight"]) for name in numbered(state, "actor_mean")[:-1]] == [64, 64]


def ppo(state: Mapping[str, Tensor], label: str, activation: str) -> "Network | Stack":
    """Mean and the log standard deviation that is the same in every state, (B, 2 A)."""
    layers = [layer(state, name, label, activation) for name in numbered(state, "actor_mean")]
    log_std = finite(state["actor_logstd"], "actor_logstd", label).flatten()
    if len(log_std) != len(layers[-1].bias):
        raise FileError(
            f"Tensor 'actor_logstd' in {label} has {len(log_std)} numbers for {len(layers[-1].bias)} of an action: "
            "it is damaged."
        )
    return assemble([*layers[:-1], with_constants(layers[-1], log_std)], label)


def actor(state: Mapping[str, Tensor], label: str, activation: str) -> tuple["Network | Stack", Bounds]:
    """The action before tanh, (B, A), and the bounds by which it is scaled.

    Raises:
        FileError: shapes do not chain, or the scale is missing or means nothing.
    """
    head = "fc_mean" if "fc_mean.weight" in state else "fc_mu"
    network = assemble([layer(state, name, label, activation) for name in ("fc1", "fc2", head)], label)
    scale, bias = _scale(state, label, state[f"{head}.weight"].shape[0])
    ends = [[round(float(n), 6) for n in side] for side in (bias - scale, bias + scale)]
    try:
        return network, Bounds(tuple(ends[0]), tuple(ends[1]))
    except SpecError:
        raise FileError(f"Tensor 'action_scale' in {label} must be above 0: the file is damaged.") from None


def critic(
    states: Sequence[Mapping[str, Tensor]], acting: Mapping[str, Tensor], label: str, activation: str
) -> nn.Module | None:
    """The least of the critics beside an actor, over actions in −1 to 1; None where there are none."""
    found = [one for one in states if {"fc1.weight", "fc2.weight", "fc3.weight"} <= set(one)]
    if not found:
        return None
    obs = acting["fc1.weight"].shape[1]
    actions = acting["fc_mean.weight" if "fc_mean.weight" in acting else "fc_mu.weight"].shape[0]
    scale, bias = _scale(acting, label, actions)
    towers = []
    for one in found:
        first, *rest = (layer(one, name, label, activation) for name in ("fc1", "fc2", "fc3"))
        if first.weight.shape[1] != obs + actions or rest[-1].weight.shape[0] != 1:
            return None  # other networks of the same names
        first = preceded(first, torch.cat([torch.ones(obs), scale]), torch.cat([torch.zeros(obs), bias]))
        towers.append(sequential([first, *rest[:-1], replace(rest[-1], activation=None)], label))
    return Critic(Flat(), towers, quantiles=False)


def _scale(state: Mapping[str, Tensor], label: str, actions: int) -> tuple[Tensor, Tensor]:
    """Half-range and middle of each dimension of an action."""
    found = []
    for name in ("action_scale", "action_bias"):
        if name not in state or state[name].numel() not in (1, actions):
            raise FileError(
                f"{label} lacks the tensor '{name}' of {actions} numbers: it is not the actor that it seems to be."
            )
        found.append(finite(state[name], name, label).flatten().expand(actions))
    return found[0], found[1]

"""State dicts (.cleanrl_model, .pt, .pth, .safetensors): CleanRL's are recognised by their keys, others where keys and shapes suffice."""

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distilrl.checkpoints import digest, read_tensors
from distilrl.errors import FileError
from distilrl.specs import NATURE_KERNELS, NetworkSpec
from distilrl.teachers.archive import MAX_BYTES, checked, read_state_dict
from distilrl.teachers.layers import Layer, Stack, assemble, assemble_residual, layer
from distilrl.teachers.source import TeacherFile
from distilrl.heads import Kind
from distilrl.teachers.teacher import Teacher

BODIES = ("network", "q_network", "q_net", "online_net", "policy_net", "policy", "actor", "model", "net", "layers", "")
"""First parts of names under which a network that is acted with is found, the likeliest first."""


class Expectation(nn.Module):
    """C51 (Bellemare et al. 2017): outputs are logits over atoms of the return; the action value is the mean."""

    atoms: Tensor

    def __init__(self, network: nn.Module, atoms: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("atoms", atoms)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations to action values (B, A)."""
        logits = self.network(obs)
        return cast("Tensor", (logits.view(len(logits), -1, len(self.atoms)).softmax(2) * self.atoms).sum(2))


def load(file: TeacherFile) -> Teacher:
    """Reads a state dict.

    Raises:
        FileError: damaged, code, or of a network that is not recognised.
    """
    file.check_options("network", "activation", "divisor", "kind")
    path, label = Path(file.path), file.path
    if path.stat().st_size > MAX_BYTES:
        raise FileError(f"{label} is larger than a policy can be: give a file of the network's weights alone.")
    state = checked(read_tensors(path)[0], label) if path.suffix == ".safetensors" else read_state_dict(path.read_bytes(), label)
    state = {re.sub(r"^(?:_orig_mod\.|module\.)+", "", name): tensor for name, tensor in state.items()}
    divisor = file.divisor or 255.0
    if any(".lstm." in f".{name}" or ".gru." in f".{name}" for name in state):
        raise FileError(f"{label} is recurrent: only policies that see one observation at a time can be distilled.")
    if file.network is None and "network.0.conv.weight" in state:
        network, name, kind = _residual(state, label, divisor)
    else:
        network, name, kind = _chain(file, state, label, divisor)
    if "atoms" in state:
        network = _expectation(network, state["atoms"], label)
    obs_shape, outputs = _sizes(network)
    meta: dict[str, Any] = {"library": name, "algorithm": None, "version": None, "not_executed": []}
    teacher_kind: Kind = file.kind or kind  # type: ignore[assignment]
    return Teacher(network, teacher_kind, name, label, digest(path), meta, obs_shape=obs_shape, outputs=outputs)


def _residual(state: dict[str, Tensor], label: str, divisor: float) -> tuple[nn.Module, str, Kind]:
    """CleanRL's IMPALA networks: QDagger's with its head inside, PPO's (Procgen) with an actor."""
    stages = [f"network.{i}" for i in range(100) if f"network.{i}.conv.weight" in state]
    dense = [f"network.{i}" for i in range(100) if f"network.{i}.weight" in state]
    policy = "actor.weight" in state
    network = assemble_residual(state, stages, dense + ["actor"] * policy, label, divisor=divisor)
    return network, f"CleanRL {'PPO' if policy else 'QDagger'} residual network", "logits" if policy else "q"


def _chain(file: TeacherFile, state: dict[str, Tensor], label: str, divisor: float) -> tuple[nn.Module, str, Kind]:
    """Convolutions and dense layers in the order of their names."""
    names = _order(state, label)
    policy = names[0].startswith("actor") or names[-1] == "actor"
    cleanrl = names[0].startswith("network.0") or (names[0] == "actor.0" and "critic.0.weight" in state)
    layers = [layer(state, name, label, "relu") for name in names]
    kernels: tuple[tuple[int, int], ...] = NATURE_KERNELS
    activation = file.activation
    if file.network is not None:
        spec = _spec(file.network, layers, label)
        kernels = tuple((kernel, stride) for _, kernel, stride in spec.convs)
        activation = activation or spec.activation
    if activation is None:
        if not cleanrl and layers[0].weight.ndim == 2 and len(layers) > 1:
            raise FileError(f"{label} is an MLP, and no state_dict holds its activation: say which with --activation relu (or tanh, elu).")
        activation = "tanh" if cleanrl and policy and layers[0].weight.ndim == 2 else "relu"
    layers = [Layer(one.name, one.weight, one.bias, activation) for one in layers]
    network = assemble(layers, label, divisor=divisor, kernels=kernels)
    algorithm = "C51" if "atoms" in state else "PPO" if policy else "DQN"
    return network, f"CleanRL {algorithm}" if cleanrl else "state_dict", "logits" if policy else "q"


def _order(state: dict[str, Tensor], label: str) -> list[str]:
    """Names of the layers of the network that is acted with, in order."""
    found = [name.removesuffix(".weight") for name, tensor in state.items() if name.endswith(".weight") and tensor.ndim in (2, 4)]
    heads = {name.split(".")[0] if "." in name else "" for name in found}
    body = next((b for b in BODIES if b in heads), None)
    if len(heads) == 1:
        body = heads.pop()
    if body is None:
        raise FileError(
            f"{label} holds several networks ({', '.join(sorted(heads))[:120]}): save the state_dict of the one that acts alone."
        )
    names = [name for name in found if name.startswith(f"{body}.") or (not body and "." not in name)]
    numbered = [re.findall(r"\d+", name) for name in names]
    if all(numbered) and len({re.sub(r"\d+", "", name) for name in names}) == 1:
        names = [name for _, name in sorted(zip(([int(n) for n in parts] for parts in numbered), names, strict=True))]
    if body and body != "actor" and "actor" in found:
        names.append("actor")
    if not names:
        raise FileError(f"{label} holds no weights of dense or convolutional layers: save the network's state_dict.")
    return names


def _spec(text: str, layers: list[Layer], label: str) -> NetworkSpec:
    """The spec that the user names, which must have as many layers as the file."""
    first = layers[0].weight
    obs_shape = (first.shape[1],) if first.ndim == 2 else (first.shape[1], 84, 84)
    spec = NetworkSpec.parse(text, obs_shape, layers[-1].weight.shape[0])
    if len(spec.convs) + len(spec.hidden) + 1 != len(layers):
        raise FileError(
            f"{label} has {len(layers)} layers, but '{text}' has {len(spec.convs) + len(spec.hidden) + 1}: correct --teacher-network."
        )
    return spec


def _expectation(network: nn.Module, atoms: Tensor, label: str) -> nn.Module:
    outputs = _sizes(network)[1]
    if atoms.ndim != 1 or not len(atoms) or outputs % len(atoms) or not torch.isfinite(atoms).all():
        raise FileError(f"Tensor 'atoms' in {label} has shape {tuple(atoms.shape)}, which does not divide its {outputs} outputs.")
    return Expectation(network, atoms.float())


def _sizes(network: nn.Module) -> tuple[tuple[int, ...], int]:
    """Observation shape and number of actions."""
    if isinstance(network, Expectation):
        obs_shape, outputs = _sizes(network.network)
        return obs_shape, outputs // len(network.atoms)
    if isinstance(network, Stack):
        return network.obs_shape, network.outputs
    return network.spec.obs_shape, network.spec.outputs  # type: ignore[union-attr,return-value]

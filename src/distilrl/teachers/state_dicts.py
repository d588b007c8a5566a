"""State dicts (.cleanrl_model, .pt, .pth, .safetensors): CleanRL's are recognised by their keys, others where keys and
shapes suffice.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distilrl.checkpoints import read_tensors
from distilrl.errors import FileError
from distilrl.files import digest
from distilrl.heads import Kind, Squash
from distilrl.limits import MAX_TENSORS
from distilrl.spaces import ActionSpec
from distilrl.specs import NATURE_KERNELS, NetworkSpec
from distilrl.teachers import cleanrl, recurrent, robots, torchscript
from distilrl.teachers.archive import Checkpoint, bare, checked, find_state, is_state, read_checkpoint
from distilrl.teachers.layers import (
    Asked,
    Layer,
    Stack,
    assemble,
    assemble_residual,
    encode,
    layer,
    numbered,
    told_activation,
)
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher

BODIES = ("network", "q_network", "q_net", "online_net", "policy_net", "policy", "actor", "model", "net", "layers", "")
"""First parts of names under which a network that is acted with is found, the likeliest first."""


CONVOLUTIONS = "Its activation is not in the file and is taken for relu, as most have: --activation says another."
"""Note of somebody's own convolutions."""
NOT_ACTING = (
    r"critic|value|target|baseline|reward|log_?(std|alpha|prob)|sigma|^action_(scale|bias|low|high)$|^atoms$"
    r"|(^|[._])(ret(urn)?s?_|(old\w*|vf\w*|qf\w*|q\d+|v)\.)|(^|\.)((action|noise)_)?std$"
)
"""Names of tensors that are kept beside a policy, and have no part in its greedy action."""
STATISTICS = (
    r"(^|_)(\w*rms|norm\w*|means?|stds?|vars?|mu|sigmas?|stats|statistics|scalers?|scale|shift|min|max|standard\w*"
    r"|whiten\w*|preprocessor|filter|running\w*)(_|$)"
)
"""Names of statistics of observations beside a state dict."""
UNSEEN = r"critic|privileged|teacher|amp_|disc_|rnd_|action|reward|^ret|return|value|log_std|grad|optim|loss|sched"
"""Names of those that are of something that the policy does not see."""


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


@dataclass(frozen=True)
class _Found:
    """A network that was recognised."""

    network: nn.Module
    name: str
    """Library and algorithm."""
    kind: Kind | None
    """What its outputs are; None where only the environment can tell."""
    squash: Squash | None = None
    """How real actions come into their bounds; None where only the user can tell."""
    scaled: bool = False
    """Its numbers stand for the bounds of an action."""
    action: ActionSpec | None = None
    critic: nn.Module | None = None
    constants: int = 0
    """Outputs that no state changes: rows of zeros, which are no parameters of the policy."""
    note: str = ""
    """What a user must know of it."""
    sizes: tuple[tuple[int, ...], int] | None = None
    """Observation shape and outputs, where the network does not know them."""


def load(file: TeacherFile) -> Teacher:
    """Reads a state dict, or a checkpoint that holds one.

    Raises:
        FileError: damaged, code, or of a network that is not recognised.
    """
    file.check_options("network", "activation", "divisor", "kind", "squash")
    path, label = Path(file.path), file.path
    found = _recognised(file, path)
    obs_shape, outputs = found.sizes or _sizes(found.network)
    meta: dict[str, Any] = {"library": found.name, "algorithm": None, "version": None, "not_executed": []}
    if found.note:
        meta["note"] = found.note
    params = sum(p.numel() for p in found.network.parameters()) - found.constants * (_fan_in(found.network) + 1)
    return Teacher(
        found.network,
        file.own_kind or found.kind or ("mean" if file.squash else None),
        found.name,
        label,
        digest(path),
        meta,
        obs_shape,
        outputs,
        params,
        action=found.action,
        squash=file.own_squash or found.squash,
        scaled=file.scaled or (found.scaled and file.squash is None),
        critic=found.critic,
        any_size=True,
    )


def _recognised(file: TeacherFile, path: Path) -> _Found:
    """The network of a file, by the names of what is in it."""
    label = file.path
    if path.suffix == ".safetensors":
        tensors = checked(read_tensors(path, MAX_TENSORS)[0], label)
        return _from_state(file, {bare(name): tensor for name, tensor in tensors.items()}, label)
    checkpoint = read_checkpoint(path.read_bytes(), label)
    if checkpoint.script:
        file.check_options("kind", "squash")
        script = torchscript.read(checkpoint)
        name = f"{script.library} (TorchScript)" if script.library else "TorchScript"
        return _Found(script.network, name, "mean" if script.library else None, "clip", note=torchscript.NOTE)
    robot = robots.read(checkpoint, file.activation)
    _refuse_statistics(file, checkpoint, robot.statistics if robot else ())
    if robot is not None:
        sizes = (robot.obs_shape, robot.outputs)
        scaled = robot.library == "rl_games" and robot.kind != "logits"
        return _Found(
            robot.network,
            robot.library,
            robot.kind,
            "clip",
            scaled=scaled,
            constants=robot.log_std,
            note=robot.note,
            sizes=sizes,
        )
    if not isinstance(checkpoint.loaded, list | tuple):
        return _from_state(file, checkpoint.tensors(find_state(checkpoint.loaded)), label)
    states = [checkpoint.tensors(one) for one in checkpoint.loaded[:8] if is_state(one)]
    acting = next((one for one in states if cleanrl.is_actor(one)), None)
    if acting is None:
        raise FileError(
            f"{label} holds several state dicts, none of which is an actor of CleanRL's: save the one that acts alone."
        )
    return _from_state(file, acting, label, [one for one in states if one is not acting])


def _refuse_statistics(file: TeacherFile, checkpoint: Checkpoint, known: Sequence[str]) -> None:
    """Refuses statistics of observations beside a state dict that are not known, unless the user gives them."""
    loaded = checkpoint.loaded
    if file.normalizer is not None or not isinstance(loaded, dict) or is_state(loaded):
        return
    told = [
        str(name)
        for name, value in loaded.items()
        if not isinstance(value, None | bool | int | float | str)
        and value not in ({}, [], ())
        and not (name in known and is_state(value))
    ]
    for inner in loaded.values():  # one level down, where a configuration's lists of numbers are no statistics
        if isinstance(inner, dict) and not is_state(inner):
            told += [str(name) for name, value in inner.items() if _holds_arrays(value)]
    beside = next((name for name in told if re.search(STATISTICS, name) and not re.search(UNSEEN, name)), None)
    if beside is not None:
        raise FileError(
            f"{checkpoint.label} holds statistics of observations ('{beside[:80]}') in a layout that is not known: "
            "write their 'mean' and 'var' into a .json file and give it as --normalizer, or export the policy to ONNX "
            "with its normalisation inside."
        )


def _holds_arrays(value: Any) -> bool:
    """Whether a value is something else than text and numbers, or a dict of such."""
    if isinstance(value, dict):
        return any(map(_holds_arrays, value.values()))
    return not isinstance(value, None | bool | int | float | str | list | tuple)


def _from_state(
    file: TeacherFile, tensors: dict[str, Tensor], label: str, beside: Sequence[dict[str, Tensor]] = ()
) -> _Found:
    """The network of these tensors, which must all have a place in it but for those that do not act."""
    state = Asked(tensors)
    found = _of_state(file, state, label, beside)
    state.check_all(label, NOT_ACTING)
    return found


def _of_state(file: TeacherFile, state: dict[str, Tensor], label: str, beside: Sequence[dict[str, Tensor]]) -> _Found:
    divisor = file.divisor or 255.0
    if cleanrl.is_recurrent(state):
        return _remembering(file, state, label, divisor)
    memory = next((name for name in state if re.search(r"(^|\.)(lstm|gru|rnn)\w*\.", name)), None)
    if memory is not None:
        raise FileError(
            f"{label} is recurrent ('{memory[:80]}') in a layout that is not known: export the policy to ONNX instead, "
            "its state among the inputs and outputs."
        )
    if cleanrl.is_ppo(state):
        if not cleanrl.is_usual(state):  # somebody's own, called so
            told_activation(file.activation, label)
        network = cleanrl.ppo(state, label, file.activation or "tanh")
        notes = [cleanrl.ACTIVATION.format("tanh")] * (file.activation is None)
        note = " ".join([*notes, *[cleanrl.UNSAVED] * (file.normalizer is None)])
        return _Found(network, "CleanRL PPO", "gaussian", "clip", constants=_sizes(network)[1] // 2, note=note)
    if cleanrl.is_actor(state):
        activation = file.activation or "relu"
        network, bounds = cleanrl.actor(state, label, activation)
        name = (
            "CleanRL SAC" if "fc_mean.weight" in state else "CleanRL TD3" if len(beside) > 1 else "CleanRL DDPG or TD3"
        )
        return _Found(
            network, name, "mean", "tanh", action=bounds, critic=cleanrl.critic(beside, state, label, activation)
        )
    if file.network is None and "network.0.conv.weight" in state:
        found = _Found(*_residual(state, label, divisor))
    else:
        found = _chain(file, state, label, divisor)
    return replace(found, network=_expectation(found.network, state["atoms"], label)) if "atoms" in state else found


def _remembering(file: TeacherFile, state: dict[str, Tensor], label: str, divisor: float) -> _Found:
    """CleanRL's convolutions before an LSTM."""
    layers = [layer(state, name, label, file.activation or "relu") for name in numbered(state, "network")]
    actor = layer(state, "actor", label, None)
    kernels: tuple[tuple[int, int], ...] = NATURE_KERNELS
    if file.network is not None:
        kernels = tuple((kernel, stride) for _, kernel, stride in _spec(file.network, [*layers, actor], label).convs)
    encoder = encode(layers, label, divisor=divisor, kernels=kernels)
    memory = recurrent.read_memory(state, cleanrl.MEMORY, label)
    network = recurrent.remembering(encoder, (encoder.obs_shape, encoder.outputs), memory, [actor], label)
    return _Found(network, "CleanRL PPO with LSTM", "logits")


def _fan_in(network: nn.Module) -> int:
    """Inputs of the last dense layer."""
    return [m for m in network.modules() if isinstance(m, nn.Linear)][-1].in_features


def _residual(state: dict[str, Tensor], label: str, divisor: float) -> tuple[nn.Module, str, Kind]:
    """CleanRL's IMPALA networks: QDagger's with its head inside, PPO's (Procgen) with an actor."""
    stages = [f"network.{i}" for i in range(100) if f"network.{i}.conv.weight" in state]
    dense = [f"network.{i}" for i in range(100) if f"network.{i}.weight" in state]
    policy = "actor.weight" in state
    network = assemble_residual(state, stages, dense + ["actor"] * policy, label, divisor=divisor)
    return network, f"CleanRL {'PPO' if policy else 'QDagger'} residual network", "logits" if policy else "q"


def _chain(file: TeacherFile, state: dict[str, Tensor], label: str, divisor: float) -> _Found:
    """Convolutions and dense layers in the order of their names."""
    names = _order(state, label)
    policy = names[0].startswith("actor") or names[-1] in ("actor", "action_net")
    layers = [layer(state, name, label, "relu") for name in names]
    known = _of_cleanrl(layers, state)
    kernels: tuple[tuple[int, int], ...] = NATURE_KERNELS
    activation, note = file.activation, ""
    if file.network is not None:
        spec = _spec(file.network, layers, label)
        kernels = tuple((kernel, stride) for _, kernel, stride in spec.convs)
        activation = activation or (spec.activation if "@" in file.network else None)
    dense = layers[0].weight.ndim == 2
    if activation is None:
        if not known and dense and len(layers) > 1:
            told_activation(activation, label)
        activation = "tanh" if known and policy and dense else "relu"
        if known and dense:
            note = cleanrl.ACTIVATION.format(activation)
        elif not known and not dense:
            note = CONVOLUTIONS
    layers = [Layer(one.name, one.weight, one.bias, activation) for one in layers]
    network = assemble(layers, label, divisor=divisor, kernels=kernels)
    if not known and not dense and file.divisor is None:
        raise FileError(
            f"{label} reads images, and no state_dict says what its pixels are divided by: say --divisor 255, or 1 "
            "where it takes them as they are."
        )
    algorithm = "C51" if "atoms" in state else "PPO" if policy else "DQN"
    choosing: Kind | None = "logits" if policy else "q" if known or "atoms" in state else None
    if names[-1] == "action_net" and "log_std" in state:  # stable-baselines3's, of real actions
        return _Found(network, "state_dict", "mean", "clip")
    kind = "mean" if file.squash else choosing
    return _Found(network, f"CleanRL {algorithm}" if known else "state_dict", kind, note=note)


def _of_cleanrl(layers: Sequence[Layer], state: dict[str, Tensor]) -> bool:
    """Whether layers are called and sized as CleanRL's are, whose activation is known: somebody's own may be called so
    too.
    """
    names, widths = [one.name for one in layers], [len(one.weight) for one in layers[:-1]]
    if layers[0].weight.ndim == 4:
        return names[:-1] == [f"network.{number}" for number in (0, 2, 4, 7)] and names[-1] in ("network.9", "actor")
    if names == ["actor.0", "actor.2", "actor.4"]:
        return widths == [64, 64] and "critic.4.weight" in state
    return names == ["network.0", "network.2", "network.4"] and widths == [120, 84]


def _order(state: dict[str, Tensor], label: str) -> list[str]:
    """Names of the layers of the network that is acted with, in order."""
    shapes = {  # which asks for none of them
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in state.items()
        if name.endswith(".weight") and tensor.ndim in (2, 4)
    }
    found = list(shapes)
    if "action_net" in found and (
        extractor := numbered(state, "mlp_extractor.policy_net")
    ):  # stable-baselines3's policy
        return _in_a_row([*extractor, "action_net"], state, label)
    found = _without_critics(_without_spreads(found, shapes), state, label)
    images = [name for name in found if len(shapes[name]) == 4]
    rows = images, [name for name in found if name not in images]
    # conv and fc
    if all(len(set(map(_module, row))) == 1 for row in rows) and _module(rows[0][0]) != _module(rows[1][0]):
        return _in_a_row([name for row in rows for name in _by_number(row)], state, label)
    heads = set(map(_module, found))
    body = next((b for b in BODIES if b in heads), None)
    if len(heads) == 1:
        body = heads.pop()
    if body is None:
        raise FileError(
            f"{label} holds several networks ({', '.join(sorted(heads))[:120]}): save the state_dict of the one that "
            "acts alone."
        )
    names = _by_number([name for name in found if _module(name) == body])
    if body and body != "actor" and "actor" in found:
        names.append("actor")
    if not names:
        raise FileError(f"{label} holds no weights of dense or convolutional layers: save the network's state_dict.")
    return _in_a_row(names, state, label)


def _module(name: str) -> str:
    """The module that a layer's name begins with; none of a name without parts."""
    return name.split(".")[0] if "." in name else ""


def _by_number(names: list[str]) -> list[str]:
    """Names that differ in their numbers alone, in the order of these; others in theirs."""
    places = [re.findall(r"\d+", name) for name in names]
    if not all(places) or len({re.sub(r"\d+", "", name) for name in names}) > 1:
        return names
    return [name for _, name in sorted(zip(([int(n) for n in parts] for parts in places), names, strict=True))]


def _without_spreads(names: list[str], shapes: dict[str, torch.Size]) -> list[str]:
    """Names of layers without the head of a spread beside that of a mean, ``log_std_linear`` beside ``mean_linear``."""
    spreads = [name for name in names if re.search(r"log_?std|sigma", name)]
    means = {shapes[name] for name in names if name not in spreads}
    return [name for name in names if name not in spreads or shapes[name] not in means]


def _without_critics(names: list[str], state: dict[str, Tensor], label: str) -> list[str]:
    """Names of layers without those of one output beside an acting head, ``value_head`` beside ``action_head``."""
    widths = {name: state[f"{name}.weight"].shape for name in names if "." not in name}
    critics = {name for name, shape in widths.items() if shape[0] == 1 and re.search(NOT_ACTING, name)}
    read = {widths[name][1:] for name in critics}
    beside = [name for name in widths if name not in critics and widths[name][1:] in read]
    if any(re.search(r"(^|_)adv", name) for name in beside):
        raise FileError(f"{label} has a stream of values and one of advantages: export the policy to ONNX.")
    return [name for name in names if name not in critics] if beside else names


def _in_a_row(names: list[str], state: dict[str, Tensor], label: str) -> list[str]:
    """The same names, each dense layer of which reads what the one before it gives."""
    weights = [state[f"{name}.weight"] for name in names]
    for (name, weight), (after, following) in itertools.pairwise(zip(names, weights, strict=True)):
        if weight.ndim == following.ndim == 2 and following.shape[1] != len(weight):
            raise FileError(
                f"'{after}' in {label} reads {following.shape[1]} numbers, and '{name}' before it gives {len(weight)}: "
                "it holds several networks or heads, so save the state_dict of the one that acts alone, or export what "
                "acts to ONNX with one output of all its numbers."
            )
    return names


def _listed(widths: list[int]) -> str:
    """Widths in words."""
    return ", ".join(map(str, widths)) or "none"


def _spec(text: str, layers: list[Layer], label: str) -> NetworkSpec:
    """The spec that the user names, whose hidden layers must be as wide as the file's."""
    first = layers[0].weight
    obs_shape = (first.shape[1],) if first.ndim == 2 else (first.shape[1], 84, 84)
    spec = NetworkSpec.parse(text, obs_shape, layers[-1].weight.shape[0])
    if spec.remembers or spec.blocks:
        raise FileError(
            f"{label} holds dense layers and convolutions, which '{text}' is not: correct --teacher-network."
        )
    widths, told = [len(one.weight) for one in layers[:-1]], [*(conv[0] for conv in spec.convs), *spec.hidden]
    if widths != told:
        raise FileError(
            f"{label} has hidden layers of {_listed(widths)}, but '{text}' of {_listed(told)}: correct "
            "--teacher-network."
        )
    return spec


def _expectation(network: nn.Module, atoms: Tensor, label: str) -> nn.Module:
    outputs = _sizes(network)[1]
    if atoms.ndim != 1 or not len(atoms) or outputs % len(atoms) or not torch.isfinite(atoms).all():
        raise FileError(
            f"Tensor 'atoms' in {label} has shape {tuple(atoms.shape)}, which does not divide its {outputs} outputs."
        )
    return Expectation(network, atoms.float())


def _sizes(network: nn.Module) -> tuple[tuple[int, ...], int]:
    """Observation shape and number of actions."""
    if isinstance(network, Expectation):
        obs_shape, outputs = _sizes(network.network)
        return obs_shape, outputs // len(network.atoms)
    if isinstance(network, Stack | recurrent.Remembering):
        return network.obs_shape, network.outputs
    return network.spec.obs_shape, network.spec.outputs  # type: ignore[union-attr,return-value]

"""Zips of stable-baselines3 and sb3-contrib, read without either and without unpickling the objects in them.

Such a zip holds ``data`` (JSON, with pickled objects inside as base64 strings that are never decoded here) and
``policy.pth`` (a state dict). The network is recognised from the names and shapes of its tensors, the spaces from their
printed text. What makes the deterministic action of each algorithm is what its library's ``predict`` does.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distilrl.errors import FileError, SpecError
from distilrl.files import digest
from distilrl.heads import Kind, Squash, head_for
from distilrl.networks import Network
from distilrl.plain import parse_json
from distilrl.spaces import ActionSpec, Choices
from distilrl.specs import ACTIVATIONS
from distilrl.teachers import extractors, printed, recurrent, renorm
from distilrl.teachers.archive import read_members, read_state_dict
from distilrl.teachers.dangerous import dangerous
from distilrl.teachers.layers import (
    CLASSES,
    Clamped,
    Layer,
    Stack,
    against_zero,
    joined,
    layer,
    numbered,
    vector,
    with_constants,
)
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher

CLIP_MEAN = 2.0
"""Bound of the mean under generalised state-dependent exploration, unless policy_kwargs name another."""
FAMILIES = (
    "DQN, PPO, A2C, SAC, TD3 and DDPG of stable-baselines3, QR-DQN, TRPO, TQC, CrossQ, ARS and RecurrentPPO of "
    "sb3-contrib"
)


@dataclass(frozen=True)
class _Zip:
    """What was read from a zip."""

    label: str
    data: dict[str, Any]
    state: dict[str, Tensor]
    activation: str
    source: extractors.Source

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.data.get("policy_kwargs") or {}

    def layer(self, name: str) -> Layer:
        return layer(self.state, name, self.label, self.activation)

    def chain(self, prefix: str) -> list[Layer]:
        """Layers ``prefix.0``, ``prefix.2``, …, an activation after each."""
        names = numbered(self.state, prefix)
        if names != [f"{prefix}.{2 * i}" for i in range(len(names))]:
            raise FileError(
                f"{self.label}: its network is neither the MLP nor the Nature CNN that stable-baselines3 builds."
            )
        return [self.layer(name) for name in names]


class _Actor(NamedTuple):
    """The part of a policy that acts."""

    extractors: tuple[str, ...]
    """Prefixes under which its features extractor may be."""
    dense: list[Layer]
    kind: Kind
    squash: Squash = "clip"
    limit: float | None = None
    """Bound of the outputs."""
    bernoulli: bool = False
    """Its head was made of one Bernoulli logit for each choice."""
    memory: str | None = None
    """Prefix of the memory that its dense layers read."""


def _dqn(file: _Zip) -> _Actor:
    return _Actor(("q_net.features_extractor",), file.chain("q_net.q_net"), "q")


def _qrdqn(file: _Zip) -> _Actor:
    dense = file.chain("quantile_net.quantile_net")
    if dense:
        dense[-1] = _mean_over_quantiles(file.label, dense[-1], file.data.get("n_quantiles"))
    return _Actor(("quantile_net.features_extractor",), dense, "q")


def _actor_critic(file: _Zip) -> _Actor:
    """PPO, A2C and TRPO."""
    body = file.chain("mlp_extractor.shared_net") + file.chain("mlp_extractor.policy_net")
    head = file.layer("action_net")
    kind: Kind = "logits"
    squash: Squash = "clip"
    log_std = file.state.get("log_std")
    if log_std is not None:
        squash = "tanh" if file.kwargs.get("squash_output") is True else "clip"
        kind = (
            "gaussian" if log_std.ndim == 1 else "mean"
        )  # with gSDE the noise depends on the features, and no number says how much it is
        head = (
            with_constants(head, vector(file.state, "log_std", len(head.bias), file.label))
            if kind == "gaussian"
            else head
        )
    bernoulli = kind == "logits" and printed.kind_of(file.data.get("action_space")) == "MultiBinary"
    dense = [*body, against_zero(head) if bernoulli else head]
    return _Actor(("pi_features_extractor", "features_extractor"), dense, kind, squash, bernoulli=bernoulli)


def _recurrent(file: _Zip) -> _Actor:
    """RecurrentPPO: the actor's own LSTM before what PPO has."""
    return _actor_critic(file)._replace(memory="lstm_actor")


def _gaussian(file: _Zip) -> _Actor:
    """SAC and TQC."""
    return _squashed(file, file.chain("actor.latent_pi"), lambda one: one)


def _crossq(file: _Zip) -> _Actor:
    body, last = _renormed(file, "actor.latent_pi")
    return _squashed(file, body, last)


def _squashed(file: _Zip, body: list[Layer], last: Callable[[Layer], Layer]) -> _Actor:
    """A body with a head for the mean, and one for log std unless the noise is gSDE's."""
    prefixes = ("actor.features_extractor",)
    if "actor.log_std.weight" in file.state:
        mean, log_std = (last(file.layer(f"actor.{name}")) for name in ("mu", "log_std"))
        return _Actor(prefixes, [*body, joined(mean, log_std)], "gaussian", "tanh")
    clamped = "actor.mu.0.weight" in file.state
    limit = file.kwargs.get("clip_mean", CLIP_MEAN)
    if clamped and (isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 1e6):
        raise FileError(f"{file.label}: its 'clip_mean' ({limit!r:.40}) must be a number above 0: the file is damaged.")
    return _Actor(
        prefixes,
        [*body, last(file.layer("actor.mu.0" if clamped else "actor.mu"))],
        "mean",
        "tanh",
        limit if clamped else None,
    )


def _deterministic(file: _Zip) -> _Actor:
    """TD3 and DDPG."""
    return _Actor(("actor.features_extractor",), file.chain("actor.mu"), "mean", "tanh")


def _ars(file: _Zip) -> _Actor:
    old = "action_net.weight" in file.state
    dense = [file.layer("action_net")] if old else file.chain("action_net")
    linear = len(dense) == 1 and ("with_bias" in file.kwargs or f"{dense[0].name}.bias" not in file.state)
    squash = file.kwargs.get("squash_output", not linear) is True
    if printed.kind_of(file.data.get("action_space")) == "Box":
        return _Actor(("features_extractor",), dense, "mean", "tanh" if squash else "clip")
    return _Actor(("features_extractor",), dense, "logits")


class _Family(NamedTuple):
    name: str
    library: str
    activation: str
    actor: Callable[[_Zip], _Actor]


_READERS = {
    "stable_baselines3.dqn.policies": _Family("DQN", "stable-baselines3", "relu", _dqn),
    "sb3_contrib.qrdqn.policies": _Family("QR-DQN", "sb3-contrib", "relu", _qrdqn),
    "stable_baselines3.common.policies": _Family("A2C", "stable-baselines3", "tanh", _actor_critic),
    "stable_baselines3.sac.policies": _Family("SAC", "stable-baselines3", "relu", _gaussian),
    "stable_baselines3.td3.policies": _Family("TD3", "stable-baselines3", "relu", _deterministic),
    "sb3_contrib.tqc.policies": _Family("TQC", "sb3-contrib", "relu", _gaussian),
    "sb3_contrib.crossq.policies": _Family("CrossQ", "sb3-contrib", "relu", _crossq),
    "sb3_contrib.ars.policies": _Family("ARS", "sb3-contrib", "relu", _ars),
    "sb3_contrib.common.recurrent.policies": _Family("RecurrentPPO", "sb3-contrib", "tanh", _recurrent),
}


def load(file: TeacherFile) -> Teacher:
    """Reads a zip of stable-baselines3 or sb3-contrib with an MLP, a Nature CNN, or one of each for the keys of a Dict,
    and an LSTM behind it.

    Raises:
        FileError: damaged, too large, or of another algorithm or architecture.
    """
    file.check_options("activation")
    path, label = Path(file.path), file.path
    members = read_members(path, {"data": True, "_stable_baselines3_version": False})
    data = _json(label, members["data"])
    family = _family(label, data)
    members |= read_members(path, {"policy.pth": True})
    state = read_state_dict(members["policy.pth"], f"{label}: its member 'policy.pth'")
    kwargs = data.get("policy_kwargs") or {}
    activation = _activation(label, kwargs, family.activation, file.activation)
    divisor = 1.0 if kwargs.get("normalize_images") is False else 255.0
    source = extractors.Source(label, state, printed.leaves(data.get("observation_space")), divisor)
    read = _Zip(label, data, state, activation, source)
    actor = family.actor(read)
    if not actor.dense:
        raise FileError(f"{label}: its network is neither the MLP nor the Nature CNN that stable-baselines3 builds.")
    network = _network(source, actor)
    outputs = actor.dense[-1].weight.shape[0]
    action = _action(label, data, actor, outputs)
    version = members.get("_stable_baselines3_version", b"").decode(errors="replace").strip()[:20] or None
    return Teacher(
        network if actor.limit is None else Clamped(network, actor.limit),
        actor.kind,
        f"{family.library} {family.name} {version or 'of unknown version'}",
        label,
        digest(path),
        _meta(family, version, data) | _parts(source) | _dangerous(path) | _counted(data.get("action_space")),
        network.spec.obs_shape if isinstance(network, Network) else network.obs_shape,
        outputs,
        sum(p.numel() for p in network.parameters()) - _added(actor, state),
        action=action,
        squash=actor.squash,
        critic=_critic(read, family.name, outputs // 2 if actor.kind == "gaussian" else outputs),
    )


def _network(source: extractors.Source, actor: _Actor) -> "Network | Stack | recurrent.Remembering":
    """Extractor and dense layers, and the memory between them where there is one."""
    if actor.memory is None:
        return extractors.network(source, actor.extractors, actor.dense)
    memory = recurrent.read_memory(source.state, actor.memory, source.label)
    encoder, sees = extractors.encoder(source, actor.extractors, memory.input_size)
    return recurrent.remembering(encoder, sees, memory, actor.dense, source.label)


def _added(actor: _Actor, state: dict[str, Tensor]) -> int:
    """Parameters that the deterministic policy does not have: log std, zeros beside Bernoulli logits, biases that the
    file lacks.
    """
    head = actor.dense[-1]
    own = head.weight.shape[0] // 2 if actor.kind == "gaussian" or actor.bernoulli else 0
    return own * (head.weight.shape[1] + 1) + sum(
        len(one.bias) for one in actor.dense if f"{one.name}.bias" not in state
    )


def _parts(source: extractors.Source) -> dict[str, Any]:
    """Keys of a Dict and how many numbers each has, in the order of the flat observation: the image last."""
    if source.parts is None:
        return {}
    told: dict[str, Any] = {
        "observation": [[part.key, part.size] for part in sorted(source.parts, key=lambda part: part.picture)]
    }
    if source.alone is not None and source.alone.picture:
        told["pixels"] = "uint8" if source.alone.dtype in ("uint8", "bool") else "float32"
    pictures = [part.key for part in source.parts if part.picture and part.key]
    return told | ({"picture": pictures[0]} if pictures else {})


def _counted(space: Any) -> dict[str, Any]:
    """A note where choices do not begin at 0, from which stable-baselines3 counts them whatever their space says."""
    start = str(space.get("start", 0)) if isinstance(space, dict) else ""
    if not any(int(number) for number in re.findall(r"-?\d{1,9}", start)):
        return {}
    return {
        "note": f"Its choices are counted from {start[:20]}, as its space says; stable-baselines3 itself counts them "
        "from 0, so that in an environment which adds to them itself it plays others here."
    }


def _meta(family: _Family, version: str | None, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "library": family.library,
        "algorithm": family.name,
        "version": version,
        "policy_kwargs": {k: v for k, v in (data.get("policy_kwargs") or {}).items() if not k.startswith(":")},
        "steps": data.get("num_timesteps"),
        "not_executed": sorted(k for k, v in data.items() if isinstance(v, dict) and ":serialized:" in v),
    }


def _dangerous(path: Path) -> dict[str, Any]:
    """What stable-baselines3 itself would call in this file and could do anything, where there is such."""
    names = dangerous(path)
    return {"dangerous": list(names)} if names else {}


def _json(label: str, text: bytes) -> dict[str, Any]:
    try:
        data: Any = parse_json(text)
        spaces = [data.get(f"{name}_space") for name in ("action", "observation")]
        kwargs = data.get("policy_kwargs")
        if (
            isinstance(data["policy_class"]["__module__"], str)
            and (kwargs is None or isinstance(kwargs, dict))
            and all(space is None or isinstance(space, dict) for space in spaces)
        ):
            return data  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        pass
    raise FileError(f"{label}: its member 'data' is not the JSON that stable-baselines3 writes.")


def _family(label: str, data: dict[str, Any]) -> _Family:
    """Which algorithm wrote the file, by the module of its policy class and the settings that it has."""
    module = data["policy_class"]["__module__"]
    if module.startswith("sbx."):
        raise FileError(f"{label} is of SBX, whose networks are JAX's and are not read: export the policy to ONNX.")
    family = _READERS.get(module)
    if family is None:
        raise FileError(f"{label} holds a policy of {module[:80]!r}: {FAMILIES} can be read; export others to ONNX.")
    if family.name == "A2C" and "clip_range" in data:
        return family._replace(name="PPO")
    if family.name == "A2C" and "cg_max_steps" in data:
        return family._replace(name="TRPO", library="sb3-contrib")
    if family.name == "TD3" and data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0:
        return family._replace(name="DDPG")
    return family


def _activation(label: str, kwargs: dict[str, Any], default: str, told: str | None) -> str:
    """The activation's name as policy_kwargs prints it, else what was told; the pickled class beside it is not looked
    at.
    """
    extractor = str(kwargs.get("features_extractor_class"))
    if "features_extractor_class" in kwargs and not re.fullmatch(
        r"<class 'stable_baselines3\.[\w.]+\.(FlattenExtractor|NatureCNN|CombinedExtractor)'>", extractor
    ):
        raise FileError(
            f"{label}: its features extractor {extractor[:80]!r} is code of its own: export the policy to ONNX instead."
        )
    if "activation_fn" not in kwargs:
        return told or default
    printed_name = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(kwargs["activation_fn"]))
    if printed_name:
        name = CLASSES.get(printed_name[1])
        if name is None:
            raise FileError(
                f"{label} has the activation {printed_name[1][:40]}, which is none of {', '.join(ACTIVATIONS)}: export "
                "the policy to ONNX instead."
            )
        if told not in (None, name):
            raise FileError(f"{label} has the activation {name} and not {told}: leave --activation out.")
        return name
    if "functools.partial(" in str(kwargs["activation_fn"]):
        raise FileError(f"{label} has an activation with parameters of its own: export the policy to ONNX instead.")
    if told:
        return told
    raise FileError(
        f"{label} names its activation only in a pickled object, which is not executed: say which with --activation."
    )


def _action(label: str, data: dict[str, Any], actor: _Actor, outputs: int) -> ActionSpec | None:
    """The actions that the file names; None where its text does not say them in full."""
    space = data.get("action_space")
    action = printed.action_spec(space)
    if action is None:
        several = printed.kind_of(space) in ("MultiDiscrete", "MultiBinary")
        if several:
            raise FileError(
                f"{label}: its action space is not printed in full, so that its choices cannot be told apart: it is "
                "damaged."
            )
        return Choices((outputs,)) if actor.kind in ("q", "logits") else None
    try:
        if head_for(action, actor.kind, actor.squash).width == outputs:
            return action
    except SpecError:
        pass
    raise FileError(
        f"{label} has a policy of {outputs} numbers ({actor.kind}), but its space has {action.describe()}: the file "
        "is damaged."
    )


def _mean_over_quantiles(label: str, head: Layer, n_quantiles: Any) -> Layer:
    """A head of A outputs, each the mean of an action's quantiles: exactly linear, so it is one matrix."""
    outputs = head.weight.shape[0]
    if isinstance(n_quantiles, bool) or not isinstance(n_quantiles, int) or n_quantiles < 1 or outputs % n_quantiles:
        raise FileError(
            f"{label}: its 'n_quantiles' ({n_quantiles!r:.40}) does not divide the {outputs} outputs of its head: "
            "the file is damaged."
        )
    weight = head.weight.view(n_quantiles, -1, head.weight.shape[1]).mean(0)
    return replace(head, weight=weight, bias=torch.mean(head.bias.view(n_quantiles, -1), 0))


def _renormed(file: _Zip, prefix: str) -> tuple[list[Layer], Callable[[Layer], Layer]]:
    """CrossQ's dense layers, and what folds the renormalisation after them into a head."""
    epsilon = file.kwargs.get("batch_norm_eps", renorm.EPSILON)
    return renorm.folded(file.state, prefix, file.label, file.activation, epsilon)


def _critic(file: _Zip, algorithm: str, actions: int) -> nn.Module | None:
    """The critics of an algorithm that has some, over actions in −1 to 1."""
    prefixes = sorted({m[1] for name in file.state if (m := re.match(r"(critic\.qf\d)\.", name))})
    if not prefixes:
        return None
    towers = [_renormed(file, prefix)[0] if algorithm == "CrossQ" else file.chain(prefix) for prefix in prefixes]
    if not all(towers):
        return None
    return extractors.critic(
        file.source,
        ("critic.features_extractor", "actor.features_extractor"),
        towers,
        actions,
        quantiles=algorithm == "TQC",
    )

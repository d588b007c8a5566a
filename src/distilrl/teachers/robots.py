"""Checkpoints of the libraries that robots are trained with: rsl_rl, rl_games and skrl.

Their networks are chains of dense layers behind a normaliser of observations. None of the files holds its activation:
rsl_rl's default is ELU, for the others it is asked for. Their actions have no bounds of their own: the environment's
are used.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from distilrl.errors import FileError
from distilrl.heads import Kind
from distilrl.networks import Network
from distilrl.teachers.archive import Checkpoint, bare, is_state
from distilrl.teachers.before import Normalised
from distilrl.teachers.layers import (
    Asked,
    Stack,
    assemble,
    layer,
    numbered,
    told_activation,
    vector,
    with_constants,
)
from distilrl.teachers.recurrent import Memory, Remembering, acting, read_memory, statistics_of

RSL_EPSILON = 1e-2
"""What rsl_rl adds to the standard deviation of an observation."""
RSL_MEMORIES = {"actor": "memory_a.rnn", "student": "memory_s.rnn", "mlp": "rnn.rnn"}
"""Where rsl_rl keeps the memory before the dense layers of this prefix."""
RL_GAMES_EPSILON, RL_GAMES_CLIP = 1e-5, 5.0
"""What rl_games adds to the variance of an observation, and where it clips what comes out."""
SKRL_EPSILON, SKRL_CLIP = 1e-8, 5.0
"""What skrl adds to the standard deviation of an observation, and where it clips what comes out."""

SKRL_STATES = "state_preprocessor"
SKRL_SCALERS = ("observation_preprocessor", SKRL_STATES)
"""Where skrl keeps the statistics of observations: from version 2 on in the first, before in the second."""
SKRL_PLAIN = (
    "Its outputs are taken as they are: --squash tanh where its model says 'output: tanh(ACTIONS)' and the bounds are "
    "-1 to 1, or that tanh times the bound; with other bounds it acts by the bare tanh: export it to ONNX."
)
SKRL_UNSURE = (
    "Its observations are normalised with its 'state_preprocessor', as skrl does up to version 1: from 2 on that is "
    "the critic's, so that a policy of that version is to be exported to ONNX."
)
SKRL_UNSEEN = "Its 'state_preprocessor' is of other numbers than the policy reads, and so the critic's: it is not used."
RSL_STATISTICS, RL_GAMES_STATISTICS = "obs_norm_state_dict", "running_mean_std"
"""Where rsl_rl 2 and old versions of rl_games keep them: beside the network, not in it."""

RSL_ELU = "Its activation is not in the file and is taken for ELU, rsl_rl's default: --activation says another."
RSL_SPREAD = (
    "It holds no standard deviation: where it gives two numbers for each of an action, they are mean and log standard "
    "deviation (then --kind gaussian), mean and standard deviation, or alpha and beta of a Beta distribution (then "
    "export the mean to ONNX)."
)

RSL_IDLE = r"^(critic|teacher|memory_[ct]|privileged)\w*\.|_normalizer\.(_var|count)$|^(distribution\.)?(log_)?std"
RL_GAMES_IDLE = (
    r"^(value|reward|amp\w*)_mean_std\.|^running_mean_std\.(count|running_mean|running_var)$"
    r"|^a2c_network\.(value|sigma|critic\w*|_?disc\w*|_enc\w*)(\.|$)"
)
SKRL_IDLE = r"^(value\w*|critic\w*)\.|^log_std"
"""Names of tensors that have no part in the greedy action."""


@dataclass(frozen=True)
class Robot:
    """A policy of one of these libraries."""

    network: nn.Module
    library: str
    kind: Kind
    obs_shape: tuple[int, ...]
    outputs: int
    log_std: int = 0
    """How many of the outputs are a log standard deviation that no state changes."""
    note: str = ""
    """What a user must know of it."""
    statistics: tuple[str, ...] = ()
    """Keys of the checkpoint under which its library keeps statistics of observations."""


def read(checkpoint: Checkpoint, activation: str | None) -> Robot | None:
    """The policy in a checkpoint; None where it is of none of these libraries.

    Raises:
        FileError: the policy is recurrent in an unknown way, its shapes do not chain, or its activation must be told.
    """
    loaded = checkpoint.loaded
    if not isinstance(loaded, dict):
        return None
    for key in ("actor_state_dict", "student_state_dict"):
        if is_state(loaded.get(key)) and _of_rsl_rl(loaded, loaded[key]):
            return _rsl_rl(checkpoint, checkpoint.tensors(loaded[key]), "mlp", "obs_normalizer", activation)
    state = loaded.get("model_state_dict")
    if is_state(state) and _names(state, r"(actor|student)\.\d+\.weight") and _of_rsl_rl(loaded, state):
        state = checkpoint.tensors(loaded["model_state_dict"])
        body = "student" if _names(state, r"student\.\d+\.weight") else "actor"
        state |= _beside(checkpoint, RSL_STATISTICS, f"{body}_obs_normalizer")
        robot = _rsl_rl(checkpoint, state, body, f"{body}_obs_normalizer", activation)
        return replace(robot, statistics=(RSL_STATISTICS,))
    if is_state(loaded.get("model")) and _names(loaded["model"], r"a2c_network\..*"):
        state = _beside(checkpoint, RL_GAMES_STATISTICS, RL_GAMES_STATISTICS) | checkpoint.tensors(loaded["model"])
        return _rl_games(state, checkpoint.label, activation)
    if is_state(loaded.get("policy")) and _names(loaded["policy"], r"\w+_container\.\d+\.weight"):
        return _skrl(checkpoint, loaded, activation)
    if is_state(loaded.get("policy")) and any(is_state(loaded.get(key)) for key in SKRL_SCALERS):
        raise FileError(
            f"{checkpoint.label} is an agent of skrl whose policy is a class of its own: export it to ONNX instead, "
            "behind its preprocessor of observations."
        )
    return None


def _of_rsl_rl(loaded: dict[str, Any], state: Any) -> bool:
    """Whether a checkpoint is rsl_rl's, which counts iterations, rather than one of many that say model_state_dict."""
    return "iter" in loaded or bool(_names(state, r"std|distribution\..+|memory_[as]\..+|\w*obs_normalizer\..+"))


def _names(state: Any, pattern: str) -> list[str]:
    """Bare names of tensors that a pattern fits."""
    return [name for name in map(bare, state) if re.fullmatch(pattern, name)]


def _beside(checkpoint: Checkpoint, key: str, prefix: str) -> dict[str, Tensor]:
    """Tensors of a state dict beside the network's, as if they were in it; none where there is no such."""
    found = checkpoint.loaded.get(key)
    return {f"{prefix}.{name}": one for name, one in checkpoint.tensors(found).items()} if is_state(found) else {}


def _refuse_others(state: Mapping[str, Tensor], label: str, own: str | None = None) -> None:
    """Refuses a memory of the policy that is not where the library has one, and images."""
    known = (f"{own}.", "memory_c.", "memory_t.")  # a critic's and a teacher's do not act
    memory = [name for name in _names(state, r"(.*\.)?(memory_[as]|rnn|lstm|gru)\..*") if not name.startswith(known)]
    if memory:
        raise FileError(
            f"{label} is recurrent ('{memory[0]}') in a layout that is not known: export the policy to ONNX instead, "
            "its state among the inputs and outputs."
        )
    images = _names(state, r"(.*\.)?(actor_cnn|cnns?|conv\w*)\..*")
    if images:
        raise _of_images(label, images[0])


def _of_images(label: str, name: str) -> FileError:
    return FileError(
        f"{label} reads images ('{name}'), whose strides no file holds: export the policy to ONNX instead."
    )


def _rsl_rl(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], body: str, normaliser: str, activation: str | None
) -> Robot:
    """rsl_rl: (o − mean) / (std + 0.01), folded into the first layer unless a memory comes before it."""
    label, state = checkpoint.label, Asked(tensors)
    _refuse_others(state, label, RSL_MEMORIES[body])
    names = numbered(state, body)
    numbers = [int(name.rpartition(".")[2]) for name in names]
    if any(after == before + 1 for before, after in pairwise(numbers)):
        raise FileError(
            f"{label} has dense layers in a row in its {body}, nothing between them, which rsl_rl does not make: "
            "export the policy to ONNX instead."
        )
    layers = [layer(state, name, label, activation or "elu") for name in names]
    if not layers:
        raise FileError(
            f"{label} holds no dense layers '{body}.0.weight' of an actor: export the policy to ONNX instead."
        )
    memory = _rsl_memory(state, RSL_MEMORIES[body], label)
    size, outputs = memory.input_size if memory else layers[0].weight.shape[1], layers[-1].weight.shape[0]
    statistics = None
    if f"{normaliser}._mean" in state:
        statistics = statistics_of(state, normaliser, size, RSL_EPSILON, label)
    name = next(
        (n for n in ("log_std", "std", "distribution.log_std_param", "distribution.std_param") if n in state), None
    )
    if name is not None and state[name].shape == (outputs,):
        noise = vector(state, name, outputs, label)
        layers[-1] = with_constants(layers[-1], noise if "log" in name else noise.abs().clamp_min(1e-6).log())
    noisy = layers[-1].weight.shape[0] > outputs
    state.check_all(label, RSL_IDLE)
    robot = _robot(
        acting(layers, memory, statistics, label), "rsl_rl", "gaussian" if noisy else "mean", outputs if noisy else 0
    )
    notes = [RSL_ELU] * (activation is None and len(layers) > 1) + [RSL_SPREAD] * (not noisy and outputs % 2 == 0)
    return replace(robot, note=" ".join(notes))


def _rsl_memory(state: Mapping[str, Tensor], prefix: str, label: str) -> Memory | None:
    """The memory of a policy; None where it has none."""
    return read_memory(state, prefix, label) if any(name.startswith(f"{prefix}.") for name in state) else None


def _rl_games(tensors: Mapping[str, Tensor], label: str, activation: str | None) -> Robot:
    """rl_games: clip((o − mean) / √(var + 1e-5), ±5), then the network."""
    state = Asked(tensors)
    _refuse_others(state, label)
    if "a2c_network.logits.0.weight" in state:
        raise FileError(f"{label} makes several choices at once, which is not read of rl_games: export it to ONNX.")
    discrete = "a2c_network.logits.weight" in state
    names = [*numbered(state, "a2c_network.actor_mlp"), f"a2c_network.{'logits' if discrete else 'mu'}"]
    layers = [layer(state, name, label, told_activation(activation, label)) for name in names]
    outputs, sigma = layers[-1].weight.shape[0], state.get("a2c_network.sigma")
    noisy = not discrete and sigma is not None and sigma.shape == (outputs,)
    if noisy:
        layers[-1] = with_constants(layers[-1], vector(state, "a2c_network.sigma", outputs, label))
    robot = _robot(
        assemble(layers, label),
        "rl_games",
        "logits" if discrete else "gaussian" if noisy else "mean",
        outputs if noisy else 0,
    )
    note = (
        "rl_games' own player clips actions to −1 to 1 and scales them to the environment's bounds unless clip_actions "
        "is off, and so does this; --squash clip takes them as they are."
    )
    state.check_all(label, RL_GAMES_IDLE)
    note = "" if discrete else note
    robot = _behind(robot, state, f"{RL_GAMES_STATISTICS}.", ("running_mean", "running_var"), label, note)
    return replace(robot, statistics=(RL_GAMES_STATISTICS,))


def _skrl(checkpoint: Checkpoint, loaded: dict[str, Any], activation: str | None) -> Robot:
    """skrl: clip((o − mean) / (√var + 1e-8), ±5), then the network."""
    label, state = checkpoint.label, Asked(checkpoint.tensors(loaded["policy"]))
    _refuse_others(state, label)
    bodies = sorted({name.split(".")[0] for name in _names(state, r"\w+_container\.\d+\.weight")})
    heads = [name for name in ("output_layer", "policy_layer") if f"{name}.weight" in state]
    if len(bodies) != 1 or len(heads) > 1:
        raise FileError(
            f"{label} holds several networks ({', '.join([*bodies, *heads])[:120]}): export the policy to ONNX instead."
        )
    names = [*numbered(state, bodies[0]), *heads]
    layers = [layer(state, name, label, told_activation(activation, label)) for name in names]
    if pictures := [one.name for one in layers if one.weight.ndim != 2]:
        raise _of_images(label, pictures[0])
    outputs = layers[-1].weight.shape[0]
    noisy = "log_std_parameter" in state
    if noisy:
        layers[-1] = with_constants(layers[-1], vector(state, "log_std_parameter", outputs, label))
    state.check_all(label, SKRL_IDLE)
    robot = _robot(assemble(layers, label), "skrl", "gaussian" if noisy else "mean", outputs if noisy else 0)
    key = next((key for key in SKRL_SCALERS if is_state(loaded.get(key))), "")
    statistics = _beside(checkpoint, key, key)
    mean, note = statistics.get(f"{key}.running_mean"), ""
    if key == SKRL_STATES:
        fits = mean is None or mean.shape == robot.obs_shape
        note = SKRL_UNSURE if fits else SKRL_UNSEEN
        statistics = statistics if fits else {}
    note = f"{SKRL_PLAIN} {note}".strip()
    robot = _behind(robot, statistics, f"{key}.", ("running_mean", "running_variance"), label, note)
    return replace(robot, statistics=SKRL_SCALERS)


def _robot(network: Network | Stack | Remembering, library: str, kind: Kind, log_std: int) -> Robot:
    if isinstance(network, Network):
        return Robot(network, library, kind, network.spec.obs_shape, network.spec.outputs, log_std)
    return Robot(network, library, kind, network.obs_shape, network.outputs, log_std)


def _behind(
    robot: Robot, state: Mapping[str, Tensor], prefix: str, names: tuple[str, str], label: str, note: str
) -> Robot:
    """The policy behind its normaliser, where the file has one."""
    network: nn.Module = robot.network
    if f"{prefix}{names[0]}" in state:
        mean, var = (vector(state, prefix + name, robot.obs_shape[0], label) for name in names)
        if (var < 0).any():
            raise FileError(f"Tensor '{prefix}{names[1]}' in {label} is negative: the file is damaged.")
        games = robot.library == "rl_games"
        scale = 1 / ((var + RL_GAMES_EPSILON).sqrt() if games else var.sqrt() + SKRL_EPSILON)
        network = Normalised(network, mean, scale, RL_GAMES_CLIP if games else SKRL_CLIP)
    return replace(robot, network=network, note=note)

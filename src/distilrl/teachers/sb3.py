"""stable-baselines3 zips (DQN, PPO, A2C) and sb3-contrib's QR-DQN, read without either and without unpickling the objects in them.

Such a zip holds ``data`` (JSON, with pickled objects inside as base64 strings that are never decoded here) and
``policy.pth`` (a state dict, read by `torch.load` with ``weights_only=True``, a restricted unpickler that admits tensors).
The network is recognised from the names and shapes of its tensors.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distilrl.checkpoints import digest
from distilrl.errors import FileError
from distilrl.teachers.archive import read_members, read_state_dict
from distilrl.teachers.layers import Layer, Stack, assemble, layer
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Kind, Teacher

State = dict[str, Tensor]


class _Algorithm(NamedTuple):
    name: str
    kind: Kind
    body: str
    """Prefix of the dense layers between features and head; their numbers follow."""
    head: str
    """Name of the head, where it stands outside ``body``."""
    activation: str


def load(file: TeacherFile) -> Teacher:
    """Reads a zip of stable-baselines3 1.x or 2.x with discrete actions and an MLP or a Nature CNN policy.

    Raises:
        FileError: damaged, too large, or of another algorithm or architecture.
    """
    file.check_options("activation")
    path = Path(file.path)
    members = read_members(path, {"data": True, "policy.pth": True, "_stable_baselines3_version": False})
    data = _json(path, members["data"])
    state = read_state_dict(members["policy.pth"], f"{path}: its member 'policy.pth'")
    algorithm = _algorithm(path, data)
    kwargs = data.get("policy_kwargs") or {}
    _refuse_spaces(path, data, state)
    activation = file.activation or _activation(path, kwargs, algorithm.activation)
    layers = _layers(path, state, algorithm, activation)
    if algorithm.name == "QR-DQN":
        layers[-1] = _mean_over_quantiles(path, layers[-1], data.get("n_quantiles"))
    network = assemble(layers, str(path), divisor=1.0 if kwargs.get("normalize_images") is False else 255.0)
    version = members.get("_stable_baselines3_version", b"").decode(errors="replace").strip()[:20] or "of unknown version"
    library = "sb3-contrib" if algorithm.name == "QR-DQN" else "stable-baselines3"
    meta = {
        "library": library,
        "algorithm": algorithm.name,
        "version": version,
        "policy_kwargs": {k: v for k, v in kwargs.items() if not k.startswith(":")},
        "steps": data.get("num_timesteps"),
        "not_executed": sorted(k for k, v in data.items() if isinstance(v, dict) and ":serialized:" in v),
    }
    obs_shape = network.obs_shape if isinstance(network, Stack) else None  # a Network knows its own
    return Teacher(
        network,
        algorithm.kind,
        f"{library} {algorithm.name} {version}",
        str(path),
        digest(path),
        meta,
        obs_shape,
        layers[-1].weight.shape[0],
    )


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data: Any = json.loads(text)
        if (
            isinstance(data, dict)
            and isinstance(data["policy_class"]["__module__"], str)
            and isinstance(data.get("policy_kwargs") or {}, dict)
        ):
            return data
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise FileError(f"{path}: its member 'data' is not the JSON that stable-baselines3 writes.")


def _algorithm(path: Path, data: dict[str, Any]) -> _Algorithm:
    """Which algorithm wrote the file, by the module of its policy class."""
    module = data["policy_class"]["__module__"]
    if module == "stable_baselines3.dqn.policies":
        return _Algorithm("DQN", "q", "q_net.q_net", "", "relu")
    if module == "sb3_contrib.qrdqn.policies":
        return _Algorithm("QR-DQN", "q", "quantile_net.quantile_net", "", "relu")
    if module == "stable_baselines3.common.policies":
        return _Algorithm("PPO" if "clip_range" in data else "A2C", "logits", "mlp_extractor.policy_net", "action_net", "tanh")
    raise FileError(
        f"{path} holds a policy of {module[:80]}: DQN, PPO and A2C of stable-baselines3 and QR-DQN of sb3-contrib can be read; "
        "export others to ONNX."
    )


def _refuse_spaces(path: Path, data: dict[str, Any], state: State) -> None:
    """Only one box of observations and one discrete action can be distilled."""
    actions = str((data.get("action_space") or {}).get(":type:", "Discrete'>"))
    if "log_std" in state or (not actions.endswith(".Discrete'>") and actions != "Discrete'>"):
        raise FileError(f"{path} has actions that are not Discrete: only policies that choose one of several actions can be distilled.")
    if any(".extractors." in name for name in state):
        raise FileError(f"{path} reads a dict of observations: only one vector or one picture can be distilled.")


def _activation(path: Path, kwargs: dict[str, Any], default: str) -> str:
    """The activation's name as policy_kwargs prints it; the pickled class beside it is not looked at."""
    extractor = str(kwargs.get("features_extractor_class", "FlattenExtractor'>"))
    if not re.search(r"(FlattenExtractor|NatureCNN)'>$", extractor):
        raise FileError(f"{path}: its features extractor {extractor[:80]} is code of its own: export the policy to ONNX instead.")
    if "activation_fn" not in kwargs:
        return default
    known = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(ReLU|Tanh|ELU)'>", str(kwargs["activation_fn"]))
    if known:
        return known[1].lower()
    raise FileError(f"{path} names its activation only in a pickled object, which is not executed: say which with --activation.")


def _layers(path: Path, state: State, algorithm: _Algorithm, activation: str) -> list[Layer]:
    """Convolutions and features of the Nature CNN if there is one, then the dense layers and the head."""
    label = str(path)
    network = algorithm.body.split(".")[0]
    prefixes = (f"{network}.features_extractor", "pi_features_extractor", "features_extractor")
    prefix = next((p for p in prefixes if any(name.startswith(f"{p}.") for name in state)), None)
    cnn = [f"{prefix}.cnn.{i}" for i in (0, 2, 4)] + [f"{prefix}.linear.0"] if prefix else []
    body = re.escape(algorithm.body)
    numbers = sorted(int(m[1]) for name in state if (m := re.fullmatch(rf"{body}\.(\d{{1,4}})\.weight", name)))
    dense = [f"{algorithm.body}.{n}" for n in numbers] + ([algorithm.head] if algorithm.head else [])
    if numbers != list(range(0, 2 * len(numbers), 2)) or not dense:
        raise FileError(f"{path}: its network is neither the MLP nor the Nature CNN that stable-baselines3 builds.")
    layers = [layer(state, name, label, "relu") for name in cnn]
    return layers + [layer(state, name, label, activation) for name in dense]


def _mean_over_quantiles(path: Path, head: Layer, n_quantiles: Any) -> Layer:
    """A head of A outputs, each the mean of an action's quantiles: exactly linear, so it is one matrix."""
    outputs = head.weight.shape[0]
    if not isinstance(n_quantiles, int) or n_quantiles < 1 or outputs % n_quantiles:
        raise FileError(
            f"{path}: its 'n_quantiles' ({n_quantiles}) does not divide the {outputs} outputs of its head: the file is damaged."
        )
    weight = head.weight.view(n_quantiles, -1, head.weight.shape[1]).mean(0)
    return Layer(head.name, weight, torch.mean(head.bias.view(n_quantiles, -1), 0), head.activation)

"""stable-baselines3 DQN zips, read without stable-baselines3 and without unpickling the objects in them.

Such a zip holds ``data`` (JSON, with pickled objects inside as base64 strings that are never decoded here) and
``policy.pth`` (a state dict, read by `torch.load` with ``weights_only=True``, a restricted unpickler that admits tensors).
The network is recognised from the names and shapes of its tensors.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distilrl.checkpoints import digest, load_weights
from distilrl.errors import FileError
from distilrl.networks import NATURE_KERNELS, Network, NetworkSpec
from distilrl.teachers.teacher import Teacher

MAX_MEMBER_BYTES = 1 << 30
NATURE_STRIDES = tuple(stride for _, stride in NATURE_KERNELS)


def load(path: Path) -> Teacher:
    """Reads a DQN zip of stable-baselines3 1.x or 2.x with an MLP or a Nature CNN policy.

    Raises:
        FileError: damaged, too large, or of another algorithm or architecture.
    """
    members = _read_members(path)
    try:
        data = json.loads(members["data"])
        policy = data["policy_class"]["__module__"]
        kwargs = data.get("policy_kwargs") or {}
    except (ValueError, KeyError, TypeError):
        raise FileError(f"{path}: its member 'data' is not the JSON that stable-baselines3 writes.") from None
    if policy != "stable_baselines3.dqn.policies":
        raise FileError(f"{path} holds a policy of {policy}: only DQN policies of stable-baselines3 can be read.")
    if "activation_fn" in kwargs or "features_extractor_class" in kwargs:
        raise FileError(
            f"{path}: its policy_kwargs set an activation or a features extractor as a pickled class, which is not executed: "
            "only stable-baselines3's default MLP and Nature CNN can be read."
        )
    tensors = {
        name.removeprefix("q_net."): tensor
        for name, tensor in _state_dict(path, members["policy.pth"]).items()
        if name.startswith("q_net.")
    }
    network = _mlp(path, tensors) if "q_net.0.weight" in tensors and not _convolutional(tensors) else _cnn(path, tensors)
    if network.spec.convs and kwargs.get("normalize_images") is not False:
        network.standardise(torch.zeros(1), torch.full((1,), 1 / 255))
    version = members.get("_stable_baselines3_version", b"").decode(errors="replace").strip() or "of unknown version"
    return Teacher(network, "q", f"stable-baselines3 DQN {version}", str(path), digest(path), {"policy_kwargs": str(kwargs)})


def _read_members(path: Path) -> dict[str, bytes]:
    """The three members that matter, size-checked before they are unpacked; no other name in the archive is touched."""
    wanted = {"data": True, "policy.pth": True, "_stable_baselines3_version": False}
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for name, required in wanted.items():
                if name not in names:
                    if required:
                        raise FileError(f"{path} has no member '{name}': it is not a zip saved by stable-baselines3.")
                    continue
                size = archive.getinfo(name).file_size
                if size > MAX_MEMBER_BYTES:
                    raise FileError(f"{path}: its member '{name}' unpacks to {size} bytes, more than a policy can need.")
                with archive.open(name) as file:
                    members[name] = file.read(MAX_MEMBER_BYTES)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileError(f"{path} is not a readable zip ({error}): it may be truncated, copy it again.") from None
    return members


def _state_dict(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file may make the reader raise anything; all of it means one thing
        reason = str(error).strip().split("\n")[0]
        raise FileError(f"{path}: its member 'policy.pth' is not a plain state dict ({reason}): save the policy again.") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FileError(f"{path}: its member 'policy.pth' is not a state dict of tensors: save the policy again.")
    return state


def _convolutional(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith("features_extractor.cnn.") for name in tensors)


def _mlp(path: Path, tensors: dict[str, Tensor]) -> Network:
    """Linear layers q_net.0, q_net.2, ... with ReLU between them."""
    indices = sorted(int(m[1]) for name in tensors if (m := re.fullmatch(r"q_net\.(\d+)\.weight", name)))
    weights = [tensors[f"q_net.{i}.weight"] for i in indices]
    if indices != list(range(0, 2 * len(indices), 2)) or any(w.ndim != 2 for w in weights):
        raise FileError(f"{path}: its q_net is not the plain MLP that stable-baselines3 builds.")
    spec = NetworkSpec((weights[0].shape[1],), weights[-1].shape[0], hidden=tuple(w.shape[0] for w in weights[:-1]))
    network = Network(spec)
    load_weights(network, {name.replace("q_net.", "layers."): tensor for name, tensor in tensors.items()}, path)
    return network


def _cnn(path: Path, tensors: dict[str, Tensor]) -> Network:
    """The Nature CNN: three convolutions, one dense layer, then the layers of net_arch."""
    convs = [tensors.get(f"features_extractor.cnn.{i}.weight") for i in (0, 2, 4)]
    dense = tensors.get("features_extractor.linear.0.weight")
    if dense is None or any(c is None for c in convs):
        raise FileError(f"{path}: its q_net is neither an MLP nor the Nature CNN of stable-baselines3.")
    weights = [c for c in convs if c is not None]
    if any(w.ndim != 4 or w.shape[2] != k for w, (k, _) in zip(weights, NATURE_KERNELS, strict=True)):
        raise FileError(f"{path}: its convolutions do not have the Nature CNN's kernels 8, 4 and 3.")
    heads = sorted(int(m[1]) for name in tensors if (m := re.fullmatch(r"q_net\.(\d+)\.weight", name)))
    head = [tensors[f"q_net.{i}.weight"] for i in heads]
    spec = NetworkSpec(
        obs_shape=(weights[0].shape[1], 84, 84),
        n_actions=head[-1].shape[0],
        convs=tuple((w.shape[0], w.shape[2], s) for w, s in zip(weights, NATURE_STRIDES, strict=True)),
        hidden=(dense.shape[0], *(w.shape[0] for w in head[:-1])),
    )
    network = Network(spec)
    ours = [name.removesuffix(".weight") for name in network.state_dict() if name.endswith(".weight")]
    theirs = [f"features_extractor.cnn.{i}" for i in (0, 2, 4)] + ["features_extractor.linear.0"] + [f"q_net.{i}" for i in heads]
    renamed = {
        f"{mine}.{part}": tensors[f"{other}.{part}"]
        for mine, other in zip(ours, theirs, strict=True)
        for part in ("weight", "bias")
        if f"{other}.{part}" in tensors
    }
    load_weights(network, renamed, path)
    return network

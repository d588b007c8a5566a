"""The one file that reads or writes weights: safetensors and JSON, never pickle."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.errors import FileError, NotFiniteError, SpecError
from distilrl.files import check_regular, digest, read_json, write_bytes, write_json
from distilrl.heads import Head, head_from_json
from distilrl.limits import MAX_BYTES, MAX_NAME, MAX_SPEC_BYTES, MAX_TENSORS
from distilrl.networks import Network, blank
from distilrl.plain import parse_json
from distilrl.specs import NetworkSpec
from distilrl.text import first_line

FORMAT = "distilrl-network"
UNSEALED = "0" * 64
"""What stands in a file's own digest while it is computed."""
ARRAY = "array"
"""Key of what stands in a state's JSON for an array."""


@dataclass(frozen=True)
class Stored:
    """A network read from a folder."""

    network: Network
    head: Head
    """What its numbers mean."""
    digest: str
    """SHA-256 of the weights file."""
    meta: dict[str, Any]
    """The rest of spec.json: environment, protocol, where it came from."""


def save_network(folder: str | Path, network: Network, head: Head, *, name: str = "student", **meta: Any) -> str:
    """Writes ``folder/NAME.safetensors`` and ``folder/spec.json``; a standardisation is folded into the copy written.

    Returns:
        SHA-256 of the weights file.

    Raises:
        NotFiniteError: a weight is NaN or infinite; nothing is written then.

    Example::

        save_network("mine", network, Categorical(Choices((2,))), name="teacher")  # which load_teacher("mine") reads
    """
    folder = Path(folder)
    shipped = copy.deepcopy(network).cpu()
    shipped.fold()
    for key, tensor in shipped.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NotFiniteError(
                f"The tensor '{key}' of the network for {folder} holds NaN or infinite numbers, so it is not saved: "
                "its training has "
                "diverged, lower the learning rate."
            )
    weights = safetensors.torch.save({k: v.contiguous() for k, v in shipped.state_dict().items()})
    sha256 = hashlib.sha256(weights).hexdigest()
    spec = {
        "format": FORMAT,
        "version": 1,
        "weights": f"{name}.safetensors",
        "sha256": sha256,
        "head": head.to_json(),
        "network": shipped.spec.to_json(),
        **meta,
    }
    write_bytes(folder / f"{name}.safetensors", weights)
    write_json(folder / "spec.json", spec)
    return sha256


def load_network(folder: str | Path) -> Stored:
    """Reads what `save_network` wrote.

    Raises:
        FileError: a file is missing, damaged, or does not fit the other.

    Example::

        stored = load_network("runs/cheetah/student")
        stored.network, stored.head
    """
    folder = Path(folder)
    path = folder / "spec.json"
    data = read_json(path, MAX_SPEC_BYTES)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FileError(f"{path} is not a spec of a distilrl network: its field 'format' must be '{FORMAT}'.")
    name = Path(str(data.get("weights", ""))[:MAX_NAME]).name  # a name only, so that no path in the file is followed
    weights = folder / name
    if not weights.is_file():
        raise FileError(f"{weights}, named in {path}, does not exist: restore it.")
    if weights.stat().st_size > MAX_BYTES + MAX_SPEC_BYTES:  # of numbers, and of what the file says of them
        raise FileError(f"{weights} is larger than a policy can be: its weights have at most {MAX_BYTES:,} bytes.")
    if digest(weights) != data.get("sha256"):
        under_way = (folder.parent / "checkpoint").is_dir() and not (folder.parent / "results.json").is_file()
        way = (
            "it was being written, continue its run with --resume"
            if under_way
            else "the file is damaged, copy it again"
        )
        raise FileError(f"{weights} does not have the digest that {path} names: {way}.")
    try:
        spec = NetworkSpec.from_json(data.get("network"), f"network of {path}")
        head = head_from_json(data.get("head"), f"head of {path}")
    except SpecError as error:
        raise FileError(f"{path} is damaged ({str(error).rstrip('.')}): copy it again.") from None
    tensors = read_tensors(weights, MAX_TENSORS)[0]
    held = sum(one.numel() for one in tensors.values())
    if spec.params > held:  # before anything of that size is made
        raise FileError(
            f"{weights} holds {held:,} numbers, but {spec.describe()}, which {path} names, has {spec.params:,}: the "
            "file and its spec do not belong together."
        )
    network = blank(spec)
    load_weights(network, tensors, weights, describes=spec.describe())
    if head.width != network.spec.outputs:
        raise FileError(
            f"{path} has a head of {head.width} numbers, but its network gives {network.spec.outputs}: the file is "
            "damaged."
        )
    known = {"format", "version", "weights", "sha256", "head", "network"}
    return Stored(network, head, data["sha256"], {k: v for k, v in data.items() if k not in known})


def load_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], path: Path | str, *, describes: str = "its spec"
) -> None:
    """Copies tensors into a network after checking names, shapes, and that every number is finite.

    Args:
        network: where they go.
        tensors: by the network's own names.
        path: what to call the file in an error.
        describes: what to call the network in an error.

    Raises:
        FileError: one does not fit; the message names the tensor.
    """
    wanted = network.state_dict()
    for name, target in wanted.items():
        if name not in tensors:
            raise FileError(f"{path} lacks the tensor '{name}': it was not written for {describes}.")
        if tensors[name].shape != target.shape:
            raise FileError(
                f"Tensor '{name}' in {path} has shape {tuple(tensors[name].shape)}, but {describes} needs "
                f"{tuple(target.shape)}: the file and its spec do not belong together."
            )
        if not torch.isfinite(tensors[name].float()).all():
            raise FileError(
                f"Tensor '{name}' in {path} holds NaN or infinite numbers: the file is damaged, use another."
            )
    network.load_state_dict({name: tensors[name].float() for name in wanted})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes tensors and a state, of JSON and arrays, as one safetensors file, in one step; the file holds its own
    digest.
    """
    # as arrays: of tensors, safetensors keeps a type for each size that it ever saw, and what is recorded grows
    copies = {k: v.detach().cpu().numpy().copy() for k, v in tensors.items()}
    plain = _apart(dict(state), copies)
    text = json.dumps({"sha256": UNSEALED} | plain)  # first in the file, before any text of somebody else's
    data = safetensors.numpy.save(copies, metadata={"state": text})
    write_bytes(path, data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode(), 1))


def read_tensors(path: Path, most: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a safetensors file: its tensors, ``most`` at most, and the state that `save_tensors` put beside them.

    Raises:
        FileError: missing, truncated or of another format.
    """
    try:
        check_regular(path)
        with safetensors.safe_open(str(path), framework="pt") as file:
            if most is not None and len(file.keys()) > most:
                raise ValueError(f"it holds {len(file.keys())} tensors, more than a policy can need")
            # copies: a file that stays mapped cannot be replaced on Windows
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
            state = parse_json((file.metadata() or {}).get("state", "{}"))
        if not isinstance(state, dict):
            raise ValueError("its state is no object")
        _check_seal(path, state.pop("sha256", None))
        state = _together(state, tensors)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist: check the path.") from None
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a readable safetensors file ({first_line(error)}): copy it again.") from None
    return tensors, state


def _apart(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """The JSON of a state, whose arrays go among those of the file: as text, images would be longer than is read."""
    if isinstance(value, np.ndarray):
        name = f"{ARRAY}.{len(arrays)}"
        arrays[name] = value
        return {ARRAY: name}
    if isinstance(value, dict):
        return {key: _apart(one, arrays) for key, one in value.items()}
    return [_apart(one, arrays) for one in value] if isinstance(value, list | tuple) else value


def _together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that `_apart` took apart; its arrays are no longer among the tensors.

    Raises:
        ValueError: one is missing.
    """
    if isinstance(value, dict) and value.keys() == {ARRAY}:
        if (array := tensors.pop(str(value[ARRAY]), None)) is None:
            raise ValueError("an array of its state is missing")
        try:
            return array.numpy()
        except TypeError:
            raise ValueError(f"an array of its state is of {array.dtype}") from None
    if isinstance(value, dict):
        return {key: _together(one, tensors) for key, one in value.items()}
    return [_together(one, tensors) for one in value] if isinstance(value, list) else value


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by what follows."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_seal(path: Path, seal: object) -> None:
    """Holds a file against the digest that it holds of itself; those of before have none."""
    if not isinstance(seal, str):
        return
    data = path.read_bytes()
    if hashlib.sha256(data.replace(seal.encode(), UNSEALED.encode(), 1)).hexdigest() != seal:
        raise ValueError("it is not what was written, by its own digest")

"""The one file that reads or writes weights: safetensors and JSON, written whole or not at all, never pickle."""

import copy
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor, nn

from distilrl.errors import FileError, NotFiniteError
from distilrl.heads import Head, head_from_json
from distilrl.limits import MAX_JSON_BYTES, MAX_NAME, MAX_SPEC_BYTES
from distilrl.networks import Network, blank
from distilrl.plain import parse_json
from distilrl.specs import NetworkSpec
from distilrl.text import first_line

FORMAT = "distilrl-network"
UNSEALED = "0" * 64
"""What stands in a file's own digest while it is computed."""


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


def write_bytes(path: Path, data: bytes, *, new: bool = False) -> None:
    """Replaces ``path`` by ``data`` in one step: a reader sees the old file or the new one, also after a crash.

    The one way in which files are written. The data goes to a new file of a name that nobody can foresee, so that no
    link which somebody put there beforehand is followed.

    Args:
        path: the file.
        data: what it shall hold.
        new: replace nothing.

    Raises:
        FileError: the folder cannot be written, or ``path`` is a symbolic link.
        FileExistsError: it is to be new and is there.
    """
    taken = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and not new:
            raise FileError(
                f"{path} is a symbolic link, which writing would replace: remove it, or write to where it leads."
            )
        temporary = _write_beside(path, data)
        try:
            _claim(temporary, path) if new else os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            taken = new and isinstance(error, FileExistsError)
            raise
    except OSError as error:
        if taken:
            raise
        raise FileError(
            f"Cannot write {path} ({error.strerror or error}): choose a writable folder with enough space."
        ) from None


def _write_beside(path: Path, data: bytes) -> Path:
    """A new file beside ``path`` that holds the data, on the disk; none where that fails."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink()
            raise
    return temporary


def _claim(temporary: Path, path: Path) -> None:
    """Moves a file to where nothing is yet; FileExistsError where something is, also if it came at this very moment."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links: there, a crash at this moment leaves an empty file
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)


def write_json(path: Path, data: object) -> None:
    """Writes indented JSON in one step.

    Raises:
        FileError: it cannot be written, or a number in it is NaN or infinite, which JSON does not have.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False)
    except ValueError as error:
        raise FileError(
            f"{path} is not written, because a number in it is NaN or infinite ({error}): look for what gave it."
        ) from None
    write_bytes(path, (text + "\n").encode())


def write_new_json(path: Path, data: object) -> bool:
    """Writes indented JSON in one step where nothing is yet; of several that try at once, one is told True."""
    try:
        write_bytes(path, (json.dumps(data, indent=2) + "\n").encode(), new=True)
    except FileExistsError:
        return False
    return True


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: it is missing, is not JSON, or is larger than any that there is.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise FileError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes: restore or remove it.")
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path} does not exist: check the path.") from None
    except IsADirectoryError:
        raise FileError(f"{path} is a folder: name the file in it that is meant.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read as JSON ({first_line(error)}): restore or remove it.") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_network(folder: str | Path, network: Network, head: Head, *, name: str = "student", **meta: Any) -> None:
    """Writes ``folder/NAME.safetensors`` and ``folder/spec.json``; a standardisation is folded into the copy written.

    Raises:
        NotFiniteError: a weight is NaN or infinite; nothing is written then.
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
    spec = {
        "format": FORMAT,
        "version": 1,
        "weights": f"{name}.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "head": head.to_json(),
        "network": shipped.spec.to_json(),
        **meta,
    }
    write_bytes(folder / f"{name}.safetensors", weights)
    write_json(folder / "spec.json", spec)


def load_network(folder: str | Path) -> Stored:
    """Reads what `save_network` wrote.

    Raises:
        FileError: a file is missing, damaged, or does not fit the other.
    """
    folder = Path(folder)
    path = folder / "spec.json"
    if path.is_file() and path.stat().st_size > MAX_SPEC_BYTES:
        raise FileError(f"{path} is larger than {MAX_SPEC_BYTES} bytes: it is no spec of a network.")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FileError(f"{path} is not a spec of a distilrl network: its field 'format' must be '{FORMAT}'.")
    name = Path(str(data.get("weights", ""))[:MAX_NAME]).name  # a name only, so that no path in the file is followed
    weights = folder / name
    if not weights.is_file():
        raise FileError(f"{weights}, named in {path}, does not exist: restore it.")
    if digest(weights) != data.get("sha256"):
        raise FileError(f"{weights} does not have the digest that {path} names: the file is damaged, copy it again.")
    spec, tensors = NetworkSpec.from_json(data.get("network"), f"network of {path}"), read_tensors(weights)[0]
    held = sum(one.numel() for one in tensors.values())
    if spec.params > held:  # before anything of that size is made
        raise FileError(
            f"{weights} holds {held:,} numbers, but {spec.describe()}, which {path} names, has {spec.params:,}: the "
            "file and its spec do not belong together."
        )
    network = blank(spec)
    load_weights(network, tensors, weights, describes=spec.describe())
    head = head_from_json(data.get("head"), f"head of {path}")
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
    """Writes tensors and a JSON-able state as one safetensors file, in one step; the file holds its own digest."""
    # as arrays: of tensors, safetensors keeps a type for each size that it ever saw, and what is recorded grows
    copies = {k: v.detach().cpu().numpy().copy() for k, v in tensors.items()}
    text = json.dumps({"sha256": UNSEALED} | dict(state))  # first in the file, before any text of somebody else's
    data = safetensors.numpy.save(copies, metadata={"state": text})
    write_bytes(path, data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode(), 1))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a safetensors file: its tensors and the state that `save_tensors` put beside them.

    Raises:
        FileError: missing, truncated or of another format.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            state = parse_json((file.metadata() or {}).get("state", "{}"))
        if not isinstance(state, dict):
            raise ValueError("its state is no object")
        _check_seal(path, state.pop("sha256", None))
    except FileNotFoundError:
        raise FileError(f"{path} does not exist: check the path.") from None
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a readable safetensors file ({first_line(error)}): copy it again.") from None
    return tensors, state


def _check_seal(path: Path, seal: object) -> None:
    """Holds a file against the digest that it holds of itself; those of before have none."""
    if not isinstance(seal, str):
        return
    data = path.read_bytes()
    if hashlib.sha256(data.replace(seal.encode(), UNSEALED.encode(), 1)).hexdigest() != seal:
        raise ValueError("it is not what was written, by its own digest")

"""Reading foreign archives and state dicts: sizes are checked before anything is unpacked, and nothing in them is executed."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distilrl.errors import FileError

MAX_BYTES = 1 << 30
"""No policy of this project's users is larger; what is declared to be is refused before it is read."""
MAX_PICKLE_BYTES = 16 << 20
TENSOR_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool)


def read_members(path: Path, wanted: dict[str, bool]) -> dict[str, bytes]:
    """Some members of a zip, by exact name; no other name in the archive is touched.

    Args:
        path: the zip.
        wanted: name to whether it must be there.

    Raises:
        FileError: damaged, a member is missing, or unpacks to more than a policy can need.
    """
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
                if size > MAX_BYTES:
                    raise FileError(f"{path}: its member '{name}' unpacks to {size} bytes, more than a policy can need.")
                with archive.open(name) as file:
                    members[name] = file.read(MAX_BYTES)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FileError(f"{path} is not a readable zip ({first_line(error)}): it may be truncated, copy it again.") from None
    return members


def is_torch_file(data: bytes) -> bool:
    """Whether bytes are a zip as `torch.save` writes it (rather than any other zip)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return False


def read_state_dict(data: bytes, label: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, read by the unpickler that admits tensors and plain data only.

    A state dict inside a dict of other things (``model_weights``, ``state_dict``, ``model``) is found.

    Args:
        data: the file.
        label: what to call it in an error.

    Raises:
        FileError: not such a file, code in it, or a tensor that is no plain array of numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        raise FileError(
            f"{label} is not a file of PyTorch 1.6 or newer: load it where it was made and save its state_dict again."
        ) from None
    if any(m.filename.endswith("constants.pkl") or "/code/" in m.filename for m in members):
        raise FileError(f"{label} is TorchScript, which is code and is not executed: export the policy to ONNX instead.")
    if sum(m.file_size for m in members) > MAX_BYTES or any(
        m.filename.endswith(".pkl") and m.file_size > MAX_PICKLE_BYTES for m in members
    ):
        raise FileError(f"{label} unpacks to more than a policy can need: save the network's state_dict alone.")
    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file may make the reader raise anything; all of it means one thing
        reason = _code_in(data) or first_line(error)
        raise FileError(f"{label} is not a plain state dict ({reason}): save the network's state_dict alone.") from None
    return checked(_find(loaded, label), label)


def checked(state: dict[str, Tensor], label: str) -> dict[str, Tensor]:
    """The same tensors, after checking that each is a plain array that its storage really holds.

    Raises:
        FileError: names the tensor.
    """
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.dtype not in TENSOR_DTYPES:
            raise FileError(f"Tensor '{name}' in {label} is no plain array of numbers: save dense float weights.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise FileError(f"Tensor '{name}' in {label} claims shape {tuple(tensor.shape)}, more than the file holds: it is damaged.")
    return state


def _code_in(data: bytes) -> str:
    """What a pickle would have had to execute, by name; found without executing it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except Exception:  # a damaged file: the reader's own words will do
        return ""
    return f"it would execute {', '.join(sorted(names))[:160]}" if names else ""


def _find(loaded: Any, label: str) -> dict[str, Tensor]:
    """The state dict in what was loaded."""
    candidates = [loaded]
    if isinstance(loaded, dict):
        candidates += [loaded.get(key) for key in ("model_weights", "state_dict", "model_state_dict", "model", "q_network", "agent")]
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(isinstance(k, str) for k in candidate):
            tensors = {k: v for k, v in candidate.items() if isinstance(v, Tensor)}
            if len(tensors) == len(candidate):
                return tensors
    raise FileError(f"{label} is not a state dict of tensors: save the network's state_dict alone.")


def first_line(error: Exception) -> str:
    """The first line of an error, short enough to stand inside a sentence."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200].rstrip(".: ")

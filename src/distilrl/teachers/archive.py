"""Foreign archives and state dicts: sizes are checked before anything is unpacked, nothing in them is executed."""

import functools
import io
import lzma
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from distilrl.errors import FileError
from distilrl.limits import (
    MAX_BYTES,
    MAX_CODE_BYTES,
    MAX_DIRECTORY_BYTES,
    MAX_MEMBERS,
    MAX_PICKLE_BYTES,
    MAX_TENSORS,
)
from distilrl.teachers import pickles
from distilrl.text import first_line

TENSOR_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.int8,
    torch.bool,
)
ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    zlib.error,
    lzma.LZMAError,
    MemoryError,
)
"""What a damaged zip may make its reader raise."""
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
"""First bytes of a file that PyTorch wrote before 1.6."""
STATE_KEYS = (
    "model_weights", "state_dict", "model_state_dict", "model_state", "model", "policy_state_dict", "policy",
    "actor_state_dict", "actor", "agent_state_dict", "agent", "q_network", "policy_net", "network",
)  # fmt: skip
"""Where a state dict lies inside a dict of other things."""


@contextmanager
def opened(source: Path | bytes) -> Iterator[zipfile.ZipFile]:
    """A zip whose list of members is no longer than that of a policy.

    Raises:
        ZIP_ERRORS: it is none, or its list is longer.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        listed = _Listed(file)
        with zipfile.ZipFile(cast(IO[bytes], listed)) as archive:
            listed.most = MAX_BYTES
            yield archive


class _Listed:
    """A file of which no more than a zip's list of members is read at once; opening a zip reads that in one piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.most = file, MAX_DIRECTORY_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= self.most else self.most + 1)
        if len(data) > self.most:
            raise zipfile.BadZipFile("it has more members than a policy can need")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


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
        with opened(path) as archive:
            names = set(archive.namelist())
            for name, required in wanted.items():
                if name not in names:
                    if required:
                        raise FileError(f"{path} has no member '{name}': it is not a zip saved by stable-baselines3.")
                    continue
                size = archive.getinfo(name).file_size
                if size > MAX_BYTES:
                    raise FileError(
                        f"{path}: its member '{name}' unpacks to {size} bytes, more than a policy can need."
                    )
                members[name] = _read(archive, name, size)
    except ZIP_ERRORS as error:
        raise FileError(
            f"{path} is not a readable zip ({first_line(error)}): it may be truncated, copy it again."
        ) from None
    return members


def _read(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """One member, of exactly this size."""
    with archive.open(name) as file:
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"its member '{name[:80]}' has another size than it says")
    return data


def check_whole(path: Path) -> None:
    """Refuses a zip in front of whose first member something stands: what is left of one that was cut off within a
    member that is a zip itself, and would be read for that member.

    Raises:
        FileError: it is such a file.
    """
    try:
        with opened(path) as archive:
            first = min((one.header_offset for one in archive.infolist()), default=0)
    except ZIP_ERRORS:
        return  # whoever reads it says what is wrong
    if first > 0:
        raise FileError(f"{path} is not a whole zip: it may be truncated, copy it again.")


def holds(path: Path, name: str) -> bool:
    """Whether a zip has a member of this name, in any folder: ``data.pkl`` where `torch.save` wrote it."""
    try:
        with opened(path) as archive:
            return any(member == name or member.endswith(f"/{name}") for member in archive.namelist())
    except ZIP_ERRORS:
        return False


@dataclass
class Checkpoint:
    """What a torch file holds: plain data, and tensors whose numbers are read when they are asked for."""

    loaded: Any
    """Dicts, lists, tuples, texts and numbers; stand-ins for tensors, modules and whatever else is of no interest."""
    label: str
    """What to call the file in an error."""
    raw: Callable[[pickles.Storage], bytes]
    """Bytes of a storage."""
    code: Callable[[str], str] = lambda _: ""
    """TorchScript's text of the module of a class, which is never executed; empty where there is none."""
    read: dict[str, Tensor] = field(default_factory=dict)
    """Storages that were read already."""
    left: int = MAX_BYTES
    """Bytes that tensors may still take."""
    script: bool = False
    """Whether it is TorchScript: modules with their attributes."""

    def tensors(self, found: Any) -> dict[str, Tensor]:
        """The tensors of a dict that holds nothing else, by their bare names.

        Raises:
            FileError: it is something else, or a tensor is damaged.
        """
        if not is_state(found):
            raise FileError(f"{self.label} is not a state dict of tensors: save the network's state_dict alone.")
        if len(found) > MAX_TENSORS:
            raise FileError(
                f"{self.label} holds {len(found)} tensors, more than a policy can need: save the network's "
                "state_dict alone."
            )
        return checked({bare(name): self._tensor(name, value) for name, value in found.items()}, self.label)

    def _tensor(self, name: str, value: Any) -> Tensor:
        """A tensor of numbers that are in the file."""
        while isinstance(value, pickles.ParameterOf) and value.args:
            value = value.args[0]
        storage, offset, size, stride = (
            value.args[:4] if isinstance(value, pickles.TensorOf) and len(value.args) >= 4 else (None,) * 4
        )
        if (
            not isinstance(storage, pickles.Storage)
            or not all(_sizes(part) for part in ((offset,), size, stride))
            or len(size) != len(stride)
        ):
            raise FileError(f"Tensor '{name}' in {self.label} is no plain array of numbers: save dense float weights.")
        count = math.prod(size)
        if count > storage.numel or (
            count and offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= storage.numel
        ):
            raise FileError(
                f"Tensor '{name}' in {self.label} claims shape {tuple(size)}, more than the file holds: it is damaged."
            )
        self.left -= 4 * count + (0 if storage.key in self.read else storage.numel * storage.dtype.itemsize)
        if self.left < 0:
            raise FileError(
                f"{self.label} unpacks to more than a policy can need: save the network's state_dict alone."
            )
        if storage.key not in self.read:
            data = self.raw(storage)
            if len(data) != storage.numel * storage.dtype.itemsize:
                raise FileError(f"Tensor '{name}' in {self.label} has more numbers than the file holds: it is damaged.")
            self.read[storage.key] = (
                torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
        return self.read[storage.key].as_strided(size, stride, offset).contiguous()


def _sizes(values: Any) -> bool:
    """Whether these are a few whole numbers as a tensor's shape has them."""
    return isinstance(values, tuple) and len(values) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in values)


def bare(name: str) -> str:
    """A tensor's name without the prefixes of compiled and parallel models."""
    return re.sub(r"^(?:_orig_mod\.|module\.)+", "", name)


def is_state(found: Any) -> bool:
    """Whether this is a dict of tensors by name, and not empty."""
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, pickles.TensorOf | pickles.ParameterOf) for k, v in found.items())
    )


def read_checkpoint(data: bytes, label: str) -> Checkpoint:
    """What a file holds that `torch.save` wrote, also before PyTorch 1.6.

    Args:
        data: the file.
        label: what to call it in an error.

    Raises:
        FileError: not such a file, or code in it.
    """
    try:
        return _legacy(data, label) if data.startswith(LEGACY) else _zipped(data, label)
    except FileError:
        raise
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{label} is not a plain state dict ({first_line(error)}): save the network's state_dict alone."
        ) from None
    except (
        Exception
    ) as error:  # a hostile or damaged file may make the reader raise anything; all of it means one thing
        raise FileError(
            f"{label} is not a readable file of PyTorch ({first_line(error)}): save the network's state_dict again."
        ) from None


def _zipped(data: bytes, label: str) -> Checkpoint:
    """A zip: data.pkl with the structure, a member for each storage."""
    with opened(data) as archive:
        members = {m.filename: m for m in archive.infolist()}
        if len(members) > MAX_MEMBERS or sum(m.file_size for m in members.values()) > MAX_BYTES:
            raise FileError(f"{label} unpacks to more than a policy can need: save the network's state_dict alone.")
        script = any(name.endswith("constants.pkl") or "/code/" in name for name in members)
        name = next((name for name in members if name.endswith("/data.pkl") or name == "data.pkl"), "")
        if not name and any(name.endswith("/archive_format") for name in members):
            raise FileError(
                f"{label} is a program of torch.export, which is not read: export the policy to ONNX or save its "
                "state_dict; distilrl verify plays one of our own."
            )
        if not name:
            raise FileError(
                f"{label} is not a file of PyTorch: load it where it was made and save its state_dict again."
            )
        prefix = name.removesuffix("data.pkl")
        if members[name].file_size > MAX_PICKLE_BYTES:
            raise FileError(f"{label} unpacks to more than a policy can need: save the network's state_dict alone.")
        if (
            f"{prefix}byteorder" in members
            and _read(archive, f"{prefix}byteorder", members[f"{prefix}byteorder"].file_size) != b"little"
        ):
            raise FileError(f"{label} was written on a machine of another byte order: save it again on this one.")
        pickled = io.BytesIO(_read(archive, name, members[name].file_size))
        try:
            reader = pickles.load(pickled, pickles.SCRIPT if script else pickles.TORCH)
        except pickle.UnpicklingError:
            if script:
                raise unknown_script(label) from None
            raise

    again = zipfile.ZipFile(io.BytesIO(data))  # once for all storages: its list, which may be long, was read above

    def member(name: str, size: int) -> bytes:
        try:
            return _read(again, name, size) if name in members else b""
        except ZIP_ERRORS as error:
            raise FileError(
                f"{label} is not readable ({first_line(error)}): it may be truncated, copy it again."
            ) from None

    def raw(storage: pickles.Storage) -> bytes:
        return member(f"{prefix}data/{storage.key}", storage.numel * storage.dtype.itemsize)

    @functools.cache
    def text(name: str) -> str:
        size = members[name].file_size if name in members else 0
        return member(name, size).decode(errors="replace") if size <= MAX_CODE_BYTES else ""

    def code(kind: str) -> str:
        return text(f"{prefix}code/{kind.rpartition('.')[0].replace('.', '/')}.py")

    return Checkpoint(reader.loaded, label, raw, code, left=MAX_BYTES, script=script)


def unknown_script(label: str) -> FileError:
    """Why a TorchScript file is not read."""
    return FileError(
        f"{label} is TorchScript, which is code and is not executed, and its layout is not known: give the checkpoint "
        "that it was made from, or export the policy to ONNX instead."
    )


def _legacy(data: bytes, label: str) -> Checkpoint:
    """Five pickles (a magic number, a version, the machine, the structure, the storages' keys) and the storages' bytes
    in that order.
    """
    stream = io.BytesIO(data)
    _, version, machine = (pickles.load(stream, pickles.TORCH).loaded for _ in range(3))
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise FileError(
            f"{label} is of an unknown version of PyTorch's old format: save the network's state_dict again."
        )
    reader = pickles.load(stream, pickles.TORCH)
    keys = pickles.load(stream, pickles.TORCH).loaded
    places = {}
    for key in keys:
        storage = reader.storages[key]
        size = storage.numel * storage.dtype.itemsize
        if int.from_bytes(stream.read(8), "little") != storage.numel or stream.tell() + size > len(data):
            raise FileError(f"{label} has more numbers than it holds: it may be truncated, copy it again.")
        places[key] = (stream.tell(), size)
        stream.seek(size, io.SEEK_CUR)

    def raw(storage: pickles.Storage) -> bytes:
        start, size = places.get(storage.key, (0, 0))
        return data[start : start + size]

    return Checkpoint(reader.loaded, label, raw, left=MAX_BYTES)


def read_state_dict(data: bytes, label: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote; a state dict inside a dict of other things is found.

    Raises:
        FileError: not such a file, code in it, or a tensor that is no plain array of numbers.
    """
    checkpoint = read_checkpoint(data, label)
    return checkpoint.tensors(find_state(checkpoint.loaded))


def find_state(loaded: Any) -> Any:
    """The dict of tensors in what was loaded: itself, or what lies under one of a few keys; None if there is none."""
    candidates = [loaded, *(loaded.get(key) for key in STATE_KEYS)] if isinstance(loaded, dict) else []
    return next((one for one in candidates if is_state(one)), None)


def checked(state: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """The same tensors, after checking that each is a plain array that its storage really holds.

    Raises:
        FileError: names the tensor.
    """
    for name, tensor in state.items():
        if (
            tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.device.type != "cpu"
            or tensor.dtype not in TENSOR_DTYPES
        ):
            raise FileError(f"Tensor '{name}' in {label} is no plain array of numbers: save dense float weights.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise FileError(
                f"Tensor '{name}' in {label} claims shape {tuple(tensor.shape)}, more than the file holds: it is "
                "damaged."
            )
    return dict(state)

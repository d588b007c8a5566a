"""One inert reader of pickles, for torch files and for VecNormalize: it builds plain data and stand-ins, and runs
nothing.

Whatever a pickle asks for by name is either one of a short list of harmless names, each replaced by a stand-in that
only remembers what it was given, or refused by name. No code of PyTorch, numpy, gymnasium or stable-baselines3 runs.
The opcodes, their number, and what may be the key of a dict are limited, so that a small file can neither hang the
reader nor make it take memory that the file does not have.
"""

import io
import pickle
from typing import Any, NamedTuple

import torch

from distilrl.limits import MAX_BYTES, MAX_CLASSES, MAX_KEY, MAX_OPCODES
from distilrl.text import legible

_REFUSED = frozenset(
    getattr(pickle, name)[0]
    for name in (
        "PERSID", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "GET", "PUT", "INT", "LONG", "FLOAT", "STRING", "UNICODE",
        "LIST", "DICT", "DUP", "LONG4", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "FROZENSET",
        "ADDITEMS",
    )
)  # fmt: skip
"""Opcodes that no such file needs: of old protocols, extensions, sets, and those that take memory on the file's word
alone."""


class Inert:
    """Remembers its arguments and its state, and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "Inert":
        new = super().__new__(cls)
        new.args, new.state = args, None
        return new

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Takes items of a dict that is of no interest."""


class ArrayOf(Inert):
    """A numpy array: its state is (version, shape, dtype, fortran order, bytes)."""


class ScalarOf(Inert):
    """A number of numpy's: its arguments are (dtype, bytes)."""


class DTypeOf(Inert):
    """A numpy dtype: its first argument is its code."""


class TensorOf(Inert):
    """A tensor: its arguments begin with (storage, offset, size, stride)."""


class ModuleOf(Inert):
    """An object of a class whose code is in a TorchScript file: its state is the dict of its attributes."""

    kind = ""
    """Full name of the class."""


class ParameterOf(Inert):
    """A parameter: its first argument is a tensor."""


class Ordered(dict[Any, Any]):
    """An OrderedDict."""

    def __init__(self, *args: Any) -> None:
        if args:
            raise pickle.UnpicklingError("it fills an OrderedDict in an unknown way")
        super().__init__()

    def __setstate__(self, _state: Any) -> None:
        """A state dict's metadata is of no interest."""


class Storage(NamedTuple):
    """Numbers that lie elsewhere in the file."""

    dtype: torch.dtype
    key: str
    numel: int


_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_KINDS = {name: type(name, (Inert,), {"dtype": dtype}) for name, dtype in _STORAGES.items()}
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_SPACES = {
    "box": "Box",
    "discrete": "Discrete",
    "multi_discrete": "MultiDiscrete",
    "multi_binary": "MultiBinary",
    "dict": "Dict",
}
_COMMON: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): Inert,
    ("numpy", "dtype"): DTypeOf,
    **{(module, name): ArrayOf for module in _NUMPY for name in ("_reconstruct", "_frombuffer")},
    **{(module, "scalar"): ScalarOf for module in _NUMPY},
    ("_codecs", "encode"): Inert,
    ("collections", "OrderedDict"): Ordered,
}
NORMALIZER: dict[tuple[str, str], type] = {
    **_COMMON,
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"): Inert,
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"): Inert,
    **{(f"{gym}.spaces.{module}", kind): Inert for gym in ("gym", "gymnasium") for module, kind in _SPACES.items()},
    **{
        ("numpy.random._pickle", name): Inert
        for name in ("__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor")
    },
    ("numpy.random._pcg64", "PCG64"): Inert,
    ("numpy.random._mt19937", "MT19937"): Inert,
    ("numpy.random.bit_generator", "SeedSequence"): Inert,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): Inert,
}
"""What a VecNormalize pickle may ask for."""
TORCH: dict[tuple[str, str], type] = {
    **_COMMON,
    ("torch._utils", "_rebuild_tensor_v2"): TensorOf,
    ("torch._utils", "_rebuild_parameter"): ParameterOf,
    **{(module, name): kind for module in ("torch", "torch.cuda") for name, kind in _KINDS.items()},
    **{("torch", name): Inert for name in ("Size", "device", "float32", "float64", "int64")},
    **{(module, f"{system}Path"): Inert for module in ("pathlib", "pathlib._local") for system in ("Posix", "Windows")},
}
"""What a torch file may ask for."""
SCRIPT: dict[tuple[str, str], type] = {
    **TORCH,
    **{
        ("torch.jit._pickle", name): Inert
        for name in ("restore_type_tag", "build_tensorlist", "build_intlist", "build_doublelist", "build_boollist")
    },
}
"""What a TorchScript file may ask for, beside classes whose code is in the file: each of these is a `ModuleOf`."""


class _Steps:
    """The unpickler's table of opcodes, which counts how often it is asked."""

    def __init__(self) -> None:
        self.left = MAX_OPCODES

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it asks for more steps than a policy needs")
        if opcode in _REFUSED or opcode not in pickle._Unpickler.dispatch:
            raise pickle.UnpicklingError(f"it uses the opcode {opcode}")
        return _OWN.get(opcode) or pickle._Unpickler.dispatch[opcode]


class Unpickler(pickle._Unpickler):
    """Builds plain data and stand-ins; every other name is refused.

    The unpickler written in Python, because the one in C makes room for as many memo entries as a file claims to have.
    """

    def __init__(self, file: io.BytesIO, names: dict[tuple[str, str], type]) -> None:
        super().__init__(file)
        self.names = names
        self.dispatch = _Steps()  # type: ignore[misc,assignment]  # this reader's own count
        self.storages: dict[str, Storage] = {}
        self.modules: dict[str, type] = {}
        self.loaded: Any = None

    def find_class(self, module: str, name: str) -> Any:
        allowed = self.names.get((module, name))
        if allowed is None and self.names is SCRIPT and module.startswith("__torch__"):
            return self._module(f"{module}.{name}")
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {legible(f'{module}.{name}')}")
        return allowed

    def _module(self, kind: str) -> type:
        """The stand-in for a class of the file's own, of which only the name is looked at."""
        if kind not in self.modules:
            if len(kind) > MAX_KEY or len(self.modules) >= MAX_CLASSES:
                raise pickle.UnpicklingError("it has more classes than a policy needs")
            self.modules[kind] = type("ModuleOf", (ModuleOf,), {"kind": kind})
        return self.modules[kind]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage: ('storage', its kind, key, device, how many numbers), and a view of none in old files."""
        torch_file = self.names is TORCH or self.names is SCRIPT
        if not torch_file or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("it asks for an object outside the file")
        _, kind, key, _, numel, *view = pid
        if (
            not isinstance(kind, type)
            or not issubclass(kind, Inert)
            or not isinstance(getattr(kind, "dtype", None), torch.dtype)
        ):
            raise pickle.UnpicklingError("it holds numbers of a kind that is not known")
        if (
            not isinstance(key, str)
            or not key.isascii()
            or not key.isdigit()
            or type(numel) is not int
            or numel < 0
            or view not in ([], [None])
        ):
            raise pickle.UnpicklingError("it holds numbers in a place that is not known")
        storage = Storage(kind.dtype, key, numel)  # type: ignore[attr-defined]
        if self.storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError("it says two things of one storage")
        return storage


def load(file: io.BytesIO, names: dict[tuple[str, str], type]) -> Unpickler:
    """Reads one pickle, whose plain data is then `Unpickler.loaded`, with the storages that it names.

    Raises:
        pickle.UnpicklingError: it asks for something that is not allowed; says what.
        Exception: any other kind, for damaged bytes.
    """
    reader = Unpickler(file, names)
    reader.loaded = reader.load()
    return reader


def _check_key(key: Any) -> None:
    """Keys that take long to compare or to hash, or that no terminal should see, are refused."""
    if type(key) is str and len(key) <= MAX_KEY and key.isprintable():
        return
    if key is None or type(key) is bool or (type(key) is int and abs(key) < 1 << 31):
        return
    raise pickle.UnpicklingError("it has a dict with keys that are neither short text nor whole numbers")


def _setitem(self: Any) -> None:
    _check_key(self.stack[-2])
    pickle._Unpickler.load_setitem(self)  # type: ignore[attr-defined]


def _setitems(self: Any) -> None:
    for key in self.stack[::2]:  # what came since the mark
        _check_key(key)
    pickle._Unpickler.load_setitems(self)  # type: ignore[attr-defined]


def _bytearray8(self: Any) -> None:
    """Bytes as arrays of protocol 5 have them, of which room is made for as many as there are."""
    size = int.from_bytes(self.read(8), "little")
    data = self.read(size) if size <= MAX_BYTES else b""
    if len(data) != size:
        raise pickle.UnpicklingError("it claims more bytes than it has")
    self.append(bytes(data))


_OWN = {pickle.SETITEM[0]: _setitem, pickle.SETITEMS[0]: _setitems, pickle.BYTEARRAY8[0]: _bytearray8}

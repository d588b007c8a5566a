"""stable-baselines3's VecNormalize pickle, read by an unpickler that builds arrays and numbers only.

Whatever the pickle asks for by name is either one of a short list of harmless names, each replaced by an inert stand-in
that only remembers what it was given, or refused. No code of numpy, gymnasium or stable-baselines3 runs.
"""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl.errors import FileError
from distilrl.teachers.teacher import Normalised, Teacher

MAX_PICKLE_BYTES = 64 << 20


class _Inert:
    """Remembers its arguments and its state, and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Inert":
        new = super().__new__(cls)
        new.args, new.state = args, None
        return new

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Takes items of a dict that is of no interest."""


class _Array(_Inert):
    """An array that was pickled: its state is (version, shape, dtype, fortran order, bytes)."""


class _Scalar(_Inert):
    """A number that was pickled: its arguments are (dtype, bytes)."""


class _DType(_Inert):
    """A dtype that was pickled: its first argument is its code."""


_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ALLOWED: dict[tuple[str, str], type[_Inert]] = {
    **{(module, "ndarray"): _Inert for module in _NUMPY[:1]},
    **{(module, "dtype"): _DType for module in _NUMPY[:1]},
    **{(module, "_reconstruct"): _Array for module in _NUMPY},
    **{(module, "_frombuffer"): _Array for module in _NUMPY},
    **{(module, "scalar"): _Scalar for module in _NUMPY},
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"): _Inert,
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"): _Inert,
    **{(f"{gym}.spaces.{name}", kind): _Inert for gym in ("gym", "gymnasium") for name, kind in (("box", "Box"), ("discrete", "Discrete"))},
    **{("numpy.random._pickle", name): _Inert for name in ("__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor")},
    ("numpy.random._pcg64", "PCG64"): _Inert,
    ("numpy.random._mt19937", "MT19937"): _Inert,
    ("numpy.random.bit_generator", "SeedSequence"): _Inert,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _Inert,
    ("collections", "OrderedDict"): _Inert,
}


class _Unpickler(pickle._Unpickler):
    """Builds plain data and stand-ins; every other name is refused.

    The unpickler written in Python, because the one in C makes room for as many memo entries as a file claims to have.
    """

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it asks for the persistent object {pid!r:.40}")


def normalised(teacher: Teacher, path: Path) -> Teacher:
    """The teacher behind the normalisation of a VecNormalize pickle.

    Raises:
        FileError: the pickle asks for anything but arrays and numbers, is damaged, or does not fit the teacher.
    """
    mean, var, epsilon, clip = read(path)
    shape = teacher.obs_shape
    if shape is None or len(shape) != 1 or mean.shape != shape or var.shape != shape:
        raise FileError(f"{path} normalises observations of shape {mean.shape}, but the teacher {teacher.path} reads {shape}.")
    scale = 1 / np.sqrt(var + epsilon)
    network = Normalised(teacher.network, torch.from_numpy(mean).float(), torch.from_numpy(scale).float(), clip)
    meta = teacher.meta | {"normalizer": str(path)}
    critic = teacher.critic and Normalised(teacher.critic, network.mean, network.scale, clip)
    return replace(teacher, network=network, critic=critic, format=f"{teacher.format} with VecNormalize", meta=meta)


def read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Mean, variance, epsilon and clip of observations.

    Raises:
        FileError: the pickle asks for anything but arrays and numbers, or is damaged.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_PICKLE_BYTES else b""
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check the path to the normalizer.") from None
    if not data:
        raise FileError(f"{path} has {size} bytes, which no VecNormalize pickle has: give the file that VecNormalize.save wrote.")
    try:
        loaded = _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} is refused ({error}): a VecNormalize pickle holds arrays and numbers only.") from None
    except Exception as error:  # a damaged or hostile pickle may make the reader raise anything; all of it means one thing
        raise FileError(f"{path} is not a readable pickle ({type(error).__name__}): copy it again.") from None
    state = loaded.state if isinstance(loaded, _Inert) else None
    statistics = state.get("obs_rms") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(statistics, _Inert) or not isinstance(statistics.state, dict):
        raise FileError(f"{path} holds no observation statistics (obs_rms): give the file that VecNormalize.save wrote.")
    if state.get("norm_obs") is False:
        raise FileError(f"{path} does not normalise observations (norm_obs is off): leave --normalizer out.")
    mean, var = (_array(statistics.state.get(name), path, name) for name in ("mean", "var"))
    epsilon, clip = (_number(state.get(name), path, name) for name in ("epsilon", "clip_obs"))
    if (var < 0).any() or epsilon <= 0 or clip <= 0:
        raise FileError(f"{path} holds a negative variance, epsilon or clip_obs: the file is damaged.")
    return mean, var, epsilon, clip


def _array(value: Any, path: Path, name: str) -> NDArray[np.float64]:
    """The array that a stand-in remembers."""
    try:
        if not isinstance(value, _Array):
            raise TypeError
        if value.state is not None:
            _, shape, dtype, fortran, raw = value.state
        else:  # numpy's _frombuffer(buffer, dtype, shape, order)
            raw, dtype, shape, order = value.args
            fortran = order == "F"
        result: NDArray[np.float64] = np.frombuffer(raw, _dtype(dtype)).reshape(shape, order="F" if fortran else "C").astype(np.float64)
    except (TypeError, ValueError):
        raise FileError(f"{path}: its '{name}' is not an array of numbers: the file is damaged.") from None
    if not np.isfinite(result).all():
        raise FileError(f"{path}: its '{name}' holds NaN or infinite numbers: the file is damaged.")
    return result


def _number(value: Any, path: Path, name: str) -> float:
    """A number, plain or one of numpy's."""
    if isinstance(value, _Scalar) and len(value.args) == 2 and isinstance(value.args[1], bytes):
        try:
            value = float(np.frombuffer(value.args[1], _dtype(value.args[0]))[0])
        except (TypeError, ValueError, IndexError):
            value = None
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise FileError(f"{path}: its '{name}' is not a number: the file is damaged.")
    return float(value)


def _dtype(value: Any) -> np.dtype[Any]:
    """Float or integer dtype that a stand-in remembers."""
    code = value.args[0] if isinstance(value, _DType) and value.args else None
    if code not in ("f8", "f4", "i8", "i4"):
        raise TypeError
    return np.dtype(f"<{code}")

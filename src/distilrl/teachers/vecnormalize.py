"""stable-baselines3's VecNormalize pickle, read by an unpickler that builds arrays and numbers only."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl.errors import FileError
from distilrl.teachers import pickles
from distilrl.teachers.teacher import Normalised, Teacher

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
        data = path.read_bytes() if size <= pickles.MAX_PICKLE_BYTES else b""
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check the path to the normalizer.") from None
    if not data:
        raise FileError(f"{path} has {size} bytes, which no VecNormalize pickle has: give the file that VecNormalize.save wrote.")
    try:
        loaded = pickles.load(io.BytesIO(data), pickles.NORMALIZER).loaded
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} is refused ({error}): a VecNormalize pickle holds arrays and numbers only.") from None
    except Exception as error:  # a damaged or hostile pickle may make the reader raise anything; all of it means one thing
        raise FileError(f"{path} is not a readable pickle ({type(error).__name__}): copy it again.") from None
    state = loaded.state if isinstance(loaded, pickles.Inert) else None
    statistics = state.get("obs_rms") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(statistics, pickles.Inert) or not isinstance(statistics.state, dict):
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
        if not isinstance(value, pickles.ArrayOf):
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
    if isinstance(value, pickles.ScalarOf) and len(value.args) == 2 and isinstance(value.args[1], bytes):
        try:
            value = float(np.frombuffer(value.args[1], _dtype(value.args[0]))[0])
        except (TypeError, ValueError, IndexError):
            value = None
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise FileError(f"{path}: its '{name}' is not a number: the file is damaged.")
    return float(value)


def _dtype(value: Any) -> np.dtype[Any]:
    """Float or integer dtype that a stand-in remembers."""
    code = value.args[0] if isinstance(value, pickles.DTypeOf) and value.args else None
    if code not in ("f8", "f4", "i8", "i4"):
        raise TypeError
    return np.dtype(f"<{code}")

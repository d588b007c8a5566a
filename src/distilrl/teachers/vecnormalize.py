"""How observations were normalised: stable-baselines3's VecNormalize pickle, read by an unpickler that builds arrays
and numbers only, or the same numbers as JSON.
"""

import io
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.errors import FileError
from distilrl.files import check_regular, read_json
from distilrl.limits import MAX_PICKLE_BYTES
from distilrl.teachers import pickles
from distilrl.teachers.before import Normalised
from distilrl.teachers.teacher import Teacher

PICTURES = (
    "{} normalises pictures, of which it does not say where their channels are: export the policy to ONNX with its "
    "normalisation inside."
)
LARGEST = 1e12
"""Epsilons and bounds beyond it mean nothing."""
NORMALIZER, ZOO_NORMALIZER = "vec_normalize.pkl", "vecnormalize.pkl"
"""What stable-baselines3's documentation and the Hub call it, and what RL Zoo does."""


JSON = ".json"


class Statistics(NamedTuple):
    """What is known of observations."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]


def unused(teacher: Teacher) -> tuple[Path, ...]:
    """VecNormalize files that belong to a stable-baselines3 zip, or to a family, by where they lie, and that it
    was not read with: beside it under a usual name, beside a checkpoint with its number of steps, and in the folder
    that RL Zoo makes.
    """
    path = Path(teacher.path)
    if "normalizer" in teacher.meta:
        return ()
    zips = sorted(path.glob("*.zip")) if teacher.members else [path] if path.suffix == ".zip" else []
    return tuple(dict.fromkeys(found for one in zips for found in _beside(one)))


def _beside(zipped: Path) -> tuple[Path, ...]:
    """Those of one zip."""
    home, numbered = zipped.parent, re.sub(r"_(\d+_steps)$", r"_vecnormalize_\1", zipped.stem)
    zoo = sorted(found.with_name(ZOO_NORMALIZER) for found in home.glob("*/args.yml"))
    beside = [home / name for name in (NORMALIZER, ZOO_NORMALIZER, f"{numbered}.pkl")]
    return tuple(path for path in (*beside, *zoo) if path.is_file() and not _changes_nothing(path))


def _changes_nothing(path: Path) -> bool:
    """Whether a file says that observations are not normalised."""
    try:
        return read(path)[0] == {}
    except FileError:
        return False


def normalised(teacher: Teacher, path: Path) -> Teacher:
    """The teacher, and its critic, behind the normalisation that a file holds.

    Raises:
        FileError: as `read`, or it does not fit the teacher.
    """
    found, epsilon, clip = read(path)
    shape, note = teacher.obs_shape, teacher.meta.get("note", "")
    if found == {}:
        note = f"{path} does not normalise observations (norm_obs is off): this teacher is the same without it."
        return replace(teacher, meta=teacher.meta | {"normalizer": str(path), "note": note})
    if isinstance(found, dict):
        mean, scale, bound = _flattened(teacher, path, found, epsilon, clip)
    else:
        size = found.mean.size
        if found.mean.ndim > 1 and shape is not None and math.prod(shape) == size and len(shape) != 1:
            raise FileError(PICTURES.format(path))
        if shape is None or len(shape) != 1 or not size or shape[0] % size:
            raise FileError(
                f"{path} normalises observations of shape {found.mean.shape}, but the teacher {teacher.path} reads "
                f"{shape}: give the statistics that were saved with this teacher."
            )
        # of frames that were stacked behind the normalisation, each was normalised so
        mean, scale = (
            torch.from_numpy(np.tile(n.reshape(-1), shape[0] // size)).float()
            for n in (found.mean, 1 / np.sqrt(found.var + epsilon))
        )
        bound = torch.tensor(clip)
        if shape[0] > size:
            told = f"{path} has statistics of {size} numbers, taken for each of {shape[0] // size} frames."
            note = f"{note} {told}".strip()
    return replace(
        teacher,
        network=Normalised(teacher.network, mean, scale, bound),
        critic=None if teacher.critic is None else Normalised(teacher.critic, mean, scale, bound),
        format=f"{teacher.format} with {'statistics of observations' if path.suffix == JSON else 'VecNormalize'}",
        meta=teacher.meta | {"normalizer": str(path)} | ({"note": note} if note else {}),
    )


def _flattened(
    teacher: Teacher, path: Path, found: dict[str, Statistics], epsilon: float, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and bound of each number of a Dict's flat observation; keys without statistics stay as they are."""
    known = teacher.meta.get("observation")
    parts = known if isinstance(known, list) and teacher.meta.get("library") != "distilrl" else []
    sizes = dict(parts)
    if teacher.obs_shape != (sum(sizes.values()),) or any(
        sizes.get(key) != one.mean.size for key, one in found.items()
    ):
        raise FileError(
            f"{path} normalises {', '.join(found)[:120]}, which are not the observations of {teacher.path}."
        )
    if any(one.mean.ndim > 2 for one in found.values()):
        raise FileError(PICTURES.format(path))
    mean, scale, bound = (
        torch.zeros(teacher.obs_shape),
        torch.ones(teacher.obs_shape),
        torch.full(teacher.obs_shape, math.inf),
    )
    start = 0
    for key, size in parts:
        if key in found:
            one = found[key]
            mean[start : start + size] = torch.from_numpy(one.mean.reshape(-1))
            scale[start : start + size] = torch.from_numpy(1 / np.sqrt(one.var.reshape(-1) + epsilon))
            bound[start : start + size] = clip
        start += size
    return mean, scale, bound


def read(path: Path) -> tuple[Statistics | dict[str, Statistics], float, float]:
    """Mean and variance of observations (of each normalised key of a Dict; of none where norm_obs is off), epsilon and
    clip.

    Raises:
        FileError: the pickle asks for anything but arrays and numbers, or the file is damaged.

    Example::

        rms = envs.get_attr("obs_rms")[0]  # of Gymnasium's NormalizeObservation
        numbers = {"mean": rms.mean.tolist(), "var": rms.var.tolist(), "epsilon": 1e-8, "clip": 10}
        Path("observations.json").write_text(json.dumps(numbers))  # --normalizer observations.json
    """
    if path.suffix == JSON:
        return _written(path)
    state = _state(path)
    epsilon, clip = _number(state.get("epsilon"), path, "epsilon"), state.get("clip_obs")
    clip = math.inf if clip == math.inf else _number(clip, path, "clip_obs")  # infinite where nothing is cut off
    if not 0 < epsilon < LARGEST or not clip > 0 or LARGEST <= clip < math.inf:
        raise FileError(f"{path} holds an epsilon or clip_obs that is no small number above 0: the file is damaged.")
    statistics = state.get("obs_rms") if state.get("norm_obs") is not False else {}
    if isinstance(statistics, dict):
        keys = state.get("norm_obs_keys")
        wanted = [key for key in statistics if not isinstance(keys, list) or key in keys]
        return {str(key): _statistics(statistics[key], path) for key in wanted}, epsilon, clip
    return _statistics(statistics, path), epsilon, clip


def _written(path: Path) -> tuple[Statistics, float, float]:
    """Statistics that somebody wrote down; without ``epsilon`` Gymnasium's own, without ``clip`` no bound."""
    data = read_json(path)
    known = {"mean", "var", "epsilon", "clip"}
    try:
        if not {"mean", "var"} <= set(data) <= known:
            raise ValueError
        mean, var = (np.asarray(data[name], np.float64) for name in ("mean", "var"))
        epsilon, clip = float(data.get("epsilon", 1e-8)), float(data.get("clip", math.inf))
        numbers = np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()
        if mean.ndim != 1 or var.shape != mean.shape or not numbers or not 0 < epsilon < LARGEST or not clip > 0:
            raise ValueError
    except (TypeError, ValueError):
        raise FileError(
            f"{path} must hold 'mean' and 'var', lists of a number for each of the observation's, and may hold "
            "'epsilon' and 'clip', numbers above 0, and nothing else."
        ) from None
    return Statistics(mean, var), epsilon, clip


def _state(path: Path) -> dict[str, Any]:
    """The attributes of a pickled VecNormalize."""
    try:
        size = check_regular(path)
        data = path.read_bytes() if size <= MAX_PICKLE_BYTES else b""
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check the path to the normalizer.") from None
    if not data:
        raise FileError(
            f"{path} has {size} bytes, which no VecNormalize pickle has: give the file that VecNormalize.save wrote."
        )
    try:
        loaded = pickles.load(io.BytesIO(data), pickles.NORMALIZER).loaded
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} is refused ({error}): a VecNormalize pickle holds arrays and numbers only.") from None
    except (
        Exception
    ) as error:  # a damaged or hostile pickle may make the reader raise anything; all of it means one thing
        raise FileError(f"{path} is not a readable pickle ({type(error).__name__}): copy it again.") from None
    state = loaded.state if isinstance(loaded, pickles.Inert) else None
    off = isinstance(state, dict) and state.get("norm_obs") is False  # it holds no statistics then
    if not isinstance(state, dict) or not (off or isinstance(state.get("obs_rms"), pickles.Inert | dict)):
        raise FileError(
            f"{path} holds no observation statistics (obs_rms): give the file that VecNormalize.save wrote."
        )
    return state


def _statistics(value: Any, path: Path) -> Statistics:
    """Mean and variance that a stand-in of RunningMeanStd remembers."""
    state = value.state if isinstance(value, pickles.Inert) else None
    if not isinstance(state, dict):
        raise FileError(
            f"{path} holds no observation statistics (obs_rms): give the file that VecNormalize.save wrote."
        )
    mean, var = (_array(state.get(name), path, name) for name in ("mean", "var"))
    if mean.shape != var.shape or (var < 0).any():
        raise FileError(
            f"{path} holds a negative variance, or one of another shape than the mean: the file is damaged."
        )
    return Statistics(mean, var)


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
        result: NDArray[np.float64] = (
            np.frombuffer(raw, _dtype(dtype)).reshape(shape, order="F" if fortran else "C").astype(np.float64)
        )
    except (TypeError, ValueError):
        raise FileError(f"{path}: its '{name}' is not an array of numbers: the file is damaged.") from None
    if not (np.abs(result) < LARGEST**2).all():  # also NaN; what float32 holds, with room to be squared
        raise FileError(f"{path}: its '{name}' holds NaN or infinite numbers: the file is damaged.")
    return result


def _number(value: Any, path: Path, name: str) -> float:
    """A number, plain or one of numpy's."""
    if isinstance(value, pickles.ScalarOf) and len(value.args) == 2 and isinstance(value.args[1], bytes):
        try:
            value = float(np.frombuffer(value.args[1], _dtype(value.args[0]))[0])
        except (TypeError, ValueError, IndexError):
            value = None
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # a whole number of more digits
        number = math.nan
    if not math.isfinite(number):
        raise FileError(f"{path}: its '{name}' is not a number: the file is damaged.")
    return number


def _dtype(value: Any) -> np.dtype[Any]:
    """Float or integer dtype that a stand-in remembers."""
    code = value.args[0] if isinstance(value, pickles.DTypeOf) and value.args else None
    if code not in ("f8", "f4", "i8", "i4"):
        raise TypeError
    return np.dtype(f"<{code}")

"""Teachers: frozen policies read from files, nothing in which is ever executed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distilrl.errors import FileError, TeacherError
from distilrl.objective import find_temperature
from distilrl.teachers import hub, native, onnx, sb3, state_dicts, vecnormalize
from distilrl.teachers.archive import is_torch_file
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Ensemble, Teacher

__all__ = ["Teacher", "TeacherFile", "ensemble", "load_teacher"]

ENSEMBLE_ENTROPY_SHARE = 0.3


def load_teacher(file: str | Path | TeacherFile) -> Teacher:
    """Reads a policy: our own format, a run folder, or a file of another library; nothing in it is executed.

    Args:
        file: path or ``hf://`` id, or a `TeacherFile` that also answers what the file does not say of itself.

    Raises:
        FileError: missing, damaged, hostile, or of a format that is not known.
        ExtraError: the format needs a package that is not installed.
    """
    file = file if isinstance(file, TeacherFile) else TeacherFile(str(file))
    commit = ""
    if hub.is_hub(file.path):
        file, commit = hub.fetch(file)
    path = Path(file.path)
    if path.is_dir():
        teacher = native.load(file)
    elif not path.exists():
        raise FileError(f"{path} does not exist: check the path to the teacher.")
    else:
        teacher = _load_file(file, path)
    if commit:
        teacher.meta["hub_commit"] = commit
    return vecnormalize.normalised(teacher, Path(file.normalizer)) if file.normalizer else teacher


def _load_file(file: TeacherFile, path: Path) -> Teacher:
    """Picks the adapter by the file's first bytes and its suffix."""
    try:
        with path.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    if path.suffix == ".onnx":
        return onnx.load(file)
    if path.suffix == ".safetensors":
        return state_dicts.load(file)
    if magic.startswith(b"PK") and (path.suffix != ".zip" or is_torch_file(path.read_bytes())):
        return state_dicts.load(file)
    if magic.startswith(b"PK") or path.suffix == ".zip":
        return sb3.load(file)
    if path.suffix in (".pt", ".pth", ".cleanrl_model", ".pkl", ".pickle"):
        raise FileError(
            f"{path} is a pickle of an old kind, which is not executed: save the network's state_dict with PyTorch 1.6 or newer."
        )
    raise FileError(
        f"{path} is of no known format: give a folder of distilrl, a stable-baselines3 zip, a state_dict (.pt, .pth, "
        ".cleanrl_model, .safetensors) or an .onnx file."
    )


def ensemble(teachers: Sequence[Teacher], states: Tensor) -> Teacher:
    """Several teachers of one environment as one: the logarithm of the mean of their action probabilities.

    Args:
        teachers: at least two, each with its own preprocessing.
        states: (K, *obs_shape) observations, from which the temperature of each teacher of kind ``q`` is found;
            ``logits`` are taken as they are.

    Raises:
        TeacherError: fewer than two, or their spaces differ.
    """
    if len(teachers) < 2:
        raise TeacherError("An ensemble needs at least two teachers: give more, or use the one alone.")
    first = teachers[0]
    for other in teachers[1:]:
        if (other.obs_shape or first.obs_shape) != (first.obs_shape or other.obs_shape) or other.n_actions != first.n_actions:
            raise TeacherError(
                f"The teachers {first.path} and {other.path} differ in their spaces ({first.obs_shape}, {first.n_actions} actions; "
                f"{other.obs_shape}, {other.n_actions} actions): an ensemble is of one environment."
            )
    temperatures = [1.0 if t.kind == "logits" else find_temperature(t.action_values(states), ENSEMBLE_ENTROPY_SHARE) for t in teachers]
    return Teacher(
        Ensemble([t.network for t in teachers], temperatures),
        "logits",
        f"ensemble of {len(teachers)}",
        " + ".join(t.path for t in teachers),
        hashlib.sha256("".join(t.digest for t in teachers).encode()).hexdigest(),
        {"members": [t.path for t in teachers], "temperatures": temperatures, "not_executed": []},
        next((t.obs_shape for t in teachers if t.obs_shape is not None), None),
        first.n_actions,
        sum(t.params or 0 for t in teachers) or None,
    )

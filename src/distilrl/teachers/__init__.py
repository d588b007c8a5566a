"""Teachers: frozen policies read from files, nothing in which is ever executed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distilrl.errors import FileError, TeacherError
from distilrl.objective import find_temperature
from distilrl.teachers import hub, native, onnx, sb3, state_dicts, vecnormalize
from distilrl.teachers.archive import is_torch_file
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import BestOf, Combine, Ensemble, Teacher

__all__ = ["Combine", "Teacher", "TeacherFile", "ensemble", "load_teacher"]

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


def ensemble(teachers: Sequence[Teacher], states: Tensor, combine: Combine = "mean") -> Teacher:
    """Several teachers of one environment as one: the logarithm of the mean of their action probabilities, or the best in each state.

    Args:
        teachers: at least two, each with its own preprocessing.
        states: (K, *obs_shape) observations, from which the temperature of each teacher of kind ``q`` is found;
            ``logits`` are taken as they are.
        combine: ``mean`` of probabilities, or ``best``: in each state the values of the teacher whose greedy action is worth most by its
            own estimate, which must all be of one reward and discount.

    Raises:
        TeacherError: fewer than two, their spaces differ, or ``best`` with a teacher that has no values.
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
    meta: dict[str, Any] = {"members": [t.path for t in teachers], "not_executed": []}
    if combine == "best":
        if any(t.kind != "q" for t in teachers):
            raise TeacherError("The best teacher of a state is told by value, and one of these has none (a policy's logits): use the mean.")
        network: nn.Module = BestOf([t.network for t in teachers])
    else:
        temperatures = [1.0 if t.kind == "logits" else find_temperature(t.action_values(states), ENSEMBLE_ENTROPY_SHARE) for t in teachers]
        network = Ensemble([t.network for t in teachers], temperatures)
        meta["temperatures"] = temperatures
    return Teacher(
        network,
        "q" if combine == "best" else "logits",
        f"{'best' if combine == 'best' else 'ensemble'} of {len(teachers)}",
        " + ".join(t.path for t in teachers),
        hashlib.sha256("".join((combine * (combine != "mean"), *(t.digest for t in teachers))).encode()).hexdigest(),
        meta,
        next((t.obs_shape for t in teachers if t.obs_shape is not None), None),
        first.n_actions,
        sum(t.params or 0 for t in teachers) or None,
    )

"""Teachers: frozen policies read from files, nothing in which is ever executed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distilrl.errors import FileError, HostileError, SpecError, UnaskedError
from distilrl.files import check_regular, digest
from distilrl.isolation import isolated
from distilrl.limits import MAX_BYTES
from distilrl.teachers import hub, members, native, onnx, sb3, state_dicts, vecnormalize
from distilrl.teachers.archive import LEGACY, check_whole, holds
from distilrl.teachers.dangerous import dangerous
from distilrl.teachers.ensembles import Combine, ensemble
from distilrl.teachers.source import Bounding, TeacherFile
from distilrl.teachers.teacher import Teacher

__all__ = ["Bounding", "Combine", "Teacher", "TeacherFile", "ensemble", "load_teacher"]

MSGPACK = [bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF)]
"""First bytes of a dict as flax writes it; a pickle has none of them."""


@isolated()
def load_teacher(file: str | Path | TeacherFile) -> Teacher:
    """Reads a policy: our own format, a run folder, or a file of another library; nothing in it is executed.

    Args:
        file: path or ``hf://`` id, or a `TeacherFile` that also answers what the file does not say of itself.

    Raises:
        FileError: missing, damaged, or of a format that is not known.
        HostileError: it asks for functions that could do anything.
        ExtraError: the format needs a package that is not installed.

    Example::

        load_teacher("hf://sb3/ppo-CartPole-v1")
        load_teacher(TeacherFile("policy.onnx", squash="tanh"))
    """
    file = file if isinstance(file, TeacherFile) else TeacherFile(str(file))
    try:
        return _load(file)
    except HostileError:
        raise
    except OSError as error:  # of the path itself
        raise FileError(f"{file.path} cannot be read ({error.strerror}): check the path to the teacher.") from None
    except FileError:
        for path in (file.path, file.normalizer or ""):
            if path and Path(path).is_file() and (names := dangerous(Path(path))):
                raise HostileError(
                    f"{path} is hostile: it would call {', '.join(names)} where it is unpickled; it was not executed, "
                    "delete it."
                ) from None
        raise


def load_together(files: Sequence[TeacherFile]) -> list[Teacher]:
    """Several teachers that were told of at once: each file is given the answers that it needs.

    Raises:
        DistilError: as `load_teacher`; of an answer that none of the files needs too.
    """
    teachers, unasked = [], []
    for file in files:
        refused: dict[str, UnaskedError] = {}
        while True:
            try:
                teachers.append(load_teacher(file.told(dict.fromkeys(refused))))
                break
            except UnaskedError as error:
                refused[error.answer] = error
        unasked.append(refused)
    for name, refusal in unasked[0].items():
        if all(name in others for others in unasked):
            raise refusal
    return teachers


def read_teacher(teacher: Teacher | str | Path) -> Teacher:
    """A teacher, which a path names.

    Raises:
        SpecError: it is none.
    """
    if isinstance(teacher, str | Path):
        return load_teacher(teacher)
    if not isinstance(teacher, Teacher):
        raise SpecError(
            f"{teacher!r:.80} is no teacher: give load_teacher(FILE), a file, or Teacher.from_callable(function)."
        )
    return teacher


def _load(file: TeacherFile) -> Teacher:
    if file.member is not None:
        return members.family(file, load_teacher)
    commit = ""
    if hub.is_hub(file.path):
        file, commit = hub.fetch(file)
    path = Path(file.path)
    if path.is_dir():
        teacher = native.load(file)
    elif not path.exists():
        from distilrl.zoo import zoo  # here: for this sentence alone

        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        of_zoo = path.parent.name == "zoo" and path.name in zoo()
        way = f"distilrl zoo get {path.name} brings it" if of_zoo else "check the path to the teacher"
        raise FileError(f"{path} does not exist{here}: {way}.")
    else:
        teacher = _load_file(file, path)
    if commit:
        teacher.meta["hub_commit"] = commit
    if file.normalizer:
        teacher = vecnormalize.normalised(teacher, Path(file.normalizer))
    teacher = teacher.before_zeros(file.zeros) if file.zeros else teacher
    return _identified(replace(teacher, reads=file.reads), file)


def _identified(teacher: Teacher, file: TeacherFile) -> Teacher:
    """The teacher with a digest of all that decides its answers: its file, what the user told about it, its normalizer,
    and what it reads.
    """
    told: dict[str, str | float | tuple[str, ...]] = dict(file.answers)
    if file.normalizer:
        told["normalizer"] = digest(Path(file.normalizer))
    if file.zeros:
        told["zeros"] = file.zeros
    if file.reads:
        told["reads"] = file.reads
    if not told:
        return teacher
    text = json.dumps([teacher.digest, told], sort_keys=True)
    meta = teacher.meta | {"file_sha256": teacher.digest}
    return replace(teacher, digest=hashlib.sha256(text.encode()).hexdigest(), meta=meta)


def _load_file(file: TeacherFile, path: Path) -> Teacher:
    """Picks the adapter by the file's first bytes and its suffix."""
    try:
        size = check_regular(path)
        with path.open("rb") as opened:
            magic = opened.read(len(LEGACY))
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    if not size:
        raise FileError(f"{path} is empty: bring it anew from where it comes from.")
    if size > MAX_BYTES:
        raise FileError(f"{path} is larger than a policy can be: give a file of the network's weights alone.")
    if path.suffix == ".onnx":
        return onnx.load(file)
    if path.suffix == ".safetensors" or magic == LEGACY:
        return state_dicts.load(file)
    if magic.startswith(b"PK"):
        check_whole(path)
        # save("ppo_lr0.001") names it so, because a suffix seems to be there
        library = path.suffix == ".zip" or holds(path, "policy.pth")
        return sb3.load(file) if library and not holds(path, "data.pkl") else state_dicts.load(file)
    if path.suffix == ".zip":
        return sb3.load(file)
    if path.suffix in (".cleanrl_model", ".msgpack") and magic[:1] in MSGPACK:
        raise FileError(f"{path} is of JAX (flax wrote it), whose networks are not read: export the policy to ONNX.")
    if magic.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        raise FileError(
            f"{path} is a bare pickle, which is not executed: save the network's state_dict with torch.save."
        )
    raise FileError(
        f"{path} is of no known format: give a folder of distilrl, a stable-baselines3 zip, a state_dict (.pt, .pth, "
        ".cleanrl_model, .safetensors) or an .onnx file."
    )

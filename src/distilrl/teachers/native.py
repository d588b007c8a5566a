"""Our own format: a folder with ``spec.json`` and safetensors, or a run folder, whose student is then the teacher."""

from pathlib import Path

from distilrl.checkpoints import load_network
from distilrl.errors import FileError
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Kind, Teacher


def load(file: TeacherFile) -> Teacher:
    """Reads a folder that holds a network, or a run folder.

    Raises:
        FileError: it holds neither, or what it holds is damaged.
    """
    file.check_options()
    folder = Path(file.path)
    if not (folder / "spec.json").is_file() and (folder / "student" / "spec.json").is_file():
        folder = folder / "student"
    if not (folder / "spec.json").is_file():
        raise FileError(f"{folder} holds no policy: there is neither spec.json nor student/spec.json in it.")
    stored = load_network(folder)
    if stored.kind not in ("q", "logits"):
        raise FileError(f"{folder / 'spec.json'} names the kind '{stored.kind}': it must be 'q' or 'logits'.")
    kind: Kind = "q" if stored.kind == "q" else "logits"
    meta = {"library": "distilrl", "algorithm": None, "version": None, "not_executed": []} | stored.meta
    return Teacher(stored.network, kind, "distilrl", str(folder), stored.digest, meta)

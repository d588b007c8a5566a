"""Teachers: frozen policies read from files, nothing in which is ever executed."""

from pathlib import Path

from distilrl.errors import FileError
from distilrl.teachers import native, sb3
from distilrl.teachers.teacher import Teacher

__all__ = ["Teacher", "load_teacher"]


def load_teacher(path: str | Path) -> Teacher:
    """Reads a policy: a folder in our format, a run folder, or a stable-baselines3 DQN zip.

    Raises:
        FileError: missing, damaged, or of a format that is not known.
    """
    path = Path(path)
    if path.is_dir():
        return native.load(path)
    if not path.exists():
        raise FileError(f"{path} does not exist: check the path to the teacher.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"PK") or path.suffix == ".zip":
        return sb3.load(path)
    raise FileError(f"{path} is of no known format: give a folder in distilrl's format or a stable-baselines3 DQN zip.")

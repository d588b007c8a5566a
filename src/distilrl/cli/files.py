"""What several commands ask about a teacher's file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from distilrl.errors import SpecError
from distilrl.runs import KINDS, read_config
from distilrl.teachers import TeacherFile


@dataclass(frozen=True)
class FileOptions:
    """Answers to what a teacher's file may not say of itself."""

    teacher_network: str | None = None
    """Network of a plain state_dict, as a student spec; recognised where it is an MLP or a Nature CNN."""
    activation: str | None = None
    """Activation of the dense layers where the file does not hold it: relu, tanh or elu."""
    normalizer: Path | None = None
    """VecNormalize pickle whose statistics the policy expects; read without executing anything in it."""
    divisor: float | None = None
    """Pixels are divided by this before the network sees them; 255 for state_dicts by default."""
    teacher_output: str | None = None
    """Output of an ONNX graph that holds the action values, where there are several."""
    kind: Literal["q", "logits"] | None = None
    """What the file's outputs are; recognised where the library is."""

    def file(self, path: str) -> TeacherFile:
        """The file with these answers."""
        normalizer = str(self.normalizer) if self.normalizer else None
        return TeacherFile(path, self.teacher_network, self.activation, normalizer, self.divisor, self.teacher_output, self.kind)


def of_kind(file: Path, kinds: set[str]) -> dict[str, Any]:
    """A config.json that one of these left; one that does not say what it is of passes.

    Raises:
        SpecError: it is of something else.
    """
    data = read_config(file)
    if "kind" in data and data["kind"] not in kinds:
        what = KINDS.get(str(data["kind"]), f"the unknown kind {data['kind']!r}")
        raise SpecError(f"{file} is the configuration of {what}, which this command does not make: give another.")
    return data


def refuse_beside(options: Any, file: str, allowed: set[str]) -> None:
    """Raises where options are given beside a file that has settled them."""
    given = [f.name for f in fields(options) if f.name not in allowed and getattr(options, f.name) != f.default]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SpecError(f"{file} does what its config.json says: leave {names} out, or give an edited copy of that file as --config.")

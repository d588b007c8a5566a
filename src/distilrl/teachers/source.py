"""Where a teacher comes from, and what its file does not say of itself."""

from dataclasses import dataclass
from typing import Any

from distilrl.errors import SpecError
from distilrl.plain import from_plain
from distilrl.specs import ACTIVATIONS


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's file and the answers to what cannot be read from it."""

    path: str
    """File, folder, or ``hf://owner/repository[@revision][/file]``."""
    network: str | None = None
    """Network of a plain state_dict, as a student spec; recognised where it is an MLP or a Nature CNN."""
    activation: str | None = None
    """Activation between dense layers, where the file does not hold it: relu, tanh or elu."""
    normalizer: str | None = None
    """VecNormalize pickle of stable-baselines3 whose statistics the policy expects."""
    divisor: float | None = None
    """Pixels are divided by this before the network sees them; 255 for state_dicts by default."""
    output: str | None = None
    """Output of an ONNX graph that holds the action values, where there are several."""
    kind: str | None = None
    """What the outputs are: q or logits; recognised where the library is."""

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise SpecError(f"Unknown activation '{self.activation}': use one of {', '.join(ACTIVATIONS)}.")
        if self.kind not in (None, "q", "logits"):
            raise SpecError(f"Unknown kind '{self.kind}' of a teacher's outputs: use q or logits.")
        if self.divisor is not None and not self.divisor > 0:
            raise SpecError(f"The pixels' divisor must be above 0, got {self.divisor}.")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TeacherFile":
        """Reads what `dataclasses.asdict` gave."""
        file: TeacherFile = from_plain(cls, data, "teacher")
        return file

    def check_options(self, *known: str) -> None:
        """Refuses an answer that nobody asked.

        Raises:
            SpecError: names it.
        """
        for name in ("network", "activation", "divisor", "output", "kind"):
            if getattr(self, name) is not None and name not in known:
                raise SpecError(f"'{name}' was given for the teacher {self.path}, which does not need it: leave it out.")

"""Where a teacher comes from, and what its file does not say of itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, cast, get_args

from distilrl.errors import SpecError, UnaskedError
from distilrl.heads import Kind, Squash
from distilrl.limits import LARGEST_OBSERVATION
from distilrl.plain import check_number, read_as
from distilrl.specs import ACTIVATIONS

Bounding = Literal["clip", "tanh", "scale"]
"""How a real action comes into its bounds: cut off there, by tanh and a scale, or its −1 to 1 are scaled to them."""
ANSWERS = ("network", "activation", "divisor", "output", "kind", "squash")
"""Fields in which a user tells what a file does not say."""


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's file and the answers to what cannot be read from it."""

    path: str
    """File, folder, or ``hf://owner/repository[@revision][/file]``."""
    network: str | None = None
    """Network of a plain state_dict, as a student spec; recognised where it is an MLP or a Nature CNN."""
    activation: str | None = None
    """Activation between dense layers, where the file does not hold it; one of `distilrl.specs.ACTIVATIONS`."""
    normalizer: str | None = None
    """Statistics of observations that the policy expects: a VecNormalize pickle of stable-baselines3, or a ``.json``
    file as `teachers.vecnormalize.read` shows it."""
    divisor: float | None = None
    """Pixels are divided by this before the network sees them; 255 for CleanRL's state_dicts, asked for with others."""
    output: str | None = None
    """Output of an ONNX graph that holds the policy's numbers, where there are several."""
    kind: str | None = None
    """What the outputs are: q, logits, mean or gaussian (mean and log standard deviation of a real action); recognised
    where the library is, and by default values of actions where the environment has choices, the action itself where it
    has real ones."""
    squash: str | None = None
    """How a real action comes into its bounds: clip; tanh, and a scale; or scale, where −1 to 1 stand for them, as
    behind a tanh in the file; recognised where the library is."""
    zeros: int = 0
    """Zeros that the policy reads behind what the environment shows: it was trained where there were more numbers."""
    reads: tuple[str, ...] = ()
    """Names of the numbers that the policy reads, of all that the environment shows (`ObsSpec.places`); () for all."""
    member: str | None = None
    """Name of the number of an observation that says which member of a family an episode is of: the path is then a
    folder of teachers, each named by its member's number."""

    def __post_init__(self) -> None:
        for name in ("path", "normalizer"):  # a Path of Python, in config.json as text
            if isinstance(getattr(self, name), PurePath):
                object.__setattr__(self, name, str(getattr(self, name)))
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise SpecError(f"Unknown activation '{self.activation}': use one of {', '.join(ACTIVATIONS)}.")
        for name, hint in (("kind", Kind), ("squash", Bounding)):
            if getattr(self, name) not in (None, *get_args(hint)):
                raise SpecError(
                    f"'{name}' of a teacher must be one of {', '.join(get_args(hint))}, got "
                    f"{getattr(self, name)!r:.40}."
                )
        check_number("zeros", self.zeros, f"[0, {LARGEST_OBSERVATION}]")
        if self.divisor is not None and not 0 < self.divisor < math.inf:
            raise SpecError(f"The pixels' divisor must be a number above 0, got {self.divisor}.")
        if self.squash is not None and self.kind in ("q", "logits"):
            raise SpecError(
                f"'squash' is for real actions, but the teacher's kind is {self.kind}: leave one of them out."
            )

    @property
    def own_kind(self) -> Kind | None:
        """The kind that the user named."""
        return cast("Kind | None", self.kind)

    @property
    def own_squash(self) -> Squash | None:
        """The squash that the user named."""
        return "clip" if self.scaled else cast("Squash | None", self.squash)

    @property
    def scaled(self) -> bool:
        """Whether the user said that −1 to 1 stand for the bounds of an action."""
        return self.squash == "scale"

    @property
    def answers(self) -> dict[str, str | float]:
        """What the user told about the file, by name: a file read with other answers is another teacher."""
        return {name: value for name in ANSWERS if (value := getattr(self, name)) is not None}

    def told(self, answers: Mapping[str, Any]) -> "TeacherFile":
        """The same file, of which these answers are told; None is none."""
        return replace(self, **answers)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TeacherFile":
        """Reads what `dataclasses.asdict` gave."""
        return read_as(cls, data, "teacher")

    def check_options(self, *known: str) -> None:
        """Refuses an answer that nobody asked.

        Raises:
            UnaskedError: names it.
        """
        for name in ANSWERS:
            if getattr(self, name) is not None and name not in known:
                raise UnaskedError(
                    f"'{name}' was given for the teacher {self.path}, which does not need it: leave it out.", name
                )

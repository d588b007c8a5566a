"""Which environment: its name, and what is put around it, as plain data."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium

from distilrl.errors import SpecError
from distilrl.limits import LARGEST_OBSERVATION

SEVERAL = {
    "kwargs": (dict, "a dict"),
    "wrappers": (list | tuple, "a list of 'module:Class'"),
    "resize": (list | tuple | None, "(height, width)"),
}
"""Fields of `EnvRef` that hold several things, and what they must be."""


@dataclass(frozen=True)
class EnvRef:
    """An environment by name, and what is put around it: all that another machine needs to make it again."""

    id: str
    """Gymnasium id; ``module:Env-id`` imports the module first."""
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    """What the environment is made with."""
    wrappers: tuple[str, ...] = ()
    """``module:Class`` around it, the innermost first, each made with the environment alone."""
    grey: bool = False
    """Images lose their colours."""
    resize: tuple[int, int] | None = None
    """(H, W) to which images are shrunk or grown."""
    stack: int = 1
    """Frames of time in one image."""
    factory: Callable[..., gymnasium.Env[Any, Any]] | None = field(default=None, repr=False)
    """Makes the environment instead of ``id``; from Python only, and not kept in config.json."""
    named: bool = field(default=True, compare=False, repr=False)
    """Whether the user wrote it; a file's modules are imported only if they are trusted (`trust`)."""

    def __post_init__(self) -> None:
        if not self.id:
            raise SpecError("An environment needs an id, e.g. CartPole-v1 or my_package:MyEnv-v0.")
        for name, (kind, words) in SEVERAL.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (name == "resize" and value is not None and len(value) != 2):
                raise SpecError(f"'{name}' of {self.id} must be {words}, got {value!r:.60}.")
        numbers = (self.stack, *(self.resize or ()))
        if not isinstance(self.grey, bool) or not all(isinstance(n, int) and n is not True for n in numbers):
            raise SpecError(f"'stack' and 'resize' of {self.id} must be whole numbers, and 'grey' true or false.")
        # -- what the caller goes on changing is no part of it
        object.__setattr__(self, "kwargs", _apart(self.kwargs))
        for name in ("wrappers", "resize"):
            object.__setattr__(self, name, given if (given := getattr(self, name)) is None else tuple(given))
        if self.stack < 1 or (self.resize is not None and min(self.resize) < 1):
            raise SpecError(f"'stack' and 'resize' of {self.id} must be at least 1.")
        if self.stack * math.prod(self.resize or (1, 1)) > LARGEST_OBSERVATION:
            raise SpecError(
                f"'stack' and 'resize' of {self.id} ask for more than {LARGEST_OBSERVATION:,} numbers: choose less."
            )

    @property
    def label(self) -> str:
        """The environment in few words: its id, and what it is made with."""
        return self.id + (f" {json.dumps(self.kwargs, default=str, ensure_ascii=False)}" if self.kwargs else "")

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that making it imports by name."""
        return tuple(text.rpartition(":")[0] for text in (self.id, *self.wrappers) if ":" in text)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back; what is not set is left out.

        Raises:
            SpecError: ``kwargs`` hold what JSON cannot.
        """
        default = EnvRef(self.id)
        kept = [f.name for f in fields(self) if f.name not in ("factory", "named")]
        data = {
            name: getattr(self, name) for name in kept if name == "id" or getattr(self, name) != getattr(default, name)
        }
        try:
            plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"The kwargs of '{self.id}' must be plain numbers, texts, lists and objects ({error})."
            ) from None
        return plain

    @classmethod
    def from_json(cls, data: Any, where: str = "env") -> "EnvRef":
        """Reads what a file says; modules that it names are then imported only if they are trusted.

        Raises:
            SpecError: the data is damaged.
        """
        if isinstance(data, str):
            return cls(data, named=False)
        kinds = {"id": str, "kwargs": dict, "wrappers": list, "grey": bool, "resize": list, "stack": int}
        if not isinstance(data, dict) or "id" not in data or set(data) - set(kinds):
            raise SpecError(
                f"'{where}' must be an environment's id, or an object of {', '.join(kinds)}, got {data!r:.120}."
            )
        for name, value in data.items():
            if type(value) is not kinds[name]:
                raise SpecError(f"'{where}.{name}' must be a {kinds[name].__name__}, got {value!r:.60}.")
        resize, wrappers = data.get("resize", [1, 1]), data.get("wrappers", [])
        if len(resize) != 2 or any(type(n) is not int for n in resize):
            raise SpecError(f"'{where}.resize' must be [height, width], got {resize!r:.60}.")
        if any(type(text) is not str for text in wrappers):
            raise SpecError(f"'{where}.wrappers' must be a list of 'module:Class', got {wrappers!r:.60}.")
        given = {name: value for name, value in data.items() if name not in ("resize", "wrappers")}
        sized = (resize[0], resize[1]) if "resize" in data else None
        return cls(**given, resize=sized, wrappers=tuple(wrappers), named=False)

    from_file = from_json


def _apart(value: Any) -> Any:
    """Plain data of dicts and lists that nobody else changes; what else is in it stays what it is."""
    if isinstance(value, dict):
        return {key: _apart(one) for key, one in value.items()}
    return [_apart(one) for one in value] if isinstance(value, list) else value


EnvLike = str | EnvRef | Callable[..., gymnasium.Env[Any, Any]]
"""What stands for an environment: its id, an `EnvRef`, or a function that makes one."""


def env_ref(env: EnvLike) -> EnvRef:
    """The environment as an `EnvRef`: of its id, or of a function that makes it."""
    if isinstance(env, EnvRef):
        return env
    if isinstance(env, str):
        return EnvRef(env)
    return EnvRef(getattr(env, "__qualname__", type(env).__name__), factory=env)

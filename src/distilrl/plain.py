"""Dataclasses from plain data, as JSON gives it, each value checked against its field's type."""

import functools
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distilrl.errors import SpecError

WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def from_plain(kind: Any, data: Any, where: str) -> Any:
    """What ``dataclasses.asdict`` and JSON made of a value of this type.

    Args:
        kind: a dataclass, or a type that its fields have: numbers, texts, tuples, choices, optional ones.
        data: the plain data.
        where: name of the data, for errors.

    Raises:
        SpecError: a key is unknown or missing, or a value has another type or means nothing.
    """
    if is_dataclass(kind):
        return _dataclass(kind, data, where)
    if get_origin(kind) is Literal:
        return data  # whoever is made of it checks it
    if get_origin(kind) in (Union, types.UnionType):
        rest = [one for one in get_args(kind) if one is not type(None)]
        return None if data is None and len(rest) < len(get_args(kind)) else from_plain(rest[0], data, where)
    if get_origin(kind) is tuple:
        if not isinstance(data, list | tuple):
            raise SpecError(f"'{where}' must be a list, got {data!r}.")
        return tuple(from_plain(get_args(kind)[0], item, where) for item in data)
    if kind is float and type(data) is int:
        return float(data)
    if type(data) is not kind:
        raise SpecError(f"'{where}' must be {WORDS[kind]}, got {data!r}.")
    return data


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise SpecError(f"'{where}' must be an object of names and values, got {data!r}.")
    hints = _hints(kind)
    unknown = sorted(set(data) - {f.name for f in fields(kind)})
    if unknown:
        raise SpecError(f"Unknown key '{unknown[0]}' in '{where}': remove it or correct its spelling.")
    for f in fields(kind):
        if f.name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise SpecError(f"'{where}' lacks '{f.name}'.")
    return kind(**{name: from_plain(hints[name], value, name) for name, value in data.items()})


def check_choices(made: Any) -> None:
    """Refuses a dataclass in which a field of a few choices holds none of them.

    Raises:
        SpecError: names the field and its choices.
    """
    kind: Any = type(made)
    for name, hint in _hints(kind).items():
        if get_origin(hint) is Literal and getattr(made, name) not in get_args(hint):
            raise SpecError(f"'{name}' must be one of {', '.join(get_args(hint))}, got {getattr(made, name)!r}.")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)

"""Dataclasses from plain data, as JSON gives it, each value checked against its field's type."""

import functools
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distilrl.errors import SpecError

THREADS = "[1, 1024]"
"""Range of every number of threads; PyTorch and the emulators crash on many more."""
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


def check_numbers(made: Any, **ranges: str) -> None:
    """Refuses a dataclass in which a number lies outside its range; NaN lies in none.

    Args:
        made: the dataclass; a field that is None is not looked at, and of a tuple each item is.
        ranges: by name of the field, an interval as in mathematics: ``[0, 1)``, ``(0, inf)``.

    Raises:
        SpecError: names the field and its range.
    """
    for name, interval in ranges.items():
        value = getattr(made, name)
        for one in value if isinstance(value, tuple) else (value,):
            check_number(name, one, interval)


def check_number(name: str, value: float | None, interval: str) -> None:
    """As `check_numbers`, for one number and its name.

    Raises:
        SpecError: names the number and its range.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if value is None or (low <= value <= high and (value != low or interval[0] == "[") and (value != high or interval[-1] == "]")):
        return
    words = f"lie in {interval}"
    if high == float("inf"):
        words = "be a finite number" if low == -high else f"be {'at least' if interval[0] == '[' else 'above'} {low:g}"
        words += " and finite" if low != -high and value in (high, -high) else ""
    raise SpecError(f"'{name}' must {words}, got {value}.")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)

"""Dataclasses from plain data, as JSON gives it, each value checked against its field's type; and back.

A class that reads its own plain data has a classmethod ``from_file(data, where)``; one that writes it has
``to_json()``.
"""

import functools
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from distilrl.errors import SpecError
from distilrl.limits import MAX_VALUES

Kind = TypeVar("Kind")

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object of names and values",
}

THREADS = "[1, 1024]"
"""Range of every number of threads; PyTorch and the emulators crash on many more."""


@dataclass(frozen=True)
class Record:
    """A dataclass that a file holds: a field with a default is left out of the file where it has its default.

    Example::

        json.dumps(results.to_json())
    """

    def to_json(self) -> dict[str, Any]:
        """Plain data that `read_as` reads back."""
        told = {f.name: f for f in fields(self) if f.init}
        return {
            name: value
            for name, value in to_plain(self).items()
            if told[name].default is MISSING or getattr(self, name) != told[name].default
        }


def parse_json(text: str | bytes) -> Any:
    """JSON of a file that nobody vouches for.

    Raises:
        ValueError: it is none, or of more values than are read.
        RecursionError: it is too deep.
    """
    text = text.decode() if isinstance(text, bytes) else text
    if sum(text.count(mark) for mark in "[{,") > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    return json.loads(text)


def read_as(kind: type[Kind], data: Any, where: str = "") -> Kind:
    """A dataclass from its plain data, as `from_plain` does, typed.

    Args:
        kind: the dataclass.
        data: the plain data.
        where: name of the data, for errors; the dataclass's own by default.

    Raises:
        SpecError: a key is unknown or missing, or a value has another type or means nothing.

    Example::

        read_as(Results, json.loads(path.read_text())).student.return_mean
    """
    made: Kind = from_plain(kind, data, where or kind.__name__)
    return made


def from_plain(kind: Any, data: Any, where: str) -> Any:
    """What `to_plain` and JSON made of a value of this type. Nothing that the data names is imported or called.

    Args:
        kind: a dataclass, or a type that its fields have: numbers, texts, tuples, objects, choices, unions of these.
        data: the plain data.
        where: name of the data, for errors; parts are named below it, as ``train.terms[0].weight``.

    Raises:
        SpecError: a key is unknown or missing, or a value has another type or means nothing.

    Example::

        from_plain(TrainConfig, json.loads(text), "train")
    """
    if hasattr(kind, "from_file"):
        return kind.from_file(data, where)
    if is_dataclass(kind):
        return _dataclass(kind, data, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not any(type(data) is type(choice) and data == choice for choice in args):
            raise SpecError(f"'{where}' must be one of {', '.join(map(str, args))}, got {data!r:.80}.")
        return data
    if origin in (Union, types.UnionType):
        return _union(args, data, where)
    if origin is tuple:
        return _tuple(args, data, where)
    if kind is dict or origin in (dict, Mapping):
        if not isinstance(data, dict):
            raise SpecError(f"'{where}' must be {WORDS[dict]}, got {data!r:.80}.")
        of = args[1] if args else Any
        return {str(name): from_plain(of, value, f"{where}.{name}") for name, value in data.items()}
    if kind in (Any, object):
        return data
    if kind is float and type(data) is int and abs(data) < 2**1000:
        data = float(data)
    if type(data) is not kind or (kind is float and not math.isfinite(data)):
        raise SpecError(f"'{where}' must be {WORDS.get(kind, 'left out of a file')}, got {data!r:.80}.")
    return data


def to_plain(value: Any) -> Any:
    """What JSON can hold of a value, and `from_plain` reads back: dataclasses become objects, tuples lists, functions
    their names.

    Parts that have a ``to_json`` say themselves what they are; the value itself is written field by field, so that its
    own ``to_json`` can be this.

    Example::

        json.dumps(to_plain(config))
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _part(getattr(value, f.name)) for f in fields(value) if f.init}
    return _part(value)


def _part(value: Any) -> Any:
    if hasattr(value, "to_json") and not isinstance(value, type):
        return value.to_json()
    if isinstance(value, dict):
        return {str(name): _part(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_part(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    return name_of(value) if callable(value) else value


def name_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function of somebody's module."""
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def _tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    """A tuple of any length of one type, or of a type for each place."""
    if not isinstance(data, list | tuple):
        raise SpecError(f"'{where}' must be a list, got {data!r:.80}.")
    kinds = [args[0]] * len(data) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(data):
        raise SpecError(f"'{where}' must be a list of {len(kinds)}, got {len(data)}.")
    return tuple(from_plain(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(kinds, data, strict=True)))


def _union(args: tuple[Any, ...], data: Any, where: str) -> Any:
    """The alternative that the data is meant for: the dataclass that it fits best, else the first that takes it."""
    if data is None and type(None) in args:
        return None
    rest = [one for one in args if one is not type(None)]
    if isinstance(data, dict) and (classes := [one for one in rest if is_dataclass(one)]):
        return from_plain(max(classes, key=lambda one: _fit(one, data)), data, where)
    first: SpecError | None = None
    for one in rest:
        try:
            return from_plain(one, data, where)
        except SpecError as error:
            first = first or error
    raise first or SpecError(f"'{where}' must be left out, got {data!r:.80}.")


def _fit(kind: Any, data: dict[str, Any]) -> tuple[int, int, int, int]:
    """How well data suits a dataclass: by the choices it cannot have made, those it has made, and names that are
    unknown or missing; a field of one choice is a tag, which tells classes apart and is missed though it has a default.
    """
    hints = _hints(kind)
    choices = {name: get_args(hints[name]) for name in data if name in hints and get_origin(hints[name]) is Literal}
    made = sum(data[name] in allowed for name, allowed in choices.items())
    needed = {
        f.name
        for f in fields(kind)
        if f.init
        and (
            (f.default is MISSING and f.default_factory is MISSING)
            or (get_origin(hints[f.name]) is Literal and len(get_args(hints[f.name])) == 1)
        )
    }
    return made - len(choices), made, -len(set(data) - set(hints)), -len(needed - set(data))


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise SpecError(f"'{where}' must be {WORDS[dict]}, got {data!r:.80}.")
    hints, known = _hints(kind), [f for f in fields(kind) if f.init]
    unknown = sorted(set(data) - {f.name for f in known})
    if unknown:
        raise SpecError(f"Unknown key '{unknown[0]}' in '{where}': remove it or correct its spelling.")
    for f in known:
        if f.name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise SpecError(f"'{where}' lacks '{f.name}'.")
    values = {name: from_plain(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except SpecError as error:
        raise SpecError(f"In '{where}': {error}") from None


def check_fields(made: Any, **ranges: str) -> None:
    """Refuses a dataclass in which a field holds another type than it says, none of its choices, or a number outside
    its range: what was given from Python is held to what a file's would be.

    Args:
        made: the dataclass.
        ranges: as of `check_numbers`.

    Raises:
        SpecError: names the field and what it takes.
    """
    kind: Any = type(made)
    for name, hint in _hints(kind).items():
        if not _suits(value := getattr(made, name), hint):
            raise SpecError(f"'{name}' must be {_asked(hint)}, got {value!r:.80}{_way_out(value, hint)}.")
        if isinstance(value, list):  # what was read from a file is a tuple
            object.__setattr__(made, name, _as_tuple(value))
    check_numbers(made, **ranges)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _way_out(value: Any, hint: Any) -> str:
    """What to write in the place of a value, where it can be told: the class whose first field takes it."""
    if hint is int and isinstance(value, float) and value % 1 == 0:
        return f": write {round(value)}"
    classes: list[Any] = [one for one in (hint, *get_args(hint)) if is_dataclass(one)]
    if len(classes) != 1 or get_origin(hint) is tuple or not _suits(value, next(iter(_hints(classes[0]).values()))):
        return ""
    return f": write {classes[0].__name__}({value!r:.80})"


def _suits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; of one that is no plain data, such as a protocol, it is not asked."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (Union, types.UnionType):
        return any(_suits(value, one) for one in args)
    if origin is tuple:
        listed = isinstance(value, tuple | list)
        kinds = [args[0]] * len(value) if listed and args[-1] is Ellipsis else args
        return listed and len(value) == len(kinds) and all(map(_suits, value, kinds))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if hint in (bool, str, type(None)) or is_dataclass(hint):
        return isinstance(value, hint)
    return True


def _asked(hint: Any) -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_asked(one) for one in args))
    if origin is tuple:
        return f"a tuple, and each of it {_asked(args[0])}" if args[-1] is Ellipsis else "a tuple"
    name = getattr(hint, "__name__", str(hint))
    return WORDS.get(hint) or ("None" if hint is type(None) else f"{'an' if name[0] in 'AEIO' else 'a'} {name}")


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
        for one in value if isinstance(value, tuple | list) else (value,):
            check_number(name, one, interval)


def check_number(name: str, value: float | None, interval: str, *, whole: bool = False) -> None:
    """As `check_numbers`, for one number and its name; ``whole``: it counts something.

    Raises:
        SpecError: names the number and its range.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if whole and not isinstance(value, int):
        raise SpecError(f"'{name}' must be a whole number, got {value!r:.40}.")
    if value is None or (
        low <= value <= high and (value != low or interval[0] == "[") and (value != high or interval[-1] == "]")
    ):
        return
    words = f"lie in {interval}"
    if high == float("inf"):
        words = "be a finite number" if low == -high else f"be {'at least' if interval[0] == '[' else 'above'} {low:g}"
        words += " and finite" if low != -high and value in (high, -high) else ""
    raise SpecError(f"'{name}' must {words}, got {value}.")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)

"""The JSON schema of results.json, from the dataclasses that are written there.

python tests/results_schema.py      # writes docs/results.schema.json anew
"""

import ast
import inspect
import json
import types
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distilrl.summaries import AnyResults

FILE = Path(__file__).parents[1] / "docs" / "results.schema.json"
JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema (2020-12) of a dataclass, or of a union of several; descriptions are the docstrings."""
    classes: dict[str, Any] = {}
    whole = _schema(kind, classes)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": classes}


def _schema(kind: Any, classes: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; those of the dataclasses within go to ``classes``."""
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        name = getattr(kind, "__name__", str(kind))
        if name not in classes:
            classes[name] = {}  # known before its parts are, which may be of its own kind
            classes[name] = _schema_of_fields(kind, classes)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        several = [_schema(one, classes) for one in args]
        if all(one.keys() == {"type"} for one in several):
            return {"type": [one["type"] for one in several]}
        return {"anyOf": several}
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": _schema(args[0], classes)}
    if origin is tuple:
        each = [_schema(one, classes) for one in args]
        return {"type": "array", "prefixItems": each, "minItems": len(each), "items": False}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], classes)}
    return {} if kind is Any else {"type": JSON_TYPES[kind]}


def _schema_of_fields(kind: Any, classes: dict[str, Any]) -> dict[str, Any]:
    hints, known, told = get_type_hints(kind), [f for f in fields(kind) if f.init], _docstrings(kind)
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__).split("\n\n")[0].replace("\n", " "),
        "properties": {f.name: _schema(hints[f.name], classes) | {"description": told[f.name]} for f in known},
        "required": [f.name for f in known if f.default is MISSING and f.default_factory is MISSING],
        "additionalProperties": False,
    }


def _docstrings(kind: Any) -> dict[str, str]:
    """The text below each field, by its name."""
    told: dict[str, str] = {}
    bases: list[Any] = [base for base in reversed(kind.__mro__) if is_dataclass(base)]
    for base in bases:
        (body,) = (part.body for part in ast.parse(inspect.getsource(base)).body if isinstance(part, ast.ClassDef))
        for one, below in pairwise(body):
            if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                told[ast.unparse(one.target)] = " ".join(str(below.value.value).split())
    return told


def text() -> str:
    """What the file holds."""
    return json.dumps(schema_of(AnyResults), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

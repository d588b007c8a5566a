"""What an option's help says, as one paragraph."""

import ast
import inspect
import textwrap
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

from tyro.conf import arg


def unbroken(command: type[Any]) -> type[Any]:
    """A command whose options, and those of its groups, are told of without the line breaks of the source, which the
    parser keeps where a docstring is indented.
    """
    for owner in (one for one in command.__mro__ if is_dataclass(one)):
        for name, words in _told(owner).items():
            owner.__annotations__[name] = Annotated[owner.__annotations__[name], arg(help=words)]
        for group in get_type_hints(owner).values():
            if isinstance(group, type) and is_dataclass(group):
                unbroken(group)
    return command


def _told(owner: type[Any]) -> dict[str, str]:
    """The docstring below each field of a class; nothing where its source is not there."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, SyntaxError):
        return {}
    told = {}
    for field, below in pairwise(tree.body if isinstance(tree, ast.ClassDef) else []):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            told[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return told

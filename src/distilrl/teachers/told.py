"""What decides the answers of somebody's function or module, as a text: it has no file that it could be known by."""

import hashlib
import re
from functools import partial
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

PLAIN = (int, float, str, bytes)
"""What tells all of itself."""
MODULES_OWN = frozenset(vars(nn.Module()))
"""What every module holds: it is told by its structure and weights."""


def told(value: Any, depth: int = 4) -> str:
    """What decides a function's answers, as far as it can be told, as a text that is the same in every process.

    Of a function its name, code, defaults, what it takes from around it, and whose method it is; of a module its
    structure, weights, attributes and the code of its forward pass; of tuples, lists and dicts their parts; of another
    object its class, what that does when it is called, and its attributes, but of objects among these only the networks
    that they hold: replays, environments and the like are others in every process.
    """
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, nn.Module):
        weights = [f"{key}={told(tensor)}" for key, tensor in value.state_dict().items()]
        own = [one for one in value.modules() if not type(one).__module__.startswith("torch.")]
        kept = [part for module in own for part in _held(module, depth)]
        passes = [told(type(module).forward, depth - 1) for module in own] if depth else []
        return f"{type(value).__qualname__} {re.sub('0x[0-9a-f]+', '', repr(value))} {weights} {kept} {passes}"
    if isinstance(value, CodeType):
        constants = [told(one, depth - 1) for one in value.co_consts] if depth else []
        return f"{value.co_code.hex()} {value.co_names} {constants}"
    if isinstance(value, tuple | list | dict):
        parts = [*value.items()] if isinstance(value, dict) else value
        return f"{type(value).__name__} {[told(one, depth - 1) for one in parts] if depth else len(parts)}"
    if isinstance(value, partial):
        return f"{told(value.func, depth)} {told(value.args, depth)} {told(value.keywords, depth)}"
    code = getattr(value, "__code__", None)
    text = getattr(value, "__qualname__", type(value).__qualname__)
    if depth == 0 or isinstance(value, type | ModuleType):
        return str(text)
    whose = getattr(value, "__self__", None)
    if code is None:
        called = told(type(value).__call__, depth - 1) if callable(value) else ""
        return f"{text} {called} {told(whose, depth - 1)} {_held(value, depth)}"
    around: list[Any] = [getattr(cell, "cell_contents", None) for cell in getattr(value, "__closure__", None) or ()]
    known = getattr(value, "__globals__", {})
    around += [known[name] for name in sorted(_names(code)) if name in known]
    around += [*(getattr(value, "__defaults__", None) or ()), *(getattr(value, "__kwdefaults__", None) or {}).items()]
    return f"{text} {told(code, depth)} {[told(one, depth - 1) for one in (*around, whose)]}"


def _held(value: Any, depth: int) -> list[str]:
    """The attributes of an object."""
    held = []
    for key, one in sorted(getattr(value, "__dict__", {}).items()):
        if isinstance(value, nn.Module) and key in MODULES_OWN:
            continue
        if one is None or callable(one) or isinstance(one, (*PLAIN, Tensor, np.ndarray, tuple, list, dict)):
            held.append(f"{key}={told(one, depth - 1) if depth else type(one).__qualname__}")
        else:
            within = sorted(getattr(one, "__dict__", {}).items())
            held.append(f"{key}: {[told(network, 0) for _, network in within if isinstance(network, nn.Module)]}")
    return held


def _names(code: CodeType) -> set[str]:
    """What a function may take from its module, itself or by a function inside it."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return set(code.co_names).union(*inner)

"""What a student can be exported to: the one place that knows which target holds which student."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from distilrl.errors import SpecError
from distilrl.limits import MAX_STATE
from distilrl.specs import NetworkSpec

Target = Literal["onnx", "c", "int8", "torch", "tflite", "web"]
TARGETS: tuple[Target, ...] = get_args(Target)
PROPOSED: tuple[Target, ...] = ("onnx", "c", "int8", "torch", "web")
"""Those that need no large package."""


def lacking(spec: NetworkSpec, target: Target) -> tuple[str, str]:
    """What keeps a student out of a target, as the beginning of a sentence, and what could be distilled instead; empty
    where nothing does.

    Example::

        lacking(NetworkSpec.parse("gru:4", (4,), 2), "torch")  # "The student gru:4 remembers, …", ""
    """
    name = spec.describe()
    if target in ("torch", "tflite"):
        return (f"The student {name} remembers, and '{target}' cannot hold that" if spec.remembers else ""), ""
    if target in ("onnx", "int8") and (spec.history - 1) * (len(spec.seen) or math.prod(spec.obs_shape)) > MAX_STATE:
        return f"The student {name} keeps more than {MAX_STATE:,} numbers, which no ONNX file of it may", ""
    if target == "onnx":
        return "", ""
    written = f"cannot be written as {'integers' if target == 'int8' else 'C'}"
    if spec.blocks:
        return f"A residual network {written}", "distil it into a cnn student"
    if spec.picture is not None and not spec.convs:
        return f"A student of dense layers that reads images {written}", "distil it into a cnn student"
    if target == "int8" and spec.activates and spec.activation != "relu":
        relu = f"distil {replace(spec, activation='relu').describe()}@relu"
        return f"Only ReLU students can be written in integers, and {name} is none", relu
    return "", ""


def targets_of(spec: NetworkSpec) -> list[Target]:
    """Those of `PROPOSED` that hold a student.

    Example::

        targets_of(NetworkSpec.parse("gru:4", (4,), 2))  # onnx, c, int8 and web
    """
    return [target for target in PROPOSED if not lacking(spec, target)[0]]


def check_target(spec: NetworkSpec, target: Target) -> None:
    """Refuses a student that a target cannot hold.

    Raises:
        SpecError: says why, and what else holds it.
    """
    told, instead = lacking(spec, target)
    if told:
        raise SpecError(f"{told}: export it to {listed(targets_of(spec))}{', or ' if instead else ''}{instead}.")


def listed(targets: Sequence[str]) -> str:
    """Targets in words.

    Example::

        listed(["onnx", "c", "web"])  # "onnx, c or web"
    """
    return " or ".join(filter(None, (", ".join(targets[:-1]), targets[-1])))

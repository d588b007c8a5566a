"""CrossQ's batch renormalisation, as it is in evaluation, folded into the dense layers after it: the same function."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from distilrl.errors import FileError
from distilrl.teachers.layers import Layer, layer, preceded, vector

EPSILON = 1e-3
"""What sb3-contrib adds to the variance by default."""
Fold = Callable[[Layer], Layer]
"""A dense layer that sees normalised numbers to one that sees the numbers themselves."""


def folded(
    state: Mapping[str, Tensor], prefix: str, label: str, activation: str, epsilon: Any
) -> tuple[list[Layer], Fold]:
    """Dense layers ``prefix.N``, each with the renormalisation before it folded in, and what folds the last one in.

    Args:
        state: tensors by name; a renormalisation has ``scale``, ``bias``, ``ra_mean`` and ``ra_var``.
        prefix: of the layers' names.
        label: what to call the file in an error.
        activation: that follows each layer.
        epsilon: added to the variance.

    Raises:
        FileError: shapes do not chain, or a variance is negative.
    """
    pattern = re.compile(rf"({re.escape(prefix)}\.(\d{{1,4}}))\.(?:weight|scale)")
    found = sorted((int(m[2]), m[1]) for name in state if (m := pattern.fullmatch(name)))
    layers: list[Layer] = []
    waiting: Fold = _same
    for _, name in found:
        if f"{name}.weight" in state:
            layers.append(waiting(layer(state, name, label, activation)))
            waiting = _same
        else:
            waiting = _fold(state, name, label, epsilon)
    return layers, waiting


def _same(one: Layer) -> Layer:
    return one


def _fold(state: Mapping[str, Tensor], name: str, label: str, epsilon: Any) -> Fold:
    """What folds one renormalisation into the layer after it."""
    size = state[f"{name}.scale"].numel()
    parts = ("scale", "bias", "ra_mean", "ra_var")
    scale, bias, mean, var = (vector(state, f"{name}.{part}", size, label).double() for part in parts)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise FileError(f"{label}: its 'batch_norm_eps' ({epsilon!r:.40}) must be a small number: the file is damaged.")
    if (var + epsilon <= 0).any():
        raise FileError(f"Tensor '{name}.ra_var' in {label} is negative: the file is damaged.")
    factor = scale / (var + epsilon).sqrt()

    def fold(one: Layer) -> Layer:
        if one.weight.shape[1] != size:
            raise FileError(
                f"{label}: '{name}' normalises {size} numbers, but '{one.name}' reads {one.weight.shape[1]}: the "
                "file is damaged."
            )
        return preceded(one, factor, bias - mean * factor)

    return fold

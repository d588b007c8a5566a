"""Specs of other widths, made from one or two."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distilrl.errors import SpecError
from distilrl.specs import NetworkSpec


def between(wide: NetworkSpec, narrow: NetworkSpec, share: float) -> NetworkSpec:
    """The network whose widths lie between two of one build, in geometric steps: ``wide`` at a share of 0, ``narrow``
    at 1.

    Raises:
        SpecError: they differ in more than their widths, or ``wide`` is narrower somewhere.
    """
    layers = [[c for c, _, _ in spec.convs] + list(spec.widths) for spec in (wide, narrow)]
    shapes = [_build_of(spec) for spec in (wide, narrow)]
    if shapes[0] != shapes[1] or any(big < small for big, small in zip(*layers, strict=True)):
        raise SpecError(
            f"{wide.describe()} cannot shrink to {narrow.describe()}: both need the same layers and activation, the "
            "first wider ones."
        )
    widths = [round(small * (big / small) ** (1 - share)) for big, small in zip(*layers, strict=True)]
    return _of_widths(narrow, widths)


def _build_of(spec: NetworkSpec) -> tuple[Any, ...]:
    """What two networks that differ in their widths alone have in common."""
    kernels, cell = [c[1:] for c in spec.convs], spec.cell and spec.cell.kind
    return kernels, len(spec.blocks), len(spec.hidden), cell, len(spec.behind), spec.history, spec.activation


def _of_widths(spec: NetworkSpec, widths: Sequence[int]) -> NetworkSpec:
    """The network of the same build with these channels of convolutions, and then `NetworkSpec.widths`."""
    left = iter(widths)
    convs = tuple((next(left), k, s) for _, k, s in spec.convs)
    blocks, hidden = (tuple(next(left) for _ in old) for old in (spec.blocks, spec.hidden))
    cell = replace(spec.cell, size=next(left)) if spec.cell is not None else None
    return replace(spec, convs=convs, blocks=blocks, hidden=hidden, cell=cell, behind=tuple(left))


def scaled(spec: NetworkSpec, params: int) -> NetworkSpec:
    """The network of the same build whose widths are multiplied so that it has about this many parameters."""

    def times(factor: float) -> NetworkSpec:
        widths = [*(c for c, _, _ in spec.convs), *spec.widths]
        return _of_widths(spec, [max(1, round(n * factor)) for n in widths])

    low, high = 0.0, 1.0
    while times(high).params < params and high < 1e4:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if times(middle).params < params else (low, middle)
    return min((times(low), times(high)), key=lambda candidate: abs(candidate.params - params))

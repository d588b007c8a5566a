"""What environments there are here: those that ALE, Gymnasium and its installed plugins register."""

from dataclasses import dataclass
from importlib.util import find_spec

import ale_py  # noqa: F401  (importing it registers its environments)
import gymnasium
from gymnasium.envs.registration import find_highest_version

from distilrl.envs.ale import is_ale
from distilrl.modules import home_of

NEEDS = {"box2d": "Box2D", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}
"""Packages that families of Gymnasium's own need."""


@dataclass(frozen=True)
class Family:
    """Environments of one origin."""

    name: str
    """ALE, a family of Gymnasium's own, or the package that registers them."""
    ids: tuple[str, ...]
    """As ``--env`` takes them, each in its newest version."""
    lacks: str
    """The package without which they cannot be made and which is not installed; empty where nothing is missing."""


def families() -> tuple[Family, ...]:
    """Environments that can be named without importing a module of one's own.

    Example::

        [family.name for family in families() if not family.lacks]
    """
    found: dict[str, list[str]] = {}
    for name, spec in gymnasium.registry.items():
        maker = home_of(spec.entry_point)
        *package, family = maker.split(".")[:3]
        if package == ["gymnasium"] or spec.version not in (None, find_highest_version(spec.namespace, spec.name)):
            continue  # wrappers of other interfaces, and versions that a newer one replaces
        if is_ale(spec) and (spec.namespace or not spec.name.endswith("NoFrameskip")):
            continue  # every game once, by its name without sticky actions
        home = "ALE" if is_ale(spec) else family if package == ["gymnasium", "envs"] else maker.split(".")[0]
        found.setdefault(home, []).append(name)
    return tuple(Family(name, tuple(sorted(ids)), _lacks(name)) for name, ids in sorted(found.items()))


def _lacks(family: str) -> str:
    package = NEEDS.get(family, "")
    return package if package and find_spec(package) is None else ""

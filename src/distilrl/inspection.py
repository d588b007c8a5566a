"""What a teacher's file is: library, spaces, layers, what in it was not executed; and how it plays."""

from dataclasses import replace
from typing import Any

import numpy as np

from distilrl import stats
from distilrl.envs import describe_env
from distilrl.evaluate import ACCEPT_SEEDS, Play, Tell, accept, checked, play, seeds_from, ticker
from distilrl.teachers import Teacher

COLLAPSE = 0.7
"""A teacher that keeps less than this share of its score under a disturbance is warned of."""


def inspect(teacher: Teacher) -> dict[str, Any]:
    """What the file says of itself."""
    layers = [{"name": name, "shape": list(p.shape)} for name, p in teacher.network.named_parameters()]
    return {
        "path": teacher.path,
        "format": teacher.format,
        "kind": teacher.kind,
        "obs_shape": list(teacher.obs_shape) if teacher.obs_shape else None,
        "n_actions": teacher.n_actions,
        "network": teacher.name,
        "layers": layers,
        **teacher.size(),
        "sha256": teacher.digest,
        **teacher.meta,
    }


def inspect_play(teacher: Teacher, env_id: str, *, episodes: int = 20, threads: int = 2, tell: Tell | None = None) -> dict[str, Any]:
    """The acceptance check, the score with random and with sticky actions, and warnings in words.

    Raises:
        TeacherError: the spaces differ, or an action value is not finite.
    """
    info = describe_env(env_id)
    teacher.check_fits(info)
    how = Play(env_id, threads=threads)
    tick = ticker(tell) if tell else None
    result = accept(teacher, how, episodes=episodes, weak_ok=True, tick=tick)
    random = result["random_return_mean"]
    ways: dict[str, dict[str, Any]] = {"epsilon 0.05": {"epsilon": 0.05}} | (
        {"sticky actions 0.25": {"sticky": 0.25}} if info.pixels else {}
    )
    disturbed = {}
    warnings = []
    if not result["better_than_random"]:
        warnings.append(
            "It is no better than random play: wrong environment, wrong preprocessing (frame stack, channel order, scaling), or a "
            "missing normalizer."
        )
    for name, change in ways.items():
        games = play(checked(teacher), replace(how, **change), seeds_from(ACCEPT_SEEDS, episodes), tick=tick)
        disturbed[name] = stats.summarise(games.returns, np.random.default_rng(0), games.fingerprints)
        score = stats.score(float(games.returns.mean()), result["return_mean"], random)
        if result["better_than_random"] and score is not None and score < COLLAPSE:
            warnings.append(f"Its score falls to {score:.2f} with {name}: a student will inherit that.")
    if info.pixels and result["better_than_random"] and disturbed["epsilon 0.05"]["return_mean"] > result["return_mean"]:
        warnings.append("It scores more with a little noise: its greedy play gets stuck somewhere; consider --eval-epsilon 0.01.")
    return {"env": env_id, "protocol": info.protocol, **result, "disturbed": disturbed, "warnings": warnings}

"""Settings of the comparison of methods: the grid that every method is tried on, and the rule that chooses.

A grid of learning rates and temperatures (by the entropy that they leave the teacher, `entropy_share`), which goes on
to a higher rate for a method whose choice lies at its upper edge. The highest mean score over what was tried decides;
of settings within `TIE` of it, the one nearest to the recipe's own.
"""

import math
from collections.abc import Iterable
from typing import Any

from method_tables import AS_SHIPPED, DEFAULT

from distilrl import RECIPES, TrainConfig, make_config, stats
from distilrl.objective import TeacherTerm
from distilrl.recipes import TEACHERLESS

METHODS = (*(name for name in RECIPES if name not in ("attention", *TEACHERLESS)), "assistant", "dqn")
RATES, SHARES, TIE = (1e-3, 3e-3, 1e-2, 3e-2), (0.15, 0.5), 0.01
BEYOND = 1e-1
"""The rate that is tried too of a method whose choice is the highest of `RATES`."""
PRINTED = "policy_distillation"
"""Its temperature is a number in its paper, which stands in the grid beside those that are found."""
GREEDY_ONLY = ("nll", "large_margin")
"""Losses that see of the teacher its greedy action alone, whatever the temperature."""
EQUAL = {
    "updates": 3, "batch_size": 128, "n_envs": 8, "learning_starts": 800,
    "check_every": 2_000, "check_episodes": 20, "gap": -99.0,
}  # fmt: skip
"""The same for every run."""


def config_of(
    method: str, env: str, rate: float | None = None, share: float | None = None, **changes: Any
) -> TrainConfig:
    """A method's configuration with a setting of the grid; None: the recipe's own."""
    name = DEFAULT if method == "assistant" else method.removesuffix(AS_SHIPPED)
    config = make_config(name, env, **(EQUAL | changes))
    if rate is not None:
        config = config.but(learning_rate=rate)
    if share is not None:
        config = config.but(entropy_share=share)
        if name == PRINTED:
            config = config.but(terms=(TeacherTerm("forward_kl"),))
    return config


def has_temperature(method: str) -> bool:
    """Whether the entropy that the temperature leaves decides anything in a method."""
    terms = config_of(method, "CartPole-v1").terms
    return method == PRINTED or any(
        getattr(term, "teacher_temperature", 1.0) is None and term.name not in GREEDY_ONLY for term in terms
    )


def grid(method: str, rates: Iterable[float] = RATES) -> list[tuple[float, float | None]]:
    """Learning rates and entropy shares that a method is tried with; None: its own temperature."""
    own = (None,) if method == PRINTED or not has_temperature(method) else ()
    return [(rate, share) for rate in rates for share in (*own, *(SHARES if has_temperature(method) else ()))]


def chosen(method: str, rows: Iterable[dict[str, Any]], count: int) -> dict[str, Any] | None:
    """The setting of a method by the lines of the choice; None where one of the grid has fewer than ``count``."""
    scores: dict[tuple[float, float | None], list[float]] = {each: [] for each in grid(method, (*RATES, BEYOND))}
    for row in rows:
        if row["method"] == method and (setting := (row["learning_rate"], row["entropy_share"])) in scores:
            scores[setting].append(row["score"])
    if any(len(scores[setting]) < count for setting in grid(method)):
        return None
    means = {setting: stats.mean(each) for setting, each in scores.items() if len(each) >= count}
    config = config_of(method, "CartPole-v1")
    own_share = None if method == PRINTED else config.optim.entropy_share

    def distance(setting: tuple[float, float | None]) -> tuple[float, float]:
        rate, share = setting
        return abs(math.log(rate / config.optim.learning_rate)), abs((share or 0.0) - (own_share or 0.0))

    best = min((one for one in means if means[one] >= max(means.values()) - TIE), key=distance)
    tried_all = [{"learning_rate": r, "entropy_share": s, "score": round(means[r, s], 4)} for r, s in means]
    own = {"learning_rate": config.optim.learning_rate, "entropy_share": own_share if has_temperature(method) else None}
    return {"learning_rate": best[0], "entropy_share": best[1], "own": own, "tried": tried_all}

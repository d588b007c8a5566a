"""What benchmarks/fields.py runs, a module for each field: ``ROWS``, by name, and what there is to say of the field."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl import EnvRef, Measure, Teacher, describe_env, make_vec_env, play
from distilrl.episodes import Episodes, Play
from distilrl.heads import student_head
from distilrl.spaces import Choices

sys.path.append(str(Path(__file__).parents[2]))  # where examples/ lies

Rule = Callable[[EnvRef, Sequence[int]], NDArray[np.float64] | Episodes]
"""What needs no learning: returns (E,) of an episode for each seed, in the verdict's environment; or the episodes, in
which the row's measures were taken, in their order.
"""
CHOSEN_ON = range(20)
"""Seeds on which the best single action is chosen, none of a verdict's."""


@dataclass(frozen=True)
class Row:
    """An environment with its teacher and its students, as the command line takes them."""

    env: str
    teacher: str
    """File or folder, from the repository's root; the field's page says which command makes it."""
    students: tuple[str, ...]
    """From large to small: student specs, and ``tree:32`` for a tree of at most 32 leaves."""
    options: str = ""
    """Of ``distill`` and ``tree`` alike: ``--verdict-env-kwargs '{"years": [2013, 2018]}' --episodes 2000``."""
    training: str = ""
    """Of ``distill`` alone: ``--steps 60000 --hide physics``."""
    growing: str = ""
    """Of ``tree`` alone: ``--iterations 10 --states 6000``."""
    rules: dict[str, Rule] = field(default_factory=dict)
    """By name, as in 'buy and hold', 'never treat'."""
    beside: tuple[str, ...] = ()
    """Rules without whose return no table is to show this one, though another rule is better."""
    exports: tuple[str, ...] = ("c",)
    """Targets whose bytes of weights are noted down; of trees C alone."""


@dataclass(frozen=True)
class Field:
    """A field of use; a module of this package holds one as ``FIELD``."""

    title: str
    """In a few words, small: the page's heading begins with it."""
    title_zh: str
    """The same in Chinese."""
    page: str
    """Its page, from the repository's root."""
    extra: str
    """Extra of the package that installs what it needs."""
    rows: dict[str, Row]
    """By name."""


def by_hand(act: Callable[[NDArray[Any], np.random.Generator], Any]) -> Rule:
    """A rule that decides from the observation (D,) as a student sees it, and from draws of the episode's own.

    Example::

        by_hand(lambda *_: 0)  # always the first action
    """

    def play(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
        envs, returns = make_vec_env(ref, 1), np.zeros(len(seeds))
        for episode, seed in enumerate(seeds):
            rng, over = np.random.default_rng([seed, 2]), False
            obs = envs.reset(np.array([seed]))
            while not over:
                envs.send(np.array(act(obs[0], rng)).reshape(1, envs.info.action.size))
                step = envs.recv()
                obs, over = step.obs, bool(step.terminated[0] or step.truncated[0])
                returns[episode] += step.reward[0]
        envs.close()
        return returns

    return play


def always(ref: EnvRef, action: int, seeds: Sequence[int], measures: Sequence[Measure] = ()) -> Episodes:
    """Episodes in which one action is taken at every step; of real actions none at all, each number 0."""
    info = describe_env(ref)
    numbers = torch.zeros(student_head(info.action).width)
    if isinstance(info.action, Choices):
        numbers[action] = 1.0
    same = Teacher.from_callable(lambda obs: numbers.expand(len(obs), -1), len(numbers), name=f"always {action}")
    return play(same.fitted(info).policy, Play(ref, measures=tuple(measures)), seeds)


def single_action(*measures: Measure) -> Rule:
    """The action that does best where it is taken at every step, chosen on seeds of its own."""

    def best(ref: EnvRef, seeds: Sequence[int]) -> Episodes:
        action = describe_env(ref).action
        tried = range(action.nvec[0] if isinstance(action, Choices) and len(action.nvec) == 1 else 1)
        chosen = max(tried, key=lambda one: always(ref, one, CHOSEN_ON).returns.mean()) if len(tried) > 1 else 0
        print("single action:", chosen)
        return always(ref, chosen, seeds, measures)

    return best

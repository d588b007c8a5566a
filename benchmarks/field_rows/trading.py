"""Trading: the S&P 500 of examples/trading, judged on years of which nobody learnt."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distilrl import EnvRef, describe_env, load_teacher
from distilrl.episodes import Episodes, Play
from distilrl.evaluate import play
from distilrl.measures import Measure
from distilrl.teachers import Teacher
from examples.trading.market import POSITIONS
from examples.trading.rules import AtRandom, Hold, Trend
from field_rows import Field, Row, Rule

TEACHER = "zoo/trading-dqn"
ENV = "examples.trading:SP500-v0"
LATER = '"years": [2013, 2018]'
MEASURES = (Measure("turnover", "sum"), Measure("position", "mean"))
OPTIONS = (
    "--margin-abs 0.5 --measure turnover=sum --measure position=mean --cluster year --accept-weak-teacher "
    "--disturbed-episodes 0"
)
"""Half a percent a year is what a student may lose; episodes that begin in one year count as one, and of so few years
no policy is shown to be better than random play.
"""


def _rule(make: Callable[[EnvRef, Sequence[int]], Callable[[Tensor], Tensor]]) -> Rule:
    """A rule of observations."""

    def episodes(ref: EnvRef, seeds: Sequence[int]) -> Episodes:
        teacher = Teacher.from_callable(make(ref, seeds)).fitted(describe_env(ref))
        return play(teacher.policy, Play(ref, threads=1, measures=MEASURES), seeds)

    return episodes


def _as_the_teacher(ref: EnvRef, seeds: Sequence[int]) -> AtRandom:
    """At random, as often as the teacher trades, and as much in the market."""
    info = describe_env(ref)
    how = Play(ref, threads=1, measures=MEASURES)
    turnover, exposure = play(load_teacher(TEACHER).fitted(info).policy, how, seeds).measured.mean(0).tolist()
    return AtRandom(turnover, exposure, info.obs.places("position")[0], torch.Generator().manual_seed(0))


def _always(_: EnvRef, __: Sequence[int]) -> Hold:
    """All in, every day."""
    return Hold(len(POSITIONS) - 1)


def _trend(ref: EnvRef, _: Sequence[int]) -> Trend:
    """In the market above its mean of 200 days."""
    return Trend(describe_env(ref).obs.places("above_200")[0])


AT_RANDOM = "random with the teacher's turnover and position"
RULES = {
    "buy and hold": _rule(_always),
    AT_RANDOM: _rule(_as_the_teacher),
    "trend of 200 days": _rule(_trend),
}

FIELD = Field(
    title="trading",
    title_zh="交易",
    page="docs/fields/trading.md",
    extra="trading",
    rows={
        "SP500-v0": Row(
            ENV,
            TEACHER,
            ("mlp:32", "mlp:16", "mlp:8", "mlp:", "tree:32", "tree:8"),
            f"--verdict-env-kwargs '{{{LATER}}}' {OPTIONS}",
            "--steps 8000 --set check-every=2000 --set final-episodes=20",
            "--iterations 6 --states 4000",
            RULES,
            (AT_RANDOM,),
        ),
        "SP500-v0, the years from 1999 to 2012 in order": Row(
            ENV,
            TEACHER,
            ("mlp:8",),
            f"--env-kwargs '{{\"days\": 3200}}' --verdict-env-kwargs '{{{LATER}, \"days\": 252}}' {OPTIONS}",
            "--recipe dynamic --steps 26000 --set check-every=2000 --set check-episodes=2 --set final-episodes=4",
            rules=RULES,
            beside=(AT_RANDOM,),
        ),
    },
)

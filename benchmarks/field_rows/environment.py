"""Environmental monitoring: the greenhouse of examples/greenhouse and the sensor of examples/monitoring."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distilrl import EnvRef, describe_env
from distilrl.episodes import Play
from distilrl.evaluate import play
from distilrl.spaces import ObsSpec
from distilrl.teachers import Teacher
from examples import greenhouse
from examples.monitoring.rules import Every, OnChange
from field_rows import Field, Row, Rule


def _grower(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
    """The package's rules of a grower's climate computer."""
    from lettuce_greenhouse_gym.baselines.base import run_episode  # only where the rule is played
    from lettuce_greenhouse_gym.baselines.heuristic import GrowerHeuristic

    env = greenhouse.make(**ref.kwargs)
    return np.array([run_episode(env, GrowerHeuristic(), seed=int(seed)).total_return for seed in seeds])


def _rule(make: Callable[[ObsSpec], Callable[[Tensor], Tensor]]) -> Rule:
    """A rule of observations."""

    def returns(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
        info = describe_env(ref)
        return play(Teacher.from_callable(make(info.obs)).fitted(info).policy, Play(ref, threads=1), seeds).returns

    return returns


FIELD = Field(
    title="environmental monitoring",
    title_zh="环境监测",
    page="docs/fields/environment.md",
    extra="environment",
    rows={
        "Lettuce-v0": Row(
            "examples.greenhouse:Lettuce-v0",
            "zoo/greenhouse-ppo/ppo.zip",
            ("mlp:16",),
            "--normalizer zoo/greenhouse-ppo/vecnormalize.pkl "
            '--verdict-env-kwargs \'{"starts": [40, 60], "hours": 0.5}\' '
            "--measure revenue=sum --measure energy_cost=sum --measure penalty=sum --cluster day "
            "--disturbed-episodes 0 --episodes 100 --accept-episodes 8",
            "--steps 16000 --set check-episodes=2 --set check-every=8000 --set final-episodes=4",
            rules={"grower": _grower},
        ),
        "Sensor-v0": Row(
            "examples.monitoring:Sensor-v0",
            "zoo/monitoring-dqn",
            ("mlp:32", "mlp:16", "mlp:8", "mlp:4", "mlp:", "tree:32"),
            "--verdict-env-kwargs '{\"held_out\": true}' --measure error=mean --measure 'energy=sum<=0.06' "
            "--measure sent=sum --cluster day --disturbed-episodes 0",
            "--steps 12000 --set check-every=3000 --set final-episodes=20",
            "--iterations 6 --states 4000",
            rules={
                "every 4th step": _rule(lambda obs: Every(4, obs.places("since_sent")[0])),
                "on a change of 0.5": _rule(
                    lambda obs: OnChange(2, 0.5, obs.places("since_measured")[0], obs.places("moved")[0])
                ),
            },
            exports=("c", "int8"),
        ),
    },
)

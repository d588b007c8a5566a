"""Driving: highway-env's traffic, and the rule by which its other cars drive."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distilrl import EnvRef, Measure
from distilrl.episodes import Episodes
from field_rows import Field, Row, always, single_action

SAFE = "--disturbed-episodes 0 --measure 'crashed=max<=0.05' --measure speed=mean"
"""As safe as the teacher: at most five collisions in a hundred episodes more."""
CLAIM = f"--episodes 100 {SAFE}"
COARSE = '{"config": {"simulation_frequency": 5}}'
"""The simulation in steps of a fifth of a second, as highway-fast has it."""
HALF_A_MINUTE = '{"config": {"duration": 30}}'
MEASURES = (Measure("crashed", "max"), Measure("speed", "mean"))


def idm(ref: EnvRef, seeds: Sequence[int]) -> Episodes:
    """IDM and MOBIL in the place of the policy, which is asked and not heard."""
    wrapped = replace(ref, wrappers=("examples.driving:IDM",), named=True)  # a camera changes no traffic
    return always(wrapped, 0, seeds, MEASURES)


def unseeing(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64] | Episodes:
    """The best single action, for which nobody need draw what a camera sees."""
    return single_action(*MEASURES)(replace(ref, wrappers=(), named=True), seeds)


HIGHWAY = Row(
    env="highway_env:highway-fast-v0",
    teacher="zoo/highway-dqn",
    students=("mlp:16,16",),
    options=CLAIM,
    training="--steps 8000",
    rules={"IDM": idm, "best single action": single_action(*MEASURES)},
    exports=("c", "onnx"),
)
ROUNDABOUT = replace(
    HIGHWAY,
    env="highway_env:roundabout-v1",
    teacher="zoo/roundabout-dqn",
    options=f"--env-kwargs '{COARSE}' {CLAIM}",
)
"""Simulated in coarse steps, as the merge and the intersection."""
FIELD = Field(
    title="driving",
    title_zh="驾驶",
    page="docs/fields/driving.md",
    extra="driving",
    rows={
        "highway": HIGHWAY,
        "highway, 32,000 steps": replace(HIGHWAY, students=("mlp:32,32",), training="--steps 32000"),
        "merge": replace(
            ROUNDABOUT,
            env="highway_env:merge-v1",
            teacher="zoo/merge-dqn",
            students=("mlp:16,16", "mlp:8"),
        ),
        "roundabout": ROUNDABOUT,
        "intersection": replace(
            ROUNDABOUT,
            env="highway_env:intersection-v2",
            teacher="zoo/intersection-dqn",
            students=("mlp:32,32", "mlp:8"),
        ),
        "racetrack": replace(
            HIGHWAY,
            env="highway_env:racetrack-v1",
            teacher="zoo/racetrack-sac",
            students=("mlp:16,16@tanh", "mlp:4@tanh"),
            options=f"--env-kwargs '{HALF_A_MINUTE}' --wrapper gymnasium.wrappers:FlattenObservation "
            f"--episodes 50 {SAFE}",
            training="--steps 16000",
        ),
        "roundabout, 32,000 steps": replace(ROUNDABOUT, students=("mlp:32,32",), training="--steps 32000"),
        "highway, by camera": replace(
            HIGHWAY,
            students=("cnn:16k5s2,16k3s2,16k3s2:32",),
            options=f"--wrapper examples.driving:Camera --teacher-reads cars {CLAIM}",
            training="--hide cars --steps 32000",
            rules={"IDM": idm, "best single action": unseeing},
        ),
    },
)

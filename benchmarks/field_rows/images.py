"""Medical diagnosis: brain MR slices, one decision each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distilrl import EnvRef
from examples.diagnosis.brain import BrainMR
from examples.diagnosis.images import load, trivial_rules
from field_rows import Field, Row, Rule


def by_image(name: str) -> Rule:
    """A rule of `trivial_rules`, asked about the image that each seed draws."""

    def play(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
        slices, env = load(), BrainMR(**ref.kwargs)
        said = np.zeros(len(slices.tumour), bool)
        said[slices.held_out] = trivial_rules(slices)[name]
        places = [env.reset(seed=int(seed))[1]["image"] for seed in seeds]
        return (said == slices.tumour)[places].astype(np.float64)

    return play


OPTIONS = (
    """--verdict-env-kwargs '{"split": "held-out"}' --accept-episodes 200 --episodes 1000 """
    "--disturbed-episodes 0 --margin-abs 0.025 --measure 'sensitivity>=0.05' --measure 'specificity>=0.05'"
)
TRAINING = (
    "--steps 32000 --set scale-head=true --set gap=-1 --set check-every=8000 "
    "--set check-episodes=200 --set final-episodes=400"
)

SLICES = Row(
    env="examples.diagnosis:BrainMR-v0",
    teacher="zoo/brain-resnet",
    students=("cnn:8k5s3,16k3s2,16k3s2:8",),
    options=OPTIONS,
    training=TRAINING,
    rules={name: by_image(name) for name in ("majority class", "frame", "linear", "nearest neighbour", "file size")},
    exports=("c", "onnx"),
)

FIELD = Field(
    title="medical diagnosis",
    title_zh="医学诊断",
    page="docs/fields/diagnosis.md",
    extra="medical",
    rows={
        "brain MR slices": SLICES,
        "brain MR slices, 128,000 steps": replace(
            SLICES,
            students=("cnn:16k5s3,16k3s2,24k3s2:8", "cnn:8k5s3,16k3s2,16k3s2:8"),
            training=TRAINING.replace("32000", "128000").replace("every=8000", "every=32000"),
        ),
    },
)

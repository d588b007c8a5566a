"""Medical diagnosis: brain MR slices, seen whole or window by window."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distilrl import EnvRef
from examples.diagnosis.brain import BrainMR
from examples.diagnosis.glimpses import MOST, WINDOW, Glimpses
from examples.diagnosis.images import load, trivial_rules
from field_rows import Field, Row, Rule, by_hand


def by_image(name: str) -> Rule:
    """A rule of `trivial_rules`, asked about the image that each seed draws."""

    def play(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
        slices, env = load(), BrainMR(**ref.kwargs)
        said = np.zeros(len(slices.tumour), bool)
        said[slices.held_out] = trivial_rules(slices)[name]
        places = [env.reset(seed=int(seed))[1]["image"] for seed in seeds]
        return (said == slices.tumour)[places].astype(np.float64)

    return play


def by_chance(ref: EnvRef, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Opens windows by chance, no one twice, and says what the training image says that is nearest in what is seen."""
    slices, env, returns = load(), Glimpses(**ref.kwargs), np.zeros(len(seeds))
    known, tumour = slices.images[~slices.held_out].astype(np.float32), slices.tumour[~slices.held_out]
    for episode, seed in enumerate(seeds):
        (image, seen), _ = env.reset(seed=int(seed))
        windows = seen[::WINDOW, ::WINDOW].reshape(-1)
        for window in np.random.default_rng([seed, 2]).permutation(np.flatnonzero(windows == 0))[: MOST - 1]:
            (image, seen), reward, *_ = env.step(2 + window)
            returns[episode] += reward
        at = seen > 0
        nearest = np.square(known[:, at] - image[at].astype(np.float32)).sum(1).argmin()
        returns[episode] += env.step(int(tumour[nearest]))[1]
    return returns


OPTIONS = (
    """--verdict-env-kwargs '{"split": "held-out"}' --accept-episodes 200 --episodes 1000 """
    "--cluster cluster --disturbed-episodes 0 --margin-abs 0.025 "
    "--measure 'sensitivity>=0.05' --measure 'specificity>=0.05'"
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

GLIMPSES = Row(
    env="examples.diagnosis:BrainGlimpses-v0",
    teacher="zoo/brain-glimpses",
    students=("cnn:8k4s2,16k4s2,16k3s2:16", "cnn:8k8s4,8k4s2:16"),
    options=f"{OPTIONS} --measure 'right>=0.025' --measure windows",
    training="--steps 128000 --set gap=-1 --set check-every=32000 --set check-episodes=200 --set final-episodes=400",
    rules={"always no tumour": by_hand(lambda *_: 0), "nearest neighbour, windows by chance": by_chance},
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
        "brain MR slices, glimpses": GLIMPSES,
    },
)

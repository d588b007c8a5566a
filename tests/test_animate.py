"""The animation: any policy in any environment that can draw itself."""

import io
import os
import sys
from typing import ClassVar
from xml.etree import ElementTree

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, sign_network
from PIL import Image
from torch import nn

from distilrl.animate import PANEL_WIDTH, Course, courses, side_by_side
from distilrl.errors import DistilError, SpecError
from distilrl.evaluate import VERDICT_SEEDS
from distilrl.figures import courses as courses_figure
from distilrl.figures import in_hex
from distilrl.heads import Categorical, Point
from distilrl.policies import Policy
from distilrl.spaces import Bounds, Choices

SEEN = []


class DrawnEnv(gymnasium.Env):
    """A wide picture; it ends after some steps, and pays what is done."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None, real=True, shape=(50, 100, 3), length=5):
        self.render_mode, self.shape, self.length = render_mode, shape, length
        self.action_space = (
            gymnasium.spaces.Box(-2, 2, (3,), np.float32) if real else gymnasium.spaces.MultiDiscrete([2, 3])
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            SEEN.append(f"seed {seed}")
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        SEEN.append(action)
        self.steps += 1
        return np.zeros(2, np.float32), float(np.sum(action)), self.steps >= self.length, False, {}

    def render(self):
        return np.full(self.shape, 40 * self.steps % 256, np.uint8)

    def close(self):
        SEEN.append("closed")


class BlindEnv(DrawnEnv):
    """Says that it can draw itself, and cannot."""

    def render(self):
        raise RuntimeError("no screen here")


class DarkEnv(DrawnEnv):
    """Leaves its picture black with SDL's dummy driver, as highway-env does."""

    def render(self):
        bright = 0 if os.environ.get("SDL_VIDEODRIVER") == "dummy" else 255
        return np.full(self.shape, bright, np.uint8)


class Counter(nn.Module):
    """Answers with how often it was asked since the episode began."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def start(self, count):
        return (torch.zeros(count, 1),)

    def forward(self, obs, state):
        (before,) = state
        return before.expand(-1, self.width), (before + 1,)


def frames(data):
    image = Image.open(io.BytesIO(data))
    return image.n_frames, image.size


def drawn(env, policies, **how):
    SEEN.clear()
    return side_by_side(policies, env, **how)


def test_a_policy_keeps_its_memory():
    policy = Policy(Counter(3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    data = drawn(DrawnEnv, {"a": policy, "b": policy}, every=1, steps=5)
    assert frames(data) == (5, (PANEL_WIDTH * 2 + 12, PANEL_WIDTH // 2 + 24))
    played = [a for a in SEEN if not isinstance(a, str)]
    assert [float(a[0]) for a in played] == [n for n in (0, 1, 2, 2, 2) for _ in range(2)], "clipped to the bounds"
    assert SEEN[-2:] == ["closed"] * 2


def test_the_next_episodes_follow_a_short_one():
    """The policy's memory begins anew in each, the return goes on."""
    policy = Policy(Counter(3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    told = []
    data = drawn(lambda **kw: DrawnEnv(length=4, **kw), {"policy": policy}, steps=10, watch=told.append)
    assert frames(data)[0] == 10, "two episodes and a half"
    assert [one for one in SEEN if str(one).startswith("seed")] == [f"seed {VERDICT_SEEDS + n}" for n in range(3)]
    played = [float(a[0]) for a in SEEN if not isinstance(a, str)]
    assert played == [0, 1, 2, 2, 0, 1, 2, 2, 0, 1]
    assert [event.done for event in told] == list(range(1, 11))
    assert SEEN[-1] == "closed"


def test_what_is_slow_to_draw_ends_with_what_is_drawn():
    policy = Policy(Counter(3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    assert frames(drawn(DrawnEnv, {"a": policy, "b": policy}, every=1, seconds=0))[0] == 1
    assert SEEN[-2:] == ["closed"] * 2


def test_several_choices_and_steps():
    policy = Policy(nn.Linear(2, 5), Categorical(Choices((2, 3), space="MultiDiscrete", shape=(2,))))
    assert frames(drawn(lambda **kw: DrawnEnv(real=False, **kw), {"policy": policy}, steps=4, every=2))[0] == 2


@pytest.mark.parametrize("shape", [(2000, 3, 3), (1, 900, 3), (7, 7, 3)])
def test_pictures_of_any_size(shape):
    policy = Policy(nn.Linear(2, 3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    width, height = frames(drawn(lambda **kw: DrawnEnv(shape=shape, **kw), {"policy": policy}))[1]
    assert width == PANEL_WIDTH
    assert height <= 480 + 24


@pytest.mark.parametrize(
    ("env", "why"), [(SIGN, "cannot draw itself"), (BlindEnv, "no screen here.* when it was drawn")]
)
def test_what_cannot_be_drawn_is_one_sentence(env, why):
    with pytest.raises(DistilError, match=why):
        drawn(env, {"policy": Policy(nn.Linear(2, 3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))})
    assert env is SIGN or [f"seed {VERDICT_SEEDS}", "closed"] == SEEN


@pytest.mark.parametrize(
    ("length", "count", "pause"), [(5, 60, 200), (40, 80, 200), (60, 60, 200), (61, 21, 50), (90, 30, 50)]
)
def test_short_episodes_are_shown_step_by_step(length, count, pause):
    policy = Policy(nn.Linear(2, 3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    data = drawn(lambda **kw: DrawnEnv(length=length, **kw), {"policy": policy})
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    image.load()
    assert (image.n_frames, image.info["duration"]) == (count, pause)


def test_steps_are_checked():
    with pytest.raises(SpecError, match="'steps' must be at least 1"):
        side_by_side({}, SIGN, steps=0)


def test_what_cannot_be_drawn_is_told_step_by_step():
    policy = Policy(Counter(3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))
    SEEN.clear()
    found = courses({"teacher": policy, "student": policy}, BlindEnv)
    assert list(found) == ["teacher", "student"]
    for one in found.values():
        assert one.real
        assert one.actions.tolist() == [[n] * 3 for n in (0, 1, 2, 2, 2)], "clipped to the bounds"
        assert one.rewards.shape == (5,)
    assert SEEN[-2:] == ["closed"] * 2
    assert courses({"policy": policy}, BlindEnv, steps=2)["policy"].rewards.shape == (2,)


@pytest.mark.parametrize("real", [True, False])
def test_the_figure_of_an_episode(real):
    """Teacher and student, whose episodes end at different steps; a drawing is a file of its own too."""
    steps = {"teacher": 5, "student": 3}
    found = {name: Course(np.ones((count, 6)), np.full(count, 2.0), real) for name, count in steps.items()}
    drawing = courses_figure(found)
    for words in ("return so far", "action 3", "teacher: 10.00 after 5 steps", "student: 6.00 after 3 steps"):
        assert words in drawing
    assert "action 4" not in drawing, "the first few"
    assert "var(--student)" in drawing
    alone = in_hex(drawing)
    assert "var(" not in alone
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.skipif(sys.platform != "linux", reason="SDL's driver that draws without a screen is Linux's")
def test_a_picture_that_needs_a_driver_that_draws_is_not_black(monkeypatch):
    pytest.importorskip("pygame", "2.5")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    policy = {"one": Policy(Counter(3), Point(Bounds((-2.0,) * 3, (2.0,) * 3)))}
    bright = np.asarray(Image.open(io.BytesIO(drawn(DarkEnv, policy, steps=2))).convert("L"))
    assert bright[-10:].min() > 200
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    drawn(DarkEnv, policy, steps=2)
    assert os.environ["SDL_VIDEODRIVER"] == "x11", "what the user chose stays"


def test_an_episodes_choices_are_counted_as_the_environment_counts():
    policy = Policy(sign_network(), Categorical(Choices((2,), (1,))))
    found = courses({"student": policy}, "distilrl/LateEnv-v0", steps=5)
    assert set(found["student"].actions.flatten().tolist()) <= {1.0, 2.0}
    assert found["student"].rewards.sum() == 5.0

"""Spaces: observations as Gymnasium flattens them, actions that it accepts, and plain data that damage cannot pass."""

import copy
import json
from dataclasses import asdict

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from distilrl.errors import BoundsError, EnvError, SpecError
from distilrl.spaces import (
    Bounds,
    Choices,
    EnvRef,
    ObsSpec,
    Unreadable,
    action_from_json,
    env_ref,
    read_actions,
    read_observations,
)
from distilrl.tasks import _widened

VECTORS = [
    spaces.Box(-1, 1, (3,), np.float64),
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Box(0, 9, (4,), np.int64),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Box(-1, 1, (2, 2, 2, 2), np.float32),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Tuple((spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2))),
    spaces.Dict(
        {"b": spaces.Box(-1, 1, (2,)), "a": spaces.Dict({"c": spaces.Discrete(2), "d": spaces.MultiBinary(2)})}
    ),
]


@pytest.mark.parametrize("space", VECTORS, ids=str)
def test_vectors_are_as_gymnasium_flattens_them(space):
    spec, read = read_observations(space, "mine")
    assert spec.shape == (spaces.flatdim(space),)
    assert (spec.image, spec.pixels, spec.dtype, spec.vector) == (None, False, "float32", spec.shape[0])
    assert len(spec.reach) == len(spec.names) == len(set(spec.names)) == spec.shape[0]
    space.seed(0)
    for _ in range(5):
        obs = space.sample()
        vector = read(obs)
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, spaces.flatten(space, obs).astype(np.float32))
        assert all(abs(v) <= top for v, top in zip(vector, spec.reach, strict=True))


@pytest.mark.parametrize(
    ("space", "image", "dtype"),
    [
        (spaces.Box(0, 255, (96, 64, 3), np.uint8), (3, 96, 64), "uint8"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), (4, 84, 84), "uint8"),
        (spaces.Box(0, 255, (20, 30), np.uint8), (1, 20, 30), "uint8"),
        (spaces.Box(0, 1, (10, 10, 6), bool), (6, 10, 10), "uint8"),
        (spaces.Box(0, 1, (10, 10, 10), bool), (10, 10, 10), "uint8"),
        (spaces.Box(0, 1, (64, 64, 4), np.float64), (4, 64, 64), "float32"),
        (spaces.Dict({"only": spaces.Box(0, 255, (32, 32, 3), np.uint8)}), (3, 32, 32), "uint8"),
    ],
    ids=str,
)
def test_an_image_alone_stays_one(space, image, dtype):
    spec, read = read_observations(space, "mine")
    top = np.max(space["only"].high if isinstance(space, spaces.Dict) else space.high)
    assert spec == ObsSpec(image, image, dtype, reach=(float(top),))
    assert (spec.pixels, spec.vector) == (True, 0)
    space.seed(0)
    obs = space.sample()
    raw = obs["only"] if isinstance(obs, dict) else obs
    seen = read(obs)
    assert (seen.shape, seen.dtype) == (image, spec.numpy)
    channels_first = raw.ndim == 3 and raw.shape[0] < raw.shape[2]  # a cube has its channels last, as images do
    last = raw if channels_first else raw.transpose(2, 0, 1) if raw.ndim == 3 else raw[None]
    np.testing.assert_array_equal(seen, last.astype(spec.numpy))


@pytest.mark.parametrize(
    ("space", "reach"),
    [
        (spaces.Box(-1, 0, (3, 16, 16), np.float32), 1.0),
        (spaces.Box(-3, 0.5, (3, 16, 16), np.float32), 3.0),
        (spaces.Box(-128, 0, (2,), np.int8), 128.0),
        (spaces.Box(0, 0, (2,), np.float32), 0.0),
    ],
)
def test_how_far_numbers_reach_counts_both_ends(space, reach):
    spec, _ = read_observations(space, "mine")
    assert set(spec.reach) == {reach}
    size = spec.vector or 1
    scale = _widened(spec.reach, spec.vector, size)
    assert scale.tolist() == pytest.approx([1 / min(reach or 1.0, 255.0 if spec.pixels else 1.0)] * size)


def test_empty_brackets_name_no_number():
    spec, _ = read_observations(spaces.Box(-1, 1, (4,)), "mine")
    assert (spec.places("obs[:]"), spec.places("obs[1:]"), spec.places("obs[2]")) == ((0, 1, 2, 3), (1, 2, 3), (2,))
    for text in ("obs[]", "obs[9]", "obs["):
        with pytest.raises(SpecError, match="names no number of these observations"):
            spec.places(text)


def test_an_image_beside_a_vector_comes_last():
    space = spaces.Dict(
        {"a": spaces.Box(0, 255, (8, 9, 3), np.uint8), "b": spaces.Discrete(2), "c": spaces.Box(-2, 5, (1,))}
    )
    spec, read = read_observations(space, "mine")
    assert (spec.shape, spec.image, spec.vector, spec.pixels) == ((3 + 216,), (3, 8, 9), 3, False)
    assert spec.names == ("b[0]", "b[1]", "c[0]")
    assert spec.reach == (1.0, 1.0, 5.0, *[255.0] * 216)
    obs = space.sample()
    seen = read(obs)
    np.testing.assert_array_equal(seen[3:].reshape(3, 8, 9), obs["a"].transpose(2, 0, 1))
    np.testing.assert_array_equal(seen[:3], [1 - obs["b"], obs["b"], obs["c"][0]])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Dict({"a": spaces.Discrete(2), "mission": spaces.Text(5)}),
        spaces.Tuple((spaces.Box(0, 255, (8, 8, 3), np.uint8),) * 2),
        spaces.Discrete(10**9),
        spaces.Dict({}),
        spaces.Box(0, 1, (0,)),
    ],
    ids=str,
)
def test_observations_without_a_size_are_refused(space):
    with pytest.raises(EnvError, match=r"^'mine' has .*: wrap it so that .*\.$"):
        read_observations(space, "mine")


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (spaces.Box(-1, 1, (3,)), None),
        (spaces.Box(-1, 1, (3,)), np.zeros(4)),
        (spaces.Box(-1, 1, (3,)), 1.0),
        (spaces.Box(-1, 1, (3,)), "left"),
        (spaces.Box(-1, 1, (3,)), [[1], [2, 3]]),
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3, start=1), 0),
        (spaces.MultiDiscrete([2, 3]), [1, 3]),
        (spaces.MultiDiscrete([2, 3]), [1]),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}), {"a": 1}),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), (1,)),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), 5),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((8, 8, 4), np.uint8)),
    ],
    ids=str,
)
def test_observations_that_are_not_of_their_space(space, obs):
    _, read = read_observations(space, "mine")
    with pytest.raises(Unreadable):
        read(obs)


# -- actions

ACTIONS = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=5),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 7]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Box(-2, 5, (3,), np.float32),
    spaces.Box(np.array([[0, -1]], np.float32), np.array([[1, 3]], np.float32)),
    spaces.Box(-np.inf, np.inf, (2,), np.float32),
    spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, -3], np.float32)),
    spaces.Box(-1, 1, (2,), np.float64),
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_random_actions_are_such_as_the_environment_takes(space):
    spec = read_actions(space, "mine")
    actions = spec.sample(40, np.random.default_rng(0))
    assert actions.shape == (40, spec.size)
    assert actions.dtype == spec.numpy
    np.testing.assert_array_equal(actions.astype(spec.stored), actions)
    for action in spec.for_env(actions):
        assert space.contains(action), action
    assert spec.within(spec) == spec
    assert action_from_json(json.loads(json.dumps(asdict(spec)))) == spec


def test_what_is_observed_is_told_in_few_words():
    image = spaces.Box(0, 255, (50, 70, 3), np.uint8)
    spec, _ = read_observations(spaces.Dict({"image": image, "speed": spaces.Box(-1, 1, (1,))}), "mine")
    assert "names=('speed[0]',)" in repr(spec)
    assert len(repr(spec)) < 200


def test_scales_of_real_actions():
    bounds = Bounds((-2.0, 0.0, None), (4.0, None, 1.0))
    assert not bounds.bounded
    assert bounds.middle.tolist() == [1, 0, 0]
    assert bounds.half.tolist() == [3, 1, 1]


def test_large_choices_are_stored_in_what_holds_them():
    assert Choices((256,)).stored is np.uint8
    assert Choices((257,)).stored is np.int32
    assert Choices((2**31 + 1,)).stored is np.int64


def test_actions_that_do_not_fit_each_other():
    one, other, real = Choices((3,)), Choices((3,), (1,)), Bounds((-1.0,), (1.0,))
    assert one.within(other) is other  # the environment's own start counts
    drawn = Bounds((5.0, None, None), (None, -3.0, 0.5)).sample(1000, np.random.default_rng(0))
    for place, ends in enumerate(((5, 7), (-5, -3), (-1, 0.5))):  # one action again and again is no random play
        assert (drawn[:, place].min(), drawn[:, place].max()) == pytest.approx(ends, abs=0.05)
    half_open = Bounds((None,), (1.0000001,))
    assert half_open.within(real) == Bounds((-1.0,), (1.0000001,))  # the policy's own where it has some
    assert real.within(Bounds((None,), (None,))) == real
    with pytest.raises(BoundsError, match="number 0 of its actions goes from -2 to 2, and of the environment's from"):
        Bounds((-2.0,), (2.0,)).within(real)
    for mine, yours in ((one, Choices((4,))), (one, real), (real, one), (real, Bounds((-1.0, -1.0), (1.0, 1.0)))):
        with pytest.raises(SpecError, match=r"^These are .*, but the environment has .*\.$"):
            mine.within(yours)


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Tuple((spaces.Discrete(2),)), spaces.Box(1, 1, (2,))], ids=str
)
def test_actions_that_cannot_be_used(space):
    with pytest.raises(EnvError, match=r"^'mine' has .*\.$"):
        read_actions(space, "mine")


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        "nvec",
        [],
        {},
        {"nvec": []},
        {"nvec": [0]},
        {"nvec": ["x"]},
        {"nvec": [2], "space": "Odd"},
        {"nvec": [2], "start": [1, 2]},
        {"nvec": [float("inf")]},
        {"low": [1]},
        {"low": [], "high": []},
        {"low": [1], "high": [1]},
        {"low": [2], "high": [1]},
        {"low": [0], "high": [float("nan")]},
        {"low": [0], "high": [1e999]},
        {"low": 0, "high": 1},
    ],
    ids=str,
)
def test_damaged_action_specs(data):
    with pytest.raises(SpecError):
        action_from_json(data)


# -- which environment


def test_a_reference_survives_plain_data():
    ref = EnvRef("my:Env-v0", {"a": [1, {"b": None}]}, ("m:W", "n:V"), True, (84, 80), 4)
    again = EnvRef.from_json(json.loads(json.dumps(ref.to_json())))
    assert again == ref
    assert (ref.named, again.named) == (True, False)
    assert ref.modules == ("my", "m", "n")
    assert ref.label == 'my:Env-v0 {"a": [1, {"b": null}]}'
    assert EnvRef("CartPole-v1").to_json() == {"id": "CartPole-v1"}
    assert EnvRef.from_json("CartPole-v1") == EnvRef("CartPole-v1")
    assert hash(EnvRef("CartPole-v1", {"a": 1})) is not None


def test_what_stands_for_an_environment():
    ref = EnvRef("CartPole-v1")
    assert env_ref(ref) is ref
    assert env_ref("CartPole-v1") == ref
    made = env_ref(gymnasium.Env)
    assert (made.id, made.factory) == ("Env", gymnasium.Env)
    assert made.to_json() == {"id": "Env"}


def test_a_callable_object_is_not_copied():
    class Maker:
        def __call__(self):
            raise AssertionError

        def __deepcopy__(self, memo):
            raise AssertionError

    assert env_ref(Maker()).to_json() == {"id": "Maker"}
    assert copy.copy(env_ref(Maker())).id == "Maker"


def test_kwargs_that_no_file_can_hold():
    with pytest.raises(SpecError, match="'CartPole-v1' must be plain"):
        EnvRef("CartPole-v1", {"a": object()}).to_json()


@pytest.mark.parametrize(
    "given", [{"stack": "4"}, {"stack": 2.5}, {"stack": True}, {"grey": "no"}, {"resize": ("84", "84")}], ids=str
)
def test_what_python_gives_is_held_to_what_a_file_would_be(given):
    with pytest.raises(SpecError, match="'stack' and 'resize' of CartPole-v1 must be whole numbers, and 'grey'"):
        EnvRef("CartPole-v1", **given)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "",
        {},
        {"id": 3},
        {"id": ""},
        {"id": "A-v0", "factory": "os:system"},
        {"id": "A-v0", "named": True},
        {"id": "A-v0", "kwargs": [["a", 1]]},
        {"id": "A-v0", "wrappers": "abc"},
        {"id": "A-v0", "wrappers": [3]},
        {"id": "A-v0", "grey": 1},
        {"id": "A-v0", "resize": [84]},
        {"id": "A-v0", "resize": [84, 0]},
        {"id": "A-v0", "resize": [84, 1.5]},
        {"id": "A-v0", "stack": 0},
        {"id": "A-v0", "stack": True},
        {"id": "A-v0", "stack": float("inf")},
        {"id": "A-v0", "resize": [10**9, 10**9]},
        {"id": "A-v0", "zeros": 1},
    ],
    ids=str,
)
def test_damaged_references(data):
    with pytest.raises(SpecError):
        EnvRef.from_json(data)

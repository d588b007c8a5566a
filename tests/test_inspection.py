"""What is said of a teacher's file, and of how it plays."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, real_teacher, sign_network

from distilrl.acceptance import accept
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import TeacherError
from distilrl.inspection import gets_stuck, inspect, inspect_play
from distilrl.played import Returns
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher, load_teacher


def test_what_only_the_environment_can_tell_is_none():
    facts = inspect(Teacher.from_callable(lambda obs: obs[:, :1]))
    assert [facts[name] for name in ("kind", "outputs", "action", "obs_shape", "squash", "params")] == [None] * 6
    json.dumps(facts)


def test_a_file_of_real_actions():
    facts = json.loads(json.dumps(inspect(load_teacher(real_teacher("continuous/tqc-HalfCheetah-v3.zip")))))
    assert (facts["kind"], facts["outputs"], facts["squash"], facts["critic"]) == ("gaussian", 12, "tanh", True)
    assert facts["action"]["low"] == [-1.0] * 6


def test_play_in_its_environment():
    told = []
    play = inspect_play(make_teacher(sign_network()), SIGN, episodes=5, watch=told.append)
    assert play.return_mean == 10.0 > play.random_return_mean
    assert list(play.disturbed) == ["epsilon 0.01"]
    assert play.warnings == ()
    assert told[-1].done == told[-1].total == 5
    json.dumps(play.to_json())


@pytest.mark.parametrize(
    ("zipped", "normalizer"),
    [
        ("teacher.zip", "vec_normalize.pkl"),
        ("best_model.zip", "vecnormalize.pkl"),
        ("rl_model_5000_steps.zip", "rl_model_vecnormalize_5000_steps.pkl"),
        ("Walker-v5.zip", "Walker-v5/vecnormalize.pkl"),
    ],
)
def test_statistics_that_lie_beside_a_file_and_are_not_used_are_named(tmp_path, zipped, normalizer):
    teacher = replace(make_teacher(sign_network()), path=str(tmp_path / zipped))
    (tmp_path / "another" / "vecnormalize.pkl").parent.mkdir()
    (tmp_path / "another" / "vecnormalize.pkl").touch()
    path = tmp_path / normalizer
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (path.parent / "args.yml").touch()
    (warning,) = inspect_play(teacher, SIGN, episodes=5).warnings
    assert warning.startswith(f"{path} is not used: give --normalizer {path} ")
    worse = replace(teacher, network=sign_network(-1.0))
    with pytest.raises(TeacherError, match=f"give --normalizer {path} where"):
        accept(worse.fitted(describe_env(SIGN)), Play(EnvRef(SIGN)), episodes=5)
    used = replace(teacher, meta={"normalizer": normalizer})
    assert inspect_play(used, SIGN, episodes=5).warnings == ()


def test_play_of_a_function_takes_what_it_lacks_from_the_environment():
    better = inspect_play(Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long()), SIGN, episodes=5)
    assert better.return_mean == 10.0
    worse = inspect_play(Teacher.from_callable(lambda obs: (obs[:, 0] <= 0).long()), SIGN, episodes=5)
    assert "no better than random play" in worse.warnings[0]
    assert "give --normalizer" in worse.warnings[0]


def test_play_refuses_other_spaces_and_numbers_that_are_not_finite():
    with pytest.raises(TeacherError, match="reads observations of shape"):
        inspect_play(make_teacher(sign_network()), "CartPole-v1")
    with pytest.raises(TeacherError, match="NaN or infinite"):
        inspect_play(Teacher.from_callable(lambda obs: torch.full((len(obs), 2), float("nan"))), SIGN)


def test_greedy_play_that_gets_stuck_is_more_than_chance():
    """Every second teacher of images was told so, whose mean of twenty episodes was a little higher under noise."""
    rng = np.random.default_rng(0)
    greedy, same, higher = (rng.normal(mean, 40, 20) for mean in (117.0, 120.0, 181.0))
    of = [Returns.of(returns, rng) for returns in (greedy, same, higher)]
    assert not gets_stuck(of[0], of[1])
    assert gets_stuck(of[0], of[2])
    assert gets_stuck(Returns.of([21.0] * 3, rng, exact=True), Returns.of([22.0, 21.5, 22.5] * 10, rng))

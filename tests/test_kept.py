"""The episodes of a teacher that are kept for the next run: only of the very same, and never in the user's way."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network
from gymnasium.envs.classic_control import cartpole
from gymnasium.envs.registration import WrapperSpec
from test_acceptance import leaning
from test_parts import assert_equal
from tiny_envs import tiny_config

from distilrl import kept
from distilrl.comparison import Comparison
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.evaluate import play
from distilrl.events import Recalled
from distilrl.jobs import Job
from distilrl.kept import kept_games, place
from distilrl.measures import Measure
from distilrl.sensors import Sensors
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher

HOW = Play(EnvRef("CartPole-v1"), keep_states=7)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def asked(teacher, how=HOW, seeds=(3, 4)):
    """The episodes, and whether they had to be played."""
    played = []

    def make():
        played.append(1)
        return play(teacher.policy, how, seeds)

    return kept_games(teacher, how, seeds, make)[0], bool(played)


def test_what_is_kept_is_what_was_played(cache):
    teacher = leaning()
    first, played = asked(teacher)
    again, played_again = asked(teacher)
    assert (played, played_again) == (True, False)
    assert_equal(again, first)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.1},
        {"keep_states": 8},
        {"max_steps": 100},
        {"sensors": Sensors(delay=1)},
        {"measures": (Measure("speed", "mean"),)},
        {"env": EnvRef("CartPole-v1", {"sutton_barto_reward": True})},
    ],
)
def test_other_play_is_played(cache, change):
    asked(leaning())
    assert asked(leaning(), replace(HOW, **change))[1]


def test_another_teacher_or_other_seeds_are_played(cache, monkeypatch):
    asked(leaning())
    assert asked(leaning(), seeds=(3, 5))[1]
    assert asked(replace(leaning(), digest="1" * 64))[1]
    assert asked(leaning(0.5))[1]  # other weights under the digest of a file that was read before they changed
    assert not asked(leaning())[1]
    monkeypatch.setattr("distilrl.provenance.__version__", "another")
    assert asked(leaning())[1]


def test_what_is_kept_is_the_same_in_another_virtual_environment(cache, tmp_path, monkeypatch):
    before = place("games", leaning(), HOW)
    here = Path(cartpole.__file__)
    there = tmp_path / "site-packages" / here.name
    there.parent.mkdir()
    there.write_bytes(here.read_bytes())
    monkeypatch.setattr(cartpole, "__file__", str(there))
    assert place("games", leaning(), HOW) == before


def test_of_an_environment_of_the_users_own_nothing_is_kept(cache):
    sign = make_teacher(sign_network()).fitted(describe_env(EnvRef(SIGN)))
    assert [asked(sign, Play(EnvRef(SIGN)))[1] for _ in range(2)] == [True, True]
    assert not cache.exists()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"PK" + data])
def test_a_damaged_file_is_made_anew(cache, damage):
    first = asked(leaning())[0]
    (path,) = (cache / "games").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again, played = asked(leaning())
    assert played
    np.testing.assert_array_equal(again.returns, first.returns)
    assert not asked(leaning())[1]


def test_a_file_with_other_episodes_than_its_name_says_is_made_anew(cache):
    asked(leaning())
    (path,) = (cache / "games").iterdir()
    asked(leaning(), seeds=(3,))
    (other,) = set((cache / "games").iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert asked(leaning())[1]


def test_no_cache_where_none_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DISTILRL_CACHE", str(tmp_path / "file"))
    assert [asked(leaning())[1] for _ in range(2)] == [True, True]


def test_the_oldest_go(cache, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    for seed in range(4):
        asked(leaning(), seeds=(seed,))
    assert len(list((cache / "games").iterdir())) == 2
    assert not asked(leaning(), seeds=(3,))[1]


def test_a_run_gives_the_same_verdict_and_says_so(cache, tmp_path):
    job = Job(tiny_config("CartPole-v1", env_steps=400, network="mlp:4"), Comparison(50, 50, 50))
    events = []
    one = distill(leaning(), job, tmp_path / "one", watch=events.append, report=False)
    assert not [event for event in events if isinstance(event, Recalled)]
    two = distill(leaning(), job, tmp_path / "two", watch=events.append, report=False)
    assert len([event for event in events if isinstance(event, Recalled)]) == 3  # greedy, random actions, noise
    assert one.teacher == replace(two.teacher, latency_us=one.teacher.latency_us)
    assert (one.verdict, one.disturbed, one.agreement) == (two.verdict, two.disturbed, two.agreement)


def test_of_what_may_change_under_its_name_nothing_is_kept(cache, tmp_path):
    """A file of physics, or a wrapper that somebody has registered an environment with."""
    teacher, physics = leaning(), tmp_path / "cheetah.xml"
    physics.write_text("<mujoco/>")
    known = [HOW, *(replace(HOW, env=EnvRef("Blackjack-v1", {"sab": one})) for one in (True, {1: {"b": ["c", ""]}}))]
    named = (str(physics), "cheetahs/cheetah.xml", [{"files": str(tmp_path)}])
    asked = [replace(HOW, env=EnvRef("HalfCheetah-v5", {"xml_file": one})) for one in named]
    assert all(place("games", teacher, how) for how in known)
    assert not any(place("games", teacher, how) for how in asked)
    told = WrapperSpec("Scale", "test_kept:Scale", None)
    gymnasium.register("distilrl/Scaled-v0", "gymnasium.envs.classic_control:CartPoleEnv", additional_wrappers=(told,))
    try:
        assert place("games", teacher, replace(HOW, env=EnvRef("distilrl/Scaled-v0"))) is None
    finally:
        del gymnasium.registry["distilrl/Scaled-v0"]


class Leaning(torch.nn.Module):
    """Its answer hangs on a number that is no weight."""

    def __init__(self, sign):
        super().__init__()
        self.net, self.sign = torch.nn.Linear(4, 2), sign
        torch.nn.init.zeros_(self.net.weight)

    def forward(self, obs):
        return self.sign * self.net(obs)


PUSH = torch.tensor([0.0, 1.0])


def pushes(obs):
    return obs[:, :2] * 0 + PUSH


def test_of_a_teacher_in_python_nothing_is_kept(cache):
    for policy in (Leaning(1.0), pushes):
        teacher = Teacher.from_callable(policy, kind="q", obs_shape=(4,), outputs=2).fitted(describe_env("CartPole-v1"))
        assert [asked(teacher)[1] for _ in range(2)] == [True, True]
    assert not cache.exists()


def test_a_teacher_in_python_is_known_by_what_its_answers_hang_on(monkeypatch):
    torch.manual_seed(0)
    one = Leaning(1.0)
    other = copy.deepcopy(one)
    assert Teacher.from_callable(one).digest == Teacher.from_callable(other).digest
    other.sign = -1.0
    assert Teacher.from_callable(one).digest != Teacher.from_callable(other).digest
    before = Teacher.from_callable(pushes).digest
    assert before == Teacher.from_callable(pushes).digest
    monkeypatch.setattr(sys.modules[__name__], "PUSH", torch.tensor([1.0, 0.0]))
    assert before != Teacher.from_callable(pushes).digest


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    monkeypatch.delenv("DISTILRL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert place("games", leaning(), HOW) is None

"""Environments as users bring them: registered variants, odd arrays, older interfaces, ids of changing meaning."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, SignEnv, make_teacher, sign_network
from test_acceptance import leaning
from tiny_envs import tiny_job

from distilrl import kept
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.config import TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Play
from distilrl.errors import EnvError
from distilrl.export import export_policy
from distilrl.heads import head_for
from distilrl.spaces import Choices, EnvRef, env_ref
from distilrl.teachers import Teacher
from distilrl.teaching import evaluate_against, evaluate_policy


@pytest.fixture
def registered():
    """Registers environments, and takes them back."""
    ids = []

    def register(id, entry_point, **kwargs):
        gymnasium.register(id, entry_point=entry_point, **kwargs)
        ids.append(id)
        return id

    yield register
    for id in ids:
        gymnasium.registry.pop(id, None)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_what_is_kept_of_a_teacher_is_of_what_its_id_stands_for(registered, monkeypatch, tmp_path):
    """A user's variant of Gymnasium's own class, whose kwargs changed, was judged by the other's episodes."""
    monkeypatch.setenv("DISTILRL_CACHE", str(tmp_path))
    cartpole = "gymnasium.envs.classic_control:CartPoleEnv"
    places = set()
    for kwargs in ({}, {"sutton_barto_reward": True}):
        env = registered("OwnCartPole-v0", cartpole, max_episode_steps=20, kwargs=kwargs)
        places.add(kept.place("games", leaning().fitted(describe_env(env)), Play(EnvRef(env))))
    assert len(places) == 2
    assert None not in places


class FifthEnv(SignEnv):
    """Pays a fifth."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward / 5, *rest


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_verdict_knows_nothing_of_what_its_environment_was_before(registered):
    """In a notebook: the same teacher, asked again once the environment was mended, kept the old one's returns."""
    teacher, student = (make_teacher(sign_network()) for _ in range(2))
    means = []
    for entry in (SignEnv, FifthEnv):
        env = registered("OwnSign-v0", entry, max_episode_steps=10)
        found = evaluate_against(student, teacher, env, episodes=200)
        assert found.verdict.result == "pass"
        means.append(found.against.return_mean)
    assert means[1] == pytest.approx(means[0] / 5)


ATARI = "ale_py.env:AtariEnv"
PONG = {"game": "pong", "frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}


@pytest.mark.parametrize(
    ("kwargs", "more", "shape"),
    [
        ({"obs_type": "ram"}, {}, (128,)),
        ({"frameskip": 8, "mode": 1}, {}, (3, 210, 160)),
        ({}, {"max_episode_steps": 100}, (3, 210, 160)),
    ],
)
def test_a_variant_of_a_game_of_ale_is_played_as_it_is_registered(registered, kwargs, more, shape):
    """It was played as the plain game."""
    assert describe_env(registered("OwnPong-v0", ATARI, kwargs=PONG)).atari
    info = describe_env(registered("OwnPong-v1", ATARI, kwargs=PONG | kwargs, **more))
    assert (info.atari, info.obs.shape) == (False, shape)


class Wider(SignEnv):
    """SignEnv with a number more."""

    def __init__(self, extra=1):
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2 + int(extra),), np.float32)
        self.extra = int(extra)

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return np.append(obs, [0] * self.extra).astype(np.float32), info

    def step(self, action):
        obs, *rest = super().step(action)
        return (np.append(obs, [0] * self.extra).astype(np.float32), *rest)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_an_id_that_is_registered_anew_is_described_anew(registered):
    assert describe_env(registered("Own-v0", SignEnv)).obs.shape == (2,)
    assert describe_env(registered("Own-v0", Wider)).obs.shape == (3,)
    assert describe_env(EnvRef("Own-v0", {"extra": 2})).obs.shape == (4,)
    assert describe_env(EnvRef("Own-v0", {"extra": 1})).obs.shape == (3,)
    assert describe_env(EnvRef("Own-v0", {"extra": True})).obs.shape == (3,)


def test_copies_have_the_spaces_of_the_first(registered):
    made = []

    def changing(**_):
        made.append(1)
        return SignEnv() if len(made) == 1 else Wider()

    env = registered("Changing-v0", changing)
    describe_env(env)
    with pytest.raises(EnvError, match=r"'Changing-v0' has other spaces than when it was first made"):
        make_vec_env(env, 2)


def test_cartpole_without_a_limit_of_time_is_played(monkeypatch):
    monkeypatch.setattr("distilrl.episodes.ENDLESS", 30)
    idle = Teacher.from_callable(lambda obs: torch.tensor([[1.0, 0.0]]).expand(len(obs), 2), kind="q", name="idle")
    found = evaluate_policy(idle, EnvRef("CartPole-v1", {"max_episode_steps": -1}), episodes=20)
    assert 8 <= found.return_mean <= 12


class Told(gymnasium.Wrapper):
    """Gives something else where a test says so."""

    fault = ""

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return obs if self.fault == "old reset" else [obs, info] if self.fault == "list" else (obs, info)

    def step(self, action):
        assert type(action) is np.int64, "as Discrete.sample gives it"
        obs, reward, ended, cut, info = super().step(action)
        match self.fault:
            case "old step":
                return obs, reward, ended, info
            case "list":
                return [obs, np.array([reward]), ended, cut, info]
            case "two rewards":
                return obs, [reward, reward], ended, cut, info
            case _:
                return obs, reward, ended, cut, info


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("old reset", r"gave a ndarray from reset, where Gymnasium's gives an observation and a dict \(the old Gym's"),
        ("old step", r"gave a tuple of 4 from step, where .* observation, reward, terminated, truncated and info"),
        ("two rewards", r"gave \[.*\] as its reward, which is no number, in step 1"),
    ],
)
def test_older_interfaces_are_named(registered, fault, words):
    env = registered("Told-v0", lambda: type("One", (Told,), {"fault": fault})(SignEnv()), max_episode_steps=9)
    with pytest.raises(EnvError, match=words):
        evaluate_policy(make_teacher(sign_network()), env, episodes=4)


def test_lists_and_rewards_in_an_array_are_taken(registered):
    env = registered("Told-v0", lambda: type("One", (Told,), {"fault": "list"})(SignEnv()), max_episode_steps=9)
    plain = registered("Told-v1", lambda: Told(SignEnv()), max_episode_steps=9)
    one, other = (evaluate_policy(make_teacher(sign_network()), name, episodes=4) for name in (env, plain))
    assert one.return_mean == other.return_mean


class OldGym:
    """An environment of the package before Gymnasium."""


OldGym.__module__ = "gym.core"


def test_an_environment_of_the_old_package_is_told_how_to_come():
    with pytest.raises(EnvError, match=r"is a OldGym, not a gymnasium\.Env: wrap it in shimmy's GymV26Compatibility"):
        describe_env(OldGym)


class Pictures(gymnasium.Env):
    """Images of bytes, by its space."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, value):
        self.value = value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((12, 12, 1), self.value), {}

    def step(self, action):
        return np.full((12, 12, 1), self.value), 0.0, True, False, {}


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan])
def test_images_of_other_numbers_than_bytes_are_refused(registered, value):
    """Scaled ones were all black, -1 was white."""
    envs = make_vec_env(registered("Pictures-v0", Pictures, kwargs={"value": value}), 1)
    with pytest.raises(EnvError, match=r"gave an observation of numbers that the uint8 of its space does not hold"):
        envs.reset(np.zeros(1, np.int64))


@pytest.mark.parametrize("value", [7, 7.0, np.int64(255), True])
def test_bytes_of_another_type_are_bytes(registered, value):
    envs = make_vec_env(registered("Pictures-v0", Pictures, kwargs={"value": value}), 1)
    assert (envs.reset(np.zeros(1, np.int64)) == int(value)).all()


def test_a_wrapper_that_draws_gets_pictures():
    pytest.importorskip("pygame")
    drawn = EnvRef("CartPole-v1", {"render_mode": "rgb_array"}, ("gymnasium.wrappers:AddRenderObservation",))
    assert describe_env(drawn).obs.image == (3, 400, 600)
    with pytest.raises(EnvError, match=r"leave it out of its kwargs, or give rgb_array for a wrapper that draws"):
        describe_env(EnvRef("CartPole-v1", {"render_mode": "human"}))


class Whole(gymnasium.Env):
    """Takes a whole number near its observation."""

    observation_space = gymnasium.spaces.Box(0, 4, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0, 4, (1,), np.int32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(0, 4, 1).astype(np.float32)
        return self.at, {}

    def step(self, action):
        reward = -abs(float(action[0]) - float(self.at[0]))
        return self.reset()[0], reward, False, False, {}


class Plain(gymnasium.Wrapper):
    """Changes nothing."""


def test_c_says_what_stands_between_it_and_the_environment(registered, tmp_path, monkeypatch):
    env = registered("Whole-v0", Whole, max_episode_steps=20)
    monkeypatch.setitem(sys.modules, "my_wrappers", sys.modules[__name__])
    ref = EnvRef(env, wrappers=("my_wrappers:Plain",))
    teacher = Teacher.from_callable(lambda obs: obs, kind="mean", name="near")
    job = tiny_job(env, env_steps=300)
    job = replace(job, train=job.train.but(tasks=(TaskFile(ref),)))
    distill(teacher, job, tmp_path / "run", report=False)
    export_policy(tmp_path / "run", "c")
    header = (tmp_path / "run" / "export" / "c" / "policy.h").read_text()
    assert "It reads what the environment gives behind my_wrappers:Plain." in header
    assert "The environment's actions are whole numbers: a number between two is rounded to the nearest." in header
    assert header.index("It reads") < header.index("*/")


def test_json_stands_alone_on_standard_output(registered, tmp_path, capfd):
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")

    class Prints(SignEnv):
        def step(self, action):
            sys.stdout.write("step!\n")
            os.write(1, b"from below\n")
            return super().step(action)

    env = registered("Prints-v0", Prints, max_episode_steps=5)
    save_network(tmp_path / "run" / "student", sign_network(), head_for(Choices((2,)), "q"))
    export_policy(tmp_path / "run", "onnx", env=env)
    capfd.readouterr()
    for words in (
        ["verify", str(tmp_path / "run" / "export" / "onnx"), "--env", env, "--episodes", "2"],
        ["evaluate", str(tmp_path / "teacher"), "--env", env, "--episodes", "2"],
        ["inspect", str(tmp_path / "teacher"), "--env", env],
    ):
        main([*words, "--json"])
        said = capfd.readouterr()
        assert json.loads(said.out)
        assert "step!" in said.err
        assert "from below" in said.err
    sys.stdout.write("as before\n")
    assert capfd.readouterr().out == "as before\n"


def test_an_environment_that_turns_gradients_off_is_learnt_from(registered, tmp_path):
    class Off(SignEnv):
        def step(self, action):
            torch.set_grad_enabled(False)
            return super().step(action)

    env = registered("Off-v0", Off, max_episode_steps=50)
    try:
        results = distill(make_teacher(sign_network()), tiny_job(env), tmp_path / "run", report=False)
    finally:
        torch.set_grad_enabled(True)
    assert results.student.score > 0.9


def test_the_working_folder_stays(registered, tmp_path, monkeypatch):
    """A run's folder went with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def leaves(**_):
        os.chdir(tmp_path / "elsewhere")
        return SignEnv()

    make_vec_env(registered("Leaves-v0", leaves), 2)
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("name", ["NormalizeObservation", "NormalizeReward"])
def test_wrappers_that_go_on_learning_are_refused(registered, name):
    with pytest.raises(EnvError, match=f"is wrapped in {name}, whose statistics go on changing"):
        make_vec_env(EnvRef("CartPole-v1", wrappers=(f"gymnasium.wrappers:{name}",)), 1)

    def settled(**_):
        env = getattr(gymnasium.wrappers, name)(SignEnv())
        env.update_running_mean = False
        return env

    make_vec_env(registered("Settled-v0", settled), 1)


DRAWS = """
import sys, time
from distilrl.envs import make_vec_env
envs = make_vec_env("CartPole-v1", 1, pictures=True)
envs.reset([0])
envs.picture(0)
sys.stdout.write("drawn\\n")
sys.stdout.flush()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_who_draws_can_be_ended():
    """SDL took SIGTERM for itself: a service that was stopped went on."""
    pytest.importorskip("pygame")
    with subprocess.Popen([sys.executable, "-c", DRAWS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "drawn\n"
        process.terminate()
        try:
            assert process.wait(30) == -signal.SIGTERM
        finally:
            process.kill()


def test_a_wrapper_that_makes_another_environment_is_none():
    """It was played without a word."""
    with pytest.raises(EnvError, match="does not hold the environment that it was given: name a wrapper"):
        make_vec_env(EnvRef(SIGN, wrappers=(f"{__name__}:Another",)), 1)
    make_vec_env(EnvRef(SIGN, wrappers=(f"{__name__}:Around",)), 1).close()


class Another(SignEnv):
    """Takes whatever it is given for something else."""

    def __init__(self, size):
        super().__init__()


class Around(SignEnv):
    """No gymnasium.Wrapper, but it holds what it is given."""

    def __init__(self, env):
        self.env = env


def test_a_reward_of_none_is_called_so():
    class Nothing(SignEnv):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, None, *rest

    envs = make_vec_env(env_ref(Nothing), 1)
    envs.reset(np.zeros(1, np.int64))
    envs.send(np.zeros((1, 1), np.int64))
    with pytest.raises(EnvError, match="gave None as its reward, which is no number"):
        envs.recv()

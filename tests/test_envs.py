"""Environments: equal to Gymnasium's own vectors to the bit, only the living step, and every fault is one sentence."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import ale_py
import conftest
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from distilrl.envs import asked_of, describe_env, make_vec_env, patience, single, trust
from distilrl.envs.cartpole import CartPoleVecEnv
from distilrl.envs.images import area_resize, push, to_grey
from distilrl.envs.sync import SyncVecEnv
from distilrl.episodes import Play
from distilrl.errors import EnvError, ExtraError, SpecError
from distilrl.evaluate import every_start
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec

SAME_STEP = gymnasium.vector.AutoresetMode.SAME_STEP


def rollout(envs, steps=40, lively=False):
    """Everything that an environment answers to random actions."""
    rng = np.random.default_rng(0)
    answers = [envs.reset(np.arange(envs.n_envs) + 7)]
    for _ in range(steps):
        live = rng.random(envs.n_envs) < 0.5 if lively else None
        envs.send(envs.info.action.sample(envs.n_envs, rng), live)
        answers += envs.recv()
    envs.close()
    return answers


def one_sentence(error, *parts):
    """The message of an error, which is one line that ends in a full stop and holds these parts."""
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("LunarLander-v3", {}),
        ("HalfCheetah-v5", {}),
        ("HalfCheetah-v5", {"max_episode_steps": 20}),
    ],
)
def test_a_rollout_equals_gymnasiums_vector_to_the_bit(env_id, kwargs):
    ours = make_vec_env(EnvRef(env_id, kwargs), 3)
    theirs = gymnasium.make_vec(
        env_id, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": SAME_STEP}, **kwargs
    )
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(ours.reset(np.array([5, 3, 9])), theirs.reset(seed=[5, 3, 9])[0].astype(np.float32))
    ends = 0
    for _ in range(150):
        actions = ours.info.action.sample(3, rng)
        ours.send(actions)
        step = ours.recv()
        obs, reward, terminated, truncated, _ = theirs.step(actions if actions.dtype == np.float32 else actions[:, 0])
        ends += int((terminated | truncated).sum())
        for own, other in zip(
            step[:4], (obs.astype(np.float32), reward.astype(np.float64), terminated, truncated), strict=True
        ):
            np.testing.assert_array_equal(own, other)
    assert ends or (env_id == "HalfCheetah-v5" and not kwargs)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("kwargs", [{}, {"max_episode_steps": 20}])
@pytest.mark.parametrize("lively", [False, True])
def test_cartpoles_in_arrays_equal_those_one_by_one_to_the_bit(kwargs, lively):
    ref = EnvRef("CartPole-v1", kwargs)
    arrays = make_vec_env(ref, 20)
    alone = SyncVecEnv(ref, single.find_spec(ref), 20)
    assert isinstance(arrays, CartPoleVecEnv)
    assert arrays.info == alone.info
    for ours, theirs in zip(rollout(arrays, 120, lively), rollout(alone, 120, lively), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("ref", "n_envs"),
    [
        (EnvRef("CartPole-v1"), 2),
        (EnvRef("CartPole-v1", {"sutton_barto_reward": True}), 20),
        (EnvRef("CartPole-v1", wrappers=("gymnasium.wrappers:FlattenObservation",), named=True), 20),
        (EnvRef("Acrobot-v1"), 20),
    ],
)
def test_what_is_not_plain_cartpole_or_too_few_steps_one_by_one(ref, n_envs):
    envs = make_vec_env(ref, n_envs)
    assert type(envs) is SyncVecEnv
    envs.close()


def test_only_the_living_step():
    envs = make_vec_env("CartPole-v1", 3)
    alone = make_vec_env("CartPole-v1", 3)
    envs.reset(np.arange(3))
    first = alone.reset(np.arange(3))
    live = np.array([True, False, True])
    for _ in range(60):
        actions = np.ones((3, 1), np.int64)
        envs.send(actions, live)
        alone.send(actions)
        step, full = envs.recv(), alone.recv()
        np.testing.assert_array_equal(step.obs[[0, 2]], full.obs[[0, 2]])
        np.testing.assert_array_equal(step.obs[1], first[1])
        assert (step.reward[1], step.terminated[1], step.truncated[1]) == (0, False, False)
    envs.send(actions)  # it goes on where it stood
    assert (envs.recv().obs[1] != first[1]).any()


def test_games_of_ale_equal_its_own_vector_to_the_bit():
    vector = pytest.importorskip("ale_py.vector_env")
    ours = make_vec_env("ALE/Breakout-v5", 3, threads=2)
    options = {"repeat_action_probability": 0.25, "reward_clipping": False, "frameskip": 4}
    theirs = vector.AtariVectorEnv("breakout", 3, autoreset_mode=SAME_STEP, **options)
    assert (ours.info.atari, ours.info.deterministic) == (True, False)
    assert ours.info.obs == ObsSpec((4, 84, 84), (4, 84, 84), "uint8", 4)
    assert ours.info.action == Choices((4,))
    rng = np.random.default_rng(0)
    obs, info = theirs.reset(seed=np.array([5, 3, 9]))
    np.testing.assert_array_equal(ours.reset(np.array([5, 3, 9])), obs)
    np.testing.assert_array_equal(ours.start_keys(), info["frame_number"])
    ends = 0
    for _ in range(250):
        actions = ours.info.action.sample(3, rng)
        ours.send(actions)
        theirs.send(actions[:, 0])
        for own, other in zip(ours.recv()[:4], theirs.recv()[:4], strict=True):
            np.testing.assert_array_equal(own, other)
            ends += int(own.sum()) if own.dtype == np.bool_ else 0
    assert ends > 0
    ours.close()


def test_a_game_goes_on_after_a_lost_life():
    """It began anew, so that nothing but first lives was learnt from."""
    game = "BreakoutNoFrameskip-v4"
    whole, parts = make_vec_env(game, 1), make_vec_env(game, 1, for_learning=True)
    np.testing.assert_array_equal(whole.reset(np.array([3])), parts.reset(np.array([3])))
    rng, ends, over = np.random.default_rng(0), [], False
    while not over:
        actions = whole.info.action.sample(1, rng)
        whole.send(actions)
        parts.send(actions)
        one, other = whole.recv(), parts.recv()
        np.testing.assert_array_equal(one.obs[:, -1], other.obs[:, -1])
        assert np.sign(one.reward) == other.reward
        over = bool(one.terminated[0])
        ends.append(bool(other.terminated[0]))
        assert not ends[-1] or not other.obs[:, :-1].any(), "an episode begins with zeros"
    assert sum(ends) == 5
    assert ends[-1]
    whole.close()
    parts.close()


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_pictures_of_a_game_are_of_the_same_game_in_colour(sticky):
    envs, rng = make_vec_env("BreakoutNoFrameskip-v4", 2, sticky=sticky, pictures=True), np.random.default_rng(0)
    obs = envs.reset(np.array([5, 3]))
    for _ in range(80):
        for i in range(2):
            picture = envs.picture(i)
            assert picture.shape == (210, 160, 3)
            shrunk = Image.fromarray(picture).convert("L").resize((84, 84), Image.Resampling.BOX)
            assert np.abs(np.asarray(shrunk, float) - obs[i, -1]).mean() < 5  # of 255; 20 where the ball is elsewhere
        envs.send(envs.info.action.sample(2, rng))
        obs = envs.recv().obs
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    assert np.ptp(picture, axis=2).max() > 50  # not grey
    envs.close()


@pytest.mark.parametrize(("game", "sticky"), [("PongNoFrameskip-v4", None), ("BreakoutNoFrameskip-v4", 0.25)])
def test_an_emulator_that_was_used_is_as_good_as_new(game, sticky):
    def played(seeds):
        envs = make_vec_env(game, 2, sticky=sticky)
        seen, rng = [envs.reset(np.array(seeds))], np.random.default_rng(1)
        for _ in range(60):
            envs.send(envs.info.action.sample(2, rng))
            seen.append(envs.recv().obs)
        envs.close()
        return np.stack(seen)

    first = played([3, 11])
    played([5, 6])
    np.testing.assert_array_equal(played([3, 11]), first)


@pytest.mark.parametrize("game", ["PongNoFrameskip-v4", "MsPacmanNoFrameskip-v4"])
def test_starts_of_a_game_are_known_before_it_is_made(game):
    seeds = np.array([0, 3, 11, 17, 29, 41])
    envs = make_vec_env(game, len(seeds), sticky=0.0)
    envs.reset(seeds)
    np.testing.assert_array_equal(envs.starts(seeds), envs.start_keys())
    many = envs.starts(np.arange(2000))
    assert len(np.unique(many)) == 30 - ("FIRE" in envs.info.protocol["actions"])
    envs.close()


@pytest.mark.parametrize("foretold", [True, False])
def test_all_starts_of_a_game_are_found(foretold, monkeypatch):
    """Elsewhere ALE's standard library may draw otherwise than is foretold: then each seed is tried."""
    envs, first = make_vec_env("PongNoFrameskip-v4", 1, sticky=0.0), 5_000 + foretold
    if not foretold:
        monkeypatch.setattr(type(envs), "_start_of", lambda _self, seed: max(seed * 7 % 30, 1))
    seeds = envs.every_start(first)
    starts = envs.starts(np.array(seeds)).tolist() if foretold else [max(seed * 7 % 30, 1) for seed in seeds]
    assert sorted(starts) == [1, 1, *range(2, 30)]
    assert min(seeds) >= first
    assert envs.every_start(first) is seeds
    envs.close()


def test_where_chance_plays_too_starts_are_not_all_that_there_is():
    game = EnvRef("PongNoFrameskip-v4")
    assert len(every_start(Play(game), 0)) == 30
    for how in (Play(game, epsilon=0.01), Play(game, sticky=0.25), Play(EnvRef("CartPole-v1"))):
        assert every_start(how, 0) is None
    assert every_start(Play(EnvRef("ALE/Pong-v5")), 0) is None


def test_a_game_of_ale_stands_still():
    envs, alone = make_vec_env("PongNoFrameskip-v4", 2), make_vec_env("PongNoFrameskip-v4", 2)
    assert envs.info.deterministic
    first, same = envs.reset(np.arange(2)), alone.reset(np.arange(2))
    np.testing.assert_array_equal(first, same)
    down = np.full((2, 1), 2)
    for _ in range(5):
        envs.send(down, np.array([True, False]))
        step = envs.recv()
        np.testing.assert_array_equal(step.obs[1], first[1])
        assert step.reward[1] == 0
    assert (step.obs[0] != first[0]).any()
    envs.send(down)
    alone.send(down)
    np.testing.assert_array_equal(envs.recv().obs[1], alone.recv().obs[1])  # it goes on where it stood
    envs.close()
    alone.close()


def test_what_is_handed_out_belongs_to_the_caller():
    envs = make_vec_env("CartPole-v1", 1)
    first = envs.reset(np.zeros(1, np.int64))
    kept = first.copy()
    envs.send(np.zeros((1, 1), np.int64))
    envs.recv().obs[:] = 3
    np.testing.assert_array_equal(first, kept)


# -- workers


@pytest.mark.parametrize("env_id", ["CartPole-v1", "distilrl/MixedEnv-v0"])
def test_workers_answer_as_this_process_does(env_id):
    for lively in (False, True):
        alone = rollout(make_vec_env(env_id, 5), lively=lively)
        together = rollout(make_vec_env(env_id, 5, workers=2), lively=lively)
        for own, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(own, other)


def test_more_workers_than_environments_and_their_pictures():
    envs = make_vec_env(EnvRef("distilrl/FaultyEnv-v0"), 2, workers=4, pictures=True)
    envs.reset(np.arange(2))
    assert envs.picture(1).shape == (4, 5, 3)
    assert envs.info == describe_env("distilrl/FaultyEnv-v0")
    envs.close()
    envs.close()  # twice does no harm


def test_a_workers_error_is_the_same_error_and_the_others_are_heard():
    messages = []
    for workers in (0, 2):
        envs = make_vec_env(EnvRef("distilrl/FaultyEnv-v0", {"fault": "step"}), 4, workers=workers)
        with pytest.raises(EnvError) as error:
            rollout(envs)
        messages.append(str(error.value))
        assert error.value.__cause__ is not None
        assert envs.reset(np.arange(4)).shape == (4, 2)
        envs.close()
    assert messages[0] == messages[1]


def test_a_worker_that_dies():
    envs = make_vec_env(EnvRef("distilrl/FaultyEnv-v0", {"fault": "die"}), 2, workers=2)
    with pytest.raises(EnvError) as error:
        rollout(envs)
    one_sentence(error, "Worker 0", "exit code 9", "workers=0")
    envs.close()


HUNG = """
import time, gymnasium, numpy as np

class Hung(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        time.sleep(600)

gymnasium.register("Hung-v0", entry_point=Hung)
"""
LEARNER = """
import time, numpy as np
from distilrl.envs import make_vec_env
from distilrl.spaces import EnvRef

if __name__ == "__main__":
    envs = make_vec_env(EnvRef("hung:Hung-v0"), 1, workers=1)
    envs.reset(np.arange(1))
    envs.send(np.zeros((1, 1), np.int64))
    print(envs._processes[0].pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="nothing tells here which processes there are")
def test_a_worker_whose_environment_hangs_ends_with_its_learner(tmp_path):
    """It stayed for good, at full speed if it span."""
    (tmp_path / "hung.py").write_text(HUNG)
    (tmp_path / "learner.py").write_text(LEARNER)
    with subprocess.Popen([sys.executable, "learner.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as learner:
        about = Path("/proc", learner.stdout.readline().strip(), "stat")
        assert about.is_file()
        learner.kill()
    for _ in range(1000):
        if not about.is_file() or ") Z " in about.read_text():  # gone, or nobody's to take away
            return
        time.sleep(0.02)
    pytest.fail("the worker is still there")


def test_each_copy_is_made_of_what_was_said(monkeypatch):
    """One that takes from its nested kwargs what it is made with left nothing to the next."""

    class Sized(conftest.SignEnv):
        def __init__(self, config):
            super().__init__()
            self.size = config.pop("size", 5)

    monkeypatch.setitem(gymnasium.registry, "Sized-v0", EnvSpec("Sized-v0", entry_point=Sized))
    ref = EnvRef("Sized-v0", {"config": {"size": 9}})
    envs = make_vec_env(ref, 3)
    assert [env.unwrapped.size for env in envs._envs] == [9, 9, 9]
    assert ref.kwargs == {"config": {"size": 9}}
    envs.close()


def test_a_module_is_trusted_by_the_name_that_is_imported():
    """``gymnasium:x`` was imported where ``gymnasium`` was trusted."""
    assert EnvRef("gymnasium:x:Env-v0").modules == ("gymnasium:x",)
    ref = EnvRef("mine:Arm-v0", {"model": "assets/arm.xml", "loader": "other:load", "name": "arm"}, ("wraps:Slow",))
    assert asked_of(ref) == ("mine", "wraps", "assets/arm.xml", "other")
    assert asked_of(EnvRef("HalfCheetah-v5", {"xml_file": "assets/cheetah.xml"})) == ()


def test_a_function_that_no_worker_could_find():
    with pytest.raises(EnvError) as error:
        make_vec_env(lambda: conftest.SignEnv(), 2, workers=1)
    one_sentence(error, "worker process", "workers=0")


# -- functions that make environments


def test_a_function_makes_them_and_draws_where_it_can():
    envs = make_vec_env(conftest.FaultyEnv, 2, pictures=True)
    assert envs.info.id == "FaultyEnv"
    assert envs._envs[0].render_mode == "rgb_array"
    rollout(envs)
    rollout(make_vec_env(lambda: gymnasium.make("CartPole-v1"), 2, pictures=True), 3)


def broken():
    raise KeyError("robot")


def test_functions_that_do_not_make_environments():
    same = conftest.SignEnv()
    for function, parts in (
        (broken, ("'broken'", "KeyError", "robot")),
        (lambda: 3, ("int", "gymnasium.Env")),
        (lambda: same, ("the same environment",)),
        (sys.exit, ("sys.exit()",)),
    ):
        with pytest.raises(EnvError) as error:
            make_vec_env(function, 2)
        one_sentence(error, *parts)


def test_copies_with_other_spaces():
    kinds = iter([conftest.SignEnv, conftest.ContinuousEnv])
    with pytest.raises(EnvError) as error:
        make_vec_env(lambda: next(kinds)(), 2)
    one_sentence(error, "other spaces in copy 1")


# -- faults


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("step", ("raised ValueError (broken in step; conftest.py, line ", "in step 3 (action ", "after seed 7")),
        ("exit", ("called sys.exit(0)", "in step 3")),
        ("old", ("gave a tuple of 4 from step", "in step 3")),
        ("none", ("gave None for an observation", "in step 3")),
        ("nan", ("not finite (number 0)", "in step 3")),
        ("shape", ("of shape (5,) where its space has (2,)", "in step 3")),
        ("scalar", ("of shape () where its space has (2,)", "in step 3")),
        ("text", ("of str where its space has an array of shape (2,)", "in step 3")),
        ("reward", ("gave a reward of nan", "in step 3")),
        ("nothing", ("reward", "in step 3")),
        ("reset", ("raised ValueError (broken in reset; conftest.py, line ", "in reset", "after seed 7")),
        ("init", ("cannot be made: it raised ValueError (broken in init; conftest.py, line ",)),
    ],
)
def test_faults_name_environment_step_action_and_seed(fault, parts):
    with pytest.raises(EnvError) as error:
        rollout(make_vec_env(EnvRef("distilrl/FaultyEnv-v0", {"fault": fault}), 2))
    one_sentence(error, "distilrl/FaultyEnv-v0", *parts)


@pytest.mark.parametrize(("at", "moment"), [(3, "in step 3 (action "), (0, "in reset after seed 7")])
def test_a_call_that_does_not_come_back_is_named_with_environment_step_action_and_seed(at, moment, caplog, monkeypatch):
    class Slow(conftest.SignEnv):
        """As time goes by in its step or reset, somebody looks."""

        def pass_time(self, steps):
            if steps == at:
                for seconds in (20, 31, 40, 61, 63, 130):
                    patience.look(start + seconds)

        def reset(self, *, seed=None, options=None):
            self.pass_time(0)
            return super().reset(seed=seed)

        def step(self, action):
            self.pass_time(self.steps + 1)
            return super().step(action)

    start = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: start)
    envs = make_vec_env(Slow, 1)
    envs.reset(np.array([7]))
    for _ in range(5):
        envs.send(np.zeros((1, 1), np.int64))
        envs.recv()
    said = [record.getMessage() for record in caplog.records]
    assert [re.search(r"for (\d+) s: wait", one)[1] for one in said] == ["31", "63", "130"]
    assert all(moment in one and "after seed 7 for" in one and "Slow' has been in" in one for one in said)
    patience.look(start + 1000)
    assert len(caplog.records) == 3, "nothing is under way"


def test_somebody_looks(monkeypatch):
    seen = threading.Event()
    monkeypatch.setattr(patience, "PATIENCE", 0.01)
    monkeypatch.setattr(patience, "_thread", None)
    monkeypatch.setattr(patience, "look", lambda now: seen.set())
    make_vec_env("CartPole-v1", 1).reset(np.arange(1))
    assert seen.wait(60)


@pytest.mark.parametrize(("fault", "part"), [("render", "broken in render"), ("picture", "of shape (4, 5)")])
def test_faults_in_drawing(fault, part):
    envs = make_vec_env(EnvRef("distilrl/FaultyEnv-v0", {"fault": fault}), 1, pictures=True)
    envs.reset(np.zeros(1, np.int64))
    with pytest.raises(EnvError) as error:
        envs.picture(0)
    one_sentence(error, part)


@pytest.mark.parametrize(
    ("env", "kwargs", "parts"),
    [
        ("CartPole-v1", {"sticky": 0.25}, ("'sticky'", "ALE")),
        ("CartPole-v1", {"for_learning": True}, ("'for_learning'", "ALE")),
        ("CartPole-v1", {"sticky": 2.0}, ("'sticky'", "must lie in [0, 1]")),
        ("PongNoFrameskip-v4", {"sticky": float("nan")}, ("'sticky'", "must lie in [0, 1]")),
        ("PongNoFrameskip-v4", {"workers": 2}, ("'threads'",)),
        ("CartPole-v1", {"threads": 0}, ("'threads'",)),
        ("CartPole-v1", {"threads": 100_000}, ("'threads'",)),
        ("CartPole-v1", {"workers": -1}, ("'workers'",)),
    ],
)
def test_values_that_mean_nothing_here(env, kwargs, parts):
    with pytest.raises(SpecError) as error:
        make_vec_env(env, 2, **kwargs)
    one_sentence(error, *parts)


def test_counts_that_do_not_fit():
    with pytest.raises(SpecError):
        make_vec_env("CartPole-v1", 0)
    for workers in (0, 1):
        envs = make_vec_env("CartPole-v1", 2, workers=workers)
        with pytest.raises(SpecError, match="as many seeds, got 3"):
            envs.reset(np.arange(3))
        with pytest.raises(SpecError, match="as many actions, got 1"):
            envs.send(np.zeros((1, 1), np.int64))
        envs.close()


@pytest.mark.parametrize(
    ("env", "parts"),
    [
        ("Nothing-v0", ("'Nothing-v0' is unknown",)),
        ("CartPole-v9", ("'CartPole-v9' is unknown", "use 'CartPole-v1'")),
        ("gymnasium:CartPole-v9", ("use 'gymnasium:CartPole-v1'",)),
        ("tiny_envs:Nothing-v0", ("'tiny_envs:Nothing-v0' is unknown", "use 'tiny_envs:distilrl/")),
        ("json:Nothing-v0", ("call gymnasium.register(id='Nothing-v0', ...) in the module 'json'",)),
        ("Nothing-v0", ("write module:Env-id",)),
        ("CartPole", ("use 'CartPole-v1'",)),
        ("LunarLander-v2", ("use 'LunarLander-v3'",)),
        ("Ant-v3", ("no longer part of Gymnasium", "use 'Ant-v5'")),
        ("Walker2d-v3", ("no longer part of Gymnasium", "use 'Walker2d-v4'")),  # in version 5 its feet grip otherwise
        ("Humanoid-v2", ("no longer part of Gymnasium", "use 'Humanoid-v4'")),
        ("no_such_module:Thing-v0", ("module 'no_such_module'", "neither installed nor in the working directory")),
        ("a:b:c", ("module 'a:b'",)),
        ("Bad id!", ("is unknown",)),
        ("Pong-v4", ("PongNoFrameskip-v4", "ALE/Pong-v5")),
        (EnvRef("ALE/Pong-v5", grey=True, stack=2), ("preprocessing is fixed", "grey, stack")),
        (EnvRef("ALE/Pong-v5", {"frameskip": 2}), ("leave out frameskip",)),
        (EnvRef("ALE/Pong-v5", {"repeat_action_probability": 7}), ("between 0 and 1",)),
        (EnvRef("ALE/Pong-v5", wrappers=("a:B",)), ("leave out wrappers",)),
        (EnvRef("CartPole-v1", {"nonsense": 1}), ("raised TypeError", "nonsense", "})); mend its kwargs")),
        (EnvRef("CartPole-v1", {"render_mode": "human"}), ("'render_mode'",)),
        (EnvRef("CartPole-v1", grey=True), ("no image", "'grey'")),
        (EnvRef("CartPole-v1", stack=4), ("no image",)),
        (EnvRef("CartPole-v1", wrappers=("Flatten",)), ("module:Class",)),
        (EnvRef("CartPole-v1", wrappers=("no_such_module:X",)), ("neither installed",)),
        (EnvRef("CartPole-v1", wrappers=("gymnasium.wrappers:Nothing",)), ("no class 'Nothing'",)),
        (EnvRef("CartPole-v1", wrappers=("gymnasium:__version__",)), ("no class '__version__'",)),
        (EnvRef("CartPole-v1", wrappers=("builtins:int",)), ("'builtins:int' raised TypeError",)),
        (EnvRef("CartPole-v1", wrappers=("builtins:str",)), ("gave back 'str'", "name a wrapper")),
    ],
)
def test_environments_that_cannot_be_made(env, parts):
    with pytest.raises(EnvError) as error:
        make_vec_env(env, 1)
    one_sentence(error, *parts)


def test_what_an_environment_asks_for_is_named(monkeypatch):
    class Asks(gymnasium.Env):
        def __init__(self, size, depth):
            raise AssertionError

    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Asks-v0", entry_point=Asks)
    with pytest.raises(EnvError) as error:
        make_vec_env("Asks-v0", 1)
    one_sentence(error, "missing 2 required", "give it what it asks for with --env-kwargs '{\"size\": ...}'")


def test_a_module_lies_in_the_working_directory(tmp_path, monkeypatch):
    """As whoever wrote an environment a minute ago expects; what is installed is not hidden by a file of its name."""
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the working directory')")
    lines = (
        "import json, gymnasium",
        "from gymnasium.envs.classic_control import CartPoleEnv",
        "gymnasium.register('ByHand-v0', CartPoleEnv)",
    )
    (tmp_path / "by_hand.py").write_text("\n".join(lines))
    try:
        assert describe_env("by_hand:ByHand-v0").obs.shape == (4,)
    finally:
        gymnasium.registry.pop("ByHand-v0", None)
    (tmp_path / "broken_by_hand.py").write_text("import nothing_of_that_name")
    with pytest.raises(EnvError, match=r"raised ModuleNotFoundError .*nothing_of_that_name"):
        describe_env("broken_by_hand:ByHand-v0")


@pytest.mark.parametrize(
    ("raised", "extra"),
    [
        (
            gymnasium.error.DependencyNotInstalled(
                "Box2D is not installed, you can install it by run `pip install swig`"
            ),
            "box2d",
        ),
        (gymnasium.error.DependencyNotInstalled("No module named 'mujoco'. (HINT: install mujoco)"), "mujoco"),
        (ModuleNotFoundError("No module named 'imageio'", name="imageio"), "mujoco"),
        (gymnasium.error.DependencyNotInstalled("pygame is not installed"), "render"),
    ],
)
def test_a_missing_package_names_its_extra(raised, extra):
    def lacking():
        raise raised

    with pytest.raises(ExtraError) as error:
        make_vec_env(lacking, 1)
    one_sentence(error, f'pip install "distilrl[{extra}]"')


def test_mujoco_without_opengl_is_one_sentence_and_leaves_no_trace(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")

    def mujoco_robot(render_mode=None):
        raise RuntimeError(f"no context with {os.environ['MUJOCO_GL']}")

    with pytest.raises(EnvError) as error:
        make_vec_env(mujoco_robot, 1, pictures=True)
    one_sentence(error, "cannot be drawn here with MUJOCO_GL=egl", "no context")
    assert "MUJOCO_GL" not in os.environ


# -- trust


def test_a_file_imports_no_module_that_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "burglar.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('mark').touch()\nclass W: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(single, "_trusted", set())
    for data in ({"id": "burglar:Env-v0"}, {"id": "CartPole-v1", "wrappers": ["burglar:W"]}):
        with pytest.raises(EnvError) as error:
            describe_env(EnvRef.from_json(data))
        one_sentence(error, "--trust burglar")
    assert not (tmp_path / "mark").exists()
    trust("burglar")
    with pytest.raises(EnvError, match=r"'burglar:Env-v0' is unknown"):
        describe_env(EnvRef.from_json({"id": "burglar:Env-v0"}))
    assert (tmp_path / "mark").exists()


def test_trust_holds_for_submodules_only(monkeypatch):
    monkeypatch.setattr(single, "_trusted", set())
    trust("gymnasium.wrappers")
    wrapped = EnvRef.from_json({"id": "CartPole-v1", "wrappers": ["gymnasium.wrappers:FlattenObservation"]})
    assert describe_env(wrapped).protocol["wrappers"] == ["gymnasium.wrappers:FlattenObservation"]
    with pytest.raises(EnvError, match="--trust gymnasium_robotics"):
        describe_env(EnvRef.from_json({"id": "gymnasium_robotics:Fetch-v0"}))


# -- what is read and taken


def test_real_actions_with_an_open_side_and_an_image_beside_a_vector():
    info = describe_env("distilrl/MixedEnv-v0")
    assert info.obs.shape == (5 + 3 * 12 * 16,)
    assert info.obs.image == (3, 12, 16)
    assert info.action == Bounds((-2.0, None), (4.0, None), (1, 2))
    assert "[-1, 1]" in info.protocol["random_play"]
    answers = rollout(make_vec_env("distilrl/MixedEnv-v0", 2), 3)
    assert np.abs(answers[0][:, :3]).tolist() == [[1, 0, 0], [1, 0, 0]]  # the gear, one-hot: keys are sorted


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(-1, 1, ()),
        gymnasium.spaces.Box(-1, 1, (2,), np.float64),
        gymnasium.spaces.Box(np.array([-1, -3], np.float32), np.array([0.45, 0.1], np.float32)),
        gymnasium.spaces.Box(0, 255, (2, 2), np.uint8),
        gymnasium.spaces.MultiBinary((2, 2)),
    ],
    ids=str,
)
def test_actions_reach_the_environment_as_its_space_has_them(space):
    class Strict(conftest.SignEnv):
        action_space = space

        def step(self, action):
            assert space.contains(action), action
            return super().step(0)

    rollout(make_vec_env(Strict, 2), 5)
    if isinstance(space, gymnasium.spaces.Box):  # a middle and a half-range in floats may add up to more than an end
        envs = make_vec_env(Strict, 1)
        envs.reset(np.array([0]))
        envs.send(np.nextafter(space.high.astype(np.float32).reshape(1, -1), np.float32(np.inf)))
        envs.recv()
        envs.close()


def test_a_limit_of_time_in_a_function_is_known():
    info = describe_env(lambda: gymnasium.wrappers.TimeLimit(conftest.SignEnv(), 200_000))
    assert info.protocol["max_episode_steps"] == 200_000


def test_choices_of_every_kind():
    assert describe_env("distilrl/MultiEnv-v0").action == Choices((2, 3), (), "MultiDiscrete", (2,))
    assert describe_env("distilrl/LateEnv-v0").action.start == (1,)
    late, sign = (rollout(make_vec_env(f"distilrl/{name}-v0", 2)) for name in ("LateEnv", "SignEnv"))
    for own, other in zip(late, sign, strict=True):
        np.testing.assert_array_equal(own, other)
    rollout(make_vec_env("distilrl/MultiEnv-v0", 2))


def test_kwargs():
    assert describe_env(EnvRef("CartPole-v1", {"max_episode_steps": 7})).protocol["max_episode_steps"] == 7


def test_carracing_grey_small_and_stacked_as_gymnasiums_wrappers():
    ref = EnvRef("CarRacing-v3", {"continuous": False, "max_episode_steps": 3}, grey=True, stack=3)
    envs = make_vec_env(ref, 1)
    assert envs.info.obs == ObsSpec((3, 96, 96), (3, 96, 96), "uint8", 3, reach=(255.0,))
    assert envs.info.action == Choices((5,))
    theirs = gymnasium.make("CarRacing-v3", continuous=False, max_episode_steps=3)
    theirs = gymnasium.wrappers.GrayscaleObservation(theirs)
    theirs = gymnasium.wrappers.FrameStackObservation(theirs, 3, padding_type="zero")
    np.testing.assert_array_equal(envs.reset(np.array([4]))[0], theirs.reset(seed=4)[0])
    for action in (0, 3, 2, 1):
        envs.send(np.array([[action]]))
        step = envs.recv()
        obs, reward, terminated, truncated, _ = theirs.step(action)
        obs = theirs.reset()[0] if terminated or truncated else obs
        np.testing.assert_array_equal(step.obs[0], obs)
        assert (step.reward[0], step.truncated[0]) == (float(reward), truncated)
    envs.close()
    assert describe_env(EnvRef("CarRacing-v3", resize=(32, 40))).obs.shape == (3, 32, 40)
    assert describe_env(EnvRef("distilrl/MixedEnv-v0", grey=True, resize=(6, 8), stack=2)).obs.shape == (5 + 2 * 6 * 8,)


def test_an_image_beside_a_vector_is_stacked_alone():
    plain = make_vec_env("distilrl/MixedEnv-v0", 1)
    stacked = make_vec_env(EnvRef("distilrl/MixedEnv-v0", stack=2), 1)
    size = 3 * 12 * 16
    before, seen = plain.reset(np.array([1])), stacked.reset(np.array([1]))
    assert not seen[0, 5:-size].any()
    for i in range(12):  # an episode ends after ten steps
        for envs in (plain, stacked):
            envs.send(np.zeros((1, 2), np.float32))
        step, seen = plain.recv(), stacked.recv().obs
        older = np.zeros(size) if step.terminated[0] else before[0, 5:]
        np.testing.assert_array_equal(seen[0], np.concatenate([step.obs[0, :5], older, step.obs[0, 5:]]), str(i))
        before = step.obs


def test_area_resize_is_the_mean_of_what_a_pixel_covers():
    image = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    small = area_resize((4, 6), (2, 3))(image)
    np.testing.assert_array_equal(small, np.rint(image.reshape(2, 2, 2, 3, 2).mean((2, 4))).astype(np.uint8))
    third = area_resize((1, 3), (1, 2))(np.array([[[0.0, 3.0, 9.0]]]))  # each covers one and a half
    np.testing.assert_allclose(third, [[[1.0, 7.0]]], rtol=1e-6)
    np.testing.assert_allclose(area_resize((1, 2), (1, 4))(np.array([[[1.0, 5.0]]])), [[[1, 1, 5, 5]]], rtol=1e-6)


def test_grey_is_gymnasiums_to_the_bit():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    theirs = np.sum(np.multiply(image, np.array([0.2125, 0.7154, 0.0721])), axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(to_grey(image.transpose(2, 0, 1))[0], theirs)


def test_frames_move_up():
    row = np.array([9.0, 1, 2, 3])
    push(row, np.array([8.0, 4]), vector=1, first=False)
    np.testing.assert_array_equal(row, [8, 2, 3, 4])
    push(row, np.array([7.0, 5]), vector=1, first=True)
    np.testing.assert_array_equal(row, [7, 0, 0, 5])


def test_actions_of_pong_that_do_the_same(emulator_of_pong):
    """From states of random play: each pair ends in the same screens, but where FIRE serves the ball."""
    ale, actions = emulator_of_pong
    names = [action.name for action in actions]
    alike = describe_env("PongNoFrameskip-v4").alike
    assert [names[one] for one in alike] == ["NOOP", "NOOP", "RIGHT", "LEFT", "RIGHT", "LEFT"]
    rng, pairs = np.random.default_rng(0), [(one, other) for one, other in enumerate(alike) if one != other]
    same, other, trials = 0, 0, 30
    for _ in range(trials):
        ale.reset_game()
        for action in rng.integers(len(actions), size=rng.integers(30, 120)):
            for _ in range(4):
                ale.act(actions[action])
        state = ale.cloneState()
        same += sum(_after(ale, state, actions[a]) == _after(ale, state, actions[b]) for a, b in pairs)
        other += _after(ale, state, actions[2]) == _after(ale, state, actions[3])
    assert same >= 0.95 * trials * len(pairs)
    assert other <= 0.3 * trials


def _after(ale, state, action):
    """The screens right after a step of four frames, and ten such steps of no action later."""
    ale.restoreState(state)
    seen = []
    for each, frames in ((action, 4), (0, 40)):
        for _ in range(frames):
            ale.act(each)
        seen.append(ale.getScreenRGB().tobytes())
    ale.restoreState(state)
    return seen


@pytest.fixture
def emulator_of_pong():
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))
    return ale, ale.getMinimalActionSet()


@pytest.mark.parametrize(
    "name", ["my_envs.py:Mine-v0", "./my_envs.py:Mine-v0", "./my_envs:Mine-v0", "here/my_envs:Mine-v0"]
)
def test_a_file_in_the_place_of_a_module_is_told_what_to_write(name):
    with pytest.raises(EnvError, match="names a file where a module belongs: write my_envs:Mine-v0"):
        describe_env(name)

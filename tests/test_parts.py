"""An evaluation that is cut short goes on with the parts that are left, and gives what an unbroken one does."""

import sys
import zlib
from dataclasses import fields, replace

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import SIGN, Killed, make_teacher, sign_network
from tiny_envs import tiny_job

from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Episodes, Game, Play
from distilrl.evaluate import play
from distilrl.events import Episodes as EpisodesEnded
from distilrl.events import Phase
from distilrl.heads import student_head
from distilrl.measures import Measure
from distilrl.networks import build
from distilrl.plan import plan
from distilrl.policies import Policy
from distilrl.sensors import Sensors
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.viper import TreeConfig, distill_tree

HOW = Play(EnvRef(SIGN), keep_states=20, at_once=10)
SEEDS = range(35)


def a_teacher(sign=1.0):
    return make_teacher(sign_network(sign)).fitted(describe_env(EnvRef(SIGN)))


def policy():
    return a_teacher().policy


def remembering():
    torch.manual_seed(0)
    return Policy(build(NetworkSpec.of("gru:3", ObsSpec((2,)), 2)), student_head(Choices((2,))))


@pytest.fixture
def games(monkeypatch):
    """First seeds of the parts that are played, which here are of ten episodes."""
    begun = []

    def noted(game, watch, whole=Game.play):
        begun.append(int(game.seeds[0]))
        return whole(game, watch)

    monkeypatch.setattr(Game, "play", noted)
    return begun


def cut_at(count):
    """Cuts an evaluation short once this many episodes have ended."""

    def watch(event):
        if isinstance(event, EpisodesEnded) and event.done >= count:
            raise Killed

    return watch


def assert_equal(one, other):
    for field in fields(Episodes):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        assert type(ours) is type(theirs)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shadow", [None, policy, remembering])
@pytest.mark.parametrize("player", [policy, remembering])
def test_what_was_cut_short_goes_on_with_the_rest(tmp_path, games, player, shadow):
    shadow = shadow and shadow()
    whole = play(player(), HOW, SEEDS, shadow=shadow)
    how = replace(HOW, parts=tmp_path / "parts")
    with pytest.raises(Killed):
        play(player(), how, SEEDS, watch=cut_at(25), shadow=shadow)
    games.clear()
    told = []
    assert_equal(play(player(), how, SEEDS, watch=told.append, shadow=shadow), whole)
    assert games == [18, 27]
    assert told[-1].done == 35
    assert min(event.done for event in told) >= 18
    assert told[-1].mean == pytest.approx(whole.returns.mean())


def test_parts_of_several_threads_or_of_an_executor_are_kept_too(tmp_path, games):
    from concurrent.futures import ThreadPoolExecutor

    how = replace(HOW, parts=tmp_path / "parts")
    with ThreadPoolExecutor(1) as executor, pytest.raises(Killed):
        play(policy(), replace(how, executor=executor), SEEDS, watch=cut_at(18))
    games.clear()
    assert_equal(play(policy(), how, SEEDS), play(policy(), HOW, SEEDS))
    assert games[:2] == [18, 27] or games[0] == 27  # the executor may have played on before it heard


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.1}, {"keep_states": 40}, {"max_steps": 3}, {"sensors": Sensors(delay=1)},
        {"measures": (Measure("speed", "mean"),)}, {"env": EnvRef(SIGN, {"max_episode_steps": 20})},
    ],
)  # fmt: skip
def test_another_play_is_another(tmp_path, games, change):
    how = replace(HOW, parts=tmp_path / "parts")
    play(policy(), how, SEEDS)
    games.clear()
    play(policy(), how, SEEDS)
    assert not games
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilrl.episodes.make_vec_env", None)  # so that it is seen to be played, whatever came of it
        with pytest.raises(TypeError):
            play(policy(), replace(how, **change), SEEDS)


MODULE = """
from conftest import SignEnv


class Edited(SignEnv):
    pays = {pays}

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, self.pays * reward, *rest
"""


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
@pytest.mark.parametrize("edited", ["the file", "the registration", "nothing"])
def test_an_environment_that_was_mended_is_another(tmp_path, games, monkeypatch, edited):
    """Where it had raised in the student's half of a verdict, the teacher's half was of before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file, how = tmp_path / "edited_env.py", Play(EnvRef("Edited-v0"), at_once=10, parts=tmp_path / "parts")
    file.write_text(MODULE.format(pays=1.0))
    gymnasium.register("Edited-v0", "edited_env:Edited", max_episode_steps=10)
    try:
        before = play(policy(), how, SEEDS).returns
        games.clear()
        if edited == "the file":
            file.write_text(MODULE.format(pays=10.0))
            del sys.modules["edited_env"]
        if edited == "the registration":
            gymnasium.register("Edited-v0", "conftest:SignEnv", max_episode_steps=9)
        after = play(policy(), how, SEEDS).returns
        assert len(games) == (0 if edited == "nothing" else 4)
        assert np.array_equal(before, after) == (edited == "nothing")
    finally:
        gymnasium.registry.pop("Edited-v0")
        sys.modules.pop("edited_env", None)


def test_other_weights_or_other_seeds_are_another(tmp_path, games):
    how = replace(HOW, parts=tmp_path / "parts")
    play(policy(), how, SEEDS)
    games.clear()
    play(a_teacher(-1.0).policy, how, SEEDS)
    play(policy(), how, range(1, 36))
    assert len(games) == 8


def test_a_damaged_part_is_played_again(tmp_path, games):
    how = replace(HOW, parts=tmp_path / "parts")
    whole = play(policy(), how, SEEDS)
    games.clear()
    for file in (tmp_path / "parts").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    assert_equal(play(policy(), how, SEEDS), whole)
    assert len(games) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"fingerprints": np.zeros(1, np.uint64)},
        {"returns": np.zeros(10, np.float32)},
        {"measured": np.zeros((9, 0))},
        {"lengths": np.zeros((10, 2), np.int64)},
        {"clusters": np.zeros(3)},
        {"states": np.zeros(20, np.float32)},
    ],
)
def test_a_part_that_does_not_hold_together_is_none(tmp_path, games, wrong):
    part = play(policy(), HOW, range(10))
    replace(part, **wrong).write(tmp_path / "wrong.z")
    read = Episodes.read(tmp_path / "wrong.z")
    assert read is None or not read.fits(10, HOW)
    for change in ({"states": np.zeros((20, 7), np.float32)}, {"measured": np.zeros((10, 1))}):
        assert not replace(part, **change).fits(10, HOW)
    bfloat = safetensors.torch.save({"states": torch.zeros(2, 2, dtype=torch.bfloat16)})
    (tmp_path / "bfloat.z").write_bytes(zlib.compress(bfloat))
    assert Episodes.read(tmp_path / "bfloat.z") is None
    part.write(tmp_path / "whole.z")
    assert_equal(Episodes.read(tmp_path / "whole.z"), part)


def test_a_part_takes_no_more_memory_than_there_may_be(tmp_path, monkeypatch, games):
    """Four megabytes of zeros were four gigabytes."""
    part = play(policy(), HOW, range(10))
    part.write(tmp_path / "part.z")
    monkeypatch.setattr("distilrl.episodes.MAX_PART_BYTES", 700)
    assert Episodes.read(tmp_path / "part.z") is None
    small = zlib.compress(bytes(1 << 18), 9)
    (tmp_path / "small.z").write_bytes(small)
    assert len(small) < 700
    assert Episodes.read(tmp_path / "small.z") is None


def killed_in_verdict(count):
    """Cuts a run short once ``count`` episodes of the student's have ended in its verdict."""
    begun, whole = [], []

    def watch(event):
        begun.extend([event] if isinstance(event, Phase) and event.name == "verdict" else [])
        if begun and isinstance(event, EpisodesEnded):
            whole.extend([event] if event.done == event.total else [])  # first the teacher's
            if whole and event.done >= count and event.done < event.total:
                raise Killed

    return watch


def a_tree(out, watch=None, **changes):
    return distill_tree(a_teacher(), tiny_job(), out, TreeConfig(4, 2, states=80), watch=watch, report=False, **changes)


def a_student(out, watch=None, **changes):
    return distill(a_teacher(), tiny_job(), out, watch=watch, report=False, **changes)


def a_plan(out, watch=None, **changes):
    return plan(a_teacher(), tiny_job(), out, sizes=["mlp:16"], seeds=1, watch=watch, report=False, **changes)


@pytest.mark.parametrize("make", [a_student, a_tree, a_plan])
def test_a_verdict_goes_on_where_it_was_killed(tmp_path, games, make):
    whole = make(tmp_path / "whole")
    all_games = len(games)
    games.clear()
    with pytest.raises(Killed):
        make(tmp_path / "cut", killed_in_verdict(150))
    before = len(games)
    assert list((tmp_path / "cut" / "checkpoint" / "verdict").iterdir())
    games.clear()
    again = make(tmp_path / "cut", resume=True)
    assert before + len(games) == all_games + 1, "none is played twice but the part that was cut"
    assert not (tmp_path / "cut" / "checkpoint" / "verdict").exists()
    assert not (tmp_path / "whole" / "checkpoint" / "verdict").exists()
    if make is a_plan:
        assert again.winner == whole.winner == "mlp:16"
    else:
        assert (again.verdict, again.agreement) == (whole.verdict, whole.agreement)
        assert (tmp_path / "cut" / "episodes.json").read_bytes() == (tmp_path / "whole" / "episodes.json").read_bytes()

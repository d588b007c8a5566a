"""The acceptance of a teacher that is kept for the next run: only of the very same, and never in the user's way."""

from dataclasses import replace

import gymnasium
import instances
import numpy as np
import pytest
from conftest import SIGN, SignEnv, make_teacher, sign_network
from tiny_envs import tiny_config

from distilrl import stats
from distilrl.acceptance import SURE, _gain, accept, kept_acceptance
from distilrl.comparison import Comparison
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import TeacherError
from distilrl.events import Accepted, Phase
from distilrl.jobs import Job
from distilrl.networks import build
from distilrl.spaces import EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Check

HOW = Play(EnvRef("CartPole-v1", {"max_episode_steps": 100}))


def leaning(weight=1.0):
    """Pushes where the pole leans, much better than random play; without a weight always to the same side."""
    network = build(NetworkSpec((4,), 2, hidden=()))
    for parameter in network.parameters():
        parameter.data.zero_()
    network.layers[0].weight.data[1, 2:] = weight
    return make_teacher(network).fitted(describe_env("CartPole-v1"))


class NoisyEnv(SignEnv):
    """One step; action 1 pays 1 more than action 0 in the mean, with a standard deviation of 2."""

    def step(self, action):
        return self._observe(), float(action) + self.np_random.normal(0, 2, 2)[action], True, False, {}


if "distilrl/NoisyEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/NoisyEnv-v0", entry_point=NoisyEnv)


def constant(action):
    """Does the same whatever it sees."""
    network = sign_network(0.0)
    network.layers[2].bias.data[action] = 1.0
    return make_teacher(network)


def accepted(action, most, weak_ok=False):
    how = Play(EnvRef("distilrl/NoisyEnv-v0"))
    teacher = constant(action).fitted(describe_env(how.env))
    return accept(teacher, how, episodes=10, max_episodes=most, weak_ok=weak_ok)


def test_episodes_that_do_not_end_are_told_of_in_the_check_and_in_random_play(monkeypatch):
    monkeypatch.setattr("distilrl.episodes.HEARTBEAT", 0.0)
    told = []
    accept(leaning(), HOW, episodes=4, watch=told.append)
    phases = [event.name for event in told if isinstance(event, Phase)]
    assert phases == ["random play", "teacher's check"]
    turn = told.index(Phase("random play"))
    for part in (told[:turn], told[turn + 1 : -1]):
        waited = [event for event in part if event.done == 0]
        assert [event.steps for event in waited] == list(range(1, len(waited) + 1))
        assert len(waited) > 5
        assert all(event.mean == 0.0 for event in waited)
        assert (part[-1].done, part[-1].total) == (4, 4)


def test_it_plays_on_while_it_is_unclear():
    once = accepted(1, 10, weak_ok=True)
    assert (once.episodes, once.better_than_random) == (10, False)
    found = accepted(1, 640)
    assert found.better_than_random
    assert found.episodes in (80, 160, 320)  # doubled, and no more than needed
    assert found.distinct_episodes == found.episodes  # of seeds of their own
    with pytest.raises(TeacherError, match=r"over 40 episodes\).*--accept-max-episodes"):
        accepted(1, 79)


class WayEnv(SignEnv):
    """Each step costs 1 until action 1 was chosen ten times without a break: random play takes a thousand."""

    def reset(self, *, seed=None, options=None):
        self.along = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.along = self.along + 1 if action == 1 else 0
        return self._observe(), -1.0, self.along == 10, False, {}


if "distilrl/WayEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/WayEnv-v0", entry_point=WayEnv, max_episode_steps=400)


def test_who_only_loses_time_scores_no_more_in_a_check_than_random_play():
    """Checks end at twice the teacher's longest episode and random play's return was of its whole ones, so that a
    student that stood still had a score of 0.97."""
    how = Play(EnvRef("distilrl/WayEnv-v0"))
    teacher, idle = (constant(action).fitted(describe_env(how.env)) for action in (1, 0))
    known = accept(teacher, how, episodes=10)
    assert (known.return_mean, known.check_steps, known.cut_random_return_mean) == (-10.0, 20, -20.0)
    assert known.random_return_mean < -200
    check = Check(tiny_config(how.env.id), known)
    assert (check(idle.policy).score, check(teacher.policy).score) == (0.0, 1.0)
    whole = check.whole()  # and so where an episode is played to its end
    assert whole(idle.policy).score == stats.score(-400.0, -10.0, known.random_return_mean) < 0.0
    assert check.parity(idle.policy, teacher, 5) == check.parity(idle.policy, None, 5) == (-400.0, whole.score(-400.0))
    # what ends a run, and what is good enough, is a share as the verdict's margin is
    assert check.share(known.return_mean - 0.05 * (known.return_mean - known.random_return_mean)) == pytest.approx(0.95)


class LateEnv(SignEnv):
    """What an episode is worth is told at its end: nothing where action 1 was chosen ten times, else a loss of 1."""

    def reset(self, *, seed=None, options=None):
        self.along = self.taken = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.along, self.taken = (self.along + 1 if action == 1 else 0), self.taken + 1
        return self._observe(), -float(self.taken == 400), self.along == 10, False, {}


if "distilrl/AtTheEnd-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/AtTheEnd-v0", entry_point=LateEnv, max_episode_steps=400)


def test_where_all_is_lost_at_the_end_a_check_is_held_against_whole_episodes():
    """Cut before, random play has lost nothing there, and there would be no score at all."""
    how = Play(EnvRef("distilrl/AtTheEnd-v0"))
    known = accept(constant(1).fitted(describe_env(how.env)), how, episodes=20, weak_ok=True)
    assert known.random_return_mean < known.return_mean == 0.0
    assert known.cut_random_return_mean is None
    assert Check(tiny_config("distilrl/AtTheEnd-v0"), known).score(0.0) == 1.0


def test_random_play_is_played_once_where_no_episode_of_its_is_cut():
    known = accept(leaning(), HOW, episodes=4)
    assert known.cut_random_return_mean is None
    assert Check(tiny_config("CartPole-v1"), known).score(known.random_return_mean) == 0.0


def test_a_few_equal_differences_prove_nothing():
    """Of two coins that fall alike an interval without a width was made."""
    for count in (2, SURE - 1, SURE):
        own, chance = (instances.games([one] * count, fingerprints=range(count)) for one in (1.0, 0.0))
        low, high = _gain(own, chance, np.random.default_rng(0), exact=False, confidence=0.99)
        assert (low > 0) == (count == SURE)
        assert high >= 1.0


def test_of_every_start_the_teacher_is_held_to_what_chance_makes():
    """The teacher's return is known then, and random play's is not."""
    chance = instances.games([0.0, 10.0] * 15, fingerprints=range(30))
    for mean in (2.0, 5.0, 8.0):
        own = instances.games([mean] * 30, fingerprints=range(30))
        low, high = _gain(own, chance, np.random.default_rng(0), exact=True, confidence=0.95)
        assert low < mean - 5.0 < high
        assert (low > 0, high < 0) == (mean > 7, mean < 3)


def test_it_ends_where_the_teacher_is_proven_worse():
    found = accepted(0, 5120, weak_ok=True)
    assert not found.better_than_random
    assert found.episodes < 1000


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def asked(teacher, how, episodes=5, found=None, most=40):
    """What was kept, and how often it had to be found."""
    calls = []

    def make():
        calls.append(1)
        return found or accept(teacher, how, episodes=episodes, max_episodes=most)

    acceptance, path = kept_acceptance(teacher, how, episodes, most, make)
    return acceptance, path, len(calls)


def test_it_is_found_once(cache):
    teacher = leaning()
    first, nowhere, played = asked(teacher, HOW)
    again, path, not_played = asked(teacher, HOW)
    assert (played, not_played, nowhere) == (1, 0, None)
    assert again == first
    assert path.is_relative_to(cache)


def test_another_check_is_another(cache, monkeypatch):
    teacher = leaning()
    asked(teacher, HOW)
    assert asked(replace(teacher, digest="1" * 64), HOW)[2] == 1
    assert asked(teacher, HOW, episodes=6)[2] == 1
    assert asked(teacher, HOW, most=80)[2] == 1
    assert asked(teacher, Play(HOW.env, epsilon=0.1))[2] == 1
    assert asked(teacher, replace(HOW, at_once=4))[2] == 1, "other batches have other last digits"
    monkeypatch.setattr("distilrl.provenance.__version__", "another")
    assert asked(teacher, HOW)[2] == 1


def test_what_may_change_without_a_version_is_never_kept(cache):
    """An environment of the user's own, a wrapper; and a teacher that was taken though it is weak."""
    sign = make_teacher(sign_network()).fitted(describe_env(EnvRef(SIGN)))
    assert asked(sign, Play(EnvRef(SIGN)))[2] == 1
    assert asked(sign, Play(EnvRef(SIGN)))[2] == 1
    weak = leaning(0.0)
    found = accept(weak, HOW, episodes=5, weak_ok=True)
    assert not found.better_than_random
    assert asked(weak, HOW, found=found)[2] == 1
    assert not cache.exists()


def test_no_cache_where_none_is_wanted_or_none_can_be_written(monkeypatch, tmp_path):
    teacher = leaning()
    monkeypatch.setenv("DISTILRL_CACHE", "")
    assert [asked(teacher, HOW)[2] for _ in range(2)] == [1, 1]
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DISTILRL_CACHE", str(tmp_path / "file"))
    assert [asked(teacher, HOW)[2] for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("damage", ["", "{", '{"return_mean": "high"}', '{"return_mean": NaN}'])
def test_a_damaged_file_is_made_anew(cache, damage):
    teacher = leaning()
    first = asked(teacher, HOW)[0]
    (path,) = (cache / "acceptance").iterdir()
    path.write_text(damage)
    again, _, played = asked(teacher, HOW)
    assert (played, again) == (1, first)
    assert asked(teacher, HOW)[2] == 0


def test_a_run_says_that_it_was_not_played(cache, tmp_path):
    teacher = leaning()
    job = Job(tiny_config("CartPole-v1", env_steps=400, network="mlp:4"), Comparison(10, 10, 0))
    events = []
    for name in ("one", "two"):
        distill(teacher, job, tmp_path / name, watch=events.append, report=False)
    kept = [event.kept for event in events if isinstance(event, Accepted)]
    assert kept[0] is None
    assert kept[1] is not None
    one, two = ((tmp_path / name / "student" / "student.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two

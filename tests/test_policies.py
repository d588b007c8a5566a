"""Policies with memory: whoever plays one carries its state from step to step and starts it anew with an episode."""

from dataclasses import replace
from itertools import pairwise

import gymnasium
import instances
import numpy as np
import pytest
import torch
from conftest import Killed, killed_after
from test_train import small, without_clock
from torch import nn

from distilrl.acceptance import accept
from distilrl.collect import Behaviour, Collector
from distilrl.comparison import Comparison, compare
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Play
from distilrl.evaluate import latency_us, play
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.policies import Policy, rows_of
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import RunFolder
from distilrl.schedules import Progress, Schedule
from distilrl.spaces import Choices, EnvRef
from distilrl.teachers import Teacher
from distilrl.train import train


class RecallEnv(gymnasium.Env):
    """Pays for the sign of the number seen one step before; at first for action 0. Episodes last 4 to 9 steps."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.right = int(self.np_random.integers(4, 10)), 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 1).astype(np.float32)
        return self.obs

    def step(self, action):
        reward = float(action == self.right)
        self.right = int(self.obs[0] > 0)
        self.left -= 1
        return self._observe(), reward, self.left == 0, False, {}


RECALL = EnvRef("distilrl/RecallEnv-v0")
if RECALL.id not in gymnasium.registry:
    gymnasium.register(RECALL.id, entry_point=RecallEnv)
HEAD = Categorical(Choices((2,)))


class Recall(nn.Module):
    """Remembers the last number, which is the answer."""

    def __init__(self):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor([[-1.0, 1.0]]))
        self.calls = 0

    def start(self, count):
        return (torch.zeros(count, 1),)

    def forward(self, obs, state):
        self.calls += 1
        return state[0] * self.sign, (obs,)


class Forgetful(nn.Module):
    """Answers by what it sees now."""

    def forward(self, obs):
        return torch.cat([-obs, obs], dim=1)


def recalling():
    return Teacher(Recall(), "q", "test", "memory", "0" * 64, obs_shape=(1,), outputs=2).fitted(describe_env(RECALL))


POLICY, FORGETFUL = Policy(Recall(), HEAD), Policy(Forgetful(), HEAD)


def alone(policy, episode):
    """Numbers (T, P) of a policy that sees one episode (T, D) from its beginning."""
    state, numbers = policy.start(1), []
    for obs in episode:
        p, state = policy.forward(obs[None], state)
        numbers.append(p[0])
    return torch.stack(numbers).detach()


def test_a_policy_without_memory_has_no_state():
    assert not FORGETFUL.remembers
    assert FORGETFUL.start(3) == ()
    numbers, state = FORGETFUL.forward(torch.ones(3, 1))
    assert (numbers.shape, state) == ((3, 2), ())
    assert FORGETFUL.restart((), torch.tensor([True, False, True])) == ()


def test_only_what_ended_starts_anew():
    state = (torch.tensor([[1.0], [2.0], [3.0]]),)
    assert POLICY.restart(state, torch.zeros(3, dtype=torch.bool)) is state
    assert POLICY.restart(state, torch.tensor([False, True, False]))[0].tolist() == [[1.0], [0.0], [3.0]]
    assert rows_of(state, torch.tensor([2, 0]))[0].tolist() == [[3.0], [1.0]]


def test_acting_threads_the_state():
    actions, state = POLICY.act(torch.tensor([[3.0], [-3.0]]), POLICY.start(2))
    assert actions.tolist() == [[0], [0]]
    actions, _ = POLICY.act(torch.zeros(2, 1), state)
    assert actions.tolist() == [[1], [0]]


def test_an_episode_is_played_with_memory_and_without():
    games = play(POLICY, Play(RECALL, keep_states=50), range(40))
    assert games.returns.tolist() == games.lengths.tolist(), "every answer is right, also at the start of an episode"
    assert len(set(games.lengths.tolist())) == 6
    assert games.own.shape == (50, 2)
    forgetful = play(FORGETFUL, Play(RECALL), range(40))
    assert forgetful.returns.sum() < 0.7 * forgetful.lengths.sum()
    assert forgetful.own is None


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_an_episode_is_the_same_among_others(at_once):
    together = play(POLICY, Play(RECALL, at_once=at_once), range(20))
    apart = [play(POLICY, Play(RECALL), [seed]) for seed in range(20)]
    assert together.fingerprints.tolist() == [int(one.fingerprints[0]) for one in apart]


def collected(behaviour, steps=60, progress=0.0, student=None):
    """What a collector with a teacher of memory puts into a replay of six environments."""
    teacher, envs = recalling(), make_vec_env(RECALL, 6)
    replay = Replay(ReplaySpec(6 * (steps + 1), 6, envs.info.obs, envs.info.action, labels=2), torch.device("cpu"))
    collector = Collector(envs, replay, behaviour, np.random.default_rng(0), teacher)
    collector.progress, collector.student = Progress(progress), student
    calls = teacher.network.calls
    for index, _ in enumerate(collector.steps(np.arange(6))):
        if index == steps:
            break
    envs.close()
    return replay, teacher, teacher.network.calls - calls


def episodes_of(replay, rows):
    """(observations (T, D), labels (T, P)) of each episode that ended within these rows."""
    for env in range(6):
        ends = [-1, *torch.nonzero(replay._flags[:rows, env]).flatten().tolist()]
        for before, end in pairwise(ends):
            yield replay._obs[before + 1 : end + 1, env], replay._labels[before + 1 : end + 1, env]


@pytest.mark.parametrize("name", ["teacher", "student", "mixed"])
def test_labels_are_those_of_each_episode_played_alone(name):
    replay, teacher, _ = collected(Behaviour(name, epsilon=Schedule(0.3)), student=FORGETFUL)
    episodes = list(episodes_of(replay, 60))
    assert len(episodes) > 30
    for obs, labels in episodes:
        assert torch.equal(alone(teacher.policy, obs), labels)


def test_a_teacher_that_remembers_is_asked_at_every_step():
    """If it missed one it would not know what it should remember."""
    replay, teacher, calls = collected(Behaviour(labels=(Schedule(0.25),)))
    assert calls == 61
    assert len(replay.labels()) == 6 * 60
    for obs, labels in episodes_of(replay, 60):
        assert torch.equal(alone(teacher.policy, obs), labels)


def test_a_student_that_remembers_acts_by_what_it_saw():
    replay, _, _ = collected(Behaviour("student", epsilon=Schedule(0.0)), student=Policy(Recall(), HEAD))
    actions, labels = replay._action[:60].flatten(), replay._labels[:60].argmax(-1).flatten()
    assert torch.equal(actions, labels)


def test_agreement_of_what_remembers_is_measured_while_it_plays():
    teacher, info = recalling(), describe_env(RECALL)
    accepted = instances.acceptance(6.0, 3.0)
    how, comparison = Play(RECALL), Comparison(100, 100, 0, agreement_states=500)
    same = compare(teacher, Policy(Recall(), HEAD), how, comparison, accepted, info)
    assert same.agreement.teacher_states == same.agreement.student_states == 1.0
    assert same.verdict.result == "pass"
    other = compare(teacher, FORGETFUL, how, comparison, accepted, info)
    table = np.array(other.agreement.tables[0])
    assert other.agreement.student_states == pytest.approx(table.trace() / table.sum())
    assert 0.35 < other.agreement.student_states < 0.65
    assert other.verdict.result == "fail"
    for one in other.episodes.disagreements:
        assert one.teacher_action != one.student_action
        assert one.student_action == (int(one.obs[0] > 0),)


def test_acceptance_and_latency_of_what_remembers():
    teacher = recalling()
    known = accept(teacher, Play(RECALL), episodes=20)
    assert known.better_than_random
    assert known.longest_episode == 9
    assert latency_us(teacher.policy, describe_env(RECALL), calls=5) > 0


def test_a_teacher_that_remembers_is_distilled_and_resumed_to_the_same_bytes(tmp_path):
    config = small(env=RECALL.id, env_steps=1200, gap=-20.0)
    job = Job(config, Comparison(20, 20, 4), accept_episodes=10)
    whole = distill(recalling(), job, tmp_path / "whole")
    assert 0.3 < whole.agreement.student_states < 0.8, "a student without memory cannot know"
    acceptance = instances.acceptance(6.5, 3.2, 9)
    runs = [train(config, recalling(), acceptance=acceptance)]
    with pytest.raises(Killed):
        train(config, recalling(), acceptance=acceptance, folder=RunFolder(tmp_path / "cut"), watch=killed_after(700))
    runs.append(train(config, recalling(), acceptance=acceptance, folder=RunFolder(tmp_path / "cut")))
    assert without_clock(runs[0]) == without_clock(runs[1])
    assert runs[0].history[-1]["agreement"] is not None
    one, two = (tmp_path / name / "student" / "student.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


def test_a_teacher_is_no_other_for_being_replaced():
    assert replace(recalling(), path="elsewhere").policy.remembers

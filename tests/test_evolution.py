"""The stage with reward: it finds what imitation cannot, continues where it was cut, and says where it does not go."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from conftest import Killed, killed_after
from instances import acceptance
from test_train import small, without_clock

from distilrl import events
from distilrl.comparison import Comparison
from distilrl.config import RewardConfig, TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Play
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import SELECT_SEEDS, VERDICT_SEEDS, play
from distilrl.events import Noticed
from distilrl.evolution import APART, LONGER, Search
from distilrl.heads import Point
from distilrl.jobs import Job
from distilrl.metrics import read_metrics
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.runs import RunFolder
from distilrl.spaces import Bounds, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Check
from distilrl.teachers import Teacher
from distilrl.train import train


class MiddleEnv(gymnasium.Env):
    """One number; the action is to equal it, but only numbers between -1 and 1 pay. Ten steps an episode.

    The teacher is right there and answers 0 elsewhere, which costs it nothing. A linear student cannot do both:
    imitation gives it a slope of 0.2, and the best linear policy has a slope of 1.
    """

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-5, 5, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 1).astype(np.float32)
        return self.obs

    def step(self, action):
        pays = abs(self.obs[0]) < 1
        reward = max(0.0, 1.0 - 4.0 * abs(float(action[0] - self.obs[0]))) if pays else 0.0
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


MIDDLE = "distilrl/MiddleEnv-v0"
if MIDDLE not in gymnasium.registry:
    gymnasium.register(MIDDLE, entry_point=MiddleEnv)
TEACHER = Teacher.from_callable(lambda obs: obs * (obs.abs() < 1), 1, obs_shape=(1,), name="middle")
ACCEPTANCE = acceptance(6.8, 0.3)
REWARD = RewardConfig(env_steps=25_600, directions=8, best=4, episodes=4, radius=0.1, rate=0.9)


def config_of(reward=REWARD, **changes):
    return small(env=MIDDLE, reward=reward, **({"network": "mlp:", "gap": -20.0} | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with the stage, unbroken, and the events it told of."""
    seen = []
    folder = RunFolder(tmp_path_factory.mktemp("whole"))
    return train(config_of(), TEACHER, acceptance=ACCEPTANCE, folder=folder, watch=seen.append), seen, folder


@pytest.fixture(scope="module")
def imitated():
    """The same run without the stage."""
    return train(config_of(RewardConfig()), TEACHER, acceptance=ACCEPTANCE)


def as_trained(network, mean, scale):
    """The network with its inputs standardised so."""
    trained = copy.deepcopy(network)
    trained.standardise(mean, scale)
    return trained


def test_reward_finds_what_imitation_of_a_larger_teacher_cannot(whole, imitated):
    trained, seen, _ = whole
    ours, before = (
        play(one.policy, Play(EnvRef(MIDDLE)), range(100, 200)).returns.mean() for one in (trained, imitated)
    )
    assert before < 3.0
    assert ours > 4.0
    assert 0.8 < float(trained.network.layers[-1].weight) < 1.2
    assert "rounds with reward" in trained.stopped
    assert trained.env_steps == imitated.env_steps + REWARD.env_steps
    (where,) = (place for place, event in enumerate(seen) if event == events.Phase("reward"))
    assert {event.budget for event in seen[where:] if isinstance(event, events.Step)} == {REWARD.env_steps}


def test_seconds_of_the_stage_are_those_of_its_rounds(monkeypatch):
    """Not those of its checks, as everywhere else."""
    clock, step, check, others = [0.0], Search.step, Check.__call__, Check.others

    def taking(seconds, function):
        def call(*given, **named):
            clock[0] += seconds
            return function(*given, **named)

        return call

    monkeypatch.setattr("distilrl.evolution.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Search, "step", taking(1.0, step))
    monkeypatch.setattr(Check, "__call__", taking(1e6, check))
    monkeypatch.setattr(Check, "others", taking(1e6, others))
    trained = train(config_of(replace(REWARD, env_steps=6_400)), TEACHER, acceptance=ACCEPTANCE)
    assert 10.0 <= trained.train_s < 1e6


def test_metrics_go_on_through_the_stage(whole):
    trained, _, folder = whole
    rows = read_metrics(folder.metrics)
    assert len(rows) == len(trained.history)
    steps = [int(row["env_steps"]) for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == trained.env_steps


@pytest.mark.parametrize("moment", [600, 8_000])  # before the stage's first state is saved, and after
def test_the_stage_is_resumed_to_the_same_result(whole, tmp_path, moment):
    trained, _, _ = whole
    started = []

    def kill(event):
        started.append(event == events.Phase("reward"))
        if any(started):
            killed_after(moment)(event)

    with pytest.raises(Killed):
        train(config_of(), TEACHER, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path), watch=kill)
    assert (RunFolder(tmp_path).load_state("reward") is not None) == (moment > 4_000)
    resumed = train(config_of(), TEACHER, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path))
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert without_clock(resumed) == without_clock(trained)
    assert (resumed.env_steps, resumed.updates, resumed.stopped) == (
        trained.env_steps,
        trained.updates,
        trained.stopped,
    )
    again = train(config_of(), TEACHER, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path))
    assert without_clock(again) == without_clock(trained), "a run that has ended is not made again"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _state: tensors.pop("weights"),
        lambda tensors, _state: tensors.update(best=torch.zeros(3)),
        lambda _tensors, state: state.clear(),
        lambda _tensors, state: state.update(round="x"),
        lambda _tensors, state: state.update(history=[1]),
        lambda _tensors, state: state["history"][0].pop("return"),
        lambda _tensors, state: state.update(best_return="x"),
    ],
)
def test_a_checkpoint_of_the_stage_that_does_not_fit_is_one_sentence(whole, tmp_path, change):
    shutil.copytree(whole[2].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    tensors, state = folder.load_state("reward")
    change(tensors, state)
    folder.save_state(tensors, state, name="reward")
    with pytest.raises(ResumeError, match="The checkpoint does not fit this run"):
        train(config_of(), TEACHER, acceptance=ACCEPTANCE, folder=folder)


def test_a_student_that_reward_does_not_help_stays_as_it_was(imitated):
    """A stage that only harms ships what imitation gave."""
    harmful = RewardConfig(env_steps=2_000, directions=2, best=2, episodes=1, radius=5.0, rate=50.0)
    trained = train(config_of(harmful), TEACHER, acceptance=ACCEPTANCE)
    ours, before = (
        play(one.policy, Play(EnvRef(MIDDLE)), range(100, 200)).returns.mean() for one in (trained, imitated)
    )
    assert ours > before - 0.3


def test_what_is_searched_acts_as_it_ships(monkeypatch):
    """Actions far from -1 to 1 have units of their own, without which each candidate played near 0 of 0 to 100."""
    head, acted = Point(Bounds((0.0,), (100.0,)), "clip"), []
    units = head.find_units(torch.zeros(4, 1))
    trained = build(NetworkSpec((1,), 1, hidden=(4,)), torch.Generator().manual_seed(0))
    trained.set_units(units)
    shipped = copy.deepcopy(trained)
    shipped.fold()
    search = Search(shipped, trained, RewardConfig(directions=1, best=1, episodes=1), 0, (), units)
    envs = make_vec_env(MIDDLE, 2)
    seen, send = [envs.reset(np.zeros(2, np.int64))], envs.send

    def noted(actions, live):
        acted.append(actions.copy())
        send(np.clip(actions, -5, 5), live)

    monkeypatch.setattr(envs, "send", noted)
    monkeypatch.setattr(envs, "reset", lambda seeds: seen[0])
    search._play(search.weights.repeat(2, 1), envs, head, limit=1)
    envs.close()
    ships = head.greedy(search.network(search.weights, ships=True)(torch.from_numpy(seen[0]))).numpy()
    assert acted[0] == pytest.approx(ships, abs=1e-3)
    assert ships.min() > 10


def test_the_results_of_a_job_are_of_the_student_with_reward(tmp_path):
    job = Job(config_of(), Comparison(40, 40, 0), accept_episodes=20)
    results = distill(TEACHER, job, tmp_path / "run", report=False)
    assert results.student.score > 0.55
    assert results.env_steps == 1600 + REWARD.env_steps
    assert Job.from_json(RunFolder(tmp_path / "run").read_config()) == job


def test_a_stage_in_which_nothing_was_better_leaves_the_student_as_it_is(monkeypatch):
    """It came back from the search's own form, in which its last bits were others."""
    plain = train(config_of(reward=RewardConfig(), env_steps=400), TEACHER, acceptance=ACCEPTANCE)
    seen = []
    monkeypatch.setattr(Check, "others", lambda *_, **__: float("inf"))
    short = replace(REWARD, env_steps=1)
    found = train(config_of(reward=short, env_steps=400), TEACHER, acceptance=ACCEPTANCE, watch=seen.append)
    ours, theirs = (one.networks[0].state_dict() for one in (found, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [event.words for event in seen if isinstance(event, Noticed)] == [
        f"The stage with reward had steps for a single round ({found.env_steps - plain.env_steps:,}), which moves "
        "nothing: give it ten times as many, or leave it out."
    ]


def test_images_are_refused_before_training(tmp_path):
    env_id, seen = "distilrl/MixedEnv-v0", []
    teacher = Teacher.from_callable(lambda obs: obs[:, :2], 2, name="two")
    config = small(env=env_id, network="cnn:2k4s4:4", reward=REWARD)
    with pytest.raises(SpecError, match="suits an mlp student: leave it out for images"):
        train(config, teacher, acceptance=ACCEPTANCE, watch=seen.append)
    with pytest.raises(SpecError, match="suits an mlp student: leave it out for images"):
        distill(teacher, Job(config), tmp_path / "run", watch=seen.append)
    assert seen == []
    assert not (tmp_path / "run").exists()


def test_several_tasks_are_refused():
    both = tuple(TaskFile(EnvRef(env_id)) for env_id in (MIDDLE, "distilrl/SignEnv-v0"))
    with pytest.raises(SpecError, match=r"several tasks starts anew and takes neither .* nor a stage with reward"):
        config_of(tasks=both)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("env_steps", (-1,)),
        ("directions", (0,)),
        ("best", (0,)),
        ("episodes", (0,)),
        ("radius", (0.0, float("nan"))),
        ("rate", (-1.0,)),
    ],
)
def test_values_that_mean_nothing_are_refused(name, values):
    for value in values:
        with pytest.raises(SpecError, match=f"'{name}'"):
            RewardConfig(**{name: value})


def test_the_search_starts_from_the_function_that_was_distilled():
    network = build(NetworkSpec((2,), 1, hidden=(5,)), torch.Generator().manual_seed(0))
    mean, scale = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    search = Search(network, as_trained(network, mean, scale), REWARD, 0)
    obs = torch.randn(20, 2) * 3
    torch.testing.assert_close(search.network(search.weights)(obs), network(obs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(search.network(search.weights, ships=True)(obs), network(obs), rtol=1e-4, atol=1e-4)
    widths = [5 * 2 + 5, 5 + 1]
    assert len(search.weights) == sum(widths)
    assert [len(part.unique()) for part in search.units.split(widths)] == [1, 1], "one unit for each layer"


def test_directions_are_tried_through_the_noise_of_the_student():
    """What sees through noise is chosen through noise; a way and its opposite meet the same."""
    network = build(NetworkSpec((1,), 1), torch.Generator().manual_seed(0))
    head = Point(Bounds((-5.0,), (5.0,)))
    returns = []
    for noise in ((), (0.0,), (3.0,)):
        search = Search(network, network, REWARD, 0, noise)
        envs = make_vec_env(EnvRef(MIDDLE), 2 * REWARD.directions * REWARD.episodes)
        same = search.weights.repeat(2 * REWARD.directions, 1)
        played = search._play(same, envs, head, 1000)
        assert torch.equal(*played.chunk(2))
        returns.append(played)
        envs.close()
    assert torch.equal(returns[0], returns[1])
    assert not torch.equal(returns[0], returns[2])


def test_hidden_features_stay_hidden():
    network = build(NetworkSpec((2,), 1, hidden=(3,), unseen=(1,)), torch.Generator().manual_seed(1))
    search = Search(network, as_trained(network, torch.zeros(2), torch.tensor([2.0, 5.0])), REWARD, 0)
    assert torch.equal(search.template.obs_scale, torch.tensor([2.0]))
    moved = search.network(search.weights + 1.0, ships=True)
    obs = torch.tensor([[0.5, 0.0], [0.5, 99.0]])
    assert torch.equal(*moved(obs))


@pytest.mark.parametrize("episodes", [20, 700])
def test_who_looks_better_is_asked_on_other_episodes_than_those_it_looked_better_on(monkeypatch, episodes):
    from distilrl import stream

    played, how = [], stream.play
    monkeypatch.setattr(stream, "play", lambda p, h, seeds, **more: played.append(set(seeds)) or how(p, h, [0], **more))
    check = stream.Check(config_of(check_episodes=episodes), ACCEPTANCE)
    policy = Policy(TEACHER.fitted(describe_env(EnvRef(MIDDLE))).network, Point(Bounds((-5.0,), (5.0,))))
    check(policy)
    for turn in (0, 1):
        check.others(policy, 50, turn=turn)
    assert [len(seeds) for seeds in played] == [episodes, 50, 50]
    assert not played[0] & played[1]
    assert not played[0] & played[2]
    assert not played[1] & played[2]


def test_a_student_that_outlasts_the_teacher_is_seen_to_its_end():
    """Its checks ended at twice the teacher's longest episode, and were held against a best that did not."""
    from distilrl import stream

    check = stream.Check(small(env="CartPole-v1"), acceptance(6.8, 0.3, longest_episode=3))
    assert (check.how.max_steps, check.whole().how.max_steps) == (6, None)
    assert check.how.max_steps == 6


@pytest.mark.parametrize(("episodes", "seed"), [(20, 899), (240, 399), (249, 39), (250, 0), (1250, 0)])
def test_who_looks_better_is_never_asked_on_the_verdicts_episodes(monkeypatch, episodes, seed):
    """With checks of 240 episodes it was, at one seed in nine hundred."""
    from distilrl import stream

    played, how = [], stream.play
    monkeypatch.setattr(stream, "play", lambda p, h, seeds, **more: played.append(set(seeds)) or how(p, h, [0], **more))
    check = stream.Check(config_of(check_episodes=episodes, seed=seed), ACCEPTANCE)
    policy = Policy(TEACHER.fitted(describe_env(EnvRef(MIDDLE))).network, Point(Bounds((-5.0,), (5.0,))))
    check(policy)
    check.others(policy, LONGER * episodes, turn=APART)
    assert [len(seeds) for seeds in played] == [episodes, LONGER * episodes]
    assert not played[0] & played[1]
    assert SELECT_SEEDS <= min(played[1]) < max(played[1]) < VERDICT_SEEDS


def test_the_teachers_return_is_as_said():
    info = describe_env(EnvRef(MIDDLE))
    assert play(TEACHER.fitted(info).policy, Play(EnvRef(MIDDLE)), range(100)).returns.mean() == pytest.approx(
        6.8, abs=0.3
    )


def test_the_network_that_ships_shares_nothing_with_the_search():
    """Its standardisation is folded into its weights; the search goes on with its own."""
    network = build(NetworkSpec((3,), 1, hidden=(4,)), torch.Generator().manual_seed(0))
    search = Search(
        network, as_trained(network, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 5.0, 2.0])), RewardConfig(), 0
    )
    before, obs = search.weights.clone(), torch.randn(20, 3)
    shipped = search.network(search.weights, ships=True)
    assert torch.equal(search.weights, before)
    torch.testing.assert_close(shipped(obs), network(obs), rtol=1e-4, atol=1e-5)


class HangingEnv(MiddleEnv):
    """Never ends."""

    def step(self, action):
        return *super().step(action)[:2], False, False, {}


def test_a_candidate_whose_episodes_never_end_is_cut():
    gymnasium.register("distilrl/HangingEnv-v0", entry_point=HangingEnv)
    config = RewardConfig(env_steps=100, directions=2, best=1, episodes=1)
    network = build(NetworkSpec((1,), 1, hidden=()), torch.Generator().manual_seed(0))
    search = Search(network, network, config, 0)
    envs = make_vec_env(EnvRef("distilrl/HangingEnv-v0"), 4)
    search.step(envs, Point(Bounds((-5.0,), (5.0,))), limit=20)
    envs.close()
    assert search.env_steps == 4 * 20


def test_a_number_that_never_varied_gets_no_weight_by_chance():
    """Its weights were a random walk, which the first real change of it would have answered to."""
    network = build(NetworkSpec((2,), 1, hidden=(5,)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.layers[0].weight[:, 1] = 0.0
    trained = as_trained(network, torch.tensor([0.0, 101325.0]), torch.ones(2))
    search = Search(network, trained, REWARD, 0)
    own = search.units[: 5 * 2].view(5, 2)
    assert (own[:, 1] == 0).all()
    assert (own[:, 0] > 0).all()
    moved = search.network(search.weights + search.units, ships=True)
    assert torch.equal(*moved(torch.tensor([[0.5, 101325.0], [0.5, 0.0]])))


def test_the_stage_is_held_to_episodes_that_chose_nothing_before(monkeypatch):
    from distilrl import stream
    from distilrl.evolution import APART, LONGER

    played, how = [], stream.play
    monkeypatch.setattr(stream, "play", lambda p, h, seeds, **more: played.append(set(seeds)) or how(p, h, [0], **more))
    config = config_of()
    check = stream.Check(config, ACCEPTANCE)
    policy = Policy(TEACHER.fitted(describe_env(EnvRef(MIDDLE))).network, Point(Bounds((-5.0,), (5.0,))))
    for turn in range(50):
        check.others(policy, config.stop.final_episodes, turn=turn)
    check.others(policy, LONGER * config.stop.check_episodes, turn=APART)
    assert not set.union(*played[:-1]) & played[-1]

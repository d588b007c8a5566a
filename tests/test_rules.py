"""Rules of the whole project that one wrong line would break and no other test would notice, each by hand."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network
from instances import acceptance
from test_evolution import ACCEPTANCE, MIDDLE, REWARD, TEACHER, config_of
from test_objective import ARM, THREE, batch, context, net
from test_train import small
from test_trees import DEEP, STUMP, TWO
from tiny_envs import MOVED, linear_teacher, tiny_config, tiny_job

from distilrl import losses, stats, stream, viper
from distilrl.acceptance import accept
from distilrl.agreement import agreement_of, disagreements
from distilrl.collect import Behaviour, Collector
from distilrl.comparison import Comparison, compare
from distilrl.config import OptimConfig, RewardConfig
from distilrl.discriminator import Discriminator
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Play
from distilrl.evaluate import ACCEPT_SEEDS, FRESH_SEEDS, play, seeds_from
from distilrl.evolution import Search
from distilrl.export import qat
from distilrl.export.replay import Answers, held
from distilrl.heads import Categorical, Point
from distilrl.learner import Learner, Part, Pupil
from distilrl.networks import build
from distilrl.objective import adversarial_states, term
from distilrl.optimisers import Adam, move_average, set_learning_rate
from distilrl.plan import plan
from distilrl.policies import Policy
from distilrl.population import Population
from distilrl.replay import Replay, ReplaySpec
from distilrl.schedules import START, Schedule
from distilrl.sensors import EXACT, Feed, Sensors
from distilrl.spaces import Bounds, Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Check, Stream
from distilrl.tasks import make_tasks
from distilrl.teachers import Teacher
from distilrl.train import train
from distilrl.verdict import verdict_over_seeds
from distilrl.viper import TreeConfig, distill_tree, fit

CPU = torch.device("cpu")
Q = Categorical(Choices((2,)))


# -- trees
def test_the_tree_drives_from_the_second_round_on(tmp_path, monkeypatch):
    driven, collect = [], viper.Stream.collect

    def noted(self, progress):
        driven.append(bool(viper.BEHAVIOUR.teacher_drives(8, progress).any()))
        collect(self, progress)

    monkeypatch.setattr(viper.Stream, "collect", noted)
    teacher = make_teacher(sign_network())
    distill_tree(teacher, tiny_job(check_episodes=2), tmp_path / "tree", TreeConfig(2, 2, states=80), report=False)
    assert driven == [True] * 11 + [False] * 10


def test_choices_are_fitted_by_weight():
    actions, weight = np.array([[0]] * 9 + [[1]]), np.array([1] * 9 + [100], np.float32)
    tree = fit(np.zeros((10, 1), np.float32), actions, weight, TWO, (1,), "raw", 2, 0)
    assert tree.value == ((1.0,),)


def _labelled(kind="q", **how):
    one = Stream(tiny_config(stakes_exponent=1.0), Teacher(sign_network(), kind, "test", "memory", "0" * 64))
    data = viper._Labelled(one, one.teacher, TreeConfig(**how))
    for _ in range(6):
        data.collect(START)
    one.close()
    return data


def test_logits_say_nothing_of_what_a_mistake_costs():
    assert [bool(np.ptp(_labelled(kind)._all()[2]) > 0) for kind in ("q", "logits")] == [True, False]


def test_the_newest_states_are_kept():
    data = _labelled(most_states=16)
    replay = data.stream.replay
    assert len(data._parts) == 2
    newest = replay.observations(replay.newest(1, labelled=True)).numpy()
    np.testing.assert_array_equal(data._parts[-1][0], newest)


def test_the_best_tree_ships_and_of_equals_the_smaller():
    grown = viper._Grown()
    for tree, mean in ((DEEP, 5.0), (STUMP, 5.0), (DEEP, 4.0)):
        grown.add(tree, {"return": mean, "train_s": 0.0})
    assert (grown.best, grown.trees[1]) == (STUMP, DEEP)


# -- evolution
def _search(returns, monkeypatch, done=0):
    network = build(NetworkSpec((2,), 1, hidden=(3,)), torch.Generator().manual_seed(0))
    search = Search(network, network, RewardConfig(env_steps=100, directions=4, best=1, episodes=1), 0)
    search.env_steps = done
    monkeypatch.setattr(search, "_play", lambda *_: torch.tensor(returns))
    before = search.weights.clone()
    search.step(None, None)
    draws = torch.randn((4, len(before)), generator=torch.Generator().manual_seed(0)) * search.units
    return search.weights - before, draws


def test_the_most_telling_direction_moves_the_weights_and_steps_shrink(monkeypatch):
    told = [0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0, 0.0]  # both ways of four directions, of which the third is the best
    moved, draws = _search(told, monkeypatch)
    assert float(torch.cosine_similarity(moved, draws[2], dim=0)) == pytest.approx(1.0)
    half, _ = _search(told, monkeypatch, done=50)
    torch.testing.assert_close(half, 0.5 * moved)


def test_reward_is_learnt_on_episodes_that_judge_nothing(monkeypatch):
    network = build(NetworkSpec((1,), 1), torch.Generator().manual_seed(0))
    search = Search(network, network, RewardConfig(env_steps=100, directions=1, best=1, episodes=1), 0)
    envs, met = make_vec_env(EnvRef(MIDDLE), 2), []
    reset = envs.reset
    monkeypatch.setattr(envs, "reset", lambda seeds: met.extend(seeds.tolist()) or reset(seeds))
    search.step(envs, Point(Bounds((-5.0,), (5.0,))))
    envs.close()
    assert min(met) >= FRESH_SEEDS + 10_000_000


# -- learner
def _learner(*terms, student=None, head=THREE, **optim):
    pupil = Pupil(student or net(), head, None, terms, torch.Generator().manual_seed(0), CPU)
    return Learner([pupil], terms, OptimConfig(**optim)), pupil


def test_td_errors_count_by_their_importance():
    learner, _ = _learner(term("td"), n_step=1)
    weight = torch.tensor([1.0, 0.5, 0.0, 0.25])
    (found,) = learner.update([Part(0, batch(weight=weight), START)]).values()
    torch.testing.assert_close(found, (learner.errors * weight).mean())


def test_what_lies_n_steps_ahead_is_discounted_n_times():
    learner, _ = _learner(term("td"), gamma=0.5, n_step=3)
    assert learner._context(Part(0, batch(), START), []).discount == 0.125


def test_the_lagged_copy_is_renewed_when_it_is_time():
    learner, pupil = _learner(term("td"), n_step=1, target_every=3)
    same = []
    for _ in range(6):
        learner.update([Part(0, batch(), START)])
        same.append(torch.equal(pupil.target.layers[0].weight, pupil.student.layers[0].weight))
    assert same == [False, False, True] * 2


def test_the_share_of_a_task_multiplies_its_gradient():
    slopes = []
    for share in (1.0, 0.25):
        learner, pupil = _learner(term("forward_kl"), max_grad_norm=1e6)
        learner.update([Part(0, batch(), START, share)])
        slopes.append(pupil.student.layers[0].weight.grad)
    torch.testing.assert_close(slopes[1], 0.25 * slopes[0])


def test_a_discriminator_is_told_which_policy_is_which():
    for head in (THREE, ARM):
        student = net(head.student.width)
        judge = Discriminator(student.spec, head.student.width, torch.Generator().manual_seed(0))
        here = context(data=batch(head=head), student=student, head=head, discriminator=judge, temperature=0.5)
        ours, theirs = (here.judged(head.view(p)) for p in (here.student, head.temper(here.teacher, 0.5)))
        told = losses.discriminator_loss(of_student=ours, of_teacher=theirs)
        torch.testing.assert_close(here.discriminator_loss(), told)


def test_a_discriminator_learns_to_tell_them_apart():
    learner, _ = _learner(term("forward_kl"), term("discriminator"), learning_rate=1e-9)
    lost = []
    for _ in range(200):
        learner.update([Part(0, batch(64), START)])
        now = learner._context(Part(0, batch(64), START), learner.terms)
        lost.append(now.discriminator_loss().mean().item())
    assert lost[-1] < 0.9 * lost[0], lost[::50]


def test_errors_become_priorities(monkeypatch):
    told, set_priorities = [], Replay.set_priorities

    def noted(self, index, errors, exponent):
        told.append((len(index), len(errors), exponent))
        set_priorities(self, index, errors, exponent)

    monkeypatch.setattr(Replay, "set_priorities", noted)
    config = small("rainbow_lite", env_steps=400, n_step=1)
    trained = train(config)
    assert told == [(64, 64, config.data.priority_exponent)] * trained.updates


def test_importance_is_the_root():
    spec = ReplaySpec(400, 2, describe_env(EnvRef(SIGN)).obs, Choices((2,)), by_error=True)
    replay, no = Replay(spec, CPU), torch.zeros(2, dtype=torch.bool)
    for _ in range(100):
        replay.add(torch.zeros(2, 2), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2), no, no)
    replay.set_priorities(torch.arange(200), torch.where(torch.arange(200) < 20, 4.0, 0.0), 0.5)
    chances = replay._draws.probabilities(torch.tensor([0, 100]))
    weights = replay.importance_weights(torch.tensor([0, 100]))
    assert float(weights[0]) == pytest.approx(float((chances[1] / chances[0]) ** 0.5))


# -- collect
def _collected(behaviour, steps=40, env=SIGN, rng=None, student=None):
    teacher, envs = make_teacher(sign_network()).fitted(describe_env(SIGN)), make_vec_env(EnvRef(env), 4)
    real = env != SIGN
    spec = ReplaySpec(4 * (steps + 1), 4, envs.info.obs, envs.info.action, labels=0 if real else 2)
    collector = Collector(
        envs, Replay(spec, CPU), behaviour, rng or np.random.default_rng(0), None if real else teacher
    )
    collector.student = student
    actions = [step.actions for _, step in zip(range(steps), collector.steps(np.arange(4)), strict=False)]
    envs.close()
    return np.stack(actions), collector


def test_an_episode_that_the_teacher_drove_is_no_return_of_the_student():
    student = Policy(sign_network(-1.0), Q)
    assert _collected(Behaviour("teacher"), student=student)[1].episode_returns == []
    own = _collected(Behaviour("student", epsilon=Schedule(0.0)), student=student)[1].episode_returns
    assert own
    assert set(own) == {0.0}


def test_a_share_of_the_environments_takes_no_random_action():
    right = Behaviour("student", epsilon=Schedule(1.0), greedy_share=0.5)
    _, collector = _collected(right, student=Policy(sign_network(), Q))
    replay = collector.replay
    same = (replay._action[:39, :, 0] == replay._labels[:39].argmax(-1)).all(0)
    assert same.tolist() == [False, True, False, True]


class Fours(np.random.Generator):
    def zipf(self, a, size=None):
        return np.full(size, 4)


def test_a_random_action_is_held_and_not_beyond_its_episode():
    pushes = Behaviour("student", epsilon=Schedule(1.0), greedy_share=0.0, zeta=1.5)
    actions, _ = _collected(pushes, 20, "distilrl/ContinuousEnv-v0", Fours(np.random.PCG64(0)))
    new = [step for step in range(1, 20) if (actions[step] != actions[step - 1]).all()]
    held = [step for step in range(1, 20) if (actions[step] == actions[step - 1]).all()]
    assert new == [4, 8, 10, 14, 18]  # four steps each, and anew where an episode of ten begins
    assert sorted(new + held) == list(range(1, 20))


# -- comparison
def test_disturbances_are_as_large_as_their_names_say():
    info = describe_env(EnvRef(SIGN))
    teacher = make_teacher(sign_network()).fitted(info)
    found = compare(teacher, teacher.policy, Play(EnvRef(SIGN)), Comparison(60, 60, 60), acceptance(), info).disturbed
    assert found["epsilon_0.01"].verdict.protocol == "random actions (0.01)"
    (ends,) = re.findall(r"noisy observations \((.*) to (.*)\)", found["noise_0.1"].verdict.protocol)
    assert [float(one) for one in ends] == pytest.approx([0.1, 0.5], rel=0.15)  # a tenth of 1 and of 5


def test_agreement_is_weighted_by_what_the_teacher_has_at_stake():
    theirs, ours = torch.tensor([[0.0, 3.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.1], [9.0, 0.0]])
    found = agreement_of(Q, Q, {"teacher_states": (theirs, ours), "student_states": (theirs, ours)}, ())
    assert (found.student_states, found.student_states_where_it_matters) == (0.5, 0.75)


def test_the_costliest_disagreement_comes_first():
    theirs, ours = torch.tensor([[0.0, 1.0], [0.0, 5.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    info = describe_env(EnvRef(SIGN))
    found = disagreements(Q, Q, (theirs, ours), np.arange(6, dtype=np.float32).reshape(3, 2), info, most=2)
    assert [(one.stakes, one.obs) for one in found] == [(5.0, (2.0, 3.0)), (3.0, (4.0, 5.0))]


def test_what_two_do_side_by_side_by_hand():
    head = Point(Bounds((-2.0, 0.0), (2.0, 1.0)))
    teacher, student = torch.tensor([[2.0, 0.5], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    one, other = head.side_by_side(teacher, student)["dimensions"]
    assert one == pytest.approx({"rms": 0.125**0.5, "bias": -0.25, "at_bound": 0.5, "half_range": 2.0})
    assert other == pytest.approx({"rms": 1.0, "bias": 1.0, "at_bound": 0.0, "half_range": 0.5})


def test_who_only_watches_sees_what_is_there():
    policy = Policy(sign_network(), Q)
    how = Play(EnvRef(SIGN), sensors=Sensors((1.0, 1.0)), keep_states=30)
    games = play(policy, how, range(5), shadow=policy)
    with torch.no_grad():
        exact = policy.network(torch.from_numpy(games.states)).numpy()
    np.testing.assert_allclose(games.shadow, exact, rtol=1e-5)
    assert np.abs(games.own - exact).max() > 0.1


# -- acceptance, verdict, stats
def test_where_every_start_is_played_the_worst_loss_is_that_of_the_best_start(monkeypatch):
    seeds = seeds_from(ACCEPT_SEEDS, 20)
    monkeypatch.setattr("distilrl.acceptance.every_start", lambda *_: seeds)
    teacher = make_teacher(sign_network()).fitted(describe_env(SIGN))
    random = play(teacher.policy, Play(EnvRef(SIGN), epsilon=1.0), seeds).returns
    found = accept(teacher, Play(EnvRef(SIGN)), episodes=20)
    assert (found.exact, found.worst_loss) == (True, 10.0 - random.min())


def test_seeds_that_differ_are_as_uncertain_as_students_t_says():
    table = np.repeat([[0.0], [10.0], [-10.0], [20.0], [-20.0]], 400, axis=1)
    low, high = verdict_over_seeds(table, 100.0, np.random.default_rng(0), span=1.0, distinct=400).interval
    half = stats.t_interval(table[:, 0])[1]
    assert (-low / half, high / half) == pytest.approx((1.2, 1.2), abs=0.08)


def test_runs_that_differ_are_as_uncertain_as_students_t_says():
    one, other = np.repeat([[0.0], [10.0], [-10.0], [20.0], [-20.0]], 50, axis=1), np.zeros((5, 50))
    _, (low, high) = stats.crossed_difference([one], [other], np.random.default_rng(0), exact=[False])
    half = stats.t_interval(one[:, 0])[1]
    assert (-low / half, high / half) == pytest.approx((1.0, 1.0), abs=0.08)


# -- checks
def test_a_check_is_played_as_the_configuration_says():
    how = Check(small(eval_epsilon=0.02, noise=(0.1, 0.1)), acceptance(longest_episode=10)).how
    assert (how.max_steps, how.epsilon, how.sensors) == (20, 0.02, Sensors((0.1, 0.1)))


def test_the_teacher_that_a_student_is_held_to_sees_what_is_there(monkeypatch):
    played = []

    def noted(policy, how, seeds, **_more):
        played.append(how.sensors)
        return SimpleNamespace(returns=np.ones(len(seeds)))

    monkeypatch.setattr(stream, "play", noted)
    check = Check(small(noise=(0.1, 0.1)), acceptance())
    check.parity(None, make_teacher(sign_network()).fitted(describe_env(SIGN)), 5)
    assert played == [Sensors((0.1, 0.1)), EXACT]


def test_the_score_that_schedules_follow_never_falls(monkeypatch):
    (task,) = make_tasks(small(), make_teacher(sign_network()), acceptance(), None, None)
    task.pupil = SimpleNamespace(average=sign_network())
    told = iter([0.8, 0.5])
    found = SimpleNamespace(mean=0.0, games=None)
    monkeypatch.setattr(task, "selection", lambda *_a, **_k: SimpleNamespace(**vars(found), score=next(told)))
    monkeypatch.setattr(task, "_measure", lambda *_: None)
    seen = [task.check(print) and task.measured["score"] for _ in range(2)]
    task.stream.close()
    assert seen == [0.8, 0.8]


def test_the_better_half_of_those_that_fall_short_goes_on(tmp_path, monkeypatch):
    kept, keep = [], Population.keep
    monkeypatch.setattr(Population, "keep", lambda self, chosen: kept.append(sorted(chosen)) or keep(self, chosen))
    monkeypatch.setattr(
        "distilrl.search.returns_of", lambda policies, *_: [-1e3 - one.network.spec.params for one in policies]
    )
    sizes = ["mlp:", "mlp:2", "mlp:4", "mlp:8", "mlp:16"]
    plan(
        linear_teacher(),
        tiny_job(MOVED, env_steps=600),
        tmp_path / "plan",
        sizes=sizes,
        seeds=1,
        refine=False,
        report=False,
    )
    assert kept == [[0, 1, 2], [0, 1], [0]]


# -- sensors, optimisers
def test_the_first_observation_is_never_lost():
    for seed in range(20):
        feed = Feed(Sensors(dropout=0.9), [seed])
        assert feed.see(np.array([[1.0, 1.0]], np.float32), np.array([0])).tolist() == [[1.0, 1.0]]


def test_the_rate_warms_up_and_falls_to_nothing():
    adam, told = Adam([torch.nn.Parameter(torch.ones(1))], 1.0), []
    for updates, fraction in ((0, 0.0), (49, 0.0), (99, 0.5), (500, 1.0)):
        set_learning_rate([adam], 2.0, updates, fraction)
        told.append(adam.param_groups[0]["lr"])
    assert told == pytest.approx([0.02, 1.0, 1.0, 0.0])


# -- export, attacks
def test_a_head_on_its_teachers_scale_is_tuned_at_the_temperature(monkeypatch):
    monkeypatch.setattr(qat, "UPDATES", 1)
    obs = np.random.default_rng(0).normal(0, 1, (200, 2)).astype(np.float32)
    teacher = Teacher(sign_network(), "q", "test", "memory", "0" * 64, action=Choices((2,)))
    labels, _ = qat._labelled(teacher, torch.from_numpy(obs), 0.2)
    torch.testing.assert_close(labels, teacher.numbers(torch.from_numpy(obs)) / 0.2)
    told, rounded = [], qat.rounded
    monkeypatch.setattr(
        qat, "rounded", lambda one, x, *more: told.append((one(x).detach(), x)) or rounded(one, x, *more)
    )
    for scaled, factor in ((False, 1.0), (True, 5.0)):
        qat.fine_tune(sign_network(), teacher, obs, 0.2, scaled_head=scaled)
        said, x = told.pop()
        with torch.no_grad():
            torch.testing.assert_close(said, factor * losses.centre(sign_network()(x)), rtol=1e-4, atol=1e-4)


def test_numbers_are_held_to_a_hundred_thousandth():
    numbers = torch.tensor([[1.0, 0.5], [0.2, 0.9]])
    for off, alike in ((5e-6, True), (5e-5, False)):
        answers = Answers((numbers + off).numpy(), numbers.argmax(1, keepdim=True).numpy())
        assert held(answers, numbers, Q).alike == alike, off


def test_an_attacked_picture_is_a_picture():
    spec = NetworkSpec((1, 8, 8), 3, convs=((4, 3, 2),), hidden=(8,))
    student = build(spec, torch.Generator().manual_seed(0))
    student.standardise(torch.tensor([100.0]), torch.tensor([0.01]))
    obs = torch.tensor([0, 255], dtype=torch.uint8).repeat(4, 32).view(4, 1, 8, 8)
    attacked = adversarial_states(term("adversarial_kl"), context(data=batch(obs=obs), student=student))
    assert (attacked.min(), attacked.max()) == (0.0, 255.0)
    assert (attacked != obs).any()


def test_what_ships_is_an_average():
    average = [torch.zeros(1)]
    move_average(average, [torch.ones(1)], 0.9, 1000)
    assert float(average[0]) == pytest.approx(0.1)
    move_average(average, [torch.ones(1)], 0.9, 1000)
    assert float(average[0]) == pytest.approx(0.19)


def test_before_there_is_a_student_the_teacher_drives_everywhere():
    _, collector = _collected(Behaviour(epsilon=Schedule(0.0)))
    actions, labels = collector.replay._action[:39, :, 0], collector.replay._labels[:39]
    assert (actions == labels.argmax(-1)).all()


def test_what_sensors_hold_begins_anew_with_an_episode():
    info = describe_env(SIGN)
    held = ReplaySpec(48, 4, info.obs, info.action, labels=2, sensors=Sensors(delay=1))
    teacher = make_teacher(sign_network()).fitted(info)
    collector = Collector(
        make_vec_env(SIGN, 4), Replay(held, CPU), Behaviour("student"), np.random.default_rng(0), teacher
    )
    collector.student = Policy(sign_network(), Q)
    for _ in zip(range(11), collector.steps(np.arange(4)), strict=False):
        pass  # episodes last ten steps
    assert collector.feed.steps.tolist() == [1] * 4


def test_a_table_of_choices_has_a_row_for_each_of_the_teachers():
    teacher, student = torch.tensor([[0], [0], [1]]), torch.tensor([[1], [1], [1]])
    assert Q.side_by_side(teacher, student)["tables"] == [[[0, 2], [0, 1]]]


def test_a_lucky_check_of_the_stage_with_reward_ships_nothing(monkeypatch):
    monkeypatch.setattr(Check, "others", lambda *_given, **_more: 0.0)
    plain, searched = (
        train(config_of(reward), TEACHER, acceptance=ACCEPTANCE).network
        for reward in (RewardConfig(), replace(REWARD, env_steps=3_200))
    )
    torch.testing.assert_close(searched.layers[-1].weight, plain.layers[-1].weight, rtol=1e-3, atol=1e-4)

"""Evaluation: whole episodes, one per seed, the same for all; acceptance; verdicts that can fail."""

from dataclasses import replace

import gymnasium
import instances
import numpy as np
import pytest
import torch
from conftest import SIGN, SignEnv, make_teacher, sign_network
from gymnasium import spaces

from distilrl.acceptance import accept
from distilrl.agreement import _picture
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison, compare, in_words, played_once
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Game, Play
from distilrl.errors import EnvError, NotFiniteError, SpecError, TeacherError
from distilrl.evaluate import _shareable, latency_us, load_teachers, play, same_starts, seeds_from
from distilrl.events import Noticed, Phase, Unplayed, silent
from distilrl.heads import Categorical
from distilrl.inspection import inspect_play
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.schedules import Progress, Schedule
from distilrl.sensors import EXACT, Sensors
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.teaching import evaluate_against, evaluate_policy

HOW = Play(EnvRef(SIGN))


def policy_of(network, actions=2):
    """Action values as a policy."""
    return Policy(network, Categorical(Choices((actions,))))


def fitted(teacher):
    return teacher.fitted(describe_env(EnvRef(SIGN)))


def compared(teacher, student, comparison, alike=()):
    info = replace(describe_env(EnvRef(SIGN)), alike=alike)
    return compare(fitted(teacher), policy_of(student), HOW, comparison, instances.acceptance(), info)


def test_returns_of_the_known_answer():
    games = play(policy_of(sign_network()), Play(EnvRef(SIGN), keep_states=15), seeds_from(0, 12))
    assert games.returns.tolist() == [10.0] * 12
    assert games.lengths.tolist() == [10] * 12
    assert games.states.shape == (15, 2)  # of 120
    assert play(policy_of(sign_network(-1.0)), HOW, seeds_from(0, 5)).returns.tolist() == [0.0] * 5


class SwitchEnv(SignEnv):
    """The first number comes in quarters, the second is a switch."""

    def _observe(self):
        obs = super()._observe()
        obs[:] = np.round(4 * obs[0]) / 4, self.steps % 2
        return obs


SWITCH = "distilrl/SwitchEnv-v0"
if SWITCH not in gymnasium.registry:
    gymnasium.register(SWITCH, entry_point=SwitchEnv)


@pytest.mark.parametrize(
    ("strict", "ways"), [("switch", ["epsilon_0.01", "noise_0.1"]), ("quarters", ["epsilon_0.01"])]
)
def test_what_cannot_be_played_disturbed_costs_no_verdict(strict, ways):
    """Noise is in measured numbers, not in switches; and who cannot answer through it keeps the verdict without it."""

    def rule(obs):
        known = (obs[:, 1] * (1 - obs[:, 1]) == 0) if strict == "switch" else (4 * obs[:, 0] % 1 == 0)
        return torch.where(known, (obs[:, 0] > 0).long(), 7)

    info, told = describe_env(EnvRef(SWITCH)), []
    teacher = Teacher.from_callable(rule, name=strict).fitted(info)
    found = compare(
        teacher, teacher.policy, Play(EnvRef(SWITCH)), Comparison(100, 100, 20), instances.acceptance(), info,
        watch=told.append,
    )  # fmt: skip
    assert found.verdict.result == "pass"
    assert list(found.disturbed) == ways
    unplayed = [(one.protocol, one.why) for one in told if isinstance(one, Unplayed)]
    assert [way.partition(" (")[0] for way, _ in unplayed] == ["noisy observations"] * (strict == "quarters")
    assert all("There is no option 7" in why for _, why in unplayed)


class TurnsEnv(SignEnv):
    """Shows whose turn it is."""

    observation_space = gymnasium.spaces.Discrete(2)

    def _observe(self):
        super()._observe()
        return self.steps % 2


def test_there_is_no_disturbed_play_where_nothing_is_disturbed():
    """Of choices alone the noise was zero, and its verdict a pass."""
    if "distilrl/TurnsEnv-v0" not in gymnasium.registry:
        gymnasium.register("distilrl/TurnsEnv-v0", entry_point=TurnsEnv)
    ref = EnvRef("distilrl/TurnsEnv-v0")
    teacher = Teacher.from_callable(lambda obs: obs[:, 0].long(), name="turns").fitted(describe_env(ref))
    how = Comparison(60, 60, 60)
    found = compare(teacher, teacher.policy, Play(ref), how, instances.acceptance(), describe_env(ref))
    assert list(found.disturbed) == ["epsilon_0.01"]


class UnevenEnv(SignEnv):
    """Every fourth seed's episode is 30 times as long, or, ``sorted``, each from the tenth on: its first number."""

    def __init__(self, sorted=False):
        super().__init__()
        self.sorted = sorted

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.long = seed >= 10 if self.sorted else seed % 4 == 0
        return super().reset(seed=seed, options=options)

    def _observe(self):
        return np.array([float(self.long), self.steps], np.float32)

    def step(self, action):
        self.steps += 1
        return self._observe(), 1.0, self.steps >= (300 if self.long else 10), False, {}


gymnasium.register("distilrl/UnevenEnv-v0", entry_point=UnevenEnv)


def test_each_visited_state_has_the_same_chance_to_be_kept():
    games = [
        play(policy_of(sign_network()), Play(EnvRef("distilrl/UnevenEnv-v0"), keep_states=120), seeds_from(k, 40))
        for k in range(0, 200, 40)
    ]
    states = np.concatenate([game.states for game in games])
    assert len(states) == 600
    long = 10 * 300 / (10 * 300 + 30 * 10)  # of each 40 episodes
    assert states[:, 0].mean() == pytest.approx(long, abs=0.03)  # by vector step it would be 0.97
    assert states[states[:, 0] == 1, 1].mean() == pytest.approx(149.5, abs=12)
    assert (
        games[0].states
        == play(
            policy_of(sign_network()), Play(EnvRef("distilrl/UnevenEnv-v0"), keep_states=120), seeds_from(0, 40)
        ).states
    ).all()


def test_states_have_the_same_chance_in_parts_of_unequal_episodes():
    """A part gave as many as it had episodes: those of ten steps were kept thirty times as often."""
    ref = EnvRef("distilrl/UnevenEnv-v0", {"sorted": True})
    states = play(policy_of(sign_network()), Play(ref, keep_states=600, at_once=10), seeds_from(0, 20)).states
    assert len(states) == 600
    assert states[:, 0].mean() == pytest.approx(300 / (300 + 10), abs=0.03)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_keeping_states_changes_no_episode(random_network, epsilon):
    runs = [
        play(policy_of(random_network), Play(EnvRef(SIGN), epsilon=epsilon, keep_states=keep), seeds_from(0, 20))
        for keep in (0, 7, 500)
    ]
    assert len({tuple(run.fingerprints.tolist()) for run in runs}) == 1
    assert len({tuple(run.returns.tolist()) for run in runs}) == 1
    assert [len(run.states) for run in runs] == [0, 7, 200]


@pytest.mark.parametrize("disturbed", [{}, {"epsilon": 0.3}, {"sensors": Sensors((1.0, 5.0), 2, 0.3)}], ids=str)
def test_a_seed_is_an_episode_whatever_it_is_played_with(random_network, disturbed):
    """So that episodes of two policies are paired under disturbance too, and can be played again in other batches."""
    how = Play(EnvRef(SIGN), **disturbed)
    together = play(policy_of(random_network), how, seeds_from(3, 20))
    alone = [play(policy_of(random_network), how, [seed]) for seed in seeds_from(3, 20)]
    assert together.returns.tolist() == [float(one.returns[0]) for one in alone]
    assert together.fingerprints.tolist() == [int(one.fingerprints[0]) for one in alone]


def test_checks_cut_what_never_ends():
    games = play(policy_of(sign_network()), Play(EnvRef(SIGN), max_steps=4), seeds_from(0, 3))
    assert games.lengths.tolist() == [4] * 3
    assert games.returns.tolist() == [4.0] * 3


def test_random_play_is_random():
    assert 4 < play(policy_of(sign_network()), Play(EnvRef(SIGN), epsilon=1.0), seeds_from(0, 40)).returns.mean() < 6


def test_pong_starts_that_are_equal_give_equal_episodes():
    """What allows one of them to be played for all: checked by playing all."""
    network = build(NetworkSpec.parse("cnn:4k8s8,8k4s2:8", (4, 84, 84), 6), torch.Generator().manual_seed(3))
    how = Play(EnvRef("PongNoFrameskip-v4"), threads=2)
    seeds = np.array([0, 1, 3])  # the first and the last start alike
    policy = policy_of(network, 6)
    once = play(policy, how, seeds)
    every = Game(policy, how, seeds, None, None).play(silent)
    assert once.returns.tolist() == every.returns.tolist()
    assert once.lengths.tolist() == every.lengths.tolist()
    assert once.fingerprints.tolist() == every.fingerprints.tolist()
    assert len(set(once.fingerprints.tolist())) == 2


def tiny_pong():
    network = build(NetworkSpec.parse("cnn:4k8s8,8k4s2:8", (4, 84, 84), 6), torch.Generator().manual_seed(3))
    return policy_of(network.eval(), 6), Play(EnvRef("PongNoFrameskip-v4"), threads=2, max_steps=40, keep_states=20)


def test_parts_on_threads_are_the_parts_one_by_one(monkeypatch):
    policy, how = tiny_pong()
    told, threads = [], torch.get_num_threads()
    seeds = seeds_from(0, 8)
    monkeypatch.setattr("distilrl.episodes.HEARTBEAT", 0.0)
    threaded = play(policy, how, seeds, watch=told.append)
    monkeypatch.setattr("distilrl.evaluate._shareable", lambda _policy: False)
    alone = play(policy, how, seeds)
    for field in ("returns", "lengths", "fingerprints", "states"):
        np.testing.assert_array_equal(getattr(threaded, field), getattr(alone, field))
    assert torch.get_num_threads() == threads
    assert all(event.done <= 8 for event in told)
    assert any(event.steps > 0 for event in told), "also where no episode has ended"


def test_a_start_that_was_not_foreseen_is_played_like_any_other(monkeypatch):
    policy, how = tiny_pong()
    seeds = seeds_from(0, 5)
    once = play(policy, how, seeds)
    monkeypatch.setattr("distilrl.envs.ale.AleVecEnv.starts", lambda _self, seeds: np.zeros(len(seeds), np.int64))
    every = play(policy, how, seeds)
    assert once.returns.tolist() == every.returns.tolist()
    assert once.fingerprints.tolist() == every.fingerprints.tolist()


def test_what_ends_one_part_ends_the_others():
    policy, how = tiny_pong()
    with torch.no_grad():
        policy.network.layers[0].weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="The policy gave NaN"):
        play(policy, how, seeds_from(0, 8))


def test_what_may_remember_what_it_is_asked_is_not_shared_by_threads():
    class Mine(torch.nn.Module):
        def forward(self, obs):
            return obs

    assert _shareable(tiny_pong()[0])
    assert _shareable(None)
    assert not _shareable(policy_of(Mine(), 6))


def test_sticky_and_plain_names():
    plain, sticky = (make_vec_env(name, 1).info for name in ("PongNoFrameskip-v4", "ALE/Pong-v5"))
    assert (plain.protocol["sticky_actions"], sticky.protocol["sticky_actions"]) == (0.0, 0.25)
    assert plain.deterministic
    assert not sticky.deterministic
    assert make_vec_env("ALE/MsPacman-v5", 2).info.action == Choices((9,))


@pytest.mark.parametrize("name", ["Nothing-v0", "CartPole-v99", "Pong-v4", "ALE/Nothing-v5"])
def test_environments_that_cannot_be_used_get_one_sentence(name):
    with pytest.raises(EnvError) as caught:
        make_vec_env(name, 2)
    assert "\n" not in str(caught.value)


def test_acceptance(sign_teacher, random_network):
    good = accept(fitted(sign_teacher), HOW, episodes=10)
    assert good.return_mean == 10.0
    assert good.better_than_random
    weak = make_teacher(sign_network(-1.0))
    with pytest.raises(TeacherError, match=r"no better than random.* give --normalizer "):
        accept(fitted(weak), HOW, episodes=10)
    assert not accept(fitted(weak), HOW, episodes=10, weak_ok=True).better_than_random


class PaidAtRandomEnv(SignEnv):
    """Starts and shows the same in each episode; what it pays is drawn, around 1 whatever is done."""

    def _observe(self):
        return np.zeros(2, np.float32)

    def step(self, action):
        self.steps += 1
        return self._observe(), float(self.np_random.normal(1.0, 5.0)), self.steps >= 2, False, {}


class RepeatingEnv(SignEnv):
    """One episode, whatever the seed: it pays for three actions 0 in a row, twice as much for three actions 1."""

    def _observe(self):
        return np.array([1.0, self.steps], np.float32)

    def reset(self, *, seed=None, options=None):
        self.taken = []
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.steps += 1
        self.taken.append(int(action))
        paid = {(0, 0, 0): 2.0, (1, 1, 1): 7.0}.get(tuple(self.taken), 0.0)
        return self._observe(), paid, self.steps >= 3, False, {}


for env in (PaidAtRandomEnv, RepeatingEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env)


def test_episodes_of_equal_actions_that_pay_differently_are_several(sign_teacher):
    """Else chance would look like certainty: an interval without width around the mean of all."""
    ref = EnvRef("distilrl/PaidAtRandomEnv-v0")
    games = play(policy_of(sign_network()), Play(ref), seeds_from(0, 20))
    assert len(set(games.returns.tolist())) == len(set(games.fingerprints.tolist())) == 20
    low, high = evaluate_policy(sign_network(), ref, episodes=20).return_ci95
    assert high - low > 1.0


def test_what_starts_and_ends_alike_is_one_episode():
    games = play(policy_of(sign_network()), Play(EnvRef("distilrl/RepeatingEnv-v0")), seeds_from(0, 20))
    assert len(set(games.fingerprints.tolist())) == 1


def test_acceptance_minds_that_random_play_differs_where_the_teacher_repeats_itself():
    """Its 2.0 are above the 1.1 of random play, but twenty episodes of it do not tell."""
    ref = EnvRef("distilrl/RepeatingEnv-v0")
    always_first = make_teacher(sign_network(-1.0)).fitted(describe_env(ref))
    found = accept(always_first, Play(ref), episodes=20, weak_ok=True)
    assert (found.return_mean, found.distinct_episodes) == (2.0, 1)
    assert found.return_mean > found.random_return_mean
    assert not found.better_than_random


def test_values_that_are_not_finite_are_refused():
    network = sign_network()
    with torch.no_grad():
        network.layers[2].bias[0] = float("inf")
    with pytest.raises(TeacherError, match="NaN or infinite"):
        accept(fitted(make_teacher(network)), HOW, episodes=5)


def test_verdict_passes_the_equal_and_fails_the_opposite(sign_teacher):
    comparison = Comparison(100, 300, 60)
    same = compared(sign_teacher, sign_network(), comparison)
    assert same.verdict.result == "pass"
    assert same.verdict.protocol == "greedy"
    assert same.agreement.student_states == 1.0
    assert same.disturbed["epsilon_0.01"].student.episodes == 60
    ways = [way.verdict.protocol.partition(" (") for way in same.disturbed.values()]
    assert [way for way, *_ in ways] == ["random actions", "noisy observations"]
    assert same.episodes.disagreements == ()
    opposite = compared(sign_teacher, sign_network(-1.0), comparison)
    assert {opposite.verdict.result, *(way.verdict.result for way in opposite.disturbed.values())} == {"fail"}
    assert opposite.student.score == pytest.approx(-1.0)
    assert opposite.agreement.teacher_states == 0.0
    assert np.array(opposite.agreement.tables[0]).trace() == 0
    assert len(opposite.episodes.disagreements) == 8


def test_actions_that_do_the_same_count_as_equal_where_that_is_known(sign_teacher):
    comparison = Comparison(50, 50, 0)
    opposite = compared(sign_teacher, sign_network(-1.0), comparison)
    assert opposite.agreement.student_states_in_effect is None
    known = compared(sign_teacher, sign_network(-1.0), comparison, alike=(0, 0))
    assert (known.agreement.student_states, known.agreement.student_states_in_effect) == (0.0, 1.0)
    assert known.episodes.disagreements == ()


def test_an_inconclusive_verdict_plays_on(sign_teacher):
    student = sign_network()
    with torch.no_grad():
        student.layers[0].bias += torch.tensor([0.06, -0.06, 0.0, 0.0])  # wrong where the first number is just below 0
    parts = compared(sign_teacher, student, Comparison(50, 250, 0, margin=0.05))
    assert parts.student.episodes > 50
    assert parts.verdict.looks == 5
    assert parts.verdict.confidence == 0.99


def test_behaviour_shares():
    for name, share in (("teacher", 1.0), ("student", 0.0), ("mixed", 0.25)):
        drives = Behaviour(name, beta=Schedule(0.5, 0.0)).teacher_drives(64, Progress(0.5))
        assert drives.mean() == share
    assert Behaviour(greedy_share=0.25).explores(8).tolist() == [True, True, True, False] * 2
    assert Behaviour(greedy_share=0.0).explores(8).all()
    for share, count, greedy in ((0.7, 100, 70), (0.6, 100, 60), (0.3, 40, 12), (1.0, 7, 7)):
        assert int((~Behaviour(greedy_share=share).explores(count)).sum()) == greedy


def test_latency_is_positive_and_leaves_the_thread_count(random_network):
    threads = torch.get_num_threads()
    assert latency_us(policy_of(random_network), describe_env(EnvRef(SIGN)), calls=5) > 0
    assert torch.get_num_threads() == threads


def test_wrong_comparisons_are_refused():
    nan, inf = float("nan"), float("inf")
    for name, values in (
        ("episodes", (1, 0, -5)),
        ("max_episodes", (5,)),
        ("margin", (0.0, -1.0, inf, nan)),
        ("margin_abs", (0.0, -1.0, inf, nan)),
        ("disturbed_episodes", (-1,)),
        ("agreement_states", (0,)),
    ):
        for value in values:
            with pytest.raises(SpecError, match=f"'{name}'"):
                Comparison(**{name: value})


def test_a_run_without_a_teachers_file_says_so():
    with pytest.raises(SpecError, match="no teacher"):
        load_teachers([], EnvRef(SIGN))


class StuckEnv(SignEnv):
    """Every fourth seed's episode never ends by itself."""

    stepped = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.stuck = seed % 4 == 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        StuckEnv.stepped += 1
        obs, reward, ended, *rest = super().step(action)
        return obs, reward, ended and not self.stuck, *rest


if "distilrl/StuckEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/StuckEnv-v0", entry_point=StuckEnv, max_episode_steps=50)


def test_who_is_stuck_costs_its_own_steps_only_and_is_counted(sign_teacher):
    """The results say how many episodes were cut; nobody else is stepped while they go on."""
    how, info = Play(EnvRef("distilrl/StuckEnv-v0")), describe_env(EnvRef("distilrl/StuckEnv-v0"))
    StuckEnv.stepped = 0
    games = play(policy_of(sign_network()), how, seeds_from(0, 20))
    assert games.truncated.tolist() == [seed % 4 == 0 for seed in range(20)]
    assert StuckEnv.stepped == 5 * 50 + 15 * 10
    parts = compare(
        sign_teacher.fitted(info), policy_of(sign_network()), how, Comparison(20, 20, 0), instances.acceptance(), info
    )
    assert parts.student.truncated == parts.teacher.truncated == 5
    cut = play(policy_of(sign_network()), Play(EnvRef(SIGN), max_steps=4), seeds_from(0, 3))
    assert cut.truncated.all()


def test_evaluating_again_plays_the_verdicts_episodes(sign_teacher, random_network):
    """Also where actions are random, though the verdict keeps states and an evaluation does not."""
    how = Play(EnvRef(SIGN), epsilon=0.3)
    student = policy_of(random_network)
    info = describe_env(EnvRef(SIGN))
    parts = compare(fitted(sign_teacher), student, how, Comparison(20, 20, 0), instances.acceptance(), info)
    again = evaluate_policy(student, how, episodes=20)
    assert again.return_mean == parts.student.return_mean
    assert again.distinct_episodes == parts.student.distinct_episodes
    theirs = evaluate_policy(sign_teacher, how, episodes=20)
    assert theirs.return_mean == parts.teacher.return_mean
    duel = evaluate_against(make_teacher(random_network), sign_teacher, how, episodes=20)
    assert duel.policy.return_mean == parts.student.return_mean
    assert duel.verdict.protocol == parts.verdict.protocol == "random actions (0.3)"


def test_a_policy_may_be_named_by_its_file(teacher):
    assert evaluate_policy(teacher, SIGN, episodes=5).return_mean == 10.0
    assert evaluate_against(teacher, teacher, SIGN, episodes=200).verdict.result == "pass"
    with pytest.raises(SpecError, match="'accept_episodes' must be at least 2"):
        evaluate_against(teacher, teacher, SIGN, accept_episodes=1)
    with pytest.raises(SpecError, match=r"is no policy: give a teacher, a file, or Teacher\.from_callable"):
        evaluate_policy(len, SIGN)
    with pytest.raises(SpecError, match="Two teachers are held against each other"):
        evaluate_against(policy_of(sign_network()), teacher, SIGN)


def test_a_game_is_not_exact_where_either_side_sees_by_chance(monkeypatch):
    """Against a policy that sees black frames, or through noise, every start was played and called exact."""
    monkeypatch.setattr(
        "distilrl.evaluate.every_start", lambda how, first: None if how.sensors.chance else seeds_from(first, 30)
    )
    one, noisy = make_teacher(sign_network()), Sensors((0.1, 0.1))
    apart = {}
    for name, his, its in (
        ("plain", EXACT, EXACT),
        ("his", noisy, EXACT),
        ("its", EXACT, noisy),
        ("both", noisy, noisy),
    ):
        found = evaluate_against(one, one, Play(EnvRef(SIGN), sensors=his), sensors=its, margin_abs=1.0, episodes=60)
        apart[name] = found.verdict.exact, found.verdict.protocol
    assert apart == {
        "plain": (True, "every start, greedy"),
        "his": (False, "greedy; against noisy observations (0.1)"),
        "its": (False, "noisy observations (0.1)"),
        "both": (False, "noisy observations (0.1)"),
    }


class Costly(gymnasium.Env):
    """Three steps of a hundred million, and one more for the second choice."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1e8 + float(action), self.steps == 3, False, {}


def test_rewards_are_added_in_double_precision():
    """Of rewards of a hundred million a step, what differed by less than four was lost."""
    gymnasium.register("distilrl/Costly-v0", entry_point=Costly)
    costly, returns = EnvRef("distilrl/Costly-v0"), []
    for choice in (0, 1):
        one = Teacher.from_callable(lambda obs, choice=choice: torch.full((len(obs),), choice)).fitted(
            describe_env(costly)
        )
        returns.append(play(one.policy, Play(costly), [0]).returns[0])
    assert returns == [3e8, 3e8 + 3]


def test_what_every_start_says_is_exact_and_other_play_has_verdicts_of_its_own(sign_teacher, monkeypatch):
    monkeypatch.setattr("distilrl.evaluate.every_start", lambda _how, first: seeds_from(first, 30))
    found = compared(sign_teacher, sign_network(), Comparison(100, 300, 100))
    assert (found.verdict.exact, found.verdict.looks, found.student.episodes) == (True, 1, 30)
    assert (found.verdict.result, found.verdict.protocol) == ("pass", "every start, greedy")
    assert found.student.exact
    assert found.student.return_ci95 == (10.0, 10.0)
    assert [way.verdict.exact for way in found.disturbed.values()] == [False, False]
    assert [way.student.exact for way in found.disturbed.values()] == [False, False]


def test_of_every_start_the_student_that_loses_fails(sign_teacher, monkeypatch):
    monkeypatch.setattr("distilrl.evaluate.every_start", lambda _how, first: seeds_from(first, 30))
    found = compared(sign_teacher, sign_network(-1.0), Comparison(100, 300, 0)).verdict
    assert (found.result, found.difference, found.exact) == ("fail", -10.0, True)


def test_the_margin_is_fixed_before_the_verdict():
    of_share, absolute = Comparison(margin=0.1), Comparison(margin_abs=3.0)
    accepted = instances.acceptance(30.0, 10.0)
    assert vars(of_share.tolerance_of(accepted)) == {"margin": 2.0, "span": 20.0}
    assert vars(absolute.tolerance_of(accepted)) == {"margin": 3.0, "span": 20.0}
    worse = instances.acceptance(-10.0, 0.0)
    assert vars(absolute.tolerance_of(worse)) == {"margin": 3.0, "span": 60.0}
    with pytest.raises(TeacherError, match=r"is not shown to be above random play's .* --margin-abs"):
        of_share.tolerance_of(worse)
    # what is nearly the mean is taken for it, and what an episode may lose beyond that is reckoned with
    for worst, span in ((21.9, 20.0), (22.1, 22.1), (80.0, 80.0)):
        assert vars(of_share.tolerance_of(replace(accepted, worst_loss=worst))) == {"margin": 2.0, "span": span}
    # a mean that is above by chance is no measure of anything
    chance = replace(instances.acceptance(10.0 + 1e-9, 10.0), better_than_random=False, worst_loss=2.0)
    assert vars(absolute.tolerance_of(chance)) == {"margin": 3.0, "span": 60.0}
    with pytest.raises(TeacherError, match="is not shown to be above"):
        of_share.tolerance_of(chance)


class RareEnv(SignEnv):
    """One decision, which pays 1 where it is right; one state in five is so easy that any is."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        self.easy = self.np_random.random() < 0.8
        return obs, info

    def step(self, action):
        right = self.easy or (action == 1) == (self.obs[0] > 0)
        return self._observe(), float(right), True, False, {}


gymnasium.register("distilrl/RareEnv-v0", entry_point=RareEnv, max_episode_steps=50)


def test_an_episode_may_lose_more_than_the_mean_does(sign_teacher):
    """Random play is right in nine of ten episodes, so that it loses 0.1 in the mean and 1 where it errs: a hundred
    episodes in which none is lost do not show that fewer than one in two hundred is.
    """
    how, teacher = Play(EnvRef("distilrl/RareEnv-v0")), fitted(sign_teacher)
    accepted = accept(teacher, how, episodes=20, max_episodes=320)
    assert accepted.return_mean == accepted.worst_loss == 1.0
    tolerance = Comparison().tolerance_of(accepted)
    assert tolerance.span == 1.0
    assert 0.0 < tolerance.margin < 0.02
    student = policy_of(sign_network())
    found = compare(teacher, student, how, Comparison(100, 300, 0), accepted, describe_env(how.env))
    assert found.student.return_mean == 1.0
    assert found.verdict.result == "inconclusive"
    assert "too few for this margin" in found.verdict.reason


def test_a_teacher_is_played_once_for_all_students_of_a_plan(sign_teacher, monkeypatch):
    teacher, played, honest = fitted(sign_teacher), [], play

    def noted(policy, *given, **named):
        played.append(policy is teacher.policy or policy.network is teacher.network)
        return honest(policy, *given, **named)

    monkeypatch.setattr("distilrl.comparison.play", noted)
    with played_once():  # as a plan's folder is held
        found = [
            compare(
                teacher, policy_of(one), HOW, Comparison(20, 20, 20), instances.acceptance(), describe_env(EnvRef(SIGN))
            )
            for one in (sign_network(), sign_network(-1.0))
        ]
    assert played.count(True) == 3
    assert played.count(False) == 6
    assert found[0].teacher == found[1].teacher
    assert found[0].agreement.teacher_states == 1.0
    assert found[1].agreement.teacher_states == 0.0


def test_random_play_is_the_same_whoever_plays_beside_it():
    policy, how = policy_of(sign_network()), Play(EnvRef(SIGN), epsilon=1.0)
    together = play(policy, how, seeds_from(7, 12)).returns
    apart = [play(policy, how, [seed]).returns[0] for seed in range(7, 19)]
    assert together.tolist() == apart


def test_ways_of_playing_have_names_and_none_repeats_the_headline(sign_teacher):
    sign, sticky = describe_env(EnvRef(SIGN)), describe_env(EnvRef("ALE/Pong-v5"))
    assert in_words(HOW, sign) == "greedy"
    assert in_words(HOW, sign, exact=True) == "every start, greedy"
    assert in_words(Play(EnvRef(SIGN), epsilon=0.05, sensors=Sensors((1.0, 0.5))), sign) == (
        "random actions (0.05), noisy observations (0.5 to 1)"
    )
    assert in_words(Play(sticky.ref), sticky) == "sticky actions (0.25)"
    how = Play(EnvRef(SIGN), epsilon=0.05)
    found = compare(
        fitted(sign_teacher), policy_of(sign_network()), how, Comparison(20, 20, 20), instances.acceptance(), sign
    )
    assert list(found.disturbed) == ["noise_0.1"]
    assert found.verdict.protocol == "random actions (0.05)"


def test_what_a_teacher_played_counts_for_its_weights_only():
    teacher = fitted(make_teacher(sign_network()))
    how = (HOW, Comparison(20, 20, 0), instances.acceptance(), describe_env(EnvRef(SIGN)))
    assert compare(teacher, policy_of(sign_network()), *how).teacher.return_mean == 10.0
    with torch.no_grad():
        teacher.network.layers[-1].weight.neg_()
    assert compare(teacher, policy_of(sign_network()), *how).teacher.return_mean == 0.0


class EndlessEnv(SignEnv):
    """Its episodes never end."""

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, {}


if "distilrl/EndlessEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/EndlessEnv-v0", entry_point=EndlessEnv)


def test_an_episode_that_never_ends_is_given_up(monkeypatch):
    """Else the acceptance check of its teacher would hang in silence."""
    monkeypatch.setattr("distilrl.episodes.ENDLESS", 60)
    how = Play(EnvRef("distilrl/EndlessEnv-v0"))
    with pytest.raises(
        EnvError, match=r"'distilrl/EndlessEnv-v0' has not ended after 60 steps \(seed \d+\): give it"
    ) as caught:
        accept(make_teacher(sign_network()).fitted(describe_env(how.env)), how, episodes=3)
    assert "\n" not in str(caught.value)
    limited = EnvRef("distilrl/EndlessEnv-v0", {"max_episode_steps": 90})
    assert (
        play(
            make_teacher(sign_network()).fitted(describe_env(limited)).policy, Play(limited), seeds_from(0, 3)
        ).lengths.tolist()
        == [90] * 3
    )


def test_a_function_of_the_users_is_asked_by_one_thread_and_a_cell_by_several():
    """What it writes its answer into may be one array for all."""
    function = Teacher.from_callable(lambda obs: obs, name="mine").fitted(describe_env(SIGN))
    assert not _shareable(function.policy)
    cell = build(NetworkSpec.parse("gru:3", (2,), 2), torch.Generator())
    assert _shareable(policy_of(cell, 2))


class Counting(torch.nn.Module):
    """Remembers how often it was asked in an episode."""

    def start(self, count):
        return (torch.zeros(count, 1),)

    def forward(self, obs, state):
        (count,) = state
        return torch.cat([-obs[:, :1], obs[:, :1]], 1) + 0 * count, (count + 1,)


def test_a_module_with_memory_is_a_teacher():
    teacher = Teacher.from_callable(Counting(), name="counting").fitted(describe_env(SIGN))
    assert teacher.policy.remembers
    assert evaluate_policy(teacher, SIGN, episodes=4).return_mean == 10.0
    numbers, (count,) = teacher.policy.forward(torch.ones(3, 2), teacher.policy.start(3))
    assert (numbers.shape, count.tolist()) == ((3, 2), [[1.0]] * 3)

    class Alone(Counting):
        def forward(self, obs, state):
            return obs[:, 0]

    with pytest.raises(TeacherError, match="has 'start' and answers with a Tensor: return a pair"):
        evaluate_policy(Teacher.from_callable(Alone(), name="alone"), SIGN, episodes=2)


@pytest.mark.parametrize("env", ["distilrl/ForgetfulEnv-v0", SIGN])
def test_an_environment_that_forgets_its_seed_is_told_before_anything_is_learnt(env, sign_teacher):
    """Only a resumed run found out, hours later."""
    heard = []
    accept(sign_teacher.fitted(describe_env(env)), Play(EnvRef(env)), episodes=4, weak_ok=True, watch=heard.append)
    told = [one.words for one in heard if isinstance(one, Noticed)]
    assert bool(told) == (env != SIGN)
    assert all(words.startswith(f"{env} does not repeat itself under one seed") for words in told)
    assert told == [one for one in inspect_play(sign_teacher, env, episodes=4).warnings if "seed" in one]


def test_what_is_played_is_said_by_its_name(sign_teacher):
    heard = []
    evaluate_against(sign_teacher, sign_teacher, SIGN, episodes=60, watch=heard.append)
    phases = [one.name for one in heard if isinstance(one, Phase)]
    assert phases[0] == "teacher's check"
    assert phases[-1] == "verdict"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_picture_of_a_board_is_to_be_seen(dtype):
    """Cells of 0 and 1 were taken for brightness of 255, and the last kind alone was drawn."""
    obs = ObsSpec((3 + 1, 2, 2), (3 + 1, 2, 2), dtype.__name__, reach=(1.0,))
    state = np.zeros(obs.shape, dtype)
    state[0, 0, 0] = state[2, 1, 1] = 1
    seen = _picture(state, obs)
    assert seen.max() == (242 if dtype is np.uint8 else 0)
    if dtype is np.uint8:
        assert (seen[0, 0] != seen[1, 1]).any()
        assert not seen[0, 1].any()
    grey = _picture(np.array([[[0, 1], [1, 0]]], np.uint8), ObsSpec((1, 2, 2), (1, 2, 2), "uint8", reach=(1.0,)))
    assert grey.tolist() == [[0, 255], [255, 0]]
    dark = _picture(np.ones((1, 2, 2), np.uint8), ObsSpec((1, 2, 2), (1, 2, 2), "uint8", reach=(255.0,)))
    assert dark.max() == 1, "a frame of a film that is nearly black stays so"


def test_an_image_may_be_drawn_a_little_otherwise_and_begin_alike():
    """Half a grey level is another driver's; a whole one, or 0.3 of a measured number, another beginning."""
    known = np.array([100.0, 50.0])
    for off, drawn, alike in ((0.3, True, True), (1.0, True, False), (0.3, False, False), (1e-3, False, True)):
        assert same_starts(known, known + np.array([off, 0.0]), drawn=drawn).tolist() == [alike, True]

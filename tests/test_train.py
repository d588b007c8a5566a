"""The loop, where the answer is known: it learns, resumes to the same bytes, asks for nothing it does not need."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, Killed, SignEnv, killed_after, make_teacher, sign_network
from instances import acceptance
from tiny_envs import MEASURED

from distilrl import events
from distilrl.checkpoints import load_network, read_tensors
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison
from distilrl.config import GROUP, OptimConfig, TaskFile, TrainConfig
from distilrl.distill import distill
from distilrl.envs import describe_env, trust
from distilrl.episodes import Play
from distilrl.errors import ResumeError, SpecError
from distilrl.files import digest
from distilrl.finalists import Finalists
from distilrl.heads import student_head
from distilrl.jobs import Job, make_config, teachers_of
from distilrl.networks import Network
from distilrl.objective import term
from distilrl.plain import read_as
from distilrl.plan import plan
from distilrl.population import Population
from distilrl.recipes import RECIPES
from distilrl.results import Results
from distilrl.runs import RunFolder
from distilrl.schedules import Schedule
from distilrl.series import distill_chain, distill_seeds
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Check, Checked
from distilrl.tasks import Task
from distilrl.teachers import Teacher
from distilrl.teaching import evaluate_policy
from distilrl.train import train
from distilrl.viper import distill_tree

ACCEPTANCE = acceptance()
SMALL = {
    "env_steps": 1600,
    "learning_starts": 160,
    "check_every": 400,
    "check_episodes": 10,
    "final_episodes": 8,
    "batch_size": 64,
    "network": "mlp:8",
    "threads": 1,
}


class LateContactEnv(SignEnv):
    """A third number says whether something is touched, in a fifth of the states; in the first thirty steps of an
    environment it never is.
    """

    observation_space = gymnasium.spaces.Box(-100, 100, (3,), np.float32)
    taken = 0

    def _observe(self):
        self.taken += 1
        touched = self.taken > 30 and self.np_random.random() < 0.2
        return np.append(super()._observe(), np.float32(touched))


LATE = "distilrl/LateContactEnv-v0"
if LATE not in gymnasium.registry:
    gymnasium.register(LATE, entry_point=LateContactEnv, max_episode_steps=50)


class MoodyEnv(SignEnv):
    """Rewards of which its seed settles nothing."""

    mood = np.random.default_rng(0)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + 0.01 * float(self.mood.normal()), *rest


if "Moody-v0" not in gymnasium.registry:
    gymnasium.register("Moody-v0", entry_point=MoodyEnv, max_episode_steps=50)


class WarmEnv(SignEnv):
    """SignEnv in a room whose temperature, in kelvins, does not change."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def _observe(self):
        return np.append(super()._observe(), np.float32(293.15))


WARM = "distilrl/WarmEnv-v0"
if WARM not in gymnasium.registry:
    gymnasium.register(WARM, entry_point=WarmEnv, max_episode_steps=50)


def warm_teacher():
    """SignEnv's answer, of which the temperature is no part."""
    network, known = Network(NetworkSpec((3,), 2, hidden=(4,))), sign_network().state_dict()
    known["layers.0.weight"] = torch.cat([known["layers.0.weight"], torch.zeros(4, 1)], dim=1)
    network.load_state_dict(known)
    return make_teacher(network.eval()).fitted(describe_env(WARM))


def test_what_lay_still_is_known_of_a_run_that_has_ended(tmp_path):
    """Its finalists meet after a kill, when its replay is no more."""
    config, folder = small(env=WARM, gap=-1.0), RunFolder(tmp_path)

    def killed(event):
        if event == events.Phase("finalists"):
            raise Killed

    with pytest.raises(Killed):
        train(config, warm_teacher(), acceptance=ACCEPTANCE, folder=folder, watch=killed)
    resumed = train(config, warm_teacher(), acceptance=ACCEPTANCE, folder=folder)
    assert not resumed.network.folded()[0][:, 2].any()
    whole = RunFolder(tmp_path / "whole")
    train(config, warm_teacher(), acceptance=ACCEPTANCE, folder=whole)
    assert len({digest(one.student / "student.safetensors") for one in (folder, whole)}) == 1


def test_what_lies_still_far_from_0_has_no_weight():
    """No gradient ever reached its random weights, which came 293 times into the bias and left eight bits nothing."""
    teacher = warm_teacher()
    for student in ("mlp:8", "mlp:8@history=2", "gru:4"):
        config = small(env=WARM, network=student, gap=-1.0, batch_size=32, sequence=8, burn_in=2)
        trained = train(config, teacher, acceptance=ACCEPTANCE)
        weight, bias = trained.network.folded()
        assert not weight[:, 2::3].any(), student
        assert weight[:, :2].all(), student
        assert float(bias.abs().max()) < 20
    sizes = [NetworkSpec.parse(text, (3,), 2) for text in ("mlp:8", "mlp:4", "mlp:8@history=2")]
    several = Population(sizes, range(3), student_head(Choices((2,))), (term("forward_kl"),), OptimConfig())
    several.standardise(torch.tensor([0.0, 3.0, 293.15]), torch.ones(3), torch.ones(3))
    for k in range(3):
        weight = several.network(k, torch.tensor([np.nan, np.nan, 293.15])).folded()[0]
        assert not weight[:, 2::3].any()
        assert weight[:, :2].all()
        assert several.network(k, torch.tensor([np.nan, np.nan, 294.0])).folded()[0].all(), "it was something else"


def small(recipe="distil", **changes):
    return make_config(recipe, changes.pop("env", SIGN), **(SMALL | changes))


@pytest.mark.parametrize("name", ["distil", "policy_distillation", "case_study", "adversarial_states"])
def test_recipes_learn(sign_teacher, name):
    trained = train(small(name, gap=-1.0, learning_rate=0.01), sign_teacher, acceptance=ACCEPTANCE)
    assert evaluate_policy(trained.network, SIGN, episodes=20).return_mean >= 9.7


@pytest.mark.parametrize("name", ["qdagger", "kickstarting", "finetune", "dqfd"])
def test_recipes_that_learn_from_reward_too(sign_teacher, name):
    config = small(name, gap=-1.0, learning_rate=0.01, gamma=0.5, n_step=1)
    trained = train(config, sign_teacher, acceptance=ACCEPTANCE)
    assert evaluate_policy(trained.network, SIGN, episodes=20).return_mean >= 9.5
    names = {one.loss for one in config.terms}
    first, last = trained.history[0], trained.history[-1]
    assert any(first[f"loss/{n}"] is not None for n in names)
    assert {n for n in names if last[f"loss/{n}"] is not None} >= {"double_td"}


def test_what_is_learnt_from_reward_are_values_whatever_the_teacher_says(sign_teacher):
    """Its kind said logits, as its teacher's."""
    teacher = replace(sign_teacher, kind="logits")
    trained = train(small("kickstarting", gap=-1.0, gamma=0.5, n_step=1), teacher, acceptance=ACCEPTANCE)
    assert [head.kind for head in trained.heads] == ["q"]
    with pytest.raises(SpecError, match="'value_regression'"):
        train(small("finetune"), teacher, acceptance=ACCEPTANCE)


@pytest.mark.parametrize("name", ["qdagger", "kickstarting", "finetune"])
def test_a_student_that_also_earns_reward_ends_better_than_a_mediocre_teacher(name):
    mediocre = sign_network()
    with torch.no_grad():
        mediocre.layers[0].bias[:2] += torch.tensor(
            [-0.7, 0.7]
        )  # wrong wherever the first number lies between 0 and 0.7
    teacher = make_teacher(mediocre)
    own = evaluate_policy(teacher, SIGN, episodes=100).return_mean
    assert own < 8.0
    quick = {"env_steps": 3200, "updates": 4, "learning_rate": 0.01, "average": 0.9, "network": "mlp:16"}
    checks = {"check_episodes": 50}  # whether the teacher is reached is what lets qdagger leave it
    config = small(name, gap=-9.0, gamma=0.5, n_step=1, **quick, **checks)
    trained = train(config, teacher, acceptance=replace(ACCEPTANCE, return_mean=own))
    assert evaluate_policy(trained.network, SIGN, episodes=100).return_mean > own + 1.0


@pytest.mark.parametrize("name", ["dqn", "rainbow_lite"])
def test_dqn_learns_without_a_teacher(name):
    trained = train(small(name, updates=4, learning_rate=0.01, gamma=0.5, n_step=1))
    assert not trained.network.spec.dueling
    assert evaluate_policy(trained.network, SIGN, episodes=20).return_mean >= 9.0


def test_the_case_study_ships_values_of_the_teachers_scale():
    teacher_network = sign_network()
    teacher_network.scale_head(100.0)
    teacher = make_teacher(teacher_network)
    trained = train(small("case_study", gap=-1.0, env_steps=1200), teacher, acceptance=ACCEPTANCE)
    obs = torch.tensor([[0.4, 3.0], [-0.4, 3.0], [1.0, -2.0]])
    ours, theirs = trained.network(obs), teacher.network(obs)
    assert (ours[:, 1] - ours[:, 0] - (theirs[:, 1] - theirs[:, 0])).abs().max() < 40


def test_training_changes_the_student_and_not_the_teacher(sign_teacher):
    before = {k: v.clone() for k, v in sign_teacher.network.state_dict().items()}
    rows = []
    train(
        small(),
        sign_teacher,
        acceptance=ACCEPTANCE,
        watch=lambda event: rows.append(event.row) if isinstance(event, events.Check) else None,
    )
    assert all(torch.equal(v, before[k]) for k, v in sign_teacher.network.state_dict().items())
    assert rows[-1]["loss/forward_kl"] < rows[0]["loss/forward_kl"]


def test_a_teacher_of_weight_zero_is_never_called():
    class Offended(torch.nn.Module):
        spec = sign_network().spec

        def fold(self):
            pass

        def forward(self, obs):
            raise AssertionError("the teacher was called")

    config = small("dqn", terms=(term("double_td"), term("forward_kl", weight=0.0)))
    trained = train(config, Teacher(Offended(), "q", "test", "memory", "0" * 64, obs_shape=(2,), outputs=2))
    assert trained.updates > 0


def test_terms_without_a_teacher_are_refused():
    with pytest.raises(SpecError, match="needs a teacher"):
        train(small())


def test_same_config_same_student(sign_teacher, tmp_path):
    for name in "ab":
        train(small(env_steps=480), sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / name))
    train(small(env_steps=480, seed=1), sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "c"))
    one, two, other = (digest(tmp_path / name / "student" / "student.safetensors") for name in "abc")
    assert one == two != other


def without_clock(trained):
    return [{k: v for k, v in row.items() if k != "train_s"} for row in trained.history]


CUT = {"env_steps": 800, "check_every": 200, "updates": 2, "gap": -1.0}
"""Settings of runs that are cut short and continued: four checks, two of them in the middle of an episode."""


@pytest.mark.parametrize("moment", [38, 65])  # after a check within an episode, and after one between two
def test_a_resumed_run_knows_whose_episodes_it_counts(sign_teacher, tmp_path, moment):
    """And which random actions are under way: both are as they were, though the actions are played again."""
    config = small(**CUT)
    behaviour = replace(
        config.data.behaviour, epsilon=Schedule(0.3), zeta=1.2, beta=Schedule(0.9, 0.2), greedy_share=0.0
    )
    config = config.but(behaviour=behaviour)
    whole = train(config, sign_teacher, acceptance=ACCEPTANCE)
    with pytest.raises(Killed):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path), watch=killed_after(8 * moment))
    resumed = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path))
    assert without_clock(resumed) == without_clock(whole)
    assert any(row["training_return"] is not None for row in whole.history)


def test_a_run_that_fails_frees_its_environments(sign_teacher, monkeypatch):
    closed = []
    monkeypatch.setattr("distilrl.stream.Stream.close", lambda stream: closed.append(stream))
    with pytest.raises(Killed):
        train(small(), sign_teacher, acceptance=ACCEPTANCE, watch=killed_after(400))
    assert len(closed) == 1
    made = []

    def check(config, *_, number):
        made.append(number)
        if number == 1:
            raise Killed

    monkeypatch.setattr("distilrl.tasks.Check", check)
    with pytest.raises(Killed):
        train(small().but(tasks=(TaskFile(EnvRef(SIGN)), TaskFile(EnvRef(MEASURED)))), [sign_teacher] * 2)
    assert (made, len(closed)) == ([0, 1], 2)  # the first task's


def cut_config(recipe):
    return small(recipe, **CUT, target_every=20)  # so that the target is neither the first nor the student


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Runs of recipes that nothing has cut short, each made once."""

    @cache
    def run(recipe):
        teacher = None if recipe != "distil" else make_teacher(sign_network())
        folder = RunFolder(tmp_path_factory.mktemp(recipe))
        return train(cut_config(recipe), teacher, acceptance=ACCEPTANCE, folder=folder), folder

    return run


@pytest.mark.parametrize(
    ("recipe", "moment"),
    [
        *(("distil", moment) for moment in (0, 1, 65, 99)),
        *((recipe, moment) for recipe in ("dqn", "rainbow_lite") for moment in (1, 65)),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(unbroken, sign_teacher, tmp_path, recipe, moment):
    teacher = None if recipe != "distil" else sign_teacher
    config, (whole, folder) = cut_config(recipe), unbroken(recipe)
    with pytest.raises(Killed):
        train(
            config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"), watch=killed_after(8 * moment)
        )
    resumed = train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"))
    for file in ("student/student.safetensors",):
        assert (tmp_path / "cut" / file).read_bytes() == (folder.path / file).read_bytes()
    assert (resumed.env_steps, resumed.updates) == (whole.env_steps, whole.updates)
    assert without_clock(resumed) == without_clock(whole)


def gap(scale):
    """A loss of somebody's own, which weighs more or less."""

    def weighed(*, student, teacher):
        return scale * (student - teacher).square().mean(1)

    return weighed


def test_a_run_is_not_continued_with_another_loss_of_the_same_name(sign_teacher, tmp_path):
    """It went on without a word, to a student that no unbroken run gives."""
    folder = tmp_path / "run"
    config = small(terms=(term(gap(0.5)),))
    with pytest.raises(Killed):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(folder), watch=killed_after(500))
    with pytest.raises(ResumeError, match=r"code of the loss 'test_train:gap\.<locals>\.weighed' is not what it was"):
        train(config.but(terms=(term(gap(50.0)),)), sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(folder))
    again = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(folder))
    assert again.env_steps == config.data.env_steps


def test_teachers_may_be_named_by_their_files(teacher):
    assert [one.name for one in teachers_of([teacher], small())] == ["mlp:4"]


@pytest.mark.parametrize(
    "make",
    [
        distill,
        partial(distill_seeds, seeds=2),
        partial(distill_chain, assistants=1),
        partial(plan, seeds=1),
        distill_tree,
    ],
)
def test_a_job_is_a_job(teacher, tmp_path, make):
    with pytest.raises(SpecError, match=r"'job' must be a Job, got TrainConfig\(.*: write Job\(config\)"):
        make(teacher, small(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env_steps": 1e3}, "'env_steps' must be a whole number, got 1000.0: write 1000"),
        ({"terms": ("forward_kl",)}, r"holds 'forward_kl', which is no term: write term\('forward_kl'\)"),
        ({"terms": term("forward_kl")}, r"'terms' must be a tuple.*write terms=\(term"),
        ({"behaviour": "teacher"}, r"'behaviour' must be a Behaviour, got 'teacher': write Behaviour\('teacher'\)"),
        ({"network": torch.nn.Linear(2, 2)}, r"'network' must be a text, got Linear\("),
    ],
)
def test_settings_of_another_type_are_refused_before_anything_runs(changes, words):
    with pytest.raises(SpecError, match=words):
        small(**changes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta": 0.3}, r"'beta' must be a Schedule, got 0.3: write Schedule\(0.3\)"),
        ({"epsilon": Schedule(1.5)}, "'epsilon' .* goes from 1.5 to 1.5"),
        ({"epsilon": Schedule(-1.0)}, "'epsilon'"),
        ({"labels": (Schedule(1.0, -1.0),)}, "'labels' .* goes from -1.0 to 1.0"),
    ],
)
def test_a_behaviour_has_shares(wrong, words):
    with pytest.raises(SpecError, match=words):
        Behaviour(**wrong)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from conftest import *
from test_train import small, ACCEPTANCE
from distilrl.train import train
from distilrl.viper import distill_tree
from distilrl.runs import RunFolder
config, folder = small(env_steps=2400, updates=1, gap=-1.0), RunFolder({out!r})
train(config, make_teacher(sign_network()), acceptance=ACCEPTANCE, folder=folder)
"""


def test_kill_9_and_resume(sign_teacher, tmp_path):
    out = tmp_path / "cut"
    script = SCRIPT.format(tests=os.path.dirname(__file__), out=str(out))  # noqa: PTH120
    process = subprocess.Popen([sys.executable, "-c", script])
    state = out / "checkpoint" / "state.safetensors"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    assert state.exists(), "the run ended before its first checkpoint"
    time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = small(env_steps=2400, updates=1, gap=-1.0)
    train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(out))
    train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "whole"))
    files = [folder / "student" / "student.safetensors" for folder in (out, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_environment_that_does_not_replay_says_so(sign_teacher, tmp_path):
    config = small(env="distilrl/ForgetfulEnv-v0", gap=-1.0)

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Killed):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder, watch=killed_after(900))
    with pytest.raises(ResumeError, match="recorded actions"):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder)


def test_rewards_that_do_not_come_again_are_noticed_too(sign_teacher, tmp_path):
    """What is seen is all the same: a run that learns from reward would go on to other weights without a word."""
    config = small("qdagger", env=f"{__name__}:Moody-v0", gap=-1.0)
    trust(__name__)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Killed):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder, watch=killed_after(900))
    with pytest.raises(ResumeError, match="recorded actions"):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder)


def test_a_resumed_run_wants_its_own_teacher(sign_teacher, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(small(env_steps=480), sign_teacher, acceptance=ACCEPTANCE, folder=folder)
    other = replace(sign_teacher, digest="1" * 64)
    with pytest.raises(ResumeError, match="another teacher"):
        train(small(env_steps=480), other, acceptance=ACCEPTANCE, folder=folder)


def test_training_stops_when_it_is_good_enough(sign_teacher):
    generous = train(small(gap=2.0, agreement=0.0), sign_teacher, acceptance=ACCEPTANCE)
    assert generous.env_steps == 800
    assert "2 checks" in generous.stopped
    never = train(small(gap=-1.0), sign_teacher, acceptance=ACCEPTANCE)
    assert (never.env_steps, never.stopped) == (1600, "budget used; best of 3 checks on 8 other episodes")


def test_a_check_that_was_luck_gives_way(sign_teacher, monkeypatch):
    """Else each try would play the lucky student again, and none that is good would have its turn."""
    told = iter([0.5, 0.99])  # of other episodes: the best by its checks is not good enough, the next one is
    tried = []

    def again(self, place, turn, watch, paired):
        assert paired
        tried.append((turn, place, self.tasks[0].kept[place]))
        score = next(told)
        return [(5 + 5 * score, score)]

    def check(self, policy, watch=None, *, shadow=None):
        mean = next(means)
        return Checked(mean, (mean - 5) / 5, honest(self, policy, watch or events.silent, shadow=shadow).games)

    means, honest = iter([10.0, 9.98, 9.97, 9.99]), Check.__call__
    monkeypatch.setattr(Finalists, "again", again)
    monkeypatch.setattr(Check, "__call__", check)
    trained = train(small(gap=0.02, agreement=0.0), sign_teacher, acceptance=ACCEPTANCE)
    assert trained.stopped == "good enough at 2 checks in a row and on 8 other episodes"
    assert [(turn, place) for turn, place, _ in tried] == [(0, 0), (1, 0)]
    first, second = (student["layers.0.weight"] for _, _, student in tried)
    assert not torch.equal(first, second)


def test_who_was_good_enough_on_other_episodes_is_who_ships(sign_teacher, monkeypatch):
    """By what it makes there it would fall behind the luckier checks of others, who never played them."""
    confirmed, means, honest = [], iter([9.9, 10.0]), Check.__call__

    def again(self, place, turn, watch, paired):
        confirmed.append(self.tasks[place].kept[place])
        return [(9.5, 0.9)]

    def check(self, policy, watch=None, *, shadow=None):
        mean = next(means)
        return Checked(mean, (mean - 5) / 5, honest(self, policy, watch or events.silent, shadow=shadow).games)

    monkeypatch.setattr(Finalists, "again", again)
    monkeypatch.setattr(Check, "__call__", check)
    trained = train(small(gap=0.2, agreement=0.0), sign_teacher, acceptance=ACCEPTANCE)
    assert trained.stopped == "good enough at 2 checks in a row and on 8 other episodes"
    (student,) = confirmed
    *_, last = [name for name in student if name.startswith("layers")]
    torch.testing.assert_close(trained.network.state_dict()[last], student[last])


def test_a_student_of_before_the_first_update_does_not_ship(sign_teacher, monkeypatch):
    """Its inputs were not standardised then, so that its weights are of another function since."""
    kept, means, keep = [], iter([20.0, *[9.0] * 8]), Task.keep

    def check(self, policy, watch=None, *, shadow=None):
        mean = next(means)
        return Checked(mean, (mean - 5) / 5, honest(self, policy, watch or events.silent, shadow=shadow).games)

    def noted(self, place):
        keep(self, place)
        kept.append(self.learner.updates)

    honest = Check.__call__
    monkeypatch.setattr(Check, "__call__", check)
    monkeypatch.setattr(Task, "keep", noted)
    config = small(gap=-1.0, learning_starts=600, check_every=400, finalists=1)
    trained = train(config, sign_teacher, acceptance=ACCEPTANCE)
    assert kept[0] == 0 < kept[1], "the first check is of nothing learnt"
    obs = torch.randn(200, 2) * torch.tensor([1.0, 5.0]) + torch.tensor([0.0, 3.0])
    right = (obs[:, 0] > 0).long()
    with torch.no_grad():
        assert float((trained.network(obs).argmax(1) == right).float().mean()) > 0.9, "what ships has learnt"


def test_what_is_good_enough_is_told_by_the_teacher_in_the_same_episodes(sign_teacher):
    """Its acceptance went badly (6 of 10): by that alone a student that makes 8 ended the run at its third check."""
    unlucky, slow = replace(ACCEPTANCE, return_mean=6.0), small(agreement=0.0, learning_rate=3e-4)
    trained = train(slow, sign_teacher, acceptance=unlucky)
    assert all(row["score"] > 1 for row in trained.history[1:])
    assert trained.stopped.startswith("budget used")
    exact = train(slow, sign_teacher, acceptance=replace(unlucky, exact=True))
    assert (exact.env_steps, exact.stopped[:11]) == (1200, "good enough"), "all episodes were played: nothing to ask"


def test_the_students_of_the_best_checks_meet_again_on_other_episodes(sign_teacher, tmp_path, monkeypatch):
    config = small(gap=-1.0, finalists=3)
    folder, met = RunFolder(tmp_path / "run"), []
    played = iter([1.0, 3.0, 2.0] * 2)

    def others(self, policy, episodes, watch=None, turn=0):
        met.append(policy.network)
        return next(played)

    monkeypatch.setattr(Check, "others", others)

    def killed(event):
        if event == events.Phase("finalists"):
            raise Killed

    with pytest.raises(Killed):
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder, watch=killed)
    trained = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=folder)
    assert trained.stopped == "budget used; best of 3 checks on 8 other episodes"
    assert len(met) == 3
    assert all(torch.equal(a, b) for a, b in zip(met[1].parameters(), trained.network.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(met[0].parameters(), met[1].parameters(), strict=True))
    unbroken = train(config, sign_teacher, acceptance=ACCEPTANCE)
    assert all(
        torch.equal(a, b) for a, b in zip(unbroken.network.parameters(), trained.network.parameters(), strict=True)
    )


@pytest.mark.parametrize(("enough", "kept"), [(None, 1), (0.9, 2), (1.5, 1)])
def test_of_checks_that_are_good_enough_the_last_is_kept(sign_teacher, monkeypatch, enough, kept):
    """Scores of 0.1, 1.1, 0.95 and 0.5: the best of all, or the last that is at least as good as what is enough."""
    span = ACCEPTANCE.return_mean - ACCEPTANCE.random_return_mean
    scores, seen = iter([0.1, 1.1, 0.95, 0.5]), []
    own = Check.__call__

    def found(self, policy, watch, **how):
        seen.append(policy.network(torch.ones(1, 2)).detach())
        score = next(scores)
        mean = ACCEPTANCE.random_return_mean + score * span
        return replace(own(self, policy, watch, **how), mean=mean, score=score / 2)  # of checks that are cut

    monkeypatch.setattr(Check, "__call__", found)
    trained = train(small(gap=-1.0, enough=enough, finalists=1), sign_teacher, acceptance=ACCEPTANCE)
    torch.testing.assert_close(trained.network(torch.ones(1, 2)), seen[kept], rtol=1e-4, atol=1e-4)
    assert (seen[1] - seen[2]).abs().max() > 1e-3


def test_a_student_that_was_good_enough_meets_nobody(sign_teacher):
    assert "2 checks" in train(small(gap=2.0, agreement=0.0, finalists=3), sign_teacher, acceptance=ACCEPTANCE).stopped


def test_the_shipped_student_holds_the_student_alone_and_takes_raw_observations(sign_teacher, tmp_path):
    trained = train(small(), sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "run"))
    tensors, _ = read_tensors(tmp_path / "run" / "student" / "student.safetensors")
    assert sum(t.numel() for t in tensors.values()) == trained.network.spec.params == 2 * 8 + 8 + 8 * 2 + 2
    obs = torch.randn(30, 2) * 5
    torch.testing.assert_close(load_network(tmp_path / "run" / "student").network(obs), trained.network(obs))
    assert trained.network.obs_mean.abs().sum() == 0


def test_a_contact_that_is_made_late_does_not_explode():
    """Its spread in the first states says nothing of what is to come, and the scale stays for good."""
    teacher = Teacher.from_callable(lambda obs: torch.cat([-obs[:, :1], obs[:, :1]], dim=1), kind="q", name="late")
    config = small(env=LATE, env_steps=3200, learning_starts=160, gap=-99.0, average=0.9)
    network = train(config, teacher, acceptance=ACCEPTANCE).network
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    obs, contact = noise * torch.tensor([1.0, 5.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    touched, blurred = obs + contact, obs + 0.1 * noise * contact
    decided = obs[:, 0].abs() > 0.2
    for seen in (obs, touched, blurred):
        right = (network(seen).argmax(1) == (seen[:, 0] > 0))[decided]
        assert float(right.float().mean()) > 0.95
    assert float((network(touched) - network(obs)).std()) < float(network(obs).std())


def test_the_whole_job_leaves_the_promised_folder(sign_teacher, tmp_path):
    job = Job(small(), Comparison(200, 200, 60))
    results = distill(sign_teacher, job, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored == results.to_json()
    assert read_as(Results, stored).to_json() == stored
    assert set(stored) >= {
        "env",
        "seed",
        "recipe",
        "env_steps",
        "updates",
        "wall_s",
        "device",
        "teacher",
        "random",
        "student",
        "agreement",
        "verdict",
    }
    assert set(stored["student"]) >= {
        "spec", "params", "bytes", "macs", "return_mean", "return_iqm", "return_ci95", "episodes", "score",
        "latency_us",
    }  # fmt: skip
    assert set(stored["verdict"]) >= {"result", "margin", "difference", "interval", "distinct", "protocol"}
    assert stored["verdict"]["result"] == "pass"
    for name in (
        "config.json",
        "teacher.json",
        "metrics.csv",
        "student/spec.json",
        "checkpoint/state.safetensors",
        "tensorboard",
    ):
        assert (tmp_path / "run" / name).exists()
    assert Job.from_json(json.loads((tmp_path / "run" / "config.json").read_text())) == job


def with_values(changes):
    """A configuration as JSON with some values changed, each in its group."""
    data = small().to_json()
    for name, value in changes.items():
        (data[GROUP[name]] if name in GROUP else data)[name] = value
    return data


def test_config_survives_json_and_refuses_unknown_keys():
    for name in sorted(set(RECIPES) - {"attention"}):
        config = small(name)
        assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(SpecError, match="learing_rate"):
        TrainConfig.from_json(with_values({"learing_rate": 1.0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": "al"}, "'train.data.mix' must be one of one, all"),
        ({"standardise": None}, "'train.optim.standardise' must be one of"),
        ({"device": "tpu"}, "'train.compute.device' must be one of cpu, cuda"),
        ({"behaviour": {"name": "nobody"}}, "'train.data.behaviour.name' must be one of teacher, student, mixed"),
        ({"behaviour": {"beta": 3}}, "'train.data.behaviour.beta' must be an object"),
        ({"env_steps": "9"}, "'train.data.env_steps' must be a whole number, got '9'"),
        ({"env_steps": 1e6}, "'train.data.env_steps' must be a whole number"),
        ({"n_envs": True}, "'train.data.n_envs' must be a whole number"),
        ({"learning_rate": None}, "'train.optim.learning_rate' must be a number, got None"),
        ({"for_learning": "no"}, "'train.data.for_learning' must be true or false"),
        ({"reward": {"env_steps": -1}}, "In 'train.reward': 'env_steps' must be at least 0"),
        ({"terms": 5}, "'train.terms' must be a list"),
        ({"terms": [{"weight": {"begin": 1.0}}]}, "'train.terms[0]' lacks 'loss'"),
        (
            {"terms": [{"loss": "forward_kl", "weight": {"begin": "a"}}]},
            "'train.terms[0].weight.begin' must be a number",
        ),
        ({"tasks": [{"env": "CartPole-v1", "file": 1}]}, "Unknown key 'file' in 'train.tasks[0]'"),
        ({"tasks": [{"env": {"id": "CartPole-v1", "kwargs": 3}}]}, "'train.tasks[0].env.kwargs' must be a dict"),
    ],
    ids=str,
)
def test_a_configuration_that_means_nothing_is_refused(change, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        TrainConfig.from_json(with_values(change))


def test_what_python_gives_is_checked_too():
    with pytest.raises(SpecError, match="'share' must be one of body, convolutions"):
        small(share="head")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("env_steps", (0,)),
        ("updates", (0,)),
        ("capacity", (0, -3)),
        ("target_every", (0,)),
        ("threads", (0, 1025, 100_000)),
        ("learning_starts", (-1, 10**9)),
        ("n_step", (-1,)),
        ("learning_rate", (0.0, -1.0, INF, NAN)),
        ("max_grad_norm", (0.0, -1.0, INF, NAN)),
        ("average", (7, 1.0, -0.1, NAN)),
        ("gamma", (1.5, -0.1, NAN)),
        ("stakes_exponent", (-1.0, INF, NAN)),
        ("priority_exponent", (-1.0, NAN)),
        ("eval_epsilon", (2, -0.1, NAN)),
        ("entropy_share", (1.0, 0.0, NAN)),
        ("gap", (INF, NAN)),
        ("agreement", (INF, NAN)),
        ("at_return", (INF, NAN)),
        ("drift_threshold", (NAN,)),
        ("noise", ((0.1, -1.0), (NAN, 0.0))),
        ("workers", (-1,)),
        ("patience", (0,)),
        ("n_envs", (0,)),
        ("batch_size", (0,)),
        ("check_every", (0,)),
        ("check_episodes", (0,)),
        ("hidden_features", ((-1,),)),
        ("seed", (-1, 900)),
    ],
)
def test_values_that_mean_nothing_are_refused(name, values):
    for value in values:
        with pytest.raises(SpecError, match=f"'{name}'") as caught:
            small().but(**{name: value})
        assert str(caught.value).endswith(".")


def test_a_setting_that_there_is_not_is_named():
    with pytest.raises(SpecError, match="Unknown setting 'gap_exponent'"):
        small().but(gap_exponent=1.0)
    with pytest.raises(SpecError, match="Unknown setting 'student_width'"):
        make_config("distil", SIGN, student_width=3)


def test_what_is_at_the_edge_is_taken():
    edge = {
        "average": 0.0,
        "gamma": 1.0,
        "eval_epsilon": 1.0,
        "threads": 1024,
        "n_step": 0,
        "stakes_exponent": 0.0,
        "learning_starts": 0,
    }
    assert small().but(**edge).optim.gamma == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: small(terms=(term("td"),)),
        lambda: term("forward_kl", teacher_temperature=INF),
        lambda: term("adversarial_kl", radius=NAN),
        lambda: term("double_td", bonus=NAN),
        lambda: Schedule(NAN),
        lambda: Schedule(1.0, INF),
        lambda: Behaviour(greedy_share=2.0),
        lambda: Behaviour(zeta=INF),
        lambda: Behaviour(labels=()),
        lambda: Job(small(), accept_episodes=1),
        lambda: Job(small(), accept_max_episodes=19),
        lambda: Play(EnvRef(SIGN), epsilon=NAN),
        lambda: Play(EnvRef(SIGN), sticky=2.0),
        lambda: Play(EnvRef(SIGN), threads=0),
    ],
)
def test_parts_that_mean_nothing_are_refused(make):
    with pytest.raises(SpecError, match=r"must|needs"):
        make()


def test_learning_waits_until_something_can_be_drawn(sign_teacher):
    sparse = small("kickstarting", terms=(term("double_td"), term("forward_kl")), n_step=1, learning_starts=8)
    behaviour = sparse.data.behaviour
    with pytest.raises(SpecError, match="no two steps that are 1 apart"):  # said before the first
        sparse.but(behaviour=replace(behaviour, labels=(Schedule(0.05),)))
    with pytest.raises(SpecError, match="above 0"):
        replace(behaviour, labels=(Schedule(0.0),))
    sparse = sparse.but(behaviour=replace(behaviour, labels=(Schedule(0.05, 0.04),)))
    with pytest.raises(SpecError, match="Nothing was learnt in 1600 steps"):
        train(sparse, sign_teacher, acceptance=ACCEPTANCE)
    early = small(gap=-1.0, learning_starts=0)
    trained = train(early, sign_teacher, acceptance=ACCEPTANCE)
    assert trained.updates == 199 * early.optim.updates  # the first row is there at the second of 200 steps


def test_teacher_and_student_are_timed_the_same_way(sign_teacher, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(sys.modules["distilrl.distill"], "latency_us", lambda policy, *_: timed.append(policy) or 1.0)
    distill(sign_teacher, Job(small(), Comparison(20, 40, 0)), tmp_path / "run")
    assert timed[0].network is sign_teacher.network
    assert isinstance(timed[1].network, type(sign_teacher.network))


@pytest.mark.parametrize(("recipe", "kind"), [("distil", "logits"), ("case_study", "q"), ("qdagger", "q")])
def test_only_numbers_on_the_scale_of_returns_are_called_values(sign_teacher, recipe, kind):
    trained = train(small(recipe, env_steps=480), sign_teacher, acceptance=ACCEPTANCE)
    assert trained.heads[0].kind == kind


def test_no_choice_is_made_on_episodes_that_judge_it(sign_teacher, tmp_path, monkeypatch):
    """Acceptance, checks, what meets again, the verdict and disturbed play: none of them sees another's episodes."""
    met = {}

    def noted(module, called):
        def play(policy, how, seeds, **more):
            met.setdefault(module, []).append(frozenset(int(seed) for seed in seeds))
            return called(policy, how, seeds, **more)

        return play

    for module in ("acceptance", "stream", "comparison"):
        home = importlib.import_module(f"distilrl.{module}")
        monkeypatch.setattr(home, "play", noted(module, home.play))
    job = Job(small(gap=0.5, finalists=3), Comparison(50, 50, 20, margin=0.9))
    distill(sign_teacher, job, tmp_path / "run", report=False)
    kinds = {module: set(calls) for module, calls in met.items()}
    assert len(kinds["stream"]) >= 2, "checks, and whether it is good enough elsewhere"
    assert len(kinds["comparison"]) >= 2, "the verdict, and disturbed play"
    together = [seeds for sets in kinds.values() for seeds in sets]
    assert sum(map(len, together)) == len(frozenset().union(*together))

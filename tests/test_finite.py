"""Numbers that are not finite, wherever from: one sentence names them, and no verdict and no file is made of them."""

import json
import re
from dataclasses import replace

import gymnasium
import instances
import numpy as np
import pytest
import torch
from conftest import SIGN, SignEnv, make_teacher, sign_network
from test_train import ACCEPTANCE, small
from tiny_envs import LINEAR, linear_teacher

from distilrl import stats
from distilrl.checkpoints import save_network
from distilrl.comparison import Comparison, compare
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import DistilError, EnvError, FileError, NotFiniteError, TeacherError
from distilrl.evaluate import play, seeds_from
from distilrl.files import write_json
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.objective import TeacherTerm
from distilrl.policies import Policy
from distilrl.runs import RunFolder
from distilrl.spaces import Choices, EnvRef
from distilrl.teachers import Teacher
from distilrl.train import train
from distilrl.verdict import non_inferiority

NAN = float("nan")
HEAD = Categorical(Choices((2,)))
HOW = Play(EnvRef(SIGN))


def compared(teacher, student):
    info = describe_env(EnvRef(SIGN))
    return compare(teacher.fitted(info), Policy(student, HEAD), HOW, Comparison(4, 4, 0), instances.acceptance(), info)


class BadRewardEnv(SignEnv):
    """The fourth reward of each episode is no number."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, NAN if self.steps == 4 else reward, *rest


class BadObsEnv(SignEnv):
    """The fourth observation of each episode is infinite."""

    def step(self, action):
        obs, *rest = super().step(action)
        return (obs * np.float32("inf") if self.steps == 4 else obs), *rest


for env in (BadRewardEnv, BadObsEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)


def turning(after):
    """A teacher that gives NaN after so many calls."""
    calls, network = 0, sign_network()

    def policy(obs):
        nonlocal calls
        calls += 1
        with torch.no_grad():
            return network(obs) * (NAN if calls > after else 1.0)

    return Teacher.from_callable(policy, 2, obs_shape=(2,))


def one_sentence(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize(
    "after", [12, 30, 100, 218]
)  # at the first label, before and after the first update, in the verdict
def test_a_teacher_that_turns_nan_is_no_pass(tmp_path, after):
    with pytest.raises(DistilError) as caught:
        distill(turning(after), Job(small(gap=-1.0), Comparison(20, 20, 0)), tmp_path / "run")
    assert isinstance(caught.value, TeacherError)
    assert "policy" in one_sentence(caught)
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_label_that_is_nan_is_placed(tmp_path):
    with pytest.raises(
        TeacherError, match=r"gave NaN or infinite numbers after 320 steps in distilrl/SignEnv-v0"
    ) as caught:
        train(small(), turning(40), acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "run"))
    one_sentence(caught)


class Lost(torch.nn.Module):
    """A critic whose answer is no number in some states."""

    def forward(self, obs, actions):
        return torch.where(obs[:, 0] > 0, 1.0, NAN) - actions.abs().sum(1)


def test_a_critic_that_gives_nan_is_named_where_states_are_drawn_by_it():
    """Else nothing but the last of the states would be drawn."""
    teacher = replace(make_teacher(sign_network()), critic=Lost())
    with pytest.raises(
        TeacherError, match=r"critic of the teacher .* in distilrl/SignEnv-v0.*'stakes_exponent'"
    ) as caught:
        train(small(stakes_exponent=1.0), teacher, acceptance=ACCEPTANCE)
    one_sentence(caught)


@pytest.mark.parametrize("average", [0.0, 0.99])
def test_a_diverged_training_names_loss_and_learning_rate(sign_teacher, tmp_path, average):
    with pytest.raises(NotFiniteError, match=r"'forward_kl'.*'learning_rate' \(1e\+30\)") as caught:
        train(
            small(learning_rate=1e30, average=average),
            sign_teacher,
            acceptance=ACCEPTANCE,
            folder=RunFolder(tmp_path / "run"),
        )
    one_sentence(caught)
    assert not (tmp_path / "run" / "student").exists()


def nothing(*, student, teacher):
    """A loss that is never a number."""
    return (student - teacher).mean(1) * NAN


@pytest.mark.parametrize("optimiser", ["adam", "soap"])
def test_real_actions_of_a_student_that_diverged_are_not_the_environments_fault(optimiser):
    """Between two checks they would reach it; and SOAP finds no eigenvectors of what is no number."""
    config = small(env=LINEAR, optimiser=optimiser, terms=(TeacherTerm(nothing),), env_steps=800)
    with pytest.raises(
        NotFiniteError, match="actions have become NaN or infinite: training has diverged, lower"
    ) as caught:
        train(config, linear_teacher(), acceptance=ACCEPTANCE)
    one_sentence(caught)


def test_weights_alone_that_are_nan_end_training_too(sign_teacher, monkeypatch):
    from distilrl.learner import Learner

    update = Learner.update

    def spoil(self, *args):
        losses = update(self, *args)
        with torch.no_grad():
            self._averages[0].fill_(NAN)
        return losses

    monkeypatch.setattr(Learner, "update", spoil)
    with pytest.raises(NotFiniteError, match="weights have become NaN"):
        train(small(), sign_teacher, acceptance=ACCEPTANCE)


def test_updates_do_not_wait_to_look(sign_teacher, monkeypatch):
    """Looking at the weights is for checks."""
    from distilrl.learner import Learner

    looked, diverged = [], Learner.diverged
    monkeypatch.setattr(Learner, "diverged", lambda self: looked.append(self.updates) or diverged(self))
    trained = train(small(gap=-1.0), sign_teacher, acceptance=ACCEPTANCE)
    assert len(looked) == len(trained.history) < trained.updates


@pytest.mark.parametrize(
    ("name", "what"),
    [("BadRewardEnv", "a reward of nan"), ("BadObsEnv", "an observation that is not finite (number 0)")],
)
def test_an_environment_that_gives_nan_is_named(sign_teacher, name, what):
    env_id = f"distilrl/{name}-v0"
    for run in (
        lambda: train(small(env=env_id), sign_teacher, acceptance=ACCEPTANCE),
        lambda: play(Policy(sign_network(), HEAD), Play(EnvRef(env_id)), seeds_from(0, 3)),
    ):
        with pytest.raises(EnvError, match=re.escape(f"'{env_id}' gave {what} in step 4 (action")) as caught:
            run()
        one_sentence(caught)


def test_a_policy_that_gives_nan_has_no_return(sign_teacher):
    broken = sign_network()
    with torch.no_grad():
        broken.layers[2].bias[0] = NAN
    with pytest.raises(NotFiniteError, match="numbers") as caught:
        play(Policy(broken, HEAD), HOW, seeds_from(0, 3))
    one_sentence(caught)
    with pytest.raises(NotFiniteError):
        compared(sign_teacher, broken)
    with pytest.raises(TeacherError):
        compared(make_teacher(broken), sign_network())


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_no_verdict_of_numbers_that_are_none(bad):
    good, rng = np.zeros(5), np.random.default_rng(0)
    wrong = np.array([0.0, 0.0, bad, 0.0, 0.0])
    for student, teacher, margin in ((wrong, good, 1.0), (good, wrong, 1.0), (wrong, wrong, 1.0), (good, good, bad)):
        with pytest.raises(NotFiniteError, match="NaN or infinite"):
            non_inferiority(student, teacher, margin, rng, span=5.0)


def test_weights_that_are_nan_are_not_saved(tmp_path):
    network = sign_network()
    with torch.no_grad():
        network.layers[2].weight[0, 0] = float("inf")
    with pytest.raises(NotFiniteError, match=r"layers\.2\.weight") as caught:
        save_network(tmp_path / "student", network, HEAD)
    one_sentence(caught)
    assert not (tmp_path / "student").exists()


def test_json_has_no_nan(tmp_path):
    with pytest.raises(FileError, match=r"results\.json is not written") as caught:
        write_json(tmp_path / "results.json", {"student": {"score": NAN}})
    one_sentence(caught)
    assert not (tmp_path / "results.json").exists()


def test_a_teacher_no_better_than_random_leaves_json_without_a_score(tmp_path):
    """Teacher and random play that return the same have no score between them."""
    assert stats.score(3.0, 2.0, 2.0) is None
    assert stats.mean_score([0.5, None]) is None
    assert stats.mean_score([0.5, 1.0]) == 0.75
    info = describe_env(EnvRef(SIGN))
    teacher, accepted = make_teacher(sign_network()).fitted(info), instances.acceptance(10.0, 10.0)
    with pytest.raises(TeacherError, match="--margin-abs"):
        compare(teacher, Policy(sign_network(), HEAD), HOW, Comparison(4, 4, 0), accepted, info)
    results = compare(teacher, Policy(sign_network(), HEAD), HOW, Comparison(4, 4, 0, margin_abs=1.0), accepted, info)
    assert json.loads(json.dumps(results.student.to_json(), allow_nan=False))["score"] is None

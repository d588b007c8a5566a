"""Teachers of somebody's own code: the digest tells apart what answers differently, and is the same in each process."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from distilrl.envs import describe_env
from distilrl.errors import TeacherError
from distilrl.teachers import Teacher


def digest(policy, **more):
    return Teacher.from_callable(policy, 2, **more).digest


def scaled(factor):
    return lambda obs: obs * factor


def by_matrix(matrix):
    return lambda obs: obs @ matrix


def nested(number):
    def outer(obs):
        def inner(x):
            return x + 3.0

        return inner(obs) * number

    return outer


def other_nested(number):
    def outer(obs):
        def inner(x):
            return x + 4.0

        return inner(obs) * number

    outer.__qualname__ = "nested.<locals>.outer"
    return outer


def with_default(obs, gain=1.0):
    return obs * gain


def with_named(number):
    def called(obs, *, gain=number):
        return obs * gain

    return called


def listed(gains):
    return lambda obs: obs * gains[0]


class Activated(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, obs):
        return self.how(obs) if callable(self.how) else obs * self.how[0]


class Gain:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, obs):
        return self.predict(obs)

    def predict(self, obs):
        return self.gain(obs) if callable(self.gain) else obs * self.gain


class Negative(Gain):
    def __call__(self, obs):
        return -self.predict(obs)


Negative.__qualname__ = "Gain"


class Holding:
    """As an agent of another library: its network lies in an object that is not called."""

    def __init__(self, network):
        self.inner, self.random, self.made = Keeping(network), np.random.default_rng(), object()

    def predict(self, obs):
        return self.inner.network(obs)


class Keeping:
    def __init__(self, network):
        self.network, self.seen = network, np.random.default_rng().random(3)


def predicts(model):
    return lambda obs: model.predict(obs)


LINEAR = nn.Linear(2, 2)
APART = {
    "two functions of one name": (lambda obs: obs, lambda obs: -obs),
    "constants": (lambda obs: obs * 2, lambda obs: obs * 3),
    "numbers kept from around": (scaled(1.0), scaled(2.0)),
    "arrays kept from around": (by_matrix(np.eye(2)), by_matrix(2 * np.eye(2))),
    "tensors kept from around": (by_matrix(torch.eye(2)), by_matrix(torch.ones(2, 2))),
    "modules kept from around": (by_matrix(nn.Linear(2, 2)), by_matrix(nn.Linear(2, 2))),
    "functions within": (nested(1.0), other_nested(1.0)),
    "functions kept from around": (scaled(scaled(1.0)), scaled(scaled(2.0))),
    "numbers bound beforehand": (partial(with_default, gain=1.0), partial(with_default, gain=2.0)),
    "defaults of names alone": (with_named(1.0), with_named(2.0)),
    "lists kept from around": (listed([1.0, 2.0]), listed([1.0, 3.0])),
    "activations": (nn.Sequential(LINEAR, nn.ReLU()), nn.Sequential(LINEAR, nn.Tanh())),
    "weights": (nn.Linear(2, 2), nn.Linear(2, 2)),
    "functions of a module": (Activated(torch.relu), Activated(torch.tanh)),
    "lists of a module": (Activated([1.0]), Activated([2.0])),
    "attributes of what is called": (Gain(1.0), Gain(2.0)),
    "what calling does": (Gain(1.0), Negative(1.0)),
    "whose method it is": (Gain(1.0).predict, Gain(2.0).predict),
    "whose method is called": (predicts(Gain(1.0)), predicts(Gain(2.0))),
    "a network of what is kept from around": (predicts(Gain(nn.Linear(2, 2))), predicts(Gain(nn.Linear(2, 2)))),
    "a network within that": (predicts(Holding(nn.Linear(2, 2))), predicts(Holding(nn.Linear(2, 2)))),
}


@pytest.mark.parametrize("difference", APART)
def test_what_answers_differently_has_another_digest(difference):
    one, other = APART[difference]
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: scaled(2.0), lambda: by_matrix(np.eye(2)), lambda: nested(1.0), lambda: with_default),
        *(lambda: Gain(1.0).predict, lambda: Activated(torch.relu), lambda: predicts(Holding(LINEAR))),
    ],
)
def test_the_same_code_and_data_have_the_same_digest(make):
    assert digest(make()) == digest(make())


@pytest.mark.parametrize("outputs", ["q", 0, 2.0])
def test_how_many_numbers_a_function_gives_is_a_number(outputs):
    with pytest.raises(TeacherError, match="'outputs' is how many numbers the function gives, got"):
        Teacher.from_callable(scaled(1.0), outputs)


def test_a_name_stands_for_a_function_but_not_for_weights():
    assert digest(scaled(1.0), name="mine") == digest(scaled(2.0), name="mine")
    assert digest(nn.Linear(2, 2), name="mine") != digest(nn.Linear(2, 2), name="mine")


def test_the_digest_is_the_same_in_another_process():
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_callables as t\n"  # noqa: PTH120
    code += "functions = t.scaled(2.0), t.nested(1.0), t.with_default, t.by_matrix(t.np.eye(2)), t.Gain(1.0).predict\n"
    code += "print([t.digest(f) for f in (*functions, t.Activated(t.torch.relu))])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (
        str(
            [
                digest(f)
                for f in (
                    scaled(2.0),
                    nested(1.0),
                    with_default,
                    by_matrix(np.eye(2)),
                    Gain(1.0).predict,
                    Activated(torch.relu),
                )
            ]
        )
        in said
    )


def test_a_function_that_keeps_itself_ends():
    def recursive(obs):
        return recursive(obs[1:]) if len(obs) > 1 else obs

    assert digest(recursive) == digest(recursive)


@pytest.mark.parametrize("answer", [None, "left", {"action": 1}])
def test_an_answer_that_is_no_array_is_refused_in_one_sentence(answer):
    teacher = Teacher.from_callable(lambda obs: answer).fitted(describe_env("CartPole-v1"))
    with pytest.raises(TeacherError, match=f"answers with a {type(answer).__name__} that is no array"):
        teacher.numbers(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("env", "answer", "words"),
    [
        ("CartPole-v1", [0, 2], "no option 2: .* counted from 0, .* choose 0 to 1"),
        ("CartPole-v1", [-1, 0], "no option -1: .* choose 0 to 1"),
        ("distilrl/LateEnv-v0", [1, 2], "no option 2: .* whatever the environment calls them, so choose 0 to 1"),
        ("distilrl/MultiEnv-v0", [[0, 0], [1, 3]], "no option 3: .* choose 0 to 2"),
        ("distilrl/MultiEnv-v0", [0, 1], r"2 observations with whole numbers of shape \(2,\): .* \(2, 2\)"),
        ("distilrl/MultiEnv-v0", [[0, 0, 0], [1, 1, 1]], r"of shape \(2, 3\): .* \(2, 2\)"),
        ("CartPole-v1", [0, 1, 1], r"of shape \(3,\): .* \(2, 1\)"),
    ],
)
def test_chosen_actions_that_there_are_not_are_refused_in_one_sentence(env, answer, words):
    info = describe_env(env)
    teacher = Teacher.from_callable(lambda obs: torch.tensor(answer)).fitted(info)
    with pytest.raises(TeacherError, match=words):
        teacher.numbers(torch.zeros(2, *info.obs.shape))

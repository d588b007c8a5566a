"""Real actions whose bounds are far from -1 to 1: students learn them as they learn others."""

import gymnasium
import numpy as np
import pytest
import torch
from test_features import begun
from tiny_envs import SLOPE, LinearEnv, tiny_config

from distilrl import Comparison, Job, distill, make_config
from distilrl.envs import describe_env
from distilrl.heads import head_for
from distilrl.networks import build
from distilrl.plan import plan
from distilrl.spaces import Bounds, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.teachers.layers import Clamped

BOUNDS = [(0.2, 1.0), (-200.0, 200.0), (-0.001, 0.001), (1000.0, 1010.0)]


class ScaledEnv(LinearEnv):
    """LinearEnv whose action is counted in other numbers; the one that pays most lies well inside its bounds."""

    def __init__(self, low, high):
        self.action_space = gymnasium.spaces.Box(low, high, (1,), np.float32)
        self.middle, self.half = (low + high) / 2, (high - low) / 2

    def step(self, action):
        return super().step((np.asarray(action, np.float64) - self.middle) / self.half * 8)


gymnasium.register("distilrl/ScaledEnv-v0", entry_point=ScaledEnv, max_episode_steps=10)


def scaled_teacher(low, high):
    middle, half = (low + high) / 2, (high - low) / 2
    return Teacher.from_callable(
        lambda obs: middle + half * (obs @ torch.tensor([SLOPE]).T) / 8, kind="mean", name=f"{low} {high}"
    )


def env_of(low, high):
    return EnvRef("distilrl/ScaledEnv-v0", {"low": low, "high": high})


@pytest.mark.parametrize("recipe", ["distil", "cloning"])
@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_students_learn_actions_of_any_scale(low, high, recipe, tmp_path):
    short = tiny_config()
    parts = {"data": short.data, "stop": short.stop, "compute": short.compute, "network": "mlp:8"}
    config = make_config(recipe, env_of(low, high), **parts).but(env_steps=960, gap=-20.0, stakes_exponent=0.0)
    results = distill(scaled_teacher(low, high), Job(config, Comparison(100, 100, 0)), tmp_path / "run", report=False)
    assert results.student.score > 0.97
    assert results.agreement.dimensions[0].rms < 0.05


def test_a_plans_students_learn_actions_of_any_scale(tmp_path):
    low, high = BOUNDS[1]
    short = tiny_config()
    parts = {"data": short.data, "stop": short.stop, "compute": short.compute}
    config = make_config("distil", env_of(low, high), **parts).but(env_steps=960, gap=-20.0, stakes_exponent=0.0)
    job = Job(config, Comparison(100, 100, 0))
    teacher, out = scaled_teacher(low, high), tmp_path / "plan"
    results = plan(teacher, job, out, sizes=("mlp:8",), seeds=1, refine=False, report=False)
    assert results.frontier[0].best_score > 0.97


def test_actions_of_usual_bounds_keep_their_own_numbers():
    labels = torch.zeros(4, 1)
    for low, high in ((-1.0, 1.0), (-2.0, 2.0), (-10.0, 10.0), (-1.0, 3.0), (None, None)):
        assert head_for(Bounds((low,), (high,)), "mean").find_units(labels) is None
    units = head_for(Bounds((0.2, -1.0), (1.0, 1.0)), "mean").find_units(labels)
    torch.testing.assert_close(units.values(torch.tensor([0.5, 0.5])), torch.tensor([0.8, 0.5]))
    assert head_for(Bounds((-200.0,), (200.0,)), "mean", "tanh").find_units(labels) is None
    gaussian = head_for(Bounds((-200.0,), (200.0,)), "gaussian").find_units(torch.zeros(4, 2))
    torch.testing.assert_close(gaussian.matrix, torch.tensor([[200.0]]))


def begun_anew(recipe, env, teacher, initial=None, **changes):
    """A run of a student of the teacher's own widths, and its task, before the first update."""
    short = tiny_config()
    parts = {"data": short.data, "stop": short.stop, "compute": short.compute, "network": "mlp:8@relu"}
    return begun(make_config(recipe, env, **parts).but(**changes), teacher, initial)


def assert_starts_as(network, task, **close):
    """The student, in training and as it ships, gives a network's numbers."""
    obs = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    task.keep(0)
    with torch.no_grad():
        torch.testing.assert_close(task.pupil.student(obs), network(obs), **close)
        torch.testing.assert_close(task.best_network()(obs), network(obs), **close)


@pytest.mark.parametrize("recipe", ["distil", "policy_distillation"])
@pytest.mark.parametrize("limit", [None, 1e6])
def test_a_start_from_the_teacher_is_its_teacher_whatever_the_recipe(recipe, limit):
    """A temperature of the first term, which real actions have none of, made it a hundred times too large and shipped
    a hundredth of it; and a teacher whose numbers are held within limits gave no start at all.
    """
    network = build(NetworkSpec((2,), 1, hidden=(8,)), torch.Generator().manual_seed(0)).eval()
    env = env_of(-1.0, 1.0)
    limited = network if limit is None else Clamped(network, limit)
    teacher = Teacher(limited, "mean", "known", "memory", "0" * 64, obs_shape=(2,), outputs=1).fitted(describe_env(env))
    run, task = begun_anew(recipe, env, teacher, start="strongest", scale_head=True)
    assert_starts_as(network, task, rtol=1e-4, atol=1e-4)
    run.close()


@pytest.mark.parametrize("initial", [False, True])
def test_a_start_from_the_teacher_or_a_network_is_in_these_units_too(initial):
    low, high = BOUNDS[1]
    network = build(NetworkSpec((2,), 1, hidden=(8,)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.layers[-1].weight.mul_(100.0)
    info = describe_env(env_of(low, high))
    teacher = Teacher(network.eval(), "mean", "known", "memory", "0" * 64).fitted(info)
    start, given = ("new", network) if initial else ("strongest", None)
    run, task = begun_anew("distil", env_of(low, high), teacher, given, start=start)
    assert task.pupil.units is not None
    assert_starts_as(network, task, rtol=1e-3, atol=1e-2)
    run.close()

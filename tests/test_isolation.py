"""What a program has set of PyTorch, and what it goes on using, is neither changed nor decides anything."""

from operator import attrgetter

import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network
from tiny_envs import LINEAR, linear_teacher, tiny_config, tiny_job
from torch import nn

from distilrl.checkpoints import load_network, save_network
from distilrl.config import TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.errors import DistilError, SpecError
from distilrl.evaluate import play
from distilrl.export import verify
from distilrl.files import write_json
from distilrl.heads import student_head
from distilrl.inspection import inspect, inspect_play
from distilrl.isolation import PRECISE, isolated
from distilrl.networks import build
from distilrl.plan import plan
from distilrl.series import distill_chain, distill_seeds, reptile
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.sweep import sweep
from distilrl.teachers import Teacher, TeacherFile
from distilrl.teaching import evaluate_policy
from distilrl.train import train

SHORT = tiny_config(SIGN, env_steps=480, learning_starts=160, check_every=480)


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


SIGNS = make_teacher(sign_network()).fitted(describe_env(SIGN))


def trained():
    return weights(train(SHORT, SIGNS).network)


@pytest.fixture
def settings():
    """Every setting as it was, at the end."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def test_what_a_program_has_set_does_not_decide_what_a_student_becomes(settings):
    plain = trained()
    torch.set_default_dtype(torch.float64)
    double = trained()
    assert {tensor.dtype for tensor in double.values() if tensor.is_floating_point()} == {torch.float32}
    torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trained()
    with torch.inference_mode():
        inferred = trained()
    for other in (double, rounded, inferred):
        assert all(torch.equal(other[name], plain[name]) for name in plain)


def test_what_a_program_has_set_stays(settings, tmp_path):
    torch.set_num_threads(3)
    torch.manual_seed(5)
    torch.backends.cudnn.allow_tf32 = True
    expected = torch.rand(3)
    torch.manual_seed(5)
    teacher = make_teacher(sign_network())
    save_network(tmp_path / "sign", sign_network(), student_head(Choices((2,))), name="teacher")
    torch.manual_seed(5)
    distill(teacher, tiny_job(env_steps=480, check_every=480), tmp_path / "run", report=False)
    load_network(tmp_path / "run" / "student")
    evaluate_policy(tmp_path / "run", SIGN, episodes=2)
    of_file = tiny_job(
        env_steps=480, check_every=480, tasks=(TaskFile(EnvRef(SIGN), (TeacherFile(str(tmp_path / "sign")),)),)
    )
    write_json(tmp_path / "job.json", {"kind": "run", **of_file.to_json()})
    sweep(tmp_path / "job.json", tmp_path / "sweep")
    build(NetworkSpec((2,), 2, hidden=(3,)), torch.Generator().manual_seed(0))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 3
    assert torch.backends.cudnn.allow_tf32


def precisions():
    return [attrgetter(name)(torch.backends).fp32_precision for name in PRECISE]


@pytest.fixture
def precision():
    """Every precision as it was, at the end."""
    before, matmul, tf32 = precisions(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    together = torch.backends.fp32_precision
    yield
    torch.backends.fp32_precision = together
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
    for name, one in zip(PRECISE, before, strict=True):
        attrgetter(name)(torch.backends).fp32_precision = one


PROGRAMS = {
    "nothing": lambda: None,
    "older": lambda: torch.set_float32_matmul_precision("medium"),
    "newer": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="older than PyTorch 2.9")
@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_of_float32_whatever_a_program_has_set(precision, program):
    """After one of the newer names was set, the older ones cannot be read: nothing could be called at all."""
    PROGRAMS[program]()
    before = precisions()
    with isolated():
        assert set(precisions()) == {"ieee"}
        assert torch.get_float32_matmul_precision() == "highest" or program == "all"
        with isolated():
            assert set(precisions()) == {"ieee"}
    assert precisions() == before


def test_tensors_are_made_where_nobody_said_otherwise():
    torch.set_default_device("meta")
    try:
        with isolated():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_device(None)


def test_an_error_leaves_it_too(settings):
    torch.set_default_dtype(torch.float64)
    with pytest.raises(SpecError, match="no teacher"):
        distill(print, tiny_job(), "anywhere")
    assert torch.get_default_dtype() == torch.float64


def test_a_function_may_change_what_it_is_given():
    network = sign_network()

    def answers(obs):
        return network(obs - 1.0)

    def in_place(obs):
        obs += 1.0
        return answers(obs)

    kept, changed = (
        train(SHORT, Teacher.from_callable(one, name="sign").fitted(describe_env(SIGN))).network
        for one in (lambda obs: answers(obs + 1.0), in_place)
    )
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), changed.parameters(), strict=True))


def test_a_module_stays_its_owners():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).requires_grad_(False)
    teacher = Teacher.from_callable(module).to("meta")
    assert module.training
    assert module[0].weight.device.type == "cpu"
    assert next(teacher.network.parameters()).device.type == "meta"


def test_a_reference_keeps_what_it_was_made_with():
    given = {"gain": 1.0, "parts": [1]}
    ref = EnvRef("CartPole-v1", given)
    given["gain"] = 7.0
    given["parts"].append(2)
    assert ref.kwargs == {"gain": 1.0, "parts": [1]}


def test_a_reference_is_called_as_it_is_spelled():
    assert EnvRef("X-v0", {"map": "地图"}).label == 'X-v0 {"map": "地图"}'


def test_a_reference_takes_lists():
    wrapped = EnvRef("CartPole-v1", wrappers=["gymnasium.wrappers:FlattenObservation"])
    assert describe_env(wrapped).obs.shape == (4,)
    assert EnvRef("CartPole-v1", resize=[8, 8]).resize == (8, 8)


# -- arguments that mean nothing, each in one sentence that names it

WRONG = {
    "kwargs": lambda out: EnvRef("CartPole-v1", None),
    "wrappers": lambda out: EnvRef("CartPole-v1", wrappers="gymnasium.wrappers:FlattenObservation"),
    "resize": lambda out: EnvRef("CartPole-v1", resize=8),
    "height, width": lambda out: EnvRef("CartPole-v1", resize=(8,)),
    "seeds' must be a whole": lambda out: distill_seeds(SIGNS, tiny_job(), out, 2.5),
    "assistants' must be at least": lambda out: distill_chain(SIGNS, tiny_job(), out, -2),
    "assistants' must be a whole": lambda out: distill_chain(SIGNS, tiny_job(), out, 1.5),
    "rounds": lambda out: reptile(SHORT, [SIGN], SIGNS, rounds=0),
    "rate": lambda out: reptile(SHORT, [SIGN], SIGNS, rounds=2, rate=float("nan")),
    "seed": lambda out: reptile(SHORT, [SIGN], SIGNS, rounds=2, seed=-1),
    "list of environments": lambda out: reptile(SHORT, SIGN, SIGNS, rounds=2),
    "2 teachers": lambda out: reptile(SHORT, [SIGN], [SIGNS, SIGNS], rounds=2),
    "no other start": lambda out: reptile(SHORT.but(start="svd"), [SIGN], SIGNS, rounds=2),
    "two starts": lambda out: train(SHORT.but(start="strongest", network="mlp:4"), SIGNS, initial=sign_network()),
    "no teacher": lambda out: distill(print, tiny_job(), out),
    "episodes' must be a whole": lambda out: inspect_play(SIGNS, SIGN, episodes=2.5),
    "n_envs": lambda out: make_vec_env(SIGN, 2.0),
    "no Policy": lambda out: play(SIGNS, None, [1]),
    "none below 0": lambda out: play(SIGNS.policy, None, [-1]),
    "at least one": lambda out: play(SIGNS.policy, None, []),
    "episodes' must be at least": lambda out: verify(out, episodes=0),
}


@pytest.mark.parametrize("words", WRONG)
def test_an_argument_that_means_nothing_is_one_sentence(words, tmp_path):
    with pytest.raises(SpecError, match=words):
        WRONG[words](tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_may_stand_for_a_list_of_one(tmp_path):
    teacher, job = linear_teacher(), tiny_job(LINEAR, env_steps=480, check_every=480)
    assert [row.student for row in plan(teacher, job, tmp_path / "plan", sizes="mlp:", seeds=1).frontier] == ["mlp:"]
    with pytest.raises(SpecError, match="configuration of a plan"):
        sweep(str(tmp_path / "plan"), tmp_path / "sweep")


def test_files_are_read_wherever_a_teacher_is_asked_for(tmp_path):
    teacher = make_teacher(sign_network())
    job = tiny_job(env_steps=480, check_every=480)
    distill(teacher, job, tmp_path / "run", report=False)
    assert inspect(tmp_path / "run")["network"] == "mlp:8"
    assert inspect_play(tmp_path / "run", SIGN, episodes=5).episodes == 5
    start = reptile(SHORT, [SIGN], tmp_path / "run", rounds=1)
    assert np.isfinite(float(sum(p.sum() for p in start.parameters())))


def test_who_made_the_environment_by_a_function_is_told_to_give_it():
    with pytest.raises(DistilError, match="give the function that makes it"):
        describe_env("made_here")

"""Exports: every file answers as the student does, C is clean under the strictest flags, integers are exact."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network

from distilrl import export
from distilrl.checkpoints import read_json, save_network, write_json
from distilrl.cli import main
from distilrl.distill import Job, distill, make_config
from distilrl.errors import DistilError, ExtraError, FileError, SpecError
from distilrl.evaluate import Comparison
from distilrl.export import c, export_policy, int8, qat, verify, web
from distilrl.export import onnx as onnx_export
from distilrl.export.last import last_step, literal
from distilrl.export.replay import CFLAGS, file_policy, held, replayer
from distilrl.export.steps import steps
from distilrl.export.torch_export import Plain
from distilrl.heads import head_for
from distilrl.networks import Network, build
from distilrl.spaces import Bounds, Choices, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher, load_teacher

PIXELS = (4, 84, 84)
SHAPES = {
    "mlp:16,16": (5,),
    "mlp:": (5,),
    "mlp:7": (5,),
    "cnn:16,16,16:64": PIXELS,
    "cnn:8k8s4,8k4s2,8k3s2:32": PIXELS,
    "cnn:3k8s4,5k4s2:": PIXELS,
    "cnn:72:9": PIXELS,
    "cnn:4k3s2,3k3s1:8": (3, 20, 31),
}
"""Students, and what they read; the last one floats."""
ACTIONS = {
    "one": head_for(Choices((3,)), "q"),
    "one_from_two": head_for(Choices((3,), (2,)), "logits"),
    "several": head_for(Choices((3, 2, 4), (0, 5, -3), "MultiDiscrete", (3,)), "q"),
    "binary": head_for(Choices((2, 2), (), "MultiBinary", (2,)), "logits"),
    "squashed": head_for(Bounds((-1.0, -2.0, 0.0), (1.0, 2.0, 8.0)), "mean", "tanh"),
    "clipped": head_for(Bounds((-1.0, -0.4, 0.1), (1.0, 0.4, 0.5)), "mean"),
    "open": head_for(Bounds((None, -0.5, None), (None, None, 0.25)), "mean"),
}
"""Heads of every kind."""
ONE = ACTIONS["one"]
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def obs_spec(text):
    shape = SHAPES[text]
    if len(shape) == 1:
        return ObsSpec(shape)
    return ObsSpec(shape, shape, "uint8" if shape == PIXELS else "float32", frames=4 if shape == PIXELS else 1)


def student(text, activation="relu", head=ONE):
    shape = SHAPES[text]
    spec = replace(NetworkSpec.parse(text, shape, head.width), activation=activation)
    network = build(spec, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():  # biases too, so that a forgotten one shows
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    size = 1 if len(shape) == 3 else shape[0]
    mean, scale = (40.0, 0.02) if obs_spec(text).dtype == "uint8" else (0.3, 1.5)
    network.standardise(torch.full((size,), mean), torch.full((size,), scale))
    network.fold()
    return network.eval()


def observations(text, count=20):
    rng = np.random.default_rng(0)
    shape = (count, *SHAPES[text])
    if obs_spec(text).dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.normal(0, 2, shape).astype(np.float32)


def write_c(folder, source):
    for name, text in (("policy.h", source.header), ("policy.c", source.code), ("example.c", source.example)):
        (folder / name).write_text(text)
    return folder / "policy.c"


def in_c(text, network, head=ONE):
    return c.write(steps(network, "C"), head, obs_spec(text), "test")


def expected(network, obs):
    with torch.no_grad():
        return network(torch.from_numpy(obs)).numpy()


def expected_actions(head, values):
    return last_step(head).shifted(head.greedy(torch.from_numpy(values)).numpy())


def opened(path, text, head=ONE, **kwargs):
    return replayer(path, head, int(np.prod(SHAPES[text])), **kwargs)


def assert_same(head, actions, values):
    wanted = expected_actions(head, values)
    assert actions.dtype == wanted.dtype == head.action.numpy
    np.testing.assert_allclose(actions, wanted, rtol=1e-5, atol=1e-5)


def golden(folder, head, network, obs):
    last = last_step(head)
    actions = last.golden(expected_actions(head, expected(network, obs)))
    (folder / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in zip(actions, obs, strict=True)))


@needs_cc
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("text", SHAPES)
def test_c_is_the_student(tmp_path, text, native):
    network, obs = student(text), observations(text)
    answers = opened(write_c(tmp_path, in_c(text, network)), text, native=native)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-4, atol=1e-4)
    assert_same(ONE, answers.actions, answers.values)


@needs_cc
@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("text", ["mlp:16,16", "cnn:4k3s2,3k3s1:8"])
def test_c_gives_what_the_environment_takes(tmp_path, text, name):
    head = ACTIONS[name]
    network, obs = student(text, head=head), observations(text, 200)
    network.scale_head(6.0)  # far enough for the bounds to matter
    source = in_c(text, network, head)
    answers = opened(write_c(tmp_path, source), text, head)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-4, atol=1e-4)
    assert_same(head, answers.actions, expected(network, obs))
    assert held(answers, network, head, obs).alike
    golden(tmp_path, head, network, obs)
    subprocess.run(["cc", *CFLAGS, "example.c", "policy.c", "-o", "example"], cwd=tmp_path, check=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "200 of 200 actions as expected\n")
    again = np.frombuffer((tmp_path / "golden.bin").read_bytes(), np.uint8).copy()
    again[3] ^= 0x40  # the first action's sign or size
    (tmp_path / "golden.bin").write_bytes(again.tobytes())
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "199 of 200 actions as expected\n")


def test_the_header_says_what_goes_in_and_what_comes_out():
    def header(name, text="mlp:16,16"):
        return in_c(text, student(text, head=ACTIONS[name]), ACTIONS[name]).header

    assert "int policy_act(const float obs[5]);" in header("one")
    assert "The greedy action, 2 to 4." in header("one_from_two")
    assert "void policy_act(const float obs[5], int action[3]);" in header("several")
    assert "action[2] from -3 to 0" in header("several")
    assert "void policy_act(const float obs[5], float action[3]);" in header("squashed")
    assert "squashed by tanh into its bounds:\naction[0] from -1 to 1\naction[1] from -2 to 2\naction[2] from 0 to 8\n" in header("squashed")
    assert "action[0] without bounds\naction[1] from -0.5\naction[2] to 0.25\n" in header("open")
    assert "Reentrant" in header("one")
    assert "void policy_values(const obs_t *obs, float values[3]);" in header("squashed", "cnn:4k3s2,3k3s1:8")
    assert "Not reentrant" in header("one", "cnn:3k8s4,5k4s2:")
    assert "raw bytes, channels, rows and columns (4, 84, 84), 4 frames, the newest last" in header("one", "cnn:3k8s4,5k4s2:")


@needs_cc
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu"])
def test_c_knows_every_activation(tmp_path, activation):
    network, obs = student("mlp:16,16", activation), observations("mlp:16,16")
    answers = opened(write_c(tmp_path, in_c("mlp:16,16", network)), "mlp:16,16")(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=2e-6, atol=2e-6)


@needs_cc
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu"])
def test_our_mathematics_are_right_to_a_millionth(tmp_path, activation):
    """One unit that passes its input on shows the function itself."""
    network = Network(NetworkSpec((1,), 1, hidden=(1,), activation=activation))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 0.0)
    x = np.concatenate([np.linspace(-12, 12, 20001), [0.0, -1e-30, 1e-30, -100, 100, -1e30, 1e30]]).astype(np.float32)[:, None]
    source = c.write(steps(network, "C"), head_for(Choices((1,)), "q"), ObsSpec((1,)), "test")
    values = replayer(write_c(tmp_path, source), head_for(Choices((1,)), "q"), 1)(x).values
    np.testing.assert_allclose(values, expected(network, x), rtol=1e-6, atol=1e-6)


@needs_cc
@pytest.mark.parametrize("flags", [[], ["-mavx"], ["-DPLAIN"]])
@pytest.mark.parametrize(
    ("text", "name"),
    [("mlp:7", "one"), ("mlp:16,16", "squashed"), ("cnn:3k8s4,5k4s2:", "several"), ("cnn:8k8s4,8k4s2,8k3s2:32", "open")],
)
def test_c_is_clean_under_the_sanitizers(tmp_path, text, name, flags):
    head = ACTIONS[name]
    network, obs = student(text, "silu", head), observations(text, 3)
    source = in_c(text, network, head)
    write_c(tmp_path, source)
    if flags == ["-DPLAIN"]:
        (tmp_path / "policy.c").write_text(
            source.code.replace("#define LANES 8", "#define LANES 1").replace("#define LANES 4", "#define LANES 1")
        )
    if flags == ["-mavx"] and "avx" not in open("/proc/cpuinfo").read():  # noqa: PTH123, SIM115
        pytest.skip("this machine has no AVX")
    golden(tmp_path, head, network, obs)
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    command = ["cc", *CFLAGS, *flags, *sanitize, "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 of 3 actions as expected\n"), done.stderr


@needs_cc
def test_numbers_that_are_none_do_no_harm(tmp_path):
    """NaN and infinity in an observation are the caller's fault, and no undefined behaviour of ours."""
    head = ACTIONS["squashed"]
    write_c(tmp_path, in_c("mlp:16,16", student("mlp:16,16", "elu", head), head))
    obs = np.full((3, 5), [[np.nan], [np.inf], [-np.inf]], np.float32)
    (tmp_path / "golden.bin").write_bytes(b"".join(np.zeros(3, "<f4").tobytes() + o.tobytes() for o in obs))
    command = ["cc", *CFLAGS, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@needs_cc
@pytest.mark.parametrize(("text", "name"), [("cnn:16,16,16:64", "one"), ("mlp:16,16", "squashed")])
def test_c_takes_no_memory_of_its_own(tmp_path, text, name):
    source = in_c(text, student(text, "tanh", ACTIONS[name]), ACTIONS[name])
    path = write_c(tmp_path, source)
    subprocess.run(["cc", *CFLAGS, "-c", str(path), "-o", str(tmp_path / "policy.o")], check=True)
    symbols = subprocess.run(["nm", "-S", str(tmp_path / "policy.o")], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in symbols.splitlines()]
    assert {r[-1] for r in rows if r[-2] == "U"} <= {"memset", "memcpy", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}, "no library is needed"
    assert sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "bB") == source.scratch_bytes
    constant = sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "rR")
    assert constant <= source.weight_bytes + 8 * 3
    assert constant > 0.99 * source.weight_bytes or text == "mlp:16,16"  # small ones become part of the code


def test_literals_read_back_to_the_same_floats():
    values = np.random.default_rng(0).normal(0, 1e-3, 1000).astype(np.float32)
    values = np.concatenate([values, np.float32([0.0, -0.0, 1e-42, 3.4e38, -1.0])])
    assert (np.array([float(literal(float(v))[:-1]) for v in values], np.float32) == values).all()


@pytest.mark.parametrize("text", [*SHAPES, "resnet:4,8:16"])
def test_onnx_is_the_student(tmp_path, text, monkeypatch):
    monkeypatch.setitem(SHAPES, "resnet:4,8:16", PIXELS)
    network, obs = student(text, "silu" if text == "mlp:16,16" else "relu"), observations(text)
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write(network, ONE, obs_spec(text), {"env": "x"}))
    answers = opened(tmp_path / "policy.onnx", text)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)
    assert_same(ONE, answers.actions, answers.values)
    teacher = load_teacher(tmp_path / "policy.onnx")  # our own exports are teachers again
    with torch.no_grad():
        np.testing.assert_allclose(teacher.network(torch.from_numpy(obs)).numpy(), answers.values, rtol=1e-5, atol=1e-5)
    model = onnx.load(str(tmp_path / "policy.onnx"))
    assert [i.name for i in model.graph.input] == ["obs"]
    assert [o.name for o in model.graph.output] == ["action_values", "action"]
    assert {p.key: p.value for p in model.metadata_props} == {"env": "x"}


def write_torch(path, network, head, obs):
    program = torch.export.export(Plain(network, head), (torch.from_numpy(obs[:2]),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ACTIONS)
def test_graphs_give_what_the_environment_takes(tmp_path, name, kind):
    head, text = ACTIONS[name], "mlp:16,16"
    network, obs = student(text, head=head), observations(text, 50)
    network.scale_head(6.0)
    path = tmp_path / f"policy.{kind}"
    if kind == "onnx":
        path.write_bytes(onnx_export.write(network, head, obs_spec(text), {}))
        outputs = onnx.load(str(path)).graph.output
        assert [o.name for o in outputs] == [last_step(head).numbers_name, "action"]
        shape = [d.dim_value or d.dim_param for d in outputs[1].type.tensor_type.shape.dim]
        assert shape == (["batch"] if head.action.size == 1 else ["batch", head.action.size])
    else:
        write_torch(path, network, head, obs)
    answers = opened(path, text, head)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)
    assert_same(head, answers.actions, expected(network, obs))
    assert held(answers, network, head, obs).alike


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_graphs_read_an_image_beside_a_vector(tmp_path, kind):
    head, image = ACTIONS["squashed"], (2, 12, 12)
    spec = NetworkSpec.parse("cnn:4k3s2,3k3s1:8", (5 + 288,), 3, image)
    network = build(spec, torch.Generator().manual_seed(0)).eval()
    obs = np.random.default_rng(0).normal(0, 1, (7, 293)).astype(np.float32)
    network.standardise(torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6))
    network.fold()
    path = tmp_path / f"policy.{kind}"
    if kind == "onnx":
        path.write_bytes(onnx_export.write(network, head, ObsSpec((293,), image), {}))
    else:
        write_torch(path, network, head, obs)
    answers = replayer(path, head, 293)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)
    for target in ("C", "integers"):
        with pytest.raises(SpecError, match="an image beside a vector"):
            steps(network, target)


@needs_cc
@pytest.mark.parametrize("name", ACTIONS)
def test_a_file_is_a_policy(tmp_path, name):
    head, text = ACTIONS[name], "mlp:16,16"
    network, obs = student(text, head=head), observations(text, 50)
    policy = file_policy(opened(write_c(tmp_path, in_c(text, network, head)), text, head), head)
    actions, state = policy.act(torch.from_numpy(obs))
    assert state == ()
    np.testing.assert_allclose(actions, head.greedy(torch.from_numpy(expected(network, obs))), rtol=1e-5, atol=1e-5)


@needs_cc
@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("name", ["one", "several", "squashed", "open"])
def test_integers_are_modelled_to_the_bit(tmp_path, text, name):
    if text.startswith("cnn") and name in ("several", "open"):
        pytest.skip("the last step reads the same numbers")
    head = ACTIONS[name]
    network, obs = student(text, head=head), observations(text, 200 if text.startswith("mlp") else 20)
    quantised = int8.quantise(steps(network, "integers"), obs)
    answers = opened(write_c(tmp_path, int8.write(quantised, head, obs_spec(text), "test")), text, head)(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    if name != "several" and name != "one":
        assert_same(head, answers.actions, quantised.values(obs))
    real = expected(network, obs)
    assert np.abs(quantised.values(obs) - real).max() < 0.1 * np.abs(real - real.mean(1, keepdims=True)).max() + 0.1
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write_int8(quantised, head, obs_spec(text), {}))
    graph = opened(tmp_path / "policy.onnx", text, head)(obs)
    assert np.abs(graph.values - quantised.values(obs)).max() < 0.05 * np.abs(real).max()
    assert held(answers, network, head, obs).distance < 0.1


@needs_cc
@pytest.mark.parametrize("part", ["channel", "layer"])
def test_what_is_dead_on_the_calibration_states_does_not_overflow(tmp_path, part):
    network, obs = student("mlp:16,16"), observations("mlp:16,16", 100)
    with torch.no_grad():
        if part == "channel":  # no weights, only a bias
            network.layers[0].weight[3] = 0.0
            network.layers[0].bias[3] = 1.0
        else:
            network.layers[2].bias.fill_(-1e3)
    quantised = int8.quantise(steps(network, "integers"), obs)
    for one in quantised.steps:
        assert np.abs(one.bias).max() <= int8.BIAS_LIMIT
        assert 1 <= one.shift <= 62
    answers = opened(write_c(tmp_path, int8.write(quantised, ONE, ObsSpec((5,)), "test")), "mlp:16,16")(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    assert np.abs(answers.values - expected(network, obs)).max() < 0.1


def test_a_weight_takes_a_byte_and_a_unit_six_or_eight_more():
    network = build(NetworkSpec.parse("cnn:4k6s4,4k4s2,6k3s2:8", PIXELS, 6), torch.Generator().manual_seed(0)).eval()
    obs = np.random.default_rng(0).integers(0, 256, (4, *PIXELS), dtype=np.uint8)
    quantised = int8.quantise(steps(network, "integers"), obs)
    source = int8.write(quantised, head_for(Choices((6,)), "q"), ObsSpec(PIXELS, PIXELS, "uint8"), "test")
    assert source.weight_bytes == 1864 + 6 * 22 + 8 * 6 == 2044


@needs_cc
@pytest.mark.parametrize("name", ["one", "squashed"])
def test_integers_are_clean_under_the_sanitizers(tmp_path, name):
    head = ACTIONS[name]
    for text in ("mlp:7", "cnn:3k8s4,5k4s2:", "cnn:4k3s2,3k3s1:8"):
        obs = observations(text, 10)
        extreme = obs * 0 + (255 if obs.dtype == np.uint8 else np.float32(1e30))
        quantised = int8.quantise(steps(student(text, head=head), "integers"), obs)
        write_c(tmp_path, int8.write(quantised, head, obs_spec(text), "test"))
        rows = np.concatenate([obs, extreme])
        actions = last_step(head).golden(expected_actions(head, quantised.values(rows)))
        (tmp_path / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in zip(actions, rows, strict=True)))
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        subprocess.run(["cc", *CFLAGS, *sanitize, "example.c", "policy.c", "-o", "example"], cwd=tmp_path, check=True)
        done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_cannot_be_written_gets_one_sentence():
    network = build(NetworkSpec.parse("resnet:4:8", PIXELS, 3))
    with pytest.raises(SpecError, match="residual"):
        steps(network, "C")
    with pytest.raises(SpecError, match="ReLU"):
        int8.quantise(steps(student("mlp:16,16", "tanh"), "integers"), observations("mlp:16,16"))
    with pytest.raises(SpecError, match="dense layers that reads images"):
        steps(Network(NetworkSpec((1, 3, 3), 2)), "C")
    with pytest.raises(SpecError, match="'gaussian' is not exported"):
        last_step(head_for(Bounds((-1.0,), (1.0,)), "gaussian"))


@needs_cc
@pytest.mark.parametrize("name", ["several", "squashed", "open"])
def test_a_file_that_answers_otherwise_is_told_apart(tmp_path, name):
    head, text = ACTIONS[name], "mlp:16,16"
    network, obs = student(text, head=head), observations(text, 100)
    answers = opened(write_c(tmp_path, in_c(text, network, head)), text, head)(obs)
    assert held(answers, network, head, obs).alike
    moved = answers.actions.copy()
    moved[3, 1] += 1 if name == "several" else 1e-3
    wrong = replace(answers, actions=moved)
    assert not held(wrong, network, head, obs).alike
    assert not held(wrong, network, head, obs).consistent
    values = answers.values.copy()
    values[:, 0] += 1e-3
    assert not held(replace(answers, values=values), network, head, obs).alike


# -- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    config = make_config("distil", SIGN, student="mlp:8", env_steps=6000, check_every=2000)
    distill(make_teacher(sign_network()), Job(config, Comparison(20, 20, 0), accept_episodes=10), folder)
    return folder


@needs_cc
@pytest.mark.parametrize("target", ["onnx", "c", "int8", "torch"])
def test_every_target_from_the_command_line(run, tmp_path, capsys, target):
    out = tmp_path / target
    assert main(["export", str(run), "--to", target, "--out", str(out)]) in (0, 1)
    assert capsys.readouterr().out.strip() == str(out)
    card = read_json(out / "export.json")
    assert all(facts["observations"] >= 1000 for facts in card["replay"].values())
    if target != "int8":
        assert all(facts["same_action"] == 1.0 and facts["largest_difference"] <= 1e-5 for facts in card["replay"].values())
    assert main(["verify", str(out), "--json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 20
    assert result["return_mean"] > 9.0
    assert result["verdict"]["result"] in ("pass", "inconclusive")
    if target != "int8":
        assert result["against_student"] == {"difference": 0.0, "difference_ci95": [0.0, 0.0]}
    golden = np.load(out / "golden.npz")
    assert len(golden["obs"]) == len(golden["action"]) == 64
    if (out / "example.py").exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = subprocess.run([sys.executable, "example.py"], cwd=out, capture_output=True, text=True, check=True)
        assert "100.0% of 64" in done.stdout or target == "int8"
    if (out / "example.c").exists():
        subprocess.run(["cc", "-O3", "-std=c99", "example.c", "policy.c", "-lm", "-o", "example"], cwd=out, check=True)
        assert subprocess.run(["./example", "golden.bin"], cwd=out, check=False).returncode == 0


@needs_cc
def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    honest = c.write
    monkeypatch.setattr(
        c, "write", lambda s, comment: honest([*s[:-1], type(s[-1])(-s[-1].weight, *list(vars(s[-1]).values())[1:])], comment)
    )
    with pytest.raises(FileError, match="not kept"):
        export_policy(run, "c", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileError, match="compiler"):
        export_policy(run, "c", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_or_no_export_is_refused(tmp_path):
    for call in (lambda: export_policy(tmp_path, "onnx"), lambda: verify(tmp_path)):
        with pytest.raises(DistilError):
            call()
    save_network(tmp_path / "student", sign_network(), env=SIGN)
    write_json(tmp_path / "export.json", {"files": {"policy.txt": 1}, "obs_shape": [2], "n_actions": 2, "env": SIGN})
    with pytest.raises(FileError, match="no exported policy"):
        verify(tmp_path)


@pytest.fixture
def bare(tmp_path):
    """A run folder with nothing but a student."""
    save_network(tmp_path / "run" / "student", sign_network(), env=SIGN)
    return tmp_path / "run"


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"thesis.tex": "years of work"}, "is not an export"),
        ({"thesis.tex": "years of work", "export.json": '{"format": "another"}'}, "is not an export"),
        ({"thesis.tex": "years of work", "export.json": "{"}, "is not an export"),
        ({"thesis.tex": "years of work", "export.json": '{"format": "distilrl-export"}'}, "holds 'thesis.tex'"),
        ({"export.json/note": "a folder"}, "is not an export"),
    ],
)
def test_an_export_deletes_nothing_of_the_users(bare, tmp_path, capsys, files, message):
    for name, text in files.items():
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text(text)
    before = everything(tmp_path)
    assert main(["export", str(bare), "--to", "onnx", "--out", str(tmp_path / "home")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert everything(tmp_path) == before


def test_an_export_touches_nothing_beside_its_place(bare, tmp_path):
    for name in ("out.part", "out.tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    (tmp_path / "out").mkdir()  # an empty folder is no loss
    before = everything(tmp_path)
    export_policy(bare, "onnx", tmp_path / "out")
    after = everything(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith("out/")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.part", "out.tuned", "run"]
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "run").stat().st_mode, "not private to this user"


def test_an_export_follows_no_link(bare, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("a file")
    for out, message in (("link", "symbolic link"), ("file", "is not an export")):
        with pytest.raises(FileError, match=message):
            export_policy(bare, "onnx", tmp_path / out)
    (bare / "export").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="export is a symbolic link"):
        export_policy(bare, "onnx")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_export_replaces_an_earlier_one_or_leaves_it(bare, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_policy(bare, "onnx", out)
    first = everything(out)
    rename = Path.rename

    def failing(path, target):
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(FileError, match="No space left"):
        export_policy(bare, "torch", out)
    monkeypatch.undo()
    monkeypatch.setattr(export, "_golden", lambda *_a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_policy(bare, "torch", out)
    monkeypatch.undo()
    assert everything(out) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    export_policy(bare, "torch", out)
    assert sorted(everything(out)) == ["example.py", "export.json", "golden.npz", "policy.pt2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_the_student_of_an_unfinished_run_is_exported_without_a_verdict(tmp_path):
    save_network(tmp_path / "student", sign_network(), env=SIGN)
    export_policy(tmp_path, "onnx")
    result = verify(tmp_path / "export" / "onnx", episodes=10)
    assert (result["verdict"], result["return_mean"]) == (None, 10.0)
    assert ctypes.sizeof(ctypes.c_float) == 4


def needs(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)} (apt install clang lld chromium gcc-arm-none-eabi)")


def cartpole_run(folder):
    """A run folder whose student balances CartPole by a linear rule."""
    network = Network(NetworkSpec((4,), 2, hidden=(2,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight.copy_(torch.tensor([[0.1, 0.3, 1.0, 1.0], [-0.1, -0.3, -1.0, -1.0]]))
        network.layers[2].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    save_network(folder / "student", network, env="CartPole-v1", recipe="test")
    return folder


@needs("clang", "wasm-ld")
def test_a_page_holds_the_student(tmp_path):
    card = export_policy(cartpole_run(tmp_path / "run"), "web")
    page = (Path(card["path"]) / "index.html").read_text(encoding="utf-8")
    assert "__DATA__" not in page
    assert not re.search(r'(src|href)="', page), "the page must open offline"
    tanh = build(NetworkSpec((4,), 2, hidden=(2,), activation="tanh"), torch.Generator().manual_seed(0))
    save_network(tmp_path / "tanh" / "student", tanh, env="CartPole-v1", recipe="test")
    with pytest.raises(SpecError, match="mathematics library"):
        export_policy(tmp_path / "tanh", "web")
    assert not (tmp_path / "tanh" / "export").exists() or not any((tmp_path / "tanh" / "export").iterdir())


@needs("clang", "wasm-ld", "chromium")
def test_the_page_plays_in_a_browser(tmp_path):
    page = Path(export_policy(cartpole_run(tmp_path / "run"), "web")["path"]) / "index.html"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    shown = subprocess.run(["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-same="64"' in shown
    assert float(re.search(r'data-mean="([\d.]+)"', shown)[1]) > 450


@needs("arm-none-eabi-gcc")
@pytest.mark.parametrize("target", ["c", "int8"])
def test_c_compiles_for_a_microcontroller(tmp_path, target):
    folder = Path(export_policy(cartpole_run(tmp_path / "run"), target)["path"])
    flags = ["-mcpu=cortex-m4", "-mthumb", "-std=c99", "-Os", "-Wall", "-Wextra", "-Werror", "-c", "policy.c", "-o", "policy.o"]
    subprocess.run(["arm-none-eabi-gcc", *flags], cwd=folder, check=True)


def test_a_page_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("distilrl.export.web.shutil.which", lambda _name: None)
    with pytest.raises(FileError, match="clang and wasm-ld"):
        export_policy(cartpole_run(tmp_path / "run"), "web")


def test_litert_answers_as_the_student_or_names_its_extra(tmp_path, monkeypatch):
    try:
        import litert_torch  # noqa: F401
    except ImportError:
        with pytest.raises(ExtraError, match=r"distilrl\[litert\]"):
            export_policy(cartpole_run(tmp_path / "run"), "tflite")
        return
    card = export_policy(cartpole_run(tmp_path / "run"), "tflite")
    assert card["replay"]["policy.tflite"]["same_action"] == 1.0


def coarse_network():
    """A student whose eight bits are too few: in each layer one weight is so large that the others round to nothing."""
    network = build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.layers[0].weight[0] = torch.tensor([0.01, 3.0])
        network.layers[0].weight[1] = torch.tensor([-0.01, 3.0])
        network.layers[2].weight.zero_()
        network.layers[2].weight[1, 0], network.layers[2].weight[0, 1] = 100.0, 100.0
    return network


def test_rounding_in_training_is_rounding_in_integers():
    obs = torch.randn(200, 2) * 3
    network = build(NetworkSpec((2,), 3, hidden=(8, 8)), torch.Generator().manual_seed(0))
    student = int8.quantise(steps(network, "integers"), obs.numpy())
    gain = torch.from_numpy(int8.INPUT_LIMIT / np.abs(obs.numpy()).max(0)).float()
    values = qat.rounded(network, obs, gain, student.activation_scales).detach().numpy()
    np.testing.assert_allclose(values, student.values(obs.numpy()), atol=0.02 * np.abs(values).max())


def test_a_student_that_integers_break_learns_to_live_with_them():
    obs = np.random.default_rng(0).normal(0, 1, (500, 2)).astype(np.float32) * np.array([1, 5], np.float32) + np.array([0, 3], np.float32)
    right = obs[:, 0] > 0

    def in_integers(network):
        return float((int8.quantise(steps(network, "integers"), obs).values(obs).argmax(1) == right).mean())

    before = coarse_network()
    after = qat.fine_tune(before, sign_network(), obs, 0.2)
    assert in_integers(after) > in_integers(before) + 0.1


@needs_cc
def test_integers_cut_activations_off_where_they_play_best(monkeypatch):
    network, obs = student("mlp:16,16"), observations("mlp:16,16", 300)
    means = iter([1.0, 3.0, 2.0, 3.0])
    monkeypatch.setattr("distilrl.export.play", lambda *_a, **_k: SimpleNamespace(returns=np.array([next(means)])))
    chosen = export._integers(network, obs, {"env": "any", "n_actions": 3})
    expected_scales = [
        int8.quantise(steps(network, "integers"), obs, percentile=percentile).activation_scales for percentile in int8.PERCENTILES
    ]
    assert chosen.activation_scales == expected_scales[1]
    assert expected_scales[1] not in (expected_scales[0], expected_scales[2])


@needs_cc
def test_fine_tuned_integers_take_the_place_of_failed_ones(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    save_network(tmp_path / "teacher", sign_network(), name="teacher")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["teacher"] = [{"path": str(tmp_path / "teacher")}]
    write_json(tmp_path / "run" / "config.json", config)
    results = iter(["fail", "fail", "pass", "pass"])

    def verified(*_a, **_k):
        return {"verdict": {"result": next(results)}, "against_student": {"difference_ci95": [0.0, 0.0]}, "return_mean": 10.0}

    monkeypatch.setattr("distilrl.export.verify", verified)
    card = export_policy(tmp_path / "run", "int8")
    assert card["fine_tuned"] is True
    assert read_json(tmp_path / "run" / "export" / "int8" / "export.json")["fine_tuned"] is True
    assert [path.name for path in (tmp_path / "run" / "export").iterdir()] == ["int8"]
    shutil.rmtree(tmp_path / "teacher")
    results = iter(["fail", "fail"])
    assert "fine_tuned" not in export_policy(tmp_path / "run", "int8")


@needs_cc
@pytest.mark.parametrize(("after", "better"), [(-0.5, True), (-1.5, False)])
def test_integers_that_pass_but_return_less_than_their_floats_are_fine_tuned_too(run, tmp_path, monkeypatch, after, better):
    shutil.copytree(run, tmp_path / "run")
    save_network(tmp_path / "teacher", sign_network(), name="teacher")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["teacher"] = [{"path": str(tmp_path / "teacher")}]
    write_json(tmp_path / "run" / "config.json", config)
    means = iter([-1.0, -1.0, after, after])

    def verified(*_a, **_k):
        mean = next(means)
        return {"verdict": {"result": "pass"}, "against_student": {"difference_ci95": [mean, mean]}, "return_mean": 10 + mean}

    monkeypatch.setattr("distilrl.export.verify", verified)
    card = export_policy(tmp_path / "run", "int8")
    assert card.get("fine_tuned", False) is better
    assert card["played"]["policy.c"]["return_mean"] == (9.5 if better else 9.0)

"""Exports: every file answers as the student does, C is clean under the strictest flags, integers are exact."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import onnx
import pytest
import torch

from distilrl.errors import FileError, SpecError
from distilrl.export import c, int8, int8_c, int8_layers
from distilrl.export import onnx as onnx_export
from distilrl.export.last import last_step, literal
from distilrl.export.replay import CFLAGS, Answers, Recording, file_policy, held, open_export
from distilrl.export.steps import steps
from distilrl.export.torch_export import Plain
from distilrl.heads import head_for
from distilrl.networks import Network, build
from distilrl.policies import Policy
from distilrl.spaces import Bounds, Choices, ObsSpec, read_observations
from distilrl.specs import ACTIVATIONS, NetworkSpec
from distilrl.teachers import TeacherFile, load_teacher

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
STRICT = (*CFLAGS, "-Werror")
SANITIZED = (*STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
"""Hardly optimised, which takes half the time; the same text is built as it ships beside."""
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
    return c.write(steps(network, "c"), head, obs_spec(text), "test")


def expected(network, obs):
    with torch.no_grad():
        return network(torch.from_numpy(obs)).numpy()


def expected_actions(head, values):
    return last_step(head).shifted(head.greedy(torch.from_numpy(values)).numpy())


def opened(path, text, head=ONE, **kwargs):
    return open_export(path, head, int(np.prod(SHAPES[text])), **kwargs)


def assert_same(head, actions, values):
    wanted = expected_actions(head, values)
    assert actions.dtype == wanted.dtype == head.action.numpy
    np.testing.assert_allclose(actions, wanted, rtol=1e-5, atol=1e-5)


def golden(folder, head, values, obs):
    last = last_step(head)
    actions = last.golden(expected_actions(head, values))
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
    assert held(answers, torch.from_numpy(expected(network, obs)), head).alike
    golden(tmp_path, head, expected(network, obs), obs)
    subprocess.run(["cc", *STRICT, "example.c", "policy.c", "-o", "example"], cwd=tmp_path, check=True)
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
    assert "one observation (raw numbers)." in header("one")
    named = ObsSpec((5,), names=("arm.angle[0]", "arm.angle[1]", "gear[0]", "gear[1]", "*/[0]"))
    last = last_step(ONE)
    assert (
        "(raw numbers, flattened: arm.angle at 0, gear at 2, __ at 4)." in c.source(named, last, "", "", 0, 0, 3).header
    )
    assert "void policy_act(const float obs[5], float action[3]);" in header("squashed")
    assert (
        "squashed by tanh into its bounds:\naction[0] from -1 to 1\naction[1] from -2 to 2\naction[2] from 0 to 8\n"
        in header("squashed")
    )
    assert "action[0] without bounds\naction[1] from -0.5\naction[2] to 0.25\n" in header("open")
    assert "Reentrant" in header("one")
    assert "void policy_values(const obs_t *obs, float values[3]);" in header("squashed", "cnn:4k3s2,3k3s1:8")
    assert "Not reentrant" in header("one", "cnn:3k8s4,5k4s2:")
    assert "raw bytes, channels, rows and columns (4, 84, 84), 4 frames, the newest last" in header(
        "one", "cnn:3k8s4,5k4s2:"
    )


@needs_cc
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu", "gelu", "leaky_relu"])
def test_c_knows_every_activation(tmp_path, activation):
    network, obs = student("mlp:16,16", activation), observations("mlp:16,16")
    answers = opened(write_c(tmp_path, in_c("mlp:16,16", network)), "mlp:16,16")(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=2e-6, atol=2e-6)


@needs_cc
def test_c_that_compiles_and_cannot_be_loaded_says_so(tmp_path, monkeypatch):
    """For another machine, or into a folder from which nothing may run."""
    fake = tmp_path / "cc"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CC", raising=False)
    network = student("mlp:16,16")
    with pytest.raises(FileError, match=r"policy.c compiles here but cannot be loaded \(.*\): set TMPDIR"):
        opened(write_c(tmp_path, in_c("mlp:16,16", network)), "mlp:16,16")


@needs_cc
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu", "gelu", "leaky_relu"])
def test_our_mathematics_are_right_to_a_millionth(tmp_path, activation):
    """One unit that passes its input on shows the function itself."""
    network = Network(NetworkSpec((1,), 1, hidden=(1,), activation=activation))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 0.0)
    far = [0.0, -1e-30, 1e-30, -100, 100, -1e30, 1e30, -1e38, 1e38, np.inf]
    x = np.concatenate([np.linspace(-12, 12, 20001), far]).astype(np.float32)[:, None]
    source = c.write(steps(network, "c"), head_for(Choices((1,)), "q"), ObsSpec((1,)), "test")
    values = open_export(write_c(tmp_path, source), head_for(Choices((1,)), "q"), 1)(x).values
    wanted = expected(network, x)
    wanted[np.isinf(x)] = 1.0 if activation == "tanh" else np.inf  # PyTorch's GELU of infinity is NaN with oneDNN
    np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-6)


@needs_cc
@pytest.mark.parametrize("flags", [[], ["-mavx"], ["-DPLAIN"]])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mlp:7", "one"),
        ("mlp:16,16", "squashed"),
        ("cnn:3k8s4,5k4s2:", "several"),
        ("cnn:8k8s4,8k4s2,8k3s2:32", "open"),
    ],
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
    golden(tmp_path, head, expected(network, obs), obs)
    command = ["cc", *SANITIZED, *flags, "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 of 3 actions as expected\n"), done.stderr


@needs_cc
@pytest.mark.parametrize("text", ["mlp:1", "mlp:6", "mlp:9", "mlp:18", "mlp:35", "cnn:5k3s2,13k3s1:7"])
def test_vectors_and_registers_give_the_same_bits(tmp_path, monkeypatch, text):
    monkeypatch.setitem(SHAPES, text, (3, 20, 31) if text.startswith("cnn") else (5,))
    source, obs, bits = in_c(text, student(text)), observations(text), []
    for flags in ([], ["-mavx"], ["-DLANES_OF_ONE"]):
        if flags == ["-mavx"] and "avx" not in Path("/proc/cpuinfo").read_text():
            continue
        plain = "#undef __AVX__\n#undef __SSE__\n#undef __ARM_NEON\n" if flags == ["-DLANES_OF_ONE"] else ""
        monkeypatch.setattr("distilrl.export.replay.CFLAGS", (*CFLAGS, *flags))
        path = write_c(tmp_path, replace(source, code=plain + source.code))
        bits.append(opened(path, text)(obs).values.tobytes())
    assert len(set(bits)) == 1
    assert len(bits) >= 2


@needs_cc
def test_numbers_that_are_none_do_no_harm(tmp_path):
    """NaN and infinity in an observation are the caller's fault, and no undefined behaviour of ours."""
    head = ACTIONS["squashed"]
    write_c(tmp_path, in_c("mlp:16,16", student("mlp:16,16", "elu", head), head))
    obs = np.full((3, 5), [[np.nan], [np.inf], [-np.inf]], np.float32)
    (tmp_path / "golden.bin").write_bytes(b"".join(np.zeros(3, "<f4").tobytes() + o.tobytes() for o in obs))
    command = [
        "cc",
        *STRICT,
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "example.c",
        "policy.c",
        "-o",
        "example",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@needs_cc
@pytest.mark.parametrize(("text", "name"), [("cnn:16,16,16:64", "one"), ("mlp:16,16", "squashed")])
def test_c_takes_no_memory_of_its_own(tmp_path, text, name):
    source = in_c(text, student(text, "tanh", ACTIONS[name]), ACTIONS[name])
    path = write_c(tmp_path, source)
    subprocess.run(["cc", *STRICT, "-c", str(path), "-o", str(tmp_path / "policy.o")], check=True)
    symbols = subprocess.run(
        ["nm", "-S", str(tmp_path / "policy.o")], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in symbols.splitlines()]
    of_compilers = {"memset", "memcpy", "memmove", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    assert {r[-1] for r in rows if r[-2] == "U"} <= of_compilers, "no library is needed"
    assert sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "bB") == source.scratch_bytes
    constant = sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "rR")
    assert constant <= source.weight_bytes + 8 * 3
    assert constant > 0.99 * source.weight_bytes or text == "mlp:16,16"  # small ones become part of the code


def test_literals_read_back_to_the_same_floats():
    values = np.random.default_rng(0).normal(0, 1e-3, 1000).astype(np.float32)
    values = np.concatenate([values, np.float32([0.0, -0.0, 1e-42, 3.4e38, -1.0])])
    assert (np.array([float(literal(float(v))[:-1]) for v in values], np.float32) == values).all()


@pytest.mark.parametrize(
    ("text", "activation"),
    [
        *((text, "relu") for text in (*SHAPES, "resnet:4,8:16")),
        *(("mlp:16,16", other) for other in list(ACTIVATIONS)[1:]),
    ],
)
def test_onnx_is_the_student(tmp_path, text, activation, monkeypatch):
    monkeypatch.setitem(SHAPES, "resnet:4,8:16", PIXELS)
    network, obs = student(text, activation), observations(text)
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write(network, ONE, obs_spec(text), {"env": "x"}))
    answers = opened(tmp_path / "policy.onnx", text)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)
    assert_same(ONE, answers.actions, answers.values)
    divisor = 1.0 if obs_spec(text).pixels and obs_spec(text).dtype == "float32" else None
    teacher = load_teacher(
        TeacherFile(str(tmp_path / "policy.onnx"), divisor=divisor)
    )  # our own exports are teachers again
    with torch.no_grad():
        np.testing.assert_allclose(teacher.network(torch.from_numpy(obs)).numpy(), answers.values, rtol=1e-5, atol=1e-5)
    model = onnx.load(str(tmp_path / "policy.onnx"))
    assert [i.name for i in model.graph.input] == ["obs"]
    assert [o.name for o in model.graph.output] == ["action_values", "action"]
    assert {p.key: p.value for p in model.metadata_props} == {"env": "x"}


def write_torch(path, network, head, obs):
    program = torch.export.export(
        Plain(network, head), (torch.from_numpy(obs[:2]),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
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
    assert held(answers, torch.from_numpy(expected(network, obs)), head).alike


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
    answers = open_export(path, head, 293)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)


BESIDE = {"cnn:4k3s2,3k3s1:8": (), "cnn:4k3s2:": (1, 3), "cnn:4k3s2:8+gru:5": (), "cnn:3k4s3:+lstm:4": (0, 2)}
"""Students of five numbers and an image, and what each does not see of the numbers."""


@needs_cc
@pytest.mark.parametrize(("text", "unseen"), BESIDE.items())
def test_c_reads_an_image_beside_a_vector(tmp_path, text, unseen):
    head, image = ACTIONS["squashed"], (2, 9, 13)
    spec = replace(NetworkSpec.parse(text, (5 + 234,), 3, image), unseen=unseen)
    network = build(spec, torch.Generator().manual_seed(0)).eval()
    network.standardise(torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6))
    network.fold()
    obs = np.random.default_rng(0).normal(0, 1, (7, 239)).astype(np.float32)
    source = c.write(steps(network, "c"), head, ObsSpec((239,), image), "test")
    assert f"#define POLICY_SCRATCH_BYTES {source.scratch_bytes}" in source.header
    assert source.scratch_bytes > 0
    wanted = Recording(obs, np.arange(7) == 0).numbers(Policy(network, head)).numpy()
    answers = open_export(write_c(tmp_path, source), head, 239)(obs)
    np.testing.assert_allclose(answers.values, wanted, rtol=1e-5, atol=1e-5)
    golden(tmp_path, head, wanted, obs)
    command = ["cc", *SANITIZED, "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "7 of 7 actions as expected\n"), done.stderr


@needs_cc
@pytest.mark.parametrize("image_bytes", [True, False])
@pytest.mark.parametrize(("text", "unseen"), BESIDE.items())
def test_integers_of_an_image_beside_a_vector(tmp_path, text, unseen, image_bytes):
    """Numbers of any size, one of them kelvins that vary by two, with weights that suit them; in their own units beside
    features in theirs, to the bit of the model, and near the student.
    """
    head, image, rng = ACTIONS["squashed"], (2, 9, 13), np.random.default_rng(0)
    spec = replace(NetworkSpec.parse(text, (5 + 234,), 3, image), unseen=unseen)
    network = build(spec, torch.Generator().manual_seed(0)).eval()
    size, middle = np.array([1.0, 100.0, 0.01, 2.0, 1.0]), np.array([0.0, 0.0, 0.0, 300.0, 0.0])
    pixels = rng.integers(0, 256, (300, 234)) if image_bytes else rng.normal(0, 1, (300, 234))
    obs = np.hstack([rng.uniform(-1, 1, (300, 5)) * size + middle, pixels]).astype(np.float32)
    scale = torch.tensor([*(1 / size), 1 / 128 if image_bytes else 1.0])
    network.standardise(torch.tensor([*middle, 128.0 if image_bytes else 0.0]), scale.float())
    network.fold()
    begins = np.arange(len(obs)) % 100 == 0
    quantised = int8.quantise(steps(network, "int8"), obs, begins, image_bytes=image_bytes)
    spec = ObsSpec((239,), image, image_bytes=image_bytes)
    source = int8_c.write(quantised, head, spec, "test")
    assert f"#define POLICY_SCRATCH_BYTES {source.scratch_bytes}" in source.header
    answers = open_export(write_c(tmp_path, source), head, 239)(obs, begins)
    values = quantised.values(obs, begins)
    np.testing.assert_array_equal(answers.values, values)
    wanted = Recording(obs, begins).numbers(Policy(network, head)).numpy()
    assert (np.sqrt(np.square(values - wanted).mean(0)) < 0.1 * wanted.std(0)).all()
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write_int8(quantised, head, spec, {}))
    graph = open_export(tmp_path / "policy.onnx", head, 239)(obs, begins)
    assert np.abs(graph.values - values).max() < 0.05 * np.abs(wanted).max()
    golden(tmp_path, head, values[:100], obs[:100])  # the first episode
    command = ["cc", *SANITIZED, "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "100 of 100 actions as expected\n"), done.stderr


def test_a_unit_that_is_nearly_its_bias_is_as_exact_in_integers_as_others():
    """Its sums' unit follows from its bias alone, and beside the layer's largest its multiplier had no bits left."""
    bias = [0.0, 0.5, 0.28, 0.09, 0.03]
    network = Network(NetworkSpec((2,), 5, hidden=(5,)))
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([1.0, 1e-3, 1e-4, 1e-4, 1e-5])[:, None].expand(5, 2) / 2)
        network.layers[0].bias.copy_(torch.tensor(bias))
        network.layers[2].weight.copy_(torch.eye(5))
        network.layers[2].bias.zero_()
    obs = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    values = int8.quantise(steps(network.eval(), "int8"), obs).values(obs)
    assert np.abs(values[:, 1:] - bias[1:]).max() < 0.005, "of a layer whose largest is 1, a byte of 255"


def test_calibration_reads_a_few_images_at_once(monkeypatch):
    """A thousand camera images, with all that each output of a first layer reads, took gigabytes."""
    asked, runs = [], int8.runs
    monkeypatch.setattr(int8, "runs", lambda step, x: [asked.append(len(x)), runs(step, x)][1])
    obs = np.random.default_rng(0).integers(0, 256, (130, 1, 8, 8)).astype(np.uint8)
    network = build(NetworkSpec.parse("cnn:2k4s2:4", (1, 8, 8), 2), torch.Generator().manual_seed(0)).eval()
    int8.quantise(steps(network, "int8"), obs)
    assert sum(asked[:3]) == 130
    assert max(asked[:3]) <= 64


def test_numbers_beside_an_image_are_as_fine_as_their_weights_ask_for():
    """Whose weights may be a hundred times those of features, with which they share their rows' scales."""
    plain = int8_layers.Entry.of(np.array([[1.0, 1.0], [-1.0, -1.0]]))
    beside, weight = np.full((3, 4), 0.5), np.array([[127.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    finer = plain.finer_for(weight, beside)
    np.testing.assert_allclose(finer.gain, [254.0, 127.0])
    assert (finer.limit, plain.limit) == (254, 127)
    np.testing.assert_array_equal(finer.integers(np.array([[1.0, 1.0], [-0.5, 9.0]])), [[254, 127], [-127, 254]])
    np.testing.assert_array_equal(plain.finer_for(weight, 0 * beside).gain, plain.gain)  # no feature counts
    most = plain.finer_for(1e9 * weight, beside)
    assert most.limit == 127 * 256 < 2**15
    wide = int8_layers.Entry.of(np.ones((2, 60_000))).finer_for(np.full((1, 60_000), 1e9), beside[:1])
    assert wide.limit * 127 * 60_000 < 2**31


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
@pytest.mark.parametrize(
    ("text", "name"),
    [*((text, name) for text in SHAPES for name in ("one", "squashed")), ("mlp:7", "several"), ("mlp:7", "open")],
)
def test_integers_are_modelled_to_the_bit(tmp_path, text, name):
    head = ACTIONS[name]
    network, obs = student(text, head=head), observations(text, 200 if text.startswith("mlp") else 20)
    quantised = int8.quantise(steps(network, "int8"), obs)
    answers = opened(write_c(tmp_path, int8_c.write(quantised, head, obs_spec(text), "test")), text, head)(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    if name != "several" and name != "one":
        assert_same(head, answers.actions, quantised.values(obs))
    real = expected(network, obs)
    assert np.abs(quantised.values(obs) - real).max() < 0.1 * np.abs(real - real.mean(1, keepdims=True)).max() + 0.1
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write_int8(quantised, head, obs_spec(text), {}))
    graph = opened(tmp_path / "policy.onnx", text, head)(obs)
    assert np.abs(graph.values - quantised.values(obs)).max() < 0.05 * np.abs(real).max()
    assert held(answers, torch.from_numpy(expected(network, obs)), head).distance < 0.1


def test_bytes_in_onnx_have_no_sign_so_that_no_processor_saturates():
    network, obs = student("mlp:16,16"), observations("mlp:16,16", 100)
    quantised = int8.quantise(steps(network, "int8"), obs)
    graph = onnx.load_from_string(onnx_export.write_int8(quantised, ACTIONS["one"], obs_spec("mlp:16,16"), {})).graph
    held = {one.data_type for one in graph.initializer}
    assert onnx.TensorProto.UINT8 in held
    assert onnx.TensorProto.INT8 not in held


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
    quantised = int8.quantise(steps(network, "int8"), obs)
    for one in quantised.steps:
        assert np.abs(one.bias).max() <= int8_layers.BIAS_LIMIT
        assert 1 <= one.shift <= 62
    answers = opened(write_c(tmp_path, int8_c.write(quantised, ONE, ObsSpec((5,)), "test")), "mlp:16,16")(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    assert np.abs(answers.values - expected(network, obs)).max() < 0.1


def test_a_weight_takes_a_byte_and_a_unit_six_or_eight_more():
    network = build(NetworkSpec.parse("cnn:4k6s4,4k4s2,6k3s2:8", PIXELS, 6), torch.Generator().manual_seed(0)).eval()
    obs = np.random.default_rng(0).integers(0, 256, (4, *PIXELS), dtype=np.uint8)
    quantised = int8.quantise(steps(network, "int8"), obs)
    source = int8_c.write(quantised, head_for(Choices((6,)), "q"), ObsSpec(PIXELS, PIXELS, "uint8"), "test")
    assert source.weight_bytes == 1864 + 6 * 22 + 8 * 6 + 6 * 4 == 2068


@needs_cc
@pytest.mark.parametrize(
    ("name", "texts"),
    [("one", ("mlp:7", "cnn:3k8s4,5k4s2:", "cnn:4k3s2,3k3s1:8")), ("squashed", ("mlp:7", "cnn:4k3s2,3k3s1:8"))],
)
def test_integers_are_clean_under_the_sanitizers(tmp_path, name, texts):
    head = ACTIONS[name]
    for text in texts:
        obs = observations(text, 10)
        extreme = obs * 0 + (255 if obs.dtype == np.uint8 else np.float32(1e30))
        quantised = int8.quantise(steps(student(text, head=head), "int8"), obs)
        write_c(tmp_path, int8_c.write(quantised, head, obs_spec(text), "test"))
        rows = np.concatenate([obs, extreme])
        golden(tmp_path, head, quantised.values(rows), rows)
        subprocess.run(["cc", *SANITIZED, "example.c", "policy.c", "-o", "example"], cwd=tmp_path, check=True)
        done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_products_of_integers_are_of_32_bits(tmp_path):
    """Where an int has 16 bits, as on AVR, a product of two of them has no more."""
    obs = observations("mlp:7", 10)
    code = int8_c.write(int8.quantise(steps(student("mlp:7"), "int8"), obs), ONE, obs_spec("mlp:7"), "test").code
    narrow = set(re.findall(r"int(?:8|16)_t \*?(\w+)", code)) | set(re.findall(r"int(?:8|16)_t (\w+)\[", code))
    products = re.findall(r"(\([\w]+\))?\b(\w+)\[\w+\] \* (\w+)", code)
    assert ("(int32_t)", "x", "w") in products
    assert not [found for found in products if found[1] in narrow and found[0] not in ("(int32_t)", "(int64_t)")]


def test_sums_that_may_leave_32_bits_are_refused():
    network = build(NetworkSpec.parse("cnn:16k3s1:4", PIXELS, 2), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        next(one for one in network.layers if isinstance(one, torch.nn.Linear)).weight.fill_(1.0)
    obs = np.random.default_rng(0).integers(0, 256, (2, *PIXELS), dtype=np.uint8)
    with pytest.raises(SpecError, match="32 bits hold less than 2,147,483,648: export to c or onnx"):
        int8.quantise(steps(network, "int8"), obs)


def test_how_numbers_enter_integers():
    """One that never varied keeps its own unit; one that lies far from 0 is counted from its middle."""
    obs = np.array([[1.0, 0.0, 0.5, -4.0, 300.0, -8.0, 3.0], [-2.0, 0.0, 0.5, -4.0, 302.0, -9.0, 1.0]])
    entry = int8_layers.Entry.of(obs)
    np.testing.assert_allclose(entry.gain, [127 / 2, 127, 127, 127 / 4, 127 / 2, 127, 127 / 3], rtol=1e-6)
    np.testing.assert_array_equal(entry.zero, [0, 0, 0, 0, 301, -8.5, 0])
    np.testing.assert_array_equal(entry.integers(obs)[0, 4:], [-63, 64, 127])
    assert int8_layers.Entry.of(obs.astype(np.uint8)) is None


def test_a_number_that_stays_far_from_0_enters_integers_as_what_it_is_off():
    """Its weight times all of it took the eight bits of a whole row."""
    obs = np.array([[293.15, 1.0, 9.0], [293.15, -1.0, 9.0]])
    entry = int8_layers.Entry.of(obs)
    np.testing.assert_allclose(entry.zero, [293.15, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(entry.gain, [127, 127, 127 / 9], rtol=1e-6)


def test_the_header_says_what_a_choice_is_flattened_to():
    space = gymnasium.spaces.Dict({
        "a_pos": gymnasium.spaces.Box(-1, 1, (2,)),
        "b_mode": gymnasium.spaces.Discrete(3, start=5),
        "c_level": gymnasium.spaces.MultiDiscrete([2, 7]),
    })  # fmt: skip
    spec = read_observations(space, "Mine-v0")[0]
    network = build(NetworkSpec.parse("mlp:3", spec.shape, ONE.width), torch.Generator().manual_seed(0)).eval()
    header = c.write(steps(network, "c"), ONE, spec, "test").header
    assert (
        "a_pos at 0, b_mode at 2 (1 for the choice that is made, else 0: 5, 6, 7), "
        "c_level at 5 (1 for the choice that is made, else 0: of [0] 0, 1; of [1] 0 to 6)"
    ) in header
    assert "Numbers must be finite" in header
    hidden = spec.part((0, 3, 4))
    assert hidden.codes == ("", "6", "7")


def test_what_cannot_be_written_gets_one_sentence():
    network = build(NetworkSpec.parse("resnet:4:8", PIXELS, 3))
    with pytest.raises(SpecError, match="residual"):
        steps(network, "c")
    with pytest.raises(SpecError, match="ReLU"):
        int8.quantise(steps(student("mlp:16,16", "tanh"), "int8"), observations("mlp:16,16"))
    with pytest.raises(SpecError, match="dense layers that reads images"):
        steps(Network(NetworkSpec((1, 3, 3), 2)), "c")
    with pytest.raises(SpecError, match="'gaussian' is not exported"):
        last_step(head_for(Bounds((-1.0,), (1.0,)), "gaussian"))


@pytest.mark.parametrize(("off", "alike"), [(5e-4, True), (5e-3, False)])
def test_numbers_far_beyond_the_bounds_leave_fewer_digits_within_them(off, alike):
    """Sums of hundreds, of which an action within ±1 is what remains: another order of sums moves its last digits."""
    head = head_for(Bounds((-1.0, -1.0), (1.0, 1.0)), "mean", squash="clip")
    policy = torch.tensor([[0.1, 200.0], [-0.2, -0.25]])
    values = policy.numpy() + np.array([0.0, off], np.float32)
    answers = Answers(values, np.clip(values, -1, 1))
    found = held(answers, policy, head, rounded=np.array([0.0, 1.5e-4]))
    assert (found.alike, found.consistent) == (alike, True)
    assert not held(replace(answers, actions=answers.actions + np.float32(1e-4)), policy, head).consistent


@needs_cc
@pytest.mark.parametrize("name", ["several", "squashed", "open"])
def test_a_file_that_answers_otherwise_is_told_apart(tmp_path, name):
    head, text = ACTIONS[name], "mlp:16,16"
    network, obs = student(text, head=head), observations(text, 100)
    answers = opened(write_c(tmp_path, in_c(text, network, head)), text, head)(obs)
    assert held(answers, torch.from_numpy(expected(network, obs)), head).alike
    moved = answers.actions.copy()
    moved[3, 1] += 1 if name == "several" else 1e-3
    wrong = replace(answers, actions=moved)
    assert not held(wrong, torch.from_numpy(expected(network, obs)), head).alike
    assert not held(wrong, torch.from_numpy(expected(network, obs)), head).consistent
    values = answers.values.copy()
    values[:, 0] += 1e-3
    assert not held(replace(answers, values=values), torch.from_numpy(expected(network, obs)), head).alike


def test_the_header_says_which_numbers_of_each_part_are_read():
    """A part of which some are hidden was said to begin at a place and to go on."""

    def told(*names, **more):
        return c.source(ObsSpec((len(names),), names=names, **more), last_step(ONE), "", "", 0, 0, 3).header

    assert "flattened: pos[0] at 0, pos[2] at 1, vel[0] at 2, vel[2] at 3)" in told(
        "pos[0]", "pos[2]", "vel[0]", "vel[2]"
    )
    assert "flattened: pos at 0, vel[1 to 2] at 2)" in told("pos[0]", "pos[1]", "vel[1]", "vel[2]")
    assert "flattened: a_b at 0, a_b at 1)" in told("a/b[0]", "a_b[0]"), "two parts, though C calls them the same"
    assert "observation (raw numbers: obs[1], obs[2])" in told("obs[1]", "obs[2]")
    beside = ObsSpec((2 + 12,), (3, 2, 2), names=("pos[0]", "pos[1]"))
    assert "flattened: pos at 0, pixels (3, 2, 2) at 2)" in c.source(beside, last_step(ONE), "", "", 0, 0, 3).header

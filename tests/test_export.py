"""Exports: every file answers as the student does, C is clean under the strictest flags, integers are modelled to the bit."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
import warnings
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
from distilrl.export import c, export_policy, int8, qat, verify
from distilrl.export import onnx as onnx_export
from distilrl.export.replay import CFLAGS, replayer
from distilrl.export.steps import steps
from distilrl.networks import Network, build
from distilrl.specs import NetworkSpec
from distilrl.teachers import load_teacher

PIXELS = (4, 84, 84)
SHAPES = {
    "mlp:16,16": (5,),
    "mlp:": (5,),
    "mlp:7": (5,),
    "cnn:16,16,16:64": PIXELS,
    "cnn:8k8s4,8k4s2,8k3s2:32": PIXELS,
    "cnn:3k8s4,5k4s2:": PIXELS,
    "cnn:72:9": PIXELS,
}
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def student(text, activation="relu"):
    from dataclasses import replace

    shape = SHAPES[text]
    network = build(replace(NetworkSpec.parse(text, shape, 3), activation=activation), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():  # biases too, so that a forgotten one shows
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    size = 1 if len(shape) == 3 else shape[0]
    network.standardise(torch.full((size,), 40.0 if size == 1 else 0.3), torch.full((size,), 0.02 if size == 1 else 1.5))
    network.fold()
    return network.eval()


def observations(text, count=20):
    rng = np.random.default_rng(0)
    shape = SHAPES[text]
    return (
        rng.integers(0, 256, (count, *shape), dtype=np.uint8) if len(shape) == 3 else rng.normal(0, 2, (count, *shape)).astype(np.float32)
    )


def write_c(folder, source):
    for name, text in (("policy.h", source.header), ("policy.c", source.code), ("example.c", c.EXAMPLE)):
        (folder / name).write_text(text)
    return folder / "policy.c"


def expected(network, obs):
    with torch.no_grad():
        return network(torch.from_numpy(obs)).numpy()


def opened(path, text, **kwargs):
    return replayer(path, int(np.prod(SHAPES[text])), 3, **kwargs)


@needs_cc
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("text", SHAPES)
def test_c_is_the_student(tmp_path, text, native):
    network, obs = student(text), observations(text)
    answers = opened(write_c(tmp_path, c.write(steps(network, "C"), "test")), text, native=native)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-4, atol=1e-4)
    assert (answers.actions == expected(network, obs).argmax(1)).all()


@needs_cc
@pytest.mark.parametrize("activation", ["tanh", "elu"])
def test_c_knows_every_activation(tmp_path, activation):
    network, obs = student("mlp:16,16", activation), observations("mlp:16,16")
    answers = opened(write_c(tmp_path, c.write(steps(network, "C"), "test")), "mlp:16,16")(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)


@needs_cc
@pytest.mark.parametrize("flags", [[], ["-mavx"], ["-DPLAIN"]])
@pytest.mark.parametrize("text", ["mlp:7", "cnn:3k8s4,5k4s2:", "cnn:8k8s4,8k4s2,8k3s2:32"])
def test_c_is_clean_under_the_sanitizers(tmp_path, text, flags):
    network, obs = student(text), observations(text, 3)
    source = c.write(steps(network, "C"), "test")
    write_c(tmp_path, source)
    if flags == ["-DPLAIN"]:
        (tmp_path / "policy.c").write_text(
            source.code.replace("#define LANES 8", "#define LANES 1").replace("#define LANES 4", "#define LANES 1")
        )
    if flags == ["-mavx"] and "avx" not in open("/proc/cpuinfo").read():  # noqa: PTH123, SIM115
        pytest.skip("this machine has no AVX")
    golden = b"".join(int(v.argmax()).to_bytes(4, "little") + o.tobytes() for v, o in zip(expected(network, obs), obs, strict=True))
    (tmp_path / "golden.bin").write_bytes(golden)
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    command = ["cc", *CFLAGS, *flags, *sanitize, "example.c", "policy.c", "-lm", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 of 3 actions as expected\n"), done.stderr


@needs_cc
def test_c_takes_no_memory_of_its_own(tmp_path):
    source = c.write(steps(student("cnn:16,16,16:64"), "C"), "test")
    path = write_c(tmp_path, source)
    subprocess.run(["cc", *CFLAGS, "-c", str(path), "-o", str(tmp_path / "policy.o")], check=True)
    symbols = subprocess.run(["nm", "-S", str(tmp_path / "policy.o")], capture_output=True, text=True, check=True).stdout
    assert "malloc" not in symbols
    rows = [line.split() for line in symbols.splitlines()]
    assert sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "bB") == source.scratch_bytes
    constant = sum(int(r[1], 16) for r in rows if len(r) == 4 and r[2] in "rR")
    assert 0.99 * source.weight_bytes < constant <= source.weight_bytes  # the compiler may put a bias into its code


def test_literals_read_back_to_the_same_floats():
    values = np.random.default_rng(0).normal(0, 1e-3, 1000).astype(np.float32)
    values = np.concatenate([values, np.float32([0.0, -0.0, 1e-42, 3.4e38, -1.0])])
    assert (np.array([float(c._literal(float(v))[:-1]) for v in values], np.float32) == values).all()


@pytest.mark.parametrize("text", [*SHAPES, "resnet:4,8:16"])
def test_onnx_is_the_student(tmp_path, text):
    SHAPES.setdefault("resnet:4,8:16", PIXELS)
    network, obs = student(text), observations(text)
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write(network, {"env": "x"}))
    answers = opened(tmp_path / "policy.onnx", text)(obs)
    np.testing.assert_allclose(answers.values, expected(network, obs), rtol=1e-5, atol=1e-5)
    assert (answers.actions == expected(network, obs).argmax(1)).all()
    teacher = load_teacher(tmp_path / "policy.onnx")  # our own exports are teachers again
    np.testing.assert_allclose(teacher.action_values(torch.from_numpy(obs)).numpy(), answers.values, rtol=1e-5, atol=1e-5)
    model = onnx.load(str(tmp_path / "policy.onnx"))
    assert [i.name for i in model.graph.input] == ["obs"]
    assert [o.name for o in model.graph.output] == ["action_values", "action"]
    assert {p.key: p.value for p in model.metadata_props} == {"env": "x"}
    SHAPES.pop("resnet:4,8:16", None)


@needs_cc
@pytest.mark.parametrize("text", SHAPES)
def test_integers_are_modelled_to_the_bit(tmp_path, text):
    network, obs = student(text), observations(text, 200 if text.startswith("mlp") else 20)
    quantised = int8.quantise(steps(network, "integers"), obs)
    answers = opened(write_c(tmp_path, int8.write(quantised, "test")), text)(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    real = expected(network, obs)
    assert np.abs(quantised.values(obs) - real).max() < 0.1 * np.abs(real - real.mean(1, keepdims=True)).max() + 0.1
    model = int8.quantise(steps(network, "integers"), obs)
    (tmp_path / "policy.onnx").write_bytes(onnx_export.write_int8(model, SHAPES[text], {}))
    graph = opened(tmp_path / "policy.onnx", text)(obs)
    span = np.abs(real).max()
    assert np.abs(graph.values - quantised.values(obs)).max() < 0.05 * span


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
    answers = opened(write_c(tmp_path, int8.write(quantised, "test")), "mlp:16,16")(obs)
    np.testing.assert_array_equal(answers.values, quantised.values(obs))
    assert np.abs(answers.values - expected(network, obs)).max() < 0.1


def test_a_weight_takes_a_byte_and_a_unit_six_or_eight_more():
    network = build(NetworkSpec.parse("cnn:4k6s4,4k4s2,6k3s2:8", PIXELS, 6), torch.Generator().manual_seed(0)).eval()
    obs = np.random.default_rng(0).integers(0, 256, (4, *PIXELS), dtype=np.uint8)
    source = int8.write(int8.quantise(steps(network, "integers"), obs), "test")
    assert source.weight_bytes == 1864 + 6 * 22 + 8 * 6 == 2044


@needs_cc
def test_integers_are_clean_under_the_sanitizers(tmp_path):
    for text in ("mlp:7", "cnn:3k8s4,5k4s2:"):
        obs = observations(text, 10)
        extreme = obs * 0 + (255 if obs.dtype == np.uint8 else np.float32(1e30))
        quantised = int8.quantise(steps(student(text), "integers"), obs)
        write_c(tmp_path, int8.write(quantised, "test"))
        rows = np.concatenate([obs, extreme])
        actions = quantised.values(rows).argmax(1)
        (tmp_path / "golden.bin").write_bytes(
            b"".join(int(a).to_bytes(4, "little") + o.tobytes() for a, o in zip(actions, rows, strict=True))
        )
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

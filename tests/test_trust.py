"""What small files once did to this project, each as it was found: refused in one sentence, in little memory."""

import errno
import json
import os
import pickle
import re
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import instances
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_foreign import vec_normalize
from test_hostile import graph, refused
from test_sb3 import edited
from test_teachers import mlp, mlp_state, write_zip
from tiny_envs import tiny_config, tiny_job

from distilrl import limits
from distilrl.checkpoints import load_network, read_tensors, save_network
from distilrl.cli import main
from distilrl.cli.options import code_of
from distilrl.cli.tables import print_results
from distilrl.distill import distill
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical, head_for
from distilrl.networks import Network, build
from distilrl.played import Returns, Sides
from distilrl.runs import RunFolder
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec
from distilrl.teachers import TeacherFile, load_teacher, vecnormalize
from distilrl.train import train
from distilrl.trees import Tree, save_tree

ROOT = Path(__file__).parents[1]


def test_a_state_dict_of_20000_layers_is_refused(tmp_path):
    torch.save({f"{i}.weight": torch.zeros(1, 1) for i in range(20_000)}, tmp_path / "t.pt")
    refused(TeacherFile(str(tmp_path / "t.pt"), activation="relu"))  # by the members of its zip
    torch.save({f"{i}.weight": torch.zeros(1, 1) for i in range(10_001)}, tmp_path / "t.pt")
    with pytest.raises(FileError, match="holds 10001 tensors, more than a policy can need"):
        load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu"))


def test_a_spec_of_20000_layers_is_refused_before_any_is_made(tmp_path):
    save_network(tmp_path, build(NetworkSpec((2,), 2, hidden=(4,))), Categorical(Choices((2,))))
    spec = read_json(tmp_path / "spec.json")
    write_json(tmp_path / "spec.json", spec | {"network": spec["network"] | {"hidden": [1] * 20_000}})
    with pytest.raises(FileError, match="1,000 layers at most, and not 20,000"):
        load_network(tmp_path)


def test_one_storage_that_many_layers_share_takes_no_more_than_a_policy_may(tmp_path, monkeypatch):
    shared = torch.zeros(300, 300)
    torch.save({f"{2 * i}.weight": shared for i in range(8)}, tmp_path / "t.pt")
    file = TeacherFile(str(tmp_path / "t.pt"), activation="relu")
    assert load_teacher(file).outputs == 300
    monkeypatch.setattr("distilrl.teachers.archive.MAX_BYTES", 1_000_000)  # a third of what they would be
    with pytest.raises(FileError, match="more than"):
        load_teacher(file)


def test_a_sparse_zip_is_refused_by_its_size(tmp_path):
    with (tmp_path / "t.zip").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(20 << 30)
    refused(tmp_path / "t.zip", "larger than a policy")


def test_data_of_many_small_lists_takes_little(tmp_path):
    path = write_zip(tmp_path / "good.zip", mlp_state(mlp()))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("policy.pth", source.read("policy.pth"))
        target.writestr("data", "[" + "[]," * 40_000_000 + "[]]")
    assert (tmp_path / "t.zip").stat().st_size < 400_000
    tracemalloc.start()
    refused(tmp_path / "t.zip", "not the JSON")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 30


def test_a_graphs_tensor_inside_a_condition_is_bounded(tmp_path):
    big = helper.make_tensor_value_info("big", 1, [30_000, 30_000])
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [30_000, 30_000])
    body = helper.make_graph([helper.make_node("ConstantOfShape", ["s"], ["big"])], "b", [], [big], [shape])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("If", ["yes"], ["v"], then_branch=body, else_branch=body),
        helper.make_node("ReduceSum", ["v"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    refused(graph(tmp_path, nodes, [yes]), "more than a policy can need")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", ""])
def test_names_of_a_graph_are_text(tmp_path, name):
    path = graph(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
    model = onnx.load(str(path))
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, str(path))
    refused(path, "not text")


@pytest.mark.parametrize("field", ["epsilon", "clip_obs"])
def test_a_normalizer_of_1e308_is_refused(tmp_path, field):
    _, path = vec_normalize(tmp_path, steps=2, **{field: 1e308})
    with pytest.raises(FileError, match=r"\.$"):
        vecnormalize.read(Path(path))


def test_a_specs_own_keys_replace_no_facts(tmp_path, capsys):
    save_network(
        tmp_path / "s", Network(NetworkSpec((4,), 2)), head_for(Choices((2,)), "q"), path="/elsewhere", params=7
    )
    assert main(["inspect", str(tmp_path / "s"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(tmp_path / "s")
    assert facts["params"] == 10
    write_json(tmp_path / "s" / "spec.json", read_json(tmp_path / "s" / "spec.json") | {"[/x]": "\x1b[31m:b:[/x]" * 9})
    for words in (["inspect", str(tmp_path / "s")], ["inspect", str(tmp_path / "s"), "--json"]):
        assert main(words) == 0
        assert "\x1b" not in capsys.readouterr().out


def test_what_cannot_be_read_is_one_sentence(tmp_path, monkeypatch, capsys):
    save_network(tmp_path / "s", Network(NetworkSpec((4,), 2)), head_for(Choices((2,)), "q"))

    def denied(*_given, **_named):
        raise PermissionError(13, "Permission denied")

    for name in ("open", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pathlib.Path.{name}", denied)
            code = main(["inspect", str(tmp_path / "s")])
        assert code == 2, name
        assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize("size", [10**12, 10**30, 2**24 + 1])
def test_a_tree_of_endless_observations_is_refused(tmp_path, size):
    save_tree(
        tmp_path / "tree.json", Tree((2,), head_for(Choices((2,)), "q"), "raw", (-1,), (0.0,), (0,), (0,), ((0,),))
    )
    data = read_json(tmp_path / "tree.json")
    assert load_teacher(TeacherFile(str(tmp_path))).obs_shape == (2,)
    write_json(tmp_path / "tree.json", data | {"tree": data["tree"] | {"obs_shape": [size]}})
    refused(TeacherFile(str(tmp_path)), "damaged")


@pytest.mark.parametrize("widths", [[10**9], [10**9, 10**9], [16_000, 16_000]])
def test_a_spec_takes_no_more_than_its_weights_hold(tmp_path, widths, monkeypatch):
    save_network(tmp_path, Network(NetworkSpec((4,), 2, hidden=(8,))), head_for(Choices((2,)), "q"), name="teacher")
    data = read_json(tmp_path / "spec.json")
    assert load_teacher(TeacherFile(str(tmp_path))).outputs == 2
    write_json(tmp_path / "spec.json", data | {"network": data["network"] | {"hidden": widths}})
    monkeypatch.setattr("distilrl.checkpoints.blank", lambda _spec: pytest.fail("it was made"))
    with pytest.raises(DistilError, match=r"more than 268,435,456|do not belong together\.$"):
        load_teacher(TeacherFile(str(tmp_path)))


def test_the_number_of_a_layer_is_no_number_of_5000_digits(tmp_path):
    name = f"{'9' * 5000}.weight"
    torch.save({name: torch.zeros(2, 2)}, tmp_path / "t.pt")
    refused(TeacherFile(str(tmp_path / "t.pt"), activation="relu"), "keys")
    refused(write_zip(tmp_path / "t.zip", {f"q_net.q_net.{name}": torch.zeros(2, 2)}), "keys")


@pytest.mark.parametrize("field", ["action_space", "observation_space", "policy_kwargs", "policy_class"])
@pytest.mark.parametrize("value", [5, [], float("inf"), 2**70, "9" * 5000])
def test_fields_of_a_zip_that_are_no_objects_are_refused(tmp_path, field, value):
    path = write_zip(tmp_path / "good.zip", mlp_state(mlp()))
    refused(edited(path, tmp_path / "t.zip", **{field: value}), "not the JSON")


def late(folder, operator):
    """A graph that makes 3.6 GB, of a shape that follows from what an observation holds: nothing says so before it
    runs.
    """
    makes = {
        "ConstantOfShape": (["shape"], ["big"]),
        "Expand": (["zero", "shape"], ["big"]),
        "Range": (["zero", "count", "one"], ["big"]),
    }[operator]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "most"], ["count"]),
        helper.make_node("Cast", ["count"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "axis"], ["shape"]),
        helper.make_node(operator, *makes),
        helper.make_node("ReduceSum", ["big"], ["nothing"], keepdims=0),
        helper.make_node("Mul", ["nothing", "zero"], ["none"]),
        helper.make_node("Add", ["x", "none"], ["y"]),
    ]
    numbers = [helper.make_tensor(name, 1, [], [value]) for name, value in (("zero", 0.0), ("one", 1.0), ("most", 9e8))]
    return graph(folder, nodes, [*numbers, helper.make_tensor("axis", TensorProto.INT64, [1], [0])])


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Range"])
def test_a_graph_takes_no_more_memory_than_a_policy_may_whatever_it_sees(tmp_path, operator):
    """With zeros it is harmless, and so it is a teacher; an observation of ones is what it waits for."""
    teacher = load_teacher(late(tmp_path, operator))
    zeros, ones = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert teacher.network(zeros).tolist() == [[0.0] * 4]
    again = pickle.loads(pickle.dumps(teacher.network))  # as another process has it
    for network in (teacher.network, again):
        with pytest.raises(FileError, match=r"wants more than 2 GiB of memory for an observation: .*\.$"):
            network(ones)
        assert network(zeros).tolist() == [[0.0] * 4]


def test_a_graph_that_fails_on_an_observation_is_one_sentence(tmp_path):
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["at"], to=TensorProto.INT64),
        helper.make_node("Gather", ["list", "at"], ["one"]),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    path = graph(tmp_path, nodes, [helper.make_tensor("list", TensorProto.FLOAT, [2], [1.0, 2.0])])
    with pytest.raises(FileError, match=r"t\.onnx fails on an observation \(.*\): export it again\.$"):
        load_teacher(path).network(torch.full((1, 4), 9.0))


def stuck(folder):
    """A teacher of MountainCar-v0 that never moves: its return is -200, as that of random play is."""
    network = Network(NetworkSpec((2,), 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    save_network(folder, network, head_for(Choices((3,)), "q"), name="teacher")
    return str(folder)


def test_a_teacher_that_returns_what_random_play_does_is_no_pass(tmp_path, capsys):
    words = ["distill", "--teacher", stuck(tmp_path / "t"), "--env", "MountainCar-v0", "--student", "mlp:4"]
    words += ["--steps", "2000", "--accept-max-episodes", "20", "--episodes", "20", "--threads", "1"]
    for more, told in (
        ([], "is no better than random play in MountainCar-v0 (-200.0 against -200.0 over 20 episodes)"),
        (["--accept-weak-teacher"], "return (-200.00) is not shown to be above random play's (-200.00)"),
    ):
        assert main([*words, *more, "--out", str(tmp_path / "run")]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert told in said
        assert "--margin-abs" in said
        assert said.count("error: ") == 1
        assert not (tmp_path / "run").exists()


def test_a_read_only_disk_is_one_sentence_in_report_and_export(tmp_path, monkeypatch, capsys, sign_teacher):
    distill(sign_teacher, tiny_job(env_steps=400, network="mlp:4"), tmp_path / "run")
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    opened = os.open

    def read_only(path, flags, *given, **named):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *given, **named)

    for words in (["report"], ["export", "--to", "onnx"], ["export", "--to", "torch"]):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", read_only)
            assert main([words[0], str(tmp_path / "run"), *words[1:]]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert re.search(r"error: Cannot write \S+ \(Read-only file system\): choose a writable folder .*\.$", said)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_verify_says_that_it_runs_what_it_is_given(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["distilrl"])
    assert main(["verify", "--help"]) == 0
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "C is compiled and run, so only of files that you trust" in told
    for page in ("SECURITY.md", "README.md", "docs/use.md"):
        assert "compiles and runs" in " ".join((ROOT / page).read_text(encoding="utf-8").split()), page


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["t.zip", "t.pt", "t.onnx", "t.safetensors", "t.json"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match="is no plain file"):
        read_json(tmp_path / name)
    with pytest.raises(FileError, match="is no plain file"):
        load_teacher(str(tmp_path / name))
    with pytest.raises(FileError, match="is no plain file"):
        read_tensors(tmp_path / name)
    assert main(["inspect", str(tmp_path / name)]) == 2


@pytest.mark.parametrize("text", ["greedy\x1b]0;OWNED\x07\x1b[2J\nverdict: pass", "greedy [/x] hello"])
def test_what_a_verdict_of_a_file_says_is_text(text, capsys):
    """It changed a terminal's title, wrote a line of its own, or was a fault."""
    results = instances.choices([[1]])
    verdict = replace(results.verdict, protocol=text, reason=text, cluster=text)
    alone = Returns.of([1.0, 2.0], np.random.default_rng(0))
    sides = Sides(teacher=alone, student=alone, verdict=verdict)
    measured = replace(instances.measured(), verdict=verdict)
    print_results(replace(results, verdict=verdict, disturbed={"noise": sides}, measures=(measured,)))
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert len([line for line in said.splitlines() if line.startswith("verdict: ")]) == 1
    assert said.count("hello" if "hello" in text else "OWNED") == 7


@pytest.mark.parametrize("asked", [[], [0], [10**400], [60, -1]])
def test_a_plan_was_asked_for_episodes(asked):
    with pytest.raises(SpecError, match="'asked' must hold numbers of episodes"):
        replace(instances.plan_results(instances.plan_row()), asked=tuple(asked))


def test_exit_codes_are_those_of_the_page():
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("##")[0]
    told = {int(code): what for code, what in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    assert sorted(told) == [0, 1, 2, 3, 4, 70, 130, 141]
    for result in ("pass", "within_margin", "fail", "inconclusive"):
        assert f"`{result}`" in told[code_of(result)]
    assert code_of("pass", "inconclusive", "fail") == 1


def test_limits_are_those_of_the_page():
    page = (
        (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("| reader | limits |")[2].partition("No limit")[0]
    )
    power = {"2^28": 2**28, "2^24": 2**24, "2^20": 2**20, "2^26": 2**26}
    said = {
        int(
            float(number.replace(",", ""))
            * {"": 1, " GiB": 1 << 30, " MiB": 1 << 20, " KiB": 1 << 10, " MB": 10**6}[unit]
        )
        for number, unit in re.findall(r"(?<![\^\d])(\d[\d,]*)(?!\^|\d)( GiB| MiB| KiB| MB|)", page)
    } | {value for text, value in power.items() if text in page}
    kept = (
        "BYTES", "MEMBERS", "TENSORS", "PICKLE_BYTES", "OPCODES", "NODES", "ELEMENTS", "STATE", "RUN_BYTES",
        "SPEC_BYTES", "CODE_BYTES",
        "TREE_BYTES", "TREE_NUMBERS", "SPEC_LAYERS", "JSON_BYTES", "VALUES", "DIRECTORY_BYTES",
        "SEARCHED", "SEARCHED_BYTES",
    )  # fmt: skip
    wanted = {getattr(limits, f"MAX_{name}") for name in kept} | {limits.LARGEST_NETWORK, limits.LARGEST_OBSERVATION}
    assert wanted == said


def test_a_checkpoint_grows_by_a_byte_a_step_and_by_no_more(tmp_path, sign_teacher):
    """All that grows without bound in a run: decision 0003. A step of all environments adds a byte: who labelled it."""
    sizes = []
    for steps in (1600, 3200):
        config, folder = tiny_config(env_steps=steps, network="mlp:4", gap=-1.0), RunFolder(tmp_path / str(steps))
        train(config, sign_teacher, acceptance=instances.acceptance(), folder=folder)
        tensors, _ = folder.load_state()
        sizes.append({name: one.numel() * one.element_size() for name, one in tensors.items()})
    short, long = sizes
    grown = {name: size - short.get(name, 0) for name, size in long.items() if size != short.get(name, 0)}
    assert grown.pop("task.0.actions") == 1600
    assert 0 < grown.pop("task.0.labels") <= 3200 / config.data.n_envs
    assert grown == {}

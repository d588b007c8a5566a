"""What small files once did to this project, each as it was found: refused in one sentence, in little memory."""

import json
import tracemalloc
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_foreign import vec_normalize
from test_hostile import graph, refused
from test_teachers import mlp, mlp_state, write_zip

from distilrl.checkpoints import read_json, save_network, write_json
from distilrl.cli import main
from distilrl.errors import FileError
from distilrl.heads import head_for
from distilrl.networks import Network
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec
from distilrl.teachers import TeacherFile, load_teacher, vecnormalize


def test_a_state_dict_of_20000_layers_is_refused(tmp_path):
    torch.save({f"{i}.weight": torch.zeros(1, 1) for i in range(20_000)}, tmp_path / "t.pt")
    refused(TeacherFile(str(tmp_path / "t.pt"), activation="relu"))


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

"""Hostile files: refused in one sentence, nothing executed, memory bounded; and a bounded fuzz of every reader."""

import base64
import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from test_foreign import chain, vec_normalize, write_onnx
from test_teachers import mlp, mlp_state, write_zip
from torch import nn

from distilrl.checkpoints import read_tensors, save_network
from distilrl.cli import main
from distilrl.errors import DistilError, FileError
from distilrl.files import digest, read_json, write_json
from distilrl.heads import Categorical
from distilrl.limits import MAX_BYTES, MAX_FOUND, MAX_SEARCHED, MAX_SEARCHED_BYTES, MAX_TENSORS
from distilrl.networks import Network
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec
from distilrl.teachers import TeacherFile, archive, load_teacher, vecnormalize
from distilrl.teachers.dangerous import dangerous


class Burglar:
    """Pickles to a call that leaves a folder behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refused(file, match=None):
    with pytest.raises(FileError, match=match) as caught:
        load_teacher(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")


# -- pickles


@pytest.mark.parametrize("suffix", [".pt", ".cleanrl_model", ".pth"])
def test_code_in_a_state_dict_is_not_executed(tmp_path, suffix):
    mark = tmp_path / "was-here"
    torch.save({"network.0.weight": Burglar(mark)}, tmp_path / f"t{suffix}")
    refused(tmp_path / f"t{suffix}", "mkdir")
    assert not mark.exists()


def test_a_bare_pickle_is_not_executed(tmp_path):
    mark = tmp_path / "was-here"
    (tmp_path / "t.pt").write_bytes(pickle.dumps(Burglar(mark)))
    refused(tmp_path / "t.pt", "not executed")
    assert not mark.exists()


def test_a_file_from_before_pytorch_1_6_is_read_and_checked(tmp_path):
    model = mlp()
    torch.save(model.state_dict(), tmp_path / "t.pth", _use_new_zipfile_serialization=False)
    obs = torch.randn(5, 2)
    torch.testing.assert_close(
        load_teacher(TeacherFile(str(tmp_path / "t.pth"), activation="relu")).network(obs), model(obs).detach()
    )
    data = (tmp_path / "t.pth").read_bytes()
    for cut in (20, 200, len(data) - 3):
        (tmp_path / "cut.pth").write_bytes(data[:cut])
        refused(TeacherFile(str(tmp_path / "cut.pth"), activation="relu"))
    torch.save({"a": Burglar(tmp_path / "was-here")}, tmp_path / "evil.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "evil.pth", "mkdir")
    assert not (tmp_path / "was-here").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(mlp(), tmp_path / "t.pt")
    refused(tmp_path / "t.pt", "state_dict")


def test_torchscript_is_refused_with_the_way_out(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "t.pt"))
    refused(tmp_path / "t.pt", "ONNX")


def test_code_in_a_normalizer_is_refused_by_name(tmp_path):
    mark = tmp_path / "was-here"
    path = tmp_path / "vec.pkl"
    path.write_bytes(pickle.dumps({"obs_rms": Burglar(mark)}))
    with pytest.raises(FileError, match=r"posix\.mkdir|nt\.mkdir"):
        vecnormalize.read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "numpy.load", "stable_baselines3.common.save_util.load_from_pkl"]
)
def test_every_other_name_is_refused(tmp_path, name):
    module, function = name.rsplit(".", 1)
    (tmp_path / "vec.pkl").write_bytes(b"\x80\x04c" + f"{module}\n{function}\n".encode() + b"(X\x01\x00\x00\x001tR.")
    with pytest.raises(FileError, match=name):
        vecnormalize.read(tmp_path / "vec.pkl")


def test_a_normalizer_that_declares_a_huge_array_takes_no_memory(tmp_path):
    body = pickle.dumps(np.zeros(3))
    huge = body.replace(b"K\x03\x85", b"\x8a\x05\x00\x00\x00\x00\x02\x85")
    (tmp_path / "vec.pkl").write_bytes(huge)
    with pytest.raises(FileError):
        vecnormalize.read(tmp_path / "vec.pkl")


def test_a_pickle_that_claims_a_huge_memo_takes_no_memory(tmp_path):
    import tracemalloc

    (tmp_path / "vec.pkl").write_bytes(b"\x80\x04]r\xff\xff\xff\x01.")  # an empty list, remembered as entry 33,554,431
    tracemalloc.start()
    with pytest.raises(FileError):
        vecnormalize.read(tmp_path / "vec.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def crafted(path, pickled, storages=()):
    """A torch file with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("t/data.pkl", pickled)
        for name, content in storages:
            target.writestr(f"t/data/{name}", content)
    return path


def test_tensors_without_numbers_in_the_file_are_refused(tmp_path):
    uninitialised = b"\x80\x02}X\x08\x00\x00\x000.weightctorch\nFloatTensor\nK\x02K\x04\x86Rs."
    refused(crafted(tmp_path / "t.pt", uninitialised), "FloatTensor")
    storage = uninitialised.replace(b"FloatTensor", b"FloatStorage")
    refused(crafted(tmp_path / "t.pt", storage))


def bomb(levels=60):
    """A tuple of twice the tuple of twice ..., as the key of a dict: hashing it takes 2^levels steps."""
    body = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))
    return b"\x80\x02}K\x01" + body + b"K\x01s."


@pytest.mark.parametrize(
    "pickled",
    [
        bomb(),
        b"\x80\x05\x96\x00\x00\x00\xc0\x00\x00\x00\x00.",  # a bytearray of 3 GB
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\xc0\x00\x85R.",
        b"\x80\x02" + b"]" * 600_000 + b".",  # more steps than any policy needs
        b"\x80\x02("
        + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(1, 50))
        + b"d.",
        b"\x80\x02}(" + b"\x8a\x09" + (2**61 - 1).to_bytes(9, "little") + b"Nu.",
        b"\x80\x02}X\x05\x00\x00\x00a\x1b[1mNs.",  # a key that would colour a terminal
        b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.",
        b"\x80\x02(lp0\n.",
    ],
)
def test_small_pickles_that_would_hang_or_fill_memory_are_refused(tmp_path, pickled):
    import tracemalloc

    tracemalloc.start()
    refused(crafted(tmp_path / "t.pt", pickled))
    (tmp_path / "vec.pkl").write_bytes(pickled)
    with pytest.raises(FileError):
        vecnormalize.read(tmp_path / "vec.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000


# -- what a file would do elsewhere


def serialized(value):
    return {":type:": "x", ":serialized:": base64.b64encode(value).decode()}


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (b"cos\nsystem\n(S'id'\ntR.", "os.system"),
        (b"(S'id'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.", "os.system"),
        (b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93.", "os.system"),  # by way of the memo
        (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x04K\x01K\x02\x93.", "?"),  # a name that is computed
        (pickle.dumps({"ours": 1}) + b"csubprocess\nrun\n.", "subprocess.run"),  # behind a harmless one
    ],
)
def test_dangerous_names_are_found_however_they_are_written(tmp_path, pickled, name):
    (tmp_path / "bare").write_bytes(pickled)
    assert dangerous(tmp_path / "bare") == (name,)
    inner = crafted(tmp_path / "inner.pt", pickled).read_bytes()
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("policy.pth", inner)
    assert dangerous(tmp_path / "outer.zip") == (f"policy.pth: t/data.pkl: {name}",)


def test_a_small_archive_does_not_unpack_to_a_long_search(tmp_path, monkeypatch):
    """Ten thousand members in two megabytes, each of them sixty-four: what is searched is counted over all archives."""
    leaf = io.BytesIO()
    with zipfile.ZipFile(leaf, "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(60):
            target.writestr(f"{number}", pickle.dumps(0))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(60):
            target.writestr(f"{number}.zip", leaf.getvalue())
        target.writestr("evil", b"cos\nsystem\n(S'id'\ntR.")
    read, genuine = [], zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *given, **named: read.append(1) or genuine(*given, **named))
    assert dangerous(tmp_path / "outer.zip") == ()
    assert len(read) == MAX_SEARCHED
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(6):
            target.writestr(f"{number}", b"\0" * (60 << 20))
    read.clear()
    assert dangerous(tmp_path / "large.zip") == ()
    assert len(read) == MAX_SEARCHED_BYTES // (60 << 20)


def test_names_of_a_pickle_are_looked_at_no_further_than_a_name_goes(tmp_path):
    """All pairs of twenty texts, each of 100,000 characters, were kept before fifty of them were told."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value + b"\x94"

    texts = b"".join(text(b"os.%d" % number + b"a" * 100_000) for number in range(20))
    pairs = b"".join(b"h%ch%c\x93" % (one, other) for one in range(20) for other in range(20))
    (tmp_path / "bare").write_bytes(b"\x80\x04" + texts + pairs + b".")
    tracemalloc.start()
    try:
        assert len(dangerous(tmp_path / "bare")) == MAX_FOUND
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_paths_among_a_checkpoints_settings_are_harmless(tmp_path):
    net = mlp()
    torch.save({"model_state_dict": net.state_dict(), "args": {"out": Path("runs/x")}}, tmp_path / "t.pt")
    assert not dangerous(tmp_path / "t.pt")
    assert load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu")).outputs == 2
    (tmp_path / "evil").write_bytes(b"cpathlib\nPath.write_text\n.")
    assert dangerous(tmp_path / "evil") == ("pathlib.Path.write_text",)


def test_each_dangerous_name_of_a_hostile_file_is_named_with_an_exit_code_of_its_own(tmp_path, capsys):
    mark = tmp_path / "was-here"
    torch.save({"a": Burglar(mark), "b": os.system}, tmp_path / "t.pt")
    for words in (["inspect", str(tmp_path / "t.pt")], ["inspect", str(tmp_path / "t.pt"), "--json"]):
        assert main(words) == 4
        said = capsys.readouterr().err
        assert "is hostile: it would call " in said
        assert "posix.mkdir" in said
        assert "posix.system" in said
    assert not mark.exists()


def test_what_stable_baselines3_would_call_in_a_zip_that_we_can_read_is_named(tmp_path, capsys):
    mark = tmp_path / "was-here"
    path = write_zip(tmp_path / "t.zip", mlp_state(mlp()))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "evil.zip", "w") as target:
        fields = json.loads(source.read("data")) | {"lr_schedule": serialized(pickle.dumps(Burglar(mark)))}
        target.writestr("data", json.dumps(fields))
        target.writestr("policy.pth", source.read("policy.pth"))
        target.writestr("policy.optimizer.pth", crafted(tmp_path / "o", b"cos\nsystem\n.").read_bytes())
    assert main(["inspect", str(path)]) == 0
    assert main(["inspect", str(tmp_path / "evil.zip")]) == 4
    printed = capsys.readouterr()
    assert "data: lr_schedule: posix.mkdir" in printed.out
    assert "policy.optimizer.pth: t/data.pkl: os.system" in " ".join(printed.out.split())
    assert "is hostile" in printed.err
    assert not mark.exists()


# -- tensors


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    state = mlp().state_dict() | {"0.weight": torch.zeros(1).expand(50_000, 50_000)}
    torch.save(state, tmp_path / "t.pt")
    assert (tmp_path / "t.pt").stat().st_size < 20_000
    refused(tmp_path / "t.pt", "more than the file holds")


def test_a_storage_of_10_gigabytes_that_is_not_there_is_refused(tmp_path):
    torch.save({"0.weight": torch.zeros(3)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as source, zipfile.ZipFile(tmp_path / "t.pt", "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                data = data.replace(b"K\x03tq", b"\x8a\x05\x00\xe4\x0b\x54\x02tq")
                assert data != source.read(info)
            target.writestr(info.filename, data)
    refused(tmp_path / "t.pt")


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantised", "meta"])
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = {
            "sparse": lambda: torch.eye(4).to_sparse(),
            "complex": lambda: torch.zeros(2, 2, dtype=torch.complex64),
            "quantised": lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8),
            "meta": lambda: torch.zeros(2, 2, device="meta"),
        }[kind]()
        torch.save({"network.0.weight": odd}, tmp_path / "t.pt")
        refused(tmp_path / "t.pt")


def test_nan_in_a_state_dict_is_named(tmp_path):
    state = chain((4, 8, 2), nn.ReLU).state_dict()
    state["2.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "t.pt")
    refused(TeacherFile(str(tmp_path / "t.pt"), activation="relu"), r"2\.weight")


def test_shapes_that_do_not_chain_are_refused(tmp_path):
    torch.save({"0.weight": torch.zeros(8, 4), "2.weight": torch.zeros(2, 9)}, tmp_path / "t.pt")
    refused(TeacherFile(str(tmp_path / "t.pt"), activation="relu"), "shape")


def test_safetensors_that_declare_more_than_they_hold_are_refused(tmp_path):
    header = b'{"0.weight":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}'
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    refused(tmp_path / "t.safetensors", "safetensors")


# -- archives


def test_of_tensors_no_more_are_read_than_a_policy_can_need(tmp_path):
    safetensors.torch.save_file(
        {f"n.{i}.weight": torch.zeros(1) for i in range(MAX_TENSORS + 1)}, tmp_path / "t.safetensors"
    )
    refused(tmp_path / "t.safetensors", "more than a policy can need")


def test_a_zip_is_opened_no_more_often_than_it_is_read(tmp_path, monkeypatch):
    """Its list of members, which may be long, was read anew for each tensor."""
    made, genuine = [], zipfile.ZipFile.__init__
    torch.save({f"n.{i}.weight": torch.zeros(2, 2) for i in range(30)}, tmp_path / "t.pt")
    data = (tmp_path / "t.pt").read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *a, **k: made.append(1) or genuine(*a, **k))
    assert len(archive.read_state_dict(data, "t.pt")) == 30
    assert len(made) == 2


def test_a_bomb_among_torch_records_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "t.pt", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("t/data.pkl", pickle.dumps({}))
        target.writestr("t/data/0", b"\0" * 10_000_000)
    refused(tmp_path / "t.pt", "more than a policy can need")


def test_a_zip_of_too_many_members_is_refused_before_they_are_read(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "t.zip", mlp_state(mlp()), extra={f"x{number}": b"" for number in range(2_000)})
    load_teacher(path)
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 50_000)
    refused(path, "more members than a policy can need")


def test_a_folder_whose_weights_are_larger_than_any_policys_is_refused_unread(tmp_path):
    save_network(tmp_path, Network(NetworkSpec((4,), 2)), Categorical(Choices((2,))), name="teacher")
    with (tmp_path / "teacher.safetensors").open("r+b") as file:
        file.truncate(MAX_BYTES + 2_000_000)  # a sparse file: it takes no room
    refused(tmp_path, "larger than a policy can be")


def test_a_zip_whose_member_lies_about_its_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "t.zip", mlp_state(mlp()), extra={"x": b"\0"})
    data = bytearray(path.read_bytes())
    directory = struct.unpack("<I", data[-6:-2])[0]
    data[directory + 24 : directory + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(data))
    refused(path, "more than a policy can need")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damage_inside_a_compressed_zip_gets_one_sentence(tmp_path, method):
    good = write_zip(tmp_path / "good.zip", mlp_state(mlp()))
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "packed.zip", "w", method) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    load_teacher(tmp_path / "packed.zip")
    data = (tmp_path / "packed.zip").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        harmed = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            harmed[at] = rng.integers(0, 256)
        (tmp_path / "harmed.zip").write_bytes(bytes(harmed))
        with contextlib.suppress(FileError):
            load_teacher(tmp_path / "harmed.zip")


def test_data_of_deep_lists_is_refused(tmp_path):
    path = write_zip(tmp_path / "good.zip", mlp_state(mlp()))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "deep.zip", "w") as target:
        target.writestr("policy.pth", source.read("policy.pth"))
        target.writestr("data", "[" * 100_000 + "]" * 100_000)
    refused(tmp_path / "deep.zip", "JSON")


# -- ONNX


def graph(tmp_path, nodes, initializers=(), *, opsets=(("", 17),), name="t.onnx"):
    x, y = helper.make_tensor_value_info("x", 1, ["n", 4]), helper.make_tensor_value_info("y", 1, None)
    made = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid(*o) for o in opsets])
    model.ir_version = 9
    onnx.save(model, str(tmp_path / name))
    return tmp_path / name


def test_custom_operators_are_refused(tmp_path):
    node = helper.make_node("Evil", ["x"], ["y"], domain="my.ops")
    refused(graph(tmp_path, [node], opsets=(("", 17), ("my.ops", 1))), "custom operator")


def outside(folder, location):
    """A graph in a folder whose weights lie elsewhere."""
    tensor = TensorProto(name="w", data_type=1, dims=[4, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return graph(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])


def test_external_data_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 32)
    (tmp_path / "inside" / "own.bin").write_bytes(b"\0" * 32)
    for location in (
        "../secret.bin",
        str(tmp_path / "secret.bin"),
        "..\\secret.bin",
        "../inside/own.bin",
        "C:own.bin",
        "",
    ):
        refused(outside(tmp_path / "inside", location), "outside its own folder")
    for location in ("missing.bin", "a\0b", "x" * 300):
        refused(outside(tmp_path / "inside", location), "not beside it")
    refused(outside(tmp_path / "inside", "."), "no file")


def test_external_data_by_a_link_is_refused(tmp_path):
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    for path in (tmp_path / "secret.bin", inside / "own.bin", inside / "deep" / "own.bin"):
        path.write_bytes(b"\0" * 32)
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "to-own.bin").symlink_to(inside / "own.bin")
    (inside / "folder").symlink_to(inside / "deep")
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    for location in ("link.bin", "to-own.bin", "folder/own.bin", "hard.bin"):
        refused(outside(inside, location), "is a link")
    for location in ("own.bin", "./own.bin", "deep/own.bin"):
        assert load_teacher(outside(inside, location)).outputs == 2


def test_a_declared_tensor_of_10_gigabytes_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=1, dims=[4, 625_000_000])
    refused(graph(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor]), "more than a policy can need")


def test_sparse_tensors_are_refused(tmp_path):
    """218 bytes unfolded to half a billion numbers."""
    values, places = (helper.make_tensor(name, kind, [1], [0]) for name, kind in (("s", 1), ("i", TensorProto.INT64)))
    sparse = helper.make_sparse_tensor(values, places, [2**40])
    path = Path(graph(tmp_path, [helper.make_node("Identity", ["x"], ["y"])]))
    model = onnx.load(path)
    model.graph.sparse_initializer.append(sparse)
    path.write_bytes(model.SerializeToString())
    refused(path, "sparse tensors")
    constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    refused(graph(tmp_path, [constant, helper.make_node("Identity", ["x"], ["y"])]), "sparse tensors")


def test_a_computed_tensor_of_10_gigabytes_is_refused(tmp_path):
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [50_000, 50_000])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["big"]), helper.make_node("Gemm", ["x", "big"], ["y"])]
    refused(graph(tmp_path, nodes, [shape]), "more than a policy can need")


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_operators_are_refused(tmp_path, operator):
    refused(graph(tmp_path, [helper.make_node(operator, ["x"], ["y"])]), operator)


def test_chance_beside_the_answer_is_left_out(tmp_path):
    """ML-Agents writes a sample and the action without exploring into one graph."""
    nodes = [
        helper.make_node("Relu", ["x"], ["deterministic_continuous_actions"]),
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["deterministic_continuous_actions", "noise"], ["continuous_actions"]),
    ]
    names = ("continuous_actions", "deterministic_continuous_actions")
    values = [helper.make_tensor_value_info(name, 1, ["n", 4]) for name in ("x", *names)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, str(tmp_path / "t.onnx"))
    teacher = load_teacher(tmp_path / "t.onnx")
    obs = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    assert teacher.network(obs).tolist() == torch.relu(obs).tolist()
    with pytest.raises(FileError, match="draws random numbers"):
        load_teacher(TeacherFile(str(tmp_path / "t.onnx"), output="continuous_actions"))


def test_dropout_is_read_only_where_it_drops_nothing(tmp_path):
    no, yes = (helper.make_tensor("on", TensorProto.BOOL, [], [value]) for value in (False, True))
    ratio = helper.make_tensor("ratio", TensorProto.FLOAT, [], [0.5])
    node = helper.make_node("Dropout", ["x", "ratio", "on"], ["y"])
    refused(graph(tmp_path, [node], [ratio, yes]), "Dropout")
    assert load_teacher(graph(tmp_path, [node], [ratio, no])).outputs == 4


def test_functions_that_call_each_other_twice_over_and_over_are_refused(tmp_path):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = [helper.make_function("f", "f0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)]
    for i in range(1, 40):
        calls = [helper.make_node(f"f{i - 1}", [a], [b], domain="f") for a, b in (("a", "c"), ("c", "b"))]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["b"], calls, opsets))
    x, y = (helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy")
    made = helper.make_graph([helper.make_node("f39", ["x"], ["y"], domain="f")], "g", [x], [y])
    model = helper.make_model(made, opset_imports=opsets, functions=functions)
    model.ir_version = 9
    onnx.save(model, str(tmp_path / "t.onnx"))
    refused(tmp_path / "t.onnx", "steps")


@pytest.mark.parametrize("kind", ["graph", "tensor"])
def test_what_functions_have_for_defaults_is_refused(tmp_path, kind):
    """Loops, chance and weights that lie elsewhere were not seen there."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    of_graph = helper.make_graph(
        [helper.make_node("RandomNormal", [], ["z"], shape=[1, 4])],
        "body",
        [],
        [helper.make_tensor_value_info("z", 1, [1, 4])],
    )
    held = of_graph if kind == "graph" else helper.make_tensor("t", TensorProto.FLOAT, [4], [0.0] * 4)
    default = helper.make_attribute("held", held)
    node = helper.make_node("Relu", ["a"], ["b"])
    function = helper.make_function("f", "f0", ["a"], ["b"], [node], opsets, attribute_protos=[default])
    x, y = (helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy")
    made = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="f")], "g", [x], [y])
    model = helper.make_model(made, opset_imports=opsets, functions=[function])
    model.ir_version = 9
    onnx.save(model, str(tmp_path / "t.onnx"))
    refused(tmp_path / "t.onnx", "functions with graphs or tensors for defaults")


def test_a_folder_of_more_tensors_than_a_policy_can_need_is_refused(tmp_path):
    network = Network(NetworkSpec((2,), 2, hidden=(4,)))
    save_network(tmp_path, network, Categorical(Choices((2,))), name="n")
    file = tmp_path / "n.safetensors"
    safetensors.torch.save_file({f"n.{i}": torch.zeros(0) for i in range(MAX_TENSORS + 1)}, file)
    spec = read_json(tmp_path / "spec.json")
    write_json(tmp_path / "spec.json", spec | {"sha256": digest(file)})
    refused(tmp_path, "more than a policy can need")


def test_a_state_whose_array_numpy_does_not_know_is_one_sentence(tmp_path):
    told = {"state": '{"x": {"array": "w"}}'}
    safetensors.torch.save_file({"w": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "t.safetensors", told)
    with pytest.raises(FileError, match="not a readable safetensors file"):
        read_tensors(tmp_path / "t.safetensors")


def test_loops_are_refused(tmp_path):
    body = helper.make_graph([], "b", [], [])
    node = helper.make_node("Loop", ["", ""], ["y"], body=body)
    refused(graph(tmp_path, [node]), "never end")


def test_names_that_are_not_text_are_refused(tmp_path):
    path = write_onnx(tmp_path / "t.onnx", chain((4, 8, 2), nn.ReLU), torch.zeros(1, 4))
    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read()
    assert data.count(b"q_values") >= 2
    (tmp_path / "t.onnx").write_bytes(data.replace(b"q_values", b"\x80_values"))
    refused(path, "not text|not a readable|not a sound|cannot be run")


def test_two_inputs_are_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, x, h):
            return x + h

    path = str(tmp_path / "t.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Two(), (torch.zeros(1, 4), torch.zeros(1, 4)), path, input_names=["x", "h"], dynamo=False)
    refused(path, "2 inputs")


# -- fuzz


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A sound file of each format."""
    folder = tmp_path_factory.mktemp("seeds")
    torch.save(chain((4, 8, 2), nn.ReLU).state_dict(), folder / "t.pt")
    _, path = vec_normalize(folder, steps=2)
    return {
        ".zip": write_zip(folder / "t.zip", mlp_state(mlp())).read_bytes(),
        ".pt": (folder / "t.pt").read_bytes(),
        ".onnx": Path(write_onnx(folder / "t.onnx", chain((4, 8, 2), nn.ReLU), torch.zeros(1, 4))).read_bytes(),
        ".pkl": Path(path).read_bytes(),
        "folder": folder,
    }


def attack(seeds, suffix, edits, cut):
    """Writes damaged bytes and reads them: a sound answer or an error of ours, nothing else."""
    data = bytearray(seeds[suffix])
    for at, value in edits:
        data[at % len(data)] = value
    path = seeds["folder"] / f"fuzz{suffix}"
    path.write_bytes(bytes(data[: len(data) - cut % len(data)]))
    try:
        if suffix == ".pkl":
            vecnormalize.read(path)
        else:
            load_teacher(TeacherFile(str(path), activation="relu" if suffix in (".pt", ".zip") else None))
    except DistilError as error:
        sentence = str(error)
        assert sentence.endswith("."), sentence


EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8)
CUT = st.one_of(st.just(0), st.integers(0, 1 << 20))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".zip", ".pt", ".onnx", ".pkl"])
def test_damaged_bytes_never_get_past_the_readers(seeds, suffix):
    examples = int(os.environ.get("DISTILRL_FUZZ", "150"))

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(EDITS, CUT)
    def run(edits, cut):
        attack(seeds, suffix, edits, cut)

    run()


def test_the_seeds_themselves_are_read(seeds):
    for suffix in (".zip", ".pt", ".onnx", ".pkl"):
        path = seeds["folder"] / f"sound{suffix}"
        path.write_bytes(seeds[suffix])
        if suffix == ".pkl":
            assert vecnormalize.read(path)[0].mean.shape == (4,)
        else:
            load_teacher(TeacherFile(str(path), activation="relu" if suffix == ".pt" else None))


def test_bytes_in_memory_need_no_file():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    assert list(archive.read_state_dict(buffer.getvalue(), "it")) == ["a"]

"""Teachers: what is read is what was written, what is hostile or damaged is refused, nothing is executed."""

import io
import json
import os
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, real_teacher, sign_network
from torch import nn

from distilrl.checkpoints import load_network, save_network
from distilrl.cli import main
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import FileError, TeacherError
from distilrl.heads import Categorical
from distilrl.networks import build
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher, TeacherFile, archive, load_teacher
from distilrl.teachers.members import family
from distilrl.teachers.vecnormalize import unused

PIXELS = (4, 84, 84)


def nature(n_actions=6):
    convs = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, n_actions))


def mlp():
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def cnn_state(net):
    names = {"0": "features_extractor.cnn.0", "2": "features_extractor.cnn.2", "4": "features_extractor.cnn.4"}
    names |= {"7": "features_extractor.linear.0", "9": "q_net.0"}
    return {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in net.state_dict().items()}


def mlp_state(net):
    return {f"q_net.{k}": v for k, v in net.state_dict().items()}


def write_zip(path, state, *, module="stable_baselines3.dqn.policies", kwargs=None, extra=None, policy=None):
    """A zip as stable-baselines3 writes it: online and target network under prefixes, the rest of no interest."""
    tensors = {f"{prefix}.{k}": v for k, v in state.items() for prefix in ("q_net", "q_net_target")}
    buffer = io.BytesIO()
    torch.save(tensors if policy is None else policy, buffer)
    data = {
        "policy_class": {":type:": "x", ":serialized:": "gASVnot-decoded", "__module__": module},
        "policy_kwargs": kwargs or {},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("_stable_baselines3_version", "2.9.2")
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def test_an_mlp_zip_gives_its_own_forward_pass(tmp_path):
    net = mlp()
    teacher = load_teacher(write_zip(tmp_path / "t.zip", mlp_state(net), kwargs={"net_arch": [8, 8]}))
    obs = torch.randn(50, 2) * 3
    torch.testing.assert_close(teacher.network(obs), net(obs).detach(), rtol=0, atol=1e-5)
    assert (teacher.kind, teacher.format) == ("q", "stable-baselines3 DQN 2.9.2")


@pytest.mark.parametrize("normalise", [True, False])
def test_a_cnn_zip_gives_its_own_forward_pass(tmp_path, normalise):
    net = nature()
    kwargs = {} if normalise else {"normalize_images": False}
    teacher = load_teacher(write_zip(tmp_path / "t.zip", cnn_state(net), kwargs=kwargs))
    obs = torch.randint(0, 256, (5, *PIXELS), dtype=torch.uint8)
    expected = net(obs.float() / 255 if normalise else obs.float()).detach()
    torch.testing.assert_close(teacher.network(obs), expected, rtol=1e-4, atol=1e-5)
    assert teacher.params == 1_687_206


@pytest.mark.parametrize(
    ("name", "params"), [("cartpole", 67_586), ("acrobot", 68_355), ("pong", 1_687_206), ("breakout", 1_686_180)]
)
def test_real_zips(name, params):
    path = real_teacher(f"{name}-dqn-sb3.zip")
    teacher = load_teacher(path)
    assert teacher.params == params
    with zipfile.ZipFile(path) as archive:
        raw = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    if teacher.network.spec.convs:
        obs = torch.randint(0, 256, (5, *PIXELS), dtype=torch.uint8)
        net = nature(teacher.network.spec.outputs)
        net.load_state_dict({k: raw[f"q_net.{v}"] for k, v in zip(net.state_dict(), cnn_state(net), strict=True)})
        expected = net(obs.float() / 255)
    else:
        obs = torch.randn(50, teacher.network.spec.obs_shape[0])
        x = obs
        for layer in ("0", "2", "4"):
            x = x.relu() if layer != "0" else x
            x = x @ raw[f"q_net.q_net.{layer}.weight"].T + raw[f"q_net.q_net.{layer}.bias"]
        expected = x
    torch.testing.assert_close(teacher.network(obs), expected.detach(), rtol=1e-4, atol=1e-5)


def environment(shape, action):
    return EnvInfo(EnvRef("some"), ObsSpec(shape), action)


class Burglar:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_a_zip_is_not_executed(tmp_path):
    mark = tmp_path / "was-here"
    path = write_zip(tmp_path / "t.zip", {}, policy={"q_net.q_net.0.weight": Burglar(str(mark))})
    with pytest.raises(FileError, match=r"policy\.pth"):
        load_teacher(path)
    assert not mark.exists()


def test_names_that_climb_out_are_never_followed(tmp_path):
    load_teacher(write_zip(tmp_path / "t.zip", mlp_state(mlp()), extra={"../climbed": b"x", "/tmp/climbed": b"x"}))
    assert not (tmp_path.parent / "climbed").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(FileError, match="more than a policy can need"):
        load_teacher(write_zip(tmp_path / "t.zip", mlp_state(build(NetworkSpec((2,), 2, hidden=(64, 64))).layers)))


def damaged(tmp_path):
    good = write_zip(tmp_path / "good.zip", mlp_state(mlp())).read_bytes()
    nan = mlp_state(mlp())
    nan["q_net.0.weight"][0, 0] = float("nan")
    odd = mlp_state(mlp()) | {"q_net.0.weight": torch.zeros(8)}
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    (tmp_path / "truncated.zip").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    return {
        "truncated": tmp_path / "truncated.zip",
        "text": tmp_path / "text.txt",
        "empty": tmp_path / "empty.zip",
        "other": tmp_path / "other.zip",
        "folder": tmp_path / "folder",
        "missing": tmp_path / "missing.zip",
        "nan": write_zip(tmp_path / "nan.zip", nan),
        "odd": write_zip(tmp_path / "odd.zip", odd),
        "nothing": write_zip(tmp_path / "nothing.zip", {}),
        "activation": write_zip(
            tmp_path / "act.zip", mlp_state(mlp()), kwargs={"activation_fn": {":serialized:": "x"}}
        ),
        "list": write_zip(tmp_path / "list.zip", {}, policy=[1, 2]),
        "cut off": cut_off(tmp_path / "cut.zip"),
    }


def cut_off(path):
    """A zip whose copying ended behind a member that is a torch file, a zip itself."""
    torch.save(mlp().state_dict(), path.with_name("inner.pth"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.write(path.with_name("inner.pth"), "policy.pth")
        end = archive.fp.tell()
    path.write_bytes(path.read_bytes()[:end])
    return path


@pytest.mark.parametrize(
    "kind", ["truncated", "text", "empty", "other", "folder", "missing", "nan", "odd", "nothing", "activation", "list",
             "cut off"]
)  # fmt: skip
def test_damaged_files_get_one_sentence(tmp_path, kind):
    path = damaged(tmp_path)[kind]
    with pytest.raises(FileError) as caught:
        load_teacher(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert kind != "cut off" or "may be truncated" in message
    assert kind != "empty" or "is empty" in message


@pytest.mark.parametrize("name", ["policy.pt", "policy.pth", "policy.cleanrl_model", "policy.pkl"])
@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x80\x04]."])
def test_a_bare_pickle_is_what_begins_as_one(tmp_path, name, data):
    """Nothing at all and a picture were called one where the name was of PyTorch."""
    (tmp_path / name).write_bytes(data)
    pickled = data.startswith(b"\x80") or (data and name.endswith(".pkl"))
    with pytest.raises(FileError, match="bare pickle" if pickled else "is of no known format" if data else "is empty"):
        load_teacher(tmp_path / name)


def test_a_program_of_torch_export_is_named(tmp_path):
    path = tmp_path / "policy.pt2"
    torch.export.save(torch.export.export(mlp(), (torch.zeros(1, 2),)), path)
    with pytest.raises(FileError, match=r"is a program of torch\.export, which is not read: export the policy to ONNX"):
        load_teacher(path)
    shutil.copyfile(path, tmp_path / "policy.pt")
    with pytest.raises(FileError, match=r"is a program of torch\.export"):
        load_teacher(tmp_path / "policy.pt")


@pytest.mark.parametrize("graph", [False, True])
def test_an_export_is_named(tmp_path, graph):
    (tmp_path / "export.json").write_text("{}")
    if graph:
        (tmp_path / "policy.onnx").touch()
    with pytest.raises(FileError, match=r"is an export: distilrl verify \S+ replays and plays it") as refused:
        load_teacher(tmp_path)
    assert ("policy.onnx is a policy like any other" in str(refused.value)) is graph


def test_our_format_gives_back_what_was_saved(tmp_path, random_network):
    random_network.standardise(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5]))
    save_network(tmp_path / "n", random_network, Categorical(Choices((2,))), name="teacher", env=SIGN)
    teacher = load_teacher(tmp_path / "n")
    obs = torch.randn(20, 2) * 5
    torch.testing.assert_close(teacher.network(obs), random_network(obs).detach(), rtol=1e-4, atol=1e-4)
    assert teacher.meta["env"] == SIGN
    with pytest.raises(FileError, match="leave --normalizer out"):
        load_teacher(TeacherFile(str(tmp_path / "n"), normalizer="vec.pkl"))


@pytest.mark.parametrize("harm", ["digest", "spec", "format", "missing", "climb", "shape"])
def test_damage_to_our_format_is_refused(tmp_path, random_network, harm):
    folder = tmp_path / "n"
    save_network(folder, random_network, Categorical(Choices((2,))))
    spec = json.loads((folder / "spec.json").read_text())
    if harm == "digest":
        with (folder / "student.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
    elif harm == "spec":
        (folder / "spec.json").write_text("{")
    elif harm == "format":
        (folder / "spec.json").write_text(json.dumps(spec | {"format": "other"}))
    elif harm == "missing":
        (folder / "student.safetensors").unlink()
    elif harm == "climb":
        (tmp_path / "student.safetensors").write_bytes((folder / "student.safetensors").read_bytes())
        (folder / "student.safetensors").unlink()
        (folder / "spec.json").write_text(json.dumps(spec | {"weights": "../student.safetensors"}))
    else:
        (folder / "spec.json").write_text(json.dumps(spec | {"network": spec["network"] | {"outputs": 7}}))
    with pytest.raises(FileError):
        load_network(folder)


def test_what_we_say_of_a_teacher_no_file_says(tmp_path, random_network, capsys):
    """A spec.json of somebody else's, whose members were a text, was an error of ours."""
    save_network(tmp_path / "n", random_network, Categorical(Choices((2,))), name="teacher")
    spec = json.loads((tmp_path / "n" / "spec.json").read_text())
    told = {"of_members": "x", "observation": 7, "library": ["SB3"], "note": 1, "dangerous": True, "env": "Mine-v0"}
    (tmp_path / "n" / "spec.json").write_text(json.dumps(spec | told))
    teacher = load_teacher(tmp_path / "n")
    assert teacher.members == {}
    assert teacher.meta == {
        "library": "distilrl",
        "algorithm": None,
        "version": None,
        "not_executed": [],
        "env": "Mine-v0",
    }
    assert main(["inspect", str(tmp_path / "n")]) == 0
    assert "Mine-v0" in capsys.readouterr().out


def test_a_network_that_goes_on_being_trained_is_left_alone():
    """Teachers are frozen, folded and moved about; whoever made one of a live network keeps that as it was."""

    class Locked(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    live, module = sign_network(), nn.Linear(2, 2)
    live.standardise(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5]))
    teachers = make_teacher(live), Teacher.from_callable(module, 2, obs_shape=(2,))
    for one, teacher in zip((live, module), teachers, strict=True):
        assert one.training
        assert all(p.requires_grad for p in one.parameters())
        torch.testing.assert_close(teacher.network(torch.eye(2)), one(torch.eye(2)).detach(), check_stride=False)
        with torch.no_grad():
            next(one.parameters()).add_(1.0)
        assert not torch.equal(teacher.network(torch.eye(2)), one(torch.eye(2)))
    assert live.obs_mean.tolist() == [1.0, 2.0]
    assert replace(teachers[0]).network is teachers[0].network
    with pytest.raises(TeacherError, match=r"cannot be copied \(RuntimeError\): give a function"):
        Teacher.from_callable(Locked(2, 2), 2)


def test_the_same_weights_with_another_activation_are_another_teacher(tmp_path, random_network):
    """So a run is not resumed with it."""
    save_network(tmp_path / "one", random_network, Categorical(Choices((2,))))
    digests = []
    for name in ("one", "one", "two"):
        spec = json.loads((tmp_path / "one" / "spec.json").read_text())
        spec["network"]["activation"] = "tanh" if name == "two" else spec["network"]["activation"]
        (tmp_path / "one" / "spec.json").write_text(json.dumps(spec))
        digests.append(load_teacher(tmp_path / "one").digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_teacher_is_frozen(sign_teacher):
    values = sign_teacher.network(torch.randn(4, 2))
    assert not values.requires_grad
    assert not sign_teacher.network.training
    assert not any(p.requires_grad for p in sign_teacher.network.parameters())


def test_spaces_that_do_not_fit_are_refused(sign_teacher):
    with pytest.raises(TeacherError, match="observations of shape"):
        sign_teacher.fitted(environment((4,), Choices((2,))))
    with pytest.raises(TeacherError, match="3 numbers"):
        make_teacher(build(NetworkSpec((2,), 3))).fitted(environment((2,), Choices((2,))))
    with pytest.raises(TeacherError, match="2 real numbers"):
        sign_teacher.fitted(environment((2,), Bounds((-1.0, -1.0), (1.0, 1.0))))
    fitted = sign_teacher.fitted(environment((2,), Choices((2,), (5,))))
    assert fitted.action == Choices((2,), (5,))


def test_the_shipped_pong_teacher_is_whole():
    from conftest import ROOT

    teacher = load_teacher(ROOT / "zoo" / "pong-dqn")
    assert teacher.params == 1_687_206
    assert (ROOT / "zoo" / "pong-dqn" / "teacher.safetensors").stat().st_size <= 7_000_000
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, *PIXELS), dtype=np.uint8))
    original = real_teacher("pong-dqn-sb3.zip")
    torch.testing.assert_close(teacher.network(obs), load_teacher(original).network(obs), rtol=1e-5, atol=1e-5)


def test_known_answer(sign_teacher):
    obs = torch.tensor([[2.0, 9.0], [-2.0, 9.0]])
    assert sign_teacher.network(obs).argmax(1).tolist() == [1, 0]
    assert sign_network(-1.0)(obs).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("env", "way"),
    [("Ant-v4", "give --zeros 84"), ("Ant-v5", '"include_cfrc_ext_in_observation": false}\' --zeros 84')],
)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_a_teacher_of_ant_v3_is_told_how_newer_ones_show_what_it_saw(env, way):
    pytest.importorskip("mujoco")
    teacher = Teacher.from_callable(lambda obs: obs[:, :8], obs_shape=(111,))
    with pytest.raises(TeacherError, match=re.escape(way)):
        teacher.fitted(describe_env(env))


def test_a_path_that_is_relative_says_to_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a run is resumed from elsewhere
    with pytest.raises(FileError, match=f"nothing.zip does not exist in {re.escape(str(tmp_path))}: check the path"):
        load_teacher("nothing.zip")


def test_each_member_may_have_a_normalizer_of_its_own(tmp_path):
    """One was put on all of them, and one beside them passed over without a word."""
    for name in ("t/0.zip", "t/1.zip", "t/vecnormalize.pkl", "n/0.pkl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    asked = []

    def load(file):
        asked.append((Path(file.path).name, file.normalizer))
        return make_teacher(sign_network())

    file = TeacherFile(str(tmp_path / "t"), member="m", normalizer=str(tmp_path / "n"))
    with pytest.raises(FileError, match=r"n holds no normalizer of member 1: put it there as 1\.pkl"):
        family(file, load)
    (tmp_path / "n/1.pkl").touch()
    assert unused(family(file, load)) == ()
    assert asked == [("0.zip", str(tmp_path / "n/0.pkl")), ("1.zip", str(tmp_path / "n/1.pkl"))]
    assert unused(family(replace(file, normalizer=None), load)) == (tmp_path / "t/vecnormalize.pkl",)

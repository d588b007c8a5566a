"""Exporting a run: the folder is complete and true or it is not there, and a file is played as its student was."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gymnasium
import instances
import numpy as np
import onnx
import pytest
import torch
from conftest import SIGN, SignEnv, make_teacher, sign_network
from test_export import needs_cc

from distilrl.checkpoints import load_network, save_network
from distilrl.cli import main
from distilrl.comparison import Comparison, compare
from distilrl.config import RewardConfig, TaskFile, TrainConfig
from distilrl.envs import describe_env, trust
from distilrl.envs.sync import _cast
from distilrl.episodes import Play
from distilrl.errors import DistilError, ExtraError, FileError, SpecError
from distilrl.evaluate import VERDICT_SEEDS, play, seeds_from
from distilrl.events import silent
from distilrl.export import JUDGED_ON, _Export, c, export_policy, int8, int8_c, keep, qat, replay, verify, web
from distilrl.export.card import Reference, recorded
from distilrl.export.keep import write_c
from distilrl.export.last import COARSEST, ROUNDINGS, last_step
from distilrl.export.owners import check_owned
from distilrl.export.replay import Answers, ExportedFile, Recording, held, open_export
from distilrl.export.replay import rounding as rounded_by
from distilrl.export.steps import steps
from distilrl.export.verifying import _against
from distilrl.files import digest, read_json, write_json
from distilrl.heads import head_for, student_head
from distilrl.jobs import Job
from distilrl.networks import Network, build
from distilrl.objective import TDTerm
from distilrl.plain import to_plain
from distilrl.policies import Policy
from distilrl.runs import RunFolder
from distilrl.sensors import Sensors
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import ACTIVATIONS, NetworkSpec
from distilrl.targets import check_target, targets_of
from distilrl.teachers import TeacherFile
from distilrl.text import in_comment
from distilrl.verdict import RESULTS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
TWO = head_for(Choices((2,)), "q")


class TrackEnv(gymnasium.Env):
    """Four numbers; the first of them say which action pays best. Ten steps an episode, 10 the best return."""

    observation_space = gymnasium.spaces.Box(-100, 100, (4,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([-2, -1]), np.float32([2, 3]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 4).astype(np.float32)
        return self.obs

    def wanted(self):
        low, high = self.action_space.low, self.action_space.high
        return (low + high) / 2 + (high - low) / 2 * np.tanh(self.obs[:2])

    def step(self, action):
        assert self.action_space.contains(action), action
        half = (self.action_space.high - self.action_space.low) / 2
        reward = 1 - float(np.abs((action - self.wanted()) / half).mean())
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


class SeveralEnv(TrackEnv):
    """The same with two choices that do not count from 0."""

    action_space = gymnasium.spaces.MultiDiscrete([2, 3], start=[5, -1])

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(action[0] == 5 + (self.obs[0] > 0)) / 2 + float(action[1] == -1 + 2 * (self.obs[1] > 0)) / 2
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


for kind in (TrackEnv, SeveralEnv):
    if f"distilrl/{kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{kind.__name__}-v0", entry_point=kind, max_episode_steps=50)
TRACK, MANY, NOTED = "distilrl/TrackEnv-v0", "distilrl/SeveralEnv-v0", "distilrl/NotedEnv-v0"
MIXED = "distilrl/MixedEnv-v0"


def right_network(env):
    """The best policy of each environment, in a network, and its head."""
    if env in (SIGN, NOTED):
        return sign_network(), TWO
    if env == MIXED:
        return mixed_network()
    action = describe_env(EnvRef(env)).action
    squash = {"squash": "tanh"} if env == TRACK else {}
    head = head_for(action, "mean" if env == TRACK else "q", **squash)
    network = Network(NetworkSpec((4,), head.width, hidden=(4,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for i in (0, 1):  # x = relu(x) - relu(-x)
            network.layers[0].weight[2 * i, i], network.layers[0].weight[2 * i + 1, i] = 1.0, -1.0
        places = ((0, 1.0), (1, 1.0)) if env == TRACK else ((1, 1.0), (0, -1.0), (4, 1.0), (2, -1.0))
        for place, sign in places:
            which = place if env == TRACK else int(place > 1)
            network.layers[2].weight[place, 2 * which] += sign
            network.layers[2].weight[place, 2 * which + 1] -= sign
    return network.eval(), head


def mixed_network():
    """`right_network` of a picture and numbers beside it, of which one decides."""
    info = describe_env(EnvRef(MIXED))
    head = head_for(info.action, "mean")
    network = Network(NetworkSpec.of("cnn:2k4s4:2", info.obs, head.width))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        place = 2 * 3 * 4 + info.obs.names.index("body.numbers[0]")  # behind the features
        network.layers[3].weight[:, place] = torch.tensor([1.0, -1.0])
        network.layers[5].weight[0] = torch.tensor([1.0, -1.0])
    return network.eval(), head


def run_of(folder, env=SIGN, teachers=(), **changes):
    """A finished run folder whose student is the best policy, and whose teacher played as it did."""
    network, head = right_network(env)
    save_network(folder / "student", network, head, env=env, environment=EnvRef(env).to_json(), recipe="test")
    config = TrainConfig(tasks=(TaskFile(EnvRef(env), teachers),)).but(**changes)
    write_json(folder / "config.json", Job(config).to_json() | {"kind": "run"})
    how = Play(EnvRef(env), epsilon=config.eval_epsilon, sensors=config.student.sensors)
    games = play(Policy(network, head), how, seeds_from(VERDICT_SEEDS, 100))
    returns, starts = games.returns.tolist(), games.starts.tolist()
    results = instances.results(
        verdict=replace(instances.VERDICT, margin=1.0, span=5.0),
        temperature=0.2,
        protocol={"epsilon": config.eval_epsilon},
    )
    results = replace(results, environment=EnvRef(env).to_json())
    results = replace(
        results, teacher=replace(results.teacher, return_mean=10.0), random=replace(results.random, return_mean=5.0)
    )
    write_json(folder / "results.json", results.to_json())
    write_json(folder / "teacher.json", instances.card(acceptance=instances.acceptance(10.0, 5.0)).to_json())
    write_json(folder / "episodes.json", instances.episodes(teacher=returns, student=returns, starts=starts).to_json())
    return folder


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path / "run")


@needs_cc
@pytest.mark.parametrize("env", [SIGN, TRACK, MANY])
@pytest.mark.parametrize("target", ["onnx", "c", "int8", "torch"])
def test_every_target_plays_as_the_student(tmp_path, env, target):
    out = tmp_path / target
    card = export_policy(run_of(tmp_path / "run", env), target, out)
    assert json.loads(json.dumps(card)) == read_json(out / "export.json") | {"path": str(out)}
    assert all(facts["observations"] >= 1000 for facts in card["replay"].values())
    if target != "int8":
        assert all(
            facts["same_action"] == 1.0 and facts["largest_difference"] <= 1e-5 for facts in card["replay"].values()
        )
    assert card["head"] == right_network(env)[1].to_json()
    assert card["environment"] == {"id": env}
    numbers = 2 if env == SIGN else 4
    names = [f"obs[{place}]" for place in range(numbers)]
    assert card["obs"] == {"shape": [numbers], "dtype": "float32", "frames": 1, "image": None, "names": names}
    assert card["sha256"] == {p.name: digest(p) for p in out.iterdir() if p.name != "export.json"}
    result = verify(out)
    assert result.episodes == 100
    assert result.return_mean > 9.0
    assert result.verdict.result == "pass"
    assert result.verdict.confidence == instances.VERDICT.confidence, "as the student's own was taken"
    assert result.verdict.protocol == "greedy"
    if target != "int8":
        assert abs(result.against_student.difference) < 1e-4
    golden = np.load(out / "golden.npz")
    assert len(golden["obs"]) == len(golden["action"]) == 64
    if (out / "example.py").exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = subprocess.run([sys.executable, "example.py"], cwd=out, capture_output=True, text=True, check=True)
        assert "100.0% of 64" in done.stdout or target == "int8"
    if (out / "example.c").exists():
        subprocess.run(["cc", "-O3", "-std=c99", "example.c", "policy.c", "-o", "example"], cwd=out, check=True)
        assert subprocess.run(["./example", "golden.bin"], cwd=out, check=False).returncode == 0


@needs_cc
@pytest.mark.parametrize("target", ["c", "int8"])
def test_verify_sees_what_the_student_saw(tmp_path, target):
    """Noise and random actions of the run are those of the file's episodes: it returns the same."""
    folder = run_of(tmp_path / "run", noise=(0.3, 0.1), dropout=0.2, eval_epsilon=0.1)
    card = export_policy(folder, target)
    assert card["sensors"] == {"noise": [0.3, 0.1], "delay": 0, "dropout": 0.2, "flicker": 0.0}
    assert card["reference"]["epsilon"] == 0.1
    result = verify(card["path"])
    assert result.return_mean < 9.9
    assert abs(result.against_student.difference) < 0.5
    assert target == "int8" or result.against_student.difference == 0.0


@pytest.mark.parametrize("remembers", [False, True])
def test_a_file_is_made_and_held_to_what_the_student_sees(remembers):
    """Its range in integers is that of its sensors."""
    network = sign_network() if not remembers else build(NetworkSpec.parse("gru:3", (2,), 2), torch.Generator())
    policy = Policy(network.eval(), TWO)
    plain = recorded(policy, EnvRef(SIGN), silent)
    seen = recorded(policy, EnvRef(SIGN), silent, sensors=Sensors(noise=(0.0, 10.0)))
    assert len(seen.obs) == len(seen.begins) >= 1000
    assert seen.begins.all() == (not remembers)
    spread, plainly = np.ptp(seen.obs, axis=0), np.ptp(plain.obs, axis=0)
    assert spread[1] > plainly[1] + 20
    assert spread[0] == pytest.approx(plainly[0], rel=0.1)
    late = recorded(policy, EnvRef(SIGN), silent, sensors=Sensors(delay=1)).obs
    starts = np.flatnonzero(recorded(policy, EnvRef(SIGN), silent, sensors=Sensors(delay=1)).begins)
    assert not remembers or (late[starts[:5]] == late[starts[:5] + 1]).all()


@needs_cc
def test_verify_plays_the_environment_that_is_named(tmp_path):
    """That of the verdict where none is; its teacher's returns are of that one alone."""
    folder, longer = run_of(tmp_path / "run"), EnvRef(SIGN, {"max_episode_steps": 5})
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", results | {"verdict_environment": longer.to_json()})
    path = export_policy(folder, "c")["path"]
    judged = verify(path)
    assert (judged.return_mean, judged.verdict is not None) == (5.0, True)
    assert verify(path, longer).verdict is not None
    named = verify(path, SIGN, episodes=60)
    assert (named.return_mean, named.verdict) == (10.0, None)


@needs_cc
def test_verify_knows_an_environment_that_is_another_now(run, tmp_path):
    """The teacher's returns are of episodes that began so: those of a changed environment are not theirs."""
    card = export_policy(run, "c", tmp_path / "out")
    starts = card["reference"]["starts"]
    assert len(set(starts)) > 90
    path = Path(card["path"]) / "export.json"
    for other, refused in (
        ([one + 1e-7 for one in starts], False), ([], False), ([*starts[:-1], starts[-1] + 1.0], True)
    ):  # fmt: skip
        write_json(path, read_json(path) | {"reference": card["reference"] | {"starts": other}})
        if refused:
            with pytest.raises(FileError, match=r"1 of 100 episodes of .* begin otherwise than those whose returns"):
                verify(card["path"])
        else:
            assert verify(card["path"]).verdict is not None


@needs_cc
@pytest.mark.parametrize("steps", [5, 20])
def test_a_file_for_another_environment_has_no_verdict_there(tmp_path, steps):
    """It was held against what the teacher had made in the run's own, and failed where episodes are shorter and passed
    where they are longer.
    """
    other = EnvRef(SIGN, {"max_episode_steps": steps})
    card = export_policy(run_of(tmp_path / "run"), "int8", tmp_path / "out", env=other)
    assert card["environment"] == other.to_json()
    assert all(played["verdict"] is None for played in card["played"].values())
    assert verify(tmp_path / "out", other).verdict is None
    # its sensors are the student's, wherever it plays
    noisy = read_json(tmp_path / "out" / "export.json")
    noisy["sensors"] |= {"noise": [50.0, 0.0]}
    write_json(tmp_path / "out" / "export.json", noisy)
    assert verify(tmp_path / "out", other).return_mean < 0.8 * steps
    noisy["sensors"] |= {"noise": []}
    write_json(tmp_path / "out" / "export.json", noisy)
    judged = verify(tmp_path / "out")  # by itself it plays where the verdict was
    assert judged.return_mean == pytest.approx(10.0, abs=0.4)
    assert judged.verdict.result in RESULTS


@needs_cc
def test_integers_are_judged_where_the_student_was(tmp_path):
    """They were played where it was trained, of which no verdict is known, and the export ended with code 0."""
    folder, longer = run_of(tmp_path / "run"), EnvRef(SIGN, {"max_episode_steps": 5})
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", results | {"verdict_environment": longer.to_json()})
    played = export_policy(folder, "int8")["played"]["policy.c"]
    assert played == verify(folder / "export" / "int8").to_json()
    assert played["return_mean"] == pytest.approx(5.0, abs=0.2)
    assert played["verdict"]["result"] in RESULTS
    elsewhere = export_policy(folder, "int8", env=SIGN)["played"]["policy.c"]
    assert elsewhere["return_mean"] == pytest.approx(10.0, abs=0.4)
    assert elsewhere["verdict"] is None


@needs_cc
@pytest.mark.parametrize("name", ["policy.c", "policy.h"])
def test_a_file_that_is_not_the_cards_is_refused_before_it_is_run(run, name):
    folder = Path(export_policy(run, "c")["path"])
    (folder / name).write_text((folder / name).read_text() + "\n/* improved */\n")
    for path in (folder, folder / "policy.c"):
        with pytest.raises(FileError, match=f"{name} is not the file that .* describes"):
            verify(path)
    assert json.loads((folder / "export.json").read_text())["sha256"]["policy.c"]


@needs_cc
@pytest.mark.parametrize("name", ["policy.onnx", "golden.bin", "golden.npz"])
def test_a_folder_is_verified_whole(run, name):
    """Only its first file is played, and a damaged or missing other one passed with it."""
    folder = Path(export_policy(run, "int8")["path"])
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data + b"x")
    with pytest.raises(FileError, match=rf"{name} is not the file that .* describes \(its SHA-256 differs\)"):
        verify(folder)
    (folder / name).unlink()
    with pytest.raises(FileError, match=rf"{name} is not the file that .* describes \(it is missing\)"):
        verify(folder)
    assert verify(folder / "policy.c", episodes=50).verdict.result == "pass", "a file is played by itself"
    (folder / name).write_bytes(data)
    (folder / "example.c").write_text("/* of one's own */")
    assert verify(folder).verdict.result == "pass"


@needs_cc
def test_actions_out_of_bounds_are_not_played_as_if_they_were_within(tmp_path):
    folder = Path(export_policy(run_of(tmp_path / "run", TRACK), "c")["path"])
    code = (folder / "policy.c").read_text()
    assert "middle[i] + half[i]" in code
    (folder / "policy.c").write_text(code.replace("middle[i] + half[i]", "middle[i] + 1.1f * half[i]"))
    card = read_json(folder / "export.json")
    card["sha256"]["policy.c"] = digest(folder / "policy.c")
    write_json(folder / "export.json", card)
    with pytest.raises(FileError, match="gives actions outside of their bounds"):
        verify(folder)


@needs_cc
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("printf 'erreur: donn\\351e\\n' >&2; exit 1", "does not compile \\(erreur: donn.e\\)"),
        ("echo >&2; exit 1", "does not compile \\(.*wrong-cc\\)"),
        (None, "The compiler .*wrong-cc cannot be run"),
    ],
)
def test_a_compiler_that_misbehaves_is_named(run, tmp_path, monkeypatch, script, message):
    """CC says which is asked."""
    compiler = tmp_path / "wrong-cc"
    compiler.write_bytes(f"#!/bin/sh\n{script}\n".encode() if script else b"\x7fELF")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(FileError, match=message):
        export_policy(run, "c")
    monkeypatch.setenv("CC", "ccache cc")  # more than a program: the usual ones are asked
    assert export_policy(run, "c")["files"]


@needs_cc
def test_integers_are_held_against_choices_as_they_give_them(tmp_path):
    """A state's value, which tells no action from another, made a file whose choices are right look far off."""
    folder = run_of(tmp_path / "run")
    stored = load_network(folder / "student")
    with torch.no_grad():
        stored.network.layers[-1].bias += 100.0
    save_network(folder / "student", stored.network, TWO, env=SIGN, environment=EnvRef(SIGN).to_json(), recipe="test")
    for facts in export_policy(folder, "int8")["replay"].values():
        assert facts["largest_difference"] < 0.05
        assert facts["same_action"] > 0.95


def test_choices_beyond_31_bits_are_no_ints_of_c():
    head = head_for(Choices((3,), (2**33,)), "q")
    with pytest.raises(SpecError, match=r"numbered beyond 31 bits .* export it to onnx"):
        last_step(head).c_body()


@needs_cc
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="access is no matter of owners here")
@pytest.mark.parametrize("name", ["", "policy.c", "policy.h", "export.json"])
def test_a_program_that_somebody_else_may_have_written_is_not_run(run, name, monkeypatch):
    folder = Path(export_policy(run, "c")["path"])
    ran = []
    monkeypatch.setattr("distilrl.export.verifying.open_export", lambda *given: ran.append(given))
    (folder / name).chmod(0o777)
    with pytest.raises(FileError, match=f"{name or 'c'} can be written by other users, .*chmod go-w"):
        verify(folder)
    (folder / name).chmod(0o755)
    stat = Path.stat
    theirs = os.stat_result((0o100644, 0, 0, 1, 54321, 54321, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **how: theirs if path == folder / name else stat(path, **how))
    with pytest.raises(FileError, match=r"belongs to another user \(number 54321\), .*copy the folder"):
        verify(folder / "policy.c")
    assert not ran


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="access is no matter of owners here")
def test_a_private_group_may_write_and_what_root_owns_is_the_systems(tmp_path, monkeypatch):
    import grp
    import pwd

    (tmp_path / "policy.c").write_text("int x;")
    (tmp_path / "policy.c").chmod(0o664)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    user = pwd.struct_passwd(("ada", "x", 4711, 4711, "", "/home/ada", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: user)

    def check(group, members):
        about = os.stat_result((0o100664, 0, 0, 1, 4711, 4711, 0, 0, 0, 0))
        monkeypatch.setattr(Path, "stat", lambda path, **how: about)
        monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((group, "x", gid, members)))
        check_owned(tmp_path / "policy.c")

    check("ada", [])
    check("ada", ["ada"])
    for group, members in (("staff", []), ("ada", ["ada", "bob"])):
        with pytest.raises(FileError, match="can be written by other users"):
            check(group, members)
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    about = os.stat_result((0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **how: about)
    check_owned(tmp_path / "policy.c")


def resealed(folder, model):
    """Another graph in the place of an exported one, with a card that names it."""
    onnx.save(model, str(folder / "policy.onnx"))
    card = read_json(folder / "export.json")
    card["sha256"]["policy.onnx"] = digest(folder / "policy.onnx")
    write_json(folder / "export.json", card)


def hostile(model, how):
    """An exported graph, made hostile or useless."""
    nodes, name = model.graph.node, model.graph.node[0].input[0]
    if how == "custom":
        nodes.insert(0, onnx.helper.make_node("Evil", [name], ["unused"], domain="my.ops"))
        model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    elif how == "random":
        nodes.insert(0, onnx.helper.make_node("RandomNormalLike", [name], ["unused"]))
    elif how == "outside":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret.bin")
    elif how == "outputs":
        del model.graph.output[1]
    elif how == "width":
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    elif how == "shape":
        nodes.append(onnx.helper.make_node("Concat", ["action_values", "action_values"], ["wide"], axis=1))
        nodes.append(onnx.helper.make_node("Identity", ["wide"], ["action_values2"]))
        model.graph.output[0].name = "action_values2"
        for node in nodes[:-2]:
            for names in (node.input, node.output):
                names[:] = ["inner" if n == "action_values" else n for n in names]
        nodes[-2].input[:] = ["inner", "inner"]
        nodes[-1].output[0] = model.graph.output[0].name = "action_values"
        model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    return model


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("custom", "custom operator"),
        ("random", "draws random numbers"),
        ("outside", "outside its own folder"),
        ("outputs", "no policy that distilrl exported"),
        ("width", "not a sound ONNX graph|cannot be run|fails on an observation"),
        ("shape", "other shapes than its card"),
    ],
)
def test_verify_checks_a_graph_as_a_teachers_loader_does(run, how, message):
    folder = Path(export_policy(run, "onnx")["path"])
    (folder / "policy.onnx").chmod(0o666)  # who could have written it does not matter
    verify(folder, episodes=2)
    resealed(folder, hostile(onnx.load(str(folder / "policy.onnx")), how))
    with pytest.raises(FileError, match=message) as caught:
        verify(folder)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("what", ["grows", "whole", "text"])
def test_what_a_graph_remembers_has_the_size_that_it_says(what, run):
    """A state that doubles with each step took memory until there was none."""
    folder = Path(export_policy(run, "onnx")["path"])
    model = onnx.load(str(folder / "policy.onnx"))
    make, kinds = onnx.helper, onnx.TensorProto
    node = {
        "grows": make.make_node("Concat", ["h_in", "h_in"], ["h_out"], axis=0),
        "whole": make.make_node("Cast", ["h_in"], ["h_out"], to=kinds.INT64),
        "text": make.make_node("Cast", ["h_in"], ["h_out"], to=kinds.STRING),
    }[what]
    model.graph.node.append(node)
    model.graph.input.append(make.make_tensor_value_info("h_in", kinds.FLOAT, ["batch", 3]))
    kind = {"grows": kinds.FLOAT, "whole": kinds.INT64, "text": kinds.STRING}[what]
    model.graph.output.append(make.make_tensor_value_info("h_out", kind, ["after", 3]))
    resealed(folder, model)
    with pytest.raises(FileError, match="other shapes than its card names, or other types"):
        verify(folder)


def test_damaged_cards_are_one_sentence_each(run):
    folder = Path(export_policy(run, "onnx")["path"])
    whole = read_json(folder / "export.json")
    measured = {"found": instances.measured().to_json(), "teacher_values": [0.0] * 100}
    endless = measured["found"] | {"verdict": measured["found"]["verdict"] | {"looks": 10**9}}
    for change, message in (
        ({"reference": whole["reference"] | {"measures": [measured | {"found": endless}]}}, "of a measure lie outside"),
        ({"reference": whole["reference"] | {"measures": [measured | {"teacher_values": [0]}]}}, "differ in number"),
        ({"reference": whole["reference"] | {"measures": [{"found": {}}]}}, "measures of .*export.json"),
        ({"sha256": None}, "is damaged"),
        ({"files": 3}, "is damaged"),
        ({"files": {}}, "names no file"),
        ({"files": {"../student/spec.json": 1}}, "is not the file"),
        ({"obs": {"shape": ["x"]}}, "is damaged"),
        ({"head": {"kind": "dice"}}, "must be an object whose 'kind'"),
        ({"head": None}, "is no card"),
        ({"environment": {"id": 3}}, "environment of"),
        ({"reference": {"teacher_returns": [1]}}, "is damaged"),
        ({"reference": whole["reference"] | {"student_returns": [1.0, 2.0]}}, "is damaged"),
        ({"reference": whole["reference"] | {"student_returns": [float("nan")] * 100}}, "return of teacher or student"),
        ({"reference": whole["reference"] | {"student_returns": [1e308] * 100}}, "return of teacher or student"),
        ({"reference": whole["reference"] | {"starts": [0.0]}}, "starts of the teacher differ in number"),
        ({"reference": whole["reference"] | {"margin": "4"}}, "margin of .*export.json"),
        ({"reference": whole["reference"] | {"looks": 1.5}}, "looks of .*export.json"),
        *(
            ({"reference": whole["reference"] | {name: number}}, "lie outside of what there is")
            for name, number in [
                ("margin", 0),
                ("margin", 1e300),
                ("span", 0),
                ("looks", 0),
                ("looks", 10**9),
                ("after", -5),
                ("after", 10**30),
            ]
        ),
    ):
        (folder / "export.json").write_text(json.dumps(whole | change))  # which writes NaN too
        with pytest.raises(DistilError, match=message):
            verify(folder)
    write_json(folder / "export.json", [])
    with pytest.raises(FileError, match="is no card"):
        verify(folder)


@needs_cc
def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    honest = c.write

    def wrong(layers, *more):
        return honest([*layers[:-1], type(layers[-1])(-layers[-1].weight, *list(vars(layers[-1]).values())[1:])], *more)

    monkeypatch.setattr(c, "write", wrong)
    with pytest.raises(FileError, match="not kept"):
        export_policy(run, "c", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_plays_as_the_student_gets_the_students_verdict():
    """Teacher's episodes that differ and return the same counted as one, and equal play had no uncertainty."""
    same = np.ones(100)
    games = instances.games(same, fingerprints=[*range(18), *[99] * 82])
    known = Reference(
        same, same, same.view(np.uint64), 0 * same, 0.05, 1.0, 1, 0, "greedy", None, 0.01, EnvRef(SIGN), ()
    )  # fmt: skip
    assert _against(games, known, exact=False)[0].distinct == 19
    verdict, own = _against(games, replace(known, teacher_units=np.arange(100, dtype=np.uint64)), exact=False)
    assert (verdict.result, verdict.distinct, own.difference) == ("pass", 100, 0.0)
    assert own.difference_ci95[0] < 0 < own.difference_ci95[1]
    # one that loses says so, of all starts too
    lost = instances.games([0.0] * 100, fingerprints=range(100))
    for exact in (True, False):
        verdict, own = _against(lost, replace(known, teacher_units=np.arange(100, dtype=np.uint64)), exact=exact)
        assert (verdict.result, verdict.difference, own.difference) == ("fail", -1.0, -1.0)
        assert own.difference_ci95[0] <= -1.0 <= own.difference_ci95[1]
    info = describe_env(SIGN)
    teacher = make_teacher(sign_network()).fitted(info)
    found = compare(
        teacher, Policy(sign_network(), TWO), Play(info.ref), Comparison(100, 100, 0), instances.acceptance(), info
    )
    assert len(set(found.episodes.returns.teacher_units)) == 100, "starts differ, and all return 10"


@needs_cc
def test_a_compiler_sees_the_policy_and_nothing_beside_it(run, tmp_path, monkeypatch):
    """A precompiled header beside policy.h took its place, whoever had put it there."""
    folder, seen = Path(export_policy(run, "c")["path"]), []
    (folder / "policy.h.gch").write_bytes(b"of somebody else")
    honest = replay.compiled

    def watched(command):
        seen.append({path.name for path in Path(command[-3]).parent.iterdir()})
        return honest(command)

    monkeypatch.setattr(replay, "compiled", watched)
    monkeypatch.setattr(replay, "_LOADED", {})
    verify(folder, episodes=2)
    assert seen == [{"policy.c", "policy.h"}]


@needs_cc
def test_a_file_is_compiled_once_in_a_process_and_anew_when_its_text_is_another(run, tmp_path, monkeypatch):
    export = Path(export_policy(run, "c")["path"])
    first, other = (shutil.copytree(export, tmp_path / name) / "policy.c" for name in ("first", "other"))
    text = other.read_text()
    other.write_text(text.replace("policy_values(const", "policy_values (const", 1))
    assert other.read_text() != text
    seen = []
    honest = replay.compiled
    monkeypatch.setattr(replay, "compiled", lambda command: (seen.append(command), honest(command))[1])
    monkeypatch.setattr(replay, "_LOADED", {})
    for path, count in ((first, 1), (first, 1), (export / "policy.c", 1), (other, 2), (first, 2)):
        replay.Library(path)
        assert len(seen) == count
    replay.Library(first, native=True)
    assert len(seen) == 3


def test_a_history_that_no_onnx_file_may_hold_is_refused_before_it_is_played():
    """It was written, and then said to be no file of ours."""
    large, usual = (NetworkSpec.parse(f"mlp:4@history={n}", (7056,), 2) for n in (150, 100))
    assert targets_of(usual) == ["onnx", "c", "int8", "web"]
    with pytest.raises(SpecError, match=r"more than 1,048,576 numbers, which no ONNX file of it may: export it to c"):
        check_target(large, "int8")
    assert targets_of(large) == ["c", "web"]
    hidden = replace(large, unseen=tuple(range(7000)))
    assert targets_of(hidden) == ["onnx", "c", "int8", "web"], "it holds what it sees"


def test_no_compiler_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileError, match="compiler"):
        export_policy(run, "c", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_run_or_no_export_is_refused(tmp_path, run):
    for call in (lambda: export_policy(tmp_path, "onnx"), lambda: verify(tmp_path), lambda: export_policy(run, "wasm")):
        with pytest.raises(DistilError):
            call()
    folder = Path(export_policy(run, "onnx")["path"])
    (folder / "policy.txt").write_text("no policy")
    card = read_json(folder / "export.json")
    card["sha256"]["policy.txt"] = digest(folder / "policy.txt")
    write_json(folder / "export.json", card)
    with pytest.raises(FileError, match="is none of the files that"):
        verify(folder / "policy.txt")


def test_a_student_whose_environment_is_not_named_or_another_is_refused(tmp_path):
    save_network(tmp_path / "student", sign_network(), TWO)
    with pytest.raises(FileError, match="does not say in which environment"):
        export_policy(tmp_path, "onnx")
    assert export_policy(tmp_path, "onnx", env=SIGN)["env"] == SIGN
    with pytest.raises(FileError, match=r"reads observations of shape \(2,\)"):
        export_policy(tmp_path, "c", env=TRACK)


def test_a_student_of_a_function_is_exported_beside_it(tmp_path):
    ref = EnvRef("TrackEnv", factory=TrackEnv)
    network, head = right_network(TRACK)
    save_network(tmp_path / "student", network, head, env=ref.label, environment=ref.to_json())
    card = export_policy(tmp_path, "onnx", env=ref)
    assert verify(card["path"], ref, episodes=5).return_mean > 9.9


@pytest.fixture
def bare(tmp_path):
    """A run folder with nothing but a student."""
    save_network(tmp_path / "run" / "student", sign_network(), TWO, env=SIGN, environment={"id": SIGN})
    return tmp_path / "run"


def test_the_student_of_an_unfinished_run_is_exported_without_a_verdict(bare):
    export_policy(bare, "onnx")
    result = verify(bare / "export" / "onnx", episodes=10)
    assert (result.verdict, result.return_mean) == (None, 10.0)


@needs_cc
@pytest.mark.parametrize("target", ["c", "int8"])
def test_the_student_of_an_unfinished_run_sees_through_its_sensors(tmp_path, target):
    """Without a verdict it was recorded, rounded and verified as if there were none."""
    folder = run_of(tmp_path / "run", noise=(50.0, 0.0))
    (folder / "results.json").unlink()
    assert "reference" not in (card := export_policy(folder, target))
    assert card["sensors"]["noise"] == [50.0, 0.0]
    assert verify(card["path"], episodes=60).return_mean < 9.0


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
        ({"example/main.c": "my firmware", "export.json": '{"format": "distilrl-export"}'}, "holds 'example'"),
    ],
)
def test_an_export_deletes_nothing_of_the_users(bare, tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text(text)
    before = everything(tmp_path)
    with pytest.raises(FileError, match=message):
        export_policy(bare, "onnx", tmp_path / "home")
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
    monkeypatch.setattr(keep, "write_golden", lambda *_a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_policy(bare, "torch", out)
    monkeypatch.undo()
    assert everything(out) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    (out / ".DS_Store").write_bytes(b"a file manager was here")
    (out / "example").write_bytes(b"compiled as its first line says")
    export_policy(bare, "torch", out)
    assert sorted(everything(out)) == ["example.py", "export.json", "golden.npz", "policy.pt2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_what_killed_exports_left_is_cleared_up_and_the_earlier_one_put_back(bare, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_policy(bare, "onnx", out)
    first = everything(out)
    killed, at_work, own = (tmp_path / f".out.export-{name}" for name in ("a1b2c3d_", "x1y2z3w4", "settings"))
    for folder in (killed, at_work):
        (folder / "new").mkdir(parents=True)
        (folder / "new/policy.onnx").write_bytes(b"half of it")
    own.mkdir()
    (own / "thesis.tex").write_text("years of work")
    (tmp_path / ".out.export-anybodys/old").mkdir(parents=True)
    (tmp_path / ".out.export-anybodys").chmod(0o777)  # nothing that others may write is put anywhere
    out.rename(killed / "old")  # as far as it came
    monkeypatch.setattr(keep, "write_golden", lambda *_a: 1 / 0)
    with RunFolder(at_work).lock(), pytest.raises(ZeroDivisionError):
        export_policy(bare, "torch", out)
    assert everything(out) == first
    (tmp_path / ".out.export-anybodys/old").rmdir()
    (tmp_path / ".out.export-anybodys").rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [own.name, at_work.name, "out", "run"]
    monkeypatch.undo()
    export_policy(bare, "torch", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [own.name, "out", "run"]
    assert sorted(everything(out)) == ["example.py", "export.json", "golden.npz", "policy.pt2"]


def needs(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"not here: {', '.join(missing)} (apt install clang lld chromium gcc-arm-none-eabi)"
    )


def cartpole_run(folder):
    """A run folder whose student balances CartPole by a linear rule."""
    network = Network(NetworkSpec((4,), 2, hidden=(2,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight.copy_(torch.tensor([[0.1, 0.3, 1.0, 1.0], [-0.1, -0.3, -1.0, -1.0]]))
        network.layers[2].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    save_network(folder / "student", network, TWO, env="CartPole-v1", environment={"id": "CartPole-v1"}, recipe="test")
    return folder


PAGES = {
    "squashed": (head_for(Bounds((-2.0, -1.0), (2.0, 3.0)), "mean", "tanh"), TRACK),
    "several": (head_for(Choices((2, 3), (5, -1), "MultiDiscrete", (2,)), "q"), MANY),
}


@needs("clang", "wasm-ld")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_the_student(tmp_path, name, activation):
    head, env = PAGES[name]
    network = build(NetworkSpec((4,), head.width, hidden=(8,), activation=activation), torch.Generator().manual_seed(0))
    save_network(tmp_path / "student", network, head, env=env, environment={"id": env})
    page = (Path(export_policy(tmp_path, "web")["path"]) / "index.html").read_text(encoding="utf-8")
    assert "__DATA__" not in page
    assert not re.search(r'(src|href)="', page), "the page must open offline"
    if shutil.which("node") is None:
        pytest.skip("there is no node to run the page's script")
    around = (
        "const els = {}; const document = {getElementById: i => els[i] ??= {}, body: {dataset: {}}}; "
        "globalThis.setInterval = () => 0;"
    )
    script = page.split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.js").write_text(f"{around}\n{script}\nconsole.log(els.check.textContent, els.shown.textContent);")
    shown = subprocess.run(["node", str(tmp_path / "page.js")], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("64 of 64 actions as expected")
    assert re.search(r"action of observation 1: -?\d[\d.]*, -?\d", shown)


def test_a_page_has_a_stack_for_wide_layers(monkeypatch):
    """Of vectors they are on it, and went over what lies below."""
    head, obs = head_for(Choices((2,)), "q"), ObsSpec((1,))
    network = build(NetworkSpec.parse("mlp:20000", (1,), 2), torch.Generator().manual_seed(0))
    source = c.write(steps(network, "c"), head, obs, "a test")
    assert (source.scratch_bytes, source.stack_bytes) == (0, 4 * 20_000 + 4 * 2)
    asked = []
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(
        subprocess, "run", lambda words, **_: asked.extend(words) or subprocess.CompletedProcess(words, 1, "", "")
    )
    with pytest.raises(FileError, match="does not compile the policy"):
        web.wasm(source, last_step(head))
    (size,) = [word.partition("stack-size=")[2] for word in asked if "stack-size=" in word]
    assert int(size) >= web.STACK + source.stack_bytes


@needs("clang", "wasm-ld")
def test_the_page_plays_no_other_environment_and_is_verified_whole(tmp_path):
    plain = Path(export_policy(cartpole_run(tmp_path / "run"), "web")["path"])
    assert '"cartpole": 500' in (plain / "index.html").read_text(encoding="utf-8")
    wrapped = cartpole_run(tmp_path / "wrapped")
    spec = read_json(wrapped / "student" / "spec.json")
    environment = {"id": "CartPole-v1", "wrappers": ["gymnasium.wrappers:FlattenObservation"]}
    write_json(wrapped / "student" / "spec.json", spec | {"environment": environment})
    trust("gymnasium")
    other = Path(export_policy(wrapped, "web")["path"])
    assert '"cartpole": 0' in (other / "index.html").read_text(encoding="utf-8")
    verify(plain, episodes=2)
    (plain / "index.html").write_text("another")
    with pytest.raises(FileError, match=r"index\.html is not the file that"):
        verify(plain)


@needs_cc
def test_two_policies_are_one_program(run, tmp_path):
    for side in ("left", "right"):
        shutil.copytree(export_policy(run, "c")["path"], tmp_path / side, dirs_exist_ok=True)
        names = "".join(f"#define policy_{name} {side}_{name}\n" for name in ("act", "values"))
        (tmp_path / f"{side}.c").write_text(f'{names}#include "{side}/policy.c"\n')
    size = read_json(tmp_path / "left" / "export.json")["obs"]["shape"][0]
    (tmp_path / "main.c").write_text(
        "int left_act(const float *obs);\nint right_act(const float *obs);\n"
        f"int main(void) {{ float obs[{size}] = {{0}}; return left_act(obs) - right_act(obs); }}\n"
    )
    words = ["cc", "-std=c99", "-Wall", "-Werror", "main.c", "left.c", "right.c", "-o", "both"]
    subprocess.run(words, cwd=tmp_path, check=True)
    subprocess.run(["./both"], cwd=tmp_path, check=True)


@needs("clang", "wasm-ld", "chromium")
def test_the_page_plays_in_a_browser(tmp_path):
    page = Path(export_policy(cartpole_run(tmp_path / "run"), "web")["path"]) / "index.html"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=2000"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-same="64"' in shown
    assert float(re.search(r'data-mean="([\d.]+)"', shown)[1]) > 450


class PictureEnv(gymnasium.Env):
    """Says at which side a picture of 3×12×12 bytes is brighter; an episode is one picture."""

    observation_space = gymnasium.spaces.Box(0, 255, (3, 12, 12), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, brightest=255):
        self.brightest = brightest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.picture = self.np_random.integers(0, self.brightest + 1, (3, 12, 12)).astype(np.uint8)
        return self.picture, {}

    def step(self, action):
        return self.picture, 1.0, True, False, {}

    def get_action_meanings(self):
        return ["left", "<right>"]


def picture_run(folder):
    """A run folder whose student looks at a column on either side, of one colour."""
    network = Network(NetworkSpec((3, 12, 12), 2, convs=((2, 12, 1),)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 1, :, 2] = network.layers[0].weight[1, 1, :, 9] = 1e-3
        network.layers[3].weight.copy_(torch.eye(2))
    name = "distilrl/Picture-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=PictureEnv)
    head = head_for(Choices((2,)), "logits")
    save_network(folder / "student", network, head, env=name, environment={"id": name})
    return folder


def test_what_the_choices_are_called_is_known_where_it_is_said(tmp_path):
    picture_run(tmp_path)
    assert describe_env("distilrl/Picture-v0").protocol["actions"] == ["left", "<right>"]
    assert "actions" not in describe_env("CartPole-v1").protocol


def test_short_episodes_are_checked_on_as_many_states_as_long_ones(tmp_path):
    picture_run(tmp_path)
    head = head_for(Choices((2,)), "logits")
    policy = Policy(load_network(tmp_path / "student").network, head)
    seen = recorded(policy, EnvRef("distilrl/Picture-v0"), lambda event: None).obs
    assert len(np.unique(seen.reshape(len(seen), -1), axis=0)) == len(seen) == 1000


def test_a_file_comes_with_observations_of_the_environment_that_is_named(tmp_path):
    named = ["--env", "distilrl/Picture-v0", "--env-kwargs", '{"brightest": 7}']
    assert main(["export", str(picture_run(tmp_path)), "--to", "onnx", *named]) == 0
    with np.load(tmp_path / "export/onnx/golden.npz") as golden:
        assert golden["obs"].max() == 7


DROPPED = """<img src="HOST/held">
<script>
new MutationObserver(() => { new Image().src = "HOST/answered"; })
  .observe(document.getElementById("note"), { childList: true });
const board = document.createElement("canvas"); board.width = 36; board.height = 24;
const brush = board.getContext("2d"); brush.fillStyle = "#000"; brush.fillRect(0, 0, 36, 24);
brush.fillStyle = "#fff"; brush.fillRect(COLUMN * 3, 0, 3, 24);
board.toBlob(blob => {
  const carried = new DataTransfer(); carried.items.add(new File([blob], "drawn.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried }));
});
</script>"""


@contextmanager
def holding():
    """Address of a server: a page that shows its image ``held`` is not loaded before it asks for ``answered``."""
    answered = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            answered.wait(60) if self.path == "/held" else answered.set()
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.handle_error = lambda *_: None  # of a browser that has ended meanwhile
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def dumped(page, tmp_path, *flags):
    """What a browser makes of a page."""
    (tmp_path / "shown.html").write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *flags]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "shown.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def answered(page, dropped, tmp_path):
    """What it makes of a page once an image was dropped."""
    with holding() as host:
        return dumped(page.replace("</body>", dropped.replace("HOST", host) + "</body>"), tmp_path)


@needs("clang", "wasm-ld", "chromium")
@pytest.mark.parametrize(("column", "said"), [(2, "left"), (9, "&lt;right&gt;")])
def test_a_page_takes_an_image_in(tmp_path, column, said):
    page = Path(export_policy(picture_run(tmp_path / "run"), "web")["path"]) / "index.html"
    shown = answered(page.read_text(), DROPPED.replace("COLUMN", str(column)), tmp_path)
    assert 'data-same="64"' in shown
    assert shown.count('aria-label="image ') == 24
    assert f'data-said="{said}"' in shown.replace("<right>", "&lt;right&gt;")
    assert "drawn.png, shrunk to 12 × 12" in shown
    # (255 · 12 · 1e-3) against 0: the logits' difference is 3.06
    assert "95.5 %" in shown
    assert "4.5 %" in shown


class NotedEnv(SignEnv):
    """One that says what whoever ships a student of it must know."""

    metadata = {"note": "Not a <toy>."}  # noqa: RUF012


@needs("cc", "clang", "wasm-ld")
def test_what_an_environment_says_of_itself_ships(tmp_path):
    """The page of a diagnosis took images in and said nowhere that it is none."""
    if NOTED not in gymnasium.registry:
        gymnasium.register(NOTED, entry_point=NotedEnv)
    folder = run_of(tmp_path / "run", NOTED)
    page = Path(export_policy(folder, "web")["path"])
    assert "<strong>Not a &lt;toy>.</strong>" in (page / "index.html").read_text()
    assert (
        "   Not a <toy>.\n" in (page / "policy.c").read_text() or "Not a <toy>. */" in (page / "policy.c").read_text()
    )
    plain = Path(export_policy(run_of(tmp_path / "other", TRACK), "web")["path"])
    assert "<strong>" not in (plain / "index.html").read_text()


def page_of(network, head, obs, states, **more):
    """The page of a student by itself."""
    numbers, last = network.eval()(torch.from_numpy(states)).detach(), last_step(head)
    answers = Answers(numbers.numpy(), last.shifted(head.greedy(numbers).numpy()))
    module = web.wasm(c.write(steps(network, "c"), head, obs, "a test"), last)
    return web.page(module, "any", "small", last, states, answers, **more)


def test_names_and_notes_stay_text_in_a_page():
    """A comment that begins a script kept the page's own from ending, and a note could name what is filled in."""
    last, states = last_step(TWO), np.zeros((3, 2), np.float32)
    answers = Answers(np.zeros((3, 2), np.float32), np.zeros((3, 1), np.int64))
    text = web.page(b"", "any <!--<script>", "small __NOTE__", last, states, answers, note="see __DATA__")
    data = re.search("const data = (.*);", text)[1]
    assert "<" not in data
    assert json.loads(data)["env"] == "any <!--<script>"
    assert "<strong>see __DATA__</strong>" in text
    assert text.count("small __NOTE__") == 3
    assert text.count("<script") == 1


SECONDS = "--virtual-time-budget=2000"
COUNTED = """<script>
const counted = document.getElementById("board"), shades = {};
const seen = counted.getContext("2d").getImageData(0, 0, counted.width, counted.height).data;
for (let i = 0; i < seen.length; i += 4) {
  const shade = seen.slice(i, i + 3).join("-");
  shades[shade] = (shades[shade] ?? 0) + 1;
}
document.body.dataset.shades = Object.entries(shades).sort().map(one => one.join("x")).join(" ");
</script></body>"""


@needs("clang", "wasm-ld", "chromium")
@pytest.mark.parametrize(
    ("channels", "frames", "shades"), [(4, 4, "10-10-10x6 200-200-200x66"), (3, 1, "90-10-10x6 90-10-200x66")]
)
def test_a_page_shows_the_newest_frame_as_it_is(tmp_path, channels, frames, shades):
    obs = ObsSpec((channels, 8, 9), (channels, 8, 9), "uint8", frames=frames)
    two = student_head(Choices((2, 2)))
    network = build(NetworkSpec(obs.shape, 4, convs=((2, 3, 1),), hidden=(4,)), torch.Generator().manual_seed(0))
    states = np.full((3, *obs.shape), 90, np.uint8)
    states[:, -1] = 200
    states[:, -2] = 10
    states[:, -1, :2, :3] = 10
    page = page_of(network, two, obs, states, frames=frames).replace("</body>", COUNTED)
    assert f'data-shades="{shades}"' in dumped(page, tmp_path, SECONDS)


@needs("clang", "wasm-ld", "chromium")
@pytest.mark.parametrize(("grey", "said"), [(True, "-1"), (False, "0")])
def test_a_page_takes_colours_away_as_the_environment_does(tmp_path, grey, said):
    """Red is 54 of 255 in Gymnasium's grey, 76 in that of pictures."""
    obs = ObsSpec((1, 6, 6), (1, 6, 6), "uint8")
    head = head_for(Choices((2,), (-1,)), "logits")
    network = build(NetworkSpec(obs.shape, 2, convs=((2, 6, 1),)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[1] = 1 / 36
        network.layers[-1].weight.copy_(torch.eye(2))
        network.layers[-1].bias.copy_(torch.tensor([65.0, 0.0]))
    states = np.arange(3 * 36, dtype=np.uint8).reshape(3, 1, 6, 6)
    page = page_of(network, head, obs, states, image=web.about_image(obs, head, (), grey=grey))
    red = DROPPED.replace(
        'brush.fillStyle = "#fff"; brush.fillRect(COLUMN * 3, 0, 3, 24);',
        'brush.fillStyle = "#f00"; brush.fillRect(0, 0, 36, 24);',
    )
    shown = answered(page, red, tmp_path)
    assert "drawn.png, shrunk to 6 × 6" in shown
    assert f'data-said="{said}"' in shown


@needs("clang", "wasm-ld", "chromium")
def test_a_page_shows_a_board_of_cells(tmp_path):
    obs = ObsSpec((5, 8, 9), (5, 8, 9), "uint8")
    network = build(NetworkSpec(obs.shape, 2, convs=((2, 3, 1),), hidden=(4,)), torch.Generator().manual_seed(0))
    states = np.random.default_rng(0).integers(0, 2, (3, *obs.shape)).astype(np.uint8)
    dom = dumped(page_of(network, TWO, obs, states), tmp_path, SECONDS)
    assert 'data-same="3"' in dom
    assert re.search(r'<canvas id="board"[^>]* width="9" height="8"', dom)


@needs("arm-none-eabi-gcc")
@pytest.mark.parametrize("target", ["c", "int8"])
def test_c_compiles_for_a_microcontroller(tmp_path, target):
    folder = Path(export_policy(cartpole_run(tmp_path / "run"), target)["path"])
    flags = [
        "-mcpu=cortex-m4",
        "-mthumb",
        "-std=c99",
        "-Os",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-c",
        "policy.c",
        "-o",
        "policy.o",
    ]
    subprocess.run(["arm-none-eabi-gcc", *flags], cwd=folder, check=True)


def test_a_page_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("distilrl.modules.shutil.which", lambda _name: None)
    with pytest.raises(FileError, match="clang and wasm-ld"):
        export_policy(cartpole_run(tmp_path / "run"), "web")


@pytest.mark.parametrize("env", [SIGN, TRACK, MANY])
def test_litert_answers_as_the_student_or_names_its_extra(tmp_path, env):
    folder = run_of(tmp_path / "run", env)
    try:
        import litert_torch  # noqa: F401
    except ImportError:
        with pytest.raises(ExtraError, match=r"distilrl\[litert\]"):
            export_policy(folder, "tflite")
        return
    assert export_policy(folder, "tflite")["replay"]["policy.tflite"]["same_action"] == 1.0


def rounding(monkeypatch, *means):
    """Makes floats and integers return these means where they are judged, one after the other."""
    told = iter(means)

    def mean_return(_self, _policy, seeds=JUDGED_ON):
        return next(told) if seeds == JUDGED_ON else 0.0

    monkeypatch.setattr(_Export, "_mean_return", mean_return)


@pytest.fixture(autouse=True)
def hardly_tuned(monkeypatch):
    """What tuning gains is told to these tests by `rounding`, or asked elsewhere."""
    monkeypatch.setattr(qat, "UPDATES", 50)


@pytest.fixture
def taught(tmp_path):
    """A run whose teacher is at hand."""
    save_network(tmp_path / "teacher", sign_network(), TWO, name="teacher")
    return run_of(tmp_path / "run", teachers=(TeacherFile(str(tmp_path / "teacher")),))


@needs_cc
def test_integers_that_lose_return_are_fine_tuned(taught, tmp_path, monkeypatch):
    rounding(monkeypatch, 10.0, 9.9, 10.0, 9.9)
    card = export_policy(taught, "int8")
    assert card["fine_tuned"] is True
    assert read_json(taught / "export" / "int8" / "export.json")["fine_tuned"] is True
    assert [path.name for path in (taught / "export").iterdir()] == ["int8"]
    shutil.rmtree(tmp_path / "teacher")
    rounding(monkeypatch, 10.0, 9.9)
    assert "fine_tuned" not in export_policy(taught, "int8")


@needs_cc
def test_integers_of_values_that_rewards_taught_are_not_tuned_towards_the_teachers(taught, monkeypatch):
    """A student with a term of rewards is on their scale, its teacher's labels on another."""
    config = read_json(taught / "config.json")
    config["train"]["terms"].append(to_plain(TDTerm("double_td")))
    config["train"]["optim"]["n_step"] = 1
    write_json(taught / "config.json", config)
    rounding(monkeypatch, 10.0, 9.9)
    assert "fine_tuned" not in export_policy(taught, "int8")


@needs_cc
@pytest.mark.parametrize("tuned", [False, True])
def test_integers_of_a_picture_and_numbers_are_tuned_and_played(tmp_path, monkeypatch, tuned):
    network, head = mixed_network()
    save_network(tmp_path / "teacher", network, head, name="teacher")
    folder = run_of(tmp_path / "run", MIXED, (TeacherFile(str(tmp_path / "teacher")),))
    rounding(monkeypatch, *((10.0, 9.9, 10.0) if tuned else (10.0, 10.0)))
    card = export_policy(folder, "int8")
    assert card.get("fine_tuned", False) == tuned
    for name in ("policy.c", "policy.onnx"):
        played = card["played"][name]
        assert played["return_mean"] > 9.5
        assert played["verdict"]["result"] == "pass"


@needs_cc
@pytest.mark.parametrize("means", [(10.0, 9.96), (10.0, 9.9, 9.8, 9.9)], ids=["lose no return", "return no more"])
def test_integers_stay_as_calibrated_where_they(taught, monkeypatch, means):
    rounding(monkeypatch, *means)
    assert "fine_tuned" not in export_policy(taught, "int8")


@needs_cc
def test_the_verdict_of_integers_is_taken_once_and_nothing_is_chosen_by_it(taught, monkeypatch):
    """What was chosen on the verdict's own seeds would pass there more often than it should."""
    played, honest = [], play

    def noted(policy, how, seeds, **others):
        played.append(set(seeds))
        return honest(policy, how, seeds, **others)

    monkeypatch.setattr("distilrl.export.play", noted)
    card = export_policy(taught, "int8")
    verdict = set(range(VERDICT_SEEDS, VERDICT_SEEDS + 1000))
    assert played
    assert not any(seeds & verdict for seeds in played)
    assert set(card["played"]) == {"policy.c", "policy.onnx"}


@needs_cc
def test_a_tuned_candidate_that_fails_its_replay_leaves_the_calibrated_one(taught, monkeypatch):
    rounding(monkeypatch, 10.0, 9.9, 10.0, 9.9)
    replays = []
    honest = keep._replayed

    def failing(*args):
        replays.append(args[0])
        if len(replays) == 1:
            raise FileError("policy.c does not answer as the student does")
        return honest(*args)

    monkeypatch.setattr(keep, "_replayed", failing)
    card = export_policy(taught, "int8")
    assert "fine_tuned" not in card
    assert len(replays) == 3
    assert "fine_tuned" not in read_json(taught / "export" / "int8" / "export.json")
    assert [path.name for path in (taught / "export").iterdir()] == ["int8"]


def test_what_a_run_shipped_before_it_went_on_is_not_its_student(tmp_path, capsys):
    folder = run_of(tmp_path / "run")
    (folder / "results.json").unlink()
    assert main(["export", str(folder), "--to", "onnx"]) == 0
    assert "the run has not ended" in capsys.readouterr().err
    assert main(["verify", str(folder / "export" / "onnx"), "--episodes", "3"]) == 3, "nothing is proven"
    network, head = right_network(SIGN)
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    save_network(folder / "student", network, head, env=SIGN, environment=EnvRef(SIGN).to_json(), recipe="test")
    assert main(["verify", str(folder / "export" / "onnx")]) == 2
    assert "another student than" in " ".join(capsys.readouterr().err.split())


def test_verify_on_the_command_line_wraps_the_environment_that_it_names(tmp_path, capsys):
    wrapped = EnvRef(SIGN, wrappers=("gymnasium.wrappers:FlattenObservation",))
    folder = run_of(tmp_path / "run")
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", results | {"environment": wrapped.to_json()})
    card = export_policy(folder, "onnx", env=wrapped)
    assert main(["verify", card["path"], "--env", SIGN, "--wrapper", wrapped.wrappers[0]]) == 0
    assert "verdict: pass" in capsys.readouterr().err
    assert main(["verify", card["path"], "--env", SIGN, "--episodes", "3"]) == 3
    assert "no verdict" in capsys.readouterr().err


class FarEnv(SignEnv):
    """SignEnv whose numbers lie far from 0, as temperatures in kelvin and prices do."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def _observe(self):
        return super()._observe() + np.float32(1000.0)


class DoubleEnv(SignEnv):
    """Real actions whose ends no float has; it takes no others."""

    action_space = gymnasium.spaces.Box(-0.4, 0.4, (1,), np.float64)

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"{action} lies outside")
        return super().step(int(action[0] > 0))


for made in (FarEnv, DoubleEnv):
    gymnasium.register(f"distilrl/{made.__name__}-v0", entry_point=made, max_episode_steps=10)
FAR, DOUBLES = (f"distilrl/{name}Env-v0" for name in ("Far", "Double"))


@needs_cc
@pytest.mark.parametrize("text", ["mlp:32,32", "gru:8"])
@pytest.mark.parametrize("target", ["c", "onnx"])
def test_numbers_far_from_zero_may_cancel(tmp_path, text, target):
    """What a student subtracts lies in its bias, so that its own last digits are rounded away: no file is held to
    more of them than the student has.
    """
    info = describe_env(FAR)
    network = build(NetworkSpec.of(text, info.obs, 2), torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        network.layers[-1].weight.mul_(10)
    network.standardise(torch.full((2,), 1000.0), torch.ones(2))
    save_network(tmp_path / "student", network, TWO, env=FAR, environment=EnvRef(FAR).to_json())
    card = export_policy(tmp_path, target)
    (found,) = card["replay"].values()
    assert found["same_action"] > 0.99
    assert found["largest_difference"] < 1e-3


@needs_cc
def test_a_student_that_is_rounded_away_is_refused_and_told_why(tmp_path):
    """A clock in seconds since 1970 beside a number that varies by 1."""
    info = describe_env(FAR)
    network = build(NetworkSpec.of("mlp:16", info.obs, 2), torch.Generator().manual_seed(1)).eval()
    network.standardise(torch.full((2,), 1000.0), torch.full((2,), 1e4))
    save_network(tmp_path / "student", network, TWO, env=FAR, environment=EnvRef(FAR).to_json())
    network = load_network(tmp_path / "student").network
    seen = Recording.of((1000.0 + 1e-4 * np.random.default_rng(0).normal(size=(200, 2))).astype(np.float32))
    policy = Policy(network, TWO)
    numbers = seen.numbers(policy)
    assert (ROUNDINGS * rounded_by(policy, seen, numbers) / last_step(TWO).scales(numbers.numpy())).max() > COARSEST
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        wrong.layers[-1].weight.neg_()
    write_c(tmp_path, c.write(steps(wrong, "c"), TWO, info.obs, "wrong"))
    with pytest.raises(FileError, match=r"whose own numbers are rounded by up to .* subtracts its mean"):
        keep._replayed("policy.c", open_export(tmp_path / "policy.c", TWO, 2), Policy(network, TWO), seen, "c")


@needs_cc
def test_a_file_is_not_played_where_observations_or_actions_are_others(run, tmp_path):
    """A pointer to bytes where floats are read goes beyond their end, and a choice of three is no action of two."""
    for target in ("c", "onnx"):
        out = export_policy(run, target)["path"]
        with pytest.raises(FileError, match="is not for the actions of distilrl/DoubleEnv-v0: These are 2 actions"):
            verify(out, DOUBLES, episodes=2)
        card = read_json(Path(out) / "export.json")
        write_json(Path(out) / "export.json", card | {"obs": card["obs"] | {"dtype": "uint8"}})
        with pytest.raises(FileError, match=r"reads observations of uint8, but .* gives float32"):
            verify(out, SIGN, episodes=2)
    with pytest.raises(FileError, match=r"is not for the actions of .*; name the right environment\."):
        export_policy(run, "onnx", tmp_path / "other", env=DOUBLES)
    assert not (tmp_path / "other").exists()
    with pytest.raises(FileError, match=r"is none of the files that .* says can be played: policy\.c"):
        verify(run / "export" / "c" / "example.c")


@needs_cc
def test_integers_are_played_where_a_group_may_write(run, monkeypatch):
    """What this process has just written, in a folder that nobody could enter, is its own whatever the umask."""

    def others(*_):
        raise FileError("can be written by other users")

    monkeypatch.setattr("distilrl.export.card.check_owned", others)
    out = export_policy(run, "int8")["path"]
    with pytest.raises(FileError, match="other users"):
        verify(out)


@pytest.mark.parametrize("place", [".", "..", "../here"])
def test_an_export_does_not_take_the_place_of_the_folder_one_is_in(run, tmp_path, monkeypatch, place):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileError, match="is where you are, or around it: name a folder to write inside it"):
        export_policy(run, "onnx", place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run"]


@needs_cc
def test_a_path_that_begins_with_a_dash_is_no_option(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_policy(run, "c", "-out")["path"] == "-out"


def test_a_policy_that_remembers_is_shown_one_episode(tmp_path):
    """Where every episode has one step, the next observation is another's, which memory knows nothing of."""
    obs = np.arange(20, dtype=np.float32).reshape(10, 2)
    single = Recording.of(obs)
    assert len(single.few(5, remembers=True).obs) == 1
    assert len(single.few(5, remembers=False).obs) == 5


def test_an_action_stays_within_ends_that_no_float_has():
    space = DoubleEnv.action_space
    for end in (-0.4, 0.4):
        taken = _cast(np.array([end], np.float32), space)
        assert space.contains(taken)
        assert taken[0] == pytest.approx(end)
    switches = gymnasium.spaces.Box(0, 1, (4,), bool)
    assert _cast(np.float32([0.0, 0.1, 0.6, 1.0]), switches).tolist() == [False, False, True, True]
    large = gymnasium.spaces.Box(0, 2**31 - 1, (2,), np.int32)  # the nearest float is 2³¹
    assert _cast(np.float32([2**31, 7.4]), large).tolist() == [2**31 - 1, 7]
    head = head_for(describe_env(DOUBLES).action, "mean")
    policy = Policy(build(NetworkSpec((2,), 1), torch.Generator().manual_seed(0)), head)
    with torch.no_grad():
        policy.network.layers[-1].bias.fill_(5.0)
    assert len(play(policy, Play(EnvRef(DOUBLES)), seeds_from(0, 4)).returns) == 4


def test_a_name_ends_no_comment():
    for text in ("a */ b", "a *\\ b", "/* a", "a ??/", "a \\"):
        shown = in_comment(text)
        assert "*/" not in shown
        assert "/*" not in shown
        assert not shown.endswith("\\")


def test_a_cell_behind_many_inputs_is_refused_as_a_layer_is():
    """Of 112,896 bytes a sum may be larger than 32 bits hold."""
    spec = NetworkSpec.of("cnn:16k3s1:+gru:2", ObsSpec((1, 84, 84), (1, 84, 84), "uint8"), 2)
    network = build(spec, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        network.cell.inputs.weight.fill_(0.01)
    obs = np.full((4, 1, 84, 84), 255, np.uint8)
    with pytest.raises(SpecError, match="32 bits"):
        int8.quantise(steps(network, "int8"), obs)


@needs_cc
def test_integers_of_a_cell_behind_convolutions_are_those_of_their_c(tmp_path):
    obs = ObsSpec((1, 8, 8), (1, 8, 8), "uint8")
    network = build(NetworkSpec.of("cnn:4k3s2:+gru:3", obs, 2), torch.Generator().manual_seed(0)).eval()
    seen = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    integers = int8.quantise(steps(network, "int8"), seen)
    write_c(tmp_path, int8_c.write(integers, TWO, obs, "small"))
    answers = open_export(tmp_path / "policy.c", TWO, 64)(seen)
    np.testing.assert_allclose(integers.values(seen), answers.values, rtol=1e-6)


def test_real_actions_without_bounds_are_measured_by_their_spread():
    """Ten times larger numbers, off by as large a share of them, are as near as before."""
    last = last_step(head_for(Bounds((None, -1.0), (None, 1.0)), "mean"))
    theirs = np.stack([np.linspace(-50.0, 50.0, 101), np.linspace(-1.0, 1.0, 101)], axis=1).astype(np.float32)
    near = last.distance(theirs * np.float32(1.01), theirs)
    assert near == pytest.approx(np.sqrt(0.5 * (0.01**2 + np.square(0.01 * theirs[:, 1]).mean())), rel=1e-3)


@needs_cc
@pytest.mark.parametrize(
    ("low", "high", "squash", "weights", "bias"),
    [
        ((-0.01, -2000.0), (0.01, 2000.0), "clip", (0.02, 5000.0), (0.0, 0.0)),
        ((101324.0, -1.0), (101326.0, 1.0), "clip", (0.5, 1.0), (101325.0, 0.0)),
        ((101324.0, -1.0), (101326.0, 1.0), "tanh", (3.0, 1.0), (0.0, 0.0)),
        ((-1e-5, -1.0), (1e-5, 1.0), "clip", (1e-5, 1.0), (0.0, 0.0)),
    ],
)
def test_a_real_action_is_held_to_its_own_range(tmp_path, low, high, squash, weights, bias):
    """Beside a large number a small one could be anything, and so could one whose range is small and far from 0."""
    info = ObsSpec((4,))
    head = head_for(Bounds(low, high), "mean", squash)
    network = build(NetworkSpec.of("mlp:16", info, 2), torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        network.layers[-1].weight.mul_(torch.tensor(weights)[:, None])
        network.layers[-1].bias.copy_(torch.tensor(bias))
    policy, seen = (
        Policy(network, head),
        Recording.of(np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)),
    )
    right = steps(network, "c")
    for name, last in (("right", right[-1].weight), ("wrong", right[-1].weight * [[0.0], [1.0]])):
        (tmp_path / name).mkdir()
        changed = [*right[:-1], replace(right[-1], weight=last.astype(np.float32))]
        write_c(tmp_path / name, c.write(changed, head, info, name))
        answers = open_export(tmp_path / name / "policy.c", head, 4)(seen.obs)
        numbers = seen.numbers(policy)
        found = held(answers, numbers, head, rounded=rounded_by(policy, seen, numbers))
        assert found.alike == (name == "right")
        # what ships beside it finds the same
        golden = zip(last_step(head).golden(head.greedy(numbers).numpy()), seen.obs, strict=True)
        (tmp_path / name / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in golden))
        command = ["cc", "-O2", "-std=c99", "example.c", "policy.c", "-o", "example"]
        subprocess.run(command, cwd=tmp_path / name, check=True)
        done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path / name, check=False, capture_output=True)
        assert (done.returncode == 0) == (name == "right"), done.stdout


def test_what_comes_of_a_number_that_did_not_vary_but_by_rounding():
    """It was blown up by 1e8, so that its first real change was cut off at a millionth."""
    rng = np.random.default_rng(0)
    still = (np.zeros(100), rng.normal(0, 1e-17, 100), rng.normal(0, 1e-8, 100), np.full(100, 300.0))
    seen = np.stack([rng.normal(0, 1, 100), *still, 300 + rng.integers(-1, 2, 100) * 3.05e-5], axis=1)
    entry = int8.Entry.of(seen.astype(np.float32))
    assert entry.gain[1:].tolist() == [127.0] * 5
    assert entry.zero[4:] == pytest.approx([300.0, 300.0])


class ClockEnv(SignEnv):
    """SignEnv of 700 steps whose second number says how many there were."""

    observation_space = gymnasium.spaces.Box(-1000, 1000, (2,), np.float32)

    def _observe(self):
        obs = super()._observe()
        obs[1] = self.steps
        return obs

    def step(self, action):
        obs, reward, _, *rest = super().step(action)
        return obs, reward, self.steps >= 700, *rest


CLOCK = "distilrl/ClockEnv-v0"
if CLOCK not in gymnasium.registry:
    gymnasium.register(CLOCK, entry_point=ClockEnv)


@pytest.mark.parametrize("sensors", [Sensors(), Sensors(dropout=0.1)], ids=["exact", "lossy"])
@pytest.mark.parametrize("text", ["mlp:3", "gru:3", "mlp:3@history=2"])
def test_files_are_made_and_held_on_all_of_an_episode(text, sensors):
    """Of what remembers, or has sensors, the first 125 steps alone were seen: integers took what drifts for still."""
    policy = Policy(build(NetworkSpec.parse(text, (2,), 2), torch.Generator()).eval(), TWO)
    seen = recorded(policy, EnvRef(CLOCK), silent, sensors=sensors)
    clock = seen.obs[:, 1]
    assert (clock.min(), clock.max()) == (0.0, 699.0)
    assert len(seen.obs) == (4000 if policy.remembers else 1000)
    if policy.remembers:
        begins = np.flatnonzero(seen.begins)
        assert begins.tolist() == list(range(0, 4000, 500)), "stretches of 500, of which four are ends of episodes"
        assert clock[begins].tolist() == [0.0, 200.0] * 4


def test_of_large_observations_a_thousand_are_recorded():
    assert len(recorded(Policy(Remembers(), TWO), EnvRef("distilrl/WideEnv-v0"), silent).obs) == 1000


class Remembers(torch.nn.Module):
    def start(self, count):
        return (torch.zeros(count, 1),)

    def forward(self, obs, state):
        return torch.stack([state[0][:, 0], 1 - state[0][:, 0]], 1), state


class WideEnv(SignEnv):
    observation_space = gymnasium.spaces.Box(-1, 1, (4000,), np.float32)

    def _observe(self):
        super()._observe()
        return np.zeros(4000, np.float32)


if "distilrl/WideEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/WideEnv-v0", entry_point=WideEnv)


@pytest.mark.parametrize("text", ["gru:3", "lstm:2", "mlp:3@history=3"])
def test_stretches_are_asked_about_side_by_side(text):
    policy = Policy(build(NetworkSpec.parse(text, (2,), 2), torch.Generator().manual_seed(0)).eval(), TWO)
    rng = np.random.default_rng(0)
    begins = rng.random(400) < 0.3
    seen = Recording(rng.normal(size=(400, 2)).astype(np.float32), begins)
    rows, state = [], policy.start(1)
    for obs, fresh in zip(torch.from_numpy(seen.obs), begins, strict=True):
        row, state = policy.forward(obs[None], policy.start(1) if fresh else state)
        rows.append(row)
    torch.testing.assert_close(seen.numbers(policy), torch.cat(rows))


def test_a_file_is_asked_about_no_more_than_memory_holds():
    """A thousand images at once were more than a right file might take."""
    asked = []

    def step(obs, state):
        asked.append(len(obs))
        return Answers(np.zeros((len(obs), 2), np.float32), np.zeros((len(obs), 1), np.int64)), state

    found = ExportedFile(step)(np.zeros((1000, 2), np.float32))
    assert (len(found.values), len(found.actions), sum(asked)) == (1000, 1000, 1000)
    assert max(asked) <= 64

    class Seen(torch.nn.Module):
        def forward(self, obs):
            asked.append(len(obs))
            return obs

    assert len(Recording.of(np.zeros((130, 2), np.float32)).numbers(Policy(Seen(), TWO))) == 130
    assert max(asked) <= 64


@pytest.mark.parametrize(
    "values",
    [[[750.0, 750.002], [750.004, 750.0]], [[0.0, 1.0, 0.5, -1e6], [1.0, 0.0, 0.5, -1e6]]],
    ids=["a large offset", "a mask"],
)
def test_a_file_that_takes_all_choices_for_equal_is_none(values):
    """What tells them apart may be a hundred thousandth of the largest number."""
    numbers = torch.tensor(values).repeat(50, 1)
    head = head_for(Choices((numbers.shape[1],)), "q")
    same = numbers.mean(1, keepdim=True).expand_as(numbers) if numbers.shape[1] == 2 else numbers.clamp(max=0.0)
    always = Answers(same.numpy().copy(), np.zeros((100, 1), np.int64))
    assert not held(always, numbers, head, rounded=1e-5).alike
    right = Answers(numbers.numpy(), numbers.argmax(1, keepdim=True).numpy())
    assert held(right, numbers, head, rounded=1e-5).alike


@needs_cc
def test_the_card_of_tuned_integers_speaks_of_the_student(tmp_path):
    """Not of the network that they were tuned to, which ships nowhere."""
    info, seen = describe_env(SIGN), Recording.of(np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32))
    tuned = copy.deepcopy(sign_network())
    with torch.no_grad():
        tuned.layers[-1].weight.neg_()
    write_c(tmp_path, c.write(steps(tuned, "c"), TWO, info.obs, "tuned"))
    file = open_export(tmp_path / "policy.c", TWO, 2)
    told = keep._replayed("policy.c", file, Policy(tuned, TWO), seen, "int8", Policy(sign_network(), TWO))
    assert told["same_action"] == 0.0
    assert keep._replayed("policy.c", file, Policy(tuned, TWO), seen, "int8")["same_action"] == 1.0


@needs_cc
@pytest.mark.parametrize("change", [{"noise": (0.1, 0.1)}, {"delay": 1}, {"reward": RewardConfig(env_steps=640)}])
def test_integers_are_tuned_where_the_teacher_is_asked_about_what_it_sees(tmp_path, monkeypatch, change):
    """Its labels of what came late or noisy are not what the student was taught, and neither are a reward's."""
    save_network(tmp_path / "teacher", sign_network(), TWO, name="teacher")
    folder = run_of(tmp_path / "run", teachers=(TeacherFile(str(tmp_path / "teacher")),), **change)
    rounding(monkeypatch, 10.0, 9.9)
    assert "fine_tuned" not in export_policy(folder, "int8")


def test_what_integers_cannot_hold_is_refused_before_it_is_played(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    network = build(NetworkSpec.parse("mlp:4@tanh", (2,), 2), torch.Generator())
    save_network(folder / "student", network, TWO, env=SIGN, environment=EnvRef(SIGN).to_json())
    monkeypatch.setattr("distilrl.export.recorded", lambda *_args, **_more: 1 / 0)
    with pytest.raises(SpecError, match="Only ReLU students can be written in integers"):
        export_policy(folder, "int8")


@needs_cc
def test_the_example_of_integers_answers_as_its_own_file(tmp_path):
    """It ran the graph beside what the C had said."""
    folder, out = run_of(tmp_path / "run", TRACK), tmp_path / "int8"
    drawn = build(NetworkSpec.parse("mlp:32,32", (4,), 2), torch.Generator().manual_seed(0))
    save_network(folder / "student", drawn, right_network(TRACK)[1], env=TRACK, environment=EnvRef(TRACK).to_json())
    export_policy(folder, "int8", out)
    done = subprocess.run([sys.executable, "example.py"], cwd=out, capture_output=True, text=True, check=True)
    assert "100.0% of 64" in done.stdout


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_asks_for_no_photo_where_a_board_is_seen(channels):
    """Its cells are 0 or 1, and bytes of a photo are none."""
    head = head_for(Choices((2,)), "logits")
    seen = ObsSpec((channels, 6, 6), (channels, 6, 6), "uint8", reach=(255.0,))
    assert web.about_image(seen, head, ())["image"] == (channels, 6, 6)
    assert web.about_image(replace(seen, reach=(1.0,)), head, ()) == {}


@needs("clang", "wasm-ld")
def test_a_policy_too_large_for_a_page_is_refused(tmp_path, monkeypatch):
    """Chromium compiles no more than 8 MB while a page waits, which stayed at 'loading the policy'."""
    monkeypatch.setattr(web, "AT_ONCE", 100)
    with pytest.raises(FileError, match=r"browsers compile no more than 100 while a page is read: export it to onnx"):
        export_policy(cartpole_run(tmp_path / "run"), "web")
    assert not (tmp_path / "run" / "export" / "web").exists()


@needs("clang", "wasm-ld", "chromium")
def test_a_page_says_that_it_cannot_run(tmp_path):
    page = (Path(export_policy(cartpole_run(tmp_path / "run"), "web")["path"]) / "index.html").read_text()
    broken = re.sub(r'"wasm": ?"[^"]*"', '"wasm": "AAAA"', page)
    assert broken != page
    assert "this browser cannot run the policy: " in dumped(broken, tmp_path)


@needs("clang", "wasm-ld")
def test_a_page_plays_no_cartpole_that_its_student_sees_late(tmp_path):
    """Its return stood beside a verdict of play through sensors."""
    folder = cartpole_run(tmp_path / "run")
    assert '"cartpole": 500' in (Path(export_policy(folder, "web")["path"]) / "index.html").read_text()
    late = instances.results(protocol={"epsilon": 0.0})
    config = TrainConfig(tasks=(TaskFile(EnvRef("CartPole-v1")),)).but(delay=3)
    write_json(folder / "config.json", Job(config).to_json() | {"kind": "run"})
    write_json(folder / "results.json", replace(late, environment={"id": "CartPole-v1"}).to_json())
    write_json(folder / "episodes.json", instances.episodes().to_json())
    assert '"cartpole": 0' in (Path(export_policy(folder, "web")["path"]) / "index.html").read_text()

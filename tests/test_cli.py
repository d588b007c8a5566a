"""The command line, as a user meets it."""

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import gymnasium
import pytest
import torch
from conftest import SIGN, real_teacher, sign_network
from tiny_envs import LINEAR, SLOPE

from distilrl.checkpoints import digest, read_json, read_tensors, save_network, save_tensors, write_json
from distilrl.cli import main
from distilrl.envs import single
from distilrl.envs.make import _describe
from distilrl.heads import Categorical, Point
from distilrl.networks import Network, build
from distilrl.runs import read_metrics
from distilrl.spaces import Bounds, Choices
from distilrl.specs import NetworkSpec

CHOICE = Categorical(Choices((2,)))
SHORT = ["--steps", "4000", "--episodes", "20", "--disturbed-episodes", "5", "--threads", "1"]


@pytest.fixture
def teacher(tmp_path):
    save_network(tmp_path / "teacher", sign_network(), CHOICE, name="teacher")
    return str(tmp_path / "teacher")


def distill(teacher, out, *more, env=SIGN, student="mlp:8"):
    return main(["distill", "--teacher", teacher, "--env", env, "--student", student, "--out", str(out), *SHORT, *more])


def test_from_teacher_to_report(teacher, tmp_path, capsys):
    out = tmp_path / "run"
    assert distill(teacher, out) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / "report.html")
    assert "verdict: pass" in printed.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Pass. The student keeps the score." in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the report must open offline"
    assert "<svg" in page
    assert "not finished" not in page
    # the same folder cannot be written twice, and resuming a finished run gives the same results
    assert distill(teacher, out) == 2
    assert "already holds a run" in capsys.readouterr().err
    before = json.loads((out / "results.json").read_text())
    assert main(["distill", "--resume", str(out)]) == 0
    after = json.loads((out / "results.json").read_text())
    assert after["student"]["return_mean"] == before["student"]["return_mean"]
    # its configuration gives the run again
    copy = Path(shutil.copy(out / "config.json", tmp_path / "copy.json"))
    assert main(["distill", "--config", str(copy), "--out", str(tmp_path / "again")]) == 0
    weights = [(folder / "student" / "student.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert weights[0] == weights[1]
    # the run folder is a policy
    capsys.readouterr()
    assert main(["evaluate", str(out), "--env", SIGN, "--episodes", "10", "--json"]) == 0
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)) >= {"return_mean", "return_ci95", "episodes", "params"}
    assert main(["report", str(out)]) == 0


def test_one_policy_against_another(teacher, tmp_path, capsys):
    weak = sign_network()
    weak.layers[-1].bias.data.add_(torch.tensor([0.0, 0.5]) * weak.layers[-1].weight.abs().sum())  # prefers an action
    save_network(tmp_path / "weak", weak, CHOICE, name="weak")
    base = ["evaluate", "--env", SIGN, "--episodes", "50", "--threads", "1"]
    assert main([*base, teacher, "--against", str(tmp_path / "weak"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["result"] == "pass"
    assert found["policy"]["return_mean"] == 10.0 > found["against"]["return_mean"] > found["random"]["return_mean"]
    assert found["verdict"]["difference"] == pytest.approx(10.0 - found["against"]["return_mean"])
    assert main([*base, str(tmp_path / "weak"), "--against", teacher]) == 1
    printed = capsys.readouterr()
    assert "verdict: fail (policy - against -" in " ".join(printed.err.split())
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [str(tmp_path / "weak"), teacher]
    assert main([*base, str(tmp_path / "weak"), "--against", teacher, "--margin", "2"]) == 0


def test_several_seeds(teacher, tmp_path, capsys):
    assert distill(teacher, tmp_path / "run", "--seeds", "2") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["verdict"]["unit"] == "training seed"
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    assert "2 students" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_train_teacher_then_distil(tmp_path, capsys):
    out = tmp_path / "teacher"
    short = ["--steps", "6000", "--episodes", "20", "--network", "mlp:16"]
    assert main(["train-teacher", "--env", SIGN, "--out", str(out), *short]) == 0
    assert "return" in capsys.readouterr().err
    card = read_json(out / "teacher.json")
    assert card["env"] == SIGN
    assert card["episodes"] == 20
    assert card["return_ci95"][0] <= card["return_mean"] <= card["return_ci95"][1]
    again = [
        "train-teacher",
        "--config",
        str(out / "config.json"),
        "--out",
        str(tmp_path / "again"),
        "--episodes",
        "20",
    ]
    assert main(again) == 0
    assert (
        read_json(tmp_path / "again" / "student" / "spec.json")["sha256"]
        == read_json(out / "student" / "spec.json")["sha256"]
    )
    assert distill(str(out), tmp_path / "run", "--accept-weak-teacher") == 0


def test_watch_writes_an_animation(tmp_path, capsys, teacher):
    pytest.importorskip("pygame")
    save_network(tmp_path / "cartpole", build(NetworkSpec((4,), 2)), CHOICE, name="teacher")
    out = tmp_path / "run"
    assert distill(str(tmp_path / "cartpole"), out, "--accept-weak-teacher", env="CartPole-v1", student="mlp:") == 0
    assert main(["watch", str(out), "--steps", "30"]) == 0
    assert (out / "watch.webp").read_bytes()[:4] == b"RIFF"
    assert "data:image/webp" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "words", "name"),
    [
        ("distill", ("--threads", "0"), "threads"),
        ("distill", ("--threads", "100000"), "threads"),
        ("distill", ("--seeds", "-3"), "seeds"),
        ("distill", ("--seeds", "0"), "seeds"),
        ("distill", ("--assistants", "-1"), "assistants"),
        ("distill", ("--episodes", "0"), "episodes"),
        ("distill", ("--disturbed-episodes", "-1"), "disturbed_episodes"),
        ("distill", ("--eval-epsilon", "nan"), "eval_epsilon"),
        ("distill", ("--margin", "inf"), "margin"),
        ("train-teacher", ("--episodes", "0"), "episodes"),
        ("train-teacher", ("--threads", "0"), "threads"),
        ("evaluate", ("--threads", "0"), "threads"),
        ("evaluate", ("--threads", "100000"), "threads"),
        ("evaluate", ("--episodes", "0"), "episodes"),
        ("evaluate", ("--epsilon", "nan"), "epsilon"),
        ("evaluate", ("--sticky", "2"), "sticky"),
        ("inspect", ("--threads", "0"), "threads"),
        ("inspect", ("--episodes", "1"), "episodes"),
    ],
)
def test_values_are_checked_before_the_first_step(command, words, name, teacher, tmp_path, capsys):
    out = tmp_path / "out"
    rest = {
        "distill": ["--teacher", teacher, "--env", SIGN, "--student", "mlp:8", "--out", str(out)],
        "train-teacher": ["--env", SIGN, "--out", str(out)],
        "evaluate": [teacher, "--env", SIGN],
        "inspect": [teacher, "--env", SIGN],
    }[command]
    assert main([command, *rest, *words]) == 2
    assert f"'{name}' must" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def errors(tmp_path, teacher):
    (tmp_path / "file").write_text("x")
    (tmp_path / "truncated.zip").write_bytes(b"PK\x03\x04 not a zip")
    out = str(tmp_path / "out")
    base = ["distill", "--teacher", teacher, "--env", SIGN, "--student", "mlp:8", "--out", out]

    def but(**changes):
        words = list(base)
        for name, value in changes.items():
            words[words.index(f"--{name}") + 1] = value
        return words

    return {
        "missing teacher": (but(teacher=str(tmp_path / "nothing.zip")), "nothing.zip does not exist"),
        "wrong format": (but(teacher=str(tmp_path / "file")), "no known format"),
        "truncated": (but(teacher=str(tmp_path / "truncated.zip")), "not a readable zip"),
        "wrong spaces": (but(env="CartPole-v1"), "observations of shape"),
        "unknown environment": (but(env="Nothing-v0"), "'Nothing-v0' is unknown"),
        "bad student": (but(student="mlp:8,"), "no student spec"),
        "pixel student": (but(student="cnn:8:8"), "needs (C, H, W)"),
        "unwritable": (but(out=str(tmp_path / "file" / "run")), "Cannot write"),
        "no student": (base[:5] + base[7:], "--student is missing"),
        "no out": (base[:7], "--out is missing"),
        "resume nothing": (["distill", "--resume", str(tmp_path / "nothing")], "holds no run"),
        "config nothing": (
            ["distill", "--config", str(tmp_path / "nothing.json"), "--out", str(tmp_path / "run")],
            "nothing.json",
        ),
        "config and student": (
            ["distill", "--config", "config.json", "--out", "run", "--student", "mlp:8"],
            "leave --student out",
        ),
        "resume and steps": (["distill", "--resume", "run", "--steps", "9"], "leave --steps out"),
        "teacher's config and seed": (
            ["train-teacher", "--config", "c.json", "--out", "run", "--seed", "3"],
            "leave --seed out",
        ),
        "report nothing": (["report", str(tmp_path / "nothing")], "no results.json"),
        "watch nothing": (["watch", str(tmp_path / "nothing")], "no student yet"),
        "evaluate nothing": (["evaluate", str(tmp_path / "nothing"), "--env", SIGN], "does not exist"),
        "evaluate elsewhere": (["evaluate", teacher, "--env", "CartPole-v1"], "observations of shape"),
        "no episodes": (["evaluate", teacher, "--env", SIGN, "--episodes", "0"], "at least 1"),
        "one episode against": (
            ["evaluate", teacher, "--env", SIGN, "--against", teacher, "--episodes", "1"],
            "'episodes' must be at least 2",
        ),
        "against nothing": (
            ["evaluate", teacher, "--env", SIGN, "--against", str(tmp_path / "nothing")],
            "does not exist",
        ),
        "seed": ([*base, "--seed", "5000"], "'seed' must lie in"),
        "margin": ([*base, "--margin", "0"], "'margin' must be above 0"),
        "search's config and sizes": (
            ["plan", "--config", "c.json", "--out", out, "--sizes", "mlp:"],
            "leave --sizes out",
        ),
        "no search": (["tree", "--out", out], "--teacher or --env is missing"),
        "kwargs": ([*base, "--env-kwargs", "{fault"], "--env-kwargs is not JSON"),
        "kwargs of a list": ([*base, "--env-kwargs", "[1]"], "--env-kwargs must be a JSON object"),
        "kwargs unknown": ([*base, "--env-kwargs", '{"gravity": 3}'], "gravity"),
        "wrapper": ([*base, "--wrapper", "Halved"], "module:Class"),
        "wrapper of nothing": ([*base, "--wrapper", "gymnasium.wrappers:Halved"], "Halved"),
        "setting": ([*base, "--set", "nothing=1"], "--set nothing=1: write NAME=VALUE with one of"),
        "setting alone": ([*base, "--set", "gap"], "--set gap: write NAME=VALUE with one of"),
        "setting of text": (
            [*base, "--set", "learning-rate=fast"],
            "'--set learning_rate' must be a number, got 'fast'",
        ),
        "setting out of range": ([*base, "--set", "batch-size=0"], "'batch_size' must be at least 1"),
        "reward": ([*base, "--reward-steps", "-1"], "'env_steps' must be at least 0"),
        "recipe": ([*base, "--recipe", "magic"], "Unknown recipe 'magic'"),
        "recipe of nothing": ([*base, "--recipe", "json:magic"], "'json:magic' cannot be imported"),
        "recipe of another kind": (
            [*base, "--recipe", "builtins:id"],
            "must be a function from EnvInfo to TrainConfig",
        ),
        "task": (["distill", "--task", SIGN, "--student", "mlp:8", "--out", out], "write ENV=TEACHER"),
        "task and env": ([*base, "--task", f"{SIGN}={teacher}"], "takes the place of"),
    }


KINDS = (
    "missing teacher", "wrong format", "truncated", "wrong spaces", "unknown environment", "bad student",
    "pixel student", "unwritable", "no student", "no out", "resume nothing", "config nothing", "config and student",
    "resume and steps", "teacher's config and seed", "search's config and sizes", "no search", "report nothing",
    "watch nothing", "evaluate nothing", "evaluate elsewhere", "no episodes", "one episode against", "against nothing",
    "seed", "margin", "kwargs", "kwargs of a list", "kwargs unknown", "wrapper", "wrapper of nothing", "setting",
    "setting alone", "setting of text", "setting out of range", "reward", "recipe", "recipe of nothing",
    "recipe of another kind", "task", "task and env",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_mistake_gets_one_sentence_and_exit_code_2(tmp_path, teacher, capsys, kind):
    known = errors(tmp_path, teacher)
    assert set(known) == set(KINDS)
    words, message = known[kind]
    assert main(words) == 2
    printed = capsys.readouterr()
    said = " ".join(printed.err.split())
    assert said.startswith("error: ")
    assert message in said
    assert said.endswith(".")
    assert printed.out == ""
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_a_weak_teacher_stops_the_run(tmp_path, capsys):
    save_network(tmp_path / "weak", sign_network(-1.0), CHOICE, name="teacher")
    assert distill(str(tmp_path / "weak"), tmp_path / "run") == 2
    assert "no better than random" in " ".join(capsys.readouterr().err.split())


def test_weights_that_are_not_finite_are_refused(tmp_path, capsys):
    folder = tmp_path / "nan"
    save_network(folder, sign_network(), CHOICE, name="teacher")
    tensors, _ = read_tensors(folder / "teacher.safetensors")
    tensors["layers.0.weight"][0, 0] = float("nan")
    save_tensors(folder / "teacher.safetensors", tensors, {})
    write_json(
        folder / "spec.json", read_json(folder / "spec.json") | {"sha256": digest(folder / "teacher.safetensors")}
    )
    assert distill(str(tmp_path / "nan"), tmp_path / "run") == 2
    assert "NaN" in capsys.readouterr().err


def test_a_full_disk_leaves_no_torn_file(teacher, tmp_path, capsys, monkeypatch):
    written = 0
    real = os.fsync

    def full(descriptor):
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert distill(teacher, tmp_path / "run") == 2
    assert "No space left on device" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "run").rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert main(["distill", "--resume", str(tmp_path / "run")]) == 0


def test_a_missing_extra_is_named(teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert distill(teacher, tmp_path / "run", "--wandb") == 2
    assert "distilrl[wandb]" in " ".join(capsys.readouterr().err.split())


def test_a_teachers_folder_alone_warns(teacher, tmp_path, capsys):
    assert distill(teacher, tmp_path / "run", "--behaviour", "teacher") == 0
    assert "drift" in " ".join(capsys.readouterr().err.split())


def test_version(capsys):
    import distilrl

    assert main(["--version"]) == 0
    assert distilrl.__version__ in capsys.readouterr().out


def test_weights_and_biases_gets_every_check(teacher, tmp_path, monkeypatch):
    logged, ended = [], []

    class Run:
        def log(self, row, step):
            logged.append((step, row))

        def finish(self):
            ended.append(True)

    class Fake:
        @staticmethod
        def init(**about):
            logged.append(about)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    assert distill(teacher, tmp_path / "run", "--wandb") == 0
    about, *rows = logged
    assert about["project"] == "distilrl"
    assert about["config"]["train"]["tasks"][0]["env"] == {"id": SIGN}
    assert [step for step, _ in rows] == [row["env_steps"] for _, row in rows]
    assert all(row["return"] > 0 for _, row in rows)
    assert ended == [True]


MODULE = """
import gymnasium
from conftest import SignEnv
from distilrl import recipe, term

class Halved(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2

def apart(*, student, teacher):
    return (student - teacher).square().mean(1)

def gentle(info):
    return recipe("distil", info).but(learning_rate=2e-3)

def owned(info):
    return recipe("distil", info).but(terms=(term(apart),))

gymnasium.register("Own-v0", entry_point=SignEnv, max_episode_steps=50)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's own, which nothing has imported or trusted yet."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(single, "_trusted", set())
    yield name
    sys.modules.pop(name, None)
    gymnasium.registry.pop("Own-v0", None)


def returns(capsys, *words):
    """Mean return that `evaluate` prints."""
    assert main(["evaluate", *words, "--episodes", "10", "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["return_mean"]


def test_the_environment_is_made_as_the_options_say(teacher, capsys, own_module):
    assert returns(capsys, teacher, "--env", SIGN) == 10.0
    assert returns(capsys, teacher, "--env", SIGN, "--wrapper", f"{own_module}:Halved") == 5.0
    twice = ["--wrapper", f"{own_module}:Halved"] * 2
    assert returns(capsys, teacher, "--env", SIGN, *twice) == 2.5
    faulty = [teacher, "--env", "distilrl/FaultyEnv-v0"]
    assert returns(capsys, *faulty, "--env-kwargs", "{}") == 10.0
    assert main(["evaluate", *faulty, "--env-kwargs", '{"fault": "step"}']) == 2
    assert "broken in step" in " ".join(capsys.readouterr().err.split())


def test_any_setting_by_its_name(teacher, tmp_path):
    words = ["--set", "learning-rate=0.001", "--set", "optim.batch-size=64", "--set", "hidden_features=[1]"]
    words += ["--set", "standardise=no", "--set", 'behaviour={"name": "student"}', "--reward-steps", "640"]
    assert distill(teacher, tmp_path / "run", *words) == 0
    train = read_json(tmp_path / "run" / "config.json")["train"]
    assert train["optim"]["learning_rate"] == 0.001
    assert train["optim"]["batch_size"] == 64
    assert train["optim"]["standardise"] == "no"
    assert train["student"]["hidden_features"] == [1]
    assert train["data"]["behaviour"]["name"] == "student"
    assert train["reward"]["env_steps"] == 640
    assert train["data"]["env_steps"] == 4000
    results = read_json(tmp_path / "run" / "results.json")
    assert "then 2 rounds with reward" in results["stopped"]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert int(rows[-1]["env_steps"]) == results["env_steps"] == int(rows[-2]["env_steps"]) + 640
    assert rows[-1]["agreement"] == ""  # nobody is imitated there


def test_a_recipe_of_ones_own(teacher, tmp_path, own_module):
    assert distill(teacher, tmp_path / "run", "--recipe", f"{own_module}:gentle") == 0
    train = read_json(tmp_path / "run" / "config.json")["train"]
    assert train["recipe"] == f"{own_module}:gentle"
    assert train["optim"]["learning_rate"] == 2e-3
    assert read_json(tmp_path / "run" / "results.json")["recipe"] == f"{own_module}:gentle"


def test_a_loss_of_ones_own_is_not_imported_from_a_file(teacher, tmp_path, own_module, capsys):
    run = tmp_path / "run"
    assert distill(teacher, run, "--recipe", f"{own_module}:owned") == 0
    assert read_json(run / "config.json")["train"]["terms"][0]["loss"] == f"{own_module}:apart"
    assert "nan" not in (run / "metrics.csv").read_text()
    assert main(["report", str(run)]) == 0
    capsys.readouterr()
    for words in (["--resume", str(run)], ["--config", str(run / "config.json"), "--out", str(tmp_path / "again")]):
        assert main(["distill", *words, "--trust", own_module]) == 2
        assert "give the term from Python" in " ".join(capsys.readouterr().err.split())


def test_a_file_imports_no_module_that_is_not_trusted(teacher, tmp_path, own_module, capsys):
    assert distill(teacher, tmp_path / "run") == 0
    config = read_json(tmp_path / "run" / "config.json")
    config["train"]["tasks"][0]["env"] = {"id": f"{own_module}:Own-v0"}
    write_json(tmp_path / "theirs.json", config)
    again = ["distill", "--config", str(tmp_path / "theirs.json"), "--out", str(tmp_path / "again")]
    capsys.readouterr()
    for more in ([], ["--trust", "another_module"]):
        assert main([*again, *more]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith("error: ")
        assert f"pass --trust {own_module} if you trust it" in said
        assert own_module not in sys.modules
        assert not (tmp_path / "again").exists()
    assert main([*again, "--trust", own_module]) == 0
    assert own_module in sys.modules
    # every command that reads the run's environment from its file asks the same
    run = str(tmp_path / "again")
    for words in (["distill", "--resume", run], ["export", run, "--to", "c"], ["watch", run]):
        single._trusted.clear()
        _describe.cache_clear()
        capsys.readouterr()
        assert main(words) == 2
        assert f"--trust {own_module}" in " ".join(capsys.readouterr().err.split())
    for words in (["distill", "--resume", run], ["export", run, "--to", "c"], ["report", run]):
        assert main([*words, "--trust", own_module]) == 0
    single._trusted.clear()
    _describe.cache_clear()
    assert main(["verify", f"{run}/export/c"]) == 2
    assert main(["verify", f"{run}/export/c", "--trust", own_module]) == 0


def test_what_the_user_names_needs_no_trust(teacher, tmp_path, own_module):
    assert distill(teacher, tmp_path / "run", env=f"{own_module}:Own-v0") == 0
    assert main(["report", str(tmp_path / "run")]) == 0


LONGER = ["--steps", "6400", "--set", "learning-starts=400", "--set", "check-every=800"]


@pytest.fixture
def linear(tmp_path):
    """A network that answers LinearEnv right, its action clipped."""
    network = Network(NetworkSpec((2,), 1))
    with torch.no_grad():
        network.layers[-1].weight.copy_(torch.tensor([SLOPE]))
        network.layers[-1].bias.zero_()
    save_network(tmp_path / "linear", network, Point(Bounds((-4.0,), (4.0,))), name="teacher")
    return str(tmp_path / "linear")


def test_real_actions_from_teacher_to_c(linear, tmp_path, capsys):
    out = tmp_path / "run"
    assert distill(linear, out, *LONGER, env=LINEAR) == 0
    printed = capsys.readouterr()
    assert "half-ranges (RMS)" in printed.err
    results = read_json(out / "results.json")
    assert results["verdict"]["result"] == "pass"
    assert results["action"]["action"]["low"] == [-4.0]
    assert len(results["agreement"]["dimensions"]) == 1
    assert main(["export", str(out), "--to", "c"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / "export" / "c")
    assert main(["verify", str(out / "export" / "c"), "--json"]) == 0
    played = json.loads(capsys.readouterr().out)
    assert played["verdict"]["result"] == "pass"
    assert played["against_student"]["difference"] == pytest.approx(0.0, abs=1e-3)
    assert main(["evaluate", str(out), "--env", LINEAR, "--against", linear, "--episodes", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["result"] == "pass"
    assert found["against"]["return_mean"] == pytest.approx(0.0, abs=1e-6)
    assert main(["inspect", str(out), "--env", LINEAR]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 real number " in printed
    assert "return, random play" in printed


def test_a_file_that_loses_gets_exit_code_1(linear, tmp_path, capsys):
    out = tmp_path / "run"
    lazy = ["--set", "learning-rate=1e-9", "--set", "average=0", "--set", "learning-starts=400"]
    assert distill(linear, out, *lazy, env=LINEAR) == 0
    assert read_json(out / "results.json")["verdict"]["result"] == "fail"
    assert main(["export", str(out), "--to", "c"]) == 0
    capsys.readouterr()
    assert main(["verify", str(out / "export" / "c")]) == 1
    printed = capsys.readouterr()
    assert "verdict: fail" in printed.err
    assert "against the student itself" in printed.out


def test_a_plan_and_a_plan_again(teacher, tmp_path, capsys):
    out, again = tmp_path / "plan", tmp_path / "again"
    base = ["plan", "--teacher", teacher, "--env", SIGN, "--threads", "1", "--episodes", "20"]
    assert main([*base, "--steps", "2000", "--sizes", "mlp:", "mlp:4", "--seeds", "2", "--out", str(out)]) == 0
    assert "smallest that passes: mlp:" in capsys.readouterr().err
    assert main(["plan", "--config", str(out / "config.json"), "--out", str(again)]) == 0
    one, two = (read_json(folder / "plan.json") for folder in (out, again))
    assert [row["student"] for row in one["frontier"]] == [row["student"] for row in two["frontier"]]
    assert one["winner"] == two["winner"]
    assert [row["score_mean"] for row in one["frontier"]] == [row["score_mean"] for row in two["frontier"]]
    weights = [(folder / "winner" / "student" / "student.safetensors").read_bytes() for folder in (out, again)]
    assert weights[0] == weights[1]
    # the winner is a run, and its configuration is that of a run, not of a plan
    assert main(["plan", "--config", str(out / "winner" / "config.json"), "--out", str(tmp_path / "third")]) == 2
    assert "which this command does not make" in " ".join(capsys.readouterr().err.split())
    # no size passes: there is none that small, or none that was there in time
    short = [*base, "--steps", "816", "--sizes", "mlp:", "--seeds", "1", "--no-refine", "--margin", "0.0001"]
    assert main([*short, "--budget-params", "1", "--out", str(tmp_path / "none")]) == 2
    assert "budget" in " ".join(capsys.readouterr().err.split())
    assert main([*short, "--out", str(tmp_path / "late")]) == 1
    assert "smallest that passes: none" in capsys.readouterr().err


def test_a_tree_and_the_tree_again(teacher, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out, again = tmp_path / "tree", tmp_path / "again"
    words = ["--teacher", teacher, "--env", SIGN, "--threads", "1", "--episodes", "20", "--disturbed-episodes", "0"]
    grown = ["--leaves", "4", "--iterations", "3", "--states", "400"]
    assert main(["tree", *words, *grown, "--out", str(out)]) == 0
    assert "verdict: pass" in capsys.readouterr().err
    assert main(["tree", "--config", str(out / "config.json"), "--out", str(again)]) == 0
    assert (out / "tree.json").read_bytes() == (again / "tree.json").read_bytes()
    assert main(["distill", "--config", str(out / "config.json"), "--out", str(tmp_path / "run")]) == 2
    assert "the configuration of a tree" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(out), "--env", SIGN, "--episodes", "10"]) == 0


def test_inspect_says_what_a_continuous_zip_is(capsys):
    path = str(real_teacher("continuous/tqc-HalfCheetah-v3.zip"))
    assert main(["inspect", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == path
    assert facts["kind"] == "gaussian"
    assert facts["squash"] == "tanh"
    assert facts["critic"] is True
    assert facts["obs_shape"] == [17]
    assert facts["outputs"] == 12
    assert facts["action"] == {"low": [-1.0] * 6, "high": [1.0] * 6, "shape": []}
    assert main(["inspect", path]) == 0
    assert "6 real numbers" in " ".join(capsys.readouterr().out.split())


def test_an_interrupted_command_ends_with_130(teacher, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("distilrl.cli.making.distill", interrupted)
    assert distill(teacher, tmp_path / "run") == 130
    assert "--resume" in capsys.readouterr().err


def test_words_that_are_no_command_end_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["distil"])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["distill", "train-teacher", "plan", "tree", "evaluate", "inspect"])
def test_help_begins_with_what_every_call_needs(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert said.index("--env ") < said.index("--env-kwargs")
    assert max(map(len, said.splitlines()[3:])) <= 80
    assert "{None}" not in said
    assert "--no-grey" not in said

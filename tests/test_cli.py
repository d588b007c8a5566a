"""The command line, as a user meets it: from a file to what is asked for."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import instances
import pytest
import torch
from commands import CHOICE, VERDICTS, distill
from conftest import SIGN, draw_nothing, real_teacher, sign_network
from test_foreign import write_onnx
from tiny_envs import LINEAR, SLOPE

from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.episodes import Play
from distilrl.evaluate import load_teachers, play
from distilrl.files import read_json, read_json_as
from distilrl.heads import Point
from distilrl.networks import Network, build
from distilrl.next_steps import next_steps
from distilrl.spaces import Bounds, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.summaries import PlanResults
from distilrl.teachers import TeacherFile

DRAWN = (
    "test_from_teacher_to_report",
    "test_watch_writes_an_animation",
    "test_watch_draws_a_figure_of_what_cannot_be_drawn",
)
"""Tests that look at figures."""
QUICK = ["--steps", "1600", "--set", "learning-starts=400", "--set", "check-every=400", "--disturbed-episodes", "0"]


@pytest.fixture(autouse=True)
def undrawn_where_nobody_looks(request, monkeypatch):
    if request.function.__name__ not in DRAWN:
        draw_nothing(monkeypatch)


def test_from_teacher_to_report(teacher, tmp_path, capsys):
    out = tmp_path / "run"
    assert distill(teacher, out, *QUICK, "--set", "learning-rate=0.01") == 0
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
    base = ["evaluate", "--env", SIGN, "--episodes", "200", "--threads", "1"]
    assert main([*base, teacher, "--against", str(tmp_path / "weak"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["result"] == "pass"
    assert found["policy"]["return_mean"] == 10.0 > found["against"]["return_mean"] > found["random"]["return_mean"]
    assert found["verdict"]["difference"] == pytest.approx(10.0 - found["against"]["return_mean"])
    assert main([*base, str(tmp_path / "weak"), "--against", teacher]) == 1
    printed = capsys.readouterr()
    assert "verdict: fail (policy - against -" in " ".join(printed.err.split())
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [str(tmp_path / "weak"), teacher]
    assert "random play keeps within this margin" not in " ".join(printed.err.split())
    assert main([*base, str(tmp_path / "weak"), "--against", teacher, "--margin-abs", "20"]) == 0
    assert "random play keeps within this margin, too: it loses 5" in " ".join(capsys.readouterr().err.split())


def test_what_is_told_of_a_file_is_told_of_the_one_that_is_foreign(teacher, tmp_path, capsys):
    """A folder of ours needs no answers, so that they are those of what it is held against."""
    torch.save(sign_network().state_dict(), tmp_path / "sign.pt")
    base = ["evaluate", "--env", SIGN, "--episodes", "200", "--threads", "1"]
    assert main([*base, teacher, "--against", str(tmp_path / "sign.pt"), "--json"]) == 2
    assert "--activation" in capsys.readouterr().err
    for pair in ([teacher, str(tmp_path / "sign.pt")], [str(tmp_path / "sign.pt"), teacher]):
        assert main([*base, pair[0], "--against", pair[1], "--activation", "relu", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["against"]["return_mean"] == 10.0


def test_each_of_two_foreign_files_is_told_what_it_needs(tmp_path, capsys):
    """One was told everything and the other nothing, so that a pair of different formats was refused either way."""
    pytest.importorskip("onnxruntime")
    torch.save(sign_network().state_dict(), tmp_path / "sign.pt")
    files = [str(tmp_path / "sign.pt"), write_onnx(tmp_path / "sign.onnx", sign_network(), torch.zeros(1, 2))]
    base = ["evaluate", "--env", SIGN, "--episodes", "200", "--threads", "1"]
    for one, other in (files, files[::-1]):
        assert main([*base, one, "--against", other, "--activation", "relu", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["policy"]["return_mean"] == found["against"]["return_mean"] == 10.0
    both = load_teachers([TeacherFile(path, activation="relu") for path in files], EnvRef(SIGN))
    assert play(both.policy, Play(EnvRef(SIGN)), [1, 2]).returns.tolist() == [10.0, 10.0]
    shutil.copyfile(files[1], tmp_path / "other.onnx")
    assert main([*base, files[1], "--against", str(tmp_path / "other.onnx"), "--activation", "relu"]) == 2
    assert "which does not need it: leave it out" in " ".join(capsys.readouterr().err.split())


def test_fresh_episodes_are_others(teacher, capsys):
    played = []
    for fresh in ([], ["--fresh"], ["--fresh"]):
        assert main(["evaluate", teacher, "--env", SIGN, "--epsilon", "0.3", "--episodes", "20", "--json", *fresh]) == 0
        played.append(json.loads(capsys.readouterr().out)["return_mean"])
    assert played[0] != played[1] == played[2]


def test_several_seeds(teacher, tmp_path, capsys):
    assert distill(teacher, tmp_path / "run", "--seeds", "2", *QUICK) == 3  # a verdict on their kind needs five
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["verdict"]["unit"] == "training seed and episode"
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    assert "2 students" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_train_teacher_then_distil(tmp_path, capsys):
    out = tmp_path / "teacher"
    short = ["--steps", "4000", "--episodes", "20", "--network", "mlp:16", "--set", "check-episodes=19"]
    assert main(["train-teacher", "--env", SIGN, "--out", str(out), *short]) == 0
    assert "return" in capsys.readouterr().err
    assert read_json(out / "config.json")["train"]["stop"]["check_episodes"] == 19
    card = read_json(out / "teacher.json")
    assert card["env"] == SIGN
    assert card["episodes"] == 20
    told = (out / "results.json").read_bytes()
    assert main(["train-teacher", "--resume", str(out)]) == 0
    assert (out / "results.json").read_bytes() == told, "what is finished is not judged anew"
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
    assert distill(str(out), tmp_path / "run", "--accept-weak-teacher", *QUICK) in VERDICTS


def test_watch_writes_an_animation(tmp_path, capsys, teacher):
    pytest.importorskip("pygame")
    save_network(tmp_path / "cartpole", build(NetworkSpec((4,), 2)), CHOICE, name="teacher")
    out = tmp_path / "run"
    weak = ["--accept-weak-teacher", "--margin-abs", "10", "--steps", "1000", "--episodes", "2"]
    assert distill(str(tmp_path / "cartpole"), out, *weak, env="CartPole-v1", student="mlp:") in VERDICTS
    assert main(["watch", str(out), "--steps", "30"]) == 0
    assert (out / "watch.webp").read_bytes()[:4] == b"RIFF"
    assert "data:image/webp" in (out / "report.html").read_text(encoding="utf-8")


def test_watch_draws_a_figure_of_what_cannot_be_drawn(tmp_path, capsys, teacher):
    out = tmp_path / "run"
    assert distill(teacher, out, "--accept-weak-teacher", "--steps", "1000", "--episodes", "2") in VERDICTS
    assert main(["watch", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out / "watch.svg")
    assert "cannot draw itself" in said.err
    assert "return so far" in (out / "watch.svg").read_text(encoding="utf-8")
    assert not (out / "watch.webp").exists()


def test_weights_and_biases_gets_every_check(teacher, tmp_path, monkeypatch):
    logged, ended = [], []

    class Run:
        def log(self, row, step):
            logged.append((step, row))

        def finish(self, exit_code):
            ended.append(exit_code)

    class Fake:
        @staticmethod
        def init(**about):
            logged.append(about)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    assert distill(teacher, tmp_path / "run", "--wandb", *QUICK, "--set", "learning-rate=0.01") == 0
    about, *rows = logged
    assert about["project"] == "distilrl"
    assert about["config"]["train"]["tasks"][0]["env"] == {"id": SIGN}
    assert [step for step, _ in rows] == [row["env_steps"] for _, row in rows]
    assert all(row["return"] > 0 for _, row in rows)
    assert ended == [0]


def test_weights_and_biases_that_do_not_begin_are_told_in_a_sentence(teacher, tmp_path, monkeypatch, capsys):
    """Its own error, a traceback, was shown as a fault of ours."""

    class Fake:
        @staticmethod
        def init(**about):
            raise RuntimeError("no API key")

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    assert distill(teacher, tmp_path / "run", "--wandb", *QUICK) == 2
    assert "--wandb: Weights & Biases does not begin (no API key): go on with --resume" in " ".join(
        capsys.readouterr().err.split()
    )


LONGER = ["--steps", "4000", "--set", "learning-starts=400", "--set", "check-every=800"]


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
    assert main(["evaluate", str(out), "--env", LINEAR, "--against", linear, "--episodes", "200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["result"] == "pass"
    assert found["against"]["return_mean"] == pytest.approx(0.0, abs=1e-6)
    assert main(["inspect", str(out), "--env", LINEAR]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 real number " in printed
    assert "return, random play" in printed


def test_a_file_that_loses_gets_exit_code_1(linear, tmp_path, capsys):
    out = tmp_path / "run"
    lazy = ["--set", "learning-rate=1e-9", "--set", "average=0", *QUICK]
    assert distill(linear, out, *lazy, env=LINEAR) == 1
    assert read_json(out / "results.json")["verdict"]["result"] == "fail"
    assert main(["export", str(out), "--to", "c"]) == 0
    capsys.readouterr()
    assert main(["verify", str(out / "export" / "c"), "--episodes", "7"]) == 1
    printed = capsys.readouterr()
    assert "verdict: fail" in printed.err
    assert "--episodes 7: played as often as the teacher" in printed.err
    assert "against the student itself" in printed.out


def test_a_plan(teacher, tmp_path, capsys):
    out = tmp_path / "plan"
    base = ["plan", "--teacher", teacher, "--env", SIGN, "--threads", "1", "--episodes", "200"]
    how = ["--set", "batch-size=256", "--set", "terms.0.weight=0.5"]
    assert main([*base, "--steps", "2000", "--sizes", "mlp:", "mlp:4", "--seeds", "2", *how, "--out", str(out)]) == 0
    told = read_json(out / "config.json")["train"]
    assert told["optim"]["batch_size"] == 256
    assert told["terms"][0]["weight"]["begin"] == 0.5
    assert "smallest within the margin: mlp:" in capsys.readouterr().err
    # the winner is a run, and its configuration is that of a run, not of a plan
    assert main(["plan", "--config", str(out / "winner" / "config.json"), "--out", str(tmp_path / "third")]) == 2
    assert "which this command does not make" in " ".join(capsys.readouterr().err.split())
    # no size passes: there is none that small, or none that was there in time
    short = [*base, "--steps", "816", "--sizes", "mlp:", "--seeds", "1", "--no-refine", "--margin", "0.0001"]
    assert main([*short, "--budget-params", "1", "--out", str(tmp_path / "none")]) == 2
    assert "budget" in " ".join(capsys.readouterr().err.split())
    assert main([*short, "--check-episodes", "7", "--out", str(tmp_path / "late")]) == 1
    assert read_json(tmp_path / "late" / "config.json")["train"]["stop"]["check_episodes"] == 7
    assert "smallest within the margin: none" in capsys.readouterr().err
    # a longer search is the same one but for its steps
    late = tmp_path / "late"
    ((why, words),) = next_steps(read_json_as(PlanResults, late / "plan.json"), late)
    assert why == "a longer search"
    assert main([str(word) for word in words]) in (0, 1)
    before, after = read_json(late / "config.json"), read_json(tmp_path / "late-longer" / "config.json")
    assert after["train"]["data"].pop("env_steps") == 2 * before["train"]["data"].pop("env_steps")
    assert after == before


def test_what_is_set_of_a_plan_is_what_it_does(teacher, tmp_path, monkeypatch):
    told = []
    planned = instances.plan_results(instances.plan_row())
    monkeypatch.setattr("distilrl.cli.searching.plan", lambda _, job, *__, **___: told.append(job.train) or planned)
    monkeypatch.setattr("distilrl.cli.searching.print_next", lambda *_: None)
    settings = ["workers=2", "learning-starts=40000", "data.behaviour.beta=0.3"]
    words = [word for text in settings for word in ("--set", text)]
    assert main(["plan", "--teacher", teacher, "--env", SIGN, "--out", str(tmp_path), "--steps", "90000", *words]) == 0
    (train,) = told
    assert (train.data.env_steps, train.data.learning_starts, train.data.workers) == (90_000, 40_000, 2)
    assert train.data.behaviour.beta.begin == 0.3


def test_a_tree(teacher, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = tmp_path / "tree"
    words = ["--teacher", teacher, "--env", SIGN, "--threads", "1", "--episodes", "200", "--disturbed-episodes", "0"]
    grown = ["--leaves", "4", "--iterations", "3", "--states", "400"]
    assert main(["tree", *words, *grown, "--out", str(out)]) == 0
    assert "verdict: pass" in capsys.readouterr().err
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


def test_version(capsys):
    import distilrl

    assert main(["--version"]) == 0
    assert distilrl.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", ["distill", "train-teacher", "plan", "tree", "evaluate", "inspect"])
def test_help_begins_with_what_every_call_needs(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.index("--env ") < said.index("--env-kwargs")
    assert max(map(len, said.splitlines()[1:])) <= 80
    assert "{None}" not in said
    assert "--no-grey" not in said


COMMANDS = (
    "distill", "train-teacher", "evaluate", "inspect", "plan", "tree", "export", "verify", "report", "watch",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_default_that_is_none(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert not re.findall(r"\(default: (?:None|''|)\)", said)


def test_a_path_that_the_outputs_encoding_lacks_is_told_in_escapes(teacher, tmp_path, monkeypatch):
    """Windows pipes cp1252: a run that ended well must not end in an error over its folder's name."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    copy = shutil.copytree(teacher, tmp_path / "王")
    assert main(["evaluate", str(copy), "--env", SIGN, "--against", teacher, "--episodes", "200"]) == 0
    assert r"\u738b: return 10.00" in written.getvalue().decode("cp1252")

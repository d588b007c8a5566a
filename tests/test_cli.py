"""The command line, as a user meets it."""

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import SIGN, sign_network

from distilrl.checkpoints import digest, read_json, read_tensors, save_network, save_tensors, write_json
from distilrl.cli import main

SHORT = ["--steps", "4000", "--episodes", "20", "--disturbed-episodes", "5", "--threads", "1"]


@pytest.fixture
def teacher(tmp_path):
    save_network(tmp_path / "teacher", sign_network(), name="teacher", kind="q")
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
    save_network(tmp_path / "weak", weak, name="weak")
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
    assert (
        main(
            [
                "train-teacher",
                "--env",
                SIGN,
                "--out",
                str(out),
                "--steps",
                "6000",
                "--episodes",
                "20",
                "--network",
                "mlp:16",
            ]
        )
        == 0
    )
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
    from distilrl.networks import build
    from distilrl.specs import NetworkSpec

    save_network(tmp_path / "cartpole", build(NetworkSpec((4,), 2)), name="teacher")
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
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing teacher", "wrong format", "truncated", "wrong spaces", "unknown environment", "bad student", "pixel student",
        "unwritable", "no student", "no out", "resume nothing", "config nothing", "config and student", "resume and steps", "teacher's config and seed", "report nothing", "watch nothing", "evaluate nothing", "evaluate elsewhere", "no episodes",
        "seed", "margin",
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_sentence_and_exit_code_2(tmp_path, teacher, capsys, kind):
    words, message = errors(tmp_path, teacher)[kind]
    assert main(words) == 2
    printed = capsys.readouterr()
    said = " ".join(printed.err.split())
    assert said.startswith("error: ")
    assert message in said
    assert said.endswith(".")
    assert printed.out == ""
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_a_weak_teacher_stops_the_run(tmp_path, capsys):
    save_network(tmp_path / "weak", sign_network(-1.0), name="teacher")
    assert distill(str(tmp_path / "weak"), tmp_path / "run") == 2
    assert "no better than random" in " ".join(capsys.readouterr().err.split())


def test_weights_that_are_not_finite_are_refused(tmp_path, capsys):
    folder = tmp_path / "nan"
    save_network(folder, sign_network(), name="teacher")
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
    assert about["config"]["train"]["env_id"] == SIGN
    assert [step for step, _ in rows] == [row["env_steps"] for _, row in rows]
    assert all(row["return"] > 0 for _, row in rows)
    assert ended == [True]

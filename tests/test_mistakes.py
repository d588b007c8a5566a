"""The command line where something is wrong: one sentence, an exit code, nothing half-written."""

import errno
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CHOICE, distill
from conftest import SIGN, sign_network

from distilrl.checkpoints import read_tensors, save_network, save_tensors
from distilrl.cli import main
from distilrl.files import digest, read_json, write_json


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
        ("distill", ("--eval-epsilon", "-1"), "eval_epsilon"),
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
    (tmp_path / "results.json").write_text('{"seed": 0}')
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
        "endless student": (but(student=f"mlp:{'8' * 5_000}"), "has a width that no network has"),
        "no student to prune from": ([*base, "--prune-from", ""], "'' is no student spec"),
        "a teacher twice": (
            [*base, "--teacher", teacher],
            "--teacher is given twice, and the last alone would count: give all at once, '--teacher ONE OTHER'.",
        ),
        "sizes twice": (["plan", *base[1:5], "--out", out, "--sizes", "mlp:2", "--sizes=mlp:4"], "'--sizes ONE OTHER'"),
        "sizes of nothing": (["plan", *base[1:5], "--out", out, "--sizes", ""], "'' is no student spec"),
        "kwargs of a thousand lists": ([*base, "--env-kwargs", "[" * 100_000], "--env-kwargs is not JSON"),
        "setting of a thousand lists": ([*base, "--set", f"gap={'[' * 100_000}"], "'--set gap' must be a number"),
        "recipe of no name": ([*base, "--recipe", ":"], "The recipe ':' names no function: write my_module:my_recipe"),
        "stakes too far": ([*base, "--set", "stakes-exponent=1000"], "'stakes_exponent' must lie in [0, 10]"),
        "more environments than steps": (
            [*base, "--steps", "300", "--set", "n-envs=1000"],
            "'n_envs' (1000) must be at most 'env_steps' (300)",
        ),
        "pixel student": (but(student="cnn:8:8"), "needs (C, H, W)"),
        "unwritable": (but(out=str(tmp_path / "file" / "run")), "Cannot write"),
        "no student": (base[:5] + base[7:], "--student is missing"),
        "no out": (base[:7], "--out is missing"),
        "resume nothing": (["distill", "--resume", str(tmp_path / "nothing")], "holds no run"),
        "config nothing": (
            ["distill", "--config", str(tmp_path / "nothing.json"), "--out", str(tmp_path / "run")],
            "nothing.json",
        ),
        "config of a folder": (["distill", "--config", str(tmp_path), "--out", "run"], "name the file in it"),
        "config of results": (
            ["distill", "--config", str(tmp_path / "results.json"), "--out", "run"],
            "results.json says nothing of training",
        ),
        "config and student": (
            ["distill", "--config", "config.json", "--out", "run", "--student", "mlp:8"],
            "leave --student out",
        ),
        "resume and steps": (["distill", "--resume", "run", "--steps", "9"], "leave --steps out"),
        "resume and what is usual": (
            ["distill", "--resume", "run", "--margin", "0.05", "--episodes", "100"],
            "leave --episodes, --margin out",
        ),
        "best of one teacher": ([*base, "--combine", "best"], "--combine best is about several teachers"),
        "assistants of a pruned student": (
            [*base, "--assistants", "1", "--prune-from", "mlp:64"],
            "--assistants and --prune-from cannot be had in one run",
        ),
        "kwargs of the verdict": (
            ["tree", "--teacher", teacher, "--env", SIGN, "--out", out, "--verdict-env-kwargs", "x"],
            "--verdict-env-kwargs is not JSON",
        ),
        "teacher's config and seed": (
            ["train-teacher", "--config", "c.json", "--out", "run", "--seed", "3"],
            "leave --seed out",
        ),
        "report nothing": (["report", str(tmp_path / "nothing")], "nothing holds no run"),
        "watch nothing": (["watch", str(tmp_path / "nothing")], "nothing holds no run"),
        "evaluate nothing": (["evaluate", str(tmp_path / "nothing"), "--env", SIGN], "does not exist"),
        "evaluate elsewhere": (["evaluate", teacher, "--env", "CartPole-v1"], "observations of shape"),
        "no episodes": (["evaluate", teacher, "--env", SIGN, "--episodes", "0"], "at least 2"),
        "one episode against": (
            ["evaluate", teacher, "--env", SIGN, "--against", teacher, "--episodes", "1"],
            "'episodes' must be at least 2",
        ),
        "against nothing": (
            ["evaluate", teacher, "--env", SIGN, "--against", str(tmp_path / "nothing")],
            "does not exist",
        ),
        "measure against": (
            ["evaluate", teacher, "--env", SIGN, "--against", teacher, "--measure", "crashed"],
            "'crashed' in its info",
        ),
        "margin of a measure alone": (
            ["evaluate", teacher, "--env", SIGN, "--measure", "crashed<=0.1"],
            "The margin of the measure 'crashed' is of a verdict: give --against too",
        ),
        "seed": ([*base, "--seed", "5000"], "'seed' must lie in"),
        "two margins": (
            ["evaluate", teacher, "--env", SIGN, "--against", teacher, "--margin=0.05", "--margin-abs", "2"],
            "--margin and --margin-abs both say the largest acceptable loss: leave one of them out",
        ),
        "margin": ([*base, "--margin", "5"], "'margin' must lie in (0, 1), got 5: it is a share"),
        "search's config and sizes": (
            ["plan", "--config", "c.json", "--out", out, "--sizes", "mlp:"],
            "leave --sizes out",
        ),
        "search's own option": (
            ["plan", "--teacher", teacher, "--env", SIGN, "--out", out, "--set", "network=mlp:4"],
            "--set network: a plan has --sizes for that",
        ),
        "search's own checks": (
            ["plan", "--teacher", teacher, "--env", SIGN, "--out", out, "--set", "final-episodes=9"],
            "--set final-episodes: a plan has checks of its own",
        ),
        "search's reward": (
            ["plan", "--teacher", teacher, "--env", SIGN, "--out", out, "--set", "reward.env_steps=9"],
            "a plan has checks of its own and no stage with reward",
        ),
        "search's reward as a whole": (
            ["plan", "--teacher", teacher, "--env", SIGN, "--out", out, "--set", 'reward={"env_steps": 9}'],
            "a plan has checks of its own and no stage with reward",
        ),
        "a setting of no stage": (
            [*base, "--set", "reward.radius=0.1"],
            "--set reward.radius=0.1: there is no stage with reward: give --reward-steps too",
        ),
        "no search": (["tree", "--out", out], "--teacher or --env is missing"),
        "kwargs": ([*base, "--env-kwargs", "{fault"], "--env-kwargs is not JSON"),
        "kwargs of a list": ([*base, "--env-kwargs", "[1]"], "--env-kwargs must be a JSON object"),
        "kwargs unknown": ([*base, "--env-kwargs", '{"gravity": 3}'], "gravity"),
        "wrapper": ([*base, "--wrapper", "Halved"], "module:Class"),
        "wrapper of nothing": ([*base, "--wrapper", "gymnasium.wrappers:Halved"], "Halved"),
        "a student and a setting": (
            [*base, "--set", "network=mlp:4"],
            "--set network and --student are of one thing: leave one of them out",
        ),
        "steps and a setting": (
            [*base, "--steps", "900", "--set", "env-steps=2000"],
            "--set env-steps and --steps are of one thing",
        ),
        "setting": ([*base, "--set", "nothing=1"], "--set nothing=1: write NAME=VALUE with one of"),
        "setting alone": ([*base, "--set", "gap"], "--set gap: write NAME=VALUE with one of"),
        "setting of text": (
            [*base, "--set", "learning-rate=fast"],
            "'--set learning_rate' must be a number, got 'fast'",
        ),
        "setting out of range": ([*base, "--set", "batch-size=0"], "'batch_size' must be at least 1"),
        "reward": ([*base, "--reward-steps", "-1"], "'reward_steps' must be at least 0"),
        "huge student": (but(student="mlp:1000000,1000000"), "1,000,006,000,002 parameters, more than"),
        "narrower before pruning": ([*base, "--prune-from", "mlp:4"], "mlp:4 cannot shrink to mlp:8"),
        "teacher of several choices": (
            ["train-teacher", "--env", "distilrl/MultiEnv-v0", "--out", out],
            "train the teacher with another library",
        ),
        "inspect around nothing": (["inspect", teacher, "--env-kwargs", "{fault"], "name it too, with --env"),
        "verify around nothing": (["verify", teacher, "--wrapper", "a:B"], "--wrapper is about an environment"),
        "module elsewhere": (but(env="my_own_robots:Mine-v0"), "name its folder in PYTHONPATH"),
        "recipe": ([*base, "--recipe", "magic"], "Unknown recipe 'magic'"),
        "recipe without a teacher": ([*base, "--recipe", "dqn"], "--recipe dqn learns from reward alone"),
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
    "endless student", "no student to prune from", "a teacher twice", "sizes twice", "sizes of nothing",
    "kwargs of a thousand lists",
    "setting of a thousand lists", "recipe of no name", "stakes too far", "more environments than steps",
    "pixel student", "unwritable", "no student", "no out", "resume nothing", "config nothing", "config and student",
    "resume and steps", "resume and what is usual", "best of one teacher", "assistants of a pruned student",
    "kwargs of the verdict", "teacher's config and seed", "search's config and sizes", "search's own option",
    "search's own checks", "search's reward", "search's reward as a whole", "a setting of no stage",
    "no search", "report nothing",
    "watch nothing", "config of a folder", "config of results", "evaluate nothing", "evaluate elsewhere",
    "no episodes", "one episode against", "against nothing",
    "measure against", "margin of a measure alone", "seed", "two margins", "margin", "kwargs",
    "kwargs of a list", "kwargs unknown",
    "wrapper", "wrapper of nothing", "a student and a setting", "steps and a setting", "setting",
    "setting alone", "setting of text", "setting out of range", "reward", "recipe",
    "recipe without a teacher", "recipe of nothing", "recipe of another kind", "task", "task and env",
    "huge student", "narrower before pruning",
    "teacher of several choices", "inspect around nothing", "verify around nothing", "module elsewhere",
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
    assert distill(teacher, tmp_path / "run", "--disturbed-episodes", "0") == 2
    assert "No space left on device" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "run").rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert main(["distill", "--resume", str(tmp_path / "run")]) == 0


def test_a_missing_extra_is_named(teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert distill(teacher, tmp_path / "run", "--wandb") == 2
    assert "distilrl[wandb]" in " ".join(capsys.readouterr().err.split())


def test_a_teachers_folder_alone_warns(teacher, tmp_path, capsys):
    assert distill(teacher, tmp_path / "run", "--behaviour", "teacher", "--disturbed-episodes", "0") == 0
    assert "drift" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_command_ends_with_130_and_says_how_it_goes_on(teacher, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    run = str(tmp_path / "my run")
    monkeypatch.setattr(importlib.import_module("distilrl.distill"), "accept", interrupted)
    assert distill(teacher, tmp_path / "my run") == 130
    assert capsys.readouterr().err.endswith(
        f"interrupted; continue with: distilrl distill --resume {shlex.quote(run)}\n"
    )
    assert main(["distill", "--resume", run]) == 130
    assert capsys.readouterr().err.endswith(
        f"interrupted; continue with: distilrl distill --resume {shlex.quote(run)}\n"
    )
    for name in ("plan", "tree"):
        run = str(tmp_path / name)
        assert main([name, "--teacher", teacher, "--env", SIGN, "--out", run]) == 130
        assert capsys.readouterr().err.endswith(f"interrupted; continue with: distilrl {name} --resume {run}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="another signal there")
@pytest.mark.parametrize("module", ["distilrl.cli", "rich", "torch", "distilrl.distill"])
def test_an_import_that_is_interrupted_ends_with_130_in_one_line(tmp_path, module):
    """Ctrl-C arrives while a module is imported, as early and as late as there are any."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

sys.meta_path.insert(0, Interrupting())
"""
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, "-m", "distilrl", "distill", "--teacher", "x", "--env", SIGN, "--student", "mlp:4"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("command", ["distill", "evaluate", "export"])
def test_what_was_not_begun_is_not_continued(teacher, tmp_path, capsys, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ("making.distill", "using.evaluate_policy", "shipping.export_policy"):
        monkeypatch.setattr(f"distilrl.cli.{name}", interrupted)
    words = {
        "distill": ["--teacher", teacher, "--env", SIGN, "--student", "mlp:4", "--out", str(tmp_path / "run")],
        "evaluate": [teacher, "--env", SIGN],
        "export": [teacher, "--to", "c"],
    }
    assert main([command, *words[command]]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_words_that_are_no_command_end_with_2(capsys):
    assert main(["distil"]) == 2
    assert capsys.readouterr().err == "error: There is no command 'distil': did you mean 'distill'?\n"
    assert main(["fry"]) == 2
    assert "use one of distill, " in capsys.readouterr().err
    assert main(["distill", "--epsiodes", "3"]) == 2
    assert "--episodes" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_sentence_and_a_file(teacher, tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug of \x1b[31mours\nand more")

    monkeypatch.setattr(importlib.import_module("distilrl.distill"), "accept", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "logs"))
    assert distill(teacher, tmp_path / "run") == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "error: distilrl is at fault (ZeroDivisionError: a bug of ?[31mours): please report it with "
    )
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in said
    assert log.stat().st_size < 100_000
    text = log.read_text()
    assert "Traceback" in text
    assert re.search(r"^distill --teacher .*--out", text, re.MULTILINE)
    assert not (tmp_path / "run").exists(), "so that it can be begun again"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (OSError(errno.ENOMEM, "no memory"), "not enough memory"),
        (OSError(errno.EMFILE, "many"), "open files are not allowed"),
    ],
)
def test_what_the_machine_has_no_more_of_is_no_fault_of_ours(teacher, tmp_path, capsys, monkeypatch, error, words):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(importlib.import_module("distilrl.distill"), "accept", broken)
    assert distill(teacher, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert words in said
    assert "at fault" not in said


def test_who_is_interrupted_is_not_sent_to_anothers_run(teacher, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"kind": "run"}')
    monkeypatch.setattr(importlib.import_module("distilrl.cli.making"), "distill", interrupted)
    assert distill(teacher, tmp_path / "old") == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_a_fault_is_told_where_no_file_can_be_written(tmp_path, capsys, monkeypatch):
    def broken(_word):
        raise ZeroDivisionError

    monkeypatch.setattr("distilrl.cli.using.load_teacher", broken)
    monkeypatch.setattr("tempfile.tempdir", str(Path(os.devnull) / "logs"))
    assert main(["inspect", "x"]) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("please report what is printed above.\n")


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", "run", "--teacher", ""]])
def test_an_empty_path_is_no_path(words, capsys):
    assert main(["distill", "--env", SIGN, *words]) == 2
    assert "is empty: give a path." in capsys.readouterr().err

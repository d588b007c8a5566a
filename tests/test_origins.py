"""A run folder is used from wherever: paths of its configuration mean what they meant where it was begun."""

import os
from pathlib import Path

import pytest
import torch
from conftest import SIGN, sign_network

from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.files import read_json, write_json
from distilrl.heads import head_for
from distilrl.networks import build
from distilrl.runs import RunFolder, read_config
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec

SHORT = ["--steps", "640", "--episodes", "60", "--disturbed-episodes", "0", "--threads", "1", "--margin-abs", "10"]
SHORT += ["--set", "check-every=160", "--set", "learning-starts=80", "--set", "check-episodes=4"]
SHORT += ["--set", "final-episodes=4", "--set", "gap=-1", "--set", "updates=1"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of work with a teacher in it, whose path is given as seen from there; this process works there, and
    writes no reports, which would take longer than the runs.
    """
    monkeypatch.setattr("distilrl.report.write_report", lambda *_given, **_named: None)
    save_network(tmp_path / "project" / "zoo" / "sign", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


WORDS = ["distill", "--teacher", "zoo/sign", "--env", SIGN, "--student", "mlp:4", "--out", "runs/a", *SHORT]


def test_a_run_folder_is_used_from_another_working_folder(project, monkeypatch, capsys):
    assert main(WORDS) == 0
    assert read_json(Path("runs/a/config.json"))["from"] == os.path.join("..", "..")  # noqa: PTH118
    assert str(project) not in Path("runs/a/config.json").read_text(), "a folder that is given away says no more"
    monkeypatch.chdir(project.parent / "elsewhere")

    def again(run, out):
        return main(["distill", "--config", f"{run}/config.json", "--out", out])

    assert again(project / "runs" / "a", "b") == 0
    student = Path("student") / "student.safetensors"
    assert (Path("b") / student).read_bytes() == (project / "runs" / "a" / student).read_bytes()
    assert again("b", "c") == 0, "from where it was found the first time"
    project.rename(project.parent / "moved")  # both together
    assert again("../moved/runs/a", "d") == 0
    (project.parent / "moved" / "zoo").rename("zoo")  # the teacher alone, to where it is named from here
    assert again("../moved/runs/a", "e") == 0
    Path("zoo").rename("gone")
    capsys.readouterr()
    assert again("../moved/runs/a", "f") == 2
    assert "zoo/sign does not exist" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("more", [[], ["--seeds", "2"], ["--assistants", "1"]])
def test_a_run_is_continued_from_another_working_folder(project, monkeypatch, more):
    if more == ["--assistants", "1"]:
        wide = build(NetworkSpec((2,), 2, hidden=(32,)), torch.Generator().manual_seed(0))
        save_network(project / "zoo" / "sign", wide, head_for(Choices((2,)), "q"), name="teacher")
        more = [*more, "--accept-weak-teacher", "--margin-abs", "20", "--student", "mlp:2"]
    whole = RunFolder(project / "runs" / "whole")
    words = [*WORDS[: WORDS.index("--out")], "--out", str(whole.path), *SHORT, *more]
    assert main(words) in (0, 1, 3)
    saves = []

    def stops(*given, **named):
        saves.append(given)
        if len(saves) == 3:
            raise KeyboardInterrupt
        return save(*given, **named)

    save = RunFolder.save_state
    monkeypatch.setattr(RunFolder, "save_state", stops)
    assert main([*words[: words.index("--out")], "--out", "runs/a", *SHORT, *more]) == 130
    monkeypatch.setattr(RunFolder, "save_state", save)
    monkeypatch.chdir(project.parent / "elsewhere")
    assert main(["distill", "--resume", "../project/runs/a"]) in (0, 1, 3)
    for path in whole.path.rglob("student.safetensors"):
        assert (project / "runs" / "a" / path.relative_to(whole.path)).read_bytes() == path.read_bytes()


def test_a_run_is_continued_at_home_whose_parts_were_begun_elsewhere(project, monkeypatch):
    saves = []

    def stops(*given, **named):
        saves.append(given)
        if len(saves) in (2, 9):  # in the first part, and in the second
            raise KeyboardInterrupt
        return save(*given, **named)

    save = RunFolder.save_state
    monkeypatch.setattr(RunFolder, "save_state", stops)
    assert main([*WORDS, "--seeds", "2"]) == 130
    monkeypatch.chdir(project.parent / "elsewhere")
    assert main(["distill", "--resume", "../project/runs/a"]) == 130
    assert len(list((project / "runs" / "a").glob("*/config.json"))) == 2
    monkeypatch.setattr(RunFolder, "save_state", save)
    monkeypatch.chdir(project)
    assert main(["distill", "--resume", "runs/a"]) in (0, 1, 3)


def test_parts_of_a_run_are_used_from_another_working_folder(project, monkeypatch):
    """Of a plan's winner the file of that name here was read as the teacher."""
    words = ["plan", "--teacher", "zoo/sign", "--env", SIGN, "--sizes", "mlp:8", "--seeds", "1", "--out", "runs/plan"]
    assert main([*words, "--steps", "1500", "--episodes", "60", "--threads", "1", "--margin-abs", "20"]) == 0
    config = project / "runs" / "plan" / "winner" / "config.json"
    (task,) = read_config(config)["train"]["tasks"]
    assert [file["path"] for file in task["teacher"]] == ["zoo/sign"]
    monkeypatch.chdir(project.parent / "elsewhere")
    (task,) = read_config(config)["train"]["tasks"]
    assert [file["path"] for file in task["teacher"]] == [str(project / "zoo" / "sign")]


@pytest.mark.parametrize("told", [3, "\0", "../" * 3000, "/nowhere"])
def test_an_origin_that_means_nothing_is_none(tmp_path, told):
    data = {"train": {"tasks": [{"teacher": [{"path": "zoo", "normalizer": None}, 3]}, 4]}, "given": {"teacher": 5}}
    write_json(tmp_path / "config.json", data | {"from": told})
    assert read_config(tmp_path / "config.json") == data

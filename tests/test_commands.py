"""What the command line says of itself, and what it imports for that."""

import os
import re
import subprocess
import sys

import pytest
from commands import CHOICE

from distilrl.checkpoints import save_network
from distilrl.cli import NAMES, _command, main
from distilrl.envs import describe_env
from distilrl.envs.listing import families
from distilrl.networks import build
from distilrl.recipes import RECIPES
from distilrl.specs import NetworkSpec

EVERYDAY = ("teacher", "env", "student", "out", "recipe", "steps", "seeds", "margin", "resume", "config")
HEAVY = {"torch", "gymnasium", "numpy", "matplotlib", "rich", "tyro", "PIL", "jinja2"}
UNUSED = {"matplotlib", "jinja2", "PIL", "ale_py", "onnx", "onnxruntime", "sklearn", "ray", "wandb", "tensorboard"}


def imported(*words):
    """Top-level modules that a fresh Python has imported once the command has ended, and what it printed."""
    program = "import sys; from distilrl.cli import main; code = main(sys.argv[1:]); print(*sorted(sys.modules)); sys.exit(code)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    said, _, names = done.stdout.rstrip("\n").rpartition("\n")
    return {name.split(".")[0] for name in names.split()}, said


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",)])
def test_help_and_version_wait_for_no_library(words):
    modules, said = imported(*words)
    assert not modules & HEAVY
    assert "distilrl" in said


def test_evaluate_imports_nothing_that_it_does_not_use(tmp_path):
    save_network(tmp_path / "teacher", build(NetworkSpec((4,), 2)), CHOICE, name="teacher")
    modules, said = imported("evaluate", str(tmp_path / "teacher"), "--env", "CartPole-v1", "--episodes", "5")
    assert "return" in said
    assert not modules & UNUSED


def test_the_overview_names_every_command_and_fits(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in NAMES)
    assert max(map(len, said.splitlines())) < 80


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_that_it_reads(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: distilrl {name}")
    said, _, example = said.partition("\nexample:\n")
    assert example == f"  {NAMES[name].example}\n"
    assert max(map(len, said.splitlines()[3:])) <= 80
    ran = []
    monkeypatch.setattr(_command(name), "run", lambda command: ran.append(command))
    assert main(NAMES[name].example.replace("\\\n", "").split()[1:]) == 0
    assert len(ran) == 1


def test_help_of_distill_begins_with_the_everyday_and_ends_with_the_rare(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["distill", "--help"]) == 0
    said = capsys.readouterr().out
    everyday, _, rest = said.partition("learning options")
    listed = re.findall(r"^. (--[a-z-]+)", everyday, re.MULTILINE)
    assert listed == [f"--{name}" for name in EVERYDAY]
    assert everyday.count("(required)") == 4
    assert "(required)" not in rest
    assert re.findall(r"([a-z-]+) options", rest)[-2:] == ["trust", "teacher-file"]


def test_a_reader_who_has_read_enough_ends_it_silently():
    both = os.pipe()
    os.close(both[0])
    program = [sys.executable, "-m", "distilrl", "--help"]
    done = subprocess.run(program, stdout=both[1], stderr=subprocess.PIPE, text=True, check=False)
    os.close(both[1])
    assert done.returncode == 141
    assert done.stderr == ""


def test_recipes_are_listed_a_line_each(capsys):
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line[:1].strip()][: len(RECIPES)] == list(RECIPES)
    assert max(map(len, said.splitlines())) < 80


def test_environments_are_listed_by_where_they_come_from(capsys):
    assert main(["envs", "cartpole"]) == 0
    said = capsys.readouterr().out
    assert "classic_control (1):\n  CartPole-v1\n" in said
    assert "PongNoFrameskip" not in said
    assert main(["envs", "pong"]) == 0
    assert "PongNoFrameskip-v4" in capsys.readouterr().out
    assert main(["envs", "nothing-of-this-name"]) == 2
    named = {family.name: family for family in families()}
    assert "tests" not in named
    assert describe_env(named["toy_text"].ids[0]).action.size == 1

"""The README: each of its commands runs, what it calls in Python is there, and both languages say the same."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch

import distilrl
from distilrl import cli
from distilrl.checkpoints import save_network
from distilrl.heads import Point
from distilrl.networks import build
from distilrl.spaces import Bounds
from distilrl.specs import NetworkSpec

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.zh-CN.md")


def commands(name):
    """Words of each command in the indented blocks of a page, without what is said of it."""
    lines = re.findall(r"^ {4}((?:distilrl|make) .*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def python(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_can_be_read(name):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(commands(name)) > 15
    for words in commands(name):
        if words[0] == "make":
            assert words[1] in targets
        else:
            cli.parse(words[1], words[2:])


WEAK = ["--accept-episodes", "2", "--accept-weak-teacher", "--margin-abs", "50"]
JUDGED = [*WEAK, "--episodes", "5", "--threads", "1"]
SHORT_EPISODES = ["--env-kwargs", '{"max_episode_steps": 6, "width": 64, "height": 64}']
"""With small pictures: a processor draws those of the report."""
SMALLER = {
    "distill": [
        *JUDGED,
        "--steps",
        "400",
        "--disturbed-episodes",
        "0",
        "--set",
        "learning-starts=200",
        "--set",
        "updates=1",
        "--set",
        "check-episodes=2",
        "--set",
        "final-episodes=2",
    ],
    "train-teacher": ["--steps", "1200", "--set", "learning-starts=400", "--episodes", "5", "--threads", "1"],
    "evaluate": ["--episodes", "10", "--threads", "1"],
    "inspect": ["--episodes", "2", "--threads", "1"],
    "plan": [*JUDGED, "--steps", "1000", "--sizes", "mlp:", "mlp:4", "--seeds", "1", "--no-refine"],
    "tree": [*JUDGED, "--iterations", "1", "--states", "200", "--disturbed-episodes", "0"],
    "sweep": ["--jobs", "1"],
    "watch": ["--steps", "20"],
}
"""What makes a command one of seconds; of two options of one name the last counts."""
OF_THE_FOLDER = ("--resume", "--config")
"""Options of commands that take the rest from a run before."""


def small(words):
    """A command of the README at a budget of seconds, and with what stands in for a file of the Hub."""
    words = [
        {"hf://sb3/tqc-HalfCheetah-v3": "cheetah", "hf://sb3/dqn-CartPole-v1": "teachers/cartpole"}.get(w, w)
        for w in words
    ]
    if set(OF_THE_FOLDER) & set(words):
        return words
    more = SMALLER.get(words[1], []) + (SHORT_EPISODES if "HalfCheetah-v5" in words else [])
    return [*words, *more, *(["--seeds", "2", "--jobs", "1"] if "--seeds" in words else [])]


def test_every_command_runs_on_what_those_before_left(tmp_path, monkeypatch, capsys):
    """All but Pong's, which has a test of its own, and those of make, which install."""
    for needed in ("sklearn", "pygame", "mujoco"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    cheetah = build(NetworkSpec((17,), 6, hidden=(8,), activation="tanh"), torch.Generator().manual_seed(0))
    save_network(tmp_path / "cheetah", cheetah, Point(Bounds((-1.0,) * 6, (1.0,) * 6, (6,))), name="a stand-in")
    done = [small(words) for words in commands("README.md") if words[0] != "make" and "zoo/pong-dqn" not in words]
    assert len(done) > 20
    for words in done:
        assert cli.main(words[1:]) in (0, 1, 3), (shlex.join(words), capsys.readouterr().err[-2000:])
    left = {path.parent.name for path in tmp_path.glob("runs/*/report.html")}
    assert left == {"cheetah", "cartpole", "plan", "tree", "again", "seeds", "blind", "late"}


@pytest.mark.slow
def test_pongs_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    (words,) = [small(words) for words in commands("README.md") if "zoo/pong-dqn" in words]
    assert cli.main(words[1:]) in (0, 1, 3)
    assert (tmp_path / "runs" / "pong" / "report.html").is_file()


def test_both_languages_have_the_same_commands():
    assert commands(PAGES[0]) == commands(PAGES[1])


@pytest.mark.parametrize("name", PAGES)
def test_what_is_called_from_python_is_there(name):
    for block in python(name):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "distilrl":
                assert hasattr(distilrl, node.attr), node.attr


def test_where_an_index_shows_it_every_link_is_whole():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", shown)
    home = settings["project"]["urls"]["Homepage"]
    assert len(links) > 30
    for picture, target in links:
        assert target.startswith((f"{home}/raw/main/" if picture else f"{home}/blob/main/", "#")), target


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_what_is_there(name):
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target

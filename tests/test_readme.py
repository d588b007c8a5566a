"""The README: each of its commands can be read, what it calls in Python is there, and both languages say the same."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import distilrl
from distilrl import cli

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


def test_both_languages_have_the_same_commands():
    assert commands(PAGES[0]) == commands(PAGES[1])


@pytest.mark.parametrize("name", PAGES)
def test_what_is_called_from_python_is_there(name):
    for block in python(name):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "distilrl":
                assert hasattr(distilrl, node.attr), node.attr


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_what_is_there(name):
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target

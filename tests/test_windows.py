"""What Windows does not have is not needed to import the package; nor is the script to run it."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "distilrl"
ABSENT = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
WITHOUT = f"""
import os, signal, sys
import ale_py, gymnasium, jinja2, matplotlib.figure, rich.progress, torch, tyro  # others' affair
for name in {ABSENT!r}:
    sys.modules[name] = None
for module, names in ((os, ("fork", "killpg", "setsid", "sched_getaffinity", "uname", "geteuid", "O_NOFOLLOW")),
                      (signal, ("SIGKILL", "SIGHUP", "SIGALRM", "alarm"))):
    for name in names:
        delattr(module, name)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
from distilrl.files import write_json
from distilrl.runs import RunFolder
with RunFolder("run").lock():
    write_json(RunFolder("run").results, {{}})
"""


@pytest.fixture(scope="module")
def names():
    """Every module."""
    paths = [path.relative_to(SOURCE.parent).with_suffix("") for path in sorted(SOURCE.rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]


def test_every_module_is_imported_without_what_windows_lacks(names, tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(names) > 140


def test_python_m_distilrl(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "distilrl", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("distilrl ")

"""Writing: one way for all files, in one step, that follows no link and leaves nothing behind."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SIGN, sign_network

from distilrl import files
from distilrl.checkpoints import save_network, save_tensors
from distilrl.errors import FileError
from distilrl.export import export_policy
from distilrl.files import read_regular, write_bytes, write_json
from distilrl.heads import Categorical
from distilrl.metrics import write_metrics
from distilrl.spaces import Choices

SOURCE = Path(__file__).parents[1] / "src" / "distilrl"
WRITERS = {
    "report.html": lambda path: write_bytes(path, b"new"),
    "results.json": lambda path: write_json(path, {}),
    "state.safetensors": lambda path: save_tensors(path, {"a": torch.zeros(1)}, {}),
    "student.safetensors": lambda path: save_network(path.parent, sign_network(), SIGN_HEAD),
    "metrics.csv": lambda path: write_metrics(path, [{"env_steps": 1}]),
}

SIGN_HEAD = Categorical(Choices((2,)))


@pytest.fixture
def thesis(tmp_path):
    path = tmp_path / "thesis.tex"
    path.write_text("years of work")
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_a_planted_link_is_not_followed(tmp_path, thesis, name):
    home = tmp_path / "run"
    home.mkdir()
    (home / f"{name}.tmp").symlink_to(thesis)
    WRITERS[name](home / name)
    assert thesis.read_text() == "years of work"
    assert (home / f"{name}.tmp").is_symlink()
    assert (home / name).is_file()
    assert not (home / name).is_symlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_is_not_replaced(tmp_path, thesis, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(thesis)
    with pytest.raises(FileError, match=rf"{name} is a symbolic link.*: remove it"):
        WRITERS[name](tmp_path / "run" / name)
    assert thesis.read_text() == "years of work"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def test_a_folder_behind_a_link_is_the_users_choice(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    write_bytes(tmp_path / "runs" / "a" / "report.html", b"new")
    assert (tmp_path / "disk" / "a" / "report.html").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"]
)
def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path, monkeypatch, call, error):
    write_bytes(tmp_path / "report.html", b"old")

    def failing(*_given):
        raise error

    monkeypatch.setattr(os, call, failing)
    with pytest.raises((FileError, KeyboardInterrupt)):
        write_bytes(tmp_path / "report.html", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == b"old"


@pytest.mark.parametrize("held", [2, 4])
def test_a_file_that_is_held_for_moments_is_replaced_once_it_is_not(tmp_path, monkeypatch, held):
    """As on Windows a virus scanner holds what has just been written."""
    path, replace, calls = tmp_path / "a.json", os.replace, []

    def busy(source, target):
        calls.append(target)
        if len(calls) <= held:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    path.write_text("old")
    monkeypatch.setattr(files, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "replace", busy)
    if held > 3:
        with pytest.raises(FileError, match="Access is denied"):
            write_bytes(path, b"new")
    else:
        write_bytes(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == ("old" if held > 3 else "new")


def test_a_name_that_is_taken_is_not_written_through(tmp_path, thesis, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _bytes: "foreseen")
    (tmp_path / ".foreseen.tmp").symlink_to(thesis)
    with pytest.raises(FileError, match="File exists"):
        write_bytes(tmp_path / "report.html", b"new")
    assert thesis.read_text() == "years of work"
    assert (tmp_path / ".foreseen.tmp").is_symlink()


def test_a_file_has_the_users_own_permissions(tmp_path):
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_full_disk_in_export_is_one_sentence(tmp_path, monkeypatch, target):
    save_network(tmp_path / "run" / "student", sign_network(), SIGN_HEAD, env=SIGN, environment={"id": SIGN})

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        export_policy(tmp_path / "run", target)
    assert list((tmp_path / "run" / "export").iterdir()) == []


FULL = """
import resource, signal, sys
from distilrl.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import distilrl.export, torch.export, conftest
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of this kind there")
@pytest.mark.parametrize("size", [0, 1000])
def test_a_disk_that_takes_no_more_while_torch_exports_is_one_sentence(tmp_path, size):
    """The system itself refuses bytes, as PyTorch's own writer of archives would meet it, which then aborts the
    process.
    """
    save_network(tmp_path / "run" / "student", sign_network(), SIGN_HEAD, env=SIGN, environment={"id": SIGN})
    words = ["export", str(tmp_path / "run"), "--to", "torch"]
    path = os.pathsep.join([str(Path(__file__).parent), str(SOURCE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(size), *words],
        env=os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert said.startswith("error: Cannot write ")
    assert said.endswith("choose a writable folder with enough space.")
    assert list((tmp_path / "run" / "export").iterdir()) == []


def writes(node):
    """Whether a call opens a file for writing by another way than ours."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
    if name == "open":
        return any(isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes)
    if ast.unparse(node.func) in ("np.savez", "np.savez_compressed", "np.save", "torch.save", "torch.export.save"):
        return "archive" not in [ast.unparse(a) for a in node.args]  # bytes in memory, which then go our way
    return isinstance(node.func, ast.Attribute) and name in (
        "write_text",
        "write_bytes",
        "save_file",
        "tofile",
        "savetxt",
    )


def test_a_file_that_does_not_say_how_long_it_is_is_read_to_its_end(tmp_path, monkeypatch):
    """One of Linux's own has a size of 0, and one that grows that of before."""
    data = bytes(range(256)) * 20_000
    (tmp_path / "grown").write_bytes(data)
    stat, none = Path.stat, os.stat_result((0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **how: none if path.name == "grown" else stat(path, **how))
    assert read_regular(tmp_path / "grown", len(data)) == data
    with pytest.raises(FileError, match="is larger than"):
        read_regular(tmp_path / "grown", len(data) - 1)


def test_there_is_one_way_to_write_a_file():
    for path in SOURCE.rglob("*.py"):
        if path.name != "files.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert not (isinstance(node, ast.Call) and writes(node)), f"{path}:{node.lineno} {ast.unparse(node)}"

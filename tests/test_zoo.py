"""The zoo: its table, and teachers that are brought from a folder, a server, or not at all."""

import importlib
import os
import runpy
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gymnasium
import pytest

from distilrl import zoo
from distilrl.cli import main
from distilrl.errors import FileError, SpecError
from distilrl.files import write_bytes
from distilrl.teachers import load_teacher

ROOT = Path(__file__).parents[1]
SMALL = "memory-dqn"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder that holds one teacher, and is the zoo."""
    shutil.copytree(ROOT / "zoo" / SMALL, tmp_path / "base" / SMALL)
    monkeypatch.setenv("DISTILRL_ZOO", str(tmp_path / "base"))
    return tmp_path / "base"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/away/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/away"))
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def server(base):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(base))) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


def test_the_table_is_of_the_folders():
    table = runpy.run_path(str(ROOT / "zoo" / "table.py"))["table"]()
    assert {name: one["files"] for name, one in table.items()} == {
        name: {file: vars(what) for file, what in one.files.items()} for name, one in zoo.zoo().items()
    }, "write it again: python zoo/table.py"


def test_from_a_folder(base, tmp_path, capsys):
    out = tmp_path / "zoo"
    assert main(["zoo", "get", SMALL, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / SMALL}\n"
    assert load_teacher(out / SMALL).params > 0
    shutil.rmtree(base)
    assert zoo.get(SMALL, out) == out / SMALL, "what is there is not asked for again"


def test_from_a_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILRL_ZOO", server)
    assert load_teacher(zoo.get(SMALL, tmp_path / "zoo")).params > 0
    monkeypatch.setenv("DISTILRL_ZOO", f"{server}/away")
    with pytest.raises(FileError, match="no https"):
        zoo.get(SMALL, tmp_path / "other")


@pytest.mark.parametrize("data", [b"", b"less", b"more" * 100_000])
def test_another_file_is_refused_before_anything_is_written(base, tmp_path, data):
    (base / SMALL / "teacher.safetensors").write_bytes(data)
    with pytest.raises(FileError, match="SHA-256 differs"):
        zoo.get(SMALL, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_no_more_is_read_than_there_should_be(server, monkeypatch, base):
    (base / SMALL / "README.md").write_bytes(b"x" * 1_000_000)
    assert len(zoo._download(f"{server}/{SMALL}/README.md", 100)) == 101
    assert len(zoo._read_file(base / SMALL / "README.md", 100)) == 101


def test_a_file_of_the_users_stays(base, tmp_path):
    mine = tmp_path / "zoo" / SMALL / "README.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(FileError, match="--out"):
        zoo.get(SMALL, tmp_path / "zoo")
    assert [path.name for path in mine.parent.iterdir()] == ["README.md"]
    assert mine.read_text() == "mine"


def test_all_that_are_asked_for_come_or_none(base, tmp_path, capsys):
    assert main(["zoo", "get", SMALL, "nothing", "--out", str(tmp_path / "zoo")]) == 2
    assert "There is no teacher 'nothing'" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("theirs", [None, b"another"])
def test_two_that_bring_it_at_once_do_not_hinder_each_other(base, tmp_path, monkeypatch, theirs):
    """The slower one was told that the zoo's file is another than the zoo's."""

    def beaten(path, data, *, new):
        assert new
        write_bytes(path, data if theirs is None else theirs)
        raise FileExistsError(path)

    monkeypatch.setattr(zoo, "write_bytes", beaten)
    if theirs is None:
        assert zoo.get(SMALL, tmp_path / "zoo") == tmp_path / "zoo" / SMALL
    else:
        with pytest.raises(FileError, match="is another file than the zoo's"):
            zoo.get(SMALL, tmp_path / "zoo")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_zoo_is_not_waited_for(base, tmp_path):
    (base / SMALL / "README.md").unlink()
    os.mkfifo(base / SMALL / "README.md")
    with pytest.raises(FileError, match="is no plain file"):
        zoo.get(SMALL, tmp_path / "zoo")


def test_what_is_nowhere_is_one_sentence(server, tmp_path, monkeypatch, capsys):
    for name in (f"{server}/no", str(tmp_path / "no"), "https://127.0.0.1:9/zoo"):
        monkeypatch.setenv("DISTILRL_ZOO", name)
        with pytest.raises(FileError, match="zoo/ of the source repository"):
            zoo.get(SMALL, tmp_path / "zoo")
    monkeypatch.setenv("DISTILRL_ZOO", "http://[::1")
    with pytest.raises(FileError, match=r"cannot be had \(Invalid IPv6 URL\)"):
        zoo.get(SMALL, tmp_path / "zoo")
    for name in ("http://example.org/zoo", "ftp://127.0.0.1/zoo", "file:///zoo"):
        monkeypatch.setenv("DISTILRL_ZOO", name)
        with pytest.raises(SpecError, match="no https"):
            zoo.get(SMALL, tmp_path / "zoo")
    assert main(["zoo", "get", "pong"]) == 2
    assert "pong-dqn" in capsys.readouterr().err
    assert main(["zoo", "bring", "pong-dqn"]) == 2
    assert "distilrl zoo get NAME" in " ".join(capsys.readouterr().err.split())


def test_a_checkout_needs_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTILRL_ZOO", raising=False)
    monkeypatch.chdir(tmp_path)
    assert zoo.get(SMALL) == Path("zoo") / SMALL
    monkeypatch.setattr(zoo, "CHECKOUT", tmp_path / "none")
    urls = ["Documentation, https://b.example", "Homepage, https://a.example/x"]
    monkeypatch.setattr(zoo, "metadata", lambda _: type("", (), {"get_all": lambda self, name: urls})())
    assert zoo._base() == f"https://a.example/x/raw/v{zoo.__version__}/zoo"


def test_what_the_list_names_can_be_made(monkeypatch):
    """In a checkout, where the packages are that it is of."""
    monkeypatch.syspath_prepend(ROOT)
    for name, one in zoo.zoo().items():
        module, _, env = one.env.rpartition(":")
        try:
            importlib.import_module(module or "ale_py")
        except ImportError as error:
            if (error.name or "").split(".")[0] in ("examples", "benchmarks"):
                raise
            continue
        assert env in gymnasium.registry, name


def test_the_list_fits(capsys):
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[: len(zoo.zoo())]] == list(zoo.zoo())


def test_a_teacher_that_is_missing_says_how_it_comes(tmp_path):
    with pytest.raises(FileError, match="distilrl zoo get pong-dqn brings it"):
        load_teacher(tmp_path / "zoo" / "pong-dqn")
    with pytest.raises(FileError, match="check the path"):
        load_teacher(tmp_path / "zoo" / "mine")

"""What a finished folder says of itself: the command that makes it again, what it was made with, what is kept in it."""

import html
import re
import shlex
import shutil
import sys

import gymnasium
import pytest
from commands import CHOICE, VERDICTS
from conftest import SIGN, make_teacher, sign_network
from gymnasium.envs.registration import EnvSpec
from test_train import small

from distilrl import report
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.comparison import Comparison
from distilrl.distill import distill
from distilrl.errors import FileError
from distilrl.export import export_policy
from distilrl.files import digest, read_json
from distilrl.jobs import Job
from distilrl.provenance import Provenance, package_of
from distilrl.report import write_report

SHORT = ["--episodes", "100", "--threads", "1", "--margin-abs", "10"]
STEPS = ["--steps", "810", "--disturbed-episodes", "0"]
STUDENT = ["--student", "mlp:2"]
MADE = {
    "run": (["distill", *STUDENT, *STEPS, *SHORT, "--wrapper", "gymnasium.wrappers:OrderEnforcing"], ["student"]),
    "seeds": (["distill", *STUDENT, *STEPS, *SHORT, "--seeds", "2"], ["seed-0/student", "seed-1/student"]),
    "chain": (["distill", *STUDENT, *STEPS, *SHORT, "--assistants", "1"], ["assistant-1/student", "student"]),
    "plan": (["plan", *SHORT, "--steps", "810", "--sizes", "mlp:", "mlp:2", "--seeds", "2", "--no-refine"],
             ["winner/student"]),
    "tree": (["tree", *SHORT, "--leaves", "4", "--iterations", "2", "--states", "100",
              "--disturbed-episodes", "0"], []),
    "tasks": (["distill", *STUDENT, *STEPS, *SHORT], ["LateEnv/student"]),
    "teacher": (["train-teacher", "--env", SIGN, "--steps", "2400", "--network", "mlp:4", "--episodes", "7"],
                ["student"]),
}  # fmt: skip


def again_of(folder):
    """The command under the report's heading "Again"."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"<h2>Again</h2>\n<pre>(.*?)</pre>", page)
    return html.unescape(command)


@pytest.mark.parametrize("kind", MADE)
def test_the_command_of_the_report_does_again_what_was_done(kind, tmp_path, monkeypatch, capsys):
    if kind == "tree":
        pytest.importorskip("sklearn", reason="the extra trees is not installed")
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "teacher", sign_network(), CHOICE, name="teacher")
    words, students = MADE[kind]
    if kind == "tasks":
        words = [*words, "--task", f"{SIGN}=teacher", "--task", "distilrl/LateEnv-v0=teacher"]
        students = ["distilrl-LateEnv-v0/student"]
    elif kind != "teacher":
        words = [*words, "--teacher", "teacher", "--env", SIGN]
    assert main([*words, "--out", "my run"]) in VERDICTS
    command = again_of(tmp_path / "my run").replace("NEW_FOLDER", "again")
    with monkeypatch.context() as patch:  # nobody reads its report
        patch.setattr(report, "write_report", lambda *_given, **_named: None)
        assert main(shlex.split(command)[1:]) in VERDICTS, command
    for name in students:
        one, two = (read_json(tmp_path / run / name / "spec.json")["sha256"] for run in ("my run", "again"))
        assert one == two
        if kind != "teacher":  # whose results are of another kind
            assert read_json(tmp_path / "again" / name / ".." / "results.json")["student_sha256"] == one
    results = "plan.json" if kind == "plan" else "results.json"
    one, two = (read_json(tmp_path / run / results) for run in ("my run", "again"))
    assert set(one) == set(two)
    if kind == "plan":
        for told in (one, two):
            for row in told["frontier"]:
                row.pop("latency_us")
            for name in ("train_s", "wall_s", "provenance"):
                told.pop(name)
        assert one == two
    if kind == "teacher":
        assert two["student"]["episodes"] == 7
    if kind == "tree":
        assert (tmp_path / "my run" / "tree.json").read_bytes() == (tmp_path / "again" / "tree.json").read_bytes()
        assert one["student_sha256"] == digest(tmp_path / "my run" / "tree.json")
        assert 0 < one["train_s"] <= one["wall_s"]
    if kind in ("plan", "tasks"):  # a folder within is made again with the whole
        folder = (tmp_path / "my run" / students[0]).parent
        write_report(folder)
        inside = again_of(folder)
        assert shlex.split(inside)[1] == ("plan" if kind == "plan" else "distill")
        assert (tmp_path / shlex.split(inside)[3]).samefile(tmp_path / "my run" / "config.json")
    # -- what it was made with
    page = (tmp_path / "my run" / "report.html").read_text(encoding="utf-8")
    assert f"Python {sys.version.split()[0]}" in page
    if kind == "plan":  # its name stands for its winner's
        capsys.readouterr()
        assert main(["evaluate", "my run", "--env", SIGN, "--episodes", "5"]) == 0
        assert main(["export", "my run", "--to", "c"]) == 0
        assert (tmp_path / "my run" / "winner" / "export" / "c" / "policy.c").is_file()


JOB = Job(small(network="mlp:2", env_steps=800), Comparison(100, 100, 0, margin_abs=10.0), accept_episodes=5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of this job that is finished, and its results."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, distill(make_teacher(sign_network()), JOB, folder, report=False)


def test_a_teacher_that_was_no_file_is_named_as_such(finished):
    folder, _ = finished
    write_report(folder)
    assert again_of(folder).startswith("# the teacher was no file: call distilrl.distill with it")


def test_provenance_names_what_a_result_was_made_with(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/nowhere/distilrl/__main__.py", "distill", "--student", "mlp:2 x"])
    import ale_py  # noqa: F401

    found = Provenance.of("PongNoFrameskip-v4", 2)
    assert found.command == "distilrl distill --student 'mlp:2 x'"
    assert found.environment.startswith("ale_py ")
    assert found.date.endswith("+00:00")
    assert found.cpu
    assert Provenance.of("CartPole-v1", 1).environment == ""
    assert ", 1 thread, " in Provenance.of("nothing:Mine-v0", 1).in_words()


def test_a_finished_run_that_is_resumed_stays_as_it_is(finished):
    folder, first = finished
    before = (folder / "results.json").read_bytes()
    again = distill(make_teacher(sign_network()), JOB, folder, resume=True, report=False)
    assert again.wall_s == first.wall_s
    assert (folder / "results.json").read_bytes() == before


def test_a_student_of_another_run_does_not_ship_with_this_ones_verdict(finished, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(finished[0], run)
    save_network(run / "student", sign_network(-1.0), CHOICE, env=SIGN, environment={"id": SIGN})
    with pytest.raises(FileError, match=r"results\.json speaks of another student than the one in .*student"):
        export_policy(run, "onnx", out)
    assert not out.exists()
    (run / "results.json").unlink()
    assert "student_verdict" not in export_policy(run, "onnx", out)


def test_an_animation_is_kept_for_a_report_from_elsewhere(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr(report, "animation", lambda _folder, **_: b"RIFF, drawn")
    first = write_report(tmp_path / "run").read_bytes()
    assert b"data:image/webp" in first

    def gone(_folder, **_):
        raise FileError("the teacher is not there.")

    monkeypatch.setattr(report, "animation", gone)
    assert write_report(tmp_path / "run").read_bytes() == first
    (tmp_path / "run" / "animation.webp").unlink()
    assert b"the teacher is not there." in write_report(tmp_path / "run").read_bytes()


def test_the_package_of_an_environment_that_gymnasiums_own_function_makes(monkeypatch):
    for number, maker in enumerate(("gymnasium:make", gymnasium.make)):
        spec = EnvSpec(f"Alias{number}-v0", entry_point=maker, kwargs={"id": "CartPole-v1"})
        monkeypatch.setitem(gymnasium.registry, spec.id, spec)
        assert package_of(spec.id) == ""

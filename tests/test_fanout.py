"""Whole runs side by side: the same bytes whatever the executor, and nothing lost where one dies."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Timer
from types import ModuleType

import instances
import numpy as np
import pytest
import torch
from commands import VERDICTS
from conftest import make_teacher, sign_network
from test_acceptance import leaning
from tiny_envs import tiny_job

from distilrl import series
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.comparison import Comparison
from distilrl.config import TaskFile
from distilrl.distill import distill
from distilrl.envs import trust
from distilrl.episodes import Play
from distilrl.errors import (
    DistilError,
    ExtraError,
    FileError,
    NotFiniteError,
    SpecError,
    TeacherError,
    WorkerError,
)
from distilrl.evaluate import play
from distilrl.events import Accepted, Ended, Episodes, Judged, Noticed, Reached, silent
from distilrl.fanout import NOTES, Call, Place, _elsewhere, _Shared, fan_out, worded
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical, student_head
from distilrl.jobs import Machines
from distilrl.metrics import read_metrics
from distilrl.networks import build
from distilrl.objective import term
from distilrl.plan import plan
from distilrl.policies import Policy
from distilrl.processes import TRIES, Processes
from distilrl.provenance import _command
from distilrl.search import Judgement
from distilrl.series import distill_seeds, finish
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.starting import brought_back
from distilrl.sweep import SweepRow, jobs_of, sweep, write_table
from distilrl.teachers import Teacher, TeacherFile
from distilrl.text import LONGEST_NAME, as_file_name

ENV = "conftest:distilrl/SignEnv-v0"
"""Named with its module, so that another process finds it."""
TIMES = {"train_s", "wall_s", "latency_us", "provenance"}


class Inline(Executor):
    """The least that an executor can be."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


trust("conftest")
EXECUTORS = {
    "inline": Inline,
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: Processes(2),
    "spawn": lambda: ProcessPoolExecutor(1, get_context("spawn")),
}


LONG = {"env_steps": 1440, "gap": -1.0}
"""A run of many checkpoints."""


@pytest.fixture(scope="module")
def whole(fanout_home):
    """Long runs that nobody cut short."""
    distill_seeds(None, job(fanout_home, **LONG), fanout_home / "whole", 2, report=False)
    return fanout_home / "whole"


def job(fanout_home, teacher="teacher", **changes):
    tiny = tiny_job(env_steps=320, learning_starts=80, check_every=160, network="mlp:4")
    task = TaskFile(EnvRef(ENV), (TeacherFile(str(fanout_home / teacher)),))
    train = tiny.train.but(**({"tasks": (task,)} | changes))
    return replace(tiny, train=train, comparison=Comparison(60, 60, 0), accept_episodes=5)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def contents(folder):
    """All that a run, or several, left; but for times."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = without_times(read_json(path))
        elif path.name == "metrics.csv":
            found[name] = without_times(read_metrics(path))
        elif path.suffix == ".safetensors" and "checkpoint" not in name:
            found[name] = path.read_bytes()
    return found


# -- equal results


@pytest.mark.parametrize("name", EXECUTORS)
def test_seeds_are_the_same_bytes_whatever_the_executor(fanout_home, tmp_path, monkeypatch, name):
    monkeypatch.setattr("distilrl.fanout.SECONDS", 0.01)  # tiny runs are over before one would look at them
    events = []
    with EXECUTORS[name]() as executor:
        watched = {"executor": executor, "watch": events.append}
        distill_seeds(None, job(fanout_home), tmp_path / "seeds", 2, **watched, report=False)
    assert contents(tmp_path / "seeds") == contents(fanout_home / "seeds")
    assert not (tmp_path / "seeds" / NOTES).exists()
    assert {event.run for event in events if isinstance(event, Ended)} == {"seed-0", "seed-1"}
    if name != "inline":
        assert any(isinstance(event, Reached) for event in events)


def test_jobs_of_the_command_line_are_the_same_bytes(fanout_home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("distilrl.fanout.SECONDS", 0.01)
    (tmp_path / "again").mkdir()
    config = str(shutil.copy(fanout_home / "seeds" / "config.json", tmp_path / "again" / "x.json"))
    assert main(["distill", "--config", config, "--out", str(tmp_path / "seeds"), "--jobs", "2"]) in VERDICTS
    assert contents(tmp_path / "seeds") == contents(fanout_home / "seeds")
    said = capsys.readouterr().err
    assert "seed-0: " in said
    assert "verdict, return" in said  # how far it is, before what came of it
    assert all(mark not in said for mark in ("\r", "\x1b"))
    assert main(["distill", "--resume", str(tmp_path / "seeds"), "--jobs", "2"]) in VERDICTS


@pytest.mark.parametrize("name", ["threads", "processes"])
def test_the_evaluation_of_one_run_is_the_same_bytes_whatever_the_executor(fanout_home, tmp_path, name):
    """With more episodes than are played at once, so that there are parts to spread."""
    one = job(fanout_home)
    one = replace(one, comparison=replace(one.comparison, episodes=70, max_episodes=70))
    distill(None, one, tmp_path / "here", report=False)
    events = []
    with EXECUTORS[name]() as executor:
        spread = {"machines": Machines(executor=executor), "watch": events.append}
        distill(None, one, tmp_path / "there", **spread, report=False)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert [event.done for event in events if isinstance(event, Episodes) and event.total == 70][-1] == 70


def test_what_goes_wrong_in_a_part_elsewhere_is_the_same_sentence(fanout_home):
    network = sign_network()
    with torch.no_grad():
        network.layers[0].weight.fill_(float("nan"))
    policy = Policy(network, Categorical(Choices((2,))))
    with Processes(2) as executor, pytest.raises(NotFiniteError, match="The policy gave NaN"):
        play(policy, Play(EnvRef(ENV), executor=executor), range(40))


def test_a_sweep_is_the_same_bytes_whatever_the_executor(fanout_home, tmp_path):
    for seed in (3, 4):
        write_json(tmp_path / "jobs" / f"s{seed}.json", job(fanout_home, seed=seed).to_json())
    rows = sweep([tmp_path / "jobs"], tmp_path / "one")
    with Processes(2) as executor:
        again = sweep([tmp_path / "jobs"], tmp_path / "two", executor=executor)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [replace(row, train_s=0.0) for row in rows] == [replace(row, train_s=0.0) for row in again]
    assert [row.run for row in rows] == ["s3", "s4"]
    deep = tmp_path / "alone" / "s3"  # as the sweep's: config.json says from where
    distill(None, job(fanout_home, seed=3), deep, report=False)
    alone, of_sweep = contents(deep), contents(tmp_path / "one" / "s3")
    assert alone == of_sweep


@pytest.mark.parametrize("name", ["inline", "processes"])
def test_a_plan_is_the_same_whatever_the_executor(fanout_home, tmp_path, name):
    changes = {"sizes": ["mlp:", "mlp:2", "mlp:4"], "seeds": 1, "refine": False, "report": False}
    one = plan(None, job(fanout_home), tmp_path / "one", **changes)
    with EXECUTORS[name]() as executor:
        told = []
        two = plan(None, job(fanout_home), tmp_path / "two", **changes, executor=executor, watch=told.append)
        executor.shutdown(cancel_futures=True)
    assert without_times(one.to_json()) == without_times(two.to_json())
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "two" / NOTES).exists()
    judged = [event.of for event in told if isinstance(event, Judged) and event.of]
    assert judged == [row.student for row in reversed(two.frontier) if row.verdict], "each in its turn"


def threads_of(job, out, *, watch):
    """A call: a run, and how many threads PyTorch has then."""
    finish(None, job, out, watch=watch)
    return torch.get_num_threads()


def test_threads_are_those_of_the_run_wherever_it_is(fanout_home, tmp_path):
    two = job(fanout_home, threads=2)
    with (
        Processes(1) as executor,
        fan_out(threads_of, [Call("a", (two, tmp_path / "a"))], tmp_path, executor=executor, watch=silent) as ended,
    ):
        assert next(ended)[1].result() == 2
    finish(None, two, tmp_path / "b")
    torch.set_num_threads(1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_verdicts_ahead_of_their_turn_are_forgotten(fanout_home, tmp_path, monkeypatch):
    """Three sizes of which the largest fails: the others have no verdict, as one after the other."""
    easy = job(fanout_home)
    easy = replace(easy, comparison=replace(easy.comparison, margin_abs=10.0))

    def judged(*_given, **_named):
        return Judgement("fail", instances.VERDICT)

    monkeypatch.setattr(sys.modules["distilrl.plan"], "judged", judged)
    with ThreadPoolExecutor(3) as executor:
        found = plan(
            None, easy, tmp_path / "plan", sizes=["mlp:", "mlp:2", "mlp:4"], seeds=1, refine=False, executor=executor,
            report=False,
        )  # fmt: skip
    assert found.winner is None
    assert [row.reached for row in found.frontier] == [True] * 3
    assert [row.verdict for row in found.frontier] == [None, None, "fail"]


def gone(*, watch):
    raise BrokenPipeError


def test_where_nobody_reads_any_more_no_other_call_begins(tmp_path):
    calls = [Call(name, ()) for name in "ab"]
    with fan_out(gone, calls, tmp_path, executor=None, watch=silent) as ended, pytest.raises(BrokenPipeError):
        list(ended)


# -- what dies


def name_of(path, *, watch):
    """A call: dies where the file says so, each time taking a life from it."""
    lives = int(path.read_text())
    if lives:
        path.write_text(str(lives - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.parametrize("deaths", [1, TRIES])
def test_a_call_whose_process_is_killed_is_begun_again(tmp_path, deaths):
    for name, lives in (("a", deaths), ("b", 0)):
        (tmp_path / name).write_text(str(lives))
    calls = [Call(name, (tmp_path / name,)) for name in "ab"]
    with (
        Processes(2) as executor,
        fan_out(name_of, calls, tmp_path, executor=executor, watch=silent) as ended,
    ):
        found = dict(ended)
        assert found[1].result() not in (None, os.getpid()), "the other one goes on"
        if deaths < TRIES:
            assert found[0].result() != os.getpid()
        else:
            with pytest.raises(WorkerError, match=r"died 3 times at the same run .exit code -9.*--jobs"):
                found[0].result()


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(fanout_home, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("distilrl.fanout.SECONDS", 0.05)  # it is killed long before its end
    killed = []
    with Processes(2) as executor:

        def kill(event):
            state = tmp_path / "cut" / "seed-0" / "checkpoint" / "state.safetensors"
            if not killed and state.exists():
                killed.extend(executor._alive)
                for process in killed:
                    process.kill()

        distill_seeds(None, job(fanout_home, **LONG), tmp_path / "cut", 2, executor=executor, watch=kill, report=False)
    assert killed, "the runs ended before they could be killed"
    assert contents(tmp_path / "cut") == contents(whole)


def test_a_pool_that_breaks_says_so_and_another_goes_on(fanout_home, tmp_path):
    (tmp_path / "a").write_text("1")
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as executor,
        fan_out(name_of, [Call("a", (tmp_path / "a",))], tmp_path, executor=executor, watch=silent) as ended,
    ):
        ((_, future),) = ended
        with pytest.raises(WorkerError, match=r"'a' ended because a worker process died .* the same command continues"):
            future.result()


SCRIPT = """
import signal, sys
from distilrl.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
sys.exit(main(sys.argv[1:]))
"""


def begun(fanout_home, folder):
    """A sweep of two long runs in a process of its own, whose first checkpoints are there."""
    for seed in (0, 1):
        write_json(folder / "jobs" / f"s{seed}.json", job(fanout_home, seed=seed, **LONG).to_json())
    words = ["sweep", str(folder / "jobs"), "--out", str(folder / "out"), "--jobs", "2", "--trust", "conftest"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words], env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    states = [folder / "out" / name / "checkpoint" / "state.safetensors" for name in ("s0", "s1")]
    while not all(state.exists() for state in states) and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    return process, words


def alive(group):
    """Whether a process of this group lives, other than one that is dead already and not buried."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if after[0] != "Z" and int(after[2]) == group:
            return True
    return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_command_that_started_them(fanout_home, whole, tmp_path, capsys, how):
    process, words = begun(fanout_home, tmp_path)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()  # Ctrl-C reaches the workers too
    _, said = process.communicate(timeout=20)
    for _ in range(200):
        if not alive(process.pid):
            break
        time.sleep(0.05)
    assert not alive(process.pid)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.endswith("interrupted; the same command goes on\n")
        assert "Traceback" not in said
        assert not (tmp_path / "out" / NOTES).exists()
    assert main(words) in VERDICTS
    assert not (tmp_path / "out" / NOTES).exists()
    for name in ("0", "1"):
        assert contents(tmp_path / "out" / f"s{name}") == contents(whole / f"seed-{name}")


# -- sweeps


def test_a_finished_run_is_not_run_again_and_errors_are_rows(fanout_home, tmp_path, capsys):
    write_json(tmp_path / "jobs" / "good.json", job(fanout_home).to_json())
    write_json(tmp_path / "jobs" / "bad.json", job(fanout_home, teacher="nothing").to_json())
    words = ["sweep", str(tmp_path / "jobs"), "--out", str(tmp_path / "out"), "--trust", "conftest"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "out" / "sweep.csv")
    assert "bad: error" in printed.err
    assert "good: " in printed.err
    student = tmp_path / "out" / "good" / "student" / "student.safetensors"
    before = student.stat().st_mtime_ns
    (tmp_path / "jobs" / "bad.json").unlink()
    assert main([*words, "--jobs", "2"]) in (0, 1)
    assert student.stat().st_mtime_ns == before
    header, *rows = (tmp_path / "out" / "sweep.csv").read_text().splitlines()
    names = "run,env,student,params,env_steps,train_s,return_mean,return_low,return_high,score,verdict,error"
    assert header == names
    assert len(rows) == 1
    assert rows[0].startswith(f'good,{ENV},"mlp:4",22,' if '"' in rows[0] else f"good,{ENV},mlp:4,22,")
    assert (tmp_path / "out" / "sweep.md").read_text().count("\n") == 3
    # another job under the same name is refused, and said in the table
    write_json(tmp_path / "jobs" / "good.json", job(fanout_home, seed=9).to_json())
    assert main(words) == 2
    assert "begun with another 'train.seed'" in " ".join(capsys.readouterr().err.split())


def test_exit_codes_of_a_sweep(fanout_home, tmp_path, capsys):
    for margin, code in ((10.0, 0), (1e-5, 1)):
        one = job(fanout_home)
        one = replace(one, comparison=replace(one.comparison, margin_abs=margin))
        write_json(tmp_path / f"{code}.json", one.to_json())
        words = ["sweep", str(tmp_path / f"{code}.json"), "--out", str(tmp_path / "out"), "--trust", "conftest"]
        assert main(words) == code


def test_what_a_user_keeps_beside_the_runs_stays(fanout_home, tmp_path):
    """A folder of the notes' name was emptied, and so was one that a link of this name led to."""
    (tmp_path / "jobs" / ".progress").mkdir(parents=True)
    (tmp_path / "jobs" / ".progress" / "thesis.txt").write_text("years")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "more.txt").write_text("years")
    (tmp_path / "jobs" / NOTES).symlink_to(tmp_path / "own")
    write_json(tmp_path / "jobs" / "one.json", job(fanout_home).to_json())
    with EXECUTORS["threads"]() as executor:
        sweep(tmp_path / "jobs", tmp_path / "jobs", executor=executor)
    assert (tmp_path / "jobs" / ".progress" / "thesis.txt").read_text() == "years"
    assert (tmp_path / "own" / "more.txt").read_text() == "years"
    assert not (tmp_path / "jobs" / NOTES).exists()


def test_a_table_is_not_replaced_by_a_shorter_one(fanout_home, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_json(tmp_path / "jobs" / f"{name}.json", job(fanout_home).to_json())
    files = sorted((tmp_path / "jobs").glob("*.json"))
    sweep(files[1:], tmp_path / "out")
    tables = []
    monkeypatch.setattr(
        sys.modules["distilrl.sweep"], "write_table", lambda _home, rows: tables.append([row.run for row in rows])
    )
    rows = sweep(files, tmp_path / "out")
    assert tables == [["b", "c"], ["a", "b", "c"]]
    assert [row.run for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["job\udcff", "job\udcff" * 60])
def test_names_that_are_not_text_are_written(tmp_path, name):
    write_table(tmp_path, [SweepRow(run=name, env="Mine-v0", student="mlp:8")])
    assert "job" in (tmp_path / "sweep.md").read_text()
    assert len(as_file_name(name).encode(errors="backslashreplace")) <= LONGEST_NAME


def test_a_sweep_into_the_folder_of_its_files_goes_on(fanout_home, tmp_path):
    write_json(tmp_path / "jobs" / "a.json", job(fanout_home).to_json())
    first, again = (sweep(tmp_path / "jobs", tmp_path / "jobs") for _ in range(2))
    assert [row.run for row in first] == ["a"]
    assert first == again


def test_names_of_a_sweep(fanout_home, tmp_path):
    for name in ("a/config.json", "b/config.json", "c.json"):
        write_json(tmp_path / "jobs" / name, job(fanout_home).to_json())
    assert list(jobs_of([tmp_path / "jobs"])) == ["c", "a", "b"]
    assert list(jobs_of([tmp_path / "jobs" / "b", tmp_path / "jobs" / "b" / "config.json"])) == ["b"]
    write_json(tmp_path / "a.json", job(fanout_home).to_json())
    with pytest.raises(SpecError, match=r"a\.json and .*config\.json would both be the run 'a': rename"):
        jobs_of([tmp_path / "a.json", tmp_path / "jobs" / "a"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "plan"}, "is the configuration of a plan, and a sweep is of single runs"),
        ({"kind": "seeds"}, "is the configuration of a study over seeds, and"),
        ({"kind": "nonsense"}, "the unknown kind 'nonsense'"),
        ({"traim": {}}, "x.json: Unknown key 'traim'"),
        ([1], "does not hold a configuration"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_job_of_one_run_is_refused_before_the_first(fanout_home, tmp_path, data, words):
    if data is not None:
        write_json(tmp_path / "x.json", data)
    write_json(tmp_path / "good.json", job(fanout_home).to_json())
    with pytest.raises(DistilError, match=words) as told:
        sweep([tmp_path / "good.json", tmp_path / "x.json"], tmp_path / "out")
    assert str(told.value).count(". ") == 0
    assert not (tmp_path / "out").exists()


def test_a_sweep_without_jobs_and_one_over_something_else(fanout_home, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/._config.json").write_bytes(b"what macOS leaves on other file systems")
    with pytest.raises(FileError, match="holds no configuration"):
        sweep([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(SpecError, match=r"at least one config\.json"):
        sweep([], tmp_path / "out")
    bare = job(fanout_home)
    write_json(tmp_path / "x.json", replace(bare, train=bare.train.but(tasks=(TaskFile(EnvRef(ENV)),))).to_json())
    with pytest.raises(SpecError, match="names no teacher"):
        sweep([tmp_path / "x.json"], tmp_path / "out")
    write_json(tmp_path / "x.json", bare.to_json())
    with pytest.raises(FileError, match="already holds a study over seeds"):
        sweep([tmp_path / "x.json"], fanout_home / "seeds")


def test_a_sweep_goes_on_with_fewer_jobs_whatever_its_runs_are_called(fanout_home, tmp_path):
    """One that was named as the folders of a study are, as where such a folder was given, was somebody else's."""
    for name in ("seed-1", "other"):
        write_json(tmp_path / f"{name}.json", job(fanout_home).to_json())
    sweep([tmp_path / "seed-1.json"], tmp_path / "out")
    (row,) = sweep([tmp_path / "other.json"], tmp_path / "out")
    assert row.run == "other"


# -- bad input


def test_a_folder_that_cannot_be_written_is_one_sentence(fanout_home, tmp_path):
    write_json(tmp_path / "x.json", job(fanout_home).to_json())
    (tmp_path / "out").write_text("a file")
    with Processes(1) as executor, pytest.raises(FileError, match=r"Cannot write .*out"):
        sweep([tmp_path / "x.json"], tmp_path / "out", executor=executor)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--jobs", "0", "--seeds", "2"], "'jobs' must"),
        (["--jobs", "2", "--assistants", "1"], "assistants learn one from the other, so leave it out"),
        (["--jobs", "2", "--ray", "local", "--seeds", "2"], "give one of them"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_a_folder_is_made(fanout_home, tmp_path, capsys, more, words):
    out = tmp_path / "run"
    base = ["distill", "--teacher", str(fanout_home / "teacher"), "--env", ENV, "--student", "mlp:4", "--out", str(out)]
    assert main([*base, *more]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert said.count(". ") == 0
    assert not out.exists()


def test_a_weak_teacher_leaves_nothing_that_hinders_the_advised_retry(fanout_home, tmp_path):
    save_network(fanout_home / "weak", sign_network(-1.0), Categorical(Choices((2,))), name="teacher")
    with Processes(2) as executor, pytest.raises(TeacherError, match="accept-weak-teacher"):
        distill_seeds(None, job(fanout_home, teacher="weak"), tmp_path / "run", 2, executor=executor)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_be_sent_says_so(fanout_home, tmp_path):
    function = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="rule")
    with Processes(1) as executor, pytest.raises(SpecError, match="'seed-0' cannot be sent to another process"):
        distill_seeds(function, job(fanout_home), tmp_path / "run", 2, executor=executor)
    network = make_teacher(sign_network())
    with Processes(2) as executor:
        distill_seeds(network, job(fanout_home), tmp_path / "object", 2, executor=executor, report=False)
    for seed in (0, 1):
        name = f"seed-{seed}/student/student.safetensors"
        assert (tmp_path / "object" / name).read_bytes() == (fanout_home / "seeds" / name).read_bytes()


def test_a_plan_whose_teacher_cannot_be_sent_says_so_before_it_trains(fanout_home, tmp_path, monkeypatch):
    function = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="rule")
    monkeypatch.setattr(sys.modules["distilrl.plan"], "_plan", lambda *_: pytest.fail("it went on"))
    with Processes(1) as executor, pytest.raises(SpecError, match="'rule' cannot be sent to another process"):
        plan(function, job(fanout_home), tmp_path / "plan", executor=executor)
    assert not (tmp_path / "plan").exists()


def test_a_plan_whose_loss_cannot_be_sent_says_so_before_it_trains(fanout_home, tmp_path, monkeypatch):
    """Its teacher could be, and so the first verdict was what said it."""
    monkeypatch.setattr(sys.modules["distilrl.plan"], "_plan", lambda *_: pytest.fail("it went on"))
    mine = job(fanout_home, terms=(term(lambda *, student, teacher: (student - teacher).square().mean(1)),))
    with Processes(1) as executor, pytest.raises(SpecError, match=r"cannot be sent to another process.*define losses"):
        plan(fanout_home / "teacher", mine, tmp_path / "plan", executor=executor)


def test_a_run_whose_teacher_cannot_be_sent_to_its_verdict_says_so_before_it_trains(fanout_home, tmp_path, monkeypatch):
    function = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="rule")
    monkeypatch.setattr(sys.modules["distilrl.distill"], "train", lambda *_, **__: pytest.fail("it went on"))
    with Processes(1) as executor, pytest.raises(SpecError, match="'rule' cannot be sent to another process"):
        distill(function, job(fanout_home), tmp_path / "run", machines=Machines(executor=executor))
    assert not (tmp_path / "run" / "teacher.json").exists()


class Refuses(Executor):
    """As one whose pickle fails where it is called."""

    def submit(self, *_, **__):
        raise TypeError("cannot pickle '_thread.lock' object")


def test_a_part_that_an_executor_refuses_at_once_is_one_sentence():
    how = Play(EnvRef(ENV), at_once=2, executor=Refuses())
    with pytest.raises(SpecError, match=r"cannot be sent to another process \(cannot pickle"):
        play(Policy(sign_network(), Categorical(Choices((2,)))), how, range(8))


class Ending(Future):
    """As Ray's: what runs is ended by `cancel`, and leaves what it has written."""

    cancel_ends_it = True

    def cancel(self):
        ended = not self.done()
        if ended:
            self.set_exception(CancelledError())
        return ended


class Refused(Executor):
    """The first call is refused at once, the second after a while, and tidies up."""

    def __init__(self):
        self.tidy, self.calls = [], 0

    def submit(self, *_, **__):
        future, self.calls = Ending(), self.calls + 1
        if self.calls == 1:
            future.set_exception(TeacherError("weak"))
        else:
            Timer(
                0.2, lambda: (self.tidy.append(not future.done()), future.set_exception(TeacherError("weak")))
            ).start()
        return future


def test_who_is_refused_later_is_waited_for_also_where_cancelling_would_end_it(tmp_path):
    executor, calls = Refused(), [Call("a", ()), Call("b", ())]

    def together():
        with fan_out(print, calls, tmp_path, executor=executor, watch=silent) as ended:
            return [future.result() for _, future in ended]

    with pytest.raises(TeacherError):
        together()
    assert executor.tidy == [True]


def test_functions_within_functions_are_told_in_the_words_of_any_python():
    for words in ("Can't pickle local object 'f.<locals>.g'", "Can't get local object 'f.<locals>.g'"):
        future = Future()
        future.set_exception(AttributeError(words))
        with pytest.raises(SpecError, match="'a' cannot be sent to another process"):
            worded(future, "a").result()


def test_errors_survive_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(ExtraError("ray", "ray", "--ray")))
    assert type(error) is ExtraError
    assert str(error) == "--ray needs the package 'ray': install it with pip install \"distilrl[ray]\"."


class OddError(Exception):
    """One that pickle writes and does not read."""

    def __init__(self, code, where):
        super().__init__(f"fault {code} at {where}")


def odd(*_given, watch=None):
    raise OddError(7, "pole")


@pytest.mark.parametrize("make", [Processes, lambda jobs: ProcessPoolExecutor(jobs, get_context("spawn"))])
def test_an_error_that_pickle_does_not_bring_back_keeps_its_words(tmp_path, make):
    """It was pickle's own, or a pool that broke."""
    with make(1) as executor, fan_out(odd, [Call("a", ())], tmp_path, executor=executor, watch=silent) as ended:
        ((_, future),) = ended
        with pytest.raises(RuntimeError, match="OddError: fault 7 at pole"):
            future.result()


def quits(*_given, watch=None):
    sys.exit(0)


@pytest.mark.parametrize("make", [Processes, None])
def test_code_that_ends_the_program_ends_a_call(tmp_path, make):
    """Three processes died over it, which was told as a lack of memory; here the program ended as if all were well."""
    with (
        make(1) if make is not None else nullcontext() as executor,
        fan_out(quits, [Call("a", ())], tmp_path, executor=executor, watch=silent) as ended,
    ):
        ((_, future),) = ended
        with pytest.raises(WorkerError, match=r"wanted to end the program \(sys.exit\(0\)\)"):
            future.result()


def late(ended, *, watch=None):
    """Goes wrong at once, or ends half a minute later and says so."""
    if ended is None:
        raise TeacherError("The teacher t.zip gave NaN or infinite numbers after 400,000 steps.")
    time.sleep(30)
    ended.write_text("ended")


def test_an_error_that_comes_late_waits_for_nobody(tmp_path, monkeypatch):
    """The others, which are in the middle of theirs, were waited for to their end."""
    monkeypatch.setattr("distilrl.fanout.SECONDS_TO_BE_REFUSED", 0.1)
    calls = [Call("a", (None,)), Call("b", (tmp_path / "ended",))]

    def run():
        with Processes(2) as executor, fan_out(late, calls, tmp_path, executor=executor, watch=silent) as ended:
            return [future.result() for _, future in ended]

    with pytest.raises(TeacherError, match="NaN"):
        run()
    assert not (tmp_path / "ended").exists()


def nowhere_else(monkeypatch):
    """A function of a module that no other process finds, like one of a notebook."""
    module = ModuleType("found_here_alone")
    exec("def rule(obs):\n    return (obs[:, 0] > 0).long()", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.rule


def test_a_function_of_a_notebook_is_not_taken_for_a_lack_of_memory(fanout_home, tmp_path, monkeypatch):
    teacher = Teacher.from_callable(nowhere_else(monkeypatch), name="rule")
    with Processes(1) as executor, pytest.raises(SpecError, match=r"cannot be read in another process .*notebook"):
        distill_seeds(teacher, job(fanout_home), tmp_path / "run", 2, executor=executor)


def test_a_machine_without_the_folder_says_so(tmp_path):
    place = _Shared(Place((), (), str(Path.cwd())), str(tmp_path / "elsewhere"))
    with pytest.raises(FileError, match="need a folder that all of them share"):
        _elsewhere(name_of, Call("a", (tmp_path,)), place)


def test_a_script_without_a_guard_is_told(fanout_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from distilrl.processes import Processes\n"
        "from distilrl.errors import WorkerError\n"
        "import os\n"
        "with Processes(1) as executor:\n"
        "    try:\n"
        "        print(executor.submit(os.getpid).result())\n"
        "    except WorkerError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert 'if __name__ == "__main__":' in done.stdout


def test_workers_of_environments_within_a_job(fanout_home, tmp_path):
    """In CartPole, for which a worker imports little; of few episodes, for each evaluation starts a worker."""
    save_network(tmp_path / "leaning", leaning().network, Categorical(Choices((2,))), name="teacher")
    task = TaskFile(EnvRef("CartPole-v1"), (TeacherFile(str(tmp_path / "leaning")),))
    one = replace(job(fanout_home, tasks=(task,)), comparison=Comparison(2, 2, 0))
    distill(None, one, tmp_path / "here", report=False)
    write_json(tmp_path / "x.json", replace(one, train=one.train.but(workers=1)).to_json())
    with Processes(1) as executor:
        sweep([tmp_path / "x.json"], tmp_path / "out", executor=executor)
    here, there = (
        (folder / "student" / "student.safetensors").read_bytes()
        for folder in (tmp_path / "here", tmp_path / "out" / "x")
    )
    assert here == there


def test_json_is_what_the_notes_are(tmp_path):
    """What a run says of itself is read while it is written; half a note is none."""
    from distilrl.fanout import _note, _read

    assert _read(tmp_path, "a") == (None, [])
    _note(tmp_path, "a").write_text('{"phase": "tea')
    assert _read(tmp_path, "a") == (None, [])
    _note(tmp_path, "a").write_text(json.dumps({"phase": "verdict", "done": 1, "total": 2, "returned": None}))
    assert _read(tmp_path, "a") == (Reached("a", "verdict", 1, 2), [])


def noticing(path, *, watch):
    """Has something to say, and says by which command it was begun."""
    watch(Noticed("look here"))
    watch(Accepted(path, unused=(Path("vecnormalize.pkl"),)))
    return _command()


def test_what_a_person_should_know_comes_from_other_processes_too(tmp_path, monkeypatch):
    """Side by side nothing was told of statistics that were not used, or of worlds that do not repeat themselves."""
    monkeypatch.setattr(sys, "argv", ["mine.py", "--often"])
    heard = []
    with (
        Processes(2) as executor,
        fan_out(
            noticing, [Call(name, (None,)) for name in "ab"], tmp_path, executor=executor, watch=heard.append
        ) as ended,
    ):
        commands = {future.result() for _, future in ended}
    told = sorted(one.words.partition(": ")[2] for one in heard if isinstance(one, Noticed))
    assert told == ["look here", "vecnormalize.pkl is not used: give it with --normalizer"], "once, of whichever run"
    assert commands == {"python mine.py --often"}


def test_a_seed_that_fails_lets_the_others_end(sign_teacher, tmp_path, monkeypatch):
    """It stopped those before it could have ended, and was not named."""
    honest, heard = series.finish, []

    def finish(teacher, job, out, **more):
        if job.train.seed == 1:
            raise NotFiniteError("The student's weights have become NaN.")
        return honest(teacher, job, out, **more)

    monkeypatch.setattr(series, "finish", finish)
    with pytest.raises(NotFiniteError, match=r"^seed-1: The student's weights"):
        distill_seeds(sign_teacher, tiny_job(env_steps=800), tmp_path / "run", 3, watch=heard.append, report=False)
    assert [(tmp_path / "run" / f"seed-{n}" / "results.json").is_file() for n in range(3)] == [True, False, True]
    assert [(one.run, one.verdict is None) for one in heard if isinstance(one, Ended)] == [
        ("seed-0", False), ("seed-1", True), ("seed-2", False),
    ]  # fmt: skip


def test_code_that_ends_the_program_is_told_of_whatever_the_executor():
    with pytest.raises(WorkerError, match=r"wanted to end the program \(sys.exit\(3\)\)"), brought_back():
        sys.exit(3)


def test_numbers_of_who_remembers_come_back_from_another_process():
    """They crossed as descriptors of a process that had ended, which was taken for its death."""
    torch.manual_seed(0)
    one = Policy(build(NetworkSpec.of("gru:3", ObsSpec((6,)), 3)), student_head(Choices((3,))))
    how = Play(EnvRef("Acrobot-v1"), keep_states=40, at_once=5, max_steps=20)
    here = play(one, how, range(10), shadow=one)
    with Processes(2) as executor:
        there = play(one, replace(how, executor=executor), range(10), shadow=one)
    np.testing.assert_array_equal(there.own, here.own)
    np.testing.assert_array_equal(there.shadow, here.shadow)

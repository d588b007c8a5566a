"""Runs on a Ray cluster: the same bytes, and one sentence where there is none."""

import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import pytest
from commands import VERDICTS
from test_fanout import contents, job, name_of, nowhere_else, odd

from distilrl.cli import main
from distilrl.distributed import RayExecutor, connect
from distilrl.distributed.connection import _refused
from distilrl.errors import ExtraError, SpecError, WorkerError
from distilrl.events import silent
from distilrl.fanout import Call, fan_out
from distilrl.files import write_json
from distilrl.series import distill_seeds
from distilrl.sweep import sweep

pytest.importorskip("ray", reason="Ray is not installed: pip install 'distilrl[ray]'")


def refused(*, watch=silent):
    raise ExtraError("ray", "ray", "--ray")


def test_seeds_and_sweeps_are_the_same_bytes(ray_cluster, fanout_home, tmp_path):
    with RayExecutor("local") as executor:
        distill_seeds(None, job(fanout_home), tmp_path / "seeds", 2, executor=executor)
        write_json(tmp_path / "x.json", job(fanout_home).to_json())
        (row,) = sweep([tmp_path / "x.json"], tmp_path / "sweep", executor=executor)
    assert row.verdict
    assert contents(tmp_path / "seeds") == contents(fanout_home / "seeds")
    one, two = (contents(path) for path in (fanout_home / "seeds" / "seed-0", tmp_path / "sweep" / "x"))
    assert one == two
    assert ray_cluster.is_initialized(), "a cluster that we did not connect to is left as it was"


def test_the_command_line_on_ray(ray_cluster, fanout_home, tmp_path, capsys):
    config = str(fanout_home / "seeds" / "config.json")
    assert main(["distill", "--config", config, "--out", str(tmp_path / "seeds"), "--ray", "auto"]) in VERDICTS
    assert contents(tmp_path / "seeds") == contents(fanout_home / "seeds")


def test_a_task_whose_process_is_killed_is_begun_again(ray_cluster, tmp_path):
    for name, lives in (("a", 1), ("b", 9)):
        (tmp_path / name).write_text(str(lives))
    calls = [Call(name, (tmp_path / name,)) for name in "ab"]
    with RayExecutor() as executor, fan_out(name_of, calls, tmp_path, executor=executor, watch=silent) as ended:
        found = dict(ended)
        assert found[0].result() != os.getpid()
        with pytest.raises(WorkerError, match=r"lost with its process or machine .* the same command continues"):
            found[1].result()


def test_errors_come_back_as_they_were_raised(ray_cluster):
    with RayExecutor() as executor, pytest.raises(ExtraError, match=r'pip install "distilrl\[ray\]"'):
        executor.submit(refused).result()


def test_errors_that_do_not_come_back_keep_their_words(ray_cluster, tmp_path):
    """They were said to be of a machine that was lost."""
    calls = [Call(name, ()) for name in "ab"]
    with RayExecutor() as executor:
        with pytest.raises(RuntimeError, match="OddError: fault 7 at pole"):
            executor.submit(odd).result()
        with fan_out(odd, calls, tmp_path, executor=executor, watch=silent) as ended:
            assert [str(future.exception()) for _, future in ended] == ["OddError: fault 7 at pole"] * 2


def test_what_a_machine_cannot_read_is_said(ray_cluster, tmp_path, monkeypatch):
    rule = nowhere_else(monkeypatch)
    calls = [Call(name, (rule,)) for name in "ab"]
    with (
        RayExecutor() as executor,
        pytest.raises(SpecError, match=r"cannot be read .*No module named"),
        fan_out(name_of, calls, tmp_path, executor=executor, watch=silent) as ended,
    ):
        next(ended)[1].result()


def test_what_is_cancelled_ends(ray_cluster):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), RayExecutor() as executor:  # noqa: PT012
        future = executor.submit(time.sleep, 600)
        raise KeyboardInterrupt
    with pytest.raises(CancelledError):
        future.result()
    assert time.monotonic() - started < 60


def test_a_run_that_fits_no_machine_is_refused_instead_of_waited_for(ray_cluster):
    with pytest.raises(WorkerError, match="No machine of the Ray cluster has 1000 CPUs"):
        RayExecutor(cpus=1000)
    with pytest.raises(WorkerError, match=r"1 CPUs and 1 GPUs.*--device cpu"):
        RayExecutor(cpus=1, gpus=1.0)


def test_an_object_that_cannot_be_sent_says_so(ray_cluster, fanout_home, tmp_path):
    import threading

    calls = [Call("a", (threading.Lock(),))]
    with (
        RayExecutor() as executor,
        pytest.raises(SpecError, match="'a' cannot be sent to another process"),
        fan_out(name_of, calls, tmp_path, executor=executor, watch=silent) as ended,
    ):
        next(ended)[1].result()


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("nonsense", SpecError, r"--ray nonsense: write auto, local, or HOST:PORT of the cluster's head"),
        ("ray://10.0.0.1:10001", SpecError, "write auto, local, or HOST:PORT"),
        ("127.0.0.1:1", WorkerError, r"Nothing answers at 127.0.0.1:1 \("),
        ("127.0.0.1:99999999", WorkerError, r"Nothing answers at 127.0.0.1:99999999 \("),
    ],
)
def test_an_address_where_nothing_is_is_said_at_once(monkeypatch, address, error, words):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    started = time.monotonic()
    with pytest.raises(error, match=words), connect(address):
        pass
    assert time.monotonic() - started < 20


ELSEWHERE = """
import sys
from distilrl.distributed import connect
from distilrl.errors import WorkerError
try:
    with connect(sys.argv[1]):
        print("connected")
except WorkerError as error:
    print(error)
"""


def test_a_head_with_another_token_does_not_let_us_in(ray_cluster, tmp_path):
    """In a process of its own, in which nothing but our sentence is heard; Ray tries for some twenty seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong" * 10, "RAY_TMPDIR": str(tmp_path)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ELSEWHERE, ray_cluster.get_runtime_context().gcs_address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert "does not let us in: give every machine the head's token" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert not done.stderr


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("auto", ConnectionError("Could not find any running Ray"), "This machine belongs to no running Ray cluster"),
        ("10.0.0.1:6379", RuntimeError("Version mismatch: 2.60"), "at 10.0.0.1:6379 has other versions (Version mis"),
        ("local", OSError("no room\nat all"), "Ray at 'local' cannot be used (no room): see that"),
    ],
)
def test_why_a_cluster_cannot_be_used_is_one_sentence(address, error, words):
    assert words in _refused(address, error)


def test_a_missing_extra_is_named(fanout_home, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"distilrl\[ray\]"), connect("local"):
        pass
    config = str(fanout_home / "seeds" / "config.json")
    assert main(["distill", "--config", config, "--out", str(tmp_path / "run"), "--ray", "auto"]) == 2
    assert "--ray needs the package 'ray': install it with pip install \"distilrl[ray]\"." in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "run").exists()

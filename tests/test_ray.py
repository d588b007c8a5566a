"""Runs on a Ray cluster: the same bytes, and one sentence where there is none."""

import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import pytest
from test_fanout import contents, job, name_of

from distilrl.checkpoints import write_json
from distilrl.cli import main
from distilrl.distributed import RayExecutor, _refused, connect
from distilrl.errors import DistilError, ExtraError, SpecError, WorkerError
from distilrl.events import silent
from distilrl.fanout import Call, fan_out
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
    assert main(["distill", "--config", config, "--out", str(tmp_path / "seeds"), "--ray", "auto"]) == 0
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
    with RayExecutor() as executor, pytest.raises(ExtraError, match=r"pip install 'distilrl\[ray\]'"):
        executor.submit(refused).result()


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


def test_an_object_that_cannot_be_sent_says_so(ray_cluster, fanout_home, tmp_path):
    import threading

    calls = [Call("a", (threading.Lock(),))]
    with (
        RayExecutor() as executor,
        pytest.raises(SpecError, match="'a' cannot be sent to another process"),
        fan_out(name_of, calls, tmp_path, executor=executor, watch=silent) as ended,
    ):
        next(ended)[1].result()


ELSEWHERE = """
import sys
from distilrl.distributed import connect
from distilrl.errors import WorkerError
try:
    connect(sys.argv[1])
except WorkerError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", "--ray nonsense is no address: give auto, local, or HOST:PORT of the cluster's head."),
        ("127.0.0.1:1", "Nothing answers at 127.0.0.1:1 ("),
        ("127.0.0.1:99999999", "Nothing answers at 127.0.0.1:99999999 ("),
        (None, "refuses the connection: give every machine the head's token"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence(ray_cluster, tmp_path, address, words):
    """Without an address: of the cluster of these tests, with another token than it has."""
    mine = ray_cluster.get_runtime_context().gcs_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong" * 10, "RAY_TMPDIR": str(tmp_path)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ELSEWHERE, address or mine]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert words in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert not done.stderr


def test_where_no_cluster_runs_the_way_to_one_is_told():
    said = _refused("auto", ConnectionError("Could not find any running Ray instance. Please specify ..."))
    assert said == "No Ray cluster runs on this machine: start one with ray start --head, or give --ray local."


def test_a_missing_extra_is_named(fanout_home, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DistilError, match=r"distilrl\[ray\]"):
        connect("local")
    words = [
        "distill",
        "--config",
        str(fanout_home / "seeds" / "config.json"),
        "--out",
        str(tmp_path / "run"),
        "--ray",
        "auto",
    ]
    assert main(words) == 2
    assert "--ray needs the package 'ray': install it with pip install 'distilrl[ray]'." in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "run").exists()

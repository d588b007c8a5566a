"""Collectors on Ray: the student is the same with 0, 1 and 2 of them, killed or not; what goes wrong is one sentence.

Ray is started once, on this machine alone; where it is not installed, these tests are skipped.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import VERDICTS
from conftest import Killed, killed_after
from instances import acceptance
from test_fanout import nowhere_else
from test_shards import pong, setup_of
from test_train import small, without_clock

from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.collect import Behaviour
from distilrl.distributed import RayCollectors, collectors, executor
from distilrl.errors import EnvError, SpecError, TeacherError, WorkerError
from distilrl.events import Replaced, Step
from distilrl.fanout import Place
from distilrl.heads import Categorical
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.provenance import versions
from distilrl.runs import RunFolder
from distilrl.schedules import Progress, Schedule
from distilrl.shards import InProcess, Order
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec
from distilrl.stream import Stream
from distilrl.teachers import Teacher
from distilrl.train import train

CARTPOLE = "CartPole-v1"
ACCEPTANCE = acceptance(500.0, 20.0, 500)
LIVELY = Behaviour(epsilon=Schedule(0.3), zeta=1.2, beta=Schedule(0.9, 0.2), greedy_share=0.0)
CONFIG = small(
    env=CARTPOLE, gap=-1.0, shards=2, round_steps=8, env_steps=960, check_every=300, check_episodes=2, final_episodes=2,
    behaviour=LIVELY,
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("default")


def rule():
    return Teacher.from_callable(lambda obs: (obs[:, 2] + 0.5 * obs[:, 3] > 0).long(), name="rule")


def trained(folder=None, **more):
    return train(CONFIG, rule(), acceptance=ACCEPTANCE, folder=folder and RunFolder(folder), **more)


def weights(found):
    return list(found.network.state_dict().values())


def same(one, other):
    return without_clock(one) == without_clock(other) and all(map(torch.equal, weights(one), weights(other)))


@pytest.fixture(scope="module")
def whole():
    return trained()


@pytest.mark.parametrize("count", [1, 2])
def test_the_student_is_the_same_with_any_number_of_collectors(ray_cluster, whole, count):
    with RayCollectors(count, "local") as hosts:
        assert same(whole, trained(collectors=hosts))


def test_a_run_is_resumed_with_another_number_of_collectors(ray_cluster, whole, tmp_path):
    """Begun without any, then with two and with one, and ended without."""
    with pytest.raises(Killed):
        trained(tmp_path / "run", watch=killed_after(350))
    for count, until in ((2, 650), (1, 950)):
        with RayCollectors(count, "local") as hosts, pytest.raises(Killed):
            trained(tmp_path / "run", collectors=hosts, watch=killed_after(until))
    assert same(whole, trained(tmp_path / "run"))


def test_weights_arrive_as_they_are(ray_cluster):
    network = build(NetworkSpec((4,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    network.standardise(torch.tensor([0.5, -3.0, 0.0, 1.0]), torch.tensor([2.0, 0.1, 1.0, 30.0]))
    sent = ray_cluster.get(
        ray_cluster.put(Order(Policy(network, Categorical(Choices((2,)))), Progress(0.0), True, 8))
    ).policy.network
    obs = torch.randn(50, 4)
    assert torch.equal(sent(obs), network(obs))
    assert torch.equal(sent.obs_scale, network.obs_scale)


def test_what_kills_every_collector_ends_the_run(ray_cluster):
    deadly = replace(CONFIG.env, id="conftest:distilrl/FaultyEnv-v0", kwargs={"fault": "die"})
    config = CONFIG.but(tasks=(replace(CONFIG.tasks[0], env=deadly),))
    sign = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="sign")
    said = []
    with (
        RayCollectors(1, "local", watch=said.append) as hosts,
        pytest.raises(WorkerError, match="3 collectors in a row"),
    ):
        train(config, sign, acceptance=ACCEPTANCE, collectors=hosts)
    assert len(said) == 3


def test_a_collector_that_does_not_start_or_is_of_another_version_is_told(ray_cluster, monkeypatch):
    monkeypatch.setattr(collectors, "SECONDS_TO_START", 1.0)
    with pytest.raises(WorkerError, match="no place for a collector"), RayCollectors(1, "local", gpus=0.25):
        pass
    monkeypatch.setattr(collectors, "SECONDS_TO_START", 60.0)
    monkeypatch.setattr(collectors, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(WorkerError, match=r"torch .* there and 0.1 here"), RayCollectors(1, "local"):
        pass


@pytest.fixture
def cartpole_teacher(tmp_path):
    network = build(NetworkSpec((4,), 2, hidden=(4,)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
        network.layers[0].weight[:2] = torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, -1.0, -0.5]])
        network.layers[2].weight[1, 0] = network.layers[2].weight[0, 1] = 1.0
    save_network(tmp_path / "teacher", network, Categorical(Choices((2,))), name="teacher")
    return str(tmp_path / "teacher")


def command(teacher, out, *more):
    return main([
        "distill", "--teacher", teacher, "--env", CARTPOLE, "--student", "mlp:8", "--out", str(out), "--steps", "800",
        "--episodes", "3", "--disturbed-episodes", "0", "--threads", "1", "--set", "check-episodes=2", "--set",
        "learning-starts=160", "--env-kwargs", '{"max_episode_steps": 60}', *more,
    ])  # fmt: skip


def test_the_command_line_puts_rounds_into_the_run_and_collectors_nowhere(
    ray_cluster, cartpole_teacher, tmp_path, capsys
):
    more = ["--collectors", "2", "--ray", "local", "--set", "shards=4"]
    assert command(cartpole_teacher, tmp_path / "ray", *more) in VERDICTS
    assert "rounds of 8 steps by 4 shards" in capsys.readouterr().err
    assert command(cartpole_teacher, tmp_path / "here", "--set", "round-steps=8", "--set", "shards=4") in VERDICTS
    one, other = (RunFolder(tmp_path / name) for name in ("ray", "here"))
    assert one.config.read_bytes() == other.config.read_bytes()
    file = "student/student.safetensors"
    assert (one.path / file).read_bytes() == (other.path / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--collectors", "-1"], "'collectors' must be at least 0"),
        (["--collector-gpus", "0.5"], "give --collectors too"),
        (["--collectors", "2", "--seeds", "2"], "--collectors serve one run"),
        (["--collectors", "2", "--assistants", "1"], "--collectors serve one run"),
        (["--collectors", "2", "--jobs", "2"], "--jobs is of this machine and --collectors are of a cluster"),
        (["--collectors", "2", "--ray", "somewhere"], "write auto, local, or HOST:PORT"),
        (["--collectors", "2", "--set", "shards=3"], "'shards' (3) must divide 'n_envs' (8)"),
        (["--collectors", "4", "--set", "shards=2"], "4 collectors cannot share 2 shards"),
        (["--collectors", "9"], "9 collectors cannot share 8 shards"),
    ],
)
def test_options_that_mean_nothing_are_refused(cartpole_teacher, tmp_path, capsys, options, words):
    assert command(cartpole_teacher, tmp_path / "run", *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


NODES = """
import sys
sys.path.insert(0, {tests!r})
import torch
from ray.cluster_utils import Cluster
from test_collectors import *

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0, "object_store_memory": 80 << 20}})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
killed, said = [], []

def watch(event):
    if isinstance(event, Step) and event.env_steps >= 500 and not killed:
        where = hosts.actors[0].handle.__ray_call__
        at = ray.get(where.remote(lambda _: __import__("ray").get_runtime_context().get_node_id()))
        killed.extend(node for node in nodes if node.node_id == at)
        cluster.remove_node(killed[0], allow_graceful=False)

whole = trained()
with RayCollectors(1, cluster.address, watch=said.append) as hosts:
    ray = hosts.ray
    assert len(ray.nodes()) == 3
    found = trained(collectors=hosts, watch=watch)
cluster.shutdown()
print("equal" if same(whole, found) and len(killed) == len(said) == 1 else (killed, said))
"""


@pytest.mark.slow
def test_a_machine_that_is_lost_changes_nothing():
    """A cluster of a head and two machines, all of them here; the one with the collector is taken away."""
    pytest.importorskip("ray")
    script = NODES.format(tests=os.path.dirname(__file__))  # noqa: PTH120
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=180)
    assert done.stdout.split()[-1:] == ["equal"], done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(ray_cluster):
    """Two collectors for all tests from here on; those before start their own, for which a small machine has no core
    left while these live.
    """
    with RayCollectors(2, "local") as hosts:
        yield hosts


def test_a_game_of_ale_is_the_same_elsewhere(two):
    config, teacher, known = pong(shards=2, round_steps=4, final_episodes=1)
    there = train(config, teacher, acceptance=known, collectors=two)
    assert same(train(config, teacher, acceptance=known), there)


def test_what_goes_wrong_there_is_the_sentence_of_here(two):
    faulty = replace(CONFIG.env, id="conftest:distilrl/FaultyEnv-v0", kwargs={"fault": "step"})
    config = CONFIG.but(tasks=(replace(CONFIG.tasks[0], env=faulty),))
    sign = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="sign")
    mad = Teacher.from_callable(lambda obs: obs[:, :2] / 0, kind="q", name="mad")
    for of, teacher, kind in ((config, sign, EnvError), (CONFIG, mad, TeacherError)):
        said = []
        for hosts in (InProcess(), two):
            with pytest.raises(kind) as caught:
                train(of, teacher, acceptance=ACCEPTANCE, collectors=hosts)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_what_cannot_be_hosted_is_refused(two):
    with pytest.raises(SpecError, match="2 collectors cannot share 1 shards"):
        train(CONFIG.but(shards=1), rule(), acceptance=ACCEPTANCE, collectors=two)
    with pytest.raises(SpecError, match="'round_steps' is 0"):
        train(CONFIG.but(shards=1, round_steps=0), rule(), acceptance=ACCEPTANCE, collectors=two)
    lock = threading.Lock()
    stuck = Teacher.from_callable(lambda obs: (obs[:, 2] > 0).long() if lock else None, name="stuck")
    with pytest.raises(TeacherError, match="stuck cannot be sent to a collector"):
        train(CONFIG, stuck, acceptance=ACCEPTANCE, collectors=two)


def test_what_a_collector_cannot_read_is_said(two, monkeypatch):
    """It was a KeyError of the shard that was never made."""
    teacher = Teacher.from_callable(nowhere_else(monkeypatch), name="rule")
    with pytest.raises(SpecError, match=r"cannot be read by a collector on .*No module named"):
        train(CONFIG, teacher, acceptance=ACCEPTANCE, collectors=two)


def store():
    """Objects in the object store of this machine."""
    from ray._private.internal_api import memory_summary

    (line,) = re.findall(r"Plasma memory usage (\d+) MiB, (\d+) objects", memory_summary(stats_only=True))
    return int(line[1])


def test_the_store_does_not_fill_and_no_more_than_two_rounds_are_in_flight(two):
    """Blocks of 170 KB, which the store holds; smaller ones travel with the answers. Ray frees once a second."""
    config = CONFIG.but(n_envs=128, shards=2, round_steps=64, capacity=20_000)
    flying = []
    stream = Stream(config, rule(), collectors=two)
    before = store()
    for step in range(64 * 10):
        stream.collect(Progress(0.0))
        if step % 64 == 40:
            flying.append([len(shard.pending) for shard in stream.source._host._shards])
    assert flying == [[1, 1]] * 10
    until = time.monotonic() + 20
    while (left := store() - before) > 8 and time.monotonic() < until:
        time.sleep(0.2)
    stream.close()
    assert left <= 8, f"of 22 blocks there are {left} left"


def pid_of(ray, actor):
    return ray.get(actor.handle.__ray_call__.remote(lambda _: os.getpid()))


def test_a_collector_that_is_killed_is_replaced_and_nothing_is_lost(ray_cluster, two, whole, monkeypatch):
    said, killed = [], []

    def watch(event):
        if isinstance(event, Step) and event.env_steps >= (500, 750)[min(len(killed), 1)] and len(killed) < 2:
            killed.append(event.env_steps)
            os.kill(pid_of(ray_cluster, two.actors[len(killed) - 1]), signal.SIGKILL)

    monkeypatch.setattr(two, "watch", said.append)
    assert same(whole, trained(collectors=two, watch=watch))
    assert len(killed) == 2
    assert [event.collector for event in said] == [0, 1]
    assert all(isinstance(event, Replaced) and event.shards == 1 and event.steps > 50 for event in said)


def test_a_collector_that_dies_as_it_takes_anothers_place_is_one_of_three(two, whole, monkeypatch):
    """It ended the run, with the advice to install what was there."""
    said, honest, killed = [], two._greet, []

    def greet(handle):
        if len(killed) < 2:  # the one in use, and the one in its place
            killed.append(handle)
            two.ray.kill(handle)
            time.sleep(0.5)
        return honest(handle)

    def watch(event):
        if isinstance(event, Step) and not killed:
            killed.append(two.actors[0].handle)
            two.ray.kill(killed[0])

    monkeypatch.setattr(two, "watch", said.append)
    monkeypatch.setattr(two, "_greet", greet)
    assert same(whole, trained(collectors=two, watch=watch))
    assert len(killed) == 2
    assert [event.collector for event in said] == [0], "of the one that stayed"


def test_what_keeps_a_collector_from_its_part_is_said(monkeypatch):
    """It was a KeyError, and the cause was lost."""

    def fails(*_given):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(collectors, "Shard", fails)
    worker = collectors.Worker()
    worker.host("1.0", None, 0, None, "")
    found = worker.collect("1.0", None, None)
    assert isinstance(found, WorkerError)
    assert "cannot make its part of the run, because it raised AssertionError (Torch not compiled" in str(found)


def test_a_collector_counts_paths_from_where_the_command_was_called(tmp_path, monkeypatch):
    """They counted from where the cluster was started: another file was read, or none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    worker = collectors.Worker()
    worker.about(Place((), (), str(tmp_path / "there")))
    assert Path.cwd() == tmp_path / "there"
    worker.about(Place((), (), str(tmp_path / "nowhere")))
    assert Path.cwd() == tmp_path / "there"


def test_a_collector_whose_environment_is_of_another_version_is_told(sign_teacher):
    """Two emulators in one replay."""
    worker = collectors.Worker()
    worker.host("1.0", setup_of(sign_teacher), 0, None, "ale_py 0.1")
    found = worker.collect("1.0", None, None)
    assert isinstance(found, WorkerError)
    assert "where the run has ale_py 0.1: install the same" in str(found)


def test_a_run_elsewhere_is_of_the_same_versions(monkeypatch):
    assert executor._call(versions(), len, ((1, 2),), {}) == 2
    with pytest.raises(WorkerError, match=r"has torch .* there and 0\.1 here, where the run comes from"):
        executor._call(versions() | {"torch": "0.1"}, len, ((),), {})

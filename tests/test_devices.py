"""Networks that live elsewhere than on the CPU. "meta" stands in for a graphics card: a network that says that it is
there, notes where what it is shown is, and answers on the CPU.
"""

import ctypes
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import instances
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network
from test_train import small
from torch import nn

from distilrl.acceptance import accept
from distilrl.comparison import Comparison, compare
from distilrl.config import OptimConfig, StudentConfig
from distilrl.devices import check_device, doubled, precise
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import SpecError
from distilrl.evaluate import play
from distilrl.heads import Categorical
from distilrl.heads.units import Units
from distilrl.jobs import Job
from distilrl.learner import Learner, make_pupils
from distilrl.objective import TeacherTerm
from distilrl.policies import Policy
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Check, Stream
from distilrl.teachers import Teacher
from distilrl.train import train

HEAD, HOW = Categorical(Choices((2,))), Play(EnvRef(SIGN))


class Elsewhere(nn.Module):
    """Prefers action 0, wherever it is asked from."""

    def __init__(self):
        super().__init__()
        self.register_buffer("here", torch.zeros(1, device="meta"))
        self.seen = set()

    def forward(self, obs, *state):
        self.seen |= {obs.device.type, *(part.device.type for part in state[0])} if state else {obs.device.type}
        p = torch.tensor([[1.0, 0.0]]).expand(len(obs), 2)
        return (p, *state) if state else p


class Remembering(Elsewhere):
    def start(self, count):
        return (torch.zeros(count),)


class Moved(nn.Linear):
    """Notes where it was sent."""

    def to(self, device):
        self.sent = str(device)
        return self


def teacher_of(network):
    return Teacher(network, "q", "test", "memory", "0" * 64, obs_shape=(2,), outputs=2)


@pytest.mark.parametrize("kind", [Elsewhere, Remembering])
def test_a_policy_is_shown_what_it_sees_where_it_is(kind, sign_teacher, monkeypatch):
    """Each its own: a student on the card against a teacher on the CPU, and the other way round."""
    monkeypatch.setattr(torch, "autocast", lambda *_a, **_k: nullcontext())  # it knows no such device
    info, here = describe_env(EnvRef(SIGN)), Policy(sign_network(), HEAD)
    for away in (kind(), kind()):
        assert Policy(away, HEAD).device.type == "meta"
    assert here.device.type == Policy(nn.Identity(), HEAD).device.type == "cpu"
    play(Policy(away, HEAD), HOW, range(3), shadow=here)
    play(here, HOW, range(3), shadow=Policy(away, HEAD))
    accept(teacher_of(away).fitted(info), HOW, episodes=2, weak_ok=True)
    compare(teacher_of(away).fitted(info), here, HOW, Comparison(2, 2, 0), instances.acceptance(), info)
    compare(sign_teacher.fitted(info), Policy(away, HEAD), HOW, Comparison(2, 2, 0), instances.acceptance(), info)
    assert away.seen == {"meta"}


def test_a_check_of_a_run_on_a_card_plays_what_is_on_the_cpu():
    """The stage with reward searches on the CPU, whatever the device of the training before it."""
    check = Check(small(device="cuda"), None)
    assert check(Policy(sign_network(), HEAD)).mean == check.others(Policy(sign_network(), HEAD), 20) == 10.0


def test_units_of_a_run_on_a_card_come_to_a_network_that_is_not():
    """The stage with reward searches on the CPU; the run that it follows has its units on the card."""
    network = sign_network().to("meta")
    network.set_units(Units(torch.eye(2), torch.zeros(2)))
    assert network.out_matrix.device.type == network.out_offset.device.type == "meta"


def test_a_teacher_takes_its_critic_along():
    teacher = replace(make_teacher(sign_network()), network=Moved(2, 2), critic=Moved(2, 1))
    assert teacher.to("meta") is teacher
    assert teacher.network.sent == teacher.critic.sent == "meta"
    stream = Stream(small(), teacher)
    stream.close()
    assert stream.teacher.network.sent == stream.teacher.critic.sent == "cpu"


def test_a_device_that_is_not_here_is_one_sentence_and_leaves_nothing(sign_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_device("cpu")
    for device in ("cuda", "mps"):
        with pytest.raises(SpecError, match=f"no device '{device}' that PyTorch sees here: use cpu."):
            distill(sign_teacher, Job(small(device=device)), tmp_path / "run")
        with pytest.raises(SpecError, match="use cpu"):
            train(small(device=device), sign_teacher)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_device("mps")
    with pytest.raises(SpecError, match="use cpu or mps"):
        check_device("cuda")


def test_double_precision_is_kept_where_there_is_any():
    assert [precise(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]
    assert doubled(torch.ones(2)).dtype == torch.float64


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library than glibc"
)
@pytest.mark.parametrize(("env", "heaps"), [({}, 1), ({"MALLOC_ARENA_MAX": "3"}, 3)])
def test_threads_share_one_heap_where_the_user_has_said_nothing(env, heaps):
    code = """
import distilrl, ctypes, threading
libc, barrier = ctypes.CDLL(None), threading.Barrier(4)
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p] * 2
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]

def allocate():
    held = [bytes(100_000) for _ in range(3)]
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""
    alone = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    found = subprocess.run([sys.executable, "-c", code], env=alone | env, capture_output=True, text=True, check=True)
    assert found.stdout.count("<heap nr=") == heaps


@pytest.mark.filterwarnings("ignore:.*which is a no-op")
def test_units_are_read_back_where_the_student_is():
    def learner(device):
        optim, terms = OptimConfig(), (TeacherTerm("forward_kl"),)
        spec, head = NetworkSpec((1,), 2, hidden=(4,)), HEAD
        made = make_pupils([spec], [head], [None], terms, StudentConfig("mlp:4"), torch.Generator(), device)
        return Learner(made, terms, optim)

    here, there = (learner(torch.device(name)) for name in ("cpu", "meta"))
    here.pupils[0].set_units(Units(torch.eye(2), torch.zeros(2)))
    there.load_state(*here.state())
    units = there.pupils[0].student.units
    assert (units.matrix.device.type, units.offset.device.type) == ("meta", "meta")

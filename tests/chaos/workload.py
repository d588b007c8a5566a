"""What is broken on purpose: small commands of every kind, run in processes that can be killed, and what they leave.

Commands run in forks of one process that has imported everything, so that a run takes a second and not five.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import gymnasium
import numpy as np
import torch
from conftest import SIGN, SignEnv, make_teacher, sign_network  # noqa: F401
from tiny_envs import LINEAR, SLOPE

with contextlib.suppress(ImportError):  # now, so that no fork has to
    import sklearn.tree  # noqa: F401
    import torch.utils.tensorboard

from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.files import write_bytes, write_json
from distilrl.heads import Categorical, Point
from distilrl.networks import Network, build
from distilrl.spaces import Bounds, Choices
from distilrl.specs import NetworkSpec

RESULTS = HERE.parents[1] / "benchmarks" / "results" / "chaos"
CLOCKS = {"wall_s", "train_s", "latency_us", "path", "command", "provenance"}
"""Fields that differ from run to run: seconds, dates, and where things lie."""
SHORT = ["--steps", "1600", "--episodes", "40", "--disturbed-episodes", "0", "--threads", "1"]
SHORT += ["--set", "check-every=400", "--set", "learning-starts=160", "--set", "check-episodes=4"]
WEAK = ["--accept-weak-teacher", "--margin-abs", "1"]
CNN = "cnn:4k3s2:8"


class PictureEnv(SignEnv):
    """A small picture whose left half is brighter than its right where action 1 pays."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 3), np.uint8)

    def _observe(self):
        super()._observe()
        picture = np.full((12, 12, 3), 100, np.uint8)
        picture[:, :6] += np.uint8(np.clip(50 + 25 * self.obs[0], 0, 100))
        return picture + self.np_random.integers(0, 20, picture.shape, np.uint8)


if "distilrl/PictureEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/PictureEnv-v0", entry_point=PictureEnv, max_episode_steps=50)
PICTURE = "distilrl/PictureEnv-v0"


def make_teachers(home: Path) -> None:
    """Teachers of every environment, as folders."""
    head = Categorical(Choices((2,)))
    save_network(home / "sign", sign_network(), head, name="teacher")
    linear = Network(NetworkSpec((2,), 1))
    with torch.no_grad():
        linear.layers[-1].weight.copy_(torch.tensor([SLOPE]))
        linear.layers[-1].bias.zero_()
    save_network(home / "linear", linear, Point(Bounds((-4.0,), (4.0,))), name="teacher")
    spec = NetworkSpec.parse(CNN, (3, 12, 12), 2)
    save_network(home / "picture", build(spec, torch.Generator().manual_seed(0)), head, name="teacher")
    wide = build(NetworkSpec((2,), 2, hidden=(32,)), torch.Generator().manual_seed(0))
    save_network(home / "wide", wide, head, name="teacher")


def commands(home: Path) -> dict[str, list[str]]:
    """Words of each command, but for ``--out``."""

    def distil(teacher: str, env: str, student: str, *more: str) -> list[str]:
        return ["distill", "--teacher", str(home / teacher), "--env", env, "--student", student, *SHORT, *more]

    tree = ["tree", "--teacher", str(home / "sign"), "--env", SIGN, "--threads", "1", "--episodes", "40"]
    plan = ["plan", "--teacher", str(home / "sign"), "--env", SIGN, "--threads", "1", "--episodes", "40"]
    tasks = ["--task", f"{SIGN}={home / 'sign'}", "--task", f"{LATE}={home / 'sign'}"]
    return {
        "train": ["train-teacher", "--env", SIGN, "--steps", "4000", "--episodes", "20", "--threads", "1"],
        "vectors": distil("sign", SIGN, "mlp:8"),
        "pixels": distil("picture", PICTURE, CNN, *WEAK),
        "tasks": ["distill", *tasks, "--student", "mlp:8", *SHORT],
        "continuous": distil("linear", LINEAR, "mlp:8", "--steps", "2400"),
        "recurrent": distil("sign", SIGN, "gru:4"),
        "sensed": distil("sign", SIGN, "mlp:4@history=2", "--student-noise", "0.1", "--student-delay", "1"),
        "seeds": distil("sign", SIGN, "mlp:4", "--seeds", "2"),
        "chain": distil("wide", SIGN, "mlp:2", "--assistants", "1", "--accept-weak-teacher", "--margin-abs", "20"),
        "plan": [*plan, "--steps", "1600", "--sizes", "mlp:", "mlp:4", "--seeds", "1", "--no-refine"],
        "tree": [*tree, "--disturbed-episodes", "0", "--leaves", "4", "--iterations", "3", "--states", "400"],
    }


LATE = "distilrl/LateEnv-v0"


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; below 0 the signal that ended it."""
    said: str
    """Standard error."""
    seconds: float


def run(
    words: list[str] | Callable[[], int],
    *,
    kill_after: float | None = None,
    kill_on: str = "",
    with_signal: int = signal.SIGKILL,
    limit: float = 300.0,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """A command in a fork of this process, killed after so many seconds.

    Args:
        words: of the command line, or a function that gives an exit code.
        kill_after: seconds; None: it is let alone.
        kill_on: it is killed once it has said this.
        with_signal: what it is killed with.
        limit: seconds after which it hangs.
        prepare: what is done in the fork first.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setsid()
            os.close(read)
            for descriptor in (1, 2):
                os.dup2(write, descriptor)
            sys.stdout = sys.stderr = os.fdopen(write, "w", buffering=1)  # also where pytest had put others
            sys.modules["__main__"] = ModuleType("__main__")  # what its own worker processes need not import again
            if prepare is not None:
                prepare()
            code = words() if callable(words) else main(words)
            sys.stderr.flush()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    return _watched(pid, read, kill_after, kill_on, with_signal, limit)


def _watched(pid: int, read: int, kill_after: float | None, kill_on: str, with_signal: int, limit: float) -> Ended:
    """Waits for a process; what it says is read meanwhile, so that it never waits for its reader."""
    os.set_blocking(read, False)
    said, started, killed = b"", time.monotonic(), False
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                said += os.read(read, 1 << 16)
            done, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - started
            if done:
                break
            due = kill_after is not None and seconds >= kill_after
            if not killed and (due or (kill_on and kill_on.encode() in said)):
                os.killpg(pid, with_signal)
                killed = True
            if seconds > limit:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.001)
        try:
            while part := os.read(read, 1 << 16):
                said += part
        except BlockingIOError:
            pass  # a process of its own still has the pipe
    finally:
        os.close(read)
    return Ended(os.waitstatus_to_exitcode(status), said.decode(errors="replace"), seconds)


def without_clocks(value: Any) -> Any:
    """The same without what differs from run to run."""
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return [without_clocks(one) for one in value] if isinstance(value, list) else value


def left(folder: Path) -> dict[str, str]:
    """Digests of all that a run has left and that must not depend on what happened to it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        skipped = name.startswith("checkpoint") or "/checkpoint/" in name or "tensorboard" in name
        if not path.is_file() or skipped or path.name in ("report.html", "config.json") or path.suffix == ".tmp":
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(without_clocks(json.loads(data)), sort_keys=True).encode()
        elif path.name == "metrics.csv":
            rows = list(csv.DictReader(io.StringIO(data.decode())))
            data = json.dumps([without_clocks(row) for row in rows]).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def sentence(ended: Ended) -> str:
    """The one sentence with which a command ended; empty where it did not."""
    lines = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    return lines[0] if len(lines) == 1 and lines[0].endswith(".") and "Traceback" not in ended.said else ""


def _dated(found: dict[str, Any]) -> dict[str, Any]:
    """What was found, with its date and command; its machine stands in a file beside it."""
    about = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
    }
    write_json(RESULTS / "machine.json", about)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "command": [Path(sys.argv[0]).name, *sys.argv[1:]], **found}


def record(name: str, found: dict[str, Any]) -> None:
    """Writes what a script found, for the page of results."""
    write_json(RESULTS / f"{name}.json", _dated(found))


def add_line(name: str, found: dict[str, Any]) -> None:
    """Adds what a script found to those of before, in one line."""
    path = RESULTS / f"{name}.jsonl"
    before = path.read_bytes() if path.is_file() else b""
    write_bytes(path, before + json.dumps(_dated(found)).encode() + b"\n")

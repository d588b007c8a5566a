"""Exported C run on emulated boards: answers bit for bit those of this machine, flash, RAM, stack, instructions a decision.

    python benchmarks/boards.py                      # students of all kinds, with seeded weights
    python benchmarks/boards.py RUN/export/c ...     # folders that distilrl export wrote to c or int8

What is run is examples/board, built by its Makefile. Instructions are counted by the emulator (QEMU, -icount shift=0) and
checked against a loop of known length in the same image. Flash is all that policy_act reaches, functions of the compiler's
library among them; RAM is static memory and the state. Results go to results/boards. On Debian: apt install
qemu-system-arm qemu-system-misc qemu-user gcc-arm-none-eabi libnewlib-arm-none-eabi gcc-riscv64-unknown-elf
picolibc-riscv64-unknown-elf gcc-s390x-linux-gnu libc6-dev-s390x-cross gcc-mips-linux-gnu libc6-dev-mips-cross
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import fill, machine

from distilrl.checkpoints import read_json, write_json
from distilrl.export import c, int8, tree
from distilrl.export.keep import _write_golden, write_c
from distilrl.export.replay import Recording, open_export
from distilrl.export.steps import layers_of, steps
from distilrl.heads import Head, head_for
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.spaces import Bounds, Choices, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.trees import TreePolicy, load_tree

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "examples" / "board"
OUT = ROOT / "benchmarks" / "results" / "boards"
BOARDS = {
    "microbit": "Cortex-M0",
    "mps2-an385": "Cortex-M3",
    "mps2-an386": "Cortex-M4",
    "mps2-an500": "Cortex-M7",
    "riscv": "RV32IMC",
    "s390x": "s390x, big-endian",
    "mips": "MIPS, big-endian",
}
"""Boards of examples/board/Makefile, and their processors."""
BIG_ENDIAN = ("s390x", "mips")
SOFT = ("microbit", "mps2-an385", "riscv")
"""Boards whose processors have no floating-point unit."""
TWO, SIX = head_for(Choices((2,)), "q"), head_for(Choices((6,)), "q")
SQUASHED, CLIPPED = (head_for(Bounds((-1.0,) * n, (1.0,) * n), "mean", s) for n, s in ((6, "tanh"), (3, "clip")))
PIXELS = (4, 84, 84)
STUDENTS: dict[str, tuple[str, tuple[int, ...], Head]] = {
    "linear": ("mlp:", (4,), TWO),
    "mlp": ("mlp:16,16", (4,), TWO),
    "mlp-large": ("mlp:64,64", (8,), head_for(Choices((4,)), "q")),
    "several": ("mlp:16,16", (4,), head_for(Choices((2, 3), (), "MultiDiscrete", (2,)), "q")),
    "squashed": ("mlp:64,64@tanh", (17,), SQUASHED),
    "clipped": ("mlp:32,32@elu", (11,), CLIPPED),
    "gru": ("gru:16", (4,), TWO),
    "lstm": ("lstm:16", (4,), CLIPPED),
    "history": ("mlp:16,16@history=4", (4,), TWO),
    "cnn": ("cnn:4k8s4,8k4s2,8k3s2:16", PIXELS, SIX),
}
"""Network, what it reads, and head, of each kind; those without memory and with ReLU are written in integers too."""
GOLDEN = 32
"""Observations of each."""


def write_student(folder: Path, name: str) -> None:
    """Writes one of `STUDENTS`, ``NAME-int8``, or ``tree``, as an export does, with golden observations."""
    rng = np.random.default_rng(0)
    if name == "tree":
        grown, _ = load_tree(ROOT / "benchmarks" / "results" / "pong-tree" / "tree.json")
        shape, policy = PIXELS, Policy(TreePolicy(grown), grown.head)
    else:
        text, shape, head = STUDENTS[name.removesuffix("-int8")]
        network = build(NetworkSpec.parse(text, shape, head.width), torch.Generator().manual_seed(0))
        policy = Policy(network.eval(), head)
    pixels = len(shape) == 3
    size = (GOLDEN, *shape)
    obs = rng.integers(0, 256, size, np.uint8) if pixels else rng.normal(0, 1, size).astype(np.float32)
    read = ObsSpec(shape, shape, "uint8", frames=4) if pixels else ObsSpec(shape)
    if name == "tree":
        source = tree.source(grown, read, name)
    elif name.endswith("-int8"):
        source = int8.write(int8.quantise(layers_of(network, "integers"), obs), policy.head, read, name)
    else:
        source = c.write(steps(network, "C"), policy.head, read, name)
    write_c(folder, source)
    begins = np.arange(GOLDEN) == 0 if policy.remembers else np.ones(GOLDEN, np.bool_)
    _write_golden(folder, open_export(folder / "policy.c", policy.head, obs[0].size), policy, Recording(obs, begins), "c")


def make(*words: str) -> str:
    """What examples/board/Makefile prints; ends the program where it fails."""
    done = subprocess.run(["make", "-s", "-C", str(BOARD), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"make {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def on_board(folder: Path, board: str, records: int = GOLDEN, repeats: int = 20, *words: str) -> dict[str, Any]:
    """Runs an export's folder on a board.

    Args:
        folder: holds policy.c, policy.h and the golden observations.
        board: one of `BOARDS`.
        records: golden observations to answer, at most.
        repeats: decisions measured together on each.
        words: more for make.

    Returns:
        ``same`` (answers that equal this machine's bit for bit) of ``observations``, ``largest_difference`` of the
        numbers; where the board has a counter, ``instructions`` a decision and bytes of ``stack``, ``flash`` and ``ram``.
    """
    golden = np.load(folder / "golden.npz")
    obs, values, action = (golden[name] for name in ("obs", "values", "action"))
    action = action.reshape(len(obs), -1).astype(np.float32 if action.dtype == np.float32 else np.int32)
    order = ">" if board in BIG_ENDIAN else "<"
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch) / "export"
        shutil.copytree(folder, given)
        pairs = zip(_ordered(action, order), _ordered(obs, order), strict=True)
        (given / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in pairs))
        said = [f"EXPORT={given}", f"BOARD={board}", f"BUILD={scratch}/build", *words]
        defines = f"DEFINES=-DRECORDS={records} -DREPEATS={repeats}"
        told = dict(line.split() for line in make("run", *said, defines).splitlines() if line.count(" ") == 1)
        row = np.dtype([("values", order + "f4", values.shape[1:]), ("action", order + action.dtype.str[1:], action.shape[1:])])
        answers = np.frombuffer((Path(scratch) / "build" / "answers.bin").read_bytes(), row)
        sizes = make("size", *said).split() if "loops" in told else []
    seen = int(told["observations"])
    equal = _ordered(answers["values"], "<").view(np.int32) == values[:seen].view(np.int32)
    same = equal.all(1) & (answers["action"] == action[:seen]).all(1)
    found: dict[str, Any] = {"observations": seen, "same": int(same.sum())}
    found["largest_difference"] = float(np.abs(answers["values"] - values[:seen]).max())
    if not sizes:
        return found
    per_tick = 2_000_000 / int(told["loops"])
    ticks = (int(told["decisions"]) - int(told["nothing"])) / (seen * int(told["repeats"]))
    return found | {
        "instructions": round(ticks * per_tick),
        "stack": int(told["stack"]),
        "flash": int(sizes[0]) + int(sizes[1]),
        "ram": int(sizes[1]) + int(sizes[2]) + _state_bytes(folder),
    }


def _ordered(array: Any, order: str) -> Any:
    """The same numbers in another order of bytes."""
    return array.astype(array.dtype.newbyteorder(order))

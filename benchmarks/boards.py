"""Exported C on emulated boards: answers bit for bit those of this machine, flash, RAM, stack, instructions.

    python benchmarks/boards.py                      # students of all kinds, with seeded weights, and the Unitree G1's
    python benchmarks/boards.py RUN/export/c ...     # folders that distilrl export wrote to c or int8

What is run is examples/board, built by its Makefile. Instructions are counted by the emulator (QEMU, -icount shift=0)
and checked against a loop of known length in the same image. Flash is all that policy_act reaches, functions of the
compiler's library among them; RAM is static memory and the state. Results go to results/boards. On Debian: apt install
qemu-system-arm qemu-system-misc qemu-user gcc-arm-none-eabi libnewlib-arm-none-eabi gcc-riscv64-unknown-elf
picolibc-riscv64-unknown-elf gcc-s390x-linux-gnu libc6-dev-s390x-cross gcc-mips-linux-gnu libc6-dev-mips-cross
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import RESULTS, fill, machine

from distilrl.export import c, int8, int8_c, tree
from distilrl.export.card import read_card
from distilrl.export.keep import write_c, write_golden
from distilrl.export.replay import Recording, open_export, state_bytes
from distilrl.export.steps import steps
from distilrl.files import read_json, write_json
from distilrl.heads import Head, head_for
from distilrl.networks import Network, build
from distilrl.policies import Policy
from distilrl.spaces import Bounds, Choices, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.trees import Tree, TreePolicy

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "examples" / "board"
OUT = RESULTS / "boards"
BOARDS = {
    "microbit": "Cortex-M0",
    "mps2-an385": "Cortex-M3",
    "mps2-an386": "Cortex-M4",
    "mps2-an500": "Cortex-M7",
    "riscv": "RV32IMAC",
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
    "cnn-small": ("cnn:4k6s4,4k4s2,6k3s2:8", PIXELS, SIX),
}
"""Network, what it reads, and head, of each kind."""
IN_INTEGERS = ("linear", "mlp", "mlp-large", "gru", "lstm", "history", "cnn", "cnn-small")
"""Those that are written in integers too."""
KEPT = {
    f"{name}{end}": OUT / folder / "export" / target
    for name, folder in (("g1", "g1-2992"), ("g1-small", "g1-1467"))
    for end, target in (("", "c"), ("-int8", "int8"))
}
"""Exports of students that were trained, by name."""
GOLDEN = 32
"""Observations of each."""


def student(name: str) -> tuple[Network, Head]:
    """One of `STUDENTS`, with seeded weights."""
    text, shape, head = STUDENTS[name]
    return build(NetworkSpec.parse(text, shape, head.width), torch.Generator().manual_seed(0)).eval(), head


def full_tree(levels: int = 6) -> Tree:
    """A seeded tree of so many levels of conditions on four numbers."""
    rng, inner = np.random.default_rng(0), 2**levels - 1
    nodes = 2 * inner + 1
    feature = tuple(int(rng.integers(4)) if node < inner else -1 for node in range(nodes))
    below, above = (tuple(2 * node + side if node < inner else node for node in range(nodes)) for side in (1, 2))
    value = tuple((int(rng.integers(2)),) for _ in range(nodes))
    return Tree((4,), TWO, "raw", feature, tuple(rng.normal(0, 1, nodes).tolist()), below, above, value)


def write_student(folder: Path, name: str) -> None:
    """Writes one of `STUDENTS`, ``NAME-int8``, or ``tree``, as an export does, with golden observations."""
    shape = STUDENTS[name.removesuffix("-int8")][1] if name != "tree" else (4,)
    read = ObsSpec(shape, shape, "uint8", frames=4) if len(shape) == 3 else ObsSpec(shape)
    if name == "tree":
        grown = full_tree()
        policy, source = Policy(TreePolicy(grown), grown.head), tree.source(grown, read, name)
    else:
        network, head = student(name.removesuffix("-int8"))
        policy = Policy(network, head)
        if name.endswith("-int8"):
            source = int8_c.write(int8.quantise(steps(network, "int8"), drawn(read)), head, read, name)
        else:
            source = c.write(steps(network, "c"), head, read, name)
    write_with_golden(folder, policy, source, read)


def drawn(read: ObsSpec) -> np.ndarray:
    """Seeded observations of such a kind."""
    rng, size = np.random.default_rng(0), (GOLDEN, *read.shape)
    return rng.integers(0, 256, size, np.uint8) if read.dtype == "uint8" else rng.normal(0, 1, size).astype(np.float32)


def write_with_golden(folder: Path, policy: Policy, source: c.Source, read: ObsSpec) -> None:
    """Writes a policy's C, with its answers to seeded observations."""
    write_c(folder, source)
    obs = drawn(read)
    begins = np.arange(GOLDEN) == 0 if policy.remembers else np.ones(GOLDEN, np.bool_)
    file = open_export(folder / "policy.c", policy.head, obs[0].size)
    write_golden(folder, [file], policy, Recording(obs, begins), "c")


class DoesNotFit(Exception):
    """A board has too little memory."""


def make(*words: str) -> str:
    """What examples/board/Makefile prints.

    Raises:
        DoesNotFit: the board has too little memory.
    """
    done = subprocess.run(["make", "-s", "-C", str(BOARD), *words], capture_output=True, text=True, check=False)
    if "overflowed by" in done.stderr or "RAM is full" in done.stderr:
        raise DoesNotFit
    if done.returncode:
        sys.exit(f"make {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr  # where a board's words go differs


def on_board(
    folder: Path, board: str, optimise: str = "-Os", records: int = GOLDEN, repeats: int = 20, beside: str = ""
) -> dict[str, Any]:
    """Runs an export's folder on a board.

    Args:
        folder: holds policy.c, policy.h and the golden observations.
        board: one of `BOARDS`.
        optimise: what the compiler is told.
        records: golden observations to answer, at most.
        repeats: decisions measured together on each.
        beside: objects and libraries that policy.c calls.

    Returns:
        ``same`` (answers that equal those of this machine bit for bit) of ``observations``, ``same_actions``, and the
        ``largest_difference`` of the numbers; where the board has a counter, ``instructions`` of a decision in the mean
        and ``most``, bytes of ``stack``, ``flash`` and ``ram``.

    Raises:
        DoesNotFit: the board has too little memory.
    """
    golden = np.load(folder / "golden.npz")
    obs, values, action = (golden[name] for name in ("obs", "values", "action"))
    if (folder / "export.json").exists():  # of integers the golden answers are those of policy.onnx, which lies beside
        file = open_export(folder / "policy.c", read_card(folder / "export.json").head, obs[0].size)
        here = file(obs, np.arange(len(obs)) == 0)
        values, action = here.values, here.actions
    action = action.reshape(len(obs), -1).astype(np.float32 if action.dtype == np.float32 else np.int32)
    order = ">" if board in BIG_ENDIAN else "<"
    with tempfile.TemporaryDirectory() as scratch:
        given = shutil.copytree(folder, Path(scratch) / "export")
        pairs = zip(_ordered(action, order), _ordered(obs, order), strict=True)
        (given / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in pairs))
        words = [f"EXPORT={given}", f"BOARD={board}", f"BUILD={scratch}/build", f"OPTIMISE={optimise}"]
        words += [f"EXTRA={beside}"] if beside else []
        said = make("run", *words, f"DEFINES=-DRECORDS={records} -DREPEATS={repeats}")
        told = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)$", said, re.MULTILINE)}
        numbers = [
            ("values", order + "f4", values.shape[1:]),
            ("action", order + action.dtype.str[1:], action.shape[1:]),
        ]
        answers = np.frombuffer((Path(scratch) / "build" / "answers.bin").read_bytes(), numbers)
        sizes = make("size", *words) if "loops" in told else ""
    seen = told["observations"]
    theirs = _ordered(answers["values"], "<").copy()
    same_actions = (answers["action"] == action[:seen]).all(1)
    same = (theirs.view(np.int32) == values[:seen].view(np.int32)).all(1) & same_actions
    found = {"observations": seen, "same": int(same.sum()), "same_actions": int(same_actions.sum())}
    found |= {"largest_difference": float(np.abs(theirs - values[:seen]).max())}
    if not sizes:
        return found
    of_tick = 2_000_000 / told["loops"] / told["repeats"]
    kept, written = _bytes(sizes, "text|rodata|srodata|ARM|eh_frame"), _bytes(sizes, "bss|sbss")
    return found | {
        "instructions": round((told["decisions"] - told["nothing"]) * of_tick),
        "most": round((told["most"] - told["nothing"]) * of_tick),
        "stack": told["stack"],
        "flash": kept + _bytes(sizes, "data|sdata"),
        "ram": written + _bytes(sizes, "data|sdata") + state_bytes(folder / "policy.c"),
    }


def _bytes(sizes: str, sections: str) -> int:
    """Of sections, in what ``size -A`` prints; those of attributes are not loaded."""
    found = re.findall(rf"^\.(?:{sections})\S*\s+(\d+)", re.sub(r".*attributes.*", "", sizes), re.MULTILINE)
    return sum(map(int, found))


def _ordered(array: Any, order: str) -> Any:
    """The same numbers in another order of bytes."""
    return array.astype(array.dtype.newbyteorder(order))


def measured(student: str, board: str, optimise: str) -> dict[str, Any]:
    """One line: a student of `STUDENTS`, ``NAME-int8``, ``tree``, one of `KEPT` or an export's folder, on a board."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = KEPT.get(student, Path(student))
        if not folder.is_dir():
            folder = Path(scratch)
            write_student(folder, student)
        large = "obs_t *obs" in (folder / "policy.h").read_text()  # images
        try:
            return on_board(folder, board, optimise, *((2, 1) if large else (GOLDEN, 20)))
        except DoesNotFit:
            return {"fits": False}


def versions() -> None:
    """Notes down with what the lines were made."""
    machine(OUT)
    tools = ("qemu-system-arm", "qemu-system-riscv32", "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "cc")
    said = {
        tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout for tool in tools
    }
    write_json(OUT / "machine.json", read_json(OUT / "machine.json") | {k: v.splitlines()[0] for k, v in said.items()})


def main(folders: list[str]) -> None:
    integers = [f"{name}-int8" for name in IN_INTEGERS]
    keys = [
        {"student": student, "board": board, "optimise": optimise}
        for student in folders or [*STUDENTS, *integers, "tree", *KEPT]
        for board in BOARDS
        for optimise in ("-Os", "-O2")
        if optimise == "-Os" or board in ("mps2-an386", "microbit")
    ]
    if not folders:  # products and sums in one instruction, rounded once: what that changes
        keys += [{"student": name, "board": "mps2-an386", "optimise": "-Os -ffp-contract=fast"} for name in STUDENTS]
    fill(OUT / "boards.jsonl", measured, keys)
    versions()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Playing exported files: each as a function from raw observations to its head's numbers and its actions."""

import copy
import ctypes
import itertools
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.errors import FileError
from distilrl.export import tflite
from distilrl.export.last import Last, last_step
from distilrl.export.steps import TOGETHER
from distilrl.files import digest
from distilrl.heads import Head
from distilrl.limits import MAX_STATE
from distilrl.modules import find_program
from distilrl.policies import Policy, State
from distilrl.spaces import Excerpt
from distilrl.teachers.onnx import failed, open_graph
from distilrl.text import first_line

CFLAGS = ("-std=c99", "-ffp-contract=off", "-O3", "-Wall", "-Wextra", "-Wdouble-promotion")


@dataclass(frozen=True)
class Answers:
    """What a policy says of B observations."""

    values: NDArray[np.float32]
    """(B, P) its head's numbers."""
    actions: NDArray[Any]
    """(B, F) int64 or (B, A) float32 actions as the environment takes them."""


@dataclass(frozen=True)
class Held:
    """What comes of holding a file's answers against the policy that it was made of."""

    observations: int
    """How many."""
    same_action: float
    """Share of actions that are the same, as `Head.agree` counts."""
    largest_difference: float
    """Of the head's numbers, as a share of the largest; of real actions' of the largest of each, or of its half-range
    where that is more."""
    distance: float
    """Share of choices that differ, or root mean square of real actions' differences in half-ranges."""
    consistent: bool
    """Whether the file's actions follow from its own numbers."""
    alike: bool
    """Whether numbers and actions are those of the policy, but for the order of summation."""

    def to_json(self) -> dict[str, Any]:
        """What export.json says of it."""
        return {
            "observations": self.observations,
            "same_action": self.same_action,
            "largest_difference": self.largest_difference,
            "action_distance": self.distance,
        }


@dataclass(frozen=True)
class Recording:
    """Observations of a policy's own play, on which its files are held against it."""

    obs: NDArray[Any]
    """(K, *obs_shape); of a policy with memory in the order in which they were seen."""
    begins: NDArray[np.bool_]
    """(K,) whether an episode begins with it, so that memory starts anew; everywhere for a policy without."""

    @classmethod
    def of(cls, obs: NDArray[Any]) -> "Recording":
        """Of single states (K, *obs_shape), each on its own."""
        return cls(obs, np.ones(len(obs), np.bool_))

    def few(self, count: int, *, remembers: bool) -> "Recording":
        """Some of them: single states spread evenly or, for a policy that remembers, the first steps of an episode: of
        the first that has a quarter as many, or the longest, as one of a step or two asks nothing of a memory.
        """
        if not remembers:
            return Recording.of(self.obs[:: max(len(self.obs) // count, 1)][:count])
        stretches = self._stretches()
        long = (one for one in stretches if one.stop - one.start >= count // 4)
        chosen = next(long, max(stretches, key=lambda one: one.stop - one.start))
        some = slice(chosen.start, min(chosen.start + count, chosen.stop))
        return Recording(self.obs[some], self.begins[some])

    def _stretches(self) -> list[slice]:
        """Steps in a row that memory goes through."""
        starts = [0, *(self.begins[1:].nonzero()[0] + 1).tolist(), len(self.obs)]
        return [slice(*ends) for ends in itertools.pairwise(starts)]

    def numbers(self, policy: Policy) -> Tensor:
        """What a policy says of them, (K, P)."""
        obs = torch.from_numpy(self.obs)
        with torch.no_grad():
            if not policy.remembers:
                return torch.cat([policy.forward(part)[0] for part in torch.split(obs, TOGETHER)])
            rows, places = [], []
            stretches = sorted(self._stretches(), key=lambda one: one.start - one.stop)  # those that go on stand first
            for first in range(0, len(stretches), TOGETHER):
                group = stretches[first : first + TOGETHER]
                state = policy.start(len(group))
                for step in range(group[0].stop - group[0].start):
                    now = torch.tensor([one.start + step for one in group if one.start + step < one.stop])
                    row, state = policy.forward(obs[now], tuple(part[: len(now)] for part in state))
                    rows.append(row)
                    places.append(now)
            return torch.cat(rows)[torch.cat(places).argsort()]


def rounding(policy: Policy, seen: Recording, numbers: Tensor) -> NDArray[np.float64]:
    """By how much a network's numbers (K, P) differ at most from those that its weights say in doubles, (P,): what is
    left where large numbers cancel, as of observations of 300 that vary by 1.
    """
    exact = Policy(copy.deepcopy(policy.network).double(), policy.head)
    real = np.issubdtype(seen.obs.dtype, np.floating)
    theirs = Recording(seen.obs.astype(np.float64) if real else seen.obs, seen.begins).numbers(exact)
    apart: NDArray[np.float64] = (numbers.double() - theirs).abs().amax(0).numpy()
    return apart


def held(answers: Answers, numbers: Tensor, head: Head, *, rounded: NDArray[np.float64] | float = 0.0) -> Held:
    """Holds a file's answers against the policy that it was made of.

    Args:
        answers: the file's.
        numbers: (B, P) the policy's, of the same observations.
        head: what they mean.
        rounded: by how much these are rounded themselves, (P,), as `rounding` says.

    Example::

        held(file(recording.obs, recording.begins), recording.numbers(policy), policy.head).alike
    """
    last = last_step(head)
    with torch.no_grad():
        expected = last.shifted(head.greedy(numbers).numpy())
        own = last.shifted(head.greedy(torch.from_numpy(answers.values)).numpy())
        agreed = head.agree(last.unshifted(answers.actions), last.unshifted(expected))
    values = numbers.numpy()
    scales = last.scales(values)
    allowed = last.allowed(values, rounded)
    apart = np.abs(answers.values - values).max(0)
    # an integer file decides by more digits than its numbers have; real actions follow from theirs
    consistent = last.same(answers.actions, own, answers.values, np.zeros_like(allowed) if head.real else allowed)
    same = last.same(answers.actions, expected, values, last.tie(values, rounded))
    distance = last.distance(answers.actions, expected)
    alike = consistent and same and bool((apart <= allowed).all())
    return Held(len(values), float(agreed.mean()), float((apart / scales).max()), distance, consistent, alike)


Step = Callable[[NDArray[Any], State], tuple[Answers, State]]
"""Observations (B, *obs_shape) and what is remembered, to answers and what is then."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, opened.

    Example::

        file = open_export(Path("policy.c"), head, 17)
        answers = file(obs)  # obs (B, 17)
    """

    step: Step
    """One step of B episodes."""
    start: Callable[[int], State] | None = None
    """The state of so many fresh episodes; None: it has no memory."""

    def __call__(self, obs: NDArray[Any], begins: NDArray[np.bool_] | None = None) -> Answers:
        """Answers to observations (B, *obs_shape); of a policy with memory in their order, which starts anew where
        ``begins`` (B,), by default with the first.
        """
        if self.start is None:
            rows = [self.step(obs[first : first + TOGETHER], ())[0] for first in range(0, max(len(obs), 1), TOGETHER)]
        else:
            begins = np.arange(len(obs)) == 0 if begins is None else begins
            rows, state = [], self.start(1)
            for row, fresh in zip(obs, begins, strict=True):
                answers, state = self.step(row[None], self.start(1) if fresh else state)
                rows.append(answers)
        return Answers(np.concatenate([one.values for one in rows]), np.concatenate([one.actions for one in rows]))


def open_export(path: Path, head: Head, obs_size: int, *, native: bool = False) -> ExportedFile:
    """Opens an exported file: .onnx, .c, .pt2 or .tflite. C is compiled and run, PyTorch loads .pt2: trust them first.
    An ONNX graph is checked as a teacher's is.

    Args:
        path: the file.
        head: of the policy in it.
        obs_size: numbers in one observation.
        native: compile C for this very machine.

    Raises:
        FileError: it cannot be opened or compiled.
        ExtraError: a package is missing.

    Example::

        answers = open_export(Path("policy.c"), head, 17)(obs)  # obs (B, 17)
    """
    opener = {".onnx": _onnx, ".c": _c, ".pt2": _torch, ".tflite": _tflite}.get(path.suffix)
    if opener is None or not path.is_file():
        raise FileError(
            f"{path} is no exported policy: give a folder that distilrl export wrote, or an .onnx, .c, .pt2 or .tflite "
            "file in one."
        )
    file = opener(path, last_step(head), head.width, native)

    def checked(obs: NDArray[Any], state: State) -> tuple[Answers, State]:
        numbers = obs[0].size if len(obs) else obs_size
        if numbers != obs_size:
            raise FileError(
                f"{path} reads {obs_size} numbers, but the environment gives {numbers}: name the right environment."
            )
        return file.step(obs, state)

    return ExportedFile(checked, file.start)


class FileNetwork(nn.Module):
    """An exported file as the network of a policy: numbers of which the file's actions are the greedy ones."""

    def __init__(self, file: ExportedFile, head: Head, reads: Excerpt | None) -> None:
        super().__init__()
        self.file, self.head, self.last, self.reads = file, head, last_step(head), reads

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        return self._stepped(obs, ())[0]

    def _stepped(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        given = obs.cpu().numpy()
        answers, state = self.file.step(given if self.reads is None else self.reads.of(given), state)
        if not self.last.possible(answers.actions):  # which playing it would clip, and so hide
            raise FileError("An exported file gives actions outside of their bounds: export it again.")
        return self.head.inverse(self.last.unshifted(answers.actions)).to(obs.device), state


class RecurrentFile(FileNetwork):
    """An exported file with memory."""

    def start(self, count: int) -> State:
        """The state of ``count`` fresh episodes, as the file keeps it."""
        return self.file.start(count) if self.file.start is not None else ()

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:  # type: ignore[override]
        """Raw observations (N, *obs_shape) to numbers (N, P), and the state after them."""
        return self._stepped(obs, state)


def file_policy(file: ExportedFile, head: Head, reads: Excerpt | None = None) -> Policy:
    """An exported file as a policy that can be played; it is given ``reads`` of an observation, or all.

    Example::

        policy = file_policy(open_export(Path("policy.c"), head, 17), head)
    """
    return Policy((FileNetwork if file.start is None else RecurrentFile)(file, head, reads), head)


def _onnx(path: Path, last: Last, width: int, _native: bool) -> ExportedFile:
    session = open_graph(path, "Replaying an ONNX file", threads=1)[2]
    kept = {one.name: one.shape[1:] for one in session.get_inputs() if one.name != "obs"}
    wanted = [last.numbers_name, "action", *(name.replace("_in", "_out") for name in kept)]
    outputs = {one.name for one in session.get_outputs()}
    if not outputs.issuperset(wanted) or not all(_bounded(shape) for shape in kept.values()):
        raise FileError(f"{path} is no policy that distilrl exported, by its inputs and outputs: export it again.")

    def step(obs: NDArray[Any], state: State) -> tuple[Answers, State]:
        given = dict(zip(kept, (part.numpy() for part in state), strict=True))
        try:
            values, actions, *after = session.run(wanted, {"obs": obs, **given})
        except Exception as error:  # onnxruntime raises many kinds
            raise failed(path, "an observation", error) from None
        count, kind = len(obs), "int64" if last.element == "int32_t" else "float32"
        action = (count,) if last.scalar else (count, last.size)
        told = [(values, "float32", (count, width)), (actions, kind, action)]
        told += [(part, "float32", (count, *shape)) for part, shape in zip(after, kept.values(), strict=True)]
        if not all(isinstance(one, np.ndarray) and (one.dtype, one.shape) == (of, shape) for one, of, shape in told):
            raise FileError(f"{path} answers with other shapes than its card names, or other types: export it again.")
        return Answers(values, last.rows(actions)), tuple(torch.from_numpy(part) for part in after)

    def start(count: int) -> State:
        return tuple(torch.zeros((count, *shape)) for shape in kept.values())

    return ExportedFile(step, start if kept else None)


def _bounded(shape: Sequence[Any]) -> bool:
    """Whether a state has a size, and one that can be meant."""
    return all(isinstance(size, int) and size > 0 for size in shape) and math.prod(shape) <= MAX_STATE


def _torch(path: Path, last: Last, _width: int, _native: bool) -> ExportedFile:
    module = torch.export.load(path).module()

    def step(obs: NDArray[Any], state: State) -> tuple[Answers, State]:
        with torch.no_grad():
            values, actions = module(torch.from_numpy(obs))
        return Answers(values.numpy(), last.rows(actions.numpy())), state

    return ExportedFile(step)


def _tflite(path: Path, last: Last, _width: int, _native: bool) -> ExportedFile:
    answer = tflite.runner(path)

    def step(obs: NDArray[Any], state: State) -> tuple[Answers, State]:
        answers = [answer(one[None]) for one in obs]
        values, actions = (np.concatenate(side) for side in zip(*answers, strict=True))
        return Answers(values, last.rows(actions)), state

    return ExportedFile(step)


def find_compiler() -> str:
    """The C compiler here: what CC names, if that is a program and no more, or cc, gcc or clang.

    Raises:
        FileError: there is none.
    """
    compiler = next(filter(None, map(find_program, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise FileError(
            "C is compiled and replayed before it is kept, and there is no C compiler (cc) here: install one (on "
            "Windows gcc of MinGW-w64)."
        )
    return compiler


def compiled(command: list[str]) -> tuple[bool, str]:
    """Runs a compiler; whether it failed, and the first line of what it said.

    Raises:
        FileError: it cannot be run.
    """
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        raise FileError(
            f"The compiler {command[0]} cannot be run ({first_line(error)}): install one that can, first in PATH."
        ) from None
    return done.returncode != 0, next(iter(done.stderr.strip().splitlines()), "")[:160]


_LOADED: dict[tuple[str, ...], int] = {}
"""Handles of libraries by compiler, flags and what is in the files: an export is opened up to four times, and what was
loaded stays so for as long as the process lives.
"""


class Library:
    """A C export, compiled and loaded: once in a process, while its text and its compiler are the same."""

    def __init__(self, path: Path, *, native: bool = False) -> None:
        compiler = find_compiler()
        flags = [*CFLAGS, "-shared"] + (["-march=native"] if native else [])
        flags += ["-fPIC"] if os.name != "nt" else []
        files = (path, path.with_suffix(".h"))
        key = (compiler, *flags, path.name, *map(digest, files))
        if key not in _LOADED:
            _LOADED[key] = _load([compiler, *flags], files)
        self.handle = ctypes.CDLL(path.name, handle=_LOADED[key])
        self.handle.policy_values.restype = None
        if hasattr(self.handle, "policy_reset"):
            self.handle.policy_reset.restype = None


def _load(compiler: list[str], files: tuple[Path, Path]) -> int:
    """The handle of what a compiler, with its flags, makes of a C file and its header."""
    path = files[0]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what is loaded
        target = Path(folder) / "policy.so"
        # by themselves: a compiler would take what else lies beside them, such as a precompiled header
        for file in files:
            shutil.copyfile(file, Path(folder) / file.name)
        failed, told = compiled([*compiler, str(Path(folder) / path.name), "-o", str(target)])
        if failed:
            raise FileError(f"{path} does not compile ({told or compiler[0]}): export it again.")
        try:
            return ctypes.CDLL(str(target))._handle
        except OSError as error:
            raise FileError(
                f"{path} compiles here but cannot be loaded ({first_line(error)}): set TMPDIR to a folder from "
                "which programs may run, or CC to a compiler for this machine."
            ) from None


def _c(path: Path, last: Last, width: int, native: bool) -> ExportedFile:
    handle = Library(path, native=native).handle
    size = state_bytes(path)
    pointers = [ctypes.c_void_p] * (3 if size else 2)  # state, observation, numbers or action
    handle.policy_values.argtypes = pointers
    handle.policy_act.argtypes = pointers[last.scalar :]
    if not last.scalar:
        handle.policy_act.restype = None

    def step(obs: NDArray[Any], state: State) -> tuple[Answers, State]:
        flat = np.ascontiguousarray(obs.reshape(len(obs), -1))
        values = np.zeros((len(flat), width), np.float32)
        actions = np.zeros((len(flat), last.size), {"int32_t": np.int32, "float": np.float32}[last.element])
        kept = state[0].numpy().copy() if state else np.zeros((len(flat), 0), np.uint8)
        before = kept.copy()  # asked twice of the same step
        rows = zip(*map(_addresses, (flat, values, actions, before, kept)), strict=True)
        for row, (at, says, takes, first, second) in enumerate(rows):
            handle.policy_values(*((first,) if state else ()), at, says)
            given = (*((second,) if state else ()), at)
            if last.scalar:
                actions[row] = handle.policy_act(*given)
            else:
                handle.policy_act(*given, takes)
        return Answers(values, last.rows(actions)), (torch.from_numpy(kept),) if state else ()

    def start(count: int) -> State:
        fresh = np.zeros(size, np.uint8)
        handle.policy_reset(ctypes.c_void_p(fresh.ctypes.data))
        return (torch.from_numpy(np.tile(fresh, (count, 1))),)

    return ExportedFile(step, start if size else None)


def _addresses(rows: NDArray[Any]) -> list[int]:
    """Where each row begins."""
    first, size = rows.ctypes.data, rows.strides[0]
    return [first + row * size for row in range(len(rows))]


def state_bytes(path: Path) -> int:
    """Bytes of the structure in which a C export keeps its memory; 0: it has none."""
    header = path.with_suffix(".h")
    found = (
        re.search(r"#define POLICY_STATE_BYTES (\d+)", header.read_text(encoding="utf-8")) if header.is_file() else None
    )
    return int(found[1]) if found else 0

"""Playing exported files: each as a function from raw observations to its head's numbers and its actions."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.errors import ExtraError, FileError
from distilrl.export import tflite
from distilrl.export.last import Last, last_step
from distilrl.heads import Head
from distilrl.policies import Policy

CFLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Wdouble-promotion", "-Werror")
TOLERANCE = 1e-5
"""Of the head's numbers, relative to the largest; choices may differ only between values closer than this."""


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
    """Of the head's numbers, as a share of the largest."""
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


def held(answers: Answers, network: Callable[[Tensor], Tensor], head: Head, obs: NDArray[Any]) -> Held:
    """Holds a file's answers against the policy that it was made of.

    Args:
        answers: the file's.
        network: the policy's, (B, *obs_shape) to (B, P).
        head: the policy's.
        obs: (B, *obs_shape) what was asked.

    Example::

        held(replayer(path, head, 17)(obs), network, head, obs).alike
    """
    last = last_step(head)
    with torch.no_grad():
        numbers = network(torch.from_numpy(obs))
        expected = last.shifted(head.greedy(numbers).numpy())
        own = last.shifted(head.greedy(torch.from_numpy(answers.values)).numpy())
        agreed = head.agree(last.unshifted(answers.actions), last.unshifted(expected))
    values = numbers.numpy()
    scale = max(float(np.abs(values).max()), 1e-12)
    worst = float(np.abs(answers.values - values).max()) / scale
    consistent = last.same(answers.actions, own, answers.values, TOLERANCE * scale)
    same = last.same(answers.actions, expected, values, TOLERANCE * scale)
    distance = last.distance(answers.actions, expected)
    alike = consistent and same and worst <= TOLERANCE
    return Held(len(obs), float(agreed.mean()), worst, distance, consistent, alike)


Replayer = Callable[[NDArray[Any]], Answers]


def replayer(path: Path, head: Head, obs_size: int, *, native: bool = False) -> Replayer:
    """Opens an exported file: .onnx, .c, .pt2 or .tflite. C is compiled and run, PyTorch loads .pt2: trust them first.

    Args:
        path: the file.
        head: of the policy in it.
        obs_size: numbers in one observation.
        native: compile C for this very machine.

    Raises:
        FileError: it cannot be opened or compiled.
        ExtraError: a package is missing.

    Example::

        answers = replayer(Path("policy.c"), head, 17)(obs)  # obs (B, 17)
    """
    opener = {".onnx": _onnx, ".c": _c, ".pt2": _torch, ".tflite": _tflite}.get(path.suffix)
    if opener is None or not path.is_file():
        raise FileError(
            f"{path} is no exported policy: give a folder that distilrl export wrote, or an .onnx, .c, .pt2 or .tflite "
            "file in one."
        )
    play = opener(path, last_step(head), head.width, native)

    def checked(obs: NDArray[Any]) -> Answers:
        numbers = obs[0].size if len(obs) else obs_size
        if numbers != obs_size:
            raise FileError(
                f"{path} reads {obs_size} numbers, but the environment gives {numbers}: name the right environment."
            )
        return play(obs)

    return checked


class FilePolicy(nn.Module):
    """An exported file as the network of a policy: numbers of which the file's actions are the greedy ones."""

    def __init__(self, play: Replayer, head: Head) -> None:
        super().__init__()
        self.play, self.head, self.last = play, head, last_step(head)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        return self.head.inverse(self.last.unshifted(self.play(obs.cpu().numpy()).actions)).to(obs.device)


def file_policy(play: Replayer, head: Head) -> Policy:
    """An exported file as a policy that can be played.

    Example::

        policy = file_policy(replayer(Path("policy.c"), head, 17), head)
    """
    return Policy(FilePolicy(play, head), head)


def _onnx(path: Path, last: Last, _width: int, _native: bool) -> Replayer:
    try:
        import onnxruntime
    except ImportError:
        raise ExtraError("onnxruntime", "onnx", "Replaying an ONNX file") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def play(obs: NDArray[Any]) -> Answers:
        values, actions = session.run([last.numbers_name, "action"], {"obs": obs})
        return Answers(values, last.rows(actions))

    return play


def _torch(path: Path, last: Last, _width: int, _native: bool) -> Replayer:
    module = torch.export.load(path).module()

    def play(obs: NDArray[Any]) -> Answers:
        with torch.no_grad():
            values, actions = module(torch.from_numpy(obs))
        return Answers(values.numpy(), last.rows(actions.numpy()))

    return play


def _tflite(path: Path, last: Last, _width: int, _native: bool) -> Replayer:
    answer = tflite.runner(path)

    def play(obs: NDArray[Any]) -> Answers:
        answers = [answer(one[None]) for one in obs]
        values, actions = (np.concatenate(side) for side in zip(*answers, strict=True))
        return Answers(values, last.rows(actions))

    return play


class Library:
    """A C export, compiled and loaded."""

    def __init__(self, path: Path, *, native: bool = False) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise FileError(
                f"{path} cannot be replayed, and so is not kept: there is no C compiler (cc) here, install one."
            )
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "policy.so"
            flags = [*CFLAGS, *(["-march=native"] if native else []), "-shared", "-fPIC"]
            command = [compiler, *flags, str(path), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                told = done.stderr.strip().splitlines()[0][:160] if done.stderr else compiler
                raise FileError(f"{path} does not compile ({told}): export it again.")
            self.handle = ctypes.CDLL(str(target))
        self.handle.policy_values.restype = None


def _c(path: Path, last: Last, width: int, native: bool) -> Replayer:
    handle = Library(path, native=native).handle
    if not last.scalar:
        handle.policy_act.restype = None

    def play(obs: NDArray[Any]) -> Answers:
        flat = np.ascontiguousarray(obs.reshape(len(obs), -1))
        values = np.zeros((len(flat), width), np.float32)
        actions = np.zeros((len(flat), last.size), {"int32_t": np.int32, "float": np.float32}[last.element])
        for row in range(len(flat)):
            at, to = (ctypes.c_void_p(array[row].ctypes.data) for array in (flat, actions))
            handle.policy_values(at, ctypes.c_void_p(values[row].ctypes.data))
            if last.scalar:
                actions[row] = handle.policy_act(at)
            else:
                handle.policy_act(at, to)
        return Answers(values, last.rows(actions))

    return play

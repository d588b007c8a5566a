"""Playing exported files: each as a function from raw observations to action values and greedy actions, to be held against the student."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl.errors import ExtraError, FileError
from distilrl.export import tflite

CFLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror")


class Answers(NamedTuple):
    """What a policy says of B observations."""

    values: NDArray[np.float32]
    """(B, A) action values."""
    actions: NDArray[np.int64]
    """(B,) greedy actions."""


Replayer = Callable[[NDArray[Any]], Answers]


def replayer(path: Path, obs_size: int, n_actions: int, *, native: bool = False) -> Replayer:
    """Opens an exported file: .onnx, .c or .pt2.

    Args:
        path: the file.
        obs_size: numbers in one observation.
        n_actions: number of actions A.
        native: compile C for this very machine.

    Raises:
        FileError: it cannot be opened or compiled.
        ExtraError: a package is missing.
    """
    opener = {".onnx": _onnx, ".c": _c, ".pt2": _torch, ".tflite": _tflite}.get(path.suffix)
    if opener is None or not path.is_file():
        raise FileError(
            f"{path} is no exported policy: give a folder that distilrl export wrote, or an .onnx, .c, .pt2 or .tflite file in one."
        )
    return opener(path, obs_size, n_actions, native)


def _onnx(path: Path, _obs_size: int, _n_actions: int, _native: bool) -> Replayer:
    try:
        import onnxruntime
    except ImportError:
        raise ExtraError("onnxruntime", "onnx", "Replaying an ONNX file") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def play(obs: NDArray[Any]) -> Answers:
        values, actions = session.run(["action_values", "action"], {"obs": obs})
        return Answers(values, actions)

    return play


def _torch(path: Path, _obs_size: int, _n_actions: int, _native: bool) -> Replayer:
    module = torch.export.load(path).module()

    def play(obs: NDArray[Any]) -> Answers:
        with torch.no_grad():
            values, actions = module(torch.from_numpy(obs))
        return Answers(values.numpy(), actions.numpy())

    return play


def _tflite(path: Path, _obs_size: int, _n_actions: int, _native: bool) -> Replayer:
    answer = tflite.runner(path)

    def play(obs: NDArray[Any]) -> Answers:
        rows = [answer(one[None]) for one in obs]
        return Answers(np.concatenate([values for values, _ in rows]), np.concatenate([action for _, action in rows]))

    return play


class Library:
    """A C export, compiled and loaded."""

    def __init__(self, path: Path, *, native: bool = False) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise FileError(f"{path} cannot be replayed, and so is not kept: there is no C compiler (cc) here, install one.")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "policy.so"
            flags = [*CFLAGS, *(["-march=native"] if native else []), "-shared", "-fPIC"]
            done = subprocess.run([compiler, *flags, str(path), "-lm", "-o", str(target)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise FileError(
                    f"{path} does not compile ({done.stderr.strip().splitlines()[0][:160] if done.stderr else compiler}): export it again."
                )
            self.handle = ctypes.CDLL(str(target))
        self.handle.policy_values.restype = None


def _c(path: Path, obs_size: int, n_actions: int, native: bool) -> Replayer:
    handle = Library(path, native=native).handle

    def play(obs: NDArray[Any]) -> Answers:
        flat = np.ascontiguousarray(obs.reshape(len(obs), -1))
        if flat.shape[1] != obs_size:
            raise FileError(f"{path} reads {obs_size} numbers, but the environment gives {flat.shape[1]}: name the right environment.")
        values = np.zeros((len(flat), n_actions), np.float32)
        actions = np.zeros(len(flat), np.int64)
        for row in range(len(flat)):
            at = ctypes.c_void_p(flat[row].ctypes.data)
            handle.policy_values(at, ctypes.c_void_p(values[row].ctypes.data))
            actions[row] = handle.policy_act(at)
        return Answers(values, actions)

    return play

"""LiteRT (TensorFlow Lite) through litert-torch, a batch of one."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilrl.errors import ExtraError


def write(network: nn.Module, example: NDArray[Any]) -> bytes:
    """A module from observations to values and actions as a .tflite file.

    Args:
        network: folded, in plain layers.
        example: (1, *obs_shape) an observation.

    Raises:
        ExtraError: litert-torch is not installed.
    """
    try:
        import litert_torch
    except ImportError:
        raise ExtraError("litert-torch", "litert", "Writing LiteRT") from None
    converted = litert_torch.convert(network.eval(), (torch.from_numpy(example.copy()),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.tflite"
        converted.export(str(path))
        return path.read_bytes()


def runner(path: Path) -> Any:
    """A function from one observation (1, *obs_shape) to (values, actions).

    Raises:
        ExtraError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ExtraError("ai-edge-litert", "litert", "Replaying a LiteRT file") from None
    signature = Interpreter(str(path), num_threads=1).get_signature_runner()

    def answer(obs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        values, action = sorted(signature(args_0=obs).values(), key=np.ndim, reverse=True)
        return values, action

    return answer

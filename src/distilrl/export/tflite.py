"""LiteRT (TensorFlow Lite) through litert-torch, a batch of one."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilrl.errors import ExtraError


def write(network: nn.Module, example: NDArray[Any]) -> bytes:
    """A module from observations to numbers and actions as a .tflite file.

    Args:
        network: folded, in plain layers, as `torch_export.Plain`.
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


def runner(path: Path) -> Callable[[NDArray[Any]], tuple[NDArray[np.float32], NDArray[Any]]]:
    """A function from one observation (1, *obs_shape) to (numbers, actions).

    Raises:
        ExtraError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ExtraError("ai-edge-litert", "litert", "Replaying a LiteRT file") from None
    signature = Interpreter(str(path), num_threads=1).get_signature_runner()
    names = sorted(signature.get_output_details())  # output_0, output_1, in the module's order

    def answer(obs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        outputs = signature(args_0=obs)
        values, action = (outputs[name] for name in names)
        return values, action

    return answer

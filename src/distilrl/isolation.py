"""What a program has set of PyTorch for itself neither changes what is computed here nor is changed by it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch

PRECISE = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul")
"""Parts of `torch.backends` that have a precision of their own, since PyTorch 2.9."""


@contextmanager
def isolated() -> Iterator[None]:
    """Computes in here as a program would that sets nothing, and leaves everything as it was: the default type of
    numbers and their device, threads, autocast, inference mode, and the global generator, from which PyTorch's layers
    draw weights when they are made. Products are of float32 (no TF32, no bfloat16): action values lie close together.
    Nothing of these stands in config.json, so that none may decide what a student becomes.

    Also a decorator::

        @isolated()
        def train(...): ...
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # else it costs something at every call
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_whole_products())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)


@contextmanager
def _whole_products() -> Iterator[None]:
    """Products of float32 as such, by PyTorch's older names for that and by its newer ones."""
    parts: list[Any] = []
    for name in PRECISE:
        try:
            parts.append(attrgetter(name)(torch.backends))
        except AttributeError:  # of an earlier PyTorch
            continue
    before = [part.fp32_precision for part in parts]
    try:
        older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # a program that set the newer names in a way that these cannot tell
        older = None
    try:
        if older is not None:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            torch.backends.cudnn.allow_tf32 = older[1]
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision

"""What a program has set of PyTorch for itself neither changes what is computed here nor is changed by it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def isolated() -> Iterator[None]:
    """Computes in here as a program would that sets nothing, and leaves everything as it was: the default type of
    numbers, threads, TF32, autocast, inference mode, and the global generator, from which PyTorch's layers draw weights
    when they are made. Nothing of these stands in config.json, so that none may decide what a student becomes.

    Also a decorator::

        @isolated()
        def train(...): ...
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    tf32 = torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.backends.cudnn.allow_tf32 = tf32

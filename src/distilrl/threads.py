"""One rule for threads: networks and emulators use as many as the run's configuration says; none waits by spinning.

Left to itself, libgomp lets PyTorch's threads spin for milliseconds wherever they wait for each other: on a machine
that does anything else, emulators included, they take each other's time. A short spin costs nothing where nobody waits
long. It is read once, when PyTorch is imported, so this module comes first; what the user has set stays.

All threads share one heap. Left to itself, glibc gives them up to eight a core, each of which keeps what was once free
in it: run after run of Pong the process grew by some 70 MB, though it held no byte more.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SPINS = "1000"
"""Rounds of libgomp's wait before a thread sleeps, some tens of microseconds."""
M_ARENA_MAX = -8
"""Number of the option in glibc's malloc.h."""

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPINS
if sys.platform == "linux" and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & set(os.environ):
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's graphics cannot compute, the CPU does


def use_threads(count: int) -> None:
    """Lets networks compute on this many threads from now on."""
    import torch

    torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks compute on one thread, so that sums and times do not depend on how many cores there are."""
    import torch

    before = torch.get_num_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(before)

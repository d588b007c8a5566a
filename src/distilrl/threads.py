"""One rule for threads: networks and emulators use as many as the run's configuration says; none waits by spinning.

Left to itself, libgomp lets PyTorch's threads spin for milliseconds wherever they wait for each other: on a machine
that does anything else, emulators included, they take each other's time. A short spin costs nothing where nobody waits
long. It is read once, when PyTorch is imported, so this module comes first; what the user has set stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = "1000"
"""Rounds of libgomp's wait before a thread sleeps, some tens of microseconds."""

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPINS
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

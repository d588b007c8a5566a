"""Where networks compute: what there is here, and where numbers of double precision are kept."""

from typing import Literal

import torch
from torch import Tensor

from distilrl.errors import SpecError

Device = Literal["cpu", "cuda", "mps"]
"""The processor, a graphics card, or Apple's graphics."""


def check_device(device: Device) -> None:
    """Raises where PyTorch sees no such device here.

    Raises:
        SpecError: names those that it sees.
    """
    seen = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not seen[device]:
        there = " or ".join(name for name, is_there in seen.items() if is_there)
        raise SpecError(f"There is no device '{device}' that PyTorch sees here: use {there}.")


def precise(device: torch.device) -> torch.device:
    """Where numbers of double precision are kept for what lives on a device: there, but Apple's graphics have none."""
    return torch.device("cpu") if device.type == "mps" else device


def doubled(x: Tensor) -> Tensor:
    """A tensor in double precision, where its device has that; else on the CPU."""
    return x.to(precise(x.device)).double()

"""How large networks are."""

import math
from contextlib import suppress
from typing import cast

import torch
from torch import Tensor, nn

from distilrl.networks.network import Network


def count_bytes(network: nn.Module) -> int:
    """Bytes of the network's parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def count_macs(network: nn.Module, obs_shape: tuple[int, ...]) -> int | None:
    """Multiply-accumulates of one forward pass of one observation, biases not counted; None where no layer is one of
    PyTorch's. An image is of bytes, or of floats where the network answers to no bytes.
    """
    if isinstance(network, Network):
        return network.spec.macs
    within = [module for module in network.modules() if isinstance(module, Network)]  # it may stand behind others
    known = {id(module) for one in within for module in one.modules()}
    total = 0

    def count_whole(module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal total
        total += cast("Network", module).spec.macs

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = cast("Tensor", module.weight)
        total += weight.numel() * (math.prod(output.shape[2:]) if output.ndim == 4 else 1)

    others = [module for module in network.modules() if id(module) not in known]
    hooks = [m.register_forward_hook(count) for m in others if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks += [one.register_forward_hook(count_whole) for one in within]  # those that answer: of a family's, one
    # a policy with memory reads its state too
    state = (network.start(1),) if hasattr(network, "start") else ()  # type: ignore[operator]
    try:
        with torch.no_grad():
            if len(obs_shape) == 3:
                with suppress(Exception):  # somebody's module, which may raise anything
                    network(torch.zeros((1, *obs_shape), dtype=torch.uint8), *state)
                    return total or None
            total = 0
            network(torch.zeros((1, *obs_shape)), *state)
            return total or None
    finally:  # it may be the caller's own
        for hook in hooks:
            hook.remove()

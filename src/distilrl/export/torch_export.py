"""A student in plain layers with its last step: what torch.export and LiteRT are given."""

import copy
import io
import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.export.last import last_step
from distilrl.heads import Head
from distilrl.networks import Network


class Plain(nn.Module):
    """A folded network in plain layers, answering with the head's numbers and the action that the environment takes."""

    seen: Tensor

    def __init__(self, network: Network, head: Head) -> None:
        super().__init__()
        # torch.export.save warns of weights whose channels lie innermost
        self.layers = copy.deepcopy(network.layers).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.last = last_step(head).module()
        self.image = network.spec.image
        self.register_buffer("seen", torch.tensor(network.spec.seen) if self.image is not None else None)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Raw observations (B, *obs_shape) to numbers (B, P) and actions, (B,) of one choice, else (B, F) or (B, A)."""
        x = obs.float()
        vector = x[:, self.seen] if self.image is not None else x
        if self.image is not None:
            x = x[:, -math.prod(self.image) :].reshape(-1, *self.image)
        for layer in self.layers:
            x = layer(x)
            if self.image is not None and isinstance(layer, nn.Flatten):
                x = torch.cat([x, vector], dim=1)
        return x, self.last(x)


def write(network: Network, head: Head, obs: NDArray[Any]) -> bytes:
    """A folded network as torch.export's archive, batch of any size.

    Args:
        network: folded.
        head: what its numbers mean.
        obs: (2 or more, *obs_shape) observations.

    Example::

        Path("policy.pt2").write_bytes(write(network, head, seen))
    """
    example = torch.from_numpy(obs[:2].copy())
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Plain(network, head).eval(), (example,), dynamic_shapes=shapes)
    archive = io.BytesIO()  # PyTorch's own writer aborts the process where the disk is full
    torch.export.save(program, archive)
    return archive.getvalue()

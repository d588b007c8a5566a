"""Quantisation-aware fine-tuning: a student learns from its teacher once more, everything rounded as integers will round it."""

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.export.int8 import INPUT_LIMIT, quantise
from distilrl.export.steps import steps
from distilrl.losses import forward_kl
from distilrl.networks import Network
from distilrl.replay import scale_of

UPDATES, BATCH, LEARNING_RATE = 2000, 128, 1e-4


def fine_tune(
    network: Network,
    teacher: Callable[[Tensor], Tensor],
    obs: NDArray[Any],
    temperature: float,
    *,
    scaled_head: bool = False,
    seed: int = 0,
) -> Network:
    """A copy of a student that has learned to live with eight bits (Jacob et al. 2018, section 3: straight-through rounding).

    Args:
        network: the student, folded.
        teacher: raw observations to action values.
        obs: (K, *obs_shape) observations of the student's own play.
        temperature: divides the teacher's values.
        scaled_head: the student's outputs are on the teacher's scale, and are divided by it too.
        seed: of the order of the states.
    """
    student = copy.deepcopy(network)
    _standardise(student, obs)
    student.scale_head(1 / temperature if scaled_head else 1.0)
    student.requires_grad_(True)
    units = quantise(steps(network, "integers"), _some(obs)).activation_scales
    gain = torch.from_numpy(INPUT_LIMIT / np.maximum(np.abs(obs).max(0), 1e-6)).float() if obs.ndim == 2 else None
    data = torch.from_numpy(obs)
    with torch.no_grad():
        labels = torch.cat([teacher(part) for part in torch.split(data, 512)]) / temperature
    best = labels.topk(2).values
    matters = (best[:, 0] - best[:, 1]).clamp_min(1e-9).sqrt()  # drawn by value gap, as in training
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    for update in range(UPDATES):
        index = torch.multinomial(matters, BATCH, replacement=True, generator=generator)
        loss = forward_kl(student=rounded(student, data[index], gain, units), teacher=labels[index]).mean()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * update / UPDATES))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    student.requires_grad_(False).scale_head(temperature if scaled_head else 1.0)
    student.fold()
    return student.eval()


def _some(obs: NDArray[Any]) -> NDArray[Any]:
    """A thousand of the observations or so."""
    return obs[:: max(len(obs) // 1000, 1)]


def _standardise(student: Network, obs: NDArray[Any]) -> None:
    """Weights for standardised observations, which learn at a rate that suits them; the same function."""
    own = torch.from_numpy(_some(obs)).float()
    std, mean = (one.reshape(student.obs_mean.shape) for one in torch.std_mean(own, None if obs.ndim == 4 else 0, correction=0))
    student.standardise(mean, scale_of(mean, std, None if obs.ndim == 4 else (own - mean).abs().amax(0)))
    student.unfold()


def rounded(student: Network, obs: Tensor, gain: Tensor | None, units: list[float]) -> Tensor:
    """Action values (B, A) with everything rounded as `int8.quantise` will, and gradients as if nothing was."""
    x, before = obs.float(), torch.ones(())
    if gain is not None:
        x = _through(x, (x * gain).round().clamp(-INPUT_LIMIT, INPUT_LIMIT) / gain)
        before = 1 / gain
    level = 0
    for module in student.layers:
        if not isinstance(module, nn.Conv2d | nn.Linear):
            x = module(x)
            if isinstance(module, nn.ReLU):
                x = _through(x, (x / units[level - 1]).round().clamp(0, 255) * units[level - 1])
            continue
        own, bias = student.folded() if level == 0 else (module.weight, cast("Tensor", module.bias))
        real = own * before  # an input's scale is part of the weights it meets
        channel = real.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        channel = channel.view(-1, *[1] * (real.ndim - 1))
        weight = _through(own, (real / channel).round() * channel / before)
        x = nn.functional.conv2d(x, weight, bias, module.stride) if isinstance(module, nn.Conv2d) else nn.functional.linear(x, weight, bias)
        before, level = torch.ones(()), level + 1
    return x


def _through(real: Tensor, near: Tensor) -> Tensor:
    """The rounded value forwards, the real one's gradient backwards (straight-through, Bengio et al. 2013)."""
    return real + (near - real).detach()

"""Quantisation-aware fine-tuning: a student learns from its teacher once more, rounded as integers will round it."""

import math
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.export.int8 import quantise
from distilrl.export.int8_layers import Entry
from distilrl.export.steps import layers_of, without_offset
from distilrl.heads import Head
from distilrl.networks import Network
from distilrl.optimisers import Adam
from distilrl.scales import of_pixels, scale_of
from distilrl.spaces import Excerpt
from distilrl.teachers.teacher import Teacher

UPDATES, BATCH, LEARNING_RATE = 2000, 128, 1e-4
LOSSES = ("action_regression", "forward_kl")
"""What is learned by: the first of these that the teacher's head knows."""


def fine_tune(
    network: Network,
    teacher: Teacher,
    obs: NDArray[Any],
    temperature: float,
    *,
    scaled_head: bool = False,
    reads: Excerpt | None = None,
    image_bytes: bool = False,
    seed: int = 0,
) -> Network:
    """A copy of a student that has learned to live with eight bits (straight-through, Jacob et al. 2018, section 3).

    Args:
        network: the student, folded.
        teacher: fitted to the environment, without memory.
        obs: (K, *obs_shape) observations of the student's own play.
        temperature: of the teacher's choices; real actions have none.
        reads: what the student reads of an observation, its teacher reading all; None: all.
        image_bytes: as `distilrl.export.int8.quantise` takes it.
        scaled_head: the student's outputs are on the teacher's scale, and are divided by the temperature too.
        seed: of the order of the states.

    Example::

        tuned = fine_tune(network, teacher.fitted(info), seen, 0.1)
    """
    head = teacher.head
    labels, stakes = _labelled(teacher, torch.from_numpy(obs), temperature)
    obs = obs if reads is None else reads.of(obs)
    factor = _tempered(head, temperature) if scaled_head else 1.0
    student = without_offset(network, head)
    _standardise(student, obs)
    student.scale_head(factor)
    student.requires_grad_(True)
    found = quantise(layers_of(network, "int8"), _some(obs), image_bytes=image_bytes)
    entry = found.entry if network.spec.vector else Entry.of(obs)
    data = torch.from_numpy(obs)
    matters = stakes.clamp_min(1e-9).sqrt()  # drawn by what is at stake, as image recipes do while they train
    lose = next(head.losses[name] for name in LOSSES if name in head.losses)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Adam(student.parameters(), LEARNING_RATE, eps=1e-8)
    for update in range(UPDATES):
        index = torch.multinomial(matters, BATCH, replacement=True, generator=generator)
        numbers = rounded(student, data[index], entry, found.activation_scales, found.vector)
        loss = lose(student=numbers, teacher=labels[index]).mean()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * update / UPDATES))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    student.requires_grad_(False).scale_head(1 / factor)
    student.fold()
    return student.eval()


def _tempered(head: Head, temperature: float) -> float:
    """What a temperature multiplies a head's numbers by; real actions stay as they are."""
    return float(head.temper(torch.ones(1, head.width), temperature)[0, 0])


def _labelled(teacher: Teacher, data: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The teacher's numbers (K, P) at a temperature, and what is at stake (K,), of observations (K, *obs_shape)."""
    numbers, stakes = [], []
    for part in torch.split(data, 512):
        p = teacher.numbers(part)
        numbers.append(teacher.head.temper(p, temperature))
        stakes.append(teacher.stakes(part, p))
    return torch.cat(numbers), torch.cat(stakes)


def _some(obs: NDArray[Any]) -> NDArray[Any]:
    """A thousand of the observations or so."""
    return obs[:: max(len(obs) // 1000, 1)]


def _standardise(student: Network, obs: NDArray[Any]) -> None:
    """Weights for standardised observations, which learn at a rate that suits them; the same function."""
    own, parts = torch.from_numpy(_some(obs)).float(), [(obs.ndim == 4, slice(None))]
    if student.spec.image is not None:  # the image behind the vector
        count = own.shape[1] - math.prod(student.spec.image)
        parts = [(False, slice(count)), (True, slice(count, None))]
    found = [_moments(own[:, part], pixels=pixels) for pixels, part in parts]
    mean, scale = (torch.cat(each) for each in zip(*found, strict=True))
    student.standardise(mean, scale)
    student.unfold()


def _moments(obs: Tensor, *, pixels: bool) -> tuple[Tensor, Tensor]:
    """Mean and scale of each number (K, D), or one of all pixels."""
    if pixels:
        return of_pixels(obs)
    std, mean = torch.std_mean(obs, 0, correction=0)
    return mean, scale_of(mean, std, (obs - mean).abs().amax(0))


def rounded(
    student: Network, obs: Tensor, entry: Entry | None, units: list[float], vector: Entry | None = None
) -> Tensor:
    """Numbers (B, P) with everything rounded as `int8.quantise` will, and gradients as if nothing was."""
    image = student.spec.image
    x = obs[:, -math.prod(image) :].reshape(-1, *image) if image else obs
    x, before, zero = _entered(x, entry)
    level, joins = 0, False
    for module in student.layers:
        if not isinstance(module, nn.Conv2d | nn.Linear):
            x = module(x)
            if isinstance(module, nn.ReLU):
                x = _through(x, (x / units[level - 1]).round().clamp(0, 255) * units[level - 1])
            joins = vector is not None and isinstance(module, nn.Flatten)
            continue
        own, bias = student.folded() if level == 0 else (module.weight, cast("Tensor", module.bias))
        if joins:
            own, bias = student.folded_beside()
            count = x.shape[1]
            beside, unit, moved = _entered(student.visible(obs), vector)
            x = torch.cat([x, beside], 1)
            before = torch.cat([torch.full((count,), units[level - 1]), unit])
            zero, joins = torch.cat([torch.zeros(count), moved]), False
        bias = bias + (own * zero).flatten(1).sum(1)  # that of what was subtracted is not rounded
        real = own * before  # an input's scale is part of the weights it meets
        channel = real.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        channel = channel.view(-1, *[1] * (real.ndim - 1))
        weight = _through(own, (real / channel).round() * channel / before)
        if isinstance(module, nn.Conv2d):
            x = nn.functional.conv2d(x, weight, bias, module.stride)
        else:
            x = nn.functional.linear(x, weight, bias)
        before, zero, level = torch.ones(()), torch.zeros(()), level + 1
    return x


def _entered(obs: Tensor, entry: Entry | None) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers as integers hold them, less what is subtracted from them; their units, and what that is."""
    if entry is None:
        return obs.float(), torch.ones(()), torch.zeros(())
    gain, zero = torch.from_numpy(entry.gain), torch.from_numpy(entry.zero)  # (D,) of a vector, (1,) of an image
    x = obs - zero
    return _through(x, (x * gain).round().clamp(-entry.limit, entry.limit) / gain), 1 / gain, zero


def _through(real: Tensor, near: Tensor) -> Tensor:
    """The rounded value forwards, the real one's gradient backwards (straight-through, Bengio et al. 2013)."""
    return real + (near - real).detach()

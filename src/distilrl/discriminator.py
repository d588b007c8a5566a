"""A discriminator that tells the teacher's policy from the student's, state by state; it never ships."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.blocks import draw_weights
from distilrl.errors import SpecError
from distilrl.networks import Network
from distilrl.specs import NetworkSpec

HIDDEN = 64
LEARNING_RATE = 1e-3
COARSE = 12
"""Side of the coarse picture that it sees of an image."""


class Discriminator(nn.Module):
    """From a state's features and a view of the policy there to the logit of "this is the teacher's"."""

    def __init__(self, spec: NetworkSpec, view: int, generator: torch.Generator) -> None:
        """Draws the weights.

        Args:
            spec: of the student, whose observations it sees.
            view: width of the head's ``view`` of a policy.
            generator: source of the weights.
        """
        super().__init__()
        features = spec.vector + COARSE**2 if spec.picture is not None else spec.features
        self.layers = nn.Sequential(nn.Linear(features + view, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))
        draw_weights(self.layers, generator)

    def forward(self, features: Tensor, view: Tensor) -> Tensor:
        """Features (B, D) and views (B, V) to logits (B,)."""
        judged: Tensor = self.layers(torch.cat([features, view], dim=1)).squeeze(1)
        return judged


def judge(discriminator: Discriminator | None, student: Network, obs: Tensor, view: Tensor) -> Tensor:
    """The discriminator's logits (B,) of a policy's view (B, V), seen beside the observation as the student's first
    layer sees it.

    Raises:
        SpecError: there is no discriminator.
    """
    if discriminator is None:
        raise SpecError(
            "The term 'discriminator' needs its discriminator: make the student with this term among its terms."
        )
    return discriminator(_features(student, obs.float()), view)  # type: ignore[no-any-return]


def _features(student: Network, obs: Tensor) -> Tensor:
    """(B, D) standardised numbers of a vector, and a coarse picture of an image's last channel."""
    spec = student.spec
    if spec.picture is not None:
        image = obs[:, -math.prod(spec.picture) :].reshape(-1, *spec.picture) if spec.image is not None else obs
        coarse = F.adaptive_avg_pool2d(image[:, -1:], COARSE).flatten(1)
        seen = torch.cat([student.visible(obs), coarse], dim=1) if spec.image is not None else coarse
        ends = student.obs_mean, student.obs_scale  # one number for all pixels, which comes last
        mean, scale = (torch.cat([end[:-1], end[-1:].expand(COARSE**2)]) for end in ends)
        return (seen - mean) * scale
    return (student.visible(obs) - student.obs_mean) * student.obs_scale

"""A discriminator that tells the teacher's action values from the student's, state by state; it never ships."""

import torch
from torch import Tensor, nn

from distilrl.networks import draw_weights

HIDDEN = 64
LEARNING_RATE = 1e-3


class Discriminator(nn.Module):
    """From a state's features and log-probabilities of actions to the logit of "these are the teacher's"."""

    def __init__(self, features: int, n_actions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features + n_actions, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))
        draw_weights(self.layers, generator)

    def forward(self, features: Tensor, log_p: Tensor) -> Tensor:
        """Features (B, ...) and log-probabilities (B, A) to logits (B,)."""
        judged: Tensor = self.layers(torch.cat([features.flatten(1), log_p], dim=1)).squeeze(1)
        return judged

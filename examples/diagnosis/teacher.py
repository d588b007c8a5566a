"""A residual network that tells brain MR slices with a tumour from those without, as a teacher for distilling.

Two to three minutes on one core::

    python -m examples.diagnosis.teacher --out runs/brain-teacher

It learns from four fifths of the training clusters; the last fifth says by what its logits must be divided to be
calibrated (temperature scaling, Guo et al. 2017). The held-out images are not looked at.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distilrl import Categorical, Choices, EnvRef, Network, NetworkSpec, build, describe_env, save_network, trust
from examples.diagnosis.brain import disturbed
from examples.diagnosis.images import Slices, load

__all__ = ["calibration_images", "temperature", "train"]

NETWORK = "resnet:8,16,32,32:64"
EPISODES, BATCH = 66_000, 64
"""Images that are shown, each an episode of the environment: forty times all; and how many at once."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


def calibration_images(slices: Slices) -> NDArray[np.bool_]:
    """(N,) every fifth cluster of those that are not held out."""
    names = np.unique(slices.cluster[~slices.held_out])
    return np.isin(slices.cluster, names[::5])


def train(slices: Slices, seed: int, *, network: str = NETWORK, episodes: int = EPISODES) -> Network:
    """A trained and calibrated network of logits: none, tumour.

    Example::

        train(load(), 0, network="resnet:4,8:", episodes=2000)
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    kept = calibration_images(slices)
    places = np.flatnonzero(~slices.held_out & ~kept)
    made = build(NetworkSpec.parse(network, (1, *slices.images.shape[1:]), 2), generator)
    pixels = slices.images[places].astype(np.float32)
    made.standardise(torch.tensor([pixels.mean()]), torch.tensor([1 / pixels.std()]))
    optimiser = torch.optim.AdamW(made.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    epochs, batches = max(round(episodes / len(places)), 1), max(len(places) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=max(epochs * batches, 2))
    for _ in range(epochs):
        # -- every image once, as the environment would show it
        for batch in np.array_split(rng.permutation(places), batches):
            shown = np.stack([disturbed(slices.images[place], rng) for place in batch])
            loss = F.cross_entropy(made(torch.from_numpy(shown)[:, None]), _labels(slices, batch))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    made.eval().requires_grad_(False)
    logits = made(torch.from_numpy(slices.images[kept])[:, None])
    made.scale_head(1 / temperature(logits, _labels(slices, np.flatnonzero(kept))))
    return made


def temperature(logits: Tensor, labels: Tensor) -> float:
    """By what logits (B, P) must be divided so that the labels (B,) are the least surprising, from 1/10 to 10."""
    tried = torch.logspace(-1, 1, 201)
    return float(min(tried, key=lambda one: float(F.cross_entropy(logits / one, labels))))


def _labels(slices: Slices, places: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(slices.tumour[places].astype(np.int64))


def main() -> None:
    """Trains a teacher and writes its folder."""
    parser = argparse.ArgumentParser(description="Train a teacher of brain MR slices. Not a medical device.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="images to show")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = train(load(), given.seed, episodes=given.episodes)
    trust("examples")
    info = describe_env(EnvRef("examples.diagnosis:BrainMR-v0"))
    about = {"env": info.id, "environment": info.ref.to_json(), "recipe": "cross-entropy", "seed": given.seed}
    save_network(given.out, network, Categorical(Choices((2,)), "logits"), name="teacher", **about)
    print(given.out)


if __name__ == "__main__":
    main()

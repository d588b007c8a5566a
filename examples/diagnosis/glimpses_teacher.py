"""A teacher that looks at a slice through a window: what to open next, and when to answer what.

About a quarter of an hour of processor time::

    python -m examples.diagnosis.glimpses_teacher --out runs/glimpses-teacher

Its action values are learnt as what they are. What an answer is worth is known for both answers in every state, from
the label; what a look is worth is its price and the best that can be done after it (Q-learning), along games in which
it plays by itself and, in a third of the steps, by chance. The held-out images are not looked at.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl import EnvRef, Network, NetworkSpec, build, describe_env, save_network, trust
from distilrl.heads import head_for
from examples.diagnosis.brain import disturbed
from examples.diagnosis.glimpses import ACROSS, MOST, PRICE, WINDOW, unopened
from examples.diagnosis.images import SIDE, Slices, load

__all__ = ["train"]

NETWORK = "cnn:16k4s2,32k3s2,32k3s2:128"
EPISODES, BATCH = 128_000, 16
"""Images that are shown, and how many at once."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
BY_CHANCE = 0.33
"""Share of looks that are at a place drawn by chance."""


def train(slices: Slices, seed: int, *, network: str = NETWORK, episodes: int = EPISODES) -> Network:
    """A trained network of action values: two answers, then the windows.

    Example::

        train(load(), 0, network="cnn:8k8s8:16", episodes=2000)
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    places = np.flatnonzero(~slices.held_out)
    made = build(NetworkSpec.parse(network, (2, SIDE, SIDE), 2 + ACROSS**2), generator)
    made.standardise(torch.tensor([64.0]), torch.tensor([1 / 64]))
    optimiser = torch.optim.AdamW(made.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = max(episodes // BATCH, 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=batches)
    right: list[float] = []
    for batch in range(batches):
        # -- a batch of whole games, in which nobody answers
        drawn = rng.choice(places, BATCH)
        images = np.stack([disturbed(slices.images[place], rng) for place in drawn])
        canvases, looks, best = _play(made, images, rng)
        # -- answers from labels, looks from what could be done after them
        tumour = torch.from_numpy(slices.tumour[drawn].astype(np.float32))
        values = made(canvases.flatten(0, 1)).unflatten(0, (MOST, BATCH))
        after = torch.cat([best[1:] - PRICE, torch.zeros(1, BATCH)])
        looked = values.gather(2, looks[..., None])[..., 0]
        answers = torch.stack([1 - tumour, tumour], dim=1)
        loss = (values[..., :2] - answers).square().mean() + (looked - after).square().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        # -- how it goes
        right.append(float((values[-1, :, :2].argmax(1) == tumour).float().mean()))
        if batch * 20 // batches < (batch + 1) * 20 // batches:
            print(f"{(batch + 1) * BATCH:,} images, after {MOST} windows {np.mean(right):.1%} right", flush=True)
            right.clear()
    return made.eval().requires_grad_(False)


@torch.no_grad()
def _play(network: Network, images: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What is seen (T, B, 2, H, W), what is opened next (T, B) as an action, and the best value there (T, B), where
    after the last window only answers are left.
    """
    count = len(images)
    canvas = np.zeros((count, 2, SIDE, SIDE), np.uint8)
    tiles = canvas.reshape(count, 2, ACROSS, WINDOW, ACROSS, WINDOW)
    there = images.reshape(count, ACROSS, WINDOW, ACROSS, WINDOW)
    looks = torch.from_numpy(rng.integers(ACROSS**2, size=count))
    seen, chosen, best = [], [], []
    for window in range(MOST):
        opened = unopened(tiles[:, 1, :, 0, :, 0].reshape(count, -1) > 0, looks.numpy())
        every, (row, column) = np.arange(count), np.divmod(opened, ACROSS)
        tiles[every, 0, row, :, column], tiles[every, 1, row, :, column] = there[every, row, :, column], 255
        seen.append(torch.from_numpy(canvas.copy()))
        values = network(seen[-1])
        best.append((values if window + 1 < MOST else values[:, :2]).amax(1))
        by_chance = torch.from_numpy(rng.random(count) < BY_CHANCE)
        looks = torch.where(by_chance, torch.from_numpy(rng.integers(ACROSS**2, size=count)), values[:, 2:].argmax(1))
        chosen.append(looks + 2)
    return torch.stack(seen), torch.stack(chosen), torch.stack(best)


def main() -> None:
    """Trains a teacher and writes its folder."""
    parser = argparse.ArgumentParser(description="Train a teacher of glimpses at brain slices. Not a medical device.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="images to show")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    network = train(load(), given.seed, network=given.network, episodes=given.episodes)
    trust("examples")
    info = describe_env(EnvRef("examples.diagnosis:BrainGlimpses-v0"))
    about = {"env": info.id, "environment": info.ref.to_json(), "recipe": "q-learning with labels", "seed": given.seed}
    save_network(given.out, network, head_for(info.action, "q"), name="teacher", **about)
    print(f"{given.out}, in {(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()

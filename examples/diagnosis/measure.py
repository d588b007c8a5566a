"""Sensitivity, specificity and calibration of policies on all held-out images, each with its 95 % interval.

    python -m examples.diagnosis.measure --teacher runs/brain-teacher runs/brain --out runs/brain.json

The intervals are over clusters of near-duplicates, whose images say the same. The trivial rules stand beside.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl import EnvRef, describe_env, load_teacher, stats, trust
from distilrl.files import write_json
from examples.diagnosis.images import Slices, load, trivial_rules

__all__ = ["calibration_error", "measure", "probabilities"]

BINS = 10
"""Of equal width, in which what is said and what is so are compared."""
RESAMPLES = 1000


def probabilities(run: str | Path, slices: Slices) -> NDArray[np.float64]:
    """(M,) how probable the policy of a run, or a teacher's folder, calls a tumour in each held-out image.

    Example::

        probabilities("zoo/brain-resnet", load()) > 0.5
    """
    trust("examples")
    info = describe_env(EnvRef("examples.diagnosis:BrainMR-v0"))
    policy = load_teacher(run).fitted(info).policy
    images = torch.from_numpy(slices.images[slices.held_out])[:, None]
    with torch.no_grad():
        numbers = torch.cat([policy.forward(part)[0] for part in torch.split(images, 256)])
    return np.asarray(torch.softmax(numbers.double(), 1)[:, 1].numpy())


def calibration_error(probability: NDArray[np.float64], tumour: NDArray[np.bool_]) -> float:
    """Expected calibration error of probabilities (M,): the gap between what is said of a tumour and how often there is
    one, mean over images, in ten bins (Naeini et al. 2015).
    """
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=probability - tumour, minlength=BINS)
    return float(np.abs(gaps).sum() / len(tumour))


def measure(
    probability: NDArray[np.float64],
    slices: Slices,
    misled: NDArray[np.bool_],
    reference: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """All that is said of one policy by its probabilities, or of a rule by 0 and 1, with 95 % intervals over clusters.

    Args:
        probability: (M,) of a tumour in each held-out image.
        slices: the images.
        misled: (M,) images whose class the size of their file does not tell; ``where_size_misleads`` is the accuracy on
            them.
        reference: (M,) of the teacher; ``against_teacher`` is the accuracy less the teacher's.
    """
    held = slices.held_out
    tumour, cluster = slices.tumour[held], slices.cluster[held]
    right = (probability > 0.5) == tumour

    def mean(values: NDArray[Any], rows: NDArray[np.bool_], least: float = 0.0) -> dict[str, Any]:
        interval = stats.mean_interval(values[rows], np.random.default_rng(0), clusters=cluster[rows])
        ends = np.clip(interval, least, 1.0).tolist()  # of few clusters it is Student's t, which knows no bounds
        return {"mean": float(values[rows].mean()), "ci95": ends, "images": int(rows.sum())}

    everywhere = np.ones(len(tumour), bool)
    against = {}
    if reference is not None:
        theirs = (reference > 0.5) == tumour
        against = {"against_teacher": mean(right.astype(np.float64) - theirs, everywhere, least=-1.0)}
    return {
        "accuracy": mean(right, everywhere),
        "sensitivity": mean(right, tumour),
        "specificity": mean(right, ~tumour),
        "where_size_misleads": mean(right, misled),
        "brier": mean((probability - tumour) ** 2, everywhere),
        "calibration_error": {
            "mean": calibration_error(probability, tumour),
            "ci95": _resampled_error(probability, tumour, cluster, np.random.default_rng(0)),
        },
        **against,
    }


def _resampled_error(
    probability: NDArray[np.float64], tumour: NDArray[np.bool_], cluster: NDArray[np.int64], rng: np.random.Generator
) -> list[float]:
    """95 % interval of `calibration_error` by the bootstrap over clusters."""
    rows = [np.flatnonzero(cluster == name) for name in np.unique(cluster)]
    errors = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        errors.append(calibration_error(probability[drawn], tumour[drawn]))
    return [float(end) for end in np.quantile(errors, [0.025, 0.975])]


def main() -> None:
    """Measures policies and rules, prints their table and writes it."""
    parser = argparse.ArgumentParser(description="Measure policies on held-out brain MR slices.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders of students")
    parser.add_argument("--teacher", required=True, type=Path, help="folder of their teacher")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    slices = load()
    rules = {name: said.astype(np.float64) for name, said in trivial_rules(slices).items()}
    misled = (rules["file size"] > 0.5) != slices.tumour[slices.held_out]
    teacher = probabilities(given.teacher, slices)
    found = {name: measure(said, slices, misled) for name, said in {**rules, str(given.teacher): teacher}.items()}
    found |= {str(run): measure(probabilities(run, slices), slices, misled, teacher) for run in given.runs}
    for name, row in found.items():
        print(name)
        for what, value in row.items():
            low, high = value["ci95"]
            print(f"    {what.replace('_', ' ')}: {value['mean']:.3f} [{low:.3f}, {high:.3f}]")
    if given.out is not None:
        write_json(given.out, found)
        print(given.out)


if __name__ == "__main__":
    main()

"""Brain MR slices: features distilled by extraction at taps against logits alone, and how well each knows what it knows.

    python benchmarks/diagnosis.py FOLDER [SEED ...] [--jobs N]    # run folders to FOLDER, lines to results/diagnosis.jsonl

Each recipe has the same student, budget and settings (field_rows/images.py), those that the recipe itself sets aside. A
line holds what examples/diagnosis/measure.py finds on all held-out images, and the run's verdict.
"""

import functools
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from field_rows.images import FIELD
from lines import fill, jobs_of
from numpy.typing import NDArray

from distilrl.checkpoints import read_json
from distilrl.cli import main as distilrl
from examples.diagnosis.images import load, trivial_rules
from examples.diagnosis.measure import measure, probabilities

LINES = Path(__file__).parent / "results" / "diagnosis.jsonl"
ROW = FIELD.rows["brain MR slices"]
RECIPES = ("distil", "fitnets", "attention", "hints")
SEEDS = (0, 1, 2)


@functools.cache
def known() -> dict[str, NDArray[np.float64]]:
    """(M,) what the teacher and each rule say of the held-out images."""
    slices = load()
    rules = {name: said.astype(np.float64) for name, said in trivial_rules(slices).items()}
    return {"teacher": probabilities(ROW.teacher, slices), **rules}


def line(folder: Path, recipe: str, seed: int) -> dict[str, Any]:
    """One run, or the teacher or a rule by itself."""
    slices, said = load(), known()
    misled = (said["file size"] > 0.5) != slices.tumour[slices.held_out]
    if recipe not in RECIPES:
        return {"measured": measure(said[recipe], slices, misled)}
    begun, out = time.process_time(), folder / f"{recipe}-{seed}"
    words = ["distill", "--recipe", recipe, "--student", ROW.students[0], "--seed", str(seed), "--threads", "1"]
    words += [
        "--teacher",
        ROW.teacher,
        "--env",
        ROW.env,
        "--out",
        str(out),
        *shlex.split(f"{ROW.options} {ROW.training}"),
    ]
    if distilrl(words) not in (0, 1, 3):
        sys.exit(f"distilrl {shlex.join(words)}: see above.")
    results, seconds = read_json(out / "results.json"), round(time.process_time() - begun, 1)
    found = measure(probabilities(out, slices), slices, misled, said["teacher"])
    student, verdict = results["student"], results["verdict"]
    return {
        "measured": found,
        "params": student["params"],
        "macs": student["macs"],
        "verdict": verdict,
        "cpu_s": seconds,
    }


def run(folder: Path, seeds: list[int], jobs: int) -> None:
    """Makes the lines that are missing, seed by seed."""
    keys = [{"recipe": recipe, "seed": seed} for seed in seeds for recipe in RECIPES]
    fill(LINES, functools.partial(line, folder), keys, jobs)
    if 0 in seeds:
        names = ("teacher", *ROW.rules)
        fill(LINES, functools.partial(line, folder), [{"recipe": name, "seed": 0} for name in names])


def main() -> None:
    jobs = jobs_of(sys.argv)
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, *seeds = sys.argv[1:]
    run(Path(folder), [int(seed) for seed in seeds] or list(SEEDS), jobs)


if __name__ == "__main__":
    main()

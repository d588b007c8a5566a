"""Brain MR slices: distilled by extraction at taps against logits alone, and how well each knows what it knows.

    python benchmarks/diagnosis.py FOLDER [SEED ...] [--jobs N]    # runs to FOLDER, lines to results/diagnosis.jsonl

Each recipe has the same student, budget and settings, those that the recipe itself sets aside: the field's own
(field_rows/images.py), but for a quarter of its updates, since features cost a pass of the teacher in each. A line
holds what examples/diagnosis/measure.py finds on all held-out images, how many updates were made (the oldest lines do
not say), and the run's verdict. Beside them stands the student that the field's page shows, of four times the images
and of all its updates.
"""

import functools
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from field_rows.images import FIELD
from fields import command
from lines import RESULTS, fill, jobs_of
from numpy.typing import NDArray

from distilrl.cli import main as distilrl
from distilrl.files import read_json
from examples.diagnosis.images import by_file_size, load, trivial_rules
from examples.diagnosis.measure import measure, probabilities

LINES = RESULTS / "diagnosis.jsonl"
ROW = FIELD.rows["brain MR slices"]
RECIPES = ("distil", "fitnets", "attention", "hints")
SHOWN = "as shown"
"""The field's own student, in the place of a recipe."""
SEEDS = (0, 1, 2)
UPDATES = "--set updates=1"
"""A quarter of the default, behind the field's own options, so that all lines of the table have the same budget."""


@functools.cache
def teacher() -> NDArray[np.float64]:
    """(M,) the teacher's probabilities of a tumour in the held-out images."""
    return probabilities(ROW.teacher, load())


@functools.cache
def rules() -> dict[str, NDArray[np.bool_]]:
    """(M,) what each rule says of them."""
    return trivial_rules(load())


def line(folder: Path, recipe: str, seed: int) -> dict[str, Any]:
    """One run, or the teacher or a rule by itself."""
    slices = load()
    misled = by_file_size(slices) != slices.tumour[slices.held_out]
    if recipe not in (*RECIPES, SHOWN):
        said = teacher() if recipe == "teacher" else rules()[recipe].astype(np.float64)
        return {"measured": measure(said, slices, misled)}
    begun, out = time.process_time(), folder / f"{recipe}-{seed}"
    row = FIELD.rows["brain MR slices, 128,000 steps"] if recipe == SHOWN else ROW
    how = [] if recipe == SHOWN else ["--recipe", recipe, *shlex.split(UPDATES)]
    words = [*command(row, row.students[0], seed, out), *how]
    if distilrl(words) not in (0, 1, 3):
        sys.exit(f"distilrl {shlex.join(words)}: see above.")
    results, seconds = read_json(out / "results.json"), round(time.process_time() - begun, 1)
    found = measure(probabilities(out, slices), slices, misled, teacher())
    student, verdict = results["student"], results["verdict"]
    return {
        "measured": found,
        "params": student["params"],
        "macs": student["macs"],
        "updates": results["updates"],
        "verdict": verdict,
        "cpu_s": seconds,
    }


def run(folder: Path, seeds: list[int], jobs: int) -> None:
    """Makes the lines that are missing, seed by seed."""
    keys = [{"recipe": recipe, "seed": seed} for seed in seeds for recipe in (*RECIPES, SHOWN)]
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

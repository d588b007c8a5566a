"""Brain MR slices: features distilled by extraction at taps against logits alone, and how well each knows what it knows.

    python benchmarks/diagnosis.py FOLDER run [SEED ...] [--jobs N]     # run folders to FOLDER, lines to results/diagnosis.jsonl
    python benchmarks/diagnosis.py FOLDER table                        # docs/fields/diagnosis.md

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
from lines import fill, jobs_of, made
from numpy.typing import NDArray

from distilrl import stats
from distilrl.checkpoints import read_json
from distilrl.cli import main as distilrl
from examples.diagnosis.images import load, trivial_rules
from examples.diagnosis.measure import measure, probabilities

LINES = Path(__file__).parent / "results" / "diagnosis.jsonl"
ROW = FIELD.rows["brain MR slices"]
RECIPES = {
    "distil": "logits alone",
    "fitnets": "hint stage first",
    "attention": "attention maps",
    "hints": "hints at all layers",
}
SEEDS = (0, 1, 2)
MEASURES = ("accuracy", "sensitivity", "specificity", "where_size_misleads", "calibration_error", "brier")


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


def markdown() -> str:
    """The table: of what was trained with several seeds the mean, its t interval over seeds, and the gain on logits."""
    rows, lines = [], made(LINES)
    heads = ("", "right", "sensitivity", "specificity", "right where file size misleads", "calibration error", "Brier")
    rows = [f"| {' | '.join((*heads, 'right − logits alone'))} |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    logits = {one["seed"]: one["measured"]["accuracy"]["mean"] for one in lines if one["recipe"] == "distil"}
    for recipe in ("teacher", *RECIPES, *ROW.rules):
        own = [one for one in lines if one["recipe"] == recipe]
        if not own:
            continue
        cells = []
        for name in MEASURES:
            values = [one["measured"][name] for one in own]
            mean = stats.mean([value["mean"] for value in values])
            low, high = stats.t_interval([value["mean"] for value in values]) if len(own) > 1 else values[0]["ci95"]
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        gains = [one["measured"]["accuracy"]["mean"] - logits[one["seed"]] for one in own if one["seed"] in logits]
        gain = "-"
        if recipe in RECIPES and recipe != "distil" and len(gains) > 1:
            low, high = stats.t_interval(gains)
            gain = f"{stats.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]"
        about = f"`{recipe}`: {RECIPES[recipe]}, {len(own)} seeds" if recipe in RECIPES else recipe
        rows.append(f"| {about} | {' | '.join(cells)} | {gain} |")
    return "\n".join(rows)


def main() -> None:
    jobs = jobs_of(sys.argv)
    if len(sys.argv) < 3 or sys.argv[2] not in ("run", "table"):
        sys.exit(__doc__)
    folder, what, *seeds = sys.argv[1:]
    if what == "run":
        run(Path(folder), [int(seed) for seed in seeds] or list(SEEDS), jobs)
    print(markdown())


if __name__ == "__main__":
    main()

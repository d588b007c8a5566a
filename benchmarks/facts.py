"""What the fields' pages say beside their tables, of data and of rules: one file for each.

    python benchmarks/facts.py              # all of them, ten minutes
    python benchmarks/facts.py treatment    # or some of: treatment, diagnosis, monitoring, trading, greenhouse

Results go to results/fields/facts; a test holds the pages against them.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import RESULTS

from distilrl.files import write_json

OUT = RESULTS / "fields" / "facts"


def treatment() -> dict[str, Any]:
    """The exact shares that survive, and how much of the table nobody has tried."""
    from examples.treatment.sepsis import LIVING, TREATMENTS, known, model, optimum, survival

    every, experts = np.eye(TREATMENTS), model().expert_policy[:LIVING]
    policies = {
        "clinicians": experts,
        "what clinicians did most often": every[experts.argmax(1)],
        "never treat": np.tile(every[0], (LIVING, 1)),
        "random": np.full((LIVING, TREATMENTS), 1 / TREATMENTS),
    }
    after: dict[str, dict[str, float]] = {}
    for untried in ("mean", "terminate"):
        best = optimum(untried)  # type: ignore[arg-type]
        chosen = {"optimum": every[best.argmax(1)]} | policies
        after[untried] = {name: survival(policy, untried) for name, policy in chosen.items()}  # type: ignore[arg-type]
    return {"untried": float(1 - known().mean()), "survive": after}


def diagnosis() -> dict[str, Any]:
    """The split of the brain slices, and what is right without a network."""
    from examples.diagnosis.images import SAME, correlations, leak, load, trivial_rules

    slices = load()
    held, tumour = slices.held_out, slices.tumour
    near = correlations(slices.images)
    np.fill_diagonal(near, -1.0)
    shuffled = np.random.default_rng(0).permutation(held)
    right = {name: said == tumour[held] for name, said in trivial_rules(slices).items()}
    return {
        "images": len(held),
        "near_duplicates": int((near.max(1) > SAME).sum()),
        "clusters": len(np.unique(slices.cluster)),
        "held_out": int(held.sum()),
        "held_out_clusters": len(np.unique(slices.cluster[held])),
        "neighbour_split_by_chance": leak(slices.images, tumour, shuffled),
        "file_size_misleads": int((~right["file size"]).sum()),
        "right": {name: float(answers.mean()) for name, answers in right.items()},
    }


def monitoring() -> dict[str, Any]:
    """The sensor's rules and its teacher, on 150 held-out days."""
    from examples.monitoring.rules import rows

    return {"episodes": 150, "rows": [asdict(row) for row in rows(["zoo/monitoring-dqn"], 150)]}


def trading() -> dict[str, Any]:
    """The market's rules and its teacher, on 300 years of 2013 to 2018."""
    from examples.trading.rules import HELD_OUT, rows

    return {"episodes": 300, "rows": [asdict(row) for row in rows(["zoo/trading-dqn"], HELD_OUT, 300, 0)]}


def greenhouse() -> dict[str, Any]:
    """The single season on which others published figures: the teacher, students of the page's command, and rules."""
    import fields

    from distilrl.cli import main as distilrl
    from examples.greenhouse.rules import rows

    row, policies = fields.field("environment").rows["Lettuce-v0"], ["zoo/greenhouse-ppo/ppo.zip"]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            run = Path(folder) / f"{row.students[0]}, seed {seed}"
            distilrl([*fields.command(row, row.students[0], seed, run), "--episodes", "2"])  # a verdict is another's
            policies.append(str(run))
        found = rows(policies, "zoo/greenhouse-ppo/vecnormalize.pkl", 1, (40, 40))
    return {"episodes": 1, "rows": [asdict(one) | {"policy": Path(one.policy).name} for one in found]}


FACTS: dict[str, Callable[[], dict[str, Any]]] = {
    one.__name__: one for one in (treatment, diagnosis, monitoring, trading, greenhouse)
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FACTS:
        write_json(OUT / f"{name}.json", FACTS[name]())

"""Students in integers: their bytes, what they do as the float student does, and the return of the file itself.

    python benchmarks/integers.py RUN [RUN ...]               # of benchmarks/results; a line each, to results/integers/

The C file plays every start of a game that repeats itself, else 100 episodes. Where its activations are cut off is
chosen on seeds of their own; fine-tuning needs the whole run, so it is not part of this.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from lines import RESULTS, fill, machine

from distilrl import export_policy, load_network

PONG = "PongNoFrameskip-v4"


def line(run: str) -> dict:
    """A student's folder alone: nothing of its run is read."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RESULTS / run / "student", Path(folder) / "student")
        spec = load_network(Path(folder) / "student").network.spec
        card = export_policy(folder, "int8", env=PONG)
    kept = {"student": spec.describe(), "params": spec.params, "bytes": card["weight_bytes"]}
    return kept | {part: card[part]["policy.c"] for part in ("replay", "played")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine(RESULTS / "integers", "ale-py", "onnxruntime")
    fill(RESULTS / "integers" / "lines.jsonl", line, [{"run": run} for run in sys.argv[1:]])

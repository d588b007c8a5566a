"""How long `make demo` takes, once it is installed: acceptance, training and verdicts of Pong from pixels.

    python benchmarks/demo.py [--runs N]

Appends a line for each run to results/demo/demo.jsonl. The teacher's own games are played anew in each, as on a machine
that has none yet.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from lines import RESULTS, fill, machine, made, taken

from distilrl.files import read_json

OUT = RESULTS / "demo"
ROOT = Path(__file__).parents[1]


def command(out: Path) -> list[str]:
    """The words behind `distilrl` in the Makefile's demo."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("demo: $(VENV)/.user\n")[2]
    (words,) = re.findall(r"\$\(BIN\)/distilrl (distill .*?)--out", recipe.partition("\n\n")[0].replace("\\\n", " "))
    return [*shlex.split(words), "--out", str(out)]


def line(home: Path, run: int) -> dict[str, Any]:
    """One run."""
    out = home / f"pong-{run}"
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "distilrl", *command(out)],
        cwd=ROOT,
        env=os.environ | {"DISTILRL_CACHE": ""},
        check=False,
    )
    wall = time.perf_counter() - begun
    results = read_json(out / "results.json")
    return {
        "exit_code": done.returncode,
        "wall_s": round(wall, 1),
        "train_s": round(results["train_s"], 1),
        "env_steps": results["env_steps"],
        "return_mean": results["student"]["return_mean"],
        "verdict": results["verdict"]["result"],
        "disturbed": {way: sides["verdict"]["result"] for way, sides in results["disturbed"].items()},
        "cores": os.cpu_count(),
        "date": results["provenance"]["date"],
    }


def main() -> None:
    runs = int(taken(sys.argv, "--runs", "1"))
    machine(OUT, "ale-py", threads=2)  # the command's own
    there = len(made(OUT / "demo.jsonl"))
    with tempfile.TemporaryDirectory() as home:
        fill(OUT / "demo.jsonl", partial(line, Path(home)), [{"run": there + number} for number in range(runs)])


if __name__ == "__main__":
    main()

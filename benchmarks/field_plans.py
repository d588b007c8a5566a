"""The smallest student that `distilrl plan` finds in each of the six fields, by the command line itself.

    python benchmarks/field_plans.py [FIELD ...]    # one line per plan, to results/fields/plans.jsonl

A plan has the teacher, the environment, the verdict and the steps of its row of field_rows, and the tool's own ladder of
sizes with three students of each. What a row sets of training by hand (`--set`) a plan has not, and it plays nothing
disturbed. A line holds its plan.json and, where a size kept within the margin, that one's results.json.
`python benchmarks/tables.py --write` puts them into docs/fields.md.
"""

import shlex
import shutil
import sys
import time
from typing import Any

from fields import LEFT_OUT, OUT, RUNS, fields
from lines import fill, machine

from distilrl import Job, trust
from distilrl.cli import main as distilrl
from distilrl.files import read_json
from distilrl.runs import RunFolder

LINES = OUT / "plans.jsonl"
PLANS = {
    "driving": "merge",
    "robots": "BipedalWalker",
    "games": "MiniGrid DoorKey",
    "images": "brain MR slices",
    "treatment": "ICU-Sepsis, the untried is fatal",
    "trading": "SP500-v0",
    "environment": "Sensor-v0",
}
"""A row of each field, those whose environments are not the slowest."""
SEEDS = 3
NOT_OF_PLANS = ("--set", "--disturbed-episodes")


def line(field: str, row: str, seed: int) -> dict[str, Any]:
    """One plan, in a folder of its own, where one that was killed goes on; it is gone when the line is known."""
    begun, out = time.process_time(), RUNS / "plans" / f"{field}-{seed}"
    about = fields()[field].rows[row]
    words = ["plan", "--teacher", about.teacher, "--env", about.env, "--seed", str(seed), "--seeds", str(SEEDS)]
    words += ["--threads", "1", "--out", str(out), *_of_plans(f"{about.options} {about.training}")]
    if (out / "config.json").is_file():
        job = Job.from_json(RunFolder(out).read_config())
        trust(*job.train.env.modules, *(job.verdict_env.modules if job.verdict_env else ()))
        words = ["plan", "--resume", str(out)]
    if distilrl(words) not in (0, 1, 3):
        sys.exit(f"distilrl {shlex.join(words)}: see above.")
    plan, winner = read_json(out / "plan.json"), None
    if plan["winner"] is not None:
        winner = {
            key: value for key, value in read_json(out / "winner" / "results.json").items() if key not in LEFT_OUT
        }
    shutil.rmtree(out)
    return {"plan": plan, "winner": winner, "cpu_s": round(time.process_time() - begun, 1)}


def _of_plans(options: str) -> list[str]:
    """A row's options without those that a plan has not."""
    words = shlex.split(options)
    taken = {at + more for at, word in enumerate(words) if word in NOT_OF_PLANS for more in (0, 1)}
    return [word for at, word in enumerate(words) if at not in taken]


if __name__ == "__main__":
    machine(OUT)
    fill(LINES, line, [{"field": name, "row": PLANS[name], "seed": 0} for name in sys.argv[1:] or PLANS])

"""Environments and teachers that break in the middle of a run: it says what and where, and its checkpoint goes on.

python tests/chaos/faults.py
"""

import argparse
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import torch
from breaks import FAULT, BreaksEnv
from torch import nn
from workload import commands, left, make_teacher, make_teachers, record, run, sentence, sign_network

from distilrl.cli.faults import print_error
from distilrl.comparison import Comparison
from distilrl.config import TaskFile, TrainConfig
from distilrl.distill import distill
from distilrl.errors import DistilError
from distilrl.jobs import Job
from distilrl.spaces import EnvRef

BREAKS = "distilrl/BreaksEnv-v0"
EPISODES = 8
"""More than the acceptance check has in one environment, and a checkpoint is there by then."""


if BREAKS not in gymnasium.registry:
    gymnasium.register(BREAKS, entry_point=BreaksEnv, max_episode_steps=50)

TOLD = {
    "raise": "raised ValueError (broken; breaks.py, line 31) in step 84 (action",
    "exit": "called sys.exit(0) in step 84 (action",
    "nan": "gave an observation that is not finite (number 0) in step 84 (action",
    "shape": "in step 84 (action",
    "reward": "gave a reward of nan in step 84 (action",
    "die": "died (exit code 9)",
    "hang": "has been in step 84 (action",
}
"""What is said of each fault."""


class TurningNan(nn.Module):
    """A teacher's network that gives NaN after so many answers."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.network, self.left = sign_network(), after

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return self.network(obs) * (float("nan") if self.left < 0 else 1.0)


def environment(home: Path, what: str, workers: int) -> dict[str, Any]:
    """A run in an environment that breaks, then in one that was mended."""
    words = [BREAKS if "SignEnv" in word else word for word in commands(home)["vectors"]]
    words += ["--set", f"workers={workers}", "--set", "n-envs=8"]
    whole, out = home / f"whole-{workers}", home / "run"
    if not whole.exists():
        assert run([*words, "--out", str(whole)]).code in (0, 1, 3)
    shutil.rmtree(out, ignore_errors=True)

    def breaks() -> None:
        os.environ[FAULT] = f"{what}:{EPISODES}"

    kill = {"kill_on": TOLD[what], "with_signal": signal.SIGINT} if what == "hang" else {}
    failed = run([*words, "--out", str(out)], prepare=breaks, limit=600.0, **kill)
    row = {"fault": what, "workers": workers, "code": failed.code}
    kept = (out / "checkpoint" / "state.safetensors").is_file()
    told = TOLD[what] in " ".join(failed.said.split()) and "Traceback" not in failed.said
    again = run([words[0], "--resume", str(out)])
    good = failed.code == (130 if what == "hang" else 2) and told and kept and left(out) == left(whole)
    row |= {"told": told, "checkpoint": kept, "then": again.code, "good": good}
    return row if good else row | {"said": failed.said[-400:], "then_said": again.said[-300:]}


def teacher(home: Path, answers: int) -> dict[str, Any]:
    """A run whose teacher turns NaN after so many answers, then with a sound one."""
    train = TrainConfig(tasks=(TaskFile(EnvRef("distilrl/SignEnv-v0")),)).but(
        env_steps=1600, learning_starts=160, check_every=160, check_episodes=4, final_episodes=4, batch_size=64,
        network="mlp:8", threads=1, gap=-9.0,
    )  # fmt: skip
    job = Job(train, Comparison(20, 20, 0), accept_episodes=5)

    def go(after: int, out: Path, resume: bool) -> int:
        try:
            distill(make_teacher(TurningNan(after)), job, out, resume=resume)
        except DistilError as error:
            print_error(str(error))
            return 2
        return 0

    whole, out = home / "whole-teacher", home / "run-teacher"
    if not whole.exists():
        assert run(lambda: go(10**9, whole, False)).code == 0
    shutil.rmtree(out, ignore_errors=True)
    failed = run(lambda: go(answers, out, False))
    resume = (out / "config.json").is_file()
    again = run(lambda: go(10**9, out, resume))
    told = bool(sentence(failed)) and "NaN" in failed.said
    good = failed.code == 2 and told and again.code == 0 and left(out) == left(whole)
    row = {"fault": "teacher turns NaN", "answers": answers, "code": failed.code, "told": told, "good": good}
    return row if good else row | {"said": failed.said[-400:], "then_said": again.said[-300:]}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    home = Path(tempfile.mkdtemp(prefix="distilrl-faults-"))
    make_teachers(home)
    rows = []
    for answers in (3, 20, 60, 100, 150):
        rows.append(teacher(home, answers))
        print(rows[-1], flush=True)
    for what, workers in [(what, 0) for what in TOLD if what != "die"] + [
        ("raise", 2),
        ("die", 2),
        ("hang", 2),
        ("nan", 2),
    ]:
        rows.append(environment(home, what, workers))
        print(rows[-1], flush=True)
    good = sum(row["good"] for row in rows)
    print(f"{good} of {len(rows)} faults were named, and the run went on to the same bytes")
    record("faults", {"faults": len(rows), "good": good, "rows": rows})
    shutil.rmtree(home)
    raise SystemExit(0 if good == len(rows) else 1)


if __name__ == "__main__":
    main()

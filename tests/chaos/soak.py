"""Hours of distilling at full speed: memory that stays, and nothing left open.

    python tests/chaos/soak.py --env PongNoFrameskip-v4 --teacher zoo/pong-dqn --hours 0.5

Run after run in this process, and once a minute its resident memory, descriptors, threads and temporary files. After
the first ten minutes (``--settle``) the memory may grow by one percent; at the end there may be no more of the others
than after the first run. What a run records grows with it (the actions of its checkpoint, a byte or a few a step), so
that each is short and memory is compared between runs. One line for each soak is added to soak.jsonl.

The memory compared is what stays when glibc has given back what nobody holds: it keeps some hundred megabytes of a
run's largest moment, which differ between seeds by a few percent and so hide what would be lost (``untrimmed_kib``).
"""

import argparse
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from workload import add_line

from distilrl import Job, distill, make_config
from distilrl.comparison import Comparison


def resident() -> int:
    """KiB of this process that are in memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0])


def now() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    untrimmed = resident()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return {
        "rss_kib": resident(),
        "untrimmed_kib": untrimmed,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "temporary": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def soak(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Runs for so many hours; what they left, and whether it held."""
    began, looked, runs, settled_in = time.monotonic(), time.monotonic(), 0, 0
    first: dict[str, int] = {}
    settled: dict[str, int] = {}
    while runs == settled_in or not settled or time.monotonic() - began < 3600 * args.hours:
        seed = (args.seed + runs) % 900
        config = make_config("distil", args.env, teacher=args.teacher, env_steps=args.steps, seed=seed, gap=-9.0)
        distill(None, Job(config, Comparison(20, 20, 0), accept_episodes=5), home / "run")
        shutil.rmtree(home / "run")
        runs += 1
        first = first or now()  # what the first run imports and starts is there from now on
        if not settled and time.monotonic() - began >= 60 * args.settle:
            settled, settled_in = now(), runs
        if time.monotonic() - looked >= 60:
            looked = time.monotonic()
            print(runs, now(), flush=True)
    last = now()
    grew = last["rss_kib"] / settled["rss_kib"] - 1
    more = {name: last[name] - first[name] for name in ("descriptors", "threads", "temporary")}
    return {
        "env": args.env, "seed": args.seed, "hours": round((time.monotonic() - began) / 3600, 3), "settle": args.settle,
        "runs": runs, "steps": runs * args.steps, "rss_kib": settled["rss_kib"], "rss_kib_after": last["rss_kib"],
        "untrimmed_kib": settled["untrimmed_kib"], "untrimmed_kib_after": last["untrimmed_kib"],
        "grew": round(grew, 5), "more": more, "held": grew <= 0.01 and not any(count > 0 for count in more.values()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--settle", type=float, default=10.0, help="minutes after which memory is compared")
    parser.add_argument("--steps", type=int, default=20_000, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        (Path(folder) / "temporary").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(Path(folder) / "temporary")  # nobody else's files are counted
        found = soak(args, Path(folder))
    tempfile.tempdir = None
    print(f"memory grew by {found['grew']:.2%} after {args.settle:g} minutes; more than before: {found['more']}")
    add_line("soak", found)
    raise SystemExit(0 if found["held"] else 1)


if __name__ == "__main__":
    main()

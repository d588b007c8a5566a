"""Hours of distilling at full speed: memory that stays, and nothing left open.

    python tests/chaos/soak.py --env PongNoFrameskip-v4 --teacher zoo/pong-dqn --hours 4

Run after run in this process, and once a minute its resident memory, descriptors and threads. After the first ten
minutes the memory may grow by one percent; at the end there may be no more descriptors, threads or temporary files than
at the beginning. What a run records grows with it (the actions of its checkpoint, a few bytes a step), so that each is
short and memory is compared between runs.
"""

import argparse
import gc
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from workload import record

from distilrl import Job, distill, make_config
from distilrl.comparison import Comparison

MINUTE, WARM = 60.0, 10


def now() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "temporary": len(list(Path(tempfile.gettempdir()).glob("*distilrl*"))),
    }


def soak(env: str, teacher: str, hours: float, steps: int) -> dict[str, Any]:
    """Runs for so many hours; the minutes, and whether it held."""
    ends, minutes, runs = time.monotonic() + 3600 * hours, [], 0
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    looked = time.monotonic()
    first: dict[str, int] = {}
    while time.monotonic() < ends:
        config = make_config("distil", env, teacher=teacher, env_steps=steps, seed=runs % 900, gap=-9.0)
        distill(None, Job(config, Comparison(20, 20, 0), accept_episodes=5), home / "run")
        shutil.rmtree(home / "run")
        runs += 1
        first = first or now()  # what the first run imports and starts is there from now on
        if time.monotonic() - looked >= MINUTE:
            looked = time.monotonic()
            minutes.append(now())
            print(runs, minutes[-1], flush=True)
    warm, last = minutes[min(WARM, len(minutes) - 1)], now()
    grew = last["rss_kib"] / warm["rss_kib"] - 1
    more = {name: last[name] - first[name] for name in ("descriptors", "threads", "temporary")}
    return {
        "env": env, "hours": hours, "runs": runs, "steps": runs * steps, "grew": grew, "more": more,
        "held": grew <= 0.01 and not any(count > 0 for count in more.values()), "minutes": minutes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=20_000, help="of each run")
    args = parser.parse_args()
    found = soak(args.env, args.teacher, args.hours, args.steps)
    print(f"memory grew by {found['grew']:.2%} after the first {WARM} minutes; more than before: {found['more']}")
    record(f"soak-{args.env.split('-')[0]}", found)
    raise SystemExit(0 if found["held"] else 1)


if __name__ == "__main__":
    main()

"""SIGKILL at random moments: what is continued, or made again, must end with the same bytes as what was never killed.

python tests/chaos/kill.py --kills 200 --seed 0
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from workload import Ended, commands, left, make_teachers, record, run


def baselines(home: Path, kinds: list[str]) -> dict[str, tuple[dict[str, str], Ended]]:
    """What each command leaves where nothing happens to it, and how it ends."""
    found = {}
    for kind in kinds:
        ended = run([*commands(home)[kind], "--out", str(home / "whole" / kind)])
        if ended.code not in (0, 1, 3):
            raise SystemExit(f"{kind} ended with {ended.code}: {ended.said}")
        found[kind] = (left(home / "whole" / kind), ended)
    return found


def once(home: Path, kind: str, whole: dict[str, str], seconds: float, rng: random.Random) -> dict[str, Any]:
    """One kill, and what came of it."""
    out = home / "broken" / kind
    shutil.rmtree(out, ignore_errors=True)
    words, after = commands(home)[kind], rng.uniform(0.0, seconds)
    killed = run([*words, "--out", str(out)], kill_after=after)
    row: dict[str, Any] = {"command": kind, "after_s": round(after, 3), "killed": killed.code == -9, "kills": 1}
    begun = (out / "config.json").is_file()
    if killed.code != -9:  # it was faster than before
        again = killed
    elif begun:
        again = run([words[0], "--resume", str(out)])
    else:  # nothing that could be continued: the same in another folder
        out = home / "again" / kind
        shutil.rmtree(out, ignore_errors=True)
        again = run([*words, "--out", str(out)])
    row |= {"code": again.code, "same": left(out) == whole}
    if not row["same"]:
        row["said"] = again.said[-500:]
    return row


def files(home: Path, kind: str, rng: random.Random) -> dict[str, Any]:
    """A kill of a command that works on a finished run: `report` or `export`."""
    folder = home / "whole" / "vectors"
    words = {"report": ["report", str(folder)], "export": ["export", str(folder), "--to", "c"]}[kind]
    made = {"report": folder / "report.html", "export": folder / "export" / "c"}[kind]

    def bytes_of() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (made.iterdir() if made.is_dir() else [made])} if made.exists() else {}

    first = run(words)
    before, after = bytes_of(), rng.uniform(0.0, first.seconds)
    killed = run(words, kill_after=after)
    between = bytes_of()  # the earlier one whole, or the new one whole
    again = run(words)
    same = bytes_of() == before and between in (before, {}) and again.code == 0
    if between == {}:  # killed between the two renames of a swap: the earlier export lies aside, nothing is lost
        same = same and kind == "export"
    return {"command": kind, "after_s": round(after, 3), "killed": killed.code == -9, "code": again.code, "same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, home = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="distilrl-kill-"))
    make_teachers(home)
    whole = baselines(home, list(commands(home)))
    kinds = [*whole, "report", "export"]
    rows: list[dict[str, Any]] = []
    while sum(row["killed"] for row in rows) < args.kills:
        kind = kinds[len(rows) % len(kinds)]
        if kind in whole:
            rows.append(once(home, kind, whole[kind][0], whole[kind][1].seconds, rng))
        else:
            rows.append(files(home, kind, rng))
        print(rows[-1], flush=True)
    killed = [row for row in rows if row["killed"]]
    same = sum(row["same"] for row in killed)
    print(f"{same} of {len(killed)} kills ended with the same bytes")
    record("kill", {"seed": args.seed, "kills": len(killed), "same": same, "runs": rows})
    shutil.rmtree(home)
    raise SystemExit(0 if same == len(killed) else 1)


if __name__ == "__main__":
    main()

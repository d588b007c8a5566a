"""Two processes that begin, or continue, in one folder at the same moment: exactly one goes on.

python tests/chaos/starts.py --starts 200 --seed 0
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from workload import Ended, commands, make_teachers, record, run


def together(words: list[list[str]], lag: float) -> list[Ended]:
    """These commands at the same moment, the second so many seconds later."""
    moment = time.monotonic() + 0.05
    ends: list[Ended] = []
    pipes = []
    for number, one in enumerate(words):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:

            def wait(at: float = moment + number * lag) -> None:
                while time.monotonic() < at:
                    pass

            ended = run(one, prepare=wait)
            os.write(write, f"{ended.code} {' '.join(ended.said.split())[-300:]}".encode()[:4000])
            os._exit(0)
        os.close(write)
        pipes.append((pid, read))
    for pid, read in pipes:
        os.waitpid(pid, 0)
        code, _, said = os.read(read, 4096).decode(errors="replace").partition(" ")
        os.close(read)
        ends.append(Ended(int(code), said, 0.0))
    return ends


def one_goes_on(ends: list[Ended]) -> bool:
    """Whether one came to its end and every other was refused in a sentence."""
    ran = [one for one in ends if one.code in (0, 1, 3)]
    refused = [one for one in ends if one.code == 2 and ("already holds" in one.said or "at work in" in one.said)]
    return len(ran) == 1 and len(refused) == len(ends) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, home = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="distilrl-starts-"))
    make_teachers(home)
    words = commands(home)["vectors"]
    words[words.index("--steps") + 1] = "960"
    words[words.index("--episodes") + 1] = "10"
    good, failures = 0, []
    for number in range(args.starts):
        out = home / str(number)
        ends = together([[*words, "--out", str(out)]] * 2, lag=rng.choice([0.0, 0.0, 0.001, 0.01]))
        if one_goes_on(ends) and (out / "results.json").is_file():
            good += 1
        else:
            failures.append([(one.code, one.said) for one in ends])
            print(number, failures[-1], flush=True)
        shutil.rmtree(out, ignore_errors=True)
    print(f"exactly one went on in {good} of {args.starts} starts of two")
    record("starts", {"seed": args.seed, "starts": args.starts, "one_went_on": good, "failures": failures})
    shutil.rmtree(home)
    raise SystemExit(0 if good == args.starts else 1)


if __name__ == "__main__":
    main()

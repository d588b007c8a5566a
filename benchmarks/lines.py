"""Queues of independent runs: each leaves a line of JSON, and N processes make those that are missing.

Give a script of this folder ``--jobs N`` for that. Every run has one thread; seconds made beside other runs are not for
tables.
"""

import json
import multiprocessing
import os
import platform
import shlex
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distilrl import Job, trust
from distilrl.cli import main
from distilrl.files import read_json, write_json
from distilrl.provenance import processor
from distilrl.runs import RunFolder

RESULTS = Path(__file__).parent / "results"
"""Raw results, wherever a script is started."""


def taken(words: list[str], flag: str, default: str) -> str:
    """Takes ``flag VALUE`` out of the words of a command line."""
    if flag not in words:
        return default
    at = words.index(flag)
    _, value = words[at : at + 2]
    del words[at : at + 2]
    return value


def jobs_of(words: list[str]) -> int:
    """Takes ``--jobs N`` out of the words of a command line; 1 where it is not there."""
    return int(taken(words, "--jobs", "1"))


def machine(folder: Path, *packages: str, threads: int = 1) -> None:
    """Notes down beside the lines with what they were made; what other scripts noted there stays."""
    versions = {name: metadata.version(name) for name in ("distilrl", "torch", "numpy", "gymnasium", *packages)}
    about = {"python": platform.python_version(), "machine": platform.machine(), "threads": threads}
    path = folder / "machine.json"
    known = read_json(path) if path.exists() else {}
    about["cpus"] = sorted({*known.get("cpus", ()), processor()})  # of all that lines were made on since this is noted
    write_json(path, known | versions | about)


def teacher_file(folder: Path, name: str) -> Path:
    """A teacher of zoo/, or of a folder of teachers."""
    return Path(name) if name.startswith("zoo/") else folder / name


def run_or_go_on(words: list[str], out: Path) -> None:
    """Runs a command of distilrl, whose folder is ``out``; what was killed there goes on, if it is of this command."""
    said = out.with_name(f"{out.name}.command")
    if (out / "config.json").is_file():
        if not said.is_file() or said.read_text() != shlex.join(words):
            sys.exit(f"{out} was not begun by this command: move it away.\n{shlex.join(words)}")
        job = Job.from_json(RunFolder(out).read_config())
        trust(*job.train.env.modules, *(job.verdict_env.modules if job.verdict_env else ()))
        code = main([words[0], "--resume", str(out)])
    else:
        said.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(shlex.join(words))
        code = main(words)
    if code not in (0, 1, 3):
        sys.exit(f"distilrl {shlex.join(words)}: see above.")


def made(path: Path) -> list[dict[str, Any]]:
    """Lines that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fill(path: Path, function: Callable[..., dict[str, Any]], keys: Iterable[dict[str, Any]], jobs: int = 1) -> None:
    """Appends ``key | function(**key)`` for each key that no line has, as they end; ``function`` is one of a module."""
    known = made(path)
    missing = [key for key in keys if not there(path, key, known)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if missing and not (path.parent / "machine.json").exists():
        machine(path.parent)  # a script that needs more packages than these has written its own before
    if jobs == 1:
        for key in missing:
            if not there(path, key):  # another lane may have made it meanwhile
                _append(path, key, _line(function, key))
        return
    # processes that stay: what a function keeps, such as a teacher and its acceptance, serves all lines of one
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _end_with_queue) as executor:
        ended = {executor.submit(_line, function, key): key for key in missing}
        try:
            for future in as_completed(ended):
                _append(path, ended[future], future.result())
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def there(path: Path, key: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> bool:
    """Whether there is a line of this key."""
    return any(key.items() <= row.items() for row in (made(path) if rows is None else rows))


def _append(path: Path, key: dict[str, Any], row: dict[str, Any]) -> None:
    """Leaves the line of this key, unless another lane has while this one made it."""
    if there(path, key):
        return
    row = key | row
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    plain = [value for value in row.values() if not isinstance(value, dict | list)]
    print(*plain[:6], f"({path.name})", flush=True)


def _end_with_queue() -> None:
    """Ends this process with the one that started it, which may be killed."""

    def end() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _line(function: Callable[..., dict[str, Any]], key: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return function(**key)


if __name__ == "__main__":
    sys.exit("This file is read by others of this folder.")

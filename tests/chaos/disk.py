"""Disks that are full, broken or read-only at every write: nothing is lost, one sentence, and the run goes on.

    python tests/chaos/disk.py --seed 0

Two ways: a layer under the one writer fails the k-th call that writes, for every k, once (EIO) or from then on
(ENOSPC); and, where this user may mount, a tmpfs of n bytes, for n from nothing to enough.
"""

import argparse
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workload import commands, left, make_teachers, record, run, sentence

CALLS = ("open", "fsync", "replace", "link")
KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
MIB = 1 << 20


class Writes:
    """Counts the writer's calls, and fails the k-th; where the disk is full, all that follow too."""

    def __init__(self, fails_at: int, kind: str) -> None:
        self.fails_at, self.kind, self.count = fails_at, kind, 0

    def install(self) -> None:
        """Puts itself under the writer, in this process."""
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name), name))
        fdopen = os.fdopen

        def opened(*given: Any, **named: Any) -> Any:
            file = fdopen(*given, **named)
            return _File(file, self) if "w" in str(given[1:]) else file

        os.fdopen = opened

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name != "open" or (len(given) > 1 and given[1] & os.O_CREAT):
                self.check()
            return real(*given, **named)

        return call

    def check(self) -> None:
        """One more write."""
        self.count += 1
        if self.fails_at and (self.count == self.fails_at or (self.kind == "ENOSPC" and self.count > self.fails_at)):
            raise OSError(KINDS[self.kind], os.strerror(KINDS[self.kind]))


class _File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, writes: Writes) -> None:
        self._file, self._writes = file, writes

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *given: Any) -> Any:
        return self._file.__exit__(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> Any:
        self._writes.check()
        return self._file.write(data)


def count_writes(words: list[str]) -> int:
    """How many calls of the writer a command makes."""
    writes = Writes(0, "EIO")
    read, write = os.pipe()

    def counted() -> int:
        from distilrl.cli import main

        code = main(words)
        os.write(write, str(writes.count).encode())
        return code

    run(counted, prepare=writes.install)
    count = int(os.read(read, 100))
    os.close(read), os.close(write)
    return count


def at_every_write(home: Path, whole: dict[str, str], step: int) -> list[dict[str, Any]]:
    """A run whose k-th write fails, then the same with a sound disk."""
    words, rows = commands(home)["vectors"], []
    count = count_writes([*words, "--out", str(home / "counted")])
    for kind in KINDS:
        for k in range(1, count + 1, step):
            out = home / "run"
            shutil.rmtree(out, ignore_errors=True)
            failed = run([*words, "--out", str(out)], prepare=Writes(k, kind).install)
            rows.append({"layer": kind, "write": k, "of": count} | mended(failed, words, out, whole))
            print(rows[-1], flush=True)
    return rows


def mended(failed: Any, words: list[str], out: Path, whole: dict[str, str]) -> dict[str, Any]:
    """Whether a run that failed said so in one sentence, left nothing half-written, and goes on as it should."""
    torn = [path.name for path in out.rglob("*.tmp")] if out.exists() else []
    resumed = (out / "config.json").is_file()
    again = run([words[0], "--resume", str(out)] if resumed else [*words, "--out", str(out)])
    row = {"code": failed.code, "one_sentence": bool(sentence(failed)), "torn": len(torn), "then": again.code}
    row["good"] = failed.code == 2 and row["one_sentence"] and not torn and left(out) == whole
    if failed.code in (0, 1, 3):  # what failed was of no importance: a cache, or the second name of a file
        row["good"] = left(out) == whole
    return row if row["good"] else row | {"said": failed.said[-300:], "then_said": again.said[-300:]}


def in_a_small_disk(home: Path, whole: dict[str, str], sizes: int) -> list[dict[str, Any]]:
    """A run on a tmpfs of n bytes, then the same after it has grown."""
    disk, words, rows = home / "disk", commands(home)["vectors"], []
    disk.mkdir(exist_ok=True)
    needed = sum(p.stat().st_size for p in (home / "whole").rglob("*") if p.is_file())
    for size in [4096 + needed * i // sizes // 4096 * 4096 for i in range(sizes)]:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True
        ).returncode:
            print("no tmpfs can be mounted here")
            return []
        try:
            failed = run([*words, "--out", str(disk / "run")])
            subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", disk], check=True)
            rows.append({"bytes": size} | mended(failed, words, disk / "run", whole))
            print(rows[-1], flush=True)
        finally:
            subprocess.run(["umount", disk], check=True)
    return rows


def read_only(home: Path) -> list[dict[str, Any]]:
    """Commands on a folder that cannot be written."""
    disk, rows = home / "disk", []
    disk.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        return []
    try:
        shutil.copytree(home / "whole", disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        words, folder = commands(home)["vectors"], str(disk / "run")
        tried = {
            "distill": [*words, "--out", str(disk / "new")],
            "resume": ["distill", "--resume", folder],
            "report": ["report", folder],
            "export": ["export", folder, "--to", "c"],
            "watch": ["watch", folder],
        }
        for name, one in tried.items():
            ended = run(one)
            row = {"read_only": name, "code": ended.code, "good": ended.code == 2 and bool(sentence(ended))}
            rows.append(row if row["good"] else row | {"said": ended.said[-300:]})
            print(rows[-1], flush=True)
    finally:
        subprocess.run(["umount", disk], check=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="of the writes, every how manieth fails; 0: none")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of the small disk")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="distilrl-disk-"))
    make_teachers(home)
    first = run([*commands(home)["vectors"], "--out", str(home / "whole")])
    assert first.code in (0, 1, 3), first.said
    whole = left(home / "whole")
    rows = read_only(home) + in_a_small_disk(home, whole, args.sizes)
    rows += at_every_write(home, whole, args.every) if args.every else []
    good = sum(row["good"] for row in rows)
    print(f"{good} of {len(rows)} faults of a disk ended in one sentence, and then with the same bytes")
    record("disk", {"faults": len(rows), "good": good, "rows": rows})
    shutil.rmtree(home)
    raise SystemExit(0 if good == len(rows) else 1)


if __name__ == "__main__":
    main()

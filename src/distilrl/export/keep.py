"""Keeping an export: written beside its place, and moved into it only if it answers as the policy does."""

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from distilrl.errors import FileError
from distilrl.events import Phase, Watch
from distilrl.export import c
from distilrl.export.card import FORMAT, PAGE
from distilrl.export.examples import example
from distilrl.export.last import COARSEST, ROUNDINGS, last_step
from distilrl.export.owners import check_owned
from distilrl.export.replay import ExportedFile, Held, Recording, held, open_export, rounding
from distilrl.export.verifying import verify_own
from distilrl.files import digest, read_json, unwritable, write_bytes, write_json, write_text
from distilrl.policies import Policy
from distilrl.runs import LOCK, RunFolder, locked
from distilrl.spaces import EnvRef
from distilrl.verdict import worst_of

WRITTEN = (
    "export.json", "golden.npz", "golden.bin", "example.py", "example.c", PAGE,
    "policy.onnx", "policy.pt2", "policy.tflite", "policy.c", "policy.h",
)  # fmt: skip
"""All files that an export may hold; anything else in its folder is the user's, but for what is left behind."""
LEFT_BEHIND = ("example", "example.exe", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What may lie beside them and nobody misses: an example as its first line compiles it, what file managers leave."""
GOLDEN = 64
"""Observations written beside the file."""
INT8_DISTANCE = 0.1
"""An integer file whose actions are further from its student's was not quantised well enough to be played at all."""


def own_place(folder: RunFolder, target: str) -> Path:
    """``RUN/export/TARGET``.

    Raises:
        FileError: ``RUN/export`` is a link to somewhere else.
    """
    if (folder.path / "export").is_symlink():
        raise FileError(
            f"{folder.path / 'export'} is a symbolic link: remove it, or name the folder to write with --out."
        )
    return folder.path / "export" / target


def check_place(out: Path) -> None:
    """Makes sure that nothing but an earlier export would be replaced.

    Raises:
        FileError: there is something of the user's.
    """
    try:
        if out.resolve() in (here := Path.cwd().resolve(), *here.parents):
            raise FileError(
                f"{out} is where you are, or around it: name a folder to write inside it, such as ./export."
            )
        if out.is_symlink():
            raise FileError(f"{out} is a symbolic link: give --out the folder itself, or another one.")
        if not out.exists():
            return
        entries = sorted(out.iterdir()) if out.is_dir() else []
        names = [entry.name for entry in entries] if out.is_dir() else ["a file"]
        folders = [entry.name for entry in entries if entry.is_dir()]  # no export has any, under whatever name
    except OSError as error:
        raise unwritable(out, error) from None
    if names and not _is_export(out):
        raise FileError(
            f"{out} exists and is not an export that distilrl wrote: choose another --out, or move it away."
        )
    if foreign := [name for name in names if name not in WRITTEN + LEFT_BEHIND or name in folders]:
        raise FileError(
            f"{out} holds '{foreign[0]}', which no export wrote: move it elsewhere, or choose another --out."
        )


def _is_export(folder: Path) -> bool:
    card = folder / "export.json"
    try:
        data = read_json(card) if card.is_file() and not card.is_symlink() else None
    except FileError:  # not ours, or not whole: either way nothing to be replaced unasked
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def keep_export(
    out: Path,
    policy: Policy,
    seen: Recording,
    card: dict[str, Any],
    write: Callable[[Path], list[str]],
    watch: Watch,
    *,
    env: EnvRef | None = None,
    beside: Policy | None = None,
) -> dict[str, Any]:
    """Writes an export beside its place, replays it, and moves it into place only if it answers as the policy does.

    An earlier export is replaced, anything else there is refused, and whatever fails leaves the earlier one in place.

    Args:
        out: folder to write.
        policy: what the files must answer as.
        seen: observations to replay.
        card: what export.json shall say.
        write: writes the files into a folder and names those that can be played.
        watch: told as the work goes on.
        env: in which integers are played; the card's by default.
        beside: who the card says how near the files are to, where that is not the policy that they were tuned to.

    Raises:
        FileError: the folder holds something else, cannot be written, or the files do not answer as the policy does.
    """
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(out)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.export-", dir=out.parent))  # nobody else can know or enter it
    except OSError as error:
        raise unwritable(out, error) from None
    part, held = work / "new", locked(work)  # held before there is anything in it that could be cleared up
    try:
        part.mkdir()
        files = write(part)
        _check(part, files, policy, seen, card, beside)
        if card["target"] == "int8":
            watch(Phase("verdict"))
            played = {name: verify_own(part / name, env, watch) for name in files}
            card["played"] = {name: one.to_json() for name, one in played.items()}
            card["file_verdict"] = worst_of(*(one.worst for one in played.values()))
            write_json(part / "export.json", card)
        _swap(part, out, work / "old")
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        _leave(work, held)
    return card | {"path": str(out)}


def _check(
    part: Path, files: list[str], policy: Policy, seen: Recording, card: dict[str, Any], beside: Policy | None
) -> None:
    """Replays the files, and writes golden observations, an example, and the card with every file's digest."""
    target = card["target"]
    opened = {name: open_export(part / name, policy.head, seen.obs[0].size) for name in files}
    card["replay"] = {name: _replayed(name, file, policy, seen, target, beside) for name, file in opened.items()}
    card["files"] = {name: (part / name).stat().st_size for name in files}
    write_golden(part, [opened[name] for name in files], policy, seen, target)
    card["sha256"] = {path.name: digest(path) for path in sorted(part.iterdir())}
    write_json(part / "export.json", card)


def _replayed(
    name: str, file: ExportedFile, policy: Policy, seen: Recording, target: str, beside: Policy | None = None
) -> dict[str, Any]:
    """Holds a file against the policy on recorded observations; what export.json says of it, or of how near it is to
    ``beside``.

    Raises:
        FileError: it does not answer as the policy does.
    """
    numbers = seen.numbers(policy)
    own = 0.0 if target == "int8" else rounding(policy, seen, numbers)
    answers = file(seen.obs, seen.begins)
    found: Held = held(answers, numbers, policy.head, rounded=own)
    good = found.consistent and found.distance <= INT8_DISTANCE if target == "int8" else found.alike
    coarse = float((own / last_step(policy.head).scales(numbers.numpy())).max())
    if not good and ROUNDINGS * coarse > COARSEST:
        raise FileError(
            f"{name} does not answer as the student does, whose own numbers are rounded by up to {coarse:.1e} "
            "of the largest: what it sees lies too far from 0 beside how much it varies; distil it behind a wrapper of "
            "the environment that subtracts its mean."
        )
    if not good and target == "int8" and found.consistent:
        raise FileError(
            f"{name} answers otherwise than the student does ({found.same_action:.1%} of the actions are the same): "
            "eight bits are too few where small numbers decide beside large ones, so export to c or onnx; if that is "
            "not so here, please report this."
        )
    if not good:
        raise FileError(
            f"{name} does not answer as the student does (numbers differ by up to {found.largest_difference:.1e} of "
            f"the largest, {found.same_action:.1%} of the actions are the same): it was not kept; please report this."
        )
    return (found if beside is None else held(answers, seen.numbers(beside), policy.head)).to_json()


def write_golden(folder: Path, files: Sequence[ExportedFile], policy: Policy, seen: Recording, target: str) -> None:
    """Observations and expected actions beside the files, for example.c of the first and example.py of the last, and
    the latter.
    """
    golden, last = seen.few(GOLDEN, remembers=policy.remembers), last_step(policy.head)
    some, answers = golden.obs, files[-1](golden.obs, golden.begins)
    archive = io.BytesIO()
    near = 10 * last.near(answers.actions)  # another runtime sums in another order
    np.savez_compressed(archive, obs=some, values=answers.values, action=answers.actions, near=near)
    write_bytes(folder / "golden.npz", archive.getvalue())
    if target in ("c", "int8", "web"):
        first = answers if len(files) == 1 else files[0](golden.obs, golden.begins)
        pairs = zip(last.golden(first.actions), some, strict=True)
        little = some.dtype.newbyteorder("<")
        both = (action.tobytes() + obs.astype(little).tobytes() for action, obs in pairs)
        write_bytes(folder / "golden.bin", b"".join(both))
    if target not in ("c", "web"):
        text = example(target, last.numbers_name, remembers=policy.remembers)
        write_text(folder / "example.py", text)


def write_c(folder: Path, source: c.Source) -> None:
    """Writes a policy's C, its header, and an example that runs it on the golden observations."""
    for name, text in (("policy.h", source.header), ("policy.c", source.code), ("example.c", source.example)):
        write_text(folder / name, text)


def _swap(new: Path, out: Path, aside: Path) -> None:
    """Puts ``new`` in the place of ``out``; the earlier export waits aside and is put back if that fails."""
    check_place(out)  # again: much time has passed
    earlier = out.exists()
    if earlier:
        out.rename(aside)
    try:
        new.rename(out)
    except BaseException:
        if earlier:
            aside.rename(out)
        raise
    if earlier:
        _discard(aside)


def _discard(aside: Path) -> None:
    """Removes an export in whose place another one is; what cannot be removed stays aside."""
    with suppress(OSError):
        for name in WRITTEN + LEFT_BEHIND:  # by name, so that a file which came in between is not lost
            (aside / name).unlink(missing_ok=True)
        aside.rmdir()


def _leave(work: Path, held: int | None) -> None:
    """Takes the folder away in which an export was written, and frees its lock."""
    shutil.rmtree(work / "new", ignore_errors=True)
    with suppress(OSError):
        (work / LOCK).unlink(missing_ok=True)
        work.rmdir()  # not empty where an earlier export could not be put back: then it is kept there
    if held is not None:
        os.close(held)


def _clear_up(out: Path) -> None:
    """Takes away what killed exports left beside their place; the export that one of them had moved aside and not yet
    replaced is put back. Those of processes at work, which hold their locks, stay.
    """
    ours = re.compile(rf"\.{re.escape(out.name)}\.export-\w{{8}}")
    for work in [one for one in out.parent.iterdir() if ours.fullmatch(one.name) and not one.is_symlink()]:
        with suppress(FileError, OSError):  # at work, or another user's: neither hinders this export
            check_owned(work)
            if not ((work / "new").is_dir() or (work / "old").is_dir()):
                continue
            if (held := locked(work)) is None:  # no locks here: it could be at work
                continue
            try:
                if not out.exists() and (work / "old").is_dir():
                    (work / "old").rename(out)
                _discard(work / "old")
            finally:
                _leave(work, held)

"""Hostile files made from sound ones by what their formats are made of: no traceback, no hang, no memory.

    python tests/chaos/fuzz.py --seconds 3600 --seed 0

Each example follows from the seed and its number alone (``--only NUMBER`` runs it again). Examples are read in a
process of their own, which is watched: an exception that is not ours, ten seconds, or two gigabytes is a finding, and
its file is kept in the folder that is printed. Seconds are those in which it computed or slept; what it waited for a
processor, on a machine with other work, is not counted.
"""

import argparse
import copy
import io
import json
import multiprocessing
import os
import pickletools
import random
import resource
import struct
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from workload import CNN, HERE, make_teachers, record

from distilrl.checkpoints import load_network, read_tensors
from distilrl.errors import DistilError
from distilrl.export.card import read_card
from distilrl.files import read_json
from distilrl.jobs import Job
from distilrl.metrics import read_metrics
from distilrl.plain import read_as
from distilrl.played import SingleEpisodes, TeacherCard
from distilrl.specs import NetworkSpec
from distilrl.summaries import read_results
from distilrl.teachers import TeacherFile, load_teacher, vecnormalize

SECONDS, BYTES = 10.0, 2 << 30
"""What one file may take."""
SETUP = 120.0
"""Seconds until every reader has a sound file."""
ODD = (
    None, True, False, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e308, float("nan"), float("inf"),
    0.1,
    "", "x", "\x00",
    "\x1b[31m", "\u202e", "../../etc/passwd", "*/", "[/red]", "$\\frac{$", "9" * 5000, "ü" * 300, [], {},
    [[]], [None], {"": {}}, [10**12], [0, 0], [1e9, 1e9], [-1],
)  # fmt: skip
"""Values that readers stumble over."""


# -- by structure


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))  # a copy: what is put into it later must not be put into all others


def odd_json(value: Any, rng: random.Random) -> Any:
    """Plain data with something wrong somewhere."""
    value, longer = copy.deepcopy(value), False
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parents = list(_containers(value))
        if not parents:
            return _odd(rng)
        parent = rng.choice(parents)
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        what = rng.randrange(7)
        if what == 0 and isinstance(parent, dict):
            parent[str(_odd(rng))[:200]] = _odd(rng)
        elif not keys:
            continue
        elif what == 1:
            del parent[rng.choice(keys)]
        elif what == 2:
            parent[rng.choice(keys)] = copy.deepcopy(rng.choice(parents))
        elif what == 3 and isinstance(parent, list) and not longer:
            longer = True  # once: what grows 10,000 times twice is not made in an hour
            parent.extend(copy.deepcopy(parent[:20]) * rng.choice((1, 10, 500)))
        elif what == 4:
            deep: Any = _odd(rng)
            for _ in range(rng.choice((3, 20, 60))):  # deeper, this generator itself would not come
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            parent[rng.choice(keys)] = deep
        else:
            parent[rng.choice(keys)] = _odd(rng)
    return value


def _containers(value: Any) -> Any:
    if isinstance(value, dict | list):
        yield value
        for one in value.values() if isinstance(value, dict) else value:
            yield from _containers(one)


def json_bytes(data: bytes, rng: random.Random) -> bytes:
    """JSON text with something wrong in its values, or in its text."""
    if rng.random() < 0.1:
        return odd_bytes(data, rng)
    text = json.dumps(odd_json(json.loads(data), rng))
    if rng.random() < 0.05:
        depth = rng.choice((900, 100_000))
        text = text.replace(rng.choice(("null", "1", '"a"', "[]")), "[" * depth + "]" * depth, 1)
    return text.encode()


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are changed, cut, doubled or moved anywhere."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not new:
            break
        at, what = rng.randrange(len(new)), rng.randrange(5)
        if what < 2:
            new[at] = rng.randrange(256)
        elif what == 2:
            del new[at : at + rng.choice((1, 4, 100))]
        elif what == 3:
            new[at:at] = new[max(0, at - rng.choice((1, 8, 64))) : at]
        else:
            new[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32))))
    return bytes(new)


OPCODES = {
    b"c": [b"posix\nsystem\n", b"builtins\neval\n", b"torch\nFloatTensor\n", b"collections\nOrderedDict\n", b"a\nb\n"],
    b"\x8a": [b"\x09" + b"\xff" * 8 + b"\x00", b"\x05\x00\x00\x00\xc0\x00"],
    b"\x96": [struct.pack("<Q", 3 << 30), struct.pack("<Q", 1 << 62)],
    b"X": [struct.pack("<I", 3) + b"abc", struct.pack("<I", 0xFFFFFFFF)],
    b"B": [struct.pack("<I", 0xFFFFFFFF), struct.pack("<I", 2) + b"ab"],
    b"r": [b"\xff\xff\xff\x01"], b"q": [b"\xff", b"\x00"], b"h": [b"\x00", b"\xff"], b"j": [b"\xff\xff\xff\x7f"],
    b"K": [b"\xff"], b"G": [struct.pack(">d", float("nan"))],
}  # fmt: skip
"""Opcodes and arguments to put into a pickle; those without an argument are added below."""
PLAIN = [op.code.encode("latin1") for op in pickletools.opcodes if op.arg is None]


def odd_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle in which opcodes are left out, doubled, exchanged, put in, or have another argument."""
    places = [pos for _, _, pos in pickletools.genops(data) if pos is not None]
    parts = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4, 10))):
        at, what = rng.randrange(len(parts)), rng.randrange(6)
        if what == 0 and len(parts) > 1:
            del parts[at]
        elif what == 1:
            parts[at:at] = parts[at : at + rng.choice((1, 5))] * rng.choice((1, 3, 2000))
        elif what == 2:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif what == 3:
            code = rng.choice(list(OPCODES))
            parts.insert(at, code + rng.choice(OPCODES[code]))
        elif what == 4:
            parts.insert(at, rng.choice(PLAIN) * rng.choice((1, 1, 2, 50)))
        else:
            part = parts[at]
            parts[at] = part[:1] + odd_bytes(part[1:], rng) if len(part) > 1 else rng.choice(PLAIN)
    return b"".join(parts)


def odd_zip(data: bytes, rng: random.Random, inside: Callable[[str, bytes, random.Random], bytes]) -> bytes:
    """A zip with a member that is changed by what it is, stored or packed in any way, or with damage to its headers."""
    target, members = io.BytesIO(), []
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
    if rng.random() < 0.8:
        at = rng.randrange(len(members))
        members[at] = (members[at][0], inside(*members[at], rng))
    what = rng.randrange(10)
    if what == 0:
        del members[rng.randrange(len(members))]
    elif what == 1:
        members.append((rng.choice(("../evil", "/etc/x", "a" * 500, "data.pkl", "t/data.pkl", "\x1b")), b"x"))
    elif what == 2:
        members.append(rng.choice(members))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", method) as archive:
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, content in members:
            archive.writestr(name, content)
    made = target.getvalue()
    return odd_bytes(made, rng) if rng.random() < 0.3 else made


def in_torch(name: str, data: bytes, rng: random.Random) -> bytes:
    """A member of a torch file."""
    return odd_pickle(data, rng) if name.endswith("data.pkl") else odd_bytes(data, rng)


def in_sb3(name: str, data: bytes, rng: random.Random) -> bytes:
    """A member of a zip of stable-baselines3."""
    if name == "data":
        return json_bytes(data, rng)
    return odd_zip(data, rng, in_torch) if data.startswith(b"PK") else odd_bytes(data, rng)


def odd_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says something else."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json_bytes(data[8 : 8 + size], rng) if rng.random() < 0.8 else odd_bytes(data[8 : 8 + size], rng)
    told = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 1 << 40, 1 << 63))
    return struct.pack("<Q", told) + header + odd_bytes(data[8 + size :], rng)[: rng.choice((10**9, 0, 7))]


def odd_onnx(data: bytes, rng: random.Random) -> bytes:
    """A graph with a field of any message changed, emptied, doubled or taken from another place."""
    if rng.random() < 0.15:
        return odd_bytes(data, rng)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _odd_message(rng.choice(list(_messages(model))), rng)
    return model.SerializeToString()


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                yield from _messages(one)


def _odd_message(message: Any, rng: random.Random) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    name, numbers = field.name, (0, 1, -1, 2, 7, 2**31 - 1, 2**62, -(2**62))
    try:
        if rng.random() < 0.2:
            message.ClearField(name)
        elif field.type == field.TYPE_MESSAGE:
            values = getattr(message, name)
            if field.is_repeated and len(values):
                values.add().CopyFrom(rng.choice(list(values)))
                if rng.random() < 0.3:
                    for _ in range(500):
                        values.add().CopyFrom(values[0])
            elif field.is_repeated:
                values.add()
            else:
                values.SetInParent()
        else:
            text = rng.choice(("", "x", "\x1b", "obs", "Loop", "RandomNormal", "../x", "w", "y" * 3000))
            odd: Any = text if field.type == field.TYPE_STRING else text.encode()
            if field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
                odd = rng.choice(numbers)
            if field.is_repeated:
                getattr(message, name).append(odd)
            else:
                setattr(message, name, odd)
    except (ValueError, TypeError, OverflowError):  # a number that this field cannot hold
        return


# -- readers


@dataclass(frozen=True)
class Target:
    """A reader with a sound file of its own."""

    name: str
    """Name of the file that it reads."""
    sound: bytes
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], Any]


def targets(home: Path) -> dict[str, Target]:
    """Every reader of the project."""
    from test_foreign import chain, vec_normalize, write_onnx
    from test_teachers import mlp, mlp_state, write_zip
    from torch import nn

    make_teachers(home)
    network = chain((4, 8, 2), nn.ReLU)
    torch.save(network.state_dict(), home / "t.pt")
    torch.save(network.state_dict(), home / "old.pth", _use_new_zipfile_serialization=False)
    picture = [helper.make_node("Flatten", ["obs"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["q_values"])]
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    sides = [helper.make_tensor_value_info("obs", 1, ["n", 4]), helper.make_tensor_value_info("q_values", 1, ["n", 2])]
    small = helper.make_graph(picture, "g", sides[:1], sides[1:], [weights])
    files = {
        "zip": write_zip(home / "t.zip", mlp_state(mlp())),
        "onnx": write_onnx(home / "t.onnx", network, torch.zeros(1, 4)),
        "pkl": vec_normalize(home, steps=2)[1],
    }
    sound = {name: Path(path).read_bytes() for name, path in files.items()}
    finished = _finished(home)

    def teacher(path: Path) -> Any:
        return load_teacher(
            TeacherFile(str(path), activation="relu" if path.suffix in (".pt", ".pth", ".safetensors") else None)
        )

    def spec(path: Path) -> Any:
        for name in ("teacher.safetensors",):
            (path.parent / name).write_bytes((home / "sign" / name).read_bytes())
        return load_network(path.parent)

    tensors = (home / "sign" / "teacher.safetensors").read_bytes()
    return {
        "zip": Target("t.zip", sound["zip"], lambda d, r: odd_zip(d, r, in_sb3), teacher),
        "torch": Target("t.pt", (home / "t.pt").read_bytes(), lambda d, r: odd_zip(d, r, in_torch), teacher),
        "old torch": Target("t.pth", (home / "old.pth").read_bytes(), odd_bytes, teacher),
        "onnx": Target("t.onnx", sound["onnx"], odd_onnx, teacher),
        "small onnx": Target(
            "s.onnx",
            helper.make_model(small, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString(),
            odd_onnx, teacher
        ),
        "normalizer": Target("v.pkl", sound["pkl"], odd_pickle, vecnormalize.read),
        "safetensors": Target("t.safetensors", tensors, odd_safetensors, teacher),
        "spec": Target("spec.json", (home / "sign" / "spec.json").read_bytes(), json_bytes, spec),
        "checkpoint": Target(
            "state.safetensors", finished["checkpoint/state.safetensors"], odd_safetensors, read_tensors
        ),
        "config": Target("config.json", finished["config.json"], json_bytes, lambda p: Job.from_json(_object(p))),
        "card": Target(
            "teacher.json", finished["teacher.json"], json_bytes, lambda p: read_as(TeacherCard, read_json(p), str(p))
        ),
        "results": Target("results.json", finished["results.json"], json_bytes, read_results),
        "episodes": Target(
            "episodes.json", finished["episodes.json"], json_bytes,
            lambda p: read_as(SingleEpisodes, read_json(p), str(p)),
        ),
        "metrics": Target("metrics.csv", finished["metrics.csv"], odd_bytes, read_metrics),
        "export": Target("export.json", finished["export/onnx/export.json"], json_bytes, read_card),
        "student": Target(
            "student.txt", b"mlp:8", odd_bytes,
            lambda p: NetworkSpec.parse(p.read_bytes().decode(errors="replace"), (2,), 2),
        ),
        "picture student": Target(
            "student.txt", f"{CNN}+gru:6@silu".encode(), odd_bytes,
            lambda p: NetworkSpec.parse(p.read_bytes().decode(errors="replace"), (3, 12, 12), 2),
        ),
    }  # fmt: skip


def _object(path: Path) -> Any:
    from distilrl.runs import read_config

    return read_config(path)


def _finished(home: Path) -> dict[str, bytes]:
    """Files of a finished run with an export."""
    from workload import commands, run

    out = home / "finished"
    assert run([*commands(home)["vectors"], "--out", str(out)]).code in (0, 1, 3)
    assert run(["export", str(out), "--to", "onnx"]).code == 0
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def made(all_targets: dict[str, Target], seed: int, number: int) -> tuple[str, bytes]:
    """The name of a reader and the file that it reads in this example."""
    rng = random.Random(f"{seed}-{number}")
    name = list(all_targets)[number % len(all_targets)]
    return name, all_targets[name].change(all_targets[name].sound, rng)


def attack(target: Target, data: bytes, folder: Path) -> str:
    """What came of reading a file: ``read``, ``refused``, or what should not have come."""
    path = folder / target.name
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
    except DistilError as error:
        told = str(error)
        return "refused" if told.endswith(".") and "\n" not in told else f"no sentence: {told!r:.200}"
    except (Exception, RecursionError) as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "read"


# -- the loop


def _serve(seed: int, pipe: Any, home: Path, first: int) -> None:
    """Examples one after the other: says which begins, what came of it, and how many seconds it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (3 * BYTES, 3 * BYTES))
    torch.set_num_threads(1)
    all_targets, folder, number = targets(home), home / "files", first
    folder.mkdir(exist_ok=True)
    while True:
        name, data = made(all_targets, seed, number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send(("begins", number, name, data))
        begun = own_seconds(os.getpid())
        came = attack(all_targets[name], data, folder)
        took = own_seconds(os.getpid()) - begun
        grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        if took > SECONDS:
            came = f"took {took:.1f} s, then: {came}"
        elif grew > BYTES:
            came = f"took {grew:,} bytes"
        pipe.send(("ended", number, name, (came, took)))
        number += 1


def fuzz(seed: int, seconds: float, first: int = 0) -> dict[str, Any]:
    """Attacks until the time is over; what was found."""
    home = Path(tempfile.mkdtemp(prefix="distilrl-fuzz-"))
    (home / "found").mkdir()
    context, counts, found, number = multiprocessing.get_context("fork"), Counter(), [], first
    ends, process, slowest = time.monotonic() + seconds, None, 0.0
    ours, name, data, reads = None, "", b"", True
    try:
        while time.monotonic() < ends:
            if process is None:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(seed, theirs, Path(tempfile.mkdtemp(dir=home)), number))
                process.start()
                theirs.close()
                ready = False
            waited = answers(ours, process.pid, SECONDS if ready else SETUP)
            try:
                message = ours.recv() if waited else None
            except EOFError:
                message = None
            if message is None:  # it hangs, or it died
                process.kill()
                process.join()
                if not reads:
                    raise RuntimeError(f"Example {number + 1} of seed {seed} could not be made: its file is too large.")
                came = "hangs" if not waited else f"died ({process.exitcode})"
                found.append(_kept(home, number, name, data, came))
                number, process = number + 1, None
                continue
            kind, number, name, what = message
            if kind == "begins":
                data, ready, reads = what, True, True
            else:
                (came, took), reads = what, False
                slowest = max(slowest, took)
                counts[f"{name}: {came if came in ('read', 'refused') else 'found'}"] += 1
                if came not in ("read", "refused"):
                    found.append(_kept(home, number, name, data, came))
    finally:
        if process is not None:
            process.kill()
            process.join()
    examples = sum(counts.values())
    return {
        "seed": seed, "seconds": seconds, "first": first, "examples": examples, "slowest_s": round(slowest, 3),
        "found": found, "counts": dict(sorted(counts.items())),
    }  # fmt: skip


def answers(pipe: Any, pid: int, seconds: float) -> bool:
    """Whether a process answers, or ends, within its own seconds."""
    begun = own_seconds(pid)
    while not (heard := pipe.poll(0.5)) and own_seconds(pid) - begun < seconds:
        pass
    return heard


def own_seconds(pid: int) -> float:
    """A clock that stands still while a process waits for a processor: it computes or sleeps when this goes on.

    A process that neither answers nor computes goes on sleeping, so that no hang escapes; what is not known of a
    process that is gone counts as sleep.
    """
    now = time.monotonic()
    try:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except OSError:
        return now
    return now - waited / 1e9


def _kept(home: Path, number: int, name: str, data: bytes, came: str) -> dict[str, Any]:
    path = home / "found" / f"{name.replace(' ', '-')}-{number}"
    path.write_bytes(data)
    print(f"{number} {name}: {came}\n    {path}", flush=True)
    return {"example": number, "reader": name, "came": came}


def replay(all_targets: dict[str, Target], home: Path, folder: Path = HERE / "corpus") -> list[tuple[str, str]]:
    """What comes of each file of the corpus, whose names begin with their reader."""
    readers = [(path, path.name.split("--")[0].replace("-", " ")) for path in sorted(folder.iterdir())]
    return [(path.name, attack(all_targets[reader], path.read_bytes(), home)) for path, reader in readers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one example, by its number")
    args = parser.parse_args()
    if args.only is not None:
        home = Path(tempfile.mkdtemp(prefix="distilrl-fuzz-"))
        all_targets = targets(home)
        name, data = made(all_targets, args.seed, args.only)
        print(name, attack(all_targets[name], data, home))
        return
    result = fuzz(args.seed, args.seconds)
    print(f"{result['examples']:,} files, {len(result['found'])} findings, slowest {result['slowest_s']} s")
    record(f"fuzz-{args.seed}", result)
    raise SystemExit(1 if result["found"] else 0)


if __name__ == "__main__":
    main()

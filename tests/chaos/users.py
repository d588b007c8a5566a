"""Users who come with anything: environments, teachers and commands drawn at random.

python tests/chaos/users.py --users 200 --seed 0

Each ends in a verdict, or in the one sentence that says what does not go together; a run that was killed and gone on
with ends with the same bytes; a finished one is exported, verified, reported and evaluated.
"""

import argparse
import json
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from workload import Ended, left, record, run, sentence
from worlds import WORLD, WorldEnv

from distilrl.checkpoints import save_network
from distilrl.envs import EnvInfo, describe_env
from distilrl.heads import Kind, head_for
from distilrl.networks import build
from distilrl.recipes import RECIPES, TEACHERLESS
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec

TRUST = ["--trust", "worlds"]
SETTINGS = (
    "average=0", "stakes-exponent=1", "n-envs=3", "dueling=true", "capacity=200", "optimiser=soap",
    "standardise=no", "standardise=space", "gap=-9", "patience=1", "max-grad-norm=1", "updates=1",
    "round-steps=4", "shards=2", "learning-rate=0.1", "entropy-share=0.5", "sequence=16", "value-units=false",
    "scale-head=true", "finalists=1", "eval-envs=3", "priority-exponent=0.6", "start=svd", "gamma=0.9", "n-step=3",
    "agreement=0.5",
)  # fmt: skip


def make_teacher(home: Path, world: int, info: EnvInfo, rng: random.Random) -> list[str]:
    """A teacher of a world with random weights, in one of several forms; the words that name it."""
    from test_foreign import write_onnx

    real = not isinstance(info.action, Choices)
    kind: Kind = rng.choice(("mean", "mean", "gaussian") if real else ("q", "q", "logits"))
    head = head_for(info.action, kind, rng.choice(("clip", "tanh")) if real else "clip")
    text = "cnn:4k3s2:8" if info.obs.image else rng.choice(("mlp:8", "mlp:8,8@tanh", "mlp:"))
    spec = NetworkSpec.parse(text, info.obs.shape, head.width, None if info.obs.pixels else info.obs.image)
    network = build(spec, torch.Generator().manual_seed(world))
    form = rng.choice(("folder", "folder", "state_dict", "onnx"))
    if form == "folder" or (info.obs.image is not None and not info.obs.pixels):
        save_network(home / "teacher", network, head, name="teacher")
        return [str(home / "teacher")]
    told = ["--kind", kind, *(["--squash", rng.choice(("clip", "tanh", "scale"))] if real else [])]
    told += ["--divisor", "255"] if info.obs.pixels else []
    if form == "onnx":
        example = torch.zeros((1, *info.obs.shape))
        layers = nn.Sequential(*network.layers) if info.obs.pixels else network
        return [write_onnx(home / "teacher.onnx", layers, example), *told]
    torch.save({name.replace("layers.", ""): one for name, one in network.state_dict().items()}, home / "teacher.pt")
    known = ["--teacher-network", text] if rng.random() < 0.5 else ["--activation", spec.activation]
    return [str(home / "teacher.pt"), *told, *known]


def student(info: EnvInfo, rng: random.Random) -> str:
    """A student, mostly of a kind that can read these observations."""
    if info.obs.image is not None or rng.random() < 0.02:
        others = ("resnet:4:8", "cnn:4k3s2:8+gru:4") if info.obs.pixels else ()
        return rng.choice(("cnn:4k3s2:8", "cnn:2k4s2,3k3s1:", "cnn:4k3s2:8@tanh", *others))
    return rng.choice((
        "mlp:8", "mlp:8", "mlp:", "mlp:6,6@tanh", "mlp:8@relu", "gru:4", "lstm:3", "mlp:4+gru:3", "mlp:4@history=3",
        "gru:3+mlp:4@history=2",
    ))  # fmt: skip


def some(rng: random.Random, chance: float, *words: str) -> list[str]:
    """These words, or none."""
    return list(words) if rng.random() < chance else []


def distilling(world: int, info: EnvInfo, rng: random.Random) -> list[str]:
    """Words of a ``distill``."""
    recipes = [name for name, one in RECIPES.items() if name not in TEACHERLESS and not one.lacks(info)]
    words = ["--student", student(info, rng), "--recipe", rng.choice(["distil"] * len(recipes) + recipes)]
    words += ["--steps", str(rng.choice((600, 1200))), "--episodes", "20", "--accept-episodes", "5", "--threads", "1"]
    words += ["--disturbed-episodes", rng.choice(("0", "0", "4")), "--seed", str(world % 7)]
    words += ["--set", "check-every=300", "--set", "learning-starts=100", "--set", "check-episodes=4"]
    words += ["--set", "final-episodes=4", "--set", "batch-size=64"]
    words += some(rng, 0.2 if info.obs.image is None else 0.0, "--student-noise", str(10.0 ** rng.randint(-2, 2)))
    words += some(rng, 0.15, "--student-delay", str(rng.randint(1, 3)))
    words += some(rng, 0.1, "--student-dropout", "0.3")
    words += some(rng, 0.1 if info.obs.pixels else 0.0, "--student-flicker", "0.5")
    words += some(rng, 0.15, "--measure", rng.choice(("far=max", "far=mean<=0.5", "far>=0.5", "nothing")))
    words += some(rng, 0.1, "--cluster", "group") + some(rng, 0.15, "--eval-epsilon", "0.1")
    words += some(rng, 0.1 if info.obs.image is None else 0.0, "--reward-steps", "400")
    words += some(rng, 0.05, "--assistants", "1")
    words += some(rng, 0.05, "--prune-from", "cnn:8k3s2:16" if info.obs.image else "mlp:16")
    words += some(rng, 0.05, "--seeds", "2", "--jobs", rng.choice("12")) + some(rng, 0.05, "--workers", "2")
    if len(info.obs.names) > 1:
        words += some(rng, 0.2, "--hide", rng.choice(info.obs.names))
    for setting in SETTINGS:
        words += some(rng, 0.05, "--set", setting)
    return words


def come(home: Path, world: int) -> list[str]:
    """Makes what the user of a world comes with; the words of the command, but for ``--out``."""
    rng, env = random.Random(1000 + world), EnvRef(WORLD, {"world": world})
    where = ["--env", WORLD, "--env-kwargs", json.dumps({"world": world})]
    if (image := describe_env(env).obs.image) is not None:
        words = (
            some(rng, 0.3 if image[0] == 3 else 0.0, "--grey")
            + some(rng, 0.2, "--stack", "2")
            + some(rng, 0.15, "--resize", "10", "9")
        )
        where += words
        env = replace(env, grey="--grey" in words, stack=1 + ("--stack" in words))
        env = replace(env, resize=(10, 9) if "--resize" in words else None)
    info, pays = describe_env(env), WorldEnv(world).pays
    teacher = make_teacher(home, world, info, rng)
    where = ["--teacher", *teacher, *where, "--accept-weak-teacher", "--margin-abs", str(pays)]
    command = rng.choices(("distill", "plan", "tree"), (8, 1, 1))[0]
    if command == "distill":
        return ["distill", *where, *distilling(world, info, rng)]
    words = [command, *where, "--episodes", "20", "--accept-episodes", "5", "--threads", "1"]
    if command == "tree":
        return [*words, "--leaves", "4", "--iterations", "3", "--states", "200"]
    sizes = dict.fromkeys(student(info, rng) for _ in range(3))
    return [*words, "--steps", "2400", "--seeds", "1", "--sizes", *sizes]


def fine(ended: Ended) -> bool:
    """Whether a command ended as commands end."""
    if "traceback" in ended.said.lower():
        return False
    return ended.code in (0, 1, 3) or (ended.code == 2 and bool(sentence(ended)))


def afterwards(out: Path, command: list[str], rng: random.Random) -> list[list[str]]:
    """What is done with a finished run."""
    kind, where = command[0], command[: command.index("--accept-weak-teacher")]
    run_folder = next(iter(sorted(out.glob("seed-*"))), out)
    exports = ["c"] if kind == "tree" else ["c", "onnx", "int8", "torch"]
    words = [["export", str(run_folder), "--to", one, *TRUST] for one in exports if kind != "tree"]  # which has its C
    words += [["verify", str(run_folder / "export" / one), *TRUST] for one in exports if one != "torch"]
    words += [["report", str(out)], ["inspect", str(run_folder), *where[where.index("--env") :]]]
    words += [["evaluate", str(run_folder), *where[where.index("--env") :], "--episodes", "10"]]
    return [*words, ["watch", str(run_folder), *TRUST]] if rng.random() < 0.3 else words


def once(home: Path, world: int) -> dict[str, Any]:
    """One user, and all that went another way than it should."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    rng, out, told = random.Random(5000 + world), home / "run", home / "words.json"
    # in a process of its own: threads of PyTorch are lost in what is forked from here
    run(lambda: told.write_text(json.dumps(come(home, world))) and 0)
    words = json.loads(told.read_text())
    ended = run([*words, "--out", str(out)])
    row: dict[str, Any] = {"world": world, "words": words, "code": ended.code, "said": sentence(ended), "killed": False}
    wrong = [] if fine(ended) else [{"words": words, "code": ended.code, "said": ended.said[-3000:]}]
    if ended.code in (0, 1, 3):
        if rng.random() < 0.5:
            whole, broken = left(out), home / "broken"
            row["killed"] = run([*words, "--out", str(broken)], kill_after=rng.uniform(0, ended.seconds)).code == -9
            begun = (broken / "config.json").is_file()
            again = run([words[0], "--resume", str(broken), *TRUST] if begun else [*words, "--out", str(home / "b")])
            if left(broken if begun else home / "b") != whole:
                wrong.append({"words": ["kill", *words], "code": again.code, "said": again.said[-3000:]})
        for more in afterwards(out, words, rng):
            if more[0] == "verify" and not Path(more[1]).is_dir():
                continue
            ended = run(more)
            if not fine(ended):
                wrong.append({"words": more, "code": ended.code, "said": ended.said[-3000:]})
            elif ended.code == 2:
                row.setdefault("refused", []).append([*more[:4], sentence(ended)])
    return row | {"wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first of them: go on there")
    args = parser.parse_args()
    home, rows = Path(tempfile.mkdtemp(prefix="distilrl-users-")), []
    for world in range(10_000 * args.seed + args.first, 10_000 * args.seed + args.users):
        rows.append(once(home / "user", world))
        print(json.dumps(rows[-1]), flush=True)
    good, ended = sum(not row["wrong"] for row in rows), sum(row["code"] != 2 for row in rows)
    print(f"{good} of {len(rows)} users came to an end that was theirs, {ended} of them to a verdict")
    kept = [{key: row[key] for key in ("world", "code", "killed", "wrong")} for row in rows]
    found = {"seed": args.seed, "first": args.first, "users": len(rows), "ended": ended, "good": good, "rows": kept}
    record(f"users-{args.seed}", found)
    shutil.rmtree(home)
    raise SystemExit(0 if good == len(rows) else 1)


if __name__ == "__main__":
    main()

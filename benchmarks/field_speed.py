"""Microseconds of one decision: each field's student in the C that ships, beside its teacher in PyTorch.

    python benchmarks/field_speed.py [FIELD ...]     # a line for each row of the fields' tables

Lines go to results/fields/speed.jsonl; teachers are where the fields' pages put them. Time depends on the network and
not on what it learnt, so the student's weights are seeded ones, and a tree is a full one of as many levels as its nodes
need. C is compiled with -O3 and timed inside C, over a loop of different observations; PyTorch answers one observation
after another, as `distilrl` times it. Both are medians, the smallest of ten rounds in turn, on one thread of a quiet
machine, in one process.
"""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import fields
import torch
from boards import full_tree, write_with_golden
from latency import timer_in_c
from lines import fill, machine

from distilrl import Policy, describe_env, trust
from distilrl.cli import parse
from distilrl.envs import EnvInfo
from distilrl.evaluate import latency_us, load_teachers
from distilrl.export import c, tree
from distilrl.export.last import last_step
from distilrl.export.steps import steps
from distilrl.heads import Head, student_head
from distilrl.networks import build
from distilrl.spaces import ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.trees import TreePolicy

OUT = fields.OUT / "speed.jsonl"
ROUNDS, AT_A_STRETCH = 10, 500_000
"""Rounds, and multiply-accumulates of a loop that is timed as one, so that the clock's own time does not count."""


def line(field: str, row: str, student: str) -> dict[str, Any]:  # noqa: ARG001 (another shown is another line)
    """A row's student and its teacher."""
    found = fields.found(field)[row]
    options = parse("distill", fields.command(found.row, "mlp:1", 0, Path("nowhere"))[1:])
    task = options._job()[0].train.tasks[0]
    trust(*task.env.modules)
    info, teacher = describe_env(task.env), load_teachers(task.teacher, task.env)
    with tempfile.TemporaryDirectory() as folder:
        policy = written(Path(folder), found.student, info, student_head(info.action))
        calls = max(20, AT_A_STRETCH // max(found.student["macs"], 20))
        last = last_step(policy.head)
        in_c_us = timer_in_c(Path(folder), last, False, calls, policy.remembers, Path(folder) / "timer")
        rounds = [(in_c_us(), latency_us(teacher.policy, info)) for _ in range(ROUNDS)]
    in_c, in_pytorch = map(min, zip(*rounds, strict=True))
    return {"student_c_us": in_c, "teacher_pytorch_us": round(in_pytorch, 1)}


def written(folder: Path, shown: dict[str, Any], info: EnvInfo, head: Head) -> Policy:
    """Writes a student as results.json describes it as C with golden observations; its weights are seeded."""
    if fields.is_tree(shown["name"]):
        grown = full_tree(math.ceil(math.log2(shown["params"] + 1)) - 1)
        read, policy = ObsSpec(grown.obs_shape), Policy(TreePolicy(grown), grown.head)
        source = tree.source(grown, read, shown["name"])
    else:
        network = build(NetworkSpec.from_json(shown["spec"]), torch.Generator().manual_seed(0)).eval()
        network, read = (network.bare(), None) if network.spec.unseen else (network, info.obs)
        policy, read = Policy(network, head), read or ObsSpec(network.spec.obs_shape)
        source = c.write(steps(network, "c"), head, read, shown["name"])
    write_with_golden(folder, policy, source, read)
    return policy


def main() -> None:
    machine(fields.OUT)
    torch.set_num_threads(1)
    keys = [
        {"field": name, "row": row, "student": one.student["name"]}
        for name in sys.argv[1:] or fields.fields() for row, one in fields.found(name).items()
    ]  # fmt: skip
    fill(OUT, line, keys)


if __name__ == "__main__":
    main()

"""Gives students that lie in results/ their verdict again, by today's protocol and without training them again.

    python benchmarks/judge.py [NAME ...]

Writes results/NAME/verdict.json: teacher and student in every start of Pong, and 100 episodes of either under random
and under sticky actions; in Breakout 1,000 episodes of either with ε = 0.01, which is how its students are played. A
name whose file is there already is left out.
"""

import sys
from dataclasses import replace
from typing import Any

from lines import RESULTS

from distilrl import EnvRef, Play, describe_env, load_teacher
from distilrl.acceptance import accept
from distilrl.comparison import Comparison, compare
from distilrl.files import write_json
from distilrl.provenance import processor

PONG = Comparison(100, 100, 100)
BREAKOUT = Comparison(1000, 1000, 0)
RUNS: dict[str, tuple[str, str, float, Comparison]] = {
    path.parent.name: how
    for game, how in (
        ("pong", ("zoo/pong-dqn", "PongNoFrameskip-v4", 0.0, PONG)),
        ("breakout", ("zoo/breakout-dqn", "BreakoutNoFrameskip-v4", 0.01, BREAKOUT)),
    )
    for path in sorted(RESULTS.glob(f"{game}-*/results.json"))
    if path.parent.name != "pong-61k-robust"  # which is of sticky actions, and judged in its own run
}


def judge(names: list[str]) -> None:
    """Judges; a teacher plays once for all of its students."""
    teachers: dict[str, tuple[Any, Any]] = {}
    for name in names:
        file, env, epsilon, comparison = RUNS[name]
        if (RESULTS / name / "verdict.json").exists():
            continue
        info = describe_env(EnvRef(env))
        how = Play(info.ref, epsilon=epsilon)
        if file not in teachers:
            teacher = load_teacher(file).fitted(info)
            teachers[file] = teacher, accept(teacher, how, episodes=100)
        teacher, acceptance = teachers[file]
        student = load_teacher(RESULTS / name).fitted(info)
        found = compare(teacher, student.policy, how, replace(comparison, agreement_states=500), acceptance, info)
        parts = {"teacher": found.teacher, "student": found.student}
        told = {side: part.to_json() for side, part in parts.items()}
        told |= {"agreement": found.agreement.student_states, "verdict": vars(found.verdict)}
        told["disturbed"] = {way: sides.to_json() for way, sides in found.disturbed.items()}
        write_json(RESULTS / name / "verdict.json", told | {"cpu": processor()})
        print(
            name,
            found.verdict.result,
            f"{found.verdict.difference:+.2f}",
            {w: s.verdict.result for w, s in found.disturbed.items()},
            flush=True,
        )


if __name__ == "__main__":
    judge(sys.argv[1:] or list(RUNS))

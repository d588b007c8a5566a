"""Tables of single benchmarks, each made of its raw results alone: a figure in a document is one of these, or has none.

`tables.py` puts them into the documents.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import mean, median
from typing import Any

import robots
from lines import RESULTS, made
from peers import MEMORY, TASKS

from distilrl import stats
from distilrl.verdict import RESULTS as VERDICTS
from distilrl.verdict import in_words

Row = dict[str, Any]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table whose first ``text`` columns are words, and whose others are figures."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    marks = "".join("---|" if at < text else "--:|" for at in range(len(head)))
    return "\n".join((f"| {' | '.join(head)} |", f"|{marks}", *lines)) if lines else "Not run."


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some keys, in the order in which they first appear."""
    groups: dict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def read(name: str) -> Any:
    """A file of raw results; None where it is not there."""
    path = RESULTS / name
    if path.suffix == ".jsonl":
        return made(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def each(values: Iterable[float], digits: int = 1) -> str:
    """Figures one after the other, with a minus as it is printed."""
    return ", ".join(signed(value, digits) for value in values)


def signed(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def by_earlier_rule(verdict: Row) -> bool:
    """Whether a verdict was given before 0021, by a percentile bootstrap that reckons only with what it saw; what it
    was told by was not noted down then.
    """
    return "protocol" not in verdict


def by_todays_words(verdict: Row) -> str:
    """A result; the earlier rule said pass also of what its interval proves worse, by less than the margin."""
    worse = by_earlier_rule(verdict) and verdict["result"] == "pass" and verdict.get("interval", (0.0, 0.0))[1] < 0
    return "within_margin" if worse else verdict["result"]


def counted(rows: Sequence[Row]) -> str:
    """How often which verdict was given."""
    results = [by_todays_words(row["verdict"]) for row in rows]
    told = ", ".join(f"{results.count(one)} {in_words(one)}" for one in reversed(VERDICTS) if one in results)
    return told + " (earlier rule)" * any(by_earlier_rule(row["verdict"]) for row in rows)


def seeds_of(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["seed"])


# -- real actions


def continuous() -> str:
    rows = []
    for (name,), group in sorted(grouped(seeds_of(read("continuous/rows.jsonl")), "row").items()):
        first = group[0]
        steps, seconds = (median(row[key] for row in group) for key in ("env_steps", "cpu_s"))
        returns = each(row["student"]["return_mean"] for row in group)
        rows.append(
            (name, f"`{first['network']}`", returns, counted(group), f"{first['params']:,}",
             f"{signed(mean(row['teacher']['return_mean'] for row in group))}", f"{steps:,.0f}", f"{seconds / 60:.1f}")
        )  # fmt: skip
    head = (
        "row", "student", "returns, each seed", "verdicts", "parameters", "teacher's", "steps", "CPU minutes in all",
    )  # fmt: skip
    return markdown(head, rows, text=4)


def _scores(file: str, key: str) -> str:
    """Scores by environment and one setting, and what a setting gains over none of it."""
    cells = {
        pair: {row["seed"]: row["student"]["score"] for row in seeds_of(rows)}
        for pair, rows in grouped(read(file), "row", key).items()
    }
    rows = [(name, str(value), *_spread(list(scores.values()), "{:.3f}")) for (name, value), scores in cells.items()]
    for name, value in cells:
        if key == "exponent" and value > 0:
            off = cells[name, 0.0]
            gained = [score - off[seed] for seed, score in cells[name, value].items() if seed in off]
            rows.append((name, f"gained by {value}", *_spread(gained, "{:+.3f}")))
    return markdown(("environment", key, "each seed", "seeds", "mean [95 % over seeds]"), rows, text=3)


def _spread(scores: list[float], form: str) -> tuple[str, str, str]:
    low, high = stats.t_interval(scores) if len(scores) > 1 else (float("nan"), float("nan"))
    told = f"{form.format(mean(scores))} [{form.format(low)}, {form.format(high)}]"
    return ", ".join(map(form.format, scores)), str(len(scores)), told


def stakes() -> str:
    return _scores("continuous/stakes.jsonl", "exponent")


def continuous_losses() -> str:
    return _scores("continuous/losses.jsonl", "loss")


def critics() -> str:
    rows = [
        (row["row"], f"{row['stakes_median']:.2f}", signed(row["value_median"]), f"{row['share']:.2%}",
         f"{row['worth_nothing']:.1%}", f"{row['effective_sample']:.0%}")
        for row in read("continuous/critics.jsonl")
    ]  # fmt: skip
    head = ("critic of", "at stake, median", "value, median", "share", "worth nothing", "effective sample")
    return markdown(head, rows)


def optimisers() -> str:
    rows = [
        (
            f"`{row['network']}`",
            row["optimiser"],
            f"{row['learning_rate']:g}",
            str(row["batch"]),
            f"{row['updates']:,}",
            f"{row['error']:.4f}",
            f"{row['cpu_s']:.1f}",
        )
        for row in sorted(
            read("optimisers.jsonl"),
            key=lambda row: [row[k] for k in ("network", "optimiser", "learning_rate", "batch", "updates")],
        )
    ]
    head = ("student", "optimiser", "learning rate", "batch", "updates", "error", "CPU seconds")
    return markdown(head, rows, text=2)


# -- plans


def _smallest(plans: Iterable[Row]) -> str:
    rows = []
    for plan in plans:
        won = next((one for one in plan["frontier"] if one["student"] == plan["winner"]), None)
        rows.append(
            (plan["env"].split(" ")[0], f"`{won['student']}`" if won else "none",
             won["verdict"].replace("_", " ") if won else "-", str(len(plan["frontier"])),
             f"{won['params']:,}" if won else "-", f"{plan['teacher_params']:,}", f"{plan['labelled_states']:,}",
             f"{plan['wall_s']:,.1f}")
        )  # fmt: skip
    head = (
        "environment", "smallest that keeps it", "verdict", "sizes", "parameters", "teacher's", "labelled states",
        "seconds in all",
    )  # fmt: skip
    return markdown(head, rows, text=3)


def smallest() -> str:
    files = sorted((RESULTS / "smallest").glob("*-v*.json"))
    return _smallest(sorted((json.loads(f.read_text()) for f in files), key=lambda plan: plan["wall_s"]))


def continuous_plans() -> str:
    return _smallest(read("continuous/plans.jsonl"))


# -- others


def peers() -> str:
    """Medians over the seeds that got there; ``rate`` is the multiple of a method's own learning rate."""
    found = [row for row in read("peers/lines.jsonl") if row["task"] not in MEMORY]
    rows = [
        (task, method, f"{copies}", f"{rate:g}", *_parity(group, "95"), *_parity(group, "99"), _best(group))
        for (task, method, copies, rate), group in _peers_grouped(found)
    ]
    head = (
        "task", "method", "environments at once", "rate", "seeds at 0.95", "steps", "CPU s", "seeds at 0.99", "steps",
        "CPU s", "best",
    )  # fmt: skip
    return markdown(head, rows, text=2)


def peers_memory() -> str:
    """The same where students see less or the teacher remembers; without seconds, which were not measured alone."""
    found = [row for row in read("peers/lines.jsonl") if row["task"] in MEMORY and row["rate"] == 1]
    rows = [
        (task, f"`{TASKS[task].student}`", method, f"{copies}", *_parity(group, "95")[:2], *_parity(group, "99")[:2],
         _best(group), f"{max(row['env_steps'] for row in group):,}")
        for (task, method, copies, _), group in _peers_grouped(found)
    ]  # fmt: skip
    head = (
        "task", "student", "method", "environments at once", "seeds at 0.95", "steps", "seeds at 0.99", "steps", "best",
        "steps run, at most",
    )  # fmt: skip
    return markdown(head, rows, text=3)


def _peers_grouped(found: list[Row]) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    found.sort(key=lambda row: (row["env"], row["method"] != "ours", row["method"], row["n_envs"], row["rate"]))
    return grouped(found, "task", "method", "n_envs", "rate").items()


def _parity(group: list[Row], name: str) -> tuple[str, str, str]:
    """Seeds that came to a score of 0.95 or 0.99, and the median of their steps and seconds."""
    there = [row for row in group if row[f"steps_{name}"] is not None]
    steps = f"{median(row[f'steps_{name}'] for row in there):,.0f}" if there else "-"
    seconds = f"{median(row[f'cpu_{name}'] for row in there):.1f}" if there else "-"
    return f"{len(there)}/{len(group)}", steps, seconds


def _best(group: list[Row]) -> str:
    return f"{median(row['best'] for row in group):.2f}"


def teachers() -> str:
    rows = []
    for (env, who), found in grouped(made(RESULTS / "teachers" / "runs.jsonl"), "env", "who").items():
        group = seeds_of(found)
        there = [row for row in group if row["steps"] is not None]
        kept = [row for row in group if row["return_mean"] >= row["threshold"]]
        rows.append(
            (env, who, ", ".join(f"{row['steps']:,}" for row in there),
             ", ".join(f"{row['seconds']:.0f}" for row in there), each(row["return_mean"] for row in group),
             f"{group[0]['threshold']}".replace("-", "−"), f"{len(there)}/{len(group)}", f"{len(kept)}/{len(group)}",
             f"{median(row['steps'] for row in there):,.0f}", f"{median(row['seconds'] for row in there):.1f}")
        )  # fmt: skip
    head = (
        "environment", "who", "steps, each seed", "seconds, each seed", "return of 100 episodes", "threshold",
        "seeds there", "over 100 episodes too", "steps, median", "seconds, median",
    )  # fmt: skip
    return markdown(head, sorted(rows), text=5)


def case_study_verdicts() -> str:
    """What the default and the mission's own loss make of the default's task, as each of them ships."""
    rows = []
    for (env, way), found in grouped(made(RESULTS / "case-study" / "verdicts.jsonl"), "env", "way").items():
        group = seeds_of(found)
        rows.append(
            (f"{env.split('-')[0]} `{group[0]['student']}`", way, counted(group),
             each(row["return_mean"] for row in group), each(row["teacher_return_mean"] for row in group),
             ", ".join(f"{row['env_steps']:,}" for row in group), each((row["max"] for row in group), 2))
        )  # fmt: skip
    head = (
        "task", "recipe", "verdicts", "return, each seed", "teacher's", "steps", "correlation of max Q",
    )  # fmt: skip
    return markdown(head, sorted(rows, key=lambda row: row[0]), text=7)


def plan_order() -> str:
    """Simulated plans with the widest errors and seeds that do not differ: how many name no winner, and where it is."""
    orders = ("from the largest", "from the best", "from as good a one")
    rows = [
        (one["curve"], *(f"{one[order]['none']:.2f}, place {one[order]['place']:.1f}" for order in orders))
        for one in read("plan-order.json")["lines"]
        if (one["own"], one["check"], one["verdict"]) == (0.0, 0.6, 0.4)
    ]
    head = ("returns by size", "from the largest", "from the best in the checks", "from the largest that is as good")
    return markdown(head, rows, text=4)


def latency() -> str:
    files = [json.loads(path.read_text()) for path in sorted((RESULTS / "latency").glob("*-v*.json"))]
    ways = dict.fromkeys(way for file in files for way in file["microseconds"])
    head = (
        "",
        *(
            f"{file['env'].rpartition(':')[2].split('-')[0].removesuffix('NoFrameskip')} `{file['student']}`"
            for file in files
        ),
    )
    rows = [(way, *(_microseconds(file["microseconds"].get(way)) for file in files)) for way in ways]
    return markdown(head, rows)


def _microseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def inputs() -> str:
    rows = []
    for (arm, student, steps), group in grouped(read("inputs.jsonl"), "arm", "student", "steps").items():
        group = seeds_of(group)
        cells = (each((r["return"] for r in group), 0), each((r["noise"] for r in group), 0))
        means = (signed(mean(r["return"] for r in group)), signed(mean(r["noise"] for r in group)))
        rows.append((f"`{arm}`", f"`{student}`" if student else "", *cells, f"{steps:,}" if steps else "", *means))
        for most in ("5", "3"):
            if clipped := [row[f"noise@{most}"] for row in group if f"noise@{most}" in row]:
                way = f"`{arm}`, clipped at {most} in play"
                rows.append((way, f"`{student}`", "", each(clipped, 0), f"{steps:,}", "", signed(mean(clipped))))
    head = ("arm", "student", "return, each seed", "under noise, each seed", "steps", "return", "under noise")
    return markdown(head, rows, text=4)


def weak_teacher() -> str:
    found = read("weak-teacher.json") or {"rows": []}
    rows = [
        (
            f"`{name}`",
            each(row["return_mean"] for row in seeds_of(group)),
            signed(mean(r["return_mean"] for r in group)),
        )
        for (name,), group in grouped(found["rows"], "recipe").items()
    ]
    return markdown(("recipe", "return, each seed", "mean"), rows, text=2)


def robust() -> str:
    """Of the student that learned under sticky actions."""
    rows = [
        (
            way,
            *(
                f"{part['return_mean']:.2f} [{part['return_ci95'][0]:.2f}, {part['return_ci95'][1]:.2f}]"
                for part in (both["student"], both["teacher"])
            ),
        )
        for way, both in (read("pong-61k-robust/disturbed.json") or {}).items()
    ]
    return markdown(("disturbance", "student's return", "teacher's"), rows)


PROCESSORS = {
    "mps2-an386": "Cortex-M4F", "mps2-an385": "Cortex-M3", "microbit": "Cortex-M0", "riscv": "RV32IMAC",
}  # fmt: skip
"""Of emulated boards, one of each kind."""


def boards() -> str:
    """What a decision takes on each processor."""
    rows = []
    for line in read("boards/boards.jsonl"):
        if line["optimise"] == "-Os" and line["board"] in PROCESSORS and line.get("fits", True):
            cells = (f"{line[key]:,}" for key in ("flash", "ram", "stack", "instructions", "most"))
            rows.append((line["student"], PROCESSORS[line["board"]], *cells, f"{line['instructions'] / 80:,.1f}"))
    head = ("student", "processor", "flash", "RAM", "stack", "instructions", "at most", "µs at 80 MHz, estimated")
    return markdown(head, rows, text=2)


def boards_same() -> str:
    """Answers that are bit for bit those of the machine that exported."""
    lines = [line for line in read("boards/boards.jsonl") if line["optimise"] == "-Os"]
    names = list(dict.fromkeys(line["board"] for line in lines))
    rows = []
    for (student,), group in grouped(lines, "student").items():
        found = {line["board"]: f"{line['same']} of {line['observations']}" for line in group if line.get("fits", True)}
        rows.append((student, *(found.get(name, "does not fit") for name in names)))
    return markdown(("student", *names), rows, text=1 + len(names))


def boards_optimised() -> str:
    """Ways to compile, on the Cortex-M4F: instructions, and answers that are the same bits."""
    ways = ("-Os", "-O2", "-Os -ffp-contract=fast")
    rows = []
    for (student,), group in grouped(
        (r for r in read("boards/boards.jsonl") if r["board"] == "mps2-an386"), "student"
    ).items():
        by = {line["optimise"]: line for line in group}
        if ways[2] in by:
            fused = by[ways[2]]
            told = f"{fused['same']} of {fused['observations']}", f"{fused['largest_difference']:.1e}"
            rows.append((student, *(f"{by[way]['instructions']:,}" for way in ways), *told))
    return markdown(("student", *(f"`{way}`" for way in ways), "same bits where fused", "largest difference"), rows)


def boards_peers() -> str:
    """The same networks by other tools."""
    rows = [
        (
            line["student"],
            line["tool"],
            PROCESSORS[line["board"]],
            *(f"{line[key]:,}" for key in ("flash", "ram", "stack", "instructions")),
        )
        for line in sorted(
            read("boards/peers.jsonl"), key=lambda line: (line["board"], line["student"], line["instructions"])
        )
    ]
    return markdown(("network", "C by", "processor", "flash", "RAM", "stack", "instructions"), rows, text=3)


def integers() -> str:
    rows = [
        (
            row["run"],
            f"`{row['student']}`",
            f"{row['params']:,}",
            f"{row['bytes']:,}",
            f"{100 * row['replay']['same_action']:.1f} %",
            f"{row['played']['return_mean']:.2f}",
        )
        for row in read("integers/lines.jsonl")
    ]
    head = ("run", "student", "parameters", "bytes of weights", "same action", "return of the C file")
    return markdown(head, rows, text=2)


def rough_robots(*, zh: bool = False) -> str:
    head = (
        ("机器人", "学生", "世界", "教师的回报", "学生的", "学生 − 教师", "教师摔倒（每小时）", "学生摔倒（每小时）")
        if zh
        else (
            "robot",
            "student",
            "world",
            "teacher's return",
            "student's",
            "student − teacher",
            "teacher falls (an hour)",
            "student falls (an hour)",
        )
    )
    return markdown(head, robots.table(zh), text=3)


def rough_robots_zh() -> str:
    """The same under Chinese heads."""
    return rough_robots(zh=True)


# -- several tasks, several students, other worlds


def together() -> str:
    rows = []
    for (student, method), group in grouped(
        sorted(read("several/tasks.jsonl"), key=lambda row: (row["student"], row["method"])), "student", "method"
    ).items():
        group = seeds_of(group)
        returns = (each(row["returns"][env] for row in group) for env in ("CartPole-v1", "Acrobot-v1"))
        rows.append((method, f"`{student}`", *returns, f"{group[0]['params']:,}"))
    head = ("", "student", "CartPole, each seed", "Acrobot, each seed", "parameters in all")
    return markdown(head, rows, text=4)


def games_together() -> str:
    rows = []
    for path in sorted((RESULTS / "several").glob("atari*.jsonl")):
        (row,) = made(path)
        about = json.loads((RESULTS / "several" / path.stem / "results.json").read_text())
        cells, earlier = [], any(by_earlier_rule(task["verdict"]) for task in about["tasks"])
        for env in ("PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"):
            value, (low, high), theirs = row[env]
            cells += [f"{value:.1f} [{low:.1f}, {high:.1f}]", f"{theirs:.1f}"]
        rows.append(
            (
                f"`{path.stem}`",
                row["verdict"]["result"] + " (earlier rule)" * earlier,
                f"{row['params']:,}",
                f"{about['env_steps']:,}",
                *cells,
            )
        )
    head = ("name", "verdict", "parameters", "steps for both", "Pong", "teacher's", "Breakout", "teacher's")
    return markdown(head, rows, text=2)


def fleets() -> str:
    """One network of several tasks, a row for each."""
    rows = []
    for name in ("driving", "robots"):
        for line in read(f"several/{name}.jsonl"):
            theirs = sum(one["teacher"]["params"] for one in line["tasks"].values())
            size = f"{line['params']:,} ({theirs / line['params']:.0f} ×)"
            for at, (task, one) in enumerate(line["tasks"].items()):
                verdict = one["verdict"]
                low, high = verdict["interval"]
                measured = (
                    f"{m['name']} {m['student']['mean']:.3f} ({m['teacher']['mean']:.3f}): "
                    f"{in_words(m['verdict']['result'])}"
                    for m in one["measures"]
                )
                rows.append(
                    (
                        *((f"`{line['student']}`", size, f"{line['env_steps']:,}") if at == 0 else ("",) * 3),
                        task,
                        *(f"{signed(one[side]['return_mean'], 2)}" for side in ("student", "teacher")),
                        f"{signed(verdict['difference'], 2)} [{signed(low, 2)}, {signed(high, 2)}] of "
                        f"{verdict['margin']:,.2f}",
                        in_words(verdict["result"]),
                        ", ".join(measured),
                    )
                )
    head = (
        "student", "parameters (times smaller than its teachers)", "steps for all", "task", "return", "teacher's",
        "difference [interval] of margin", "verdict", "beside it, student (teacher)",
    )  # fmt: skip
    return markdown(head, rows)


def assistants() -> str:
    rows = []
    for (env, student), group in grouped(read("several/assistants.jsonl"), "env", "student").items():
        by = grouped(seeds_of(group), "assistants")
        rows.append((env, f"`{student}`", *(each(row["return"] for row in by[(count,)]) for count in (0, 1, 2))))
    return markdown(("environment", "student", "no assistant", "one", "two"), rows, text=2)


def pruned() -> str:
    rows = []
    for (env, student, wide), group in grouped(read("several/pruned.jsonl"), "env", "student", "pruned_from").items():
        way = f"pruned from `{wide}`" if wide else "of its size from the start"
        returns = [row["return"] for row in seeds_of(group)]
        rows.append((env, f"`{student}`", way, each(returns), signed(mean(returns)), signed(group[0]["teacher"])))
    return markdown(("environment", "student", "", "return, each seed", "mean", "teacher's"), rows, text=4)


def dynamic_turn() -> str:
    rows = []
    for (name,), group in grouped(read("changes/dynamic.jsonl"), "method").items():
        labels = [row["labelled_states"] for row in group if row.get("labelled_states") is not None]
        told = f"{min(labels):,}" + (f" to {max(labels):,}" if max(labels) > min(labels) else "") if labels else ""
        rows.append((name, each(row["after_turn"] for row in seeds_of(group)), told))
    return markdown(("recipe", "return after the turn, each seed", "states labelled by the teacher"), rows, text=2)


def transfer_there() -> str:
    groups = grouped(read("changes/transfer.jsonl"), "method")
    rows = [
        (f"`{name}`", each(row["there"] for row in seeds_of(group)), mean(row["there"] for row in group))
        for (name,), group in groups.items()
    ]
    ordered = [(*words, signed(value)) for *words, value in sorted(rows, key=lambda row: -row[-1])]
    return markdown(("recipe", "return there, each seed", "mean"), ordered, text=2)


def hidden() -> str:
    rows = [
        (name, each(row["return"] for row in seeds_of(group)), signed(mean(row["return"] for row in group)))
        for (name,), group in grouped(read("changes/hidden.jsonl"), "method").items()
    ]
    return markdown(("the student", "return, each seed", "mean"), rows, text=2)


def reptile() -> str:
    rows = []
    for (name,), group in grouped(read("changes/reptile.jsonl"), "method").items():
        there = sorted(row["updates"] for row in group if row["updates"] is not None)
        middle = median(there + [math.inf] * (len(group) - len(there)))  # those that did not get there take longest
        rows.append((name, f"{len(there)}/{len(group)}", f"{middle:g}", f"{there[0]} to {there[-1]}"))
    return markdown(("start", "reached", "updates, median", "of those that got there"), rows)


def scaling() -> str:
    rows = []
    for name, one in (read("scaling/scaling.json") or {"simulated": {}})["simulated"].items():
        speeds = one["states_per_s"]
        reached = one["within_a_tenth_of_the_most_at"]
        most = max(speeds.values())
        rows.append((name, f"{speeds['1']:,}", f"{most:,}", str(reached), str(one["85_percent_up_to"])))
    head = (
        "what is collected, and who learns", "states/s of one collector", "most states/s, to 1,000 collectors",
        "reached (to a tenth) at", "at least 85 % of the sum of the parts up to",
    )  # fmt: skip
    return markdown(head, rows)


def diagnosis(zh: bool = False) -> str:
    """Teacher, students and rules on brain MR slices: of students the mean and the range over seeds, of others the
    interval over clusters; of the gain on logits alone its t interval over seeds.
    """
    names = ("accuracy", "sensitivity", "specificity", "where_size_misleads", "calibration_error", "brier")
    groups = {recipe: rows for (recipe,), rows in grouped(made(RESULTS / "diagnosis.jsonl"), "recipe").items()}
    logits = {row["seed"]: row["measured"]["accuracy"]["mean"] for row in groups.get("distil", ())}
    rows = []
    for recipe, own in sorted(groups.items(), key=lambda group: -len(group[1])):
        cells = []
        for name in names:
            values = [row["measured"][name]["mean"] for row in own]
            low, high = own[0]["measured"][name]["ci95"]
            several = f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            cells.append(several if "params" in own[0] else f"{values[0]:.3f} [{low:.3f}, {high:.3f}]")
        gains = [row["measured"]["accuracy"]["mean"] - logits[row["seed"]] for row in own if row["seed"] in logits]
        low, high = stats.t_interval(gains)
        trained = len(gains) > 1 and recipe not in ("distil", "as shown")  # of another budget
        cells.append(f"{mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]" if trained else "-")
        params = f"{own[0].get('params', 0):,}"
        of_own = f"`distil`，128,000 张，{params} 个参数" if zh else f"`distil`, 128,000 images, {params} parameters"
        name = of_own if recipe == "as shown" else f"`{recipe}`" if "params" in own[0] else recipe
        rows.append([name, str(len(own)), *cells])
    head = (
        ("", "种子", "正确率", "灵敏度", "特异度", "文件尺寸误导时的正确率", "校准误差", "Brier", "与仅用 logits 之差")
        if zh
        else (
            "", "seeds", "right", "sensitivity", "specificity", "right where file size misleads", "calibration error",
            "Brier", "right − logits alone",
        )
    )  # fmt: skip
    return markdown(head, rows)


def diagnosis_zh() -> str:
    """The same under Chinese heads."""
    return diagnosis(zh=True)


TABLES: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        continuous, stakes, continuous_losses, critics, optimisers, smallest, continuous_plans, peers, peers_memory,
        teachers, case_study_verdicts, latency, boards, boards_same, boards_optimised, boards_peers, integers, inputs,
        weak_teacher, robust, plan_order,
        rough_robots, rough_robots_zh, together, games_together, fleets, assistants,
        pruned, dynamic_turn, transfer_there, hidden, reptile, scaling,
        diagnosis, diagnosis_zh,
    )
}  # fmt: skip
"""Tables by the names that the documents know them by."""

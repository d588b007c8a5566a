"""Prints the tables of README.md and benchmarks/README.md from the raw results, so that no figure is typed by hand.

With --write, fills in those of the READMEs and of docs/, between ``<!-- result NAME -->`` and ``<!-- end -->``, and
writes what `distilrl fields` lists.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, median

import case_study
import coverage
import field_plans
import fields
import memory
import numpy as np
import selection
import verdict_error
from lines import RESULTS
from method_tables import ENVS, against_default, cells_of, chosen, linked, methods, overall, surviving
from paired import holm, sign_flip
from result_tables import TABLES, by_earlier_rule, by_todays_words, grouped, markdown, read, seeds_of

from distilrl.files import write_json
from distilrl.verdict import Verdict, difference_in_words, in_words, non_inferiority, too_few

FIELDS = Path(__file__).parents[1] / "src" / "distilrl" / "cli" / "fields.json"
"""What `distilrl fields` shows."""


def interval(part: dict) -> str:
    return f"{part['return_mean']:.2f} [{part['return_ci95'][0]:.2f}, {part['return_ci95'][1]:.2f}]"


def returned(part: dict, chinese: bool = False) -> str:
    """A mean return and its interval, which an exact one has not."""
    if not part.get("exact"):
        return interval(part)
    return f"{part['return_mean']:.2f}" + ("（精确）" if chinese else " exactly")


@cache
def judged(path: Path) -> dict:
    """A run's results with a verdict by today's rule: of judge.py where it played again, else of its own returns."""
    r, again = json.loads(path.read_text()), path.with_name("verdict.json")
    found = json.loads(again.read_text()) if again.exists() else {"verdict": vars(rejudged(r, path.parent))}
    return {
        **r, "verdict": r["verdict"] | found["verdict"], "disturbed": found.get("disturbed", {}),
        "student": r["student"] | found.get("student", {}), "teacher": r["teacher"] | found.get("teacher", {}),
    }  # fmt: skip


def _verdict(data: dict) -> Verdict:
    return Verdict(**{name: data[name] for name in Verdict.__dataclass_fields__ if name in data})


def rejudged(r: dict, folder: Path) -> Verdict:
    """Today's verdict on the episodes that a run played, with the margin and the looks that it had.

    Which episodes are identical was not kept, only how many are distinct: of too few there is no verdict, nor an
    interval that could be computed, and of the others each is distinct.
    """
    old, side, protocol = r["verdict"], r["student"], r["protocol"]
    if "protocol" in old:  # judged by today's rule when it was made
        return _verdict(old)
    distinct, episodes = max(r[one]["distinct_episodes"] for one in ("teacher", "student")), side["episodes"]
    how = f"random actions ({protocol['epsilon']:g})" if protocol["epsilon"] else "greedy"
    how = f"sticky actions ({protocol['sticky_actions']:g})" if protocol["sticky_actions"] else how
    how = f"{episodes} episodes, " + f"{distinct} distinct, " * (distinct < episodes) + how
    if reason := too_few(distinct):
        unknown = (float("-inf"), float("inf"))
        return Verdict(
            "inconclusive", old["margin"], old["difference"], unknown, old["confidence"], distinct, reason, how
        )
    returns = json.loads((folder / "episodes.json").read_text())["returns"]
    if distinct != len(returns["student"]):
        raise ValueError(f"{folder.name}: {distinct} of {len(returns['student'])} episodes are distinct; which?")
    found = non_inferiority(
        returns["student"], returns["teacher"], old["margin"], np.random.default_rng(0),
        span=old["margin"] / old["margin_share"], looks=old["looks"],
    )  # fmt: skip
    return replace(found, protocol=how)


def difference(verdict: dict) -> str:
    """The difference, with its interval where one is known."""
    found = _verdict(verdict)
    return difference_in_words(found) if np.isfinite(found.interval).all() else f"{found.difference:+.2f}"


def atari() -> str:
    rows = [
        "| run | parameters | MACs | steps | updates | seconds | student's return | teacher's | played | difference "
        "| margin | verdict |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for path in sorted(RESULTS.glob("*/results.json")):
        r = judged(path)
        s, v = r["student"], r["verdict"]
        counted = (
            "" if "episodes" in v["protocol"] or "every start" in v["protocol"] else f"{v['distinct']:,} episodes, "
        )
        rows.append(
            f"| {path.parent.name} `{s['name']}` | {s['params']:,} | {s['macs'] / 1e6:.2f} M | {r['env_steps']:,} "
            f"| {r['updates']:,} | {r['train_s']:.0f} | {returned(s)} | {returned(r['teacher'])} "
            f"| {counted}{v['protocol']} | {difference(v)} | {v['margin']:.2f} | {in_words(v['result'])} |"
        )
    return "\n".join(rows)


def disturbed() -> str:
    rows = ["| run | played | student's return | teacher's | difference | verdict |", "|---|---|--:|--:|--:|---|"]
    for path in sorted(RESULTS.glob("*/results.json")):
        for way in judged(path)["disturbed"].values():
            v = way["verdict"]
            low, high = v["interval"]
            rows.append(
                f"| {path.parent.name} | {v['protocol']} | {interval(way['student'])} | {interval(way['teacher'])} "
                f"| {v['difference']:+.2f} [{low:+.2f}, {high:+.2f}] | {in_words(v['result'])} |"
            )
    return "\n".join(rows)


def vectors() -> str:
    groups = defaultdict(list)
    for row in read("vectors.jsonl"):
        groups[row["env"], row["student"], row["params"]].append(row)
    rows = [
        "| environment | student | parameters | seeds at parity | steps | seconds | return, each seed | teacher |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for (env, student, params), runs in groups.items():
        there = [run for run in runs if run["parity_s"] is not None]
        steps = f"{median(run['parity_steps'] for run in there):,.0f}" if there else "-"
        seconds = f"{median(run['parity_s'] for run in there):.2f}" if there else "-"
        each = ", ".join(f"{run['return_mean']:.1f}" for run in runs)
        teacher = mean(run["teacher_return_mean"] for run in runs)
        rows.append(
            f"| {env} | `{student}` | {params} | {len(there)}/{len(runs)} | {steps} | {seconds} | {each} "
            f"| {teacher:.1f} |"
        )
    return "\n".join(rows)


def headline(chinese: bool = False) -> str:
    """What the READMEs show first: some runs of each kind, by the verdict that counts."""
    rows = []
    for run in ("pong-61k-default", "pong-4k", "pong-2k-pruned", "breakout-61k"):
        seeds = [RESULTS / run, *sorted(RESULTS.glob(f"{run}-seed*"))]
        first, *others = (judged(folder / "results.json") for folder in seeds)
        also = ("；" if chinese else ", ").join(f"{one['student']['return_mean']:.2f}" for one in others)
        more = (f"（另有 {also}）" if chinese else f" (also {also})") * bool(also)
        returns = (returned(first["student"], chinese) + more, returned(first["teacher"], chinese))
        found = [one["verdict"]["result"] for one in (first, *others)]
        student, params = first["student"], first["teacher"]["params"]
        rows.append((run.split("-")[0].title(), student, params, returns, found, False))
    of_rows = grouped(seeds_of(read("continuous/rows.jsonl")), "row")
    games = {
        "cheetah-1968": "HalfCheetah",
        "ant-1472": "Ant",
        "hopper-195-reward": "Hopper，模仿之后用奖励再训练 1,000,000 步"
        if chinese
        else "Hopper, with 1,000,000 steps of reward after imitation",
        "lander-18": "LunarLanderContinuous",
    }
    for row, env in games.items():
        group = of_rows[(row,)]
        first = group[0]
        student = {"name": first["network"], "params": first["params"]}
        ours = [one["student"]["return_mean"] for one in group]
        low, high = (f"{end(ours):,.0f}" for end in (min, max))
        returns = (
            f"{mean(ours):,.0f} " + (f"（{low} 至 {high}）" if chinese else f"({low} to {high})"),
            f"{mean(one['teacher']['return_mean'] for one in group):,.0f}",  # beside 100 to 300 episodes each
        )
        found = [by_todays_words(one["verdict"]) for one in group]
        earlier = any(by_earlier_rule(one["verdict"]) for one in group)
        rows.append((env, student, first["teacher"]["params"], returns, found, earlier))
    told = []
    for env, student, teacher_params, returns, results, earlier in rows:
        verdicts = (
            counted([fields.verdict_in_words(one, chinese) for one in results], chinese)
            + ("（旧规则）" if chinese else ", earlier rule") * earlier
        )
        sizes = f"{teacher_params:,} → {student['params']:,}"
        smaller = f"{teacher_params / student['params']:,.0f} ×"
        told.append((env, f"`{student['name']}`", verdicts, *returns, sizes, smaller))
    if chinese:
        return markdown(("环境", "学生", "判定", "学生回报", "教师回报", "参数", "缩小"), told, text=3)
    head = ("environment", "student", "verdict", "student's return", "teacher's", "parameters", "smaller")
    return markdown(head, told, text=3)


def counted(results: list[str], chinese: bool) -> str:
    """Verdicts over training seeds, in words; how many of each, if there are several."""
    return ("；" if chinese else ", ").join(
        f"{results.count(one)} × " * (len(results) > 1) + one for one in dict.fromkeys(results)
    )


def headline_zh() -> str:
    return headline(chinese=True)


def of_fields(chinese: bool = False) -> str:
    """The six fields of use, in a README: where each training seed keeps within the margin and how many times smaller
    it is, and where not; of each environment the largest budget that has most training seeds.
    """
    none = "无" if chinese else "none"
    rows = []
    for name, about in fields.fields().items():
        found = fields.found(name)
        held, unclear, failed = [], [], []
        for env in best_known(found):
            one = found[env]
            if one.held:
                held.append(f"{env} ({one.smaller:,.0f} ×)" if one.smaller else env)
            elif any(fields.worst_verdict(run) == "fail" for run in one.runs):
                failed.append(env)
            else:
                unclear.append(env)
        told = ("<br>".join(part) or none for part in (held, unclear, failed))
        rows.append((field_link(about, chinese), *told))
    head = ("field", "within the margin with every training seed (times smaller)", "a seed undecided", "a seed fails")
    zh = ("领域", "每个训练种子都在余量内（缩小倍数）", "有种子未定", "有种子不通过")
    return markdown(zh if chinese else head, rows, text=4)


def fields_in_full(chinese: bool = False) -> str:
    """All rows of the six fields, in docs/: sizes, bytes, microseconds, and each claim of the first seed's verdict."""
    rows = []
    for name, about in fields.fields().items():
        for env, one in fields.found(name).items():
            first, known = one.runs[0], one.teacher["params"]
            claims = [(each["name"], each["verdict"]) for each in first["results"].get("measures", ())]
            beside = [f"{name} {fields.lost(verdict)}" for name, verdict in claims if verdict is not None]
            sizes = f"{f'{known:,}' if known else '?'} → {fields.size(one.student, '个节点' if chinese else 'nodes')}"
            rows.append(
                (field_link(about, chinese, "docs/"), env, f"`{one.student['name']}`", verdicts_of(one, chinese),
                 f"{fields.number(one.returned)} ({fields.number(one.taught)})", unlearnt_of(one, chinese), sizes,
                 f"{one.bytes:,}", f"{one.speed['student_c_us']:.2g}" if one.speed else "-", fields.lost(one.verdict),
                 "<br>".join(beside) or "-")
            )  # fmt: skip
    head = (
        "field", "environment", "student", "verdict", "return (teacher's)", "without learning", "parameters", "bytes",
        "µs in C", "student − teacher [interval] of margin", "claimed beside the return",
    )  # fmt: skip
    zh = (
        "领域", "环境", "学生", "判定", "回报（教师）", "无需学习", "参数", "字节", "C 每次决策微秒",
        "学生 − 教师 [区间]，余量", "回报之外的声明",
    )  # fmt: skip
    return fields.noted(markdown(zh if chinese else head, rows, text=4), chinese)


def field_link(about: fields.Field, chinese: bool, above: str = "") -> str:
    """A field's title with a link to its page, from a document in the folder ``above``."""
    page = (about.page.replace(".md", ".zh-CN.md") if chinese else about.page).removeprefix(above)
    return f"[{about.title_zh if chinese else about.title}]({page})"


def unlearnt_of(one: fields.Found, chinese: bool) -> str:
    """What is best without learning, and its return; and the rules that stand beside it in every table."""
    best, without = one.unlearnt
    known = {best: without} | {rule: one.rules[rule]["return_mean"] for rule in one.row.beside if rule in one.rules}
    named = (
        f"{fields.number(value)} ({'随机' if chinese and name == 'random' else name})" for name, value in known.items()
    )
    return "; ".join(named)


def verdicts_of(one: fields.Found, chinese: bool) -> str:
    """The worst verdict of each of its seeds, counted."""
    return counted(one.told([fields.worst_verdict(run) for run in one.runs], chinese), chinese)


def best_known(found: dict[str, fields.Found]) -> Iterable[str]:
    """Of each environment the row of most training seeds, and of those of the largest budget: rows go from few steps to
    many.
    """
    rows: dict[str, str] = {}
    for row, one in found.items():
        env = re.sub(r", [\d,]+ steps$", "", row)
        if env not in rows or len(one.runs) >= len(found[rows[env]].runs):
            rows[env] = row
    return rows.values()


GOAL = 20
"""Times smaller than its teacher that a student is to be."""


def of_goal(chinese: bool = False) -> str:
    """Of each field the environments in which every seed keeps within the margin with a student small enough, and what
    the others lack: of each the largest budget that has most training seeds.
    """
    none = "无" if chinese else "none"
    rows = []
    for name, about in fields.fields().items():
        found = fields.found(name)
        kept, short = [], []
        for env in best_known(found):
            one = found[env]
            times = f"{one.smaller:,.0f} ×" if one.smaller else "?"
            if one.held and (one.smaller or 0) >= GOAL:
                kept.append(f"{env} ({times})")
            elif one.held:
                short.append(f"{env} ({times})")
            else:
                of = f"{fields.number(one.returned)} {'/' if chinese else 'of'} {fields.number(one.taught)}"
                short.append(f"{env} ({', '.join((of, verdicts_of(one, chinese), times))})")
        title = about.title_zh if chinese else about.title
        rows.append((title, "<br>".join(kept) or none, "<br>".join(short) or none))
    head = ("field", f"every seed within the margin, at least {GOAL} times smaller", "short of it")
    zh = ("领域", f"每个种子都在余量内，且至少小 {GOAL} 倍", "未达到")
    return markdown(zh if chinese else head, rows, text=3)


def of_games(env: str) -> tuple[dict, dict]:
    """The teacher's row of a game, and the rows of each (student, method)."""
    groups = defaultdict(list)
    teacher = {}
    for row in read(f"methods/{env}.jsonl"):
        if row["method"] == "teacher":
            teacher = row
        else:
            groups[row["student"], row["method"]].append(row)
    return teacher, groups


ATARI = ("PongNoFrameskip-v4", "BreakoutNoFrameskip-v4")


def atari_methods(env: str) -> str:
    """The methods that matter most, in one game, in points, each seed on its own."""
    teacher, groups = of_games(env)
    if not groups:
        return "Not run."
    rows = [
        f"Teacher {teacher['return']:.1f} (under ε = 0.05 {teacher['epsilon_0.05']:.1f}, sticky actions "
        f"{teacher['sticky_0.25']:.1f}), random {teacher['random']:.1f}; {teacher['env_steps']:,} steps.",
        "",
        "| method | student | return, each seed | less or more than the default | p | agreement | ε = 0.05 | sticky |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    apart = {key: against(runs, groups.get((key[0], "distil"), [])) for key, runs in groups.items()}
    p: dict[tuple[str, str], str] = {}
    for one in dict.fromkeys(student for student, _ in groups):
        p |= corrected({key: differences for key, differences in apart.items() if key[0] == one})
    for (student, name), runs in groups.items():
        each = ", ".join(
            f"{run['return']:.1f} [{run['return_ci95'][0]:.1f}, {run['return_ci95'][1]:.1f}]" for run in runs
        )
        ways = " | ".join(", ".join(f"{run[way]:.1f}" for run in runs) for way in ("epsilon_0.05", "sticky_0.25"))
        differences = apart[student, name]
        told = f"{mean(differences):+.1f} ({len(differences)})" if differences else ""
        rows.append(
            f"| {linked(name)} | `{student}` | {each} | {told} | {p.get((student, name), '')} "
            f"| {mean(r['agreement'] for r in runs):.2f} | {ways} |"
        )
    return "\n".join(rows)


def against(runs: list[dict], default: list[dict]) -> list[float]:
    """Differences to the default's return, of the training seeds that both have; none of the default itself."""
    theirs = {run["seed"]: run["return"] for run in default}
    return [] if runs is default else [run["return"] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]


def corrected(differences: dict[tuple[str, str], list[float]]) -> dict[tuple[str, str], str]:
    """Of each method's, the p-value of a sign-flip test, corrected for all of these (Holm 1979)."""
    asked = {name: sign_flip(values) for name, values in differences.items() if values}
    return {name: f"{p:.2f}" for name, p in zip(asked, holm(list(asked.values())), strict=True)}


def one_method(name: str) -> str:
    """A method's own rows."""
    if name == "attention":
        return "Pixels only: not part of this comparison."
    head, cells = cells_of(name)
    for env in ATARI:
        teacher, groups = of_games(env)
        for student in dict.fromkeys(student for student, _ in groups):
            runs = groups[student, name]
            if runs:
                span = teacher["return"] - teacher["random"]
                head.append(f"{env} `{student}` ({len(runs)} seed{'s' * (len(runs) > 1)})")
                cells.append(f"{(mean(run['return'] for run in runs) - teacher['random']) / span:.2f}")
    if not head:
        return "Not run."
    table = "\n".join((f"| {' | '.join(head)} |", f"|{'--:|' * len(head)}", f"| {' | '.join(cells)} |"))
    return "\n\n".join(part for part in (table, against_default(name)) if part)


def block(name: str) -> str:
    """What stands between ``<!-- result NAME -->`` and ``<!-- end -->``."""
    if name in ENVS:
        return methods(name)
    if name in ATARI:
        return atari_methods(name)
    known = {
        "settings": chosen,
        "differences": surviving,
        "overall": overall,
        "atari": atari,
        "headline": headline,
        "headline-zh": headline_zh,
        "fields": of_fields,
        "fields-zh": lambda: of_fields(chinese=True),
        "fields-docs": fields_in_full,
        "fields-docs-zh": lambda: fields_in_full(True),
        "fields-goal": of_goal,
        "fields-goal-zh": lambda: of_goal(chinese=True),
        "disturbed": disturbed,
        "vectors": vectors,
        "verdict-error": verdict_error.table,
        "coverage": coverage.table,
        "selection": selection.table,
        "memory": memory.markdown,
        "memory-zh": lambda: memory.markdown(chinese=True),
        "field-plans": field_plans.markdown,
        "field-plans-zh": lambda: field_plans.markdown(chinese=True),
        "case-study": lambda: case_study.table(range(5), list(case_study.BUDGETS), ("distil", "case_study")),
        "case-study-tried": lambda: case_study.table(range(100, 105), ["CartPole-v1", "Acrobot-v1"]),
        "checks": selection.raw,
    }
    if name.startswith("fields/"):
        return fields.markdown(name.removeprefix("fields/"))
    return (known | TABLES).get(name, lambda: one_method(name))()


def documents() -> list[Path]:
    """Documents that hold tables of raw results; decisions tell of what was measured then, and few of them do."""
    root = RESULTS.parents[1]
    pages = (*root.glob("README*.md"), root / "benchmarks" / "README.md", *(root / "docs").rglob("*.md"))
    marked = (page for page in pages if "decisions" not in page.parts or "<!-- result " in page.read_text("utf-8"))
    return sorted(marked)


def filled(text: str) -> str:
    """A document with its tables as the raw results have them now."""

    def fill(found: re.Match) -> str:
        return f"<!-- result {found[1]} -->\n{block(found[1])}\n<!-- end -->"

    return re.sub(r"<!-- result (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def write() -> None:
    """Fills in the documents."""
    for path in documents():
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    write_json(FIELDS, fields.listed())


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        print("\n\n".join((atari(), disturbed(), vectors(), chosen(), surviving(), *(methods(env) for env in ENVS))))

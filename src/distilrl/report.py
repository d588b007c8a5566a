"""A run folder in, one self-contained HTML file out: verdict first, then what it rests on. Opens offline."""

import base64
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from distilrl import animate, figures
from distilrl.config import TrainConfig
from distilrl.display import watching
from distilrl.envs import describe_env
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.evaluate import load_teachers
from distilrl.events import Noticed, Phase, Watch, silent
from distilrl.files import read_json, read_json_as, read_regular, write_bytes, write_json, write_text
from distilrl.limits import MAX_JSON_BYTES
from distilrl.measures import rounded
from distilrl.metrics import read_metrics
from distilrl.next_steps import PLAYED_ON, asked_with, judges_of, made_by_function, next_commands, trust_of
from distilrl.played import Dimension, Disagreement, SingleEpisodes
from distilrl.policies import Policy
from distilrl.provenance import Provenance
from distilrl.results import Results, TeacherResults
from distilrl.runs import RunFolder
from distilrl.sensors import Sensors
from distilrl.spaces import EnvRef
from distilrl.studies import Studies
from distilrl.summaries import AnyResults, PlanResults, SeedsResults, TasksResults, read_results
from distilrl.teachers import TeacherFile, load_teacher
from distilrl.teachers.hub import offline
from distilrl.text import typed
from distilrl.verdict import difference_in_words, digits_of, in_words

SENTENCES = {
    "pass": "The student keeps the score.",
    "within_margin": "The student is worse, by less than the margin.",
    "fail": "The student falls short of the teacher.",
    "inconclusive": "Not enough evidence either way.",
}
OF_A_KIND = SENTENCES | {
    "pass": "Students of this kind keep the score in the mean.",
    "within_margin": "Students of this kind are worse in the mean, by less than the margin.",
    "fail": "Students of this kind fall short of the teacher in the mean.",
}
"""Of a study over training seeds, of which single students may do otherwise."""
KINDS = {PlanResults: "plan", SeedsResults: "seeds", TasksResults: "tasks", Results: "distil", TeacherResults: "train"}
COMMANDS = {"teacher": "train-teacher", "tree": "tree", "plan": "plan"}
"""Command that makes a folder of a kind; the others are made by distill."""
CALLS = {"seeds": "distill_seeds", "chain": "distill_chain", "plan": "plan", "tree": "distill_tree"}
"""Function that makes a folder of a kind; the others are made by distill."""
PARTS = ("task", "winner", "assistant")
"""Kinds of folders that are made with the one around them."""
EPISODES = 100
"""Episodes of a teacher's final evaluation, unless another number is given."""
PATIENCE = 60.0
"""Seconds that a report's animation may take, which ends there."""
MOST_TABLES, MOST_CHOICES, MOST_NUMBERS = 4, 24, 12
"""Tables of choices, choices in one, and numbers of a state or an action that are shown."""
DAMAGED = (
    *(SpecError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    jinja2.UndefinedError,
)
"""What comes of files whose fields are missing or of another type."""


def write_report(run: str | Path, *, watch: Watch | None = None) -> Path:
    """Writes ``report.html`` into a run folder and returns its path; ``watch`` is told how far it is, as in `distill`.

    Raises:
        FileError: the folder holds no finished run, or its files are damaged.

    Example::

        write_report("runs/cheetah")  # runs/cheetah/report.html
    """
    folder = RunFolder(run)
    planned = folder.path / "plan.json"
    source = planned if planned.is_file() else folder.results
    if not source.is_file():
        raise folder.lacking("plan.json" if folder.kind() == "plan" else "results.json")
    try:
        results = read_results(source)
        with watching(watch) as watch:
            parts = _parts(folder, results, watch)
        page = _template().render(kind=KINDS[type(results)], r=results, name=folder.path.resolve().name, **parts)
    except DAMAGED as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise FileError(
            f"{source} or a file beside it is damaged ({what:.120}): take a copy of the run that is whole."
        ) from error
    write_text(folder.report, page)
    return folder.report


@cache
def _template() -> jinja2.Template:
    """The page, compiled once: that takes longer than to write most reports."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "whole": _whole, "interval": _interval, "signed": _signed}
    environment.globals["digits"] = digits_of
    environment.filters |= {"ends": _ends, "named": in_words, "rounded": rounded}
    environment.filters["apart"] = difference_in_words
    return environment.from_string(resources.files("distilrl").joinpath("report.html.j2").read_text(encoding="utf-8"))


def write_studies(found: Studies, out: str | Path) -> Path:
    """Writes compare.csv, compare.md, compare.json and compare.png of several studies into a folder; returns it.

    Raises:
        FileError: the folder holds something of distilrl's already, or cannot be written.

    Example::

        write_studies(compare("runs/distil", "runs/cloning"), "runs/compared")
    """
    folder = RunFolder(out)
    folder.check_free()
    drawn = figures.studies(found)  # first: it takes longest, and who stops it there may call the same command again
    write_text(folder.path / "compare.csv", found.to_csv())
    write_text(folder.path / "compare.md", found.to_markdown())
    write_json(folder.path / "compare.json", found.to_json())
    write_bytes(folder.path / "compare.png", drawn)
    return folder.path


def _parts(folder: RunFolder, results: AnyResults, watch: Watch) -> dict[str, Any]:
    """What the template shows besides the results."""
    parts: dict[str, Any] = dict.fromkeys(("animation", "animation_note", "episode"), "") | {"charts": []}
    parts |= {"made": _provenance(results), "config": json.dumps(folder.read_config(), indent=2)}
    parts |= {"command": again(folder, results), "nexts": _nexts(folder, results)}
    watch(Phase("report"))
    if isinstance(results, PlanResults):
        chart = figures.frontier(results)
        return parts | {"charts": [chart] if chart else []}
    if not isinstance(results, TeacherResults):
        parts["sentence"] = (OF_A_KIND if isinstance(results, SeedsResults) else SENTENCES)[results.verdict.result]
    if isinstance(results, SeedsResults):
        return parts | {"charts": [figures.seeds(results)]}
    if isinstance(results, TasksResults):
        return parts | {"pages": [_page(folder, run.env) for run in results.tasks]}
    rows = [{k: float(v) if v else math.nan for k, v in row.items()} for row in read_metrics(folder.metrics)]
    parts["charts"] = figures.curves(rows, results) if rows else []
    parts |= _animation(folder, watch)
    return parts | (_comparison(folder, results) if isinstance(results, Results) else {})


def _nexts(folder: RunFolder, results: AnyResults) -> list[tuple[str, str]]:
    """What to do next; nothing where that asks for an environment which is not trusted here, or not there."""
    try:
        return next_commands(results, folder.path)
    except DistilError:
        return []


def again(folder: RunFolder, results: AnyResults) -> str:
    """The command that does again what was done in a folder; where its teacher was no file, what to call from Python.

    What a run of several tasks, a plan or a chain left in a folder of its own is made again with the whole.
    """
    kind, config = folder.kind(), folder.read_config()
    around = RunFolder(folder.path.resolve().parent)
    if kind in PARTS and around.config.is_file():
        kind, config, folder = around.kind(), around.read_config(), around
    train = TrainConfig.from_json(config.get("train", {}))
    name = COMMANDS.get(str(kind), "train-teacher" if isinstance(results, TeacherResults) else "distill")
    file = str(folder.config)
    taught = config.get("given", {}).get("teacher", all(task.teacher for task in train.tasks))
    lacking = "teacher was no file" if name != "train-teacher" and not taught else ""
    lacking = lacking or ("environment was made by a function" if made_by_function(folder) else "")
    if lacking:
        call = CALLS.get(str(kind), "train_teacher" if name == "train-teacher" else "distill")
        return f"# the {lacking}: call distilrl.{call} with it, and with what {file} says"
    words = ["distilrl", name, "--config", file, "--out", "NEW_FOLDER"]
    if isinstance(results, TeacherResults) and results.student.episodes != EPISODES:
        words += ["--episodes", str(results.student.episodes)]
    trusted = trust_of(folder)
    planned = folder.path / "plan.json"
    if name == "plan" and not isinstance(results, PlanResults) and planned.is_file():  # of its winner
        results = read_json_as(PlanResults, planned)
    asked = results.asked[1:] if isinstance(results, PlanResults) else ()  # again, and of more episodes
    lines = [typed([*words, *trusted])]
    for most in asked:
        if most % PLAYED_ON:
            lines.append(f"# then from Python: resume distilrl.plan in NEW_FOLDER with {asked_with(most)}")
        else:
            asks = ["distilrl", "plan", "--resume", "NEW_FOLDER", "--episodes", str(most // PLAYED_ON)]
            lines.append(typed([*asks, *trusted]))
    return "\n".join(lines)


def _provenance(results: AnyResults) -> Provenance:
    """What the results were made with; of several runs, the last."""
    match results:
        case SeedsResults(runs=runs) | TasksResults(tasks=runs):
            return runs[-1].provenance
        case _:
            return results.provenance


def _comparison(folder: RunFolder, results: Results) -> dict[str, Any]:
    """What the template shows of a student beside its teacher."""
    teacher, student = results.teacher, results.student
    tables, dimensions = results.agreement.tables, results.agreement.dimensions
    choices = results.action.get("action", {}).get("nvec") or [len(table) for table in tables]
    names = _names(results, choices, len(dimensions))
    episodes = read_json_as(SingleEpisodes, folder.episodes)
    return {
        "verdicts": figures.verdicts(results),
        "distribution": figures.distribution(episodes.returns),
        "note": _note(folder),
        "untrained": folder.read_config().get("given", {}).get("student", "") if folder.kind() == "assistant" else "",
        "unseen": _unseen(student.spec.get("unseen", ())),
        "nodes": student.params if folder.tree.is_file() else None,
        "smaller": (teacher.params or 0) / student.params,
        "faster": teacher.latency_us / student.latency_us,
        "real": bool(dimensions),
        "logits": results.action.get("kind") == "logits",
        "half_ranges": _unit(results),
        "elsewhere": _elsewhere(results),
        "errors": figures.errors(dimensions, names[0], _unit(results)) if dimensions else "",
        "hidden_dimensions": max(0, len(dimensions) - figures.MOST_DIMENSIONS),
        "alone": len(tables) == 1,
        "tables": [
            {"number": i if len(tables) > 1 else None} | _table(*one)
            for i, one in enumerate(zip(tables[:MOST_TABLES], names, strict=False))
            if one[0]
        ],
        "hidden_tables": sum(map(bool, tables[MOST_TABLES:])),
        "disagreements": [_disagreement(one, names, dimensions) for one in episodes.disagreements],
    }


def _note(folder: RunFolder) -> str:
    """What was said of the teacher's file when it was read; empty where nothing was."""
    card = read_json(folder.teacher) if folder.teacher.is_file() else {}
    meta = card.get("meta") if isinstance(card, dict) else None
    return str(meta.get("note", "")) if isinstance(meta, dict) else ""


def _elsewhere(results: Results) -> str:
    """Where a verdict was taken that is not where training was; empty where it is."""
    if results.verdict_environment is None:
        return ""
    there = EnvRef.from_json(results.verdict_environment, "verdict_environment").label
    same = there == EnvRef.from_json(results.environment, "environment").label
    return f"{there} with other things around it" if same else there


def _unit(results: Results) -> str:
    """What errors of real actions are counted in."""
    action = results.action.get("action", {})
    open_ended = None in (*action.get("low", ()), *action.get("high", ()))
    return "half-ranges (units of its own where an action has no bounds)" if open_ended else "half-ranges"


def _unseen(places: Sequence[int]) -> str:
    """What the student does not see of its teacher's observations, in words; empty where it sees all."""
    several, listed = len(places) > 1, ", ".join(str(place) for place in places[:MOST_NUMBERS])
    more = ", …" if len(places) > MOST_NUMBERS else ""
    return f"{'numbers' if several else 'number'} {listed}{more}" if places else ""


def _names(results: Results, choices: Sequence[int], dimensions: int) -> list[list[str]]:
    """Names of what can be chosen, for each choice of so many, or of so many dimensions of a real action: the
    environment's, where it has any; else numbers, which are the environment's too.
    """
    names = results.protocol.get("actions")
    if names and [len(names)] == (list(choices) or [dimensions]):
        return [[str(name) for name in names]]
    first = results.action.get("action", {}).get("start") or [0] * len(choices)
    of_choices = [[str(start + i) for i in range(count)] for start, count in zip(first, choices, strict=True)]
    return of_choices or [[f"a[{i}]" for i in range(dimensions)]]


def _table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """Who picks what, on states that the student visits: names, and rows of (count, share of the row)."""
    if len(counts) > MOST_CHOICES:
        equal, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
        return {"choices": len(counts), "equal": equal / max(total, 1), "rows": []}
    rows = [[(int(n), n / max(sum(row), 1)) for n in row] for row in counts]
    return {"names": list(names), "rows": rows}


def _disagreement(one: Disagreement, names: Sequence[Sequence[str]], dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """A state in which the two differ: its picture or its largest numbers, and what either does, by ``names`` of the
    dimensions, or of what each choice is among.
    """
    obs, image = one.obs or (), one.image
    pairs: list[tuple[Any, Any]] = list(zip(one.teacher_action, one.student_action, strict=True))
    if dimensions:
        off = [abs(ours - theirs) / d.half_range for (theirs, ours), d in zip(pairs, dimensions, strict=True)]
        most = sorted(sorted(range(len(pairs)), key=lambda i: -off[i])[:MOST_NUMBERS])
        rows: list[tuple[str, str, str]] = [(names[0][i], f"{pairs[i][0]:.3f}", f"{pairs[i][1]:.3f}") for i in most]
    elif len(pairs) == 1:
        theirs, ours = pairs[0]
        rows = [("", names[0][theirs], names[0][ours])]
    else:
        apart = [i for i, (a, b) in enumerate(pairs) if a != b][:MOST_NUMBERS]
        rows = [(f"choice {i}", *(names[i][one] for one in pairs[i])) for i in apart]
    numbers = sorted(range(len(obs)), key=lambda i: -abs(obs[i]))[:MOST_NUMBERS]
    return {
        "rows": rows,
        "hidden": len(pairs) - len(rows) if dimensions else 0,
        "error": one.error,
        "stakes": one.stakes,
        "image": image if image and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", image) else None,
        "numbers": [(i, obs[i]) for i in sorted(numbers)],
        "of": len(obs),
    }


def _page(folder: RunFolder, env: str) -> str:
    """Where the report of a task lies, as a link that cannot leave the folder; "" if it would."""
    page = folder.of_task(env).report
    if not page.resolve().is_relative_to(folder.path.resolve()):
        return ""
    return "./" + quote(page.relative_to(folder.path).as_posix())


def _animation(folder: RunFolder, watch: Watch) -> dict[str, str]:
    """The animation as a data URI; of what cannot be drawn, why not, and the same episode as curves where it can be
    played. It is kept, for a report that is written where the teacher's file cannot be found.
    """
    kept = folder.path / "animation.webp"
    with offline():  # a folder of somebody else's names whom it likes
        try:
            whole = kept.is_file() and not kept.is_symlink()
            data = read_regular(kept, MAX_JSON_BYTES) if whole else animation(folder, seconds=PATIENCE, watch=watch)
        except (DistilError, OSError) as error:
            note = {"animation_note": str(error)}
            try:
                return note | {"episode": episode(folder, watch=watch)}
            except DistilError:
                watch(Noticed(f"The report has no animation: {error}"))
                return note
    if not kept.is_file():
        write_bytes(kept, data)
    return {"animation": "data:image/webp;base64," + base64.b64encode(data).decode()}


def animation(folder: RunFolder, *, steps: int = 600, seconds: float = math.inf, watch: Watch = silent) -> bytes:
    """Teacher (if the run had one, from a file) and student side by side, as an animated WebP.

    Args:
        folder: of a run.
        steps: environment steps at most.
        seconds: of drawing, at most.
        watch: told of each step.

    Raises:
        DistilError: the teacher's file is no longer where it was, the environment cannot be drawn here, or it needs a
            module that is not trusted.
    """
    watch(Phase("animation"))
    policies, env, sees = _cast(folder)
    return animate.side_by_side(policies, env, sensors=sees, steps=steps, seconds=seconds, watch=watch)


def episode(folder: RunFolder, *, steps: int = 600, watch: Watch = silent) -> str:
    """The same of an environment that cannot be drawn: return and actions of an episode, step by step, as an SVG whose
    colours are a page's to choose; arguments and errors as of `animation`.
    """
    watch(Phase("animation"))
    policies, env, sees = _cast(folder)
    return figures.courses(animate.courses(policies, env, sensors=sees, steps=steps, watch=watch))


def _cast(folder: RunFolder) -> tuple[dict[str, Policy], EnvRef, dict[str, Sensors]]:
    """Who plays in the animation, where, and who sees how."""
    data = folder.read_config()
    config = TrainConfig.from_json(data.get("train", {}))
    env = config.env
    teachers = [TeacherFile.from_json(file) for file in judges_of(folder)]
    policies: dict[str, Policy] = {}
    if teachers:
        policies["teacher"] = load_teachers(teachers, env, config.combine).policy
    student = load_teacher(folder.path if folder.tree.is_file() else folder.student).fitted(describe_env(env))
    name = "student" if teachers else "policy"
    policies[name] = student.policy
    elsewhere = data.get("verdict_env")
    where = EnvRef.from_json(elsewhere, f"verdict_env of {folder.config}") if elsewhere else env
    return policies, where, {name: config.student.sensors}


def _number(value: float | None, digits: int = 2) -> str:
    """1,234.50, or a dash for what is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+,.{digits}f}"


def _whole(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _ends(interval: Sequence[float] | None, digits: int = 2) -> str:
    """The interval of a mean return, or that it has none."""
    return _interval(interval, digits) or "exact"


def _interval(ends: Sequence[float] | None, digits: int = 2) -> str:
    return f"{_number(ends[0], digits)}\u00a0… {_number(ends[1], digits)}" if ends else ""

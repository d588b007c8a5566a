"""A run folder in, one self-contained HTML file out: verdict first, then what it rests on. Opens offline."""

import base64
import io
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distilrl import animate
from distilrl.checkpoints import read_json, write_bytes
from distilrl.errors import DistilError, FileError
from distilrl.evaluate import Values, load_teachers
from distilrl.runs import RunFolder, read_metrics
from distilrl.teachers import TeacherFile, load_teacher

TEACHER, STUDENT, FAINT = "#4a4a4a", "#1769aa", "#b8b8b8"
SENTENCES = {
    "pass": "The student keeps the score.",
    "fail": "The student falls short of the teacher.",
    "inconclusive": "Not enough evidence either way.",
}


def write_report(run: str | Path) -> Path:
    """Writes ``report.html`` into a run folder and returns its path.

    Raises:
        FileError: the folder holds no finished run.
    """
    folder = RunFolder(run)
    planned = folder.path / "plan.json"
    if not folder.results.is_file() and not planned.is_file():
        raise FileError(f"{folder.path} has no results.json: the run is not finished, continue it with --resume.")
    results = read_json(planned if planned.is_file() else folder.results)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        resources.files("distilrl").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    kinds = {"frontier": "plan", "runs": "seeds", "tasks": "tasks", "verdict": "distil"}
    kind = next((kind for key, kind in kinds.items() if key in results), "train")
    page = template.render(kind=kind, r=results, name=folder.path.name, **_parts(kind, folder, results))
    write_bytes(folder.report, page.encode())
    return folder.report


def _parts(kind: str, folder: RunFolder, results: dict[str, Any]) -> dict[str, Any]:
    """What the template shows besides the results."""
    parts: dict[str, Any] = {"sentence": SENTENCES.get(results.get("verdict", {}).get("result", ""), "")}
    if kind == "plan":
        return {"curve": _frontier(results), "command": "", "config": "", "animation": "", "animation_note": ""}
    if kind == "tasks":
        parts["pages"] = [RunFolder(folder.of_task(run["env"]).path).report.relative_to(folder.path).as_posix() for run in results["tasks"]]
        return parts | {"command": "", "config": "", "animation": "", "animation_note": ""}
    if kind == "seeds":
        return parts | {"curve": _seeds(results), "command": "", "config": "", "animation": "", "animation_note": ""}
    config = folder.read_config()
    parts["config"] = json.dumps(config, indent=2)
    parts["command"] = f"distilrl {'distill' if kind == 'distil' else 'train-teacher'} --config {folder.config} --out NEW_FOLDER"
    rows = [{k: float(v) if v else math.nan for k, v in row.items()} for row in read_metrics(folder.metrics)]
    parts["curve"] = _curves(rows, results)
    parts["animation"], parts["animation_note"] = _animation(folder)
    if kind == "distil":
        episodes = read_json(folder.episodes)
        names = config_names(results, len(results["agreement"]["table"]))
        parts |= {
            "returns": _returns(results),
            "table": _table(results["agreement"]["table"], names),
            "disagreements": episodes["disagreements"],
            "names": names,
            "smaller": (results["teacher"]["params"] or 0) / results["student"]["params"],
            "faster": results["teacher"]["latency_us"] / results["student"]["latency_us"],
        }
    return parts


def config_names(results: dict[str, Any], n_actions: int) -> list[str]:
    """Names of the actions, or their numbers."""
    names = results["protocol"].get("actions")
    return [str(name) for name in names] if names else [str(a) for a in range(n_actions)]


def _animation(folder: RunFolder) -> tuple[str, str]:
    """The animation as a data URI, or why there is none."""
    try:
        data = animation(folder)
    except DistilError as error:
        return "", str(error)
    return "data:image/webp;base64," + base64.b64encode(data).decode(), ""


def animation(folder: RunFolder, *, steps: int = 600, every: int = 3) -> bytes:
    """Teacher (if the run had one) and student side by side, as an animated WebP.

    Raises:
        FileError: the teacher's file is no longer where it was.
        ExtraError: drawing this environment needs a package that is not installed.
    """
    train = folder.read_config()["train"]
    policies: dict[str, Values] = {}
    if train["teacher"]:
        policies["teacher"] = _teacher(train)
    student = folder.path if folder.tree.is_file() else folder.student
    policies["student" if train["teacher"] else "policy"] = load_teacher(student).action_values
    return animate.side_by_side(policies, train["env_id"], steps=steps, every=every)


def _teacher(train: dict[str, Any]) -> Values:
    files = [TeacherFile.from_json(file) for file in train["teacher"]]
    return load_teachers(files, train["env_id"], train.get("combine", "mean")).action_values


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilrl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(columns: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_axisbelow(True)
    return figure, axes


def _curves(rows: list[dict[str, float]], results: dict[str, Any]) -> str:
    """Return against steps and seconds, and agreement."""
    with_teacher = "teacher" in results
    figure, axes = _figure(3 if with_teacher else 2)
    for axis, key, label in zip(axes, ("env_steps", "train_s"), ("environment steps", "seconds of training"), strict=False):
        axis.plot([r[key] for r in rows], [r["return"] for r in rows], color=STUDENT, marker="o", markersize=3)
        axis.set_xlabel(label)
        if with_teacher:
            axis.axhline(results["teacher"]["return_mean"], color=TEACHER, linestyle="--", linewidth=1)
            axis.axhline(results["random"]["return_mean"], color=FAINT, linestyle=":", linewidth=1)
            axis.annotate("teacher", (0.02, results["teacher"]["return_mean"]), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
            axis.annotate(
                "random", (0.98, results["random"]["return_mean"]), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8
            )
    axes[0].set_ylabel("return at checks")
    if with_teacher:
        axes[2].plot([r["env_steps"] for r in rows], [r["agreement"] for r in rows], color=STUDENT, marker="o", markersize=3)
        axes[2].set(xlabel="environment steps", ylabel="agreement, weighted by value gap", ylim=(0, 1.02))
    return _svg(figure)


def _returns(results: dict[str, Any]) -> str:
    """Mean returns with their intervals, greedy and disturbed."""
    ways = {"greedy": {side: results[side] for side in ("teacher", "student")}, **results["disturbed"]}
    figure, (axis,) = _figure(1, 0.6 + 0.55 * len(ways))
    axis.grid(axis="x", color="#eeeeee")
    for row, way in enumerate(ways.values()):
        for offset, side, color in ((-0.13, "teacher", TEACHER), (0.13, "student", STUDENT)):
            low, high = way[side]["return_ci95"]
            axis.plot([low, high], [row + offset] * 2, color=color, linewidth=2)
            axis.plot(way[side]["return_mean"], row + offset, "o", color=color, label=side if row == 0 else None)
            axis.annotate(
                f"{way[side]['return_mean']:.2f}", (high, row + offset), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
            )
    axis.set_yticks(range(len(ways)), [name.replace("_", " ") for name in ways])
    axis.set_ylim(len(ways) - 0.5, -0.5)
    axis.set_xlabel("return, mean and 95 % interval")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _table(table: list[list[int]], names: list[str]) -> str:
    """Who picks what, on states that the student visits."""
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axis = figure.add_subplot()
    share = [[count / max(sum(row), 1) for count in row] for row in table]
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axis.set_xticks(ticks, names, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(ticks, names, fontsize=7)
    axis.set(xlabel="student picks", ylabel="teacher picks")
    for y, row in enumerate(table):
        for x, count in enumerate(row):
            axis.annotate(str(count), (x, y), ha="center", va="center", fontsize=7, color="white" if share[y][x] > 0.5 else "black")
    return _svg(figure)


def _frontier(results: dict[str, Any]) -> str:
    """Score against size, a dot per student size with its interval over seeds."""
    figure, (axis,) = _figure(1, 3.6)
    for row in results["frontier"]:
        color = STUDENT if row["student"] == results["winner"] else TEACHER
        low, high = row["score_ci95"] or (row["score_mean"], row["score_mean"])
        axis.plot([row["params"]] * 2, [low, high], color=color, linewidth=1.5)
        axis.plot(row["params"], row["score_mean"], "o", color=color)
        axis.plot(row["params"], row["best_score"], "_", color=color, markersize=10)
        axis.annotate(row["student"], (row["params"], row["score_mean"]), xytext=(4, -10), textcoords="offset points", fontsize=7)
    axis.axhline(1, color=TEACHER, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    bottom = min(row["score_mean"] for row in results["frontier"])
    axis.set(xlabel="parameters", ylabel="score (dot: mean over seeds, dash: best)", ylim=(max(bottom - 0.15, -0.3), 1.15))
    return _svg(figure)


def _seeds(results: dict[str, Any]) -> str:
    """One dot per training seed."""
    figure, (axis,) = _figure(1, 1.8)
    axis.plot([run["student"]["return_mean"] for run in results["runs"]], [0] * len(results["runs"]), "o", color=STUDENT, alpha=0.6)
    low, high = results["student"]["return_ci95"]
    axis.plot([low, high], [0.3, 0.3], color=STUDENT, linewidth=2)
    axis.plot(results["student"]["return_mean"], 0.3, "o", color=STUDENT)
    axis.axvline(results["runs"][0]["teacher"]["return_mean"], color=TEACHER, linestyle="--", linewidth=1)
    axis.set_yticks([0, 0.3], ["each seed", "mean, 95 %"])
    axis.set(xlabel="return (dashed: the teacher)", ylim=(-0.3, 0.6))
    return _svg(figure)

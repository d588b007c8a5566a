"""Charts of a report, as SVG in the colours of the page that it stands in, so that they follow light and dark.

What is said of a place where the pointer rests is an SVG title, which needs no script.
"""

import html
import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from distilrl.animate import Course
from distilrl.played import Dimension, SingleReturns, mean_in_words
from distilrl.results import Results, TeacherResults
from distilrl.studies import Studies
from distilrl.summaries import PlanResults, SeedsResults
from distilrl.text import shortened
from distilrl.verdict import Result, difference_in_words, digits_of, in_words, margin_in_words

TEACHER, STUDENT, INK, FAINT, GRID = "#4a4a4a", "#1769aa", "#222222", "#b8b8b8", "#eeeeee"
WITHIN = "#3d6f00"
COLORS: dict[Result, str] = {"pass": "#1b7f3b", "within_margin": WITHIN, "inconclusive": "#8a5c00", "fail": "#b3261e"}
"""Of verdicts."""
VARIABLES = {
    TEACHER: "--teacher", STUDENT: "--student", INK: "--ink", FAINT: "--faint", GRID: "--line", WITHIN: "--within",
    COLORS["pass"]: "--pass", COLORS["inconclusive"]: "--inconclusive", COLORS["fail"]: "--fail",
}  # fmt: skip
"""Colour in the drawing → variable of the page's style sheet."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distilrl",
    "text.parse_math": False,  # names come from files
    "font.size": 9,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
WIDE = 4.8
"""Inches: two charts stand side by side on a desk, and one shrinks to a telephone."""
LOWEST_SCORE = -0.15
"""Of a chart; 0 is random play, and what lies further below would flatten what is of interest."""
MOST_DIMENSIONS = 30
MOST_ACTIONS = 4
"""Actions of an episode that are drawn."""
MOST_SAID = 40
"""Places of a drawing that are told to whom a screen is read to."""
HOVER = "hover: "
"""What the id of a group begins with whose rest is said where the pointer rests on it."""

Row = Mapping[str, float]


@mpl.rc_context(STYLE)
def curves(rows: Sequence[Row], results: Results | TeacherResults) -> list[str]:
    """Return and agreement against steps, with the seconds of training above.

    Args:
        rows: of metrics.csv; a number that was not measured is NaN.
        results: of the run.
    """
    charts = [_return_curve(rows, results)]
    agreed = [r for r in rows if not math.isnan(r.get("agreement", math.nan))]
    if isinstance(results, Results) and agreed:
        figure, axis = _figure(WIDE, 2.9)
        axis.plot([r["env_steps"] for r in agreed], [r["agreement"] for r in agreed], "o-", color=STUDENT, markersize=3)
        for r in agreed:
            _say_at(
                axis, r["env_steps"], r["agreement"], f"{r['env_steps']:,.0f} steps: agreement {r['agreement']:.3f}"
            )
        axis.set(xlabel="environment steps", ylabel="agreement, weighted by stakes", ylim=(0, 1.02))
        charts.append(_svg(figure))
    return charts


def _return_curve(rows: Sequence[Row], results: Results | TeacherResults) -> str:
    """Return at checks, between the teacher's and random play's where these are of the same environment."""
    figure, axis = _figure(WIDE, 2.9)
    axis.plot([r["env_steps"] for r in rows], [r["return"] for r in rows], "o-", color=STUDENT, markersize=3)
    for r in rows:
        score = r.get("score", math.nan)
        words = f"{r['env_steps']:,.0f} steps, {r['train_s']:,.1f} s: return {r['return']:,.2f}"
        _say_at(axis, r["env_steps"], r["return"], words + ("" if math.isnan(score) else f", score {score:.3f}"))
    axis.set(xlabel="environment steps", ylabel="return at checks")
    if isinstance(results, Results) and results.verdict_environment is None:
        both = (("teacher", results.teacher, "--", TEACHER), ("random", results.random, ":", FAINT))
        for name, side, line, color in both:
            height = side.return_mean
            axis.axhline(height, color=color, linestyle=line, linewidth=1)
            axis.annotate(name, (0.98, height), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8)
    marked = rows[:: max(1, len(rows) // 4)]
    above = axis.secondary_xaxis("top")
    above.set_xticks([r["env_steps"] for r in marked], [_seconds(r["train_s"]) for r in marked])
    above.spines["top"].set_visible(False)
    above.tick_params(length=0, labelsize=8, colors=TEACHER)
    return _svg(figure)


@mpl.rc_context(STYLE)
def verdicts(results: Results) -> str:
    """How far the student's return is off its teacher's, by way of playing: the interval that decides, the margin, and
    where random play is.
    """
    found = [results.verdict, *(way.verdict for way in results.disturbed.values())]
    random = results.random.return_mean - results.teacher.return_mean
    figure, axis = _figure(WIDE, 1.0 + 0.4 * len(found))
    axis.grid(visible=False, axis="y")
    margin = results.verdict.margin
    axis.axvspan(-margin, 0, color=WITHIN, alpha=0.13, linewidth=0)
    places = [random, -margin, margin, *(end for one in found for end in one.interval)]  # a teacher may play worse
    first, last = min(places), max(places)
    room = last - first
    above = 14 if abs(random + margin) < 0.25 * room else 3  # where their names would lie on each other
    marks = (
        (0.0, "teacher", "-", "left", 3),
        (-margin, "margin", "--", "right", 3),
        (random, "random play", ":", "center", above),
    )
    for place, name, line, where, up in marks:
        axis.axvline(place, color=TEACHER, linestyle=line, linewidth=1)
        axis.annotate(name, (place, 1), xycoords=("data", "axes fraction"), xytext=(0, up), textcoords="offset points",
                      ha=where, va="bottom", fontsize=8)  # fmt: skip
    for row, one in enumerate(found):
        color = COLORS[one.result]
        axis.plot(one.interval, [row] * 2, color=color, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axis.plot(one.difference, row, "o", color=color, markersize=6)
        difference = f"{one.difference:+,.{digits_of(one.margin)}f}"
        _note(axis, f"{difference} {in_words(one.result)}", max(one.interval[1], 0.0), row)
        against = f"{difference_in_words(one)}, margin {margin_in_words(one)}"
        words = f"{one.protocol}: {against}: {in_words(one.result)}"
        axis.axhspan(row - 0.5, row + 0.5, alpha=0, zorder=9, gid=HOVER + words)
    axis.set_yticks(range(len(found)), _apart([one.protocol for one in found]))
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlim(first - 0.05 * room, last + 0.42 * room)
    axis.set_xlabel("student's return − teacher's")
    return _svg(figure)


@mpl.rc_context(STYLE)
def distribution(returns: SingleReturns) -> str:
    """How the returns of single episodes are spread, of teacher and student."""
    figure, axis = _figure(WIDE, 2.9)
    both = (("teacher", TEACHER, returns.teacher), ("student", STUDENT, returns.student))
    values = np.array([*returns.teacher, *returns.student])
    middle, half = (values.min() + values.max()) / 2, (values.max() - values.min()) / 2
    half = 1.02 * max(half, 0.01 * abs(middle), 1e-6)
    edges = np.linspace(middle - half, middle + half, 26)
    for name, color, own in both:
        axis.hist(own, bins=edges.tolist(), color=color, alpha=0.35, label=name)
        axis.hist(own, bins=edges.tolist(), color=color, histtype="step")
    counts = [np.histogram(own, edges)[0] for _, _, own in both]
    for low, high, theirs, ours in zip(edges[:-1], edges[1:], *counts, strict=True):
        if theirs + ours:
            words = f"{low:,.2f} to {high:,.2f}, episodes: teacher {theirs}, student {ours}"
            axis.axvspan(low, high, alpha=0, zorder=9, gid=HOVER + words)
    axis.set(xlabel="return of an episode", ylabel="episodes")
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper left", ncols=2)
    return _svg(figure)


@mpl.rc_context(STYLE)
def errors(dimensions: Sequence[Dimension], names: Sequence[str], unit: str = "half-ranges") -> str:
    """How far the student's real actions are off, a bar for each dimension, on states that the student visits.

    Args:
        dimensions: how far each is off.
        names: of the dimensions; where there are many, the worst are shown.
        unit: what errors are counted in.
    """
    shown = sorted(range(len(dimensions)), key=lambda d: -dimensions[d].rms)[:MOST_DIMENSIONS]
    shown.sort()
    figure, axis = _figure(WIDE, 0.8 + 0.28 * len(shown))
    axis.grid(visible=False, axis="y")
    for row, one in enumerate(dimensions[d] for d in shown):
        first = row == 0
        axis.barh(row, one.rms, height=0.6, color=STUDENT, alpha=0.45, label="root mean square" if first else None)
        axis.plot(one.bias, row, "o", color=INK, markersize=4, label="mean (bias)" if first else None)
        words = f"{one.rms:.3f}" + (f", {one.at_bound:.0%} at a bound" if one.at_bound >= 0.005 else "")
        _note(axis, words, max(one.rms, one.bias), row)
        said = f"{names[shown[row]]}: root mean square {words}; mean {one.bias:+.3f}"
        axis.axhspan(row - 0.5, row + 0.5, alpha=0, zorder=9, gid=HOVER + said)
    axis.axvline(0, color=FAINT, linewidth=1)
    axis.set_yticks(range(len(shown)), [shortened(names[d], 16) for d in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.margins(x=0.3 if any(one.at_bound >= 0.005 for one in dimensions) else 0.12)
    axis.set_xlabel(f"student − teacher, in {unit}")
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper left", ncols=2)
    return _svg(figure)


@mpl.rc_context(STYLE)
def courses(found: Mapping[str, Course]) -> str:
    """An episode step by step: the return so far, and the first actions under it.

    Args:
        found: by who played, the teacher first.
    """
    first = next(iter(found.values()))
    shown = min(first.actions.shape[1], MOST_ACTIONS)
    figure = Figure(figsize=(WIDE, 1.7 + 0.8 * shown), layout="constrained")
    axes: list[Axes] = list(
        figure.subplots(1 + shown, 1, sharex=True, squeeze=False, height_ratios=[1.5] + [1] * shown)[:, 0]
    )
    widths = (3.0, 1.0) if len(found) > 1 else (1.0,)  # where both do the same, both are seen
    for (name, one), width, color in zip(found.items(), widths, (TEACHER, STUDENT)[-len(found) :], strict=True):
        alpha = 0.45 if width > 1 else 1.0
        so_far = np.cumsum(one.rewards)
        axes[0].plot(range(1, len(so_far) + 1), so_far, color=color, linewidth=width, alpha=alpha, label=name)
        _say_at(axes[0], len(so_far), so_far[-1], f"{name}: {so_far[-1]:,.2f} after {len(so_far):,} steps")
        for axis, action in zip(axes[1:], one.actions.T, strict=False):
            axis.step(range(len(action)), action, where="post", color=color, linewidth=width, alpha=alpha)
    axes[0].set_ylabel("return so far")
    for number, axis in enumerate(axes[1:]):
        axis.set_ylabel("action" if first.actions.shape[1] == 1 else f"action {number}")
        if not first.real:
            axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[-1].set_xlabel("step of the episode")
    for axis in axes:
        axis.locator_params(axis="x", nbins=6)
    axes[0].yaxis.set_major_formatter(_tick)
    figure.align_ylabels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper left", ncols=2)
    return _svg(figure)


@mpl.rc_context(STYLE)
def frontier(results: PlanResults) -> str:
    """Score against size, a dot per student size with its worst and best seed; a triangle at the edge for what lies
    far below it. Nothing where there are no scores.
    """
    scored = [
        (row, row.score_mean, row.worst_score, row.best_score)
        for row in results.frontier
        if row.score_mean is not None and row.worst_score is not None and row.best_score is not None
    ]
    if not scored:
        return ""
    figure, axis = _figure(6.4, 3.4)
    for row, mean, worst, best in scored:
        color = STUDENT if row.student == results.winner else TEACHER
        axis.plot([row.params] * 2, [worst, best], color=color, linewidth=1.5)
        at = max(mean, LOWEST_SCORE)
        axis.plot(row.params, at, "o" if at == mean else "v", color=color)
        _note(axis, shortened(row.student, 28), row.params, at, below=8)
        words = f"{row.student}: {row.params:,} parameters, score {mean:.3f} ({worst:.3f} to {best:.3f})"
        said = words + (f": {in_words(row.verdict)}" if row.verdict else "")
        _say_at(axis, row.params, at, said)
    axis.axhline(1, color=TEACHER, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = min(worst for _, _, worst, _ in scored), max(best for _, _, _, best in scored)
    axis.set(xlabel="parameters", ylabel="score (dot: mean over seeds, line: all)")
    axis.xaxis.set_major_formatter(_tick)
    axis.set_ylim(max(bottom, LOWEST_SCORE) - 0.15, max(top, 1.0) + 0.15)
    return _svg(figure)


@mpl.rc_context(STYLE)
def seeds(results: SeedsResults) -> str:
    """One dot per training seed."""
    figure, axis = _figure(WIDE, 1.7)
    axis.grid(visible=False, axis="y")
    runs, student = results.runs, results.student
    axis.plot([run.student.return_mean for run in runs], [0] * len(runs), "o", color=STUDENT, alpha=0.6)
    for run in runs:
        words = f"seed {run.seed}: return {run.student.in_words()}, {in_words(run.worst)}"
        _say_at(axis, run.student.return_mean, 0, words)
    _say_at(
        axis,
        student.return_mean,
        0.3,
        f"{len(runs)} seeds: return {mean_in_words(student.return_mean, student.return_ci95)}",
    )
    axis.plot(student.return_ci95, [0.3, 0.3], color=STUDENT, linewidth=2)
    axis.plot(student.return_mean, 0.3, "o", color=STUDENT)
    axis.axvline(runs[0].teacher.return_mean, color=TEACHER, linestyle="--", linewidth=1)
    axis.set_yticks([0, 0.3], ["each seed", "mean, 95 %"])
    axis.set(xlabel="return (dashed: the teacher)", ylim=(-0.3, 0.6))
    return _svg(figure)


MOST_PAIRS = 12
"""Pairs of studies that are drawn; the table has all."""
CYCLE = ("#1769aa", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#4a4a4a", "#00868b", "#a0522d")
"""Colours of studies, in their order; a ninth begins anew, dashed."""
CHINESE = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei",
    "SimHei", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
)  # fmt: skip
"""Fonts of systems; a page is shown in its reader's, the text of a PNG in one that is found here."""
INSTALLED = font_manager.get_font_names()
FONTS = ["DejaVu Sans", *(font for font in CHINESE if font in INSTALLED)]


@mpl.rc_context(STYLE | {"savefig.transparent": False, "font.size": 10, "font.family": FONTS})
def studies(found: Studies) -> bytes:
    """Several studies as a PNG: interquartile means, performance profiles and probabilities of improvement, each with
    its 95 % interval.
    """
    rows, pairs = found.rows, found.pairs[:MOST_PAIRS]
    figure = Figure(figsize=(12.5, 1.6 + 0.42 * max(len(rows), len(pairs), 5)), layout="constrained")
    middles, profiles, better = figure.subplots(1, 3, width_ratios=(1, 1.2, 1))
    lines = []
    for number, row in enumerate(rows):
        color, line = CYCLE[number % len(CYCLE)], "--" if number >= len(CYCLE) else "-"
        if row.iqm_ci95:
            middles.plot(row.iqm_ci95, [number] * 2, color=color, linewidth=6, alpha=0.4, solid_capstyle="butt")
        middles.plot(row.iqm, number, "|", color=color, markersize=16, markeredgewidth=2)
        lines += profiles.plot(found.at, row.profile, color=color, linestyle=line, drawstyle="steps-post")
        if row.profile_low:
            profiles.fill_between(found.at, row.profile_low, row.profile_high, step="post", color=color, alpha=0.12)
    middles.set(title="interquartile mean", xlabel="score (0 random play, 1 the teacher)")
    _rows(middles, [_end(row.name, 24) for row in rows])
    profiles.set(title="performance profile", xlabel="score τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    profiles.legend(lines, [row.name for row in rows], frameon=False, fontsize=8, loc="lower left")
    for number, pair in enumerate(pairs):
        if pair.improvement_ci95:
            ends = pair.improvement_ci95
            better.plot(ends, [number] * 2, color=TEACHER, linewidth=6, alpha=0.4, solid_capstyle="butt")
        better.plot(pair.improvement, number, "|", color=TEACHER, markersize=16, markeredgewidth=2)
    better.axvline(0.5, color=FAINT, linestyle="--", linewidth=1)
    left_out = f"\n({len(pairs)} of {len(found.pairs)} pairs)" if len(pairs) < len(found.pairs) else ""
    better.set(
        title=f"probability of improvement{left_out}", xlabel="P(a run of the first\n> a run of the second)",
        xlim=(-0.02, 1.02),
    )  # fmt: skip
    _rows(better, [f"{_end(pair.one, 20)}\n> {_end(pair.other, 20)}" for pair in pairs])
    figure.suptitle(f"{' + '.join(found.envs)}: bars are 95 % intervals", fontsize=10)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # where no font has a name's characters, the table beside has the name
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _rows(axis: Axes, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first at the top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.locator_params(axis="x", nbins=5)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.add_subplot()
    axis.locator_params(axis="x", nbins=4)
    axis.xaxis.set_major_formatter(_tick)
    axis.yaxis.set_major_formatter(_tick)
    return figure, axis


def _note(axis: Axes, text: str, x: float, y: float, below: int = 0) -> None:
    """Words to the right of a point."""
    axis.annotate(text, (x, y), xytext=(5, -below), textcoords="offset points", va="center", fontsize=8)


def _say_at(axis: Axes, x: float, y: float, words: str) -> None:
    """Words for whoever points at a place."""
    axis.plot(x, y, "o", color=INK, alpha=0, markersize=14, markeredgewidth=0, zorder=9, gid=HOVER + words)


def _tick(value: float, _position: float) -> str:
    """A number on an axis, short: 2.5k, 10M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _seconds(seconds: float) -> str:
    return f"{_tick(float(f'{seconds:.3g}'), 0)} s"


def _apart(protocols: Sequence[str]) -> list[str]:
    """Ways of playing in two short lines each, without what all of them have in common."""
    parts = [one.split(", ") for one in protocols]
    common = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    rest = [", ".join(part for part in one if part not in common) or "undisturbed" for one in parts]
    return [textwrap.fill(one, 24, max_lines=2, placeholder="…") for one in rest]


def _end(name: str, most: int) -> str:
    """As `shortened`, of names that differ at their ends, as those of folders do."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def in_hex(drawing: str) -> str:
    """A drawing of this module as a file of its own, on white: a page chooses the colours, and here there is none."""
    for color, variable in VARIABLES.items():
        drawing = drawing.replace(f"var({variable})", color)
    head, _, rest = drawing.partition(">")
    return f'{head}><rect width="100%" height="100%" fill="#ffffff"/>{rest}'


def _svg(figure: Figure) -> str:
    """The drawing as text to be put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    pointed = rf"""<g id=(["']){HOVER}(.*?)\1>"""
    said = [html.unescape(words) for _, words in re.findall(pointed, text)]
    text = re.sub(pointed, r'<g class="hover"><title>\2</title>', text)
    return f'<svg role="img" aria-label="{html.escape(_told(figure, said))}"{text[text.index("<svg") + 4 :]}'


def _told(figure: Figure, said: Sequence[str]) -> str:
    """A drawing in words, for whom a screen is read to: its axes, and what is said where a pointer rests."""
    names = (figure.axes[0].get_ylabel(), figure.axes[-1].get_xlabel())
    more = [f"and {len(said) - MOST_SAID} more"] if len(said) > MOST_SAID else []
    return "; ".join([" against ".join(filter(None, names)), *said[:MOST_SAID], *more])

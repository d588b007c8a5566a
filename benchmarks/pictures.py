"""Makes the pictures of the README, the gallery and the fields' pages: teacher and student in the same episode.

    python benchmarks/pictures.py [NAME ...]     # one of FIGURES, KEPT, ROWS and DOTS; all by default

Students of KEPT are those of a run of results/. Those of ROWS are trained by their row of field_rows, with as short a
verdict as there can be, for it is not shown; what their environments cannot draw is drawn as curves, which come step by
step. FIGURES are drawn of the raw results and train nothing: `case-study` the checks of results/case-study and
`case-study-losses` what it learns by, `methods` the comparison's differences over all, and DOTS what a field's row
returned where nothing moves. Each says in its file which numbers it draws, by their digest, so that one that is old can
be told.
"""

import functools
import hashlib
import io
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import case_study
import matplotlib as mpl
import method_tables
import numpy as np
from fields import OUT as FIELDS_OUT
from fields import command, field, found, is_tree, size
from lines import RESULTS, made
from matplotlib.figure import Figure
from result_tables import Row, grouped

from distilrl import Policy, describe_env, load_network, load_teacher, trust
from distilrl.animate import side_by_side
from distilrl.cli import main as distilrl
from distilrl.figures import STYLE
from distilrl.metrics import read_metrics

OUT = Path("docs/pictures")
KEPT = {
    "pong": ("PongNoFrameskip-v4", "zoo/pong-dqn", "pong-2k-pruned", 600),
    "g1": ("examples.unitree:G1-v0", "teachers/motion.pt", "boards/g1-2992", 240),
}
"""Environment, teacher, run of results/ and steps, by name."""
ROWS = {
    "merge": ("driving", "merge", "mlp:16,16"),
    "bipedalwalker": ("robots", "BipedalWalker", "mlp:16"),
    "minatar-breakout": ("games", "MinAtar Breakout", "cnn:4k3s1:16"),
    "doorkey": ("games", "MiniGrid DoorKey", "mlp:4,4"),
    "doom": ("games", "ViZDoom basic", "cnn:2k8s4,4k4s2,4k3s2:8"),
    "trading": ("trading", "SP500-v0", "mlp:16"),
    "greenhouse": ("environment", "Lettuce-v0", "mlp:16"),
    "sensor": ("environment", "Sensor-v0", "mlp:"),
}
"""Field, row and student, by name."""
DOTS = {
    "treatment": ("treatment", "ICU-Sepsis", "share of patients that survives"),
    "diagnosis": ("images", "brain MR slices, 128,000 steps", "share of right answers on held-out images"),
}
"""Field, row and what is returned, by name."""
STEPS = {"doom": 30}
"""At most, by name: textures are large files. 400 of the others."""


def kept(name: str, env: str, teacher_path: str, run: str, steps: int) -> None:
    """Draws an episode of a run of results/."""
    trust("examples")
    teacher = load_teacher(teacher_path).fitted(describe_env(env))
    student = load_network(RESULTS / run / "student")
    players = {
        f"teacher, {teacher.params:,} parameters": teacher.policy,
        f"student, {student.network.spec.params:,} parameters": Policy(student.network, student.head),
    }
    (OUT / f"{name}.webp").write_bytes(side_by_side(players, env, steps=steps))


BLUE, ORANGE = "#3b8fd9", "#e0762a"
COLORS = {"distil": BLUE, "case_study": ORANGE}
GREY = "#808890"
"""Of words and axes. This and the colours can be told from a white page and from a dark one, which lies behind."""
INKS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
LOOK = STYLE | dict.fromkeys(INKS, GREY) | {"font.sans-serif": ["DejaVu Sans"], "font.size": 8}
LOOK |= {"grid.color": GREY, "grid.alpha": 0.25}


BREAKOUT_RUNS = {"distil": "breakout-61k", "case_study": "breakout-61k-case-study"}
"""Of pong.py."""
LOSS_RUNS = {"Pong": {"distil": "pong-61k-default", "case_study": "pong-61k-case-study"}, "Breakout": BREAKOUT_RUNS}
"""Of pong.py, too."""
LOSSES = (
    ("case_study", "worst_value_gap", "L_adv", "--", 0.6),
    ("case_study", "forward_kl", "L_KL", "-", 0.4),
    ("distil", "forward_kl", "L_KL", "-", 0.3),
)
"""Whose, the term, what it is called, its line, and how high its name stands."""


def checks_of(run: str) -> list[list[float]]:
    """Steps, score and agreement of each check of a run of results/."""
    rows = read_metrics(RESULTS / run / "metrics.csv")
    return [[float(row[name]) for name in ("env_steps", "score", "agreement")] for row in rows]


@mpl.rc_context(LOOK)
def curves(seeds: range = range(5), across: int = 5) -> Figure:
    """Score and agreement of each check of `distil` and `case_study`: the mean over seeds, and thin, each of them."""
    panels: list[tuple[str, list[Row]]] = []
    for env_id in case_study.BUDGETS:
        rows = [row for row in made(case_study.OUT / f"{env_id}.jsonl") if row["seed"] in seeds]
        for (student, steps), group in sorted(grouped(rows, "student", "steps").items()):
            if {row["way"] for row in group} >= set(COLORS):  # else there is nothing to hold one against
                name = env_id.removesuffix("NoFrameskip-v4").split("-")[0]
                panels.append((f"{name} {student}\n{steps:,} steps", group))
    of_runs = [{"way": way, "checks": checks_of(run)} for way, run in BREAKOUT_RUNS.items()]
    panels.append(("Breakout cnn:16,16,16:64\n1,400,000 steps", of_runs))
    blocks = -(-len(panels) // across)
    figure = Figure(figsize=(2.3 * across, 2.9 * blocks), layout="constrained")
    axes = figure.subplots(2 * blocks, across, squeeze=False).reshape(blocks, 2, across)
    for number, (title, group) in enumerate(panels):
        above, below = axes[number // across, :, number % across]
        above.set_title(title, fontsize=8)
        above.tick_params(labelbottom=False)
        for part, (axis, what) in enumerate(((above, "score"), (below, "agreement")), start=1):
            rising = group is of_runs  # to the end, so that there is room above its beginning
            for place, (way, color) in zip((0.9, 0.75) if rising else (0.25, 0.1), COLORS.items(), strict=True):
                checks = np.array([row["checks"] for row in group if row["way"] == way])
                axis.plot(checks[:, :, 0].T, checks[:, :, part].T, color=color, linewidth=0.7, alpha=0.5, clip_on=False)
                axis.plot(checks[0, :, 0], checks[:, :, part].mean(0), color=color, linewidth=1.8, clip_on=False)
                told = f"{way}, {len(checks)} seed{'s' * (len(checks) > 1)}"
                if axis is above:
                    x, side = (0.03, "left") if rising else (0.97, "right")
                    axis.text(x, place, told, color=color, ha=side, transform=axis.transAxes, fontsize=7)
            axis.set_ylim(None, max(1.08, *(line.get_ydata().max() for line in axis.lines)))
            axis.locator_params(nbins=3)
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.set_ylabel(what if number % across == 0 else "")
    for axis in axes.transpose(0, 2, 1).reshape(-1, 2)[len(panels) :].flat:
        axis.set_visible(False)
    return figure


@mpl.rc_context(LOOK)
def losses() -> Figure:
    """L_KL of `distil` and `case_study`, and L_adv of the latter, at each check."""
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for axis, (game, runs) in zip(figure.subplots(1, 2), LOSS_RUNS.items(), strict=True):
        rows = {way: read_metrics(RESULTS / run / "metrics.csv") for way, run in runs.items()}
        for way, term, told, dashes, height in LOSSES:
            steps, values = ([float(row[name]) for row in rows[way]] for name in ("env_steps", f"loss/{term}"))
            axis.plot(steps, values, dashes, color=COLORS[way], linewidth=1.6)
            axis.text(0.97, height, f"{told} of {way}", color=COLORS[way], ha="right", transform=axis.transAxes)
        axis.set_title(f"{game} cnn:16,16,16:64", fontsize=8)
        axis.set_ylim(0, None)
        axis.locator_params(nbins=4)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure


@mpl.rc_context(LOOK)
def dots(name: str) -> Figure:
    """Returns of teacher, students and rules without learning, with their intervals; the margin as a line."""
    of, row, what = DOTS[name]
    known = found(of)[row]
    lines = [line for line in made(FIELDS_OUT / f"{of}.jsonl") if line["row"] == row]
    students = [run["results"]["student"] for run in lines if "results" in run and run["seed"] == 0]
    parts = [(rule, line, GREY) for rule, line in known.rules.items()]
    parts += [
        (f"tree, {size(one)}" if is_tree(one["name"]) else f"student, {size(one)} parameters", one, BLUE)
        for one in students
    ]
    parts.append((f"teacher, {known.teacher['params']:,} parameters", known.teacher, ORANGE))
    parts.sort(key=lambda part: part[1]["return_mean"])
    figure = Figure(figsize=(4.6, 0.5 + 0.21 * len(parts)), layout="constrained")
    axis = figure.subplots()
    for place, (_, one, color) in enumerate(parts):
        axis.plot(one["return_ci95"], [place, place], color=color, linewidth=1.6, solid_capstyle="round")
        axis.plot(one["return_mean"], place, "o", color=color, markersize=4)
    axis.axvline(known.teacher["return_mean"] - known.verdict["margin"], color=ORANGE, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(parts)), [label for label, *_ in parts])
    for tick, (*_, color) in zip(axis.get_yticklabels(), parts, strict=True):
        tick.set_color(color)
    axis.tick_params(length=0)
    axis.set_xlabel(what)
    return figure


@mpl.rc_context(LOOK)
def differences() -> Figure:
    """Each method's difference to the default over all environments with its interval, and of each of them a dot."""
    rows = method_tables.wholes()[::-1]
    figure = Figure(figsize=(5.6, 0.6 + 0.19 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linewidth=0.8)
    for place, row in enumerate(rows):
        color = ORANGE if row.difference.survives else GREY if row.method in method_tables.NOT_TESTED else BLUE
        axis.plot(row.each, [place] * len(row.each), "o", color=color, alpha=0.35, markersize=2.5, markeredgewidth=0)
        axis.plot(row.difference.interval, [place, place], color=color, linewidth=1.8, solid_capstyle="round")
        axis.plot(row.difference.mean, place, "o", color=color, markersize=4)
    axis.set_yticks(range(len(rows)), [row.method for row in rows])
    axis.set_ylim(-0.8, len(rows) - 0.2)
    axis.tick_params(length=0)
    axis.set_xlabel("difference to the default, in (teacher − random)")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "case-study": curves,
    "case-study-losses": losses,
    "methods": differences,
} | {name: functools.partial(dots, name) for name in DOTS}


def digest(figure: Figure) -> str:
    """Of the numbers that a figure draws, to seven places, and the names beside them."""
    told = hashlib.sha256()
    for axis in figure.axes:
        names = getattr(axis.yaxis.get_major_formatter(), "seq", ())  # that were set: numbers are matplotlib's own
        told.update(repr([axis.get_title(), *names]).encode())
        for line in axis.lines:
            told.update(repr((np.asarray(line.get_xydata(), float).round(7) + 0.0).tolist()).encode())
    return told.hexdigest()


@mpl.rc_context(LOOK)
def save_svg(figure: Figure, name: str) -> None:
    """A figure as a picture of the documents."""
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Description": f"numbers {digest(figure)}"})
    (OUT / f"{name}.svg").write_text(short_svg(drawing.getvalue()), encoding="utf-8")


def short_svg(drawing: str) -> str:
    """Matplotlib's SVG at half its size: numbers to a tenth of a point, each style said once, no names of groups."""
    text = "\n".join(line.strip() for line in drawing.splitlines())
    text = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.1f}", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    styles = {style: f"s{at}" for at, style in enumerate(dict.fromkeys(re.findall(r' style="([^"]*)"', text)))}
    text = re.sub(r' style="([^"]*)"', lambda found: f' class="{styles[found[1]]}"', text)
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    return text.replace("</style>", f"{rules}</style>", 1) + "\n"


def of_row(name: str) -> None:
    """Trains a row's student and draws an episode of it."""
    of, row, student = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = short(command(field(of).rows[row], student, 0, run))
        if distilrl(words) not in (0, 1, 3):
            sys.exit(f"distilrl {shlex.join(words)}: see above.")
        if distilrl(["watch", str(run), "--steps", str(STEPS.get(name, 400))]) != 0:
            sys.exit(f"distilrl watch: nothing to see of {name}.")
        (drawn,) = run.glob("watch.*")
        if drawn.suffix == ".svg":
            (OUT / f"{name}.svg").write_text(moving(drawn.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copy(drawn, OUT / f"{name}{drawn.suffix}")


SECONDS = 12
"""That an episode takes which is drawn as curves; the first two show it whole, as does what moves no pictures."""


def moving(drawing: str) -> str:
    """Matplotlib's SVG with what lies on its axes uncovered from left to right, over and over; the grid stays."""
    still = re.sub(r' clip-path="[^"]*"(?= style="fill: none; stroke: #eeeeee)', "", drawing)
    course = f'dur="{SECONDS}s" keyTimes="0;{2 / SECONDS:.3f};{2 / SECONDS:.3f};1" repeatCount="indefinite"'
    return re.sub(
        r'(<clipPath[^>]*>\s*<rect[^>]* width="([\d.]+)"[^>]*)/>',
        lambda found: (
            f'{found[1]}><animate attributeName="width" values="{found[2]};{found[2]};0;{found[2]}" {course}/></rect>'
        ),
        still,
    )


def short(words: list[str]) -> list[str]:
    """A command with a verdict of two episodes, or a few."""
    kept = list(words)
    for option in ("--episodes", "--disturbed-episodes"):
        if option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return [*kept, "--episodes", "2", "--disturbed-episodes", "0"]


if __name__ == "__main__":
    drawn = {name: functools.partial(kept, name, *about) for name, about in KEPT.items()}
    for name in sys.argv[1:] or (*drawn, *FIGURES, *ROWS):
        if name in FIGURES:
            save_svg(FIGURES[name](), name)
        else:
            drawn.get(name, functools.partial(of_row, name))()

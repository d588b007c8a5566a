"""Makes the pictures of the README, the gallery and the fields' pages: teacher and student in the same episode.

    python benchmarks/pictures.py [NAME ...]     # NAME: pong, or one of ROWS; all where none is given

Pong's student is the one of results/pong-2k-pruned. The others are trained by their row of field_rows, with as short a
verdict as there can be, for it is not shown; what their environments cannot draw is drawn as curves.
"""

import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from fields import command, field

from distilrl import Policy, describe_env, load_network, load_teacher
from distilrl.animate import side_by_side
from distilrl.cli import main as distilrl

OUT = Path("docs/pictures")
PONG = "PongNoFrameskip-v4"
ROWS = {
    "highway": ("driving", "highway", "mlp:16,16"),
    "bipedalwalker": ("robots", "BipedalWalker", "mlp:16"),
    "minatar-breakout": ("games", "MinAtar Breakout", "cnn:4k3s1:16"),
    "doorkey": ("games", "MiniGrid DoorKey", "mlp:3"),
    "trading": ("trading", "SP500-v0", "mlp:8"),
    "greenhouse": ("environment", "Lettuce-v0", "mlp:16"),
    "sensor": ("environment", "Sensor-v0", "mlp:"),
}
"""Field, row and student, by name."""
STEPS = 400
"""Of an episode, at most."""


def pong() -> None:
    teacher = load_teacher("zoo/pong-dqn").fitted(describe_env(PONG))
    student = load_network("benchmarks/results/pong-2k-pruned/student")
    players = {
        f"teacher, {teacher.params:,} parameters": teacher.policy,
        f"student, {student.network.spec.params:,} parameters": Policy(student.network, student.head),
    }
    (OUT / "pong.webp").write_bytes(side_by_side(players, PONG, steps=600))


def of_row(name: str) -> None:
    """Trains a row's student and draws an episode of it."""
    of, row, student = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = short(command(field(of).rows[row], student, 0, run))
        if distilrl(words) not in (0, 1, 3):
            sys.exit(f"distilrl {shlex.join(words)}: see above.")
        if distilrl(["watch", str(run), "--steps", str(STEPS)]) != 0:
            sys.exit(f"distilrl watch: nothing to see of {name}.")
        (drawn,) = run.glob("watch.*")
        shutil.copy(drawn, OUT / f"{name}{drawn.suffix}")


def short(words: list[str]) -> list[str]:
    """A command with a verdict of two episodes, or a few."""
    kept = list(words)
    for option in ("--episodes", "--disturbed-episodes"):
        if option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return [*kept, "--episodes", "2", "--disturbed-episodes", "0"]


if __name__ == "__main__":
    for name in sys.argv[1:] or ("pong", *ROWS):
        pong() if name == "pong" else of_row(name)

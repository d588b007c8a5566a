"""Games: MinAtar's, and MiniGrid's mazes; docs/fields/games.md has what makes the teachers."""

from dataclasses import replace

from field_rows import Field, Row, single_action

ENV = "examples.games:games/{}-v0"
MINATAR = ("cnn:8k3s1:32", "cnn:4k3s1:16")
"""Of the default for boards, `cnn:16k3s1:64`, an eighth and a thirtieth of the teacher's size are left."""
QUIET = "--disturbed-episodes 0"
RULES = {"best single action": single_action()}
FEW = f"{QUIET} --episodes 300 --eval-epsilon 0.01"
"""Where there are some fifty starts in all, greedy episodes repeat themselves and give no verdict."""


def _minatar(game: str, episodes: int) -> Row:
    """A game of MinAtar, judged in this many episodes at first."""
    teacher = f"zoo/minatar-{game.lower()}-ppo"
    return Row(ENV.format(game), teacher, MINATAR, f"{QUIET} --episodes {episodes}", "--steps 32000")


ASTERIX, FREEWAY = _minatar("Asterix", 300), _minatar("Freeway", 100)

ROWS = {
    "MinAtar Space Invaders": _minatar("SpaceInvaders", 1000),
    "MinAtar Breakout": _minatar("Breakout", 300),
    "MinAtar Asterix": ASTERIX,
    "MinAtar Asterix, 128,000 steps": replace(ASTERIX, training="--steps 128000"),
    "MinAtar Asterix, 512,000 steps": replace(ASTERIX, students=("cnn:16k3s1:64",), training="--steps 512000"),
    "MinAtar Freeway": FREEWAY,
    "MinAtar Freeway, 128,000 steps": replace(FREEWAY, training="--steps 128000"),
    "MinAtar Seaquest": _minatar("Seaquest", 1000),
    "MiniGrid DoorKey": Row(
        ENV.format("DoorKey"), "zoo/doorkey-dqn", ("mlp:64,64", "mlp:16,16", "mlp:4,4", "mlp:3"), FEW
    ),
    "MiniGrid Memory": Row(
        ENV.format("Memory"), "zoo/memory-dqn", ("gru:16", "mlp:16,16"), FEW, "--hide cue --steps 12000"
    ),
    "MiniGrid Memory, a picture": Row(
        ENV.format("Memory"),
        "zoo/memory-dqn",
        ("cnn:8k3s1:16+gru:16", "cnn:8k3s1:16"),
        f"{FEW} --env-kwargs '{{\"picture\": true}}' --teacher-reads cue --teacher-reads view",
        "--hide cue --hide view --steps 48000",
    ),
    "ViZDoom basic": Row(
        ENV.format("Doom"),
        "zoo/doom-ppo",
        ("cnn:8k6s3,16k4s2:16", "cnn:4k8s4,8k4s2:16", "cnn:4k8s4,8k4s2,8k3s2:16", "cnn:2k8s4,4k4s2,4k3s2:8"),
        f"{QUIET} --resize 60 80",
        "--steps 24000",
    ),
    "ALE Crazy Climber": Row(
        "CrazyClimberNoFrameskip-v4", "zoo/crazyclimber-ppo", ("cnn:8,8,8:32",), QUIET, "--steps 48000"
    ),
    "ALE Road Runner": Row("RoadRunnerNoFrameskip-v4", "zoo/roadrunner-ppo", ("cnn:8,8,8:32",), QUIET, "--steps 96000"),
    "ALE Krull": Row(
        "KrullNoFrameskip-v4",
        "zoo/krull-ppo",
        ("cnn:8,8,8:32", "cnn:4k8s4,8k4s2,8k3s2:16"),
        QUIET,
        "--steps 96000",
    ),
}
FIELD = Field(
    "games",
    "游戏",
    "docs/fields/games.md",
    "games",
    {name: replace(row, rules=RULES) for name, row in ROWS.items()},
)

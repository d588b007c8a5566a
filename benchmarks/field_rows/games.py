"""Games: MinAtar's, and MiniGrid's mazes; docs/fields/games.md has what makes the teachers."""

from dataclasses import replace

from field_rows import Field, Row

ENV = "examples.games:games/{}-v0"
MINATAR = ("cnn:8k3s1:32", "cnn:4k3s1:16")
"""Of the default for boards, `cnn:16k3s1:64`, an eighth and a thirtieth of the teacher's size are left."""
QUIET = "--disturbed-episodes 0"
FEW = f"{QUIET} --episodes 300 --eval-epsilon 0.01"
"""Where there are some fifty starts in all, greedy episodes repeat themselves and give no verdict."""
ASTERIX = Row(ENV.format("Asterix"), "zoo/minatar-asterix-ppo", MINATAR, f"{QUIET} --episodes 300", "--steps 32000")
FREEWAY = Row(ENV.format("Freeway"), "zoo/minatar-freeway-ppo", MINATAR, f"{QUIET} --episodes 100", "--steps 32000")

FIELD = Field(
    "games",
    "游戏",
    "docs/fields/games.md",
    "games",
    {
        "MinAtar Space Invaders": Row(
            ENV.format("SpaceInvaders"),
            "zoo/minatar-spaceinvaders-ppo",
            MINATAR,
            f"{QUIET} --episodes 1000",
            "--steps 32000",
        ),
        "MinAtar Breakout": Row(
            ENV.format("Breakout"), "zoo/minatar-breakout-ppo", MINATAR, f"{QUIET} --episodes 300", "--steps 32000"
        ),
        "MinAtar Asterix": ASTERIX,
        "MinAtar Asterix, 128,000 steps": replace(ASTERIX, training="--steps 128000"),
        "MinAtar Asterix, 512,000 steps": replace(ASTERIX, students=("cnn:16k3s1:64",), training="--steps 512000"),
        "MinAtar Freeway": FREEWAY,
        "MinAtar Freeway, 128,000 steps": replace(FREEWAY, training="--steps 128000"),
        "MinAtar Seaquest": Row(
            ENV.format("Seaquest"), "zoo/minatar-seaquest-ppo", MINATAR, f"{QUIET} --episodes 1000", "--steps 32000"
        ),
        "MiniGrid DoorKey": Row(
            ENV.format("DoorKey"), "zoo/doorkey-dqn", ("mlp:64,64", "mlp:16,16", "mlp:4,4", "mlp:3"), FEW
        ),
        "MiniGrid Memory": Row(
            ENV.format("Memory"), "zoo/memory-dqn", ("gru:16", "mlp:16,16"), FEW, "--hide cue --steps 12000"
        ),
    },
)

"""Games as environments of a user's own: importing this registers what their packages do not.

========================================  ==================================================================
``games/Asterix-v0``, ``Breakout``, …     MinAtar's five games: images of 10x10 cells, a channel for each kind of thing
``games/DoorKey-v0``                      MiniGrid's view of 7x7 cells as one vector
``games/Memory-v0``                       the same in a corridor, and beside it the one thing that is to be remembered
``games/Doom-v0``                         ViZDoom's first room: the screen alone, in colour
========================================  ==================================================================

The packages (MinAtar, minigrid, vizdoom) are looked for when an environment is made, not here.

Example::

    gymnasium.make("examples.games:games/Breakout-v0")
"""

import gymnasium

MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
MINATAR_STEPS = 2_500
"""Steps of an episode at most: what Freeway has by itself. The others end when they are lost, which a good player of
Breakout puts off for ever.
"""
MEMORY = "MiniGrid-MemoryS13Random-v0"
"""A corridor of 4 to 10 cells: 56 starts, where the tasks of one length have fewer than a verdict needs (50). In the
24 of up to 6 cells one look back from its end shows the thing and a choice."""


def _register(name: str, entry: str, **options: object) -> None:
    if f"games/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"games/{name}-v0", entry_point=f"{__name__}.{entry}", **options)  # type: ignore[arg-type]


for _game in MINATAR:
    _register(_game, "minatar_games:MinAtar", max_episode_steps=MINATAR_STEPS, kwargs={"game": _game})
_register("DoorKey", "grids:door_key")
_register("Memory", "grids:memory", kwargs={"env_id": MEMORY})
_register("Doom", "doom:basic")

"""Two walking robots of Unitree as Gymnasium environments: importing this registers ``G1-v0`` and ``Go1-v0``.

MuJoCo and the robots' models are looked for when an environment is made, not here.

Example::

    gymnasium.make("examples.unitree:Go1-v0", model_dir="models", push=1.0)
"""

import gymnasium

STEPS = 500
"""Control steps of an episode, 10 s."""

for name in ("G1", "Go1"):
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry_point=f"{__name__}.walking:{name}", max_episode_steps=STEPS)

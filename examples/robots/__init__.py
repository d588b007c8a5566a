"""Gymnasium's robots where the world is rougher: importing this registers ``Rough-v0``.

Example::

    gymnasium.make("examples.robots:Rough-v0", robot="Hopper-v5", push=0.5, friction=(0.7, 1.3))
"""

import gymnasium

if "Rough-v0" not in gymnasium.registry:
    gymnasium.register("Rough-v0", entry_point=f"{__name__}.rough:Rough")

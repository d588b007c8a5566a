r"""CartPoles, Hoppers and quadrotors that differ in their physics: families, of whose members some are kept for the
verdict.

`CartPoles-v0`, `Hoppers-v0` and `Quadrotors-v0` draw a member at the start of each episode and show its physics beside
its state; `members` says from which numbers they draw, so that training and verdict have members of their own::

    distilrl distill --teacher zoo/cartpoles-dqn --env examples.family:CartPoles-v0 --hide physics --student gru:8 \
        --verdict-env-kwargs '{"members": [100, 1100]}' --cluster member --out runs/poles

The teacher sees what member it has; the student must find out within the episode. With `"shows": "member"` its number
is shown in place of its physics, by which one of many teachers is asked, each of one member.
"""

import gymnasium

from examples.family.cartpoles import CartPoles
from examples.family.hoppers import Hoppers
from examples.family.quadrotors import Quadrotors

__all__ = ["CartPoles", "Hoppers", "Quadrotors"]

for made, steps in ((CartPoles, 500), (Hoppers, 1000), (Quadrotors, 500)):
    if f"{made.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"{made.__name__}-v0", entry_point=f"{made.__module__}:{made.__name__}", max_episode_steps=steps
        )

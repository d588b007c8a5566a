"""The S&P 500 day by day, in the market, half in it or out of it: importing this registers ``SP500-v0``.

Years of training and years of the verdict lie apart, and every trade pays a fee::

    distilrl train-teacher --env examples.trading:SP500-v0 --env-kwargs '{"fee": 0.005}' --steps 8000 \
        --out runs/trading/teacher
    distilrl distill --teacher runs/trading/teacher --env examples.trading:SP500-v0 \
        --verdict-env-kwargs '{"years": [2013, 2018]}' --student mlp:8 --margin-abs 0.5 --cluster year \
        --accept-weak-teacher --out runs/trading/student

Needs gym-trading-env and arch, in whose wheel the prices lie (extra: trading); both are looked for when an environment
is made, not here.
"""

import gymnasium

DAYS = 252
"""Days of an episode, a year of trading."""

if "SP500-v0" not in gymnasium.registry:
    gymnasium.register("SP500-v0", entry_point=f"{__name__}.market:SP500")

"""A sensor on a battery that decides when to measure and when to send: importing this registers ``Sensor-v0``.

The record is real (outdoor temperature, every half hour), the sensor and its costs are assumptions. Days of training
and days of the verdict lie in weeks of their own::

    distilrl train-teacher --env examples.monitoring:Sensor-v0 --steps 40000 --out runs/monitoring/teacher
    distilrl distill --teacher runs/monitoring/teacher --env examples.monitoring:Sensor-v0 \
        --verdict-env-kwargs '{"held_out": true}' --student mlp:16 --cluster day --out runs/monitoring/student
    distilrl export runs/monitoring/student --to int8 --trust examples.monitoring

Needs lettuce-greenhouse-gym, in whose wheel the record lies (extra: environment); it is looked for when an environment
is made, not here.
"""

import gymnasium

DAY = 48
"""Steps of an episode: a day in half hours."""

if "Sensor-v0" not in gymnasium.registry:
    gymnasium.register("Sensor-v0", entry_point=f"{__name__}.sensor:Sensor")

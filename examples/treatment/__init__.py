"""Treating sepsis: a simulated patient whose course was estimated from the records of an intensive care unit.

Importing this registers ``Sepsis-v0``, a thin adapter of ICU-Sepsis (Choudhary et al. 2024, from MIMIC-III): what a
policy sees are the 47 numbers of the patient's state, not its number. ``pip install 'distilrl[treatment]'`` brings it.
This is not a medical device; docs/fields/treatment.md says what it is good for.

Example::

    gymnasium.make("examples.treatment:Sepsis-v0", untried="terminate")
"""

import gymnasium

if "Sepsis-v0" not in gymnasium.registry:
    gymnasium.register("Sepsis-v0", entry_point=f"{__name__}.sepsis:Sepsis", max_episode_steps=500)

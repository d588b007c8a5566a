"""Treatment of sepsis in a simulation: teachers by ``python -m examples.treatment``, see docs/fields/treatment.md."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from field_rows import Field, Row, by_hand

PATIENTS = "--episodes 4000 --accept-episodes 4000 --disturbed-episodes 0 --eval-envs 250 --measure untried=mean"
"""Enough to tell two in a hundred. What is measured: treatments that clinicians hardly ever gave in such a state."""
TRAINING = "--steps 20000 --set check-every=10000 --set patience=9 --set enough=-9"
"""To the end of the budget: twenty patients say nothing of a student, so that no check ends training or chooses."""


def clinicians(obs: NDArray[Any], rng: np.random.Generator) -> int:
    """What clinicians did in such a state, as often as they did it."""
    from examples.treatment.sepsis import clinicians as drawn  # only where the rule is played

    return drawn(obs, rng)


RULES = {"never treat": by_hand(lambda *_: 0), "clinicians": by_hand(clinicians)}
FIELD = Field(
    "diagnosis: treatment",
    "诊疗：用药",
    "docs/fields/treatment.md",
    "treatment",
    {
        "ICU-Sepsis": Row(
            "examples.treatment:Sepsis-v0",
            "runs/sepsis-teacher",
            ("mlp:16", "mlp:12", "mlp:8", "tree:128", "tree:32", "tree:16"),
            f"{PATIENTS} --margin-abs 0.02",
            TRAINING,
            rules=RULES,
            exports=("c", "onnx"),
        ),
        "ICU-Sepsis, the untried is fatal": Row(
            "examples.treatment:Sepsis-v0",
            "runs/sepsis-careful",
            ("mlp:32,32", "mlp:32", "mlp:16", "tree:128"),
            f'{PATIENTS} --env-kwargs \'{{"untried": "terminate"}}\'',
            TRAINING,
            rules=RULES,
            exports=("c", "onnx"),
        ),
    },
)

"""In which order a plan takes its verdicts: the largest first, the best by its checks, or the largest about as good?

    python benchmarks/plan_order.py    # simulated; to results/plan-order.json

Thirteen sizes with three seeds each. A student's true loss is its size's and a part of its own; a check measures it
with an error, and so does a verdict, whose 97.5 % bound has to lie within the margin. The unit is the margin: -1 is the
loss that may just not be. Verdicts go from a size downwards until one does not hold.
"""

from typing import Any

import numpy as np
from lines import RESULTS
from numpy.typing import NDArray

from distilrl.files import write_json
from distilrl.plan import AS_GOOD

RUNS, SIZES, SEEDS, QUANTILE = 20_000, 13, 3, 1.96
CURVES = {
    "all as good as the teacher": np.zeros(SIZES),
    "small ones lose": np.minimum(0.0, -2 + np.arange(SIZES) / 4),
    "each smaller one loses": np.linspace(-3, 0, SIZES),
    "smaller ones are better": np.linspace(0.5, -0.5, SIZES),
    "all lose just the margin": np.full(SIZES, -1.0),
}
"""Returns by size, the smallest first."""
ERRORS = ((0.2, 0.3, 0.3), (0.2, 0.6, 0.4), (0.0, 0.6, 0.4))
"""Standard deviations: of a student's own part, of a check, of a verdict."""


def simulated(
    curve: NDArray[np.float64], own: float, check: float, verdict: float
) -> dict[str, dict[str, float | None]]:
    """Of each order the share of plans without a winner, of those whose winner loses the margin, and the winner's
    place in the ladder, from 1, in the mean.
    """
    rng = np.random.default_rng(0)
    true = curve[None, :, None] + rng.normal(0, own, (RUNS, SIZES, SEEDS))
    checked = true + rng.normal(0, check, true.shape)
    best = np.take_along_axis(true, checked.argmax(2)[..., None], 2)[..., 0]
    reached = checked.max(2) >= -1
    holds = best + rng.normal(0, verdict, best.shape) - QUANTILE * verdict > -1
    scores = np.where(reached, checked.mean(2), -np.inf)
    orders = {"from the largest": np.inf, "from the best": 0.0, "from as good a one": AS_GOOD}
    found = {}
    for order, below in orders.items():
        begin = SIZES - 1 - (scores >= scores.max(1, keepdims=True) - below)[:, ::-1].argmax(1)
        winner, going = np.full(RUNS, -1), np.ones(RUNS, bool)
        for size in reversed(range(SIZES)):
            asked = going & (size <= begin) & reached[:, size]
            winner[asked & holds[:, size]] = size
            going &= ~asked | holds[:, size]
        won = winner >= 0
        wrong = won & (best[np.arange(RUNS), winner] <= -1)
        place = float(winner[won].mean()) + 1 if won.any() else None
        found[order] = {"none": float(1 - won.mean()), "wrong": float(wrong.mean()), "place": place}
    return found


def main() -> None:
    lines: list[dict[str, Any]] = []
    for name, curve in CURVES.items():
        for own, check, verdict in ERRORS:
            found = simulated(curve, own, check, verdict)
            lines.append({"curve": name, "own": own, "check": check, "verdict": verdict, **found})
            told = ", ".join(
                f"{order}: none {one['none']:.3f}, place {one['place'] or 0:.1f}, wrong {one['wrong']:.4f}"
                for order, one in found.items()
            )
            print(f"{name} ({own}, {check}, {verdict}): {told}")
    write_json(RESULTS / "plan-order.json", {"runs": RUNS, "lines": lines})


if __name__ == "__main__":
    main()

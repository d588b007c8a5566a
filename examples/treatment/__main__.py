"""Makes the teacher: the exact optimum of the simulated treatment, as a network.

    python -m examples.treatment OUT [--untried terminate]

Value iteration gives the chance of survival after each treatment in each state. A hidden layer of random ReLUs, wider
than there are states, holds any table exactly: its output layer is the least-squares solution, whose policy is the
optimum, which is checked. It takes half a minute and 0.6 GB of memory.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from distilrl import Categorical, Choices, EnvRef, Network, NetworkSpec, save_network
from examples.treatment.sepsis import LIVING, TREATMENTS, known, model, optimum, states, survival

UNITS = 768
"""Hidden units; the 713 states need as many at least."""
TIE = 1e-3
"""Of treatments that are equal, such as those of which nothing is known, clinicians' own is taken: the others lose so
much."""


def main() -> None:
    """Makes it and says what it is worth."""
    parser = argparse.ArgumentParser(description="The exact optimum of examples.treatment:Sepsis-v0, as a network.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--untried", choices=("mean", "terminate"), default="mean", help="what follows the unknown")
    given = parser.parse_args()

    values, seen, rng = optimum(given.untried) - TIE * ~known(), states(), np.random.default_rng(0)
    spread = seen.std(0) * np.sqrt(seen.shape[1])
    weights = (rng.normal(size=(UNITS, seen.shape[1])) / spread).astype(np.float32)
    offsets = rng.normal(size=UNITS).astype(np.float32)
    hidden = np.maximum(seen @ weights.T + offsets, 0.0).astype(np.float64)
    solved = np.linalg.lstsq(np.column_stack([hidden, np.ones(LIVING)]), values, rcond=None)[0].astype(np.float32)
    arrays = {"0.weight": weights, "0.bias": offsets, "2.weight": solved[:-1].T, "2.bias": solved[-1]}
    network = Network(NetworkSpec((seen.shape[1],), TREATMENTS, hidden=(UNITS,)))
    network.load_state_dict({f"layers.{name}": torch.from_numpy(array) for name, array in arrays.items()})
    with torch.no_grad():
        answers = network(torch.from_numpy(seen)).numpy()
    worth = survival(np.eye(TREATMENTS)[answers.argmax(1)], given.untried)
    best = survival(np.eye(TREATMENTS)[values.argmax(1)], given.untried)
    if abs(worth - best) > 1e-6:
        raise SystemExit(f"The network's policy keeps {worth:.6f} alive, the optimum {best:.6f}: make it wider.")
    env = EnvRef("examples.treatment:Sepsis-v0", {"untried": given.untried})
    head = Categorical(Choices((TREATMENTS,)))
    save_network(given.out, network, head, name="teacher", env=env.id, environment=env.to_json())
    print(f"{given.out}: {worth:.4f} survive, under clinicians {survival(model().expert_policy[:LIVING]):.4f}")


if __name__ == "__main__":
    main()

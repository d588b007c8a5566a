"""What training gives."""

from dataclasses import dataclass
from typing import Any

from distilrl.heads import Head
from distilrl.networks import Network
from distilrl.policies import Policy

OF_TASK = ("return", "score", "agreement", "training_return", "drift")
"""Columns that each task of a run has of its own."""


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    networks: tuple[Network, ...]
    """The best students by their own selection seeds, one per task, taking raw observations."""
    heads: tuple[Head, ...]
    """What their numbers mean."""
    env_steps: int
    """Steps of one environment, summed over all."""
    updates: int
    """Gradient steps."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""
    temperatures: tuple[float, ...]
    """Temperatures of the teachers' values that were found (1 where none was)."""
    stopped: str
    """Why training ended."""
    history: list[dict[str, Any]]
    """One row per check."""
    params: int
    """Parameters of all students together; what they share counts once."""
    labelled_states: int
    """States that a teacher labelled."""
    env_ids: tuple[str, ...]
    """Name of the environment of each task."""

    def history_of(self, number: int) -> list[dict[str, Any]]:
        """One row per check, with the numbers of one task in the place of the first's."""
        env_id = self.env_ids[number]
        others = {f"{name}/{env}" for name in OF_TASK for env in self.env_ids}
        return [
            {name: row.get(f"{name}/{env_id}", value) for name, value in row.items() if name not in others}
            for row in self.history
        ]

    @property
    def network(self) -> Network:
        """The student of the first task."""
        return self.networks[0]

    @property
    def policy(self) -> Policy:
        """The student of the first task as a policy."""
        return Policy(self.networks[0], self.heads[0])

    @property
    def temperature(self) -> float:
        """Temperature of the first task."""
        return self.temperatures[0]

"""What a student with a cell remembered before each state of its replay, when it last learnt there.

A sequence is taken out of the middle of an episode. Begun with an empty memory, a cell is trained in states that it is
in for the first steps of an episode alone, and goes astray in episodes longer than its sequences. So what it keeps
after each step of a sequence is written down, and another sequence that begins there begins with that: of weights some
updates old, but of the whole episode before it.
"""

import torch
from torch import Tensor


class Memories:
    """Of one student, as wide as what its cell keeps, K numbers.

    Example::

        memories = Memories(replay.places, 12, torch.device("cpu"))
        before = memories.before(batch.number[:: batch.steps])  # (W, 12), of the first step of each sequence
        memories.keep(batch.onward, after)  # (B, 12), after each step
    """

    def __init__(self, places: int, width: int, device: torch.device) -> None:
        """Nothing is known.

        Args:
            places: states that the replay has room for.
            width: K.
            device: where they are kept.
        """
        self.places = places
        # what is of no state goes to one place more: to leave it out would be to wait for the device
        self.kept = torch.zeros(places + 1, width, device=device)
        self.of = torch.full((places + 1,), -1, dtype=torch.int64, device=device)
        """The number of the state that each is of; -1: of none."""

    def before(self, number: Tensor) -> Tensor:
        """What was remembered before states of these numbers (W,), (W, K); zeros where nothing is known, and where an
        episode begins.
        """
        place = number % self.places
        return self.kept[place] * (self.of[place] == number).unsqueeze(1)

    def keep(self, number: Tensor, memory: Tensor) -> None:
        """From now on these are known.

        Args:
            number: (B,) of the states; -1: of none. Of equal ones the last is kept, on every device.
            memory: (B, K).
        """
        order = number.argsort(stable=True)
        sorted_ = number[order]
        last = torch.cat([sorted_[1:] != sorted_[:-1], sorted_.new_ones(1, dtype=torch.bool)]) & (sorted_ >= 0)
        place = torch.where(last, sorted_ % self.places, self.places)
        self.kept[place], self.of[place] = memory[order], sorted_
        self.of[self.places], self.kept[self.places] = -1, 0.0

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"kept": self.kept.clone(), "of": self.of.clone()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Reads back what `state` gave."""
        self.kept.copy_(tensors["kept"])
        self.of.copy_(tensors["of"])

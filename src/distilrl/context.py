"""What the terms of one update read: a batch, and network passes, each made once, when it is first asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from distilrl import losses
from distilrl.discriminator import Discriminator, judge
from distilrl.errors import SpecError
from distilrl.features import FeatureMaps, Taps, Wanted
from distilrl.heads import Head, Units
from distilrl.memories import Memories
from distilrl.networks import Network, RecurrentNetwork
from distilrl.replay import Batch
from distilrl.schedules import START, Progress

Answer = tuple[Tensor, Tensor | None]
"""Numbers (..., B, P), and what is remembered after each step (B, K); None where there is no cell."""


class Asking(Protocol):
    """What is known here of a term."""

    @property
    def needs_features(self) -> bool:
        """Whether it reads the networks' features."""


@dataclass(frozen=True, eq=False)
class Context:
    """What the terms of one update read. Each network pass is made when it is first asked for, and once.

    Example::

        context = Context(terms, batch, student, teacher.head, temperature=0.2)
        loss = sum(term(context).mean() for term in terms)
    """

    terms: Sequence[Asking]
    """The active terms: they say which features are tapped in the student's pass."""
    batch: Batch
    """B transitions."""
    network: nn.Module
    """The student in training."""
    head: Head
    """What the labels mean; what the student's numbers mean where there is no teacher."""
    target: nn.Module | None = None
    """The student's lagged copy; needed by TD terms."""
    discount: float = 1.0
    """gamma^n of TD terms."""
    temperature: float = 1.0
    """Stands in where a term leaves it to be found."""
    units: Units | None = None
    """Units of the student's head; needed by terms that compare in them."""
    progress: Progress = START
    """How far training has come."""
    maps: FeatureMaps | None = None
    """Taps and projectors; needed by feature terms."""
    discriminator: Discriminator | None = None
    """Needed by `JudgedTerm`."""
    memories: Memories | None = None
    """What the student remembered where sequences begin; None: nothing."""

    @cached_property
    def _pass(self) -> tuple[Answer, Taps | None]:
        """The student's answer, and its features where a term reads them."""
        if not any(one.needs_features for one in self.terms):
            return self._answer(self.batch.obs), None
        with Taps(self.network, self._maps.student_paths) as seen:
            return self._answer(self.batch.obs), seen

    def answer(self, obs: Tensor) -> Tensor:
        """The student's numbers (B, P) for observations in the order of the batch, with gradient."""
        return self._answer(obs)[0]

    def _answer(self, obs: Tensor) -> Answer:
        return answer_of(self.network, obs, self.batch.steps, self._begun)

    @cached_property
    def _begun(self) -> Tensor | None:
        return begun(self.memories, self.batch)

    def remember(self) -> None:
        """Writes down what the student remembers after each step of the batch."""
        if self.memories is not None:
            write_down(self.memories, self.batch, self._pass[0][1])

    @property
    def student(self) -> Tensor:
        """(B, P) of the student, with gradient."""
        return self._pass[0][0]

    @property
    def teacher(self) -> Tensor:
        """(B, P) of the teacher, which may be wider than the student's.

        Raises:
            SpecError: nobody labelled the batch.
        """
        if self.batch.labels is None:
            raise SpecError(
                "A term compares the student with a teacher, but the data carries no labels: give a teacher."
            )
        return self.batch.labels

    @cached_property
    def lagged(self) -> Tensor:
        """(B, P) of the lagged copy in the next states, without gradient.

        Raises:
            SpecError: there is no lagged copy, or there are no transitions.
        """
        return self._ahead(self.target)

    @cached_property
    def next_student(self) -> Tensor:
        """(B, P) of the student in the next states, without gradient."""
        return self._ahead(self.network)

    def _ahead(self, network: nn.Module | None) -> Tensor:
        if network is None or self.batch.next_obs is None:
            raise SpecError("A TD term needs a target network and transitions: set n_step to at least 1.")
        with torch.no_grad():
            return numbers_of(network, self.batch.next_obs, self.batch.steps)

    @property
    def _maps(self) -> FeatureMaps:
        if self.maps is None:
            raise SpecError("A feature term needs a teacher whose layers can be tapped.")
        return self.maps

    @cached_property
    def _teacher_features(self) -> dict[str, Tensor]:
        exact = self.batch.exact
        return self._maps.teacher_features(self.batch.obs if exact is None else exact)

    def features(self, wanted: Wanted, *, project: bool) -> list[tuple[Tensor, Tensor]]:
        """Pairs of features (B, ...) that a term compares, the student's with gradient and first, projected where
        asked.
        """
        theirs, (_, seen) = self._teacher_features, self._pass
        if seen is None:
            raise SpecError(f"No feature term is among the context's terms, so nothing was tapped for '{wanted.taps}'.")
        return list(self._maps.compare(wanted, seen, theirs, project=project))

    def judged(self, view: Tensor) -> Tensor:
        """The discriminator's logits (B,) of a policy's view (B, V)."""
        return judge(self.discriminator, cast("Network", self.network), self.batch.obs, view)

    def discriminator_loss(self) -> Tensor:
        """(B,) what the discriminator lowers: that it tells the student's policy from the teacher's."""
        ours, theirs = self.student.detach(), self.head.temper(self.teacher, self.temperature)
        of_student, of_teacher = (self.judged(self.head.view(p)) for p in (ours, theirs))
        return losses.discriminator_loss(of_student=of_student, of_teacher=of_teacher)


def answer_of(network: nn.Module, obs: Tensor, steps: int, memory: Tensor | None = None) -> Answer:
    """Numbers (B, P) of observations, which a network with memory sees as sequences of so many steps each, and what it
    remembers after each of them (B, K); None where it has no cell.

    Args:
        network: who is asked.
        obs: (B, *obs_shape).
        steps: of a sequence.
        memory: (B / steps, K) what it remembers before the first step of each; None: nothing.
    """
    return network.going_on(obs, steps, memory) if isinstance(network, RecurrentNetwork) else (network(obs), None)


def begun(memories: Memories | None, batch: Batch) -> Tensor | None:
    """What is remembered before the first step of each sequence of a batch, (W, K); None where nothing is."""
    if memories is None or batch.number is None:
        return None
    return memories.before(batch.number[:: batch.steps])


def write_down(memories: Memories | None, batch: Batch, after: Tensor | None) -> None:
    """From now on that is what is remembered after each step of a batch, (B, K)."""
    if memories is not None and batch.onward is not None and after is not None:
        memories.keep(batch.onward, after)


def numbers_of(network: nn.Module, obs: Tensor, steps: int) -> Tensor:
    """The numbers alone, of sequences that begin with nothing remembered."""
    return answer_of(network, obs, steps)[0]

"""One task of a run: its stream, its pupil's place in the learner, its checks, and what is measured of the student
there.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilrl import stats
from distilrl.agreement import agreement
from distilrl.checkpoints import below
from distilrl.config import TrainConfig
from distilrl.context import numbers_of
from distilrl.episodes import Episodes
from distilrl.errors import SpecError, closed_on_error
from distilrl.events import Watch
from distilrl.features import start_from
from distilrl.learner import Learner, Pupil
from distilrl.networks import Network
from distilrl.objective import check_terms, taught_at
from distilrl.played import Acceptance
from distilrl.policies import Policy
from distilrl.replay import Batch
from distilrl.schedules import START, Progress, settle
from distilrl.shards import Collectors, InProcess
from distilrl.specs import NetworkSpec
from distilrl.stream import Check, Stream
from distilrl.teachers import Teacher
from distilrl.widths import between

PRUNE_AT = (0.2, 0.35, 0.5)
"""Shares of the budget at which a student that is pruned gets narrower."""
DRIFT_STATES = 512
"""States of either sample whose distance is the drift."""
BANDS = {"agreement": 0.02, "entropy": 0.02, "drift": 0.05}
"""A measurement takes the place of the one in force where it differs by more than this."""


class Task:
    """One environment and its teacher within a run; a plain run has one task."""

    def __init__(
        self,
        config: TrainConfig,
        number: int,
        teacher: Teacher | None,
        acceptance: Acceptance | None,
        initial: Network | None = None,
        collectors: Collectors | None = None,
        judge: Teacher | None = None,
    ) -> None:
        """Makes the stream and checks that the objective can read the teacher.

        Args:
            config: all that decides the run.
            number: of the task.
            teacher: who labels.
            acceptance: what `acceptance.accept` said of it, or of the judge.
            initial: a network of the student's shape to start from.
            collectors: who hosts the shards where there are rounds; this process by default.
            judge: whom scores are about, where that is another than who labels.
        """
        self.config, self.number, self.initial = config, number, initial
        collectors = collectors or (InProcess() if config.data.round_steps else None)
        self.stream = Stream(config, teacher, number=number, collectors=collectors)
        with closed_on_error(self.stream.close):
            judge = None if judge is teacher else judge
            self.teacher = teacher = self.stream.teacher
            self.info, self.head = self.stream.info, self.stream.head
            self.judge = judge.fitted(self.info) if judge is not None else teacher
            check_terms(config.terms, teacher.head if teacher is not None else self.head)
            student = config.student
            self.spec = student.spec(self.info.obs, self.head.width)
            self.wide = student.spec(self.info.obs, self.head.width, student.prune_from)
            if initial is not None and (student.reused_head or replace(initial.spec, dueling=False) != self.wide):
                raise SpecError(
                    f"'initial' must be what the student is, {self.wide.describe()} of the same observations and "
                    f"actions, with a head of its own; it is {initial.spec.describe()}."
                )
            if initial is not None and student.start != "new":
                raise SpecError(
                    f"There are two starts, 'initial' and the teacher's ('start' is {student.start!r}): give one."
                )
            between(self.wide, self.spec, 0.0)
        self.selection = Check(config, acceptance, number=number)
        self.kept: list[dict[str, Tensor]] = []
        """The averaged students of the best checks, the best first."""
        self.measured: dict[str, float] = {"score": 0.0, "agreement": 0.0, "entropy": 1.0, "drift": 0.0}
        self.scores: list[float] = []
        """Scores at the last three checks, in the world as it is now."""
        self._priorities: Tensor | None = None
        self._stood_still = torch.zeros(0)

    @property
    def name(self) -> str:
        """The environment's."""
        return self.info.id

    def shape(self, stage: int) -> NetworkSpec:
        """The student's shape at a stage of pruning, the last of which leaves what is wanted."""
        return (
            between(self.wide, self.spec, stage / len(PRUNE_AT))
            if self.config.student.prune_from is not None
            else self.spec
        )

    def join(self, learner: Learner) -> None:
        """Takes the learner's pupil of this task as its own; a student may act from the start only where no teacher
        does.
        """
        self.learner = learner
        self.pupil: Pupil = learner.pupils[self.number]
        self.pupil.remember(self.stream.replay.places)
        if self.stream.student is not None or not self.stream.asks:
            self.stream.student = self.pupil.policy

    def progress(self, fraction: float) -> Progress:
        """How far this task has come, ``fraction`` of the budget being used."""
        return Progress(fraction, **self.measured)

    def collect(self, progress: Progress) -> None:
        """The next vector step; a recorded one is played again without learning from it."""
        self.stream.collect(progress)
        if self._priorities is not None and not self.stream.replaying:
            self.stream.replay.priorities, self._priorities = self._priorities, None

    def look_at_first_states(self) -> None:
        """Input statistics, temperature and the student's start, from the states collected before the first update."""
        config, pupil, replay = self.config, self.pupil, self.stream.replay
        pupil.standardise(*input_statistics(config, self.stream))
        if replay.spec.labelled and self.teacher is not None:
            pupil.set_temperature(self.teacher.head.find_temperature(replay.labels(), config.optim.entropy_share))
            self.measured["entropy"] = config.optim.entropy_share
            # what a reused head says is the teacher's own already
            if config.optim.value_units or (self.head.real and not config.student.reused_head):
                pupil.set_units(self.teacher.head.find_units(replay.labels()))
        if replay.spec.labelled and pupil.maps is not None:
            pupil.maps.measure(replay.observations(replay.newest(64, labelled=True)[:DRIFT_STATES]))
        if self.initial is not None:
            pupil.student.start_as(self.initial)
            if config.optim.scale_head:  # which ships multiplied
                pupil.student.scale_head(1 / taught_at(config.terms, pupil.temperature, self.head))
            pupil.adopt()
        if config.student.start != "new" and self.teacher is not None:
            # values have their teacher's scale, numbers that a tempered teacher is compared with that of Q/τ
            tempered = 1 / taught_at(config.terms, pupil.temperature, self.head)
            factor = 1.0 if config.learns_scale else tempered
            start_from(pupil.student, self.teacher.plain, config.student.start, factor)
            pupil.adopt()
        self.stream.student = pupil.policy

    def batches(self, index: Tensor, generator: torch.Generator) -> list[Batch]:
        """The transitions drawn, a batch for each update: weighted where errors decide what is drawn, noisy where the
        student is to be.
        """
        batch = self.stream.batch(index, generator)
        if self.config.data.priority_exponent > 0:
            batch = batch._replace(weight=self.stream.replay.importance_weights(index))
        return batch.split(self.config.optim.batch_size)

    def check(self, watch: Watch) -> dict[str, Any]:
        """Return on selection seeds and what else is measured of the student here."""
        policy = Policy(self.pupil.average, self.head)
        out_of_order = (
            policy.remembers
            or not self.config.student.sensors.exact
            or (self.teacher is not None and self.teacher.policy.remembers)
        )
        found = self.selection(
            policy,
            watch,
            shadow=self.teacher.policy if self.teacher is not None and out_of_order else None,
        )
        if found.score is not None:
            self.measured["score"] = max(self.measured["score"], found.score)
            self.scores = [*self.scores[-2:], found.score]
        return {"return": found.mean, "score": found.score, "agreement": self._measure(policy, found.games)}

    def _measure(self, policy: Policy, games: Episodes) -> float | None:
        """Agreement, entropy and drift, each with its hysteresis; returns the agreement as measured."""
        if self.teacher is None or not self.stream.replay.spec.labelled:
            return None
        same = agreement(self.teacher, policy, games)
        rows = -(-DRIFT_STATES // self.config.data.n_envs)
        recent = self.stream.replay.labels(rows)[:DRIFT_STATES]
        entropy = self.teacher.head.entropy_share(recent, self.pupil.temperature)
        for name, value in {"agreement": same, "entropy": entropy, "drift": self.drift()}.items():
            self.measured[name] = settle(self.measured[name], value, BANDS[name])
        return same

    @property
    def training_return(self) -> float | None:
        """Mean of the last episodes that the student played whole while data were collected; None before the first."""
        returns = self.stream.episode_returns
        return stats.mean(returns) if returns else None

    def drift(self) -> float:
        """Largest two-sample statistic between states visited last and labelled states of before, 0 to 1.

        Of each number of a vector that the student sees; of images, of the student's own numbers.
        """
        replay = self.stream.replay
        rows = max(DRIFT_STATES // self.config.data.n_envs, 1)
        visited, trained_on = replay.newest(rows, labelled=False), replay.newest(replay.rows, labelled=True)
        trained_on = trained_on[~torch.isin(trained_on, visited)]
        if len(trained_on) < DRIFT_STATES:
            return 0.0
        spread = torch.linspace(0, len(trained_on) - 1, DRIFT_STATES, device=trained_on.device).long()
        samples = [replay.observations(index) for index in (visited, trained_on[spread])]
        hidden = list(self.config.student.hidden_features)
        if self.info.obs.image is None and hidden:  # a world that is hidden from it is another in each episode
            seen = [place for place in range(samples[0].shape[1]) if place % self.info.obs.vector not in hidden]
            samples = [obs[:, seen] for obs in samples]
        if self.info.obs.image is not None:
            with torch.no_grad():
                samples = [numbers_of(self.pupil.average, obs, 1) for obs in samples]
        return max(stats.two_sample(a, b) for a, b in zip(*(s.cpu().numpy().T for s in samples), strict=True))

    def keep(self, place: int) -> None:
        """Puts the averaged student in this place among the best, of which as many are kept as there are finalists."""
        self.kept.insert(place, {k: v.clone() for k, v in self.pupil.average.state_dict().items()})
        del self.kept[self.config.stop.finalists :]

    def again(self, place: int, turn: int, watch: Watch, *, paired: bool) -> tuple[float, float | None]:
        """Mean return and score of the student kept in this place, on episodes that no check has; ``paired``: whom the
        score is about plays them too.
        """
        policy, episodes = Policy(self.best_network(place), self.head), self.config.stop.final_episodes
        return self.selection.parity(policy, self.judge if paired else None, episodes, watch, turn=turn)

    def best_network(self, place: int = 0) -> Network:
        """The best student as it ships, or another one that was kept: plain layers, raw observations."""
        network = copy.deepcopy(self.pupil.average).cpu()
        network.load_state_dict(self.kept[place])
        network.forget(self._still())
        network.fold()
        if self.config.optim.scale_head:
            network.scale_head(taught_at(self.config.terms, self.pupil.temperature, self.head))
        return network.eval().requires_grad_(False)

    def _still(self) -> Tensor:
        """`Replay.still`, of a run that had ended as it was then."""
        return self.stream.replay.still() if self.stream.replay.added else self._stood_still

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the task."""
        tensors, about = self.stream.state()
        tensors["still"] = self._still()
        for place, student in enumerate(self.kept):
            tensors |= {f"kept.{place}.{k}": v.clone() for k, v in student.items()}
        if self.config.data.priority_exponent > 0:
            tensors["priorities"] = self.stream.replay.priorities
        return tensors, about | {"measured": self.measured, "scores": self.scores, "kept": len(self.kept)}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any], *, ended: bool) -> None:
        """Reads back what `state` gave."""
        self.stream.load(tensors, state, ended=ended)
        self.kept = [below(tensors, f"kept.{place}.") for place in range(state["kept"])]
        if self.learner.updates > 0:
            self.stream.student = self.pupil.policy
        for one in self.kept:  # which are read at the end
            copy.deepcopy(self.pupil.average).load_state_dict(one)
        self.measured = {name: float(state["measured"][name]) for name in self.measured}
        self.scores = [float(one) for one in state["scores"]]
        self._priorities = tensors.get("priorities")
        self._stood_still = tensors["still"]


def close_streams(tasks: Sequence[Task]) -> None:
    """Frees the environments of these tasks."""
    for task in tasks:
        task.stream.close()


def make_tasks(
    config: TrainConfig,
    teacher: Any,
    acceptance: Any,
    initial: Network | None,
    collectors: Collectors | None,
    judge: Any = None,
) -> list[Task]:
    """The tasks of a run, of what `train` is given."""
    teachers: list[Teacher | None] = _each(teacher, config, "teacher")
    acceptances: list[Acceptance | None] = _each(acceptance, config, "acceptance")
    judges: list[Teacher | None] = _each(judge, config, "judge")
    if None in teachers and (any(term.needs_teacher for term in config.terms) or config.data.behaviour.asks(START)):
        raise SpecError(f"The recipe '{config.recipe}' needs a teacher, in its terms or to act: give it one.")
    if initial is not None and len(teachers) > 1:
        raise SpecError("'initial' is the student of one task, and these are several: leave it out.")
    tasks: list[Task] = []
    with closed_on_error(lambda: close_streams(tasks)):  # those before one that is refused
        for number, (teacher, accepted, judge) in enumerate(zip(teachers, acceptances, judges, strict=True)):
            tasks.append(Task(config, number, teacher, accepted, initial, collectors, judge))
    return tasks


def _each(given: Any, config: TrainConfig, what: str) -> list[Any]:
    """One of it per task."""
    items = (
        list(given) if isinstance(given, list | tuple) else [given] * (1 if given is not None else len(config.tasks))
    )
    if len(items) != len(config.tasks):
        raise SpecError(f"There are {len(config.tasks)} tasks but {len(items)} of '{what}': give one for each.")
    return items


def input_statistics(config: TrainConfig, stream: Stream) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a student subtracts from its inputs, and what it multiplies them by, from the states collected before the
    first update.

    Returns:
        Mean and scale, each (1,) for an image, (D,) for a vector, (D + 1,) for both; and of a history what a move from
        one observation to the next is multiplied by, (D,).
    """
    mean, scale = stream.replay.standardisation()
    moves = stream.replay.scale_of_moves() if config.optim.standardise == "states" else None
    if config.optim.standardise != "states":
        mean, scale = torch.zeros_like(mean), torch.ones_like(scale)
    if config.optim.standardise == "space":
        scale = _widened(stream.info.obs.reach, stream.info.obs.vector, len(scale)).to(scale.device)
    return mean, scale, moves


def _widened(reach: tuple[float | None, ...], vector: int, size: int) -> Tensor:
    """Scale (size,) that widens to ±1 what the space keeps narrower; the place behind a vector's numbers is that of all
    pixels.
    """
    whole = np.array([np.inf if n is None else n or 1.0 for n in reach] or [255.0])  # what is always 0 stays so
    if size > vector:  # pixels
        return torch.from_numpy(
            1 / np.concatenate([whole[:vector].clip(1e-6, 1.0), whole[vector:][:1].clip(1e-6, 255.0)])
        ).float()
    return torch.from_numpy(1 / whole.clip(1e-6, 1.0)).float()

"""A stream of labelled states: one environment, its teacher, the replay and who acts; and the check of a policy on
selection seeds.

Everything that learns reads a `Stream` and is measured by a `Check`: a student, a population of sizes, a tree.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl import stats
from distilrl.collect import LABELLED, NOT_LABELLED, Behaviour, Collected, Collector
from distilrl.comparison import agreement
from distilrl.config import TrainConfig
from distilrl.envs import make_vec_env
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import SELECT_SEEDS, Episodes, Play, play, seeds_from
from distilrl.events import Watch, silent
from distilrl.heads import Head, student_head
from distilrl.objective import teacher_needed
from distilrl.played import Acceptance
from distilrl.policies import Policy
from distilrl.replay import Replay, ReplaySpec
from distilrl.schedules import Progress
from distilrl.teachers import Teacher


class Stream:
    """One environment with its teacher, collected into a replay one vector step at a time, and played again on
    resuming.
    """

    def __init__(
        self, config: TrainConfig, teacher: Teacher | None, *, number: int = 0, behaviour: Behaviour | None = None
    ) -> None:
        """Makes the environments.

        Args:
            config: what is collected.
            teacher: who labels; None: nobody.
            number: of the task whose stream this is.
            behaviour: who acts; the configuration's own by default.
        """
        data, self.config = config.data, config
        self.env = config.tasks[number].env
        self.envs = make_vec_env(
            self.env, data.n_envs, threads=config.compute.threads, workers=data.workers, for_learning=data.for_learning
        )
        self.info = self.envs.info
        self.teacher = teacher = teacher.fitted(self.info) if teacher is not None else None
        labelled = teacher is not None and config.needs_teacher
        head: Head = teacher.head.student if teacher is not None else student_head(self.info.action)
        self.head = head if config.keeps_scale else head.unscaled
        self._check_views()
        if teacher is not None:
            teacher.to(config.compute.device)
        spec = ReplaySpec(
            capacity=data.capacity,
            n_envs=data.n_envs,
            obs=self.info.obs,
            action=self.info.action,
            labels=teacher.head.width if teacher is not None and labelled else 0,
            n_step=config.optim.n_step,
            stakes_exponent=data.stakes_exponent,
            by_error=data.priority_exponent > 0,
        )
        self.replay = Replay(spec, torch.device(config.compute.device))
        rng = np.random.default_rng([config.seed, 1 + number])
        self.collector = Collector(
            self.envs,
            self.replay,
            behaviour or data.behaviour,
            rng,
            teacher if labelled else None,
            noise=config.student.noise,
        )
        self._seeds = config.seed * 10_000 + number * 1_000 + np.arange(data.n_envs)
        self._steps: Iterator[Collected] | None = None
        self.actions: list[NDArray[Any]] = []
        self.labels: list[int] = []
        """What was asked of the teacher at each vector step, as `Collected.label`."""
        self.recorded = np.zeros((0, data.n_envs, self.info.action.size), self.info.action.numpy)
        self.recorded_labels = np.zeros(0, np.uint8)
        self._expected: int | None = None
        self._last: Tensor | None = None

    def _check_views(self) -> None:
        """What the student sees otherwise than its teacher must be numbers of a vector."""
        student, obs = self.config.student, self.info.obs
        if student.noise and (obs.image is not None or len(student.noise) != obs.shape[0]):
            raise SpecError(
                f"'noise' needs one standard deviation per number of a vector observation, and {self.info.id} has "
                f"{obs.shape}."
            )
        if student.hidden_features and (
            obs.pixels or any(not 0 <= index < obs.vector for index in student.hidden_features)
        ):
            raise SpecError(
                f"'hidden_features' are places in a vector observation, and {self.info.id} has {obs.shape}."
            )

    @property
    def env_steps(self) -> int:
        """Steps of one environment, summed over all of the stream."""
        return len(self.actions) * self.config.data.n_envs

    @property
    def labelled_states(self) -> int:
        """States that the teacher labelled."""
        return self.labels.count(LABELLED) * self.config.data.n_envs if self.replay.spec.labelled else 0

    @property
    def learnable(self) -> bool:
        """Whether there is something to learn from the last step, and something to draw."""
        return self.labels[-1] != NOT_LABELLED and self.replay.ready

    def collect(self, progress: Progress) -> Collected:
        """The next vector step; a recorded one is played again."""
        if self._steps is None:
            self._steps = self.collector.steps(self._seeds, self.recorded, self.recorded_labels)
        self.collector.progress = progress
        data = self.config.data
        self.collector.needed = (
            data.stakes_exponent > 0 or data.behaviour.asks(progress) or teacher_needed(self.config.terms, progress)
        )
        step = next(self._steps)
        self.actions.append(step.actions)
        self.labels.append(step.label)
        self._last = step.obs
        if step.replayed and len(self.actions) == len(self.recorded) and _checksum(step.obs) != self._expected:
            raise ResumeError(
                f"{self.info.id} did not answer its recorded actions as before (another version, or an environment "
                "that "
                "is not deterministic under its seed), so the run cannot continue to the same result: start it again."
            )
        return step

    @property
    def replaying(self) -> bool:
        """Whether recorded steps are left to be played again."""
        return len(self.actions) < len(self.recorded)

    def close(self) -> None:
        """Frees the environments."""
        self.envs.close()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the stream."""
        stored = self.info.action.stored
        tensors = {
            "actions": torch.from_numpy(np.stack(self.actions).astype(stored)),
            "labels": torch.tensor(self.labels, dtype=torch.uint8),
        }
        return tensors, {
            "rng": self.collector.rng.bit_generator.state,
            "collector": self.collector.state(),
            "teacher": self.teacher.digest if self.teacher is not None else None,
            "obs": _checksum(self._last) if self._last is not None else None,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any], *, ended: bool) -> None:
        """Reads back what `state` gave; of a run that has ended nothing is played again."""
        if state["teacher"] != (self.teacher.digest if self.teacher is not None else None):
            raise ResumeError("The run was started with another teacher (its digest differs): give it the same file.")
        self.recorded = tensors["actions"].numpy().astype(self.info.action.numpy)
        self.recorded_labels = tensors["labels"].numpy()
        self.collector.rng.bit_generator.state = state["rng"]
        self.collector.load(state["collector"])
        self._expected = state["obs"]
        if ended:
            self.actions, self.labels = list(self.recorded), self.recorded_labels.tolist()


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    mean: float
    """Mean return."""
    score: float | None
    """Share of the way from random play to the teacher; None without a teacher, or with one that is no better than
    random."""
    games: Episodes
    """The episodes."""


class Check:
    """Plays a policy on the selection seeds of a run and gives its return and score."""

    def __init__(
        self, config: TrainConfig, acceptance: Acceptance | None, *, number: int = 0, keep_states: int = 500
    ) -> None:
        """Prepares.

        Args:
            config: in what, and on which seeds.
            acceptance: what `acceptance.accept` said of the teacher; None: there is none, and no score.
            number: of the task.
            keep_states: states to sample.
        """
        self.acceptance = acceptance
        longest = acceptance.longest_episode if acceptance is not None else None
        self.how = Play(
            config.tasks[number].env,
            epsilon=config.eval_epsilon,
            threads=config.compute.threads,
            workers=config.data.workers,
            max_steps=2 * longest if longest else None,
            keep_states=keep_states,
            noise=config.student.noise,
        )
        self.seeds = seeds_from(SELECT_SEEDS + config.seed * 1000, config.stop.check_episodes)

    def __call__(self, policy: Policy, watch: Watch = silent, *, shadow: Policy | None = None) -> Checked:
        """One check."""
        games = play(policy, self.how, self.seeds, watch=watch, shadow=shadow)
        mean = stats.mean(games.returns)
        return Checked(mean, self.score(mean), games)

    def long(self, policy: Policy, times: int, watch: Watch = silent) -> float:
        """Mean return over other episodes than those of a check, ``times`` as many, to the end."""
        count = len(self.seeds)
        seeds = seeds_from(self.seeds[0] + max(500, count), times * count)
        return stats.mean(play(policy, replace(self.how, keep_states=0, max_steps=None), seeds, watch=watch).returns)

    def score(self, mean: float) -> float | None:
        """The score of a mean return."""
        if self.acceptance is None:
            return None
        return stats.score(mean, self.acceptance.return_mean, self.acceptance.random_return_mean)

    def agreement(self, teacher: Teacher, policy: Policy, games: Episodes) -> float:
        """Agreement on the states of a check, weighted by what a mistake costs."""
        return agreement(teacher, policy, games)


def _checksum(obs: Tensor) -> int:
    return zlib.crc32(obs.cpu().numpy().tobytes())

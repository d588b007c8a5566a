"""Collection: a generator of vector steps under a behaviour, which fills the replay and labels every state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.envs import Step, VecEnv, check_finite
from distilrl.errors import SpecError, TeacherError
from distilrl.objective import Progress, Schedule
from distilrl.plain import check_choices, check_numbers
from distilrl.replay import Replay

BehaviourName = Literal["teacher", "student", "mixed"]
Values = Callable[[Tensor], Tensor]
LONGEST_REPEAT = 100
RETURNS_KEPT = 20
"""Episodes whose mean is the training return."""


@dataclass(frozen=True)
class Behaviour:
    """Who acts while data is collected."""

    name: BehaviourName = "mixed"
    """``teacher``, ``student``, or ``mixed``: a share beta of the environments is driven by the teacher (DAgger,
    Ross et al. 2011, with the environment as the unit, so that both sides are followed into their own mistakes)."""
    beta: Schedule = Schedule(0.5)
    """Share of the environments that the teacher drives under ``mixed``."""
    epsilon: Schedule = Schedule(0.05)
    """Probability of a random action, whoever acts."""
    greedy_share: float = 0.25
    """Share of the environments, spread evenly, in which no random action is taken."""
    labels: tuple[Schedule, ...] = (Schedule(1.0),)
    """Share of the vector steps that the teacher labels, the largest of these; in the others it is not asked, and nothing is learnt."""
    zeta: float | None = None
    """A random action is repeated for n steps with probability proportional to n^-zeta (εz-greedy, Dabney et al. 2021): some tasks
    need long pushes to see a reward at all, others end at once under them. None: taken once."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, greedy_share="[0, 1]", zeta="(1, inf)")
        if not self.labels:
            raise SpecError("'labels' must name at least one schedule, got none.")

    def teacher_drives(self, n_envs: int, progress: Progress) -> NDArray[np.bool_]:
        """Which of N environments the teacher drives now, (N,)."""
        share = {"teacher": 1.0, "student": 0.0, "mixed": self.beta(progress)}[self.name]
        driven: NDArray[np.bool_] = (np.arange(n_envs) + 0.5) / n_envs < share
        return driven

    def labels_step(self, index: int, progress: Progress) -> bool:
        """Whether the teacher labels the vector step of this number; spread evenly."""
        share = min(max(schedule(progress) for schedule in self.labels), 1.0)
        return int((index + 1) * share) > int(index * share)

    def explores(self, n_envs: int) -> NDArray[np.bool_]:
        """Which of N environments take random actions, (N,)."""
        order = np.arange(1, n_envs + 1) * self.greedy_share
        exploring: NDArray[np.bool_] = np.floor(order) == np.floor(order - self.greedy_share)
        return exploring


class Collected(NamedTuple):
    """One vector step under way: the actions are sent, the environments are working."""

    step_index: int
    """Number of vector steps before this one."""
    actions: NDArray[np.int64]
    """(N,) actions sent."""
    replayed: bool
    """The actions were recorded by an earlier run and are played again."""
    labelled: bool
    """There is something to learn from it: the teacher labelled it, or there is no teacher."""
    obs: Tensor
    """(N, *obs_shape) that the actions answer."""


class Collector:
    """Steps the environments, labels what is seen and adds it to the replay.

    Iterate over `steps`; while the caller works on one item, the environments work on its actions.
    """

    def __init__(
        self,
        envs: VecEnv,
        replay: Replay,
        behaviour: Behaviour,
        rng: np.random.Generator,
        student: Values,
        teacher: Values | None,
        teacher_name: str = "",
    ) -> None:
        self.envs, self.replay, self.behaviour, self.rng = envs, replay, behaviour, rng
        self.student, self.teacher, self.teacher_name = student, teacher, teacher_name
        self.student_may_act = teacher is None
        self.progress = Progress(0.0)
        self.episode_returns: list[float] = []
        self.held = np.zeros((2, envs.n_envs), np.int64)
        """(2, N): the random action under way in each environment, and for how many steps more."""
        self._running = np.zeros(envs.n_envs)
        self._student_whole_episode = np.zeros(envs.n_envs, np.bool_)

    def steps(
        self, seeds: NDArray[np.int64], recorded: NDArray[np.int64] | tuple[()] = (), labelled: NDArray[np.bool_] | tuple[()] = ()
    ) -> Iterator[Collected]:
        """Endless vector steps.

        Args:
            seeds: (N,) seeds of the first episodes.
            recorded: (T, N) actions to play again first; none for a new run.
            labelled: (T,) which of them the teacher labelled.
        """
        obs = self.envs.reset(seeds)
        check_finite(obs, np.zeros(1, np.float32), self.envs.info.id, 0)
        index = 0
        while True:
            seen = torch.from_numpy(obs).to(self.replay.device)
            replayed = index < len(recorded)
            asked = bool(labelled[index]) if replayed else self.behaviour.labels_step(index, self.progress)
            labels = self._label(seen, index) if asked else None
            actions = recorded[index] if replayed else self._choose(seen, labels)
            self.envs.send(actions)
            yield Collected(index, actions, replayed, asked or self.teacher is None, seen)
            step = self.envs.recv()
            check_finite(step.obs, step.reward, self.envs.info.id, index)
            # what the checkpoint restored is as it was after the last recorded choice, before that choice was answered
            self._add(seen, actions, step, labels, counted=index >= len(recorded) - 1)
            obs = step.obs
            index += 1

    def _label(self, obs: Tensor, steps: int) -> Tensor | None:
        """The teacher's values (N, A) of what is seen; None without a teacher."""
        if self.teacher is None:
            return None
        labels = self.teacher(obs)
        if not bool(torch.isfinite(labels).all()):
            raise TeacherError(
                f"The teacher {self.teacher_name} gave NaN or infinite action values after {steps * self.envs.n_envs} steps in "
                f"{self.envs.info.id}: its labels cannot be learnt, use another teacher."
            )
        return labels

    def state(self) -> dict[str, Any]:
        """What playing the recorded actions again does not restore, as plain data."""
        return {
            "held": self.held.tolist(),
            "student_whole_episode": self._student_whole_episode.tolist(),
            "episode_returns": self.episode_returns[-RETURNS_KEPT:],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        self.held[:] = state["held"]
        self._student_whole_episode[:] = state["student_whole_episode"]
        self.episode_returns = list(state["episode_returns"])

    def _choose(self, obs: Tensor, labels: Tensor | None) -> NDArray[np.int64]:
        """Actions (N,) of whoever drives, some of them random."""
        n_envs = self.envs.n_envs
        teacher_drives = self.behaviour.teacher_drives(n_envs, self.progress) & (labels is not None)
        if not self.student_may_act and labels is not None:
            teacher_drives = np.ones(n_envs, np.bool_)
        self._student_whole_episode &= ~teacher_drives
        actions = np.zeros(n_envs, np.int64)
        by_teacher = labels.argmax(1).cpu().numpy() if labels is not None else actions
        actions[teacher_drives] = by_teacher[teacher_drives]
        if not teacher_drives.all():
            with torch.no_grad():
                by_student = self.student(obs).argmax(1).cpu().numpy()
            actions[~teacher_drives] = by_student[~teacher_drives]
        epsilon = self.behaviour.epsilon(self.progress)
        random = (self.rng.random(n_envs) < epsilon) & self.behaviour.explores(n_envs) & (self.held[1] == 0)
        actions[random] = self.rng.integers(0, self.envs.info.n_actions, int(random.sum()))
        if self.behaviour.zeta is not None:
            actions = np.where(self.held[1] > 0, self.held[0], actions)
            durations = np.minimum(self.rng.zipf(self.behaviour.zeta, n_envs), LONGEST_REPEAT) - 1
            self.held[1] = np.where(random, durations, np.maximum(self.held[1] - 1, 0))
            self.held[0] = actions
        return actions

    def _add(self, obs: Tensor, actions: NDArray[np.int64], step: Step, labels: Tensor | None, *, counted: bool) -> None:
        """Adds a row to the replay; ``counted``: and to what is remembered of episodes and of random actions under way."""
        device = self.replay.device
        arrays = (actions, step.reward, step.terminated, step.truncated)
        action, reward, terminated, truncated = (torch.from_numpy(a).to(device) for a in arrays)
        self.replay.add(obs, action, reward, terminated, truncated, labels)
        self._running += step.reward
        ended = step.terminated | step.truncated
        returned = self._running[ended & self._student_whole_episode].tolist()
        self._running[ended] = 0.0
        if not counted:
            return
        self.episode_returns += returned
        self.held[1, ended] = 0
        self._student_whole_episode[ended] = True  # from here on; a teacher's action clears it again

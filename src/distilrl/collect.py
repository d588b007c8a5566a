"""Collection: vector steps under a behaviour, which fill the replay and label every state."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.envs import Step, VecEnv
from distilrl.errors import NotFiniteError, ResumeError, SpecError, TeacherError
from distilrl.plain import check_fields
from distilrl.policies import Policy, State
from distilrl.replay import ReplaySpec
from distilrl.runs import fitting
from distilrl.schedules import Progress, Schedule
from distilrl.sensors import Feed
from distilrl.teachers import Teacher

BehaviourName = Literal["teacher", "student", "mixed"]
LONGEST_REPEAT = 100
NOT_LABELLED, LABELLED, NOT_NEEDED = 0, 1, 2
"""What was asked of the teacher at a vector step: nothing, so that nothing is learnt from it; labels; nothing, because
no term needs any."""
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
    """Share of the vector steps that the teacher labels, the largest of these; in the others it is not asked, so that
    it drives in none of them either, and nothing is learnt."""
    zeta: float | None = None
    """A random action is repeated for n steps with probability proportional to n^-zeta (εz-greedy, Dabney et al. 2021):
    some tasks need long pushes to see a reward at all, others end at once under them. None: taken once."""

    def __post_init__(self) -> None:
        check_fields(self, greedy_share="[0, 1]", zeta="(1, inf)")
        shares = [("beta", self.beta), ("epsilon", self.epsilon), *(("labels", one) for one in self.labels)]
        for name, one in shares:
            if one.least < 0 or (name == "epsilon" and one.most > 1):
                raise SpecError(
                    f"'{name}' is a share of steps or environments, and goes from {one.least} to {one.most}."
                )
        if not any(one.most > 0 for one in self.labels):
            raise SpecError("'labels' must name at least one schedule above 0, so that the teacher is asked at all.")

    def teacher_drives(self, n_envs: int, progress: Progress) -> NDArray[np.bool_]:
        """Which of N environments the teacher drives now, (N,)."""
        share = {"teacher": 1.0, "student": 0.0, "mixed": self.beta(progress)}[self.name]
        driven: NDArray[np.bool_] = (np.arange(n_envs) + 0.5) / n_envs < share
        return driven

    def asks(self, progress: Progress) -> bool:
        """Whether the teacher may drive, now or later."""
        return self.name == "teacher" or (self.name == "mixed" and not self.beta.over(progress))

    def labels_step(self, index: int, progress: Progress) -> bool:
        """Whether the teacher labels the vector step of this number; spread evenly."""
        share = min(max(schedule(progress) for schedule in self.labels), 1.0)
        return int((index + 1) * share) > int(index * share)

    @property
    def labels_all(self) -> bool:
        """Whether the teacher labels every step, however training goes."""
        return any(one.least >= 1 for one in self.labels)

    def explores(self, n_envs: int) -> NDArray[np.bool_]:
        """Which of N environments take random actions, (N,)."""
        greedy = np.floor(np.arange(n_envs + 1) * self.greedy_share)
        exploring: NDArray[np.bool_] = greedy[1:] == greedy[:-1]
        return exploring


class Collected(NamedTuple):
    """One vector step."""

    actions: NDArray[Any]
    """(N, F) or (N, A) actions sent."""
    label: int
    """What was asked of the teacher: `NOT_LABELLED`, `LABELLED` or `NOT_NEEDED`."""


class Sink(Protocol):
    """Where what is seen goes: a `Replay`, or what keeps it for one."""

    spec: ReplaySpec
    device: torch.device

    def add(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        labels: Tensor | None = None,
        stakes: Tensor | None = None,
        /,
        *,
        needed: bool = True,
    ) -> None:
        """Adds one row, as `Replay.add` does."""


class Collector:
    """Steps the environments, labels what is seen and adds it to the replay.

    `begin`, and then in turn `act` and `settle`; between the two the environments work on the actions while the caller
    does something else. Policies with memory see every step of their episodes, and their state starts anew where one
    ends.
    """

    def __init__(
        self,
        envs: VecEnv,
        replay: Sink,
        behaviour: Behaviour,
        rng: np.random.Generator,
        teacher: Teacher | None = None,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepares to collect.

        Args:
            envs: N environments.
            replay: where what is seen goes; its ``spec`` says how the student sees it.
            behaviour: who acts.
            rng: source of random actions and of noise.
            teacher: who labels; None: nobody.
            part: (k, K): these environments are each Kth of those of a stream, from its kth on; shares of the
                environments are of all of them.
        """
        self.envs, self.replay, self.behaviour, self.rng = envs, replay, behaviour, rng
        self.teacher = teacher
        sensors = replay.spec.sensors
        seeds = () if sensors.exact else rng.integers(2**62, size=envs.n_envs).tolist()
        self.feed = Feed(sensors, seeds, envs.info.obs.frames)
        self._student: Policy | None = None
        self.progress = Progress(0.0)
        self.needed = True
        """Whether a term, the behaviour or the sampling needs the teacher now or later."""
        self.episode_returns: list[float] = []
        self.held = np.zeros((envs.n_envs, envs.info.action.size), envs.info.action.numpy)
        """(N, F): the random action under way in each environment."""
        self.held_for = np.zeros(envs.n_envs, np.int64)
        """(N,): for how many steps more."""
        self._all, self._part = envs.n_envs * part[1], slice(part[0], None, part[1])
        self._running = np.zeros(envs.n_envs)
        self._student_whole_episode = np.zeros(envs.n_envs, np.bool_)
        self._teacher_state: State = ()
        self._student_state: State | None = None
        self._index, self._obs = 0, torch.zeros(0)
        self._answered = 0
        """Checksum of all rewards and ends so far."""
        self._sent: tuple[NDArray[Any], int, Tensor | None] | None = None

    @property
    def student(self) -> Policy | None:
        """Who acts where the teacher does not; None: nobody yet, and without a teacher actions are random."""
        return self._student

    @student.setter
    def student(self, student: Policy | None) -> None:
        before = self._student
        if before is not None and student is not None and student.network is not before.network:
            self._student_state = None  # another one knows nothing of the episodes under way
        self.go_on_with(student)

    def go_on_with(self, student: Policy | None) -> None:
        """The student as it is now, in a copy that remembers what it did, where it is of the same shape."""
        if student is not None and self._student_state is not None:
            shapes = [
                [part.shape for part in state] for state in (student.start(self.envs.n_envs), self._student_state)
            ]
            if shapes[0] != shapes[1]:
                self._student_state = None
        self._student = student

    def steps(self, seeds: NDArray[np.int64]) -> Iterator[Collected]:
        """Endless vector steps; while the caller works on one, the environments work on its actions.

        Args:
            seeds: (N,) seeds of the first episodes.
        """
        self.begin(seeds)
        while True:
            yield self.act()
            self.settle()

    def begin(self, seeds: NDArray[np.int64]) -> None:
        """Starts the first episodes, of these seeds (N,)."""
        self._obs = torch.from_numpy(self.envs.reset(seeds)).to(self.replay.device)
        if self.teacher is not None:
            self._teacher_state = self.teacher.policy.start(self.envs.n_envs)
        self._index = 0

    def act(self, recorded: NDArray[Any] | None = None, label: int | None = None, *, kept: bool = True) -> Collected:
        """Asks the teacher, chooses actions and sends them.

        Args:
            recorded: (N, F) actions to play again instead.
            label: what was asked of the teacher then.
            kept: somebody reads the labels; otherwise only a teacher with memory is asked again.
        """
        seen, index = self._obs, self._index
        asked = self._ask(index) if label is None else label
        remembers = self.teacher is not None and self.teacher.policy.remembers
        answer = self._label(seen, index) if asked == LABELLED and (kept or remembers) else None
        actions = self._choose(seen, answer) if recorded is None else recorded
        self.envs.send(actions)
        self._sent = actions, asked, answer
        return Collected(actions, asked)

    def settle(self) -> None:
        """Waits for what the environments answer and adds the row."""
        if self._sent is None:
            return
        (actions, asked, answer), self._sent = self._sent, None
        step = self.envs.recv()
        self._add(self._obs, actions, step, answer, needed=asked != NOT_NEEDED)
        self._obs = torch.from_numpy(step.obs).to(self.replay.device)
        self._index += 1

    def _ask(self, index: int) -> int:
        """What to ask of the teacher at the vector step of this number; one with memory must see every step."""
        if self.teacher is None or not self.needed:
            return NOT_NEEDED
        if self.teacher.policy.remembers or self.behaviour.labels_step(index, self.progress):
            return LABELLED
        return NOT_LABELLED

    def _label(self, obs: Tensor, steps: int) -> Tensor | None:
        """The teacher's numbers (N, P) for what is seen."""
        if self.teacher is None:
            return None
        labels, self._teacher_state = self.teacher.label(obs, self._teacher_state)
        if not bool(torch.isfinite(labels).all()):
            raise TeacherError(
                f"The teacher {self.teacher.path} gave NaN or infinite numbers after {steps * self._all} "
                "steps in "
                f"{self.envs.info.id}: its labels cannot be learnt, use another teacher."
            )
        return labels

    def _stakes(self, obs: Tensor, labels: Tensor) -> Tensor | None:
        """What a mistake costs (N,) in the states that were labelled."""
        if self.teacher is None:
            return None
        if self.replay.spec.stakes_exponent == 0:  # a critic costs several passes, and nobody reads what it says
            return self.teacher.head.stakes(labels)
        stakes = self.teacher.stakes(obs, labels)
        if not bool(torch.isfinite(stakes).all()):
            raise TeacherError(
                f"The {'critic' if self.teacher.critic is not None else 'numbers'} of the teacher {self.teacher.path} "
                f"gave NaN or infinite stakes in {self.envs.info.id}, by which states cannot be weighed: use another "
                "teacher, or set 'stakes_exponent' to 0 (a tree has no such setting)."
            )
        return stakes

    def state(self) -> dict[str, Any]:
        """What playing the recorded actions again does not restore, and what must then be seen: JSON and arrays."""
        return {
            "rng": self.rng.bit_generator.state,
            "collector": {
                "held": self.held.copy(),
                "held_for": self.held_for.copy(),
                "student_whole_episode": self._student_whole_episode.copy(),
                "feed": self.feed.state(),
                "student_state": [part.cpu().numpy().copy() for part in self._student_state or ()],
                "episode_returns": self.episode_returns,
            },
            "obs": self._checksum(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Reads back what `state` gave, once the actions of before are played again to the same moment.

        Raises:
            ResumeError: what is seen is not what was seen then.
        """
        if self._checksum() != state.get("obs"):
            raise ResumeError(
                f"{self.envs.info.id} did not answer its recorded actions as before (another version, or an "
                "environment that is not deterministic under its seed), so the run cannot continue to the same result: "
                "start it again."
            )
        with fitting():
            own = state["collector"]
            self.rng.bit_generator.state = state["rng"]
            self.held[:], self.held_for[:] = own["held"], own["held_for"]
            self._student_whole_episode[:] = own["student_whole_episode"]
            self.feed.load(own["feed"])
            if own["student_state"]:
                self._student_state = tuple(
                    torch.tensor(part, device=self._obs.device) for part in own["student_state"]
                )
            self.episode_returns = [float(one) for one in own["episode_returns"]]

    def _checksum(self) -> int:
        """Of what is seen now, and of all rewards and ends so far."""
        return zlib.crc32(self._obs.cpu().numpy().tobytes(), self._answered)

    def _choose(self, obs: Tensor, labels: Tensor | None) -> NDArray[Any]:
        """Actions (N, F) of whoever drives, some of them random."""
        n_envs, action = self.envs.n_envs, self.envs.info.action
        teacher_drives = self.behaviour.teacher_drives(self._all, self.progress)[self._part] & (labels is not None)
        if self.student is None and labels is not None:
            teacher_drives = np.ones(n_envs, np.bool_)
        self._student_whole_episode &= ~teacher_drives
        actions = np.zeros((n_envs, action.size), action.numpy)
        if labels is not None and self.teacher is not None:
            actions[teacher_drives] = self.teacher.head.greedy(labels).cpu().numpy()[teacher_drives]
        if not teacher_drives.all() or self._watches:
            actions[~teacher_drives] = self._of_student(obs)[~teacher_drives]
        random = (
            (self.rng.random(n_envs) < self.behaviour.epsilon(self.progress))
            & self.behaviour.explores(self._all)[self._part]
            & (self.held_for == 0)
        )
        actions[random] = action.sample(int(random.sum()), self.rng)
        if self.behaviour.zeta is not None:
            actions = np.where(self.held_for[:, None] > 0, self.held, actions)
            durations = np.minimum(self.rng.zipf(self.behaviour.zeta, n_envs), LONGEST_REPEAT) - 1
            self.held_for = np.where(random, durations, np.maximum(self.held_for - 1, 0))
            self.held = actions
        return actions

    @property
    def _watches(self) -> bool:
        """Whether the student must see every step, whoever drives."""
        return self.student is not None and (self.student.remembers or self.feed.sensors.follows)

    def _of_student(self, obs: Tensor) -> NDArray[Any]:
        """The student's greedy actions (N, F), of what it sees."""
        if self.student is None:
            return self.envs.info.action.sample(self.envs.n_envs, self.rng)
        if not self.feed.sensors.exact:
            seen = self.feed.see(obs.cpu().numpy(), np.arange(self.envs.n_envs))
            obs = torch.from_numpy(seen).to(obs.device)
        if self._student_state is None:
            self._student_state = self.student.start(self.envs.n_envs)
        actions, self._student_state = self.student.act(obs, self._student_state)
        chosen = actions.cpu().numpy()
        if not np.isfinite(chosen).all():  # before the environment is blamed for what comes of them
            raise NotFiniteError(
                "The student's actions have become NaN or infinite: training has diverged, lower 'learning_rate', "
                "'max_grad_norm' or the weight of a loss."
            )
        return chosen

    def _add(self, obs: Tensor, actions: NDArray[Any], step: Step, labels: Tensor | None, *, needed: bool) -> None:
        """Adds a row to the replay, and to what is remembered of episodes and of random actions under way."""
        device = self.replay.device
        arrays = (actions, step.reward, step.terminated, step.truncated)
        for answered in arrays[1:]:
            self._answered = zlib.crc32(answered.tobytes(), self._answered)
        action, reward, terminated, truncated = (torch.from_numpy(a).to(device) for a in arrays)
        stakes = self._stakes(obs, labels) if labels is not None else None
        self.replay.add(obs, action, reward, terminated, truncated, labels, stakes, needed=needed)
        self._running += step.reward
        ended = step.terminated | step.truncated
        if ended.any():
            self._restart(torch.from_numpy(ended).to(device))
        whole = self._running[ended & self._student_whole_episode].tolist()
        self.episode_returns = [*self.episode_returns, *whole][-RETURNS_KEPT:]
        self._running[ended] = 0.0
        self.held_for[ended] = 0
        self._student_whole_episode[ended] = True  # from here on; a teacher's action clears it again

    def _restart(self, ended: Tensor) -> None:
        """Lets policies with memory, and sensors, forget what ended."""
        self.feed.restart(ended.cpu().numpy())
        if self.teacher is not None:
            self._teacher_state = self.teacher.policy.restart(self._teacher_state, ended)
        if self.student is not None and self._student_state is not None:
            self._student_state = self.student.restart(self._student_state, ended)

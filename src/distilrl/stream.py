"""A stream of labelled states: one environment, its teacher, the replay and who acts; and the check of a policy on
selection seeds.

Everything that learns reads a `Stream` and is measured by a `Check`: a student, a population of sizes, a tree.
"""

import copy
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl import stats
from distilrl.collect import LABELLED, NOT_LABELLED, Behaviour, Collected, Collector
from distilrl.config import TrainConfig
from distilrl.envs import EnvInfo, VecEnv, describe_env, make_vec_env
from distilrl.episodes import Episodes, Play
from distilrl.errors import ResumeError, SpecError, closed_on_error
from distilrl.evaluate import SELECT_SEEDS, VERDICT_SEEDS, play, seeds_from
from distilrl.events import Watch, silent
from distilrl.heads import Head, student_head
from distilrl.objective import FeatureTerm, TDTerm, teacher_needed
from distilrl.played import Acceptance
from distilrl.policies import Policy
from distilrl.replay import Batch, Replay, ReplaySpec
from distilrl.schedules import Progress
from distilrl.sensors import EXACT
from distilrl.shards import Collectors, Rounds, Setup
from distilrl.spaces import ActionSpec
from distilrl.specs import has_cell, history_of
from distilrl.teachers import Teacher


class Source(Protocol):
    """Where a stream gets its rows from."""

    @property
    def episode_returns(self) -> list[float]:
        """Returns of the last episodes that the student played from beginning to end."""

    def step(self, student: Policy | None, progress: Progress, *, needed: bool) -> Collected:
        """The next vector step; who acts in it where the teacher does not, and whether the teacher is needed."""

    def ahead(self) -> list[Collected]:
        """Steps that are made already and taken next; they belong to what is recorded."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the actions, those ahead included."""

    def load(self, actions: NDArray[Any], labels: NDArray[np.uint8], state: dict[str, Any]) -> None:
        """The first steps are then these (T, N, F), asked of the teacher (T,), played again."""

    def close(self) -> None:
        """Frees the environments."""


class Lockstep:
    """One set of environments: the student of the moment acts, and they step while it learns."""

    def __init__(self, envs: VecEnv, collector: Collector, seeds: NDArray[np.int64]) -> None:
        self._envs, self._collector, self._seeds = envs, collector, seeds
        self._recorded: deque[tuple[NDArray[Any], int]] = deque()
        self._state: dict[str, Any] = {}
        self._begun = False

    @property
    def episode_returns(self) -> list[float]:
        return self._collector.episode_returns

    def step(self, student: Policy | None, progress: Progress, *, needed: bool) -> Collected:
        """What the last actions led to enters the replay, and the next actions are sent."""
        collector = self._collector
        if self._begun:
            collector.settle()
        else:
            collector.begin(self._seeds)
            self._begun = True
        collector.student, collector.progress, collector.needed = student, progress, needed
        if not self._recorded:
            return collector.act()
        step = collector.act(*self._recorded.popleft())
        if not self._recorded:  # what was saved is as it was after that choice, before it was answered
            collector.load(self._state)
        return step

    def ahead(self) -> list[Collected]:
        return []

    def state(self) -> dict[str, Any]:
        return self._collector.state()

    def load(self, actions: NDArray[Any], labels: NDArray[np.uint8], state: dict[str, Any]) -> None:
        self._recorded, self._state = deque(zip(actions, labels.tolist(), strict=True)), state

    def close(self) -> None:
        self._envs.close()


def check_views(config: TrainConfig, info: EnvInfo) -> None:
    """Refuses what the student cannot see otherwise than its teacher: numbers that no vector has.

    Raises:
        SpecError: names the setting.
    """
    student, obs = config.student, info.obs
    student.sensors.check(obs, info.id)
    if student.hidden_features and (
        obs.pixels or any(not 0 <= index < obs.vector for index in student.hidden_features)
    ):
        raise SpecError(f"'hidden_features' are places in a vector observation, and {info.id} has {obs.shape}.")


def check_waits(config: TrainConfig) -> None:
    """Refuses rounds where each step is waited for.

    Raises:
        SpecError: the configuration has them.
    """
    if config.data.round_steps > 0:
        raise SpecError(
            f"'round_steps' is {config.data.round_steps}, but here each step is waited for: leave it at 0, 'shards' at "
            "1."
        )


def check_labels(config: TrainConfig, *, remembers: bool, who: str) -> None:
    """Refuses to ask a teacher that remembers about a share of the steps.

    Raises:
        SpecError: names the recipe and the teacher.
    """
    if remembers and not config.data.behaviour.labels_all:
        raise SpecError(
            f"'labels' of the recipe '{config.recipe}' ask the teacher about a share of the steps, and {who} "
            "remembers, so that it must see every step of its episodes: let it label all of them, as 'distil' does."
        )


class Recorded:
    """What was done so far: all that a checkpoint needs to play it again, in as few bytes as hold it. Nothing else of a
    run grows with its steps.

    Args:
        n_envs: environments N.
        action: what they take.
    """

    def __init__(self, n_envs: int, action: ActionSpec) -> None:
        self._shape, self._stored = (n_envs, action.size), action.stored
        self._actions, self.labels = bytearray(), bytearray()
        """``labels``: what was asked of the teacher at each vector step, as `Collected.label`."""

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, actions: NDArray[Any], labels: Sequence[int]) -> None:
        """Vector steps: actions (T, N, F) and what was asked in each."""
        self._actions += actions.astype(self._stored).tobytes()
        self.labels.extend(labels)

    def tensors(self, ahead: Sequence[Collected]) -> dict[str, Tensor]:
        """All actions (T, N, F) and what was asked (T,), of these steps too."""
        data, labels = bytearray(self._actions), bytearray(self.labels)
        for step in ahead:
            data += step.actions.astype(self._stored).tobytes()
            labels.append(step.label)
        actions = np.frombuffer(data, self._stored).reshape(-1, *self._shape)
        return {"actions": torch.from_numpy(actions), "labels": torch.frombuffer(labels, dtype=torch.uint8)}


def nothing_drawn(config: TrainConfig, steps: int) -> SpecError:
    """What to say of a run whose steps gave nothing to learn from."""
    return SpecError(
        f"Nothing was learnt in {steps} steps, because no transition could be drawn: raise --steps, lower 'n_envs' "
        f"({config.data.n_envs}) or 'n_step' ({config.optim.n_step}), or let the teacher label a larger share of the "
        "steps ('labels' of the behaviour)."
    )


class Stream:
    """One environment with its teacher, collected into a replay one vector step at a time, and played again on
    resuming.
    """

    def __init__(
        self,
        config: TrainConfig,
        teacher: Teacher | None,
        *,
        number: int = 0,
        behaviour: Behaviour | None = None,
        collectors: Collectors | None = None,
    ) -> None:
        """Makes the environments.

        Args:
            config: what is collected.
            teacher: who labels; None: nobody.
            number: of the task whose stream this is.
            behaviour: who acts; the configuration's own by default.
            collectors: who hosts the shards, where the configuration has rounds.

        Raises:
            SpecError: the configuration has rounds, and whoever reads the stream needs each step at once; or the other
                way round.
        """
        data, self.config = config.data, config
        self.env = config.tasks[number].env
        where = self._envs() if collectors is None else collectors
        with closed_on_error(where.close) if isinstance(where, VecEnv) else nullcontext():
            self._begin(where, teacher, behaviour or data.behaviour, number)

    def _begin(self, where: VecEnv | Collectors, teacher: Teacher | None, behaviour: Behaviour, number: int) -> None:
        """All but the environments."""
        config, data = self.config, self.config.data
        self.info = where.info if isinstance(where, VecEnv) else describe_env(self.env)
        self.teacher = teacher = teacher.fitted(self.info) if teacher is not None else None
        labelled = teacher is not None and config.needs_teacher
        # what is learnt from reward are values of actions, whatever the teacher's numbers are
        rewarded = any(isinstance(term, TDTerm) for term in config.terms)
        head: Head = student_head(self.info.action) if teacher is None or rewarded else teacher.head.student
        self.head = head if config.keeps_scale else head.unscaled
        check_views(config, self.info)
        if teacher is not None:
            check_labels(config, remembers=teacher.policy.remembers, who=teacher.path)
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
            history=history_of(config.student.network),
            sequence=config.optim.sequence if has_cell(config.student.network) else 1,
            burn_in=config.optim.burn_in,
            sensors=config.student.sensors,
            exact_too=any(isinstance(term, FeatureTerm) for term in config.terms),
        )
        self.replay = Replay(spec, torch.device(config.compute.device))
        self.student: Policy | None = None
        """Who acts where the teacher does not; None: nobody yet."""
        self.asks = labelled
        """Whether the teacher is ever asked."""
        self.source = self._source(where, behaviour, number)
        self.done = Recorded(data.n_envs, self.info.action)
        self.to_replay = 0
        """Vector steps that are played again first."""

    def _envs(self) -> VecEnv:
        """All environments, to be stepped together."""
        data, config = self.config.data, self.config
        check_waits(config)
        return make_vec_env(
            self.env, data.n_envs, threads=config.compute.threads, workers=data.workers, for_learning=data.for_learning
        )

    def _source(self, where: VecEnv | Collectors, behaviour: Behaviour, number: int) -> Lockstep | Rounds:
        """Where the rows come from."""
        config, data = self.config, self.config.data
        seeds = config.seed * 10_000 + number * 1_000 + np.arange(data.n_envs)
        entropy, teacher = (config.seed, 1 + number), self.teacher if self.asks else None
        if isinstance(where, VecEnv):
            rng = np.random.default_rng(entropy)
            return Lockstep(where, Collector(where, self.replay, behaviour, rng, teacher), seeds)
        if data.round_steps == 0:
            raise SpecError("'round_steps' is 0, so that each step is waited for: set it to 8 or so for collectors.")
        setup = Setup(
            env=self.env,
            spec=self.replay.spec,
            seeds=tuple(seeds.tolist()),
            entropy=entropy,
            behaviour=behaviour,
            teacher=teacher,
            shards=data.shards,
            for_learning=data.for_learning,
            threads=config.compute.threads,
            device=config.compute.device,
        )
        return Rounds(where.host(setup), setup, self.replay, data.round_steps)

    @property
    def env_steps(self) -> int:
        """Steps of one environment, summed over all of the stream."""
        return len(self.done) * self.config.data.n_envs

    @property
    def labelled_states(self) -> int:
        """States that the teacher labelled."""
        return self.done.labels.count(LABELLED) * self.config.data.n_envs if self.replay.spec.labelled else 0

    @property
    def learnable(self) -> bool:
        """Whether there is something to learn from the last step, and something to draw."""
        return self.done.labels[-1] != NOT_LABELLED and self.replay.ready

    def collect(self, progress: Progress) -> None:
        """The next vector step; a recorded one is played again."""
        data = self.config.data
        needed = (
            data.stakes_exponent > 0 or data.behaviour.asks(progress) or teacher_needed(self.config.terms, progress)
        )
        step = self.source.step(self.student, progress, needed=needed)
        self.done.add(step.actions, [step.label])

    def draw(self, generator: torch.Generator) -> Tensor:
        """Indices of the transitions, or of those of sequences, that the updates of one vector step read."""
        optim = self.config.optim
        return self.replay.draw(optim.updates * optim.batch_size // self.replay.spec.sequence, generator)

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """The transitions drawn, as the student sees them."""
        return self.replay.batch(index, self.config.optim.gamma, generator)

    @property
    def episode_returns(self) -> list[float]:
        """Returns of the last episodes that the student played from beginning to end."""
        return self.source.episode_returns

    @property
    def recorded(self) -> int:
        """Environment steps that are played again first."""
        return self.to_replay * self.config.data.n_envs

    @property
    def replaying(self) -> bool:
        """Whether recorded steps are left to be played again."""
        return len(self.done) < self.to_replay

    def close(self) -> None:
        """Frees the environments."""
        self.source.close()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the stream."""
        tensors = self.done.tensors(self.source.ahead())
        one = self.teacher
        of = {"teacher": one.digest, "of_members": one.members} if one is not None else {"teacher": None}
        return tensors, of | self.source.state()

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any], *, ended: bool) -> None:
        """Reads back what `state` gave; of a run that has ended nothing is played again."""
        one, known = self.teacher, state["teacher"]
        same = known is None if one is None else one.goes_on(known, state.get("of_members"))
        if not same:
            raise ResumeError("The run was started with another teacher (its digest differs): give it the same file.")
        actions, labels = tensors["actions"].numpy().astype(self.info.action.numpy), tensors["labels"].numpy()
        self.to_replay = len(actions) - len(state.get("ahead", ()))
        if ended:
            self.done.add(actions[: self.to_replay], labels[: self.to_replay].tolist())
        else:
            self.source.load(actions, labels, state)


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
        self, config: TrainConfig, acceptance: Acceptance | None, *, number: int = 0, keep_states: int = 1500
    ) -> None:
        """Prepares.

        Args:
            config: in what, and on which seeds.
            acceptance: what `acceptance.accept` said of the teacher; None: there is none, and no score.
            number: of the task.
            keep_states: states to sample.
        """
        self.acceptance = acceptance
        self.how = Play(
            config.tasks[number].env,
            epsilon=config.eval_epsilon,
            threads=config.compute.threads,
            workers=config.data.workers,
            max_steps=acceptance.check_steps if acceptance is not None else None,
            keep_states=keep_states,
            sensors=config.student.sensors,
            at_once=config.compute.eval_envs,
        )
        self.seeds = seeds_from(SELECT_SEEDS + config.seed * 1000, config.stop.check_episodes)

    def __call__(self, policy: Policy, watch: Watch = silent, *, shadow: Policy | None = None) -> Checked:
        """One check."""
        games = play(policy, self.how, self.seeds, watch=watch, shadow=shadow)
        mean = stats.mean(games.returns)
        return Checked(mean, self.score(mean), games)

    def whole(self) -> "Check":
        """The same check of episodes that end where the environment ends them, if it does."""
        check = copy.copy(self)
        if describe_env(self.how.env).protocol.get("max_episode_steps"):
            check.how = replace(self.how, max_steps=None)
        return check

    def others(self, policy: Policy, episodes: int, watch: Watch = silent, *, turn: int = 0) -> float:
        """Mean return over other episodes than those of a check, to their end; at each turn others again."""
        return self._elsewhere(policy, self.how, episodes, watch, turn)

    def parity(
        self, policy: Policy, teacher: Teacher | None, episodes: int, watch: Watch = silent, *, turn: int = 0
    ) -> tuple[float, float | None]:
        """`others` and its score, against what the teacher makes in the same episodes.

        Its acceptance may be of few: where these went badly, a student would pass for as good as a teacher that it does
        not come near. In a game that repeats itself it is of all there are.
        """
        mean, known = self.others(policy, episodes, watch, turn=turn), self.acceptance
        if known is None:
            return mean, None
        theirs = known.return_mean
        if teacher is not None and not known.exact:
            theirs = self._elsewhere(teacher.policy, replace(self.how, sensors=EXACT), episodes, watch, turn)
        return mean, stats.score(mean, theirs, known.random_return_mean)

    def _elsewhere(self, policy: Policy, how: Play, episodes: int, watch: Watch, turn: int) -> float:
        # however many episodes a check has and however many turns there are, never the verdict's
        place = self.seeds[0] - SELECT_SEEDS + max(500, len(self.seeds)) + turn * episodes
        seeds = seeds_from(SELECT_SEEDS + place % (VERDICT_SEEDS - SELECT_SEEDS - episodes), episodes)
        return stats.mean(play(policy, replace(how, keep_states=0, max_steps=None), seeds, watch=watch).returns)

    def share(self, mean: float) -> float | None:
        """What a mean return is of the teacher's above random play in whole episodes, of which the verdict's margin is
        a share.
        """
        known = self.acceptance
        return stats.score(mean, known.return_mean, known.random_return_mean) if known is not None else None

    def score(self, mean: float) -> float | None:
        """The score of a check's mean return, beside random play in episodes that end where a check's do."""
        known = self.acceptance
        if known is None or known.cut_random_return_mean is None or self.how.max_steps is None:
            return self.share(mean)
        return stats.score(mean, known.return_mean, known.cut_random_return_mean)

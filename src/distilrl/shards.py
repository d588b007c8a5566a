"""Collection in shards: parts of a stream's environments that can run anywhere, and whoever hosts them here.

A *shard* is a fixed part of a stream's environments with its own generator, batch shape and a single thread, and a copy
of teacher and student; a *round* is a fixed number of vector steps of all shards under one student; a *block* is what
one shard saw in it. A *host* runs the shards, here or elsewhere, and has two rounds in flight: the student that acts in
round r + 1 is the one after the updates of round r − 1, wherever and however fast the shards run. Rows enter the replay
in the order of the shards, so that the bytes of the student do not depend on who hosts them.
"""

import copy
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.collect import LABELLED, NOT_NEEDED, RETURNS_KEPT, Behaviour, Collected, Collector
from distilrl.envs import make_vec_env
from distilrl.errors import closed_on_error
from distilrl.policies import Policy
from distilrl.replay import Replay, ReplaySpec
from distilrl.schedules import Progress
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher
from distilrl.threads import one_thread

IN_FLIGHT = 2
"""Rounds that are asked for and of which nothing is learnt yet."""


@dataclass(frozen=True)
class Setup:
    """What the shards of a stream have in common: enough to make any of them, anywhere."""

    env: EnvRef
    """Environment."""
    spec: ReplaySpec
    """Of the replay that they fill; its ``n_envs`` are dealt to the shards in turn."""
    seeds: tuple[int, ...]
    """Of the first episode of each environment, (N,)."""
    entropy: tuple[int, ...]
    """What the generator of each shard is made from, its number put behind."""
    behaviour: Behaviour
    """Who acts."""
    teacher: Teacher | None
    """Who labels; None: nobody."""
    shards: int = 1
    """How many there are."""
    for_learning: bool = False
    """Clipped rewards and lost lives, in ALE."""
    threads: int = 1
    """Emulators that run at once; networks have one thread, whose sums are the same on every machine of a kind."""
    device: str = "cpu"
    """Where the networks compute."""

    def part(self, shard: int) -> slice:
        """Columns of the replay that are this shard's."""
        count = self.spec.n_envs // self.shards
        return slice(shard * count, (shard + 1) * count)


class Order(NamedTuple):
    """What all shards are to do in a round."""

    policy: Policy | None
    """A copy of the student, on the CPU; None: it does not act yet."""
    progress: Progress
    """How far the run has come."""
    needed: bool
    """Whether the teacher is needed, now or later."""
    steps: int
    """Vector steps T."""


class Played(NamedTuple):
    """What a shard did before, to be played again."""

    actions: NDArray[Any]
    """(T, n, F)."""
    labels: NDArray[np.uint8]
    """(T,) what was asked of the teacher."""
    state: dict[str, Any] | None
    """`Block.state` of then, read back after the last step; None: there is more to play first."""


class Block(NamedTuple):
    """What a shard of n environments saw in T vector steps."""

    obs: NDArray[Any]
    """(T, n, ...) observations, of images that stack frames of time the newest frame alone, as the replay keeps it."""
    actions: NDArray[Any]
    """(T, n, F)."""
    reward: NDArray[np.float32]
    """(T, n)."""
    terminated: NDArray[np.bool_]
    """(T, n)."""
    truncated: NDArray[np.bool_]
    """(T, n)."""
    labels: NDArray[np.float32]
    """(T, n, P); zeros where the teacher was not asked."""
    stakes: NDArray[np.float32]
    """(T, n); zeros where the teacher was not asked."""
    asked: NDArray[np.uint8]
    """(T,) what was asked of the teacher."""
    returns: list[list[float]]
    """(T) returns of the episodes that the student played from beginning to end and that ended in each step."""
    state: dict[str, Any]
    """Of the shard's collector, after the last step."""

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """What the replay takes in, in the order of `Replay.add`."""
        return self[:7]


class Host(Protocol):
    """Runs the shards of one stream."""

    def submit(self, order: Order, played: Sequence[Played] | None = None) -> None:
        """Asks for a round; ``played``: what each shard plays again in it, instead of choosing."""

    def take(self) -> list[Block]:
        """The oldest round that was asked for: a block of each shard, in their order.

        Raises:
            DistilError: what a shard raised.
        """

    def close(self) -> None:
        """Frees the shards; what was asked for and not taken is forgotten."""


class Collectors(Protocol):
    """Whoever hosts shards."""

    def host(self, setup: Setup) -> Host:
        """Makes the shards of a stream."""


class Rows:
    """Keeps rows, as small as a replay keeps them, until a block is made of them; takes the place of a `Replay`."""

    def __init__(self, spec: ReplaySpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        beside = spec.obs.vector
        self._newest = (spec.obs.shape[0] - beside) // spec.obs.frames
        self._rows: list[tuple[NDArray[Any], ...]] = []

    def add(self, obs: Tensor, *rest: Tensor | None, needed: bool = True) -> None:
        """Keeps one row, as `Replay.add` takes it; ``needed`` follows from what was asked."""
        del needed
        beside, count, dim = self.spec.obs.vector, len(obs), obs.shape[1]
        if self.spec.obs.frames > 1:
            obs = torch.cat([obs[:, :beside], obs[:, dim - self._newest :]], dim=1)
        *seen, labels, stakes = rest
        labels = torch.zeros((count, self.spec.labels)) if labels is None else labels
        row = (obs, *seen, labels, torch.zeros(count) if stakes is None else stakes)
        self._rows.append(tuple(tensor.cpu().numpy() for tensor in row if tensor is not None))

    def take(self) -> Iterator[NDArray[Any]]:
        """The columns of all that was kept, (T, n, ...) each, which are kept no longer."""
        rows, self._rows = self._rows, []
        return (np.stack(column) for column in zip(*rows, strict=True))


class Shard:
    """One part of a stream's environments, wherever it runs.

    Example::

        block = Shard(setup, 0).collect(Order(policy, progress, needed=True, steps=8))
    """

    def __init__(self, setup: Setup, number: int) -> None:
        """Makes the environments.

        Args:
            setup: what all shards have in common.
            number: of this one.
        """
        part, device = setup.part(number), torch.device(setup.device)
        env = replace(setup.env, named=True)  # whoever made the setup was allowed what it names
        self.envs = make_vec_env(env, part.stop - part.start, threads=setup.threads, for_learning=setup.for_learning)
        with closed_on_error(self.envs.close):  # a teacher may find no room on its device
            self._rows = Rows(replace(setup.spec, n_envs=self.envs.n_envs), device)
            self._collector = Collector(
                self.envs,
                self._rows,
                setup.behaviour,
                np.random.default_rng([*setup.entropy, number]),
                setup.teacher.to(device) if setup.teacher is not None else None,
                part=(number, setup.shards),
            )
        self._seeds: NDArray[np.int64] | None = np.array(setup.seeds[number :: setup.shards], np.int64)

    def collect(self, order: Order, played: Played | None = None) -> Block:
        """One round.

        Raises:
            DistilError: an environment failed, the teacher's numbers are not finite, or what is played again does not
                come out as before.
        """
        collector, policy = self._collector, order.policy
        if policy is not None:
            policy = replace(policy, network=policy.network.to(self._rows.device))
        collector.go_on_with(policy)
        collector.progress, collector.needed = order.progress, order.needed
        with one_thread():
            taken = list(self._steps(order.steps, played))
            if played is not None and played.state is not None:
                collector.load(played.state)
        obs, actions, reward, terminated, truncated, labels, stakes = self._rows.take()
        asked, returns = np.array([label for label, _ in taken], np.uint8), [ended for _, ended in taken]
        return Block(obs, actions, reward, terminated, truncated, labels, stakes, asked, returns, collector.state())

    def restore(self, played: Played) -> None:
        """Plays again all that a shard which is gone did; nobody needs the rows, so no teacher without memory is asked.

        Raises:
            ResumeError: it does not come out as before.
        """
        with one_thread():
            for _ in self._steps(len(played.actions), played, kept=False):
                self._rows.take()
            if played.state is not None:
                self._collector.load(played.state)

    def close(self) -> None:
        """Frees the environments."""
        self.envs.close()

    def _steps(self, count: int, played: Played | None, *, kept: bool = True) -> Iterator[tuple[int, list[float]]]:
        """Vector steps: what was asked of the teacher, and the returns of the student's episodes that ended."""
        collector = self._collector
        if self._seeds is not None:
            collector.begin(self._seeds)
            self._seeds = None
        for t in range(count):
            again = (None, None) if played is None else (played.actions[t], int(played.labels[t]))
            label = collector.act(*again, kept=kept).label
            collector.settle()
            returns, collector.episode_returns = collector.episode_returns, []
            yield label, returns


class InProcess:
    """Hosts shards in this process, one after the other; the result is that of any other host."""

    def host(self, setup: Setup) -> Host:
        """Makes the shards of a stream."""
        return _Here(setup)


class _Here:
    """Shards in this process; a round is played when it is taken."""

    def __init__(self, setup: Setup) -> None:
        self._shards: list[Shard] = []
        with closed_on_error(self.close):  # those before one that cannot be made
            for number in range(setup.shards):
                self._shards.append(Shard(setup, number))
        self._asked: deque[tuple[Order, Sequence[Played] | None]] = deque()

    def submit(self, order: Order, played: Sequence[Played] | None = None) -> None:
        """Notes it down."""
        self._asked.append((order, played))

    def take(self) -> list[Block]:
        """Plays the oldest round."""
        order, played = self._asked.popleft()
        again = played or itertools.repeat(None, len(self._shards))
        return [shard.collect(order, one) for shard, one in zip(self._shards, again, strict=True)]

    def close(self) -> None:
        """Frees the environments."""
        for shard in self._shards:
            shard.close()


class Rounds:
    """Rounds of shards, of which two are in flight: the student that acts in a round is the one after the updates of
    the round before the last, so that all work goes on at once and what comes of it depends on nobody's speed.
    """

    def __init__(self, host: Host, setup: Setup, replay: Replay, length: int) -> None:
        """Takes over a host.

        Args:
            host: of the shards.
            setup: of the shards.
            replay: where the rows go.
            length: vector steps T of a round.
        """
        self._host, self._setup, self._replay, self._length = host, setup, replay, length
        self.episode_returns: list[float] = []
        self._taken = self._flying = 0
        """Steps taken, and rounds in flight."""
        self._rows: deque[_Row] = deque()
        """What is here and not taken yet."""
        self._states: list[dict[str, Any]] = []
        self._recorded: deque[list[Played]] = deque()
        self._known: deque[list[float]] = deque()
        """Returns of the recorded steps, of which playing them again does not tell whose they are."""

    def step(self, student: Policy | None, progress: Progress, *, needed: bool) -> Collected:
        """The next row enters the replay; where a round begins, the one after it is asked for."""
        if self._taken % self._length == 0:
            while self._flying + len(self._rows) // self._length < IN_FLIGHT:
                order = Order(_copied(student), progress, needed, self._length)
                self._host.submit(order, self._recorded.popleft() if self._recorded else None)
                self._flying += 1
            if not self._rows:
                self._land()
        row = self._rows.popleft()
        *seen, labels, stakes = row.columns
        answers = (labels, stakes) if row.asked == LABELLED else ()
        self._replay.add(*seen, *answers, needed=row.asked != NOT_NEEDED)
        self.episode_returns = [*self.episode_returns, *row.returns][-RETURNS_KEPT:]
        self._taken += 1
        return Collected(row.actions, row.asked)

    def _land(self) -> None:
        """Waits for the oldest round in flight."""
        blocks = self._host.take()
        self._flying -= 1
        self._states = [block.state for block in blocks]
        joined = [np.concatenate(parts, axis=1) for parts in zip(*(block.columns for block in blocks), strict=True)]
        columns = [torch.from_numpy(part).to(self._replay.device) for part in joined]
        for t, asked in enumerate(blocks[0].asked.tolist()):  # all shards ask alike
            returns = self._known.popleft() if self._known else [r for block in blocks for r in block.returns[t]]
            self._rows.append(_Row(tuple(column[t] for column in columns), joined[1][t], asked, returns))

    def ahead(self) -> list[Collected]:
        """What is left of this round, and the round in flight, which is waited for."""
        while self._flying:
            self._land()
        return [Collected(row.actions, row.asked) for row in self._rows]

    def state(self) -> dict[str, Any]:
        self.ahead()
        ahead = [row.returns for row in self._rows]
        return {"shards": self._states, "ahead": ahead, "episode_returns": self.episode_returns}

    def load(self, actions: NDArray[Any], labels: NDArray[np.uint8], state: dict[str, Any]) -> None:
        setup, length, count = self._setup, self._length, len(actions)
        for first in range(0, count, length):
            rows = slice(first, first + length)
            ends = state["shards"] if first + length == count else [None] * setup.shards
            self._recorded.append(
                [Played(actions[rows, setup.part(k)], labels[rows], end) for k, end in enumerate(ends)]
            )
        self._known = deque([[] for _ in range(count - len(state["ahead"]))] + state["ahead"])
        self.episode_returns = list(state["episode_returns"])

    def close(self) -> None:
        self._host.close()


class _Row(NamedTuple):
    """A vector step of all shards."""

    columns: tuple[Tensor, ...]
    """As `Block.columns`, (N, ...) each, on the replay's device."""
    actions: NDArray[Any]
    asked: int
    returns: list[float]


def _copied(student: Policy | None) -> Policy | None:
    """The student as it is now, on the CPU: what it subtracts from its inputs is part of the copy."""
    if student is None:
        return None
    return replace(student, network=copy.deepcopy(student.network).cpu().eval().requires_grad_(False))

"""Collectors: actors of a Ray cluster that host shards.

What a collector is told and what it answers travels as pickles between processes of one program and one token; nothing
that a file brings is ever read that way.
"""

import contextlib
import copy
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilrl import __version__
from distilrl.distributed.connection import connect, other_versions
from distilrl.errors import DistilError, SpecError, TeacherError, WorkerError
from distilrl.events import Replaced, Watch, silent
from distilrl.fanout import Place
from distilrl.isolation import isolated
from distilrl.plain import check_number
from distilrl.provenance import package_of, versions
from distilrl.shards import Block, Host, Order, Played, Setup, Shard
from distilrl.starting import brought_back, unreadable
from distilrl.teachers import Teacher
from distilrl.text import first_line, raised

ATTEMPTS = 3
"""Collectors that may die in a row over one round before the run gives up: then it is not the machines."""
SECONDS_TO_START = 120.0
"""How long a collector may take to start, which includes waiting for a place in the cluster."""


class Worker:
    """What runs in a collector: shards by their keys."""

    def __init__(self) -> None:
        self._shards: dict[str, Shard | DistilError] = {}

    def about(self, place: Place) -> dict[str, str]:
        """Where it runs, and the versions of all that decides what comes out; from now on paths count from there."""
        place.enter()
        return {"node": socket.gethostname()} | versions()

    def host(self, key: str, setup: Setup, number: int, played: Played | None, package: str) -> None:
        """Makes a shard, and brings one that lived elsewhere to where it was; what goes wrong, `collect` says."""
        try:
            self._shards[key] = shard = Shard(setup, number)
            if (here := package_of(setup.env.id)) != package:  # known once the environment is
                self.drop(key)
                raise WorkerError(
                    f"A collector on {socket.gethostname()} has {here or 'no package'} where the run has {package}: "
                    "install the same on all machines, or numbers differ."
                )
            if played is not None:
                shard.restore(played)
        except DistilError as error:
            self._shards[key] = error
        except Exception as error:  # of a device that is not there, say: nobody hears of it here
            where = f"A collector on {socket.gethostname()} cannot make its part of the run"
            self._shards[key] = WorkerError(f"{where}, because it {raised(error)}: mend that, or leave it out.")

    def collect(self, key: str, order: Order, played: Played | None) -> Block | DistilError:
        """A round of a shard, or the sentence that it ended with."""
        shard = self._shards[key]
        if isinstance(shard, DistilError):
            return shard
        try:
            with isolated(), brought_back():
                return shard.collect(order, played)
        except DistilError as error:
            return error

    def drop(self, key: str) -> None:
        """Frees a shard."""
        shard = self._shards.pop(key, None)
        if isinstance(shard, Shard):
            shard.close()


@dataclass
class _Actor:
    """A collector, or the one that took its place."""

    handle: Any
    node: str
    generation: int = 0
    """How many were here before."""


class RayCollectors:
    """Hosts shards on actors of a Ray cluster, used as a context manager; the student is the one of any other host.

    Example::

        with RayCollectors(2, "auto") as collectors:
            train(config, teacher, collectors=collectors)
    """

    def __init__(self, count: int, address: str = "auto", *, gpus: float = 0.0, watch: Watch = silent) -> None:
        """Does not connect yet.

        Args:
            count: collectors; each is a process with one core.
            address: of the cluster, as `connect` takes it.
            gpus: share of a GPU that each has, on which its teacher and student then compute; 0: none.
            watch: told where a collector died and another took its place.
        """
        check_number("collectors", count, "[1, inf)", whole=True)
        self.count, self.address, self.gpus, self.watch = count, address, gpus, watch
        self.ray: Any = None
        self.actors: list[_Actor] = []
        self._stack = contextlib.ExitStack()
        self._hosts = 0

    def __enter__(self) -> "RayCollectors":
        with contextlib.ExitStack() as stack:
            self.ray = stack.enter_context(connect(self.address))
            stack.callback(self._kill)
            self.actors = [_Actor(self._start(), "") for _ in range(self.count)]  # all start at once
            for actor in self.actors:  # and are heard one after the other; where one does not start, all end
                actor.node = self._greet(actor.handle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(self, setup: Setup) -> Host:
        """Deals the shards of a stream to the collectors.

        Raises:
            SpecError: there are more collectors than shards.
            TeacherError: the teacher cannot be sent to another process.
        """
        if self.count > setup.shards:
            raise SpecError(
                f"{self.count} collectors cannot share {setup.shards} shards: give at most as many collectors, or "
                "begin a run with more 'shards'."
            )
        self._hosts += 1
        return _Remote(self, setup, str(self._hosts))

    @property
    def gone(self) -> tuple[type[Exception], ...]:
        """What is raised where a collector's process, machine or memory is no more."""
        known = self.ray.exceptions
        return (
            known.RayActorError, known.ObjectLostError, known.WorkerCrashedError, known.NodeDiedError,
            known.OutOfMemoryError,
        )  # fmt: skip

    def replace(self, number: int, generation: int, shards: int, steps: int) -> None:
        """Puts a new collector in the place of one that is gone, unless that was done already, and says so. One that
        dies as it starts is left there, gone as the one before.

        Raises:
            WorkerError: none can start, or what starts is of another version.
        """
        actor = self.actors[number]
        if actor.generation != generation:
            return
        self._end(actor.handle)
        actor.handle, actor.generation = self._start(), generation + 1
        try:
            before, actor.node = actor.node, self._greet(actor.handle)
        except WorkerError as error:
            cause = error.__cause__
            if not isinstance(cause, self.gone) or getattr(cause, "actor_init_failed", False):
                raise
            self._end(actor.handle)  # it may come back, and then nobody has greeted it
            return  # whoever asks it next hears that it is gone, and counts it
        self.watch(Replaced(number, before, actor.node, shards, steps))

    def _start(self) -> Any:
        remote = self.ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(Worker)
        return remote.remote()

    def _greet(self, handle: Any) -> str:
        """Waits for a collector; the name of its node.

        Raises:
            WorkerError: it does not start, or is of another version.
        """
        try:
            about: dict[str, str] = self.ray.get(handle.about.remote(Place.here()), timeout=SECONDS_TO_START)
        except self.ray.exceptions.GetTimeoutError as error:
            asked, there = f" and {self.gpus} of a GPU" if self.gpus else "", self.ray.cluster_resources()
            raise WorkerError(
                f"The cluster had no place for a collector in {SECONDS_TO_START:.0f} s (each needs a core{asked}; in "
                f"all there are {there.get('CPU', 0):.0f} cores and {there.get('GPU', 0):.0f} GPUs): ask for fewer, or "
                "add machines."
            ) from error
        except self.ray.exceptions.RayError as error:
            raise WorkerError(
                f"A collector does not start ({first_line(error)}): every machine of the cluster needs distilrl "
                f"{__version__} with the extra 'ray'."
            ) from error
        node = about.pop("node")
        if other := other_versions(about, versions()):
            raise WorkerError(
                f"A collector on {node} has {other}: install the same on all machines, or numbers differ."
            )
        return node

    def _end(self, handle: Any) -> None:
        with contextlib.suppress(Exception):  # it may be gone, or only out of reach
            self.ray.kill(handle)

    def _kill(self) -> None:
        for actor in self.actors:
            self._end(actor.handle)
        self.actors = []


class _Pending(NamedTuple):
    """A round of a shard that is asked for: all that asking again needs."""

    order: Any
    """Reference to the `Order`, which the head owns, so that it outlives every other machine."""
    played: Played | None
    answer: Any
    """Reference to the `Block`."""


@dataclass
class _Hosted:
    """A shard on a collector, and what it has done."""

    number: int
    actor: int
    """Number of its collector."""
    generation: int = -1
    """Of the collector that it was put on; -1: none yet."""
    pending: deque[_Pending] = field(default_factory=deque)
    actions: list[NDArray[Any]] = field(default_factory=list)
    asked: list[NDArray[np.uint8]] = field(default_factory=list)
    state: dict[str, Any] | None = None
    hosted: Any = None
    """Reference to what came of putting it there."""

    def add(self, block: Block) -> None:
        """Remembers what was done, as copies: an array of the object store keeps its whole block from being freed."""
        self.actions.append(block.actions.copy())
        self.asked.append(block.asked.copy())
        self.state = block.state

    @property
    def played(self) -> Played | None:
        """All that was done."""
        if not self.actions:
            return None
        return Played(np.concatenate(self.actions), np.concatenate(self.asked), self.state)

    @property
    def steps(self) -> int:
        """Vector steps that were done."""
        return sum(map(len, self.asked))


class _Remote:
    """The shards of one stream on collectors."""

    def __init__(self, collectors: RayCollectors, setup: Setup, name: str) -> None:
        self._all, self._name, self._package = collectors, name, package_of(setup.env.id)
        self._shards = [_Hosted(number, number % collectors.count) for number in range(setup.shards)]
        try:
            self._setup = collectors.ray.put(_portable(setup, "cuda" if collectors.gpus else "cpu"))
        except (TypeError, AttributeError, RuntimeError) as error:  # pickle's
            path = setup.teacher.path if setup.teacher is not None else setup.env.label
            raise TeacherError(
                f"{path} cannot be sent to a collector ({first_line(error)}): give one that pickle can copy, or leave "
                "--collectors out."
            ) from error
        for shard in self._shards:
            self._put(shard)

    def submit(self, order: Order, played: Sequence[Played] | None = None) -> None:
        """Tells all collectors; each does what it is told in turn."""
        reference = self._all.ray.put(order)
        for shard in self._shards:
            self._tell(shard, reference, None if played is None else played[shard.number])

    def take(self) -> list[Block]:
        """Waits for the oldest round; a shard whose collector died is brought to where it was on another."""
        return [self._block(shard) for shard in self._shards]

    def close(self) -> None:
        """Frees the shards, without waiting."""
        for shard in self._shards:
            with contextlib.suppress(Exception):
                self._all.actors[shard.actor].handle.drop.remote(self._key(shard))
        self._shards = []

    def _block(self, shard: _Hosted) -> Block:
        ray = self._all.ray
        last = ""
        for _ in range(ATTEMPTS):
            if shard.generation != self._all.actors[shard.actor].generation:
                self._put(shard)
            try:
                block: Block | DistilError = ray.get(shard.pending[0].answer)
            except self._all.gone:
                last = self._all.actors[shard.actor].node
                theirs = [one for one in self._shards if one.actor == shard.actor]
                self._all.replace(shard.actor, shard.generation, len(theirs), sum(one.steps for one in theirs))
                continue
            except ray.exceptions.RayTaskError as error:
                raise self._why(shard, error) from error
            if isinstance(block, DistilError):
                raise block
            shard.pending.popleft()
            shard.add(block)
            return block
        raise WorkerError(
            f"{ATTEMPTS} collectors in a row died over the same round of shard {shard.number}, the last on "
            f"{last}: run it without --collectors to see why, or give them more memory; "
            "--resume goes on."
        )

    def _why(self, shard: _Hosted, error: Any) -> Exception:
        """What a round failed with; where its shard was never made, because it cannot be read there, that."""
        known = self._all.ray.exceptions
        try:
            self._all.ray.get(shard.hosted)
        except known.RayError as first:
            error = first
        cause: Exception = getattr(error, "cause", None) or error
        if isinstance(cause, known.RaySystemError):
            return unreadable(cause, f"by a collector on {self._all.actors[shard.actor].node}")
        return cause

    def _put(self, shard: _Hosted) -> None:
        """Makes a shard on its collector, as far as it had come, and asks again for what was asked of it."""
        actor = self._all.actors[shard.actor]
        shard.generation = actor.generation
        about = (self._setup, shard.number, shard.played, self._package)
        shard.hosted = actor.handle.host.remote(self._key(shard), *about)
        pending, shard.pending = shard.pending, deque()
        for one in pending:
            self._tell(shard, one.order, one.played)

    def _tell(self, shard: _Hosted, order: Any, played: Played | None) -> None:
        answer = self._all.actors[shard.actor].handle.collect.remote(self._key(shard), order, played)
        shard.pending.append(_Pending(order, played, answer))

    def _key(self, shard: _Hosted) -> str:
        return f"{self._name}.{shard.number}"


def _portable(setup: Setup, device: str) -> Setup:
    """The setup for a machine elsewhere, with one thread and the networks on the CPU until they are there."""
    teacher: Teacher | None = setup.teacher
    if teacher is not None and setup.device != "cpu":
        teacher = replace(
            teacher, network=copy.deepcopy(teacher.network).cpu(), critic=copy.deepcopy(teacher.critic)
        ).to("cpu")
    return replace(setup, teacher=teacher, threads=1, device=device)

"""Episodes: what is played and how, and one part of an evaluation, whose episodes are played side by side."""

import heapq
import time
import zlib
from concurrent.futures import CancelledError, Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.envs import EnvInfo, Step, describe_env, make_vec_env
from distilrl.errors import DistilError, EnvError, NotFiniteError, SpecError
from distilrl.events import Episodes as EpisodesEnded
from distilrl.events import Watch
from distilrl.files import read_regular, write_bytes
from distilrl.limits import MAX_PART_BYTES
from distilrl.measures import Measure, Tally
from distilrl.plain import THREADS, check_fields
from distilrl.policies import Policy, rows_of
from distilrl.sensors import EXACT, Feed, Sensors
from distilrl.spaces import EnvRef
from distilrl.worlds import world_of

KINDS = {
    "returns": ("float64", 1), "lengths": ("int64", 1), "fingerprints": ("uint64", 1), "truncated": ("bool", 1),
    "measured": ("float64", 2), "starts": ("float64", 1), "clusters": ("float64", 1),
}  # fmt: skip
"""Type and dimensions of what there is of each episode."""


@dataclass(frozen=True)
class Episodes:
    """Whole episodes, in the order of their seeds."""

    returns: NDArray[np.float64]
    """(E,) unclipped sums of rewards."""
    lengths: NDArray[np.int64]
    """(E,) environment steps."""
    fingerprints: NDArray[np.uint64]
    """(E,) equal where the start, all actions and all that came of them are equal: one and the same episode."""
    truncated: NDArray[np.bool_]
    """(E,) the episode was cut by a limit of time or steps."""
    measured: NDArray[np.float64]
    """(E, M) the number of each measure; NaN where an episode has none."""
    starts: NDArray[np.float64]
    """(E,) mean of the numbers of the first observation, by which an environment is known again."""
    states: NDArray[Any]
    """(K, *obs_shape) a sample of the states visited."""
    drawn: NDArray[np.float64]
    """(K,) what each of these states drew: those that drew most of all are the sample."""
    own: NDArray[np.float32] | None = None
    """(K, P) numbers of the policy in these states, where one with memory was played."""
    shadow: NDArray[np.float32] | None = None
    """(K, P) numbers of the policy that only watched, where one did."""
    clusters: NDArray[np.float64] | None = None
    """(E,) what the environment says of which episodes belong together, where it was asked."""

    @property
    def units(self) -> NDArray[Any]:
        """(E,) labels of what is one draw: all episodes of a cluster, or those that are one and the same, also in what
        was measured of them.
        """
        if self.clusters is not None:
            return self.clusters
        if not self.measured.size:
            return self.fingerprints
        told = np.array([zlib.crc32(row.tobytes()) for row in self.measured], np.uint64)
        return self.fingerprints * np.uint64(1099511628211) + told

    def fits(self, episodes: int, how: "Play") -> bool:
        """Whether it may be what so many episodes gave, as read from a file."""
        obs = describe_env(how.env).obs
        states = self.states.shape[1:] == obs.shape and self.states.dtype == np.dtype(obs.numpy)
        clustered = (self.clusters is not None) == (how.cluster is not None)
        return len(self.returns) == episodes and states and clustered and self.measured.shape[1] == len(how.measures)

    def write(self, path: Path) -> None:
        """Writes all of it to a file.

        Raises:
            FileError: it cannot be written.
        """
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(self).items() if value is not None}
        write_bytes(path, zlib.compress(safetensors.numpy.save(arrays), 1))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What `write` wrote; None where nothing is, or it is damaged."""
        try:
            packed = zlib.decompressobj()
            data = packed.decompress(read_regular(path, MAX_PART_BYTES), MAX_PART_BYTES)
            read = cls(**safetensors.numpy.load(data)) if packed.eof else None
        except (DistilError, OSError, LookupError, TypeError, ValueError, zlib.error, safetensors.SafetensorError):
            return None
        return read if read is not None and read.whole else None

    @property
    def whole(self) -> bool:
        """Whether what there is of each episode is there of all, in its type."""
        each = {name: getattr(self, name) for name in KINDS if getattr(self, name) is not None}
        beside = [one for one in (self.states, self.drawn, self.own, self.shadow) if one is not None]
        typed = all((str(one.dtype), one.ndim) == KINDS[name] for name, one in each.items())
        return typed and len({len(one) for one in each.values()}) == 1 == len({len(one) for one in beside})


@dataclass(frozen=True)
class Play:
    """How episodes are played."""

    env: EnvRef
    """Environment."""
    epsilon: float = 0.0
    """Probability of a random action; 1 is the random policy."""
    sticky: float | None = None
    """ALE's probability of repeating an action; the environment's own where None."""
    threads: int = 2
    """Threads on which parts are played at the same time, in ALE."""
    workers: int = 0
    """Processes that step environments other than ALE's; 0: this one."""
    max_steps: int | None = None
    """Cut every episode here and count what it has, as checks do while training: a greedy student can rally for
    ever."""
    measures: tuple[Measure, ...] = ()
    """What is read of the environment's ``info`` beside the reward."""
    cluster: str | None = None
    """Key of the ``info`` whose number, the last of an episode, says which episodes belong together (a patient's, a
    day's, a map's) and so are one draw of all intervals; None: each stands for itself."""
    keep_states: int = 0
    """States to sample."""
    sensors: Sensors = EXACT
    """How the policy sees what is there."""
    at_once: int = 32
    """Environments that are held at once; more episodes are played in equal parts."""
    executor: Executor | None = field(default=None, compare=False, repr=False)
    """Where parts are played at the same time; None: here, one after the other. The episodes are the same."""
    parts: Path | None = field(default=None, compare=False, repr=False)
    """Folder in which each part is kept as it ends, so that what was cut short goes on with those that are left."""

    def __post_init__(self) -> None:
        if self.cluster == "":
            raise SpecError("'cluster' must name a key of the environment's info: leave it out where there is none.")
        check_fields(
            self, epsilon="[0, 1]", sticky="[0, 1]", threads=THREADS, workers="[0, inf)",
            max_steps="[1, inf)", keep_states="[0, inf)", at_once="[1, inf)",
        )  # fmt: skip

    @property
    def decides(self) -> dict[str, Any]:
        """What decides, beside the policies and the seeds, what is played and read, as JSON: keys of what is kept."""
        return {
            "environment": self.env.to_json(),
            "world": world_of(self.env),
            "epsilon": self.epsilon,
            "sticky": self.sticky,
            "max_steps": self.max_steps,
            "measures": [[one.name, one.how] for one in self.measures],
            "cluster": self.cluster,
            "keep_states": self.keep_states,
            "sensors": asdict(self.sensors),
        }


ENDLESS = 100_000
"""Steps after which an episode that its environment does not limit is given up."""


HEARTBEAT = 1.0
"""Seconds after which it is told how far episodes are where none of them ends."""


def check_clusters(how: Play, one: NDArray[Any], other: NDArray[Any], who: str) -> None:
    """Refuses clusters (E,) that are not settled by the seed: they differ between ``who`` played the same ones.

    Raises:
        EnvError: they do.
    """
    if not np.array_equal(one, other):
        raise EnvError(
            f"'{how.cluster}' of the info differs between {who} on the same seed: a cluster must be settled by the "
            f"seed of '{how.env.label}', not by what is done there."
        )


class UnforeseenError(Exception):
    """A game did not start as its seed foretold."""


class Game:
    """One episode in each environment; only those that live are stepped, where the environments can do that."""

    def __init__(
        self,
        policy: Policy,
        how: Play,
        seeds: NDArray[np.int64],
        keys: NDArray[np.int64] | None,
        shadow: Policy | None,
    ) -> None:
        self.policy, self.how, self.seeds, self.keys, self.shadow = policy, how, seeds, keys, shadow
        self.read = (*how.measures, *([Measure(how.cluster)] if how.cluster is not None else []))
        """What is read of each ``info``; the cluster is the last."""
        self.halted = False
        """Set from another thread, it ends the games at their next step."""
        # draws of each episode's own: it is the same whoever plays beside it and however long they live; not from
        # [seed, 0], which NumPy takes for the seed alone, so that noise would be what the environment itself draws
        self.rngs = [np.random.default_rng([int(seed), 2]) for seed in seeds]
        # states are sampled by draws of their own, so that keeping some changes no episode
        self.kept = _Reservoir(how.keep_states, np.random.default_rng([int(seeds[0]), 1]))
        # what is said of a state out of its order is not what is said of it there
        apart = policy.remembers or not how.sensors.exact or (shadow is not None and shadow.remembers)
        self.keeps = apart and how.keep_states > 0
        self.device, self.shadow_device = policy.device, shadow.device if shadow is not None else None

    def play(self, watch: Watch) -> Episodes:
        """Plays to the end."""
        how = self.how
        names = tuple(measure.name for measure in self.read)
        self.envs = make_vec_env(
            how.env, len(self.seeds), sticky=how.sticky, threads=how.threads, workers=how.workers, measured=names
        )
        try:
            return self._play(watch)
        finally:
            self.envs.close()

    def _play(self, watch: Watch) -> Episodes:
        how, envs, count = self.how, self.envs, len(self.seeds)
        action = envs.info.action
        returns, lengths, truncated = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.bool_)
        tally = Tally(self.read, count)
        obs = envs.reset(self.seeds)
        if self.keys is not None and not np.array_equal(envs.start_keys(), self.keys):
            raise UnforeseenError
        prints = np.array([zlib.crc32(o.tobytes()) for o in obs], np.uint64)
        starts = obs.reshape(count, -1).mean(axis=1, dtype=np.float64)
        self.feed = Feed(how.sensors, self.seeds.tolist(), envs.info.obs.frames)
        self.state = self.policy.start(count)
        self.shadow_state = self.shadow.start(count) if self.shadow is not None else ()
        live = np.arange(count)
        actions = np.zeros((count, action.size), action.numpy)
        quiet = time.monotonic() + HEARTBEAT
        endless = max(ENDLESS, envs.info.protocol.get("max_episode_steps") or 0)
        while len(live) and (how.max_steps is None or int(lengths.max()) < how.max_steps):
            if self.halted:
                raise CancelledError
            if int(lengths.max()) > endless:
                raise EnvError(
                    f"An episode of '{how.env.label}' has not ended after {endless:,} steps (seed "
                    f"{self.seeds[live[0]]}): give it a limit of time, e.g. with --env-kwargs "
                    "'{\"max_episode_steps\": 1000}' or the wrapper of your choice."
                )
            actions[live] = self._act(obs[live], live, [self.rngs[i] for i in live], int(lengths.max()))
            self.kept.offer(obs, live, self._numbers)
            alive = np.zeros(count, np.bool_)
            alive[live] = True
            envs.send(actions, alive)
            step = envs.recv()
            returns[live] += step.reward[live]
            lengths[live] += 1
            tally.add(live, step.measured[live])
            ended = (step.terminated | step.truncated)[live]
            answered = np.uint64(1) if envs.info.deterministic else _met(step, live, ended)
            prints[live] = prints[live] * np.uint64(1099511628211) + _hashed(actions[live]) + answered
            obs = step.obs
            truncated[live] |= step.truncated[live]
            if ended.any():
                stay = torch.from_numpy(np.flatnonzero(~ended))
                self.state, self.shadow_state = rows_of(self.state, stay), rows_of(self.shadow_state, stay)
                live = live[~ended]
            if ended.any() or time.monotonic() >= quiet:
                quiet = time.monotonic() + HEARTBEAT
                over = np.delete(returns, live)
                mean = float(over.mean()) if len(over) else 0.0
                watch(EpisodesEnded(len(over), count, mean, int(lengths.max())))
        truncated[live] = True
        own, shadow = self.kept.numbers()
        measured = tally.result[:, : len(how.measures)]
        clusters = tally.result[:, -1] if how.cluster is not None else None
        if clusters is not None and (lacking := np.isnan(clusters)).any():
            raise EnvError(
                f"In no step of {int(lacking.sum())} of {count} episodes of '{how.env.label}' is there '{how.cluster}' "
                "in the info, so that their cluster is not known: correct the name, or have the environment give it."
            )
        states = self.kept.stack(envs.info)
        return Episodes(
            returns, lengths, prints, truncated, measured, starts, states, self.kept.drawn, own, shadow, clusters
        )

    def _act(
        self, obs: NDArray[Any], live: NDArray[np.int64], rngs: list[np.random.Generator], steps: int
    ) -> NDArray[Any]:
        """Actions (L, F) in the living environments, whose draws are from these generators."""
        how, action = self.how, self.envs.info.action
        if how.epsilon >= 1.0:
            self._numbers: tuple[Tensor | None, Tensor | None] = (None, None)
            return np.concatenate([action.sample(1, rng) for rng in rngs])
        seen = torch.from_numpy(self.feed.see(obs, live)).to(self.device)
        with torch.no_grad():
            p, self.state = self.policy.forward(seen, self.state)
            q = None
            if self.shadow is not None and self.keeps:
                q, self.shadow_state = self.shadow.forward(
                    torch.from_numpy(obs).to(self.shadow_device), self.shadow_state
                )
        if not bool(torch.isfinite(p).all()):
            raise NotFiniteError(
                f"The policy gave NaN or infinite numbers in {how.env.label} after {steps} steps, from which no return "
                "follows: make it anew, or where it masks actions by infinity, have it give a large negative number."
            )
        self._numbers = (p.cpu(), q.cpu() if q is not None else None) if self.keeps else (None, None)
        actions: NDArray[Any] = self.policy.head.greedy(p).cpu().numpy()
        for row, rng in enumerate(rngs if how.epsilon > 0 else ()):
            if rng.random() < how.epsilon:
                actions[row] = action.sample(1, rng)[0]
        return actions


def _hashed(actions: NDArray[Any]) -> NDArray[np.uint64]:
    """A number (L,) that tells rows of actions (L, F) apart."""
    if actions.shape[1] == 1 and actions.dtype == np.int64:
        return actions[:, 0].astype(np.uint64)
    words = np.ascontiguousarray(actions).view(np.uint32).astype(np.uint64)
    weights = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    mixed: NDArray[np.uint64] = (words * weights).sum(axis=1, dtype=np.uint64)
    return mixed


def _met(step: Step, live: NDArray[np.int64], ended: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A number (L,) that tells apart what living environments answered; where an episode ended, the observation is of
    the next one and does not count.
    """
    seen = [0 if over else zlib.crc32(step.obs[i].tobytes()) for i, over in zip(live, ended, strict=True)]
    rewards = step.reward[live].view(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    mixed: NDArray[np.uint64] = np.array(seen, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + rewards
    return mixed + np.uint64(1)


class _Reservoir:
    """A sample of states in which each of those offered is with the same chance, however many there will be: each draws
    a number, and those that drew most are kept (Efraimidis & Spirakis 2006, without weights), so that samples of
    several such can be joined.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.states: list[NDArray[Any]] = []
        self._rows: list[tuple[Tensor | None, Tensor | None]] = []
        self._places: list[tuple[float, int]] = []
        """A heap of what was drawn and where it is kept, the least first."""

    def offer(self, obs: NDArray[Any], which: NDArray[np.int64], numbers: tuple[Tensor | None, Tensor | None]) -> None:
        """Takes some of the states ``which`` of obs (N, *obs_shape), and the rows of numbers (L, P) that belong to
        them.
        """
        if self.size == 0:
            return
        drawn = self.rng.random(len(which))
        least = self._places[0][0] if len(self._places) == self.size else -1.0
        for row in np.flatnonzero(drawn > least).tolist():
            number, place = float(drawn[row]), len(self._places)
            if place < self.size:
                heapq.heappush(self._places, (number, place))
            elif number > self._places[0][0]:
                _, place = heapq.heapreplace(self._places, (number, self._places[0][1]))
            else:
                continue
            self.states[place : place + 1] = [obs[which[row]].copy()]
            self._rows[place : place + 1] = [tuple(part[row] if part is not None else None for part in numbers)]  # type: ignore[list-item]

    @property
    def drawn(self) -> NDArray[np.float64]:
        """What each of the states drew, (K,)."""
        return np.array([number for number, _ in sorted(self._places, key=lambda one: one[1])])

    def stack(self, info: EnvInfo) -> NDArray[Any]:
        """The states (K, *obs_shape)."""
        return np.stack(self.states) if self.states else np.zeros((0, *info.obs.shape), info.obs.numpy)

    def numbers(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """The numbers (K, P) of player and shadow, where they were kept."""
        sides = zip(*self._rows, strict=True) if self._rows else ((), ())
        own, shadow = ([row for row in side if row is not None] for side in sides)
        return (torch.stack(own).numpy() if own else None), (torch.stack(shadow).numpy() if shadow else None)

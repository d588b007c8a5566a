"""Evaluation: whole episodes to returns, latency, size."""

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl import stats
from distilrl.envs import EnvInfo, VecEnv, describe_env, in_arrays, make_vec_env
from distilrl.episodes import KINDS, Episodes, Game, Play, UnforeseenError
from distilrl.errors import FileError, SpecError
from distilrl.events import Episodes as EpisodesEnded
from distilrl.events import Watch, silent
from distilrl.fanout import Place, submitted, worded
from distilrl.isolation import isolated
from distilrl.networks import Network, count_bytes
from distilrl.policies import Policy
from distilrl.spaces import EnvRef
from distilrl.starting import brought_back
from distilrl.teachers import Combine, Teacher, TeacherFile, ensemble, load_together
from distilrl.teachers.before import Called
from distilrl.threads import one_thread, use_threads

ATARI_PART = 16
"""Games of ALE in a part of an evaluation; fewer, where there would be fewer parts than threads."""
ARRAY_PART = 100
"""CartPoles in a part: one more costs next to nothing."""
SECONDS = 0.2
"""How often it is looked how far parts are."""
ACCEPT_SEEDS, SELECT_SEEDS, VERDICT_SEEDS, DISTURBED_SEEDS, EXPORT_SEEDS, INTEGER_SEEDS, FRESH_SEEDS = (
    k * 10_000_000 for k in range(1, 8)
)
"""First seeds of the acceptance check, of choosing the best checkpoint, of the verdict, of the disturbed episodes, of
the observations on which exported files are replayed, of choosing among integers, and of what no run plays."""


def play(
    policy: Policy, how: Play, seeds: Sequence[int], *, watch: Watch = silent, shadow: Policy | None = None
) -> Episodes:
    """Plays one whole episode per seed; none is favoured for being short.

    Where the environment is deterministic and so is the policy, seeds that start in the same state give the same
    episode to the last frame: it is played once and counted for each of them, under one fingerprint.

    Args:
        policy: who plays, greedily but for ``how.epsilon``.
        how: in what, and how disturbed.
        seeds: one per episode.
        watch: told of episodes as they end.
        shadow: a policy that sees what is there, whatever the player's sensors show, and whose numbers are kept beside
            the states; for policies with memory, which cannot be asked about states out of their order.

    Raises:
        NotFiniteError: the policy gave a number that is NaN or infinite.
        EnvError: the environment is at fault.
        SpecError: its observations cannot be seen through such sensors.

    Example::

        games = play(teacher.policy, Play(EnvRef("CartPole-v1")), range(100))
        games.returns.mean()
    """
    if not isinstance(policy, Policy):
        raise SpecError(
            f"A {type(policy).__name__} is no Policy: give 'policy' of a teacher that is fitted to its env."
        )
    queue = np.asarray(seeds, np.int64)
    if not len(queue) or queue.min() < 0:
        raise SpecError("'seeds' must be at least one, and none below 0.")
    if not how.sensors.exact:
        how.sensors.check(describe_env(how.env).obs, how.env.id)
    keys = _known_starts(how, queue)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    try:
        once = _play_parts(policy, how, queue[first], keys[first] if len(first) < len(queue) else None, watch, shadow)
    except UnforeseenError:
        return _play_parts(policy, how, queue, None, watch, shadow)
    each = {name: getattr(once, name) for name in KINDS}
    return replace(once, **{name: one[inverse] for name, one in each.items() if one is not None})


def every_start(how: Play, first: int) -> list[int] | None:
    """Seeds, from ``first`` on, that lead to all equally likely starts of a game that repeats itself: the mean over
    their episodes is exact. None where there is no such list, or chance has its part in the play.

    Example::

        every_start(Play(EnvRef("PongNoFrameskip-v4")), VERDICT_SEEDS)  # 30 seeds, two of which start alike
    """
    with _repeating(how) as envs:
        return envs.every_start(first) if envs is not None else None


def fair_seeds(how: Play, first: int, episodes: int) -> tuple[list[int], bool]:
    """Seeds of an evaluation, from ``first`` on, and whether the mean over their episodes is exact: those of
    `every_start` where there are such, else ``episodes`` of them.
    """
    starts = every_start(how, first)
    return (starts, True) if starts is not None else (seeds_from(first, episodes), False)


def _known_starts(how: Play, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) equal where seeds are known to give the same episode to the last frame."""
    with _repeating(how) as envs:
        return envs.starts(seeds) if envs is not None else np.arange(len(seeds))


@contextlib.contextmanager
def _repeating(how: Play) -> Iterator[VecEnv | None]:
    """A game that repeats itself, to be asked for its starts; None where chance has its part in the play."""
    if not describe_env(how.env).atari or how.epsilon > 0 or how.sensors.chance:
        yield None
        return
    envs = make_vec_env(how.env, 1, sticky=how.sticky)
    try:
        yield envs if envs.info.deterministic else None
    finally:
        envs.close()


def most_at_once(how: Play) -> int:
    """Environments that are held at once, by what they cost: no more of ALE's, and many of those stepped in arrays."""
    if in_arrays(how.env):
        return max(how.at_once, ARRAY_PART)
    return min(how.at_once, ATARI_PART) if describe_env(how.env).atari else how.at_once


def _play_parts(
    policy: Policy,
    how: Play,
    queue: NDArray[np.int64],
    keys: NDArray[np.int64] | None,
    watch: Watch,
    shadow: Policy | None,
) -> Episodes:
    """Episodes of seeds (S,) in equal parts, ``keys`` (S,) being what is known of their starts.

    Networks answer each part on one thread, so that nothing depends on how many there are.
    """
    info = describe_env(how.env)
    atari = info.atari
    most = most_at_once(how)
    count = -(-len(queue) // most)
    parts = np.array_split(np.arange(len(queue)), max(count, min(how.threads, len(queue))) if atari else count)
    games = []
    for part in parts:
        # of pictures, which are large, no more than four times what a part of equal episodes would have in the sample
        share = 4 * -(-how.keep_states * len(part) // len(queue))
        states = min(share, how.keep_states) if info.obs.image is not None else how.keep_states
        one = replace(how, keep_states=states, threads=1, executor=None)
        games.append(Game(policy, one, queue[part], None if keys is None else keys[part], shadow))
    done = {number: known for number, game in enumerate(games) if (known := _kept_part(game)) is not None}
    left = [number for number in range(len(games)) if number not in done]
    if left:
        rest = _play_games(
            [games[number] for number in left], how, len(queue), _offset(watch, done.values(), len(queue))
        )
        done |= dict(zip(left, rest, strict=True))
    return joined([done[number] for number in range(len(games))], how.keep_states)


def _play_games(games: list[Game], how: Play, total: int, watch: Watch) -> list[Episodes]:
    """All parts, each where and when ``how`` has them played."""
    policy, shadow = games[0].policy, games[0].shadow
    with one_thread():
        if how.executor is not None and len(games) > 1:
            return _played_elsewhere(games, how.executor, total, watch)
        shareable = describe_env(how.env).atari and _shareable(policy) and _shareable(shadow)
        if min(how.threads, len(games)) > 1 and shareable:
            return _played_in_threads(games, how.threads, total, watch)
        done: list[Episodes] = []
        for game in games:
            done.append(_keep_part(game, game.play(_offset(watch, done, total))))
    return done


def _part_file(game: Game) -> Path | None:
    """Where a part is kept, by all that decides what is played in it; None where none is."""
    how, policies = game.how, [one for one in (game.policy, game.shadow) if one is not None]
    weights = [one.checksums() for one in policies] if how.parts is not None else []
    if how.parts is None or not all(weights):
        return None
    decides = [how.decides, game.seeds.tolist(), [one.head.to_json() for one in policies], weights]
    return how.parts / f"{hashlib.sha256(json.dumps(decides).encode()).hexdigest()}.z"


def _kept_part(game: Game) -> Episodes | None:
    """A part that was played before this run was cut short."""
    file = _part_file(game)
    known = Episodes.read(file) if file is not None else None
    return known if known is not None and known.fits(len(game.seeds), game.how) else None


def _keep_part(game: Game, episodes: Episodes) -> Episodes:
    """The part, kept where parts are."""
    if (file := _part_file(game)) is not None:
        with contextlib.suppress(FileError):  # then it is played again
            episodes.write(file)
    return episodes


def _shareable(policy: Policy | None) -> bool:
    """Whether several threads may ask it at once: its modules are known, and keep nothing of what they are asked."""
    known = ("torch.nn.", "distilrl.networks", "distilrl.blocks", "distilrl.teachers.", "distilrl.trees")
    if policy is None:
        return True
    safe = policy.device.type != "mps"  # PyTorch's own calls are not, from two threads there
    return safe and all(
        type(module).__module__.startswith(known) and not isinstance(module, Called)  # a function of the user's
        for module in policy.network.modules()
    )


def _played_in_threads(games: list[Game], threads: int, total: int, watch: Watch) -> list[Episodes]:
    """All parts on threads, each of which emulates and decides by itself: none waits for another."""
    heard = [(0, 0.0, 0)] * len(games)
    told = (0, 0)

    def play(number: int) -> Episodes:
        def tell(event: Any) -> None:
            heard[number] = (event.done, event.done * event.mean, event.steps)

        return _keep_part(games[number], games[number].play(tell))

    with ThreadPoolExecutor(threads, "play", initializer=use_threads, initargs=(1,)) as pool:
        futures = [pool.submit(play, number) for number in range(len(games))]
        try:
            left: set[Any] = set(futures)
            while left:
                ended, left = wait(left, SECONDS, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                ends, sums, steps = zip(*heard, strict=True)
                if (sum(ends), max(steps)) != told:
                    told = (sum(ends), max(steps))
                    watch(EpisodesEnded(told[0], total, sum(sums) / max(told[0], 1), told[1]))
        except BaseException:
            for future, game in zip(futures, games, strict=True):
                future.cancel()
                game.halted = True
            raise
    return [future.result() for future in futures]


def _played_elsewhere(games: list[Game], executor: Executor, total: int, watch: Watch) -> list[Episodes]:
    """All parts on the executor, in their order."""
    place, done = Place.here(), []
    futures = [submitted(executor, _play_elsewhere, game, place) for game in games]
    try:
        for game, future in zip(games, futures, strict=True):
            done.append(_keep_part(game, worded(future, game.how.env.label).result()))
            returns = np.concatenate([one.returns for one in done])
            watch(EpisodesEnded(len(returns), total, float(returns.mean())))
    finally:
        for future in futures:
            future.cancel()
    return done


def _play_elsewhere(game: Game, place: Place) -> Episodes:
    """A part in another process."""
    with brought_back(), isolated(), one_thread():
        place.enter()
        return game.play(silent)


def _offset(watch: Watch, done: Collection[Episodes], total: int) -> Watch:
    """Counts the episodes of earlier parts too."""
    if watch is silent:
        return silent
    before, sums = sum(len(one.returns) for one in done), sum(float(one.returns.sum()) for one in done)

    def tell(event: Any) -> None:
        ended = before + event.done
        watch(EpisodesEnded(ended, total, (sums + event.mean * event.done) / max(ended, 1), event.steps))

    return tell


def same_starts(known: NDArray[np.float64], starts: NDArray[np.float64], *, drawn: bool = False) -> NDArray[np.bool_]:
    """(E,) whether episodes begin as others did whose ``starts`` (E,) are known, but for another machine's rounding, or
    half a grey level where they are ``drawn``, which another driver does a little otherwise.

    Example::

        same_starts(play(policy, how, range(9)).starts, play(other, how, range(9)).starts).all()
    """
    near = 1e-4 * np.abs(known).max(initial=0.0) + (0.5 if drawn else 1e-9)
    return np.isclose(known, starts, rtol=0.0, atol=near, equal_nan=True)


def joined(parts: list[Episodes], most: int | None = None) -> Episodes:
    """Parts as one, in their order; with ``most`` so many states, of all of which each has the same chance."""
    if len(parts) == 1:
        return parts[0]
    each: dict[str, Any] = {name: _stacked([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    if most is not None:
        kept = np.sort(np.argsort(-each["drawn"], kind="stable")[:most])
        each |= {name: each[name][kept] for name in ("states", "drawn", "own", "shadow") if each[name] is not None}
    return Episodes(**each)


def _stacked(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def load_teachers(files: Sequence[TeacherFile], env: EnvRef, combine: Combine = "mean") -> Teacher:
    """The teacher of these files for an environment; several are an ensemble, whose temperatures are found on states of
    random play.

    Raises:
        DistilError: a file cannot be read, or the teachers do not fit each other or the environment.
    """
    if not files:
        raise SpecError("There is no teacher: name its file.")
    info = describe_env(env)
    teachers = [teacher.fitted(info) for teacher in load_together(files)]
    if len(teachers) == 1:
        return teachers[0]
    states = play(teachers[0].policy, Play(env, epsilon=1.0, keep_states=512), seeds_from(ACCEPT_SEEDS, 8)).states
    return ensemble(teachers, torch.from_numpy(states), combine).fitted(info)


def seeds_from(first: int, count: int) -> list[int]:
    """``count`` seeds from ``first`` on."""
    return list(range(first, first + count))


def latency_us(policy: Policy, info: EnvInfo, calls: int = 300) -> float:
    """Median time of one greedy decision on a single observation, microseconds, on one CPU thread."""
    obs = torch.from_numpy(np.zeros((1, *info.obs.shape), info.obs.numpy))
    times = []
    state = policy.start(1)
    with one_thread(), torch.inference_mode():
        for call in range(calls + 20):
            start = time.perf_counter()
            p, state = policy.forward(obs, state)
            policy.head.greedy(p)
            if call >= 20:
                times.append(time.perf_counter() - start)
    return stats.median(times) * 1e6


def size(network: Network) -> dict[str, int]:
    """Parameters, bytes and multiply-accumulates."""
    return {"params": network.spec.params, "bytes": count_bytes(network), "macs": network.spec.macs}

"""The one way to a vector of environments."""

import json
from typing import Any

import gymnasium

from distilrl.envs.ale import AleVecEnv, is_ale
from distilrl.envs.cartpole import CartPoleVecEnv, is_plain_cartpole
from distilrl.envs.interface import EnvInfo, VecEnv
from distilrl.envs.single import find_spec
from distilrl.envs.sync import SyncVecEnv
from distilrl.envs.workers import WorkerVecEnv
from distilrl.errors import EnvError, SpecError
from distilrl.plain import THREADS, check_number
from distilrl.spaces import EnvLike, EnvRef, env_ref

MOST_DESCRIBED = 64
"""Environments whose description is remembered."""
_described: dict[Any, tuple[Any, EnvInfo]] = {}
"""Made once for each environment, since a teacher, a recipe and a run all ask; with what its id was registered as."""
ENOUGH_FOR_ARRAYS = 8
"""Copies from which on stepping them in arrays is the faster way."""


def make_vec_env(
    env: EnvLike,
    n_envs: int,
    *,
    sticky: float | None = None,
    threads: int = 2,
    workers: int = 0,
    pictures: bool = False,
    for_learning: bool = False,
    measured: tuple[str, ...] = (),
) -> VecEnv:
    """N copies of an environment.

    Example::

        envs = make_vec_env("HalfCheetah-v5", 8)
        envs = make_vec_env("PongNoFrameskip-v4", 8, sticky=0.25)
        ref = EnvRef("CarRacing-v3", {"continuous": False}, grey=True, resize=(84, 84), stack=4)
        envs = make_vec_env(ref, 4, workers=2)

    Args:
        env: ``PongNoFrameskip-v4`` (no sticky actions) or ``ALE/Pong-v5`` (sticky 0.25) and the same for every game of
            ALE, preprocessed as DQN's (frame skip 4, 84x84 grey, 4 frames, up to 30 no-ops, fire on reset); any id of
            Gymnasium, ``module:Env-id`` to import a module first; or a function that makes an environment.
        n_envs: number of copies N.
        sticky: probability that ALE repeats the last action; the environment's own by default. ALE only.
        threads: threads for ALE's emulators.
        workers: processes that the environments are spread over; 0: they step in this one. Not for ALE, which has
            threads.
        pictures: `VecEnv.picture` will be called.
        for_learning: as DQN learns from ALE (Mnih et al. 2015): rewards clipped to their sign, and a lost life ends the
            episode, while the game goes on. ALE only.
        measured: keys of the ``info`` of a step whose numbers are handed out; by default no ``info`` is read. Not for
            ALE.

    Raises:
        EnvError: the environment is unknown, of a kind that cannot be used, or failed.
        ExtraError: a package that it needs is not installed.
        SpecError: a value that means nothing here.
    """
    ref = env_ref(env)
    _check_numbers(n_envs, sticky, threads, workers)
    spec = find_spec(ref)
    if spec is not None and is_ale(spec):
        if workers:
            raise SpecError(f"'{ref.label}' is a game of ALE, which steps on threads: set 'threads', not 'workers'.")
        if measured:
            raise SpecError(
                f"'{ref.label}' is a game of ALE, whose emulator gives its score and no other number: leave out "
                f"'{measured[0]}', as a measure or a cluster."
            )
        return AleVecEnv(ref, spec, n_envs, sticky, threads, for_learning, pictures)
    for name, given in (("sticky", sticky is not None), ("for_learning", for_learning)):
        if given:
            raise SpecError(f"'{name}' is for games of ALE only, and '{ref.label}' is none: leave it out.")
    envs: VecEnv
    if workers:
        envs = WorkerVecEnv(ref, spec, n_envs, workers, pictures, measured)
    elif n_envs >= ENOUGH_FOR_ARRAYS and not pictures and is_plain_cartpole(ref, spec):
        envs = CartPoleVecEnv(ref, spec, n_envs, measured)
    else:
        envs = SyncVecEnv(ref, spec, n_envs, pictures, measured)
    _check_as_described(envs)
    return envs


def _check_as_described(envs: VecEnv) -> None:
    """Closes environments whose spaces are not those of the first time: a policy was made for these.

    Raises:
        EnvError: they are not.
    """
    key, stands_for = _key(envs.info.ref)
    before, info = _described.get(key, (None, envs.info))
    if before is stands_for and (envs.info.obs, envs.info.action) != (info.obs, info.action):
        envs.close()
        raise EnvError(
            f"'{envs.info.id}' has other spaces than when it was first made: all of its copies must be alike; register "
            "what differs under another id."
        )


def in_arrays(ref: EnvRef) -> bool:
    """Whether many copies of an environment step in arrays, so that one more costs next to nothing."""
    return is_plain_cartpole(ref, find_spec(ref))


def describe_env(env: EnvLike) -> EnvInfo:
    """Spaces and protocol of an environment; one copy is made and closed again.

    Example::

        describe_env("CartPole-v1").action  # Choices(nvec=(2,), ...)

    Raises:
        DistilError: as `make_vec_env`.
    """
    ref = env_ref(env)
    key, stands_for = _key(ref)
    if key not in _described or _described[key][0] is not stands_for:
        envs = make_vec_env(ref, 1)
        envs.close()
        _described[key] = _key(ref)[1], envs.info
        for oldest in list(_described)[:-MOST_DESCRIBED]:
            del _described[oldest]
    return _described[key][1]


def _key(ref: EnvRef) -> tuple[Any, Any]:
    """An environment by all that names it, and what its id is registered as, which a user may change in a notebook."""
    kwargs = json.dumps(ref.kwargs, sort_keys=True, default=repr)  # of which 1 is not True, as it is in a dict
    return (ref, kwargs), gymnasium.registry.get(ref.id.rpartition(":")[2])


def _check_numbers(n_envs: int, sticky: float | None, threads: int, workers: int) -> None:
    check_number("n_envs", n_envs, "[1, inf)", whole=True)
    check_number("threads", threads, THREADS)
    check_number("workers", workers, "[0, inf)", whole=True)
    if sticky is not None:
        check_number("sticky", sticky, "[0, 1]")

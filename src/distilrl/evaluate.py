"""Evaluation: whole episodes to returns, student against teacher on the same seeds, agreement, latency, verdict."""

import base64
import io
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distilrl import stats
from distilrl.envs import VecEnv, check_finite, describe_env, make_vec_env
from distilrl.errors import NotFiniteError, SpecError, TeacherError
from distilrl.losses import agree, value_gap
from distilrl.networks import Network, count_bytes
from distilrl.plain import THREADS, check_number, check_numbers
from distilrl.teachers import Combine, Teacher, TeacherFile, ensemble, load_teacher

Values = Callable[[Tensor], Tensor]
Tick = Callable[[int, int, float], None]
"""Called with episodes done, episodes in all, and the mean return so far."""
Tell = Callable[[str, dict[str, Any]], None]
"""Called as work goes on with an event (``phase``, ``accepted``, ``replay``, ``step``, ``check``, ``episodes``) and its numbers."""

ACCEPT_SEEDS, SELECT_SEEDS, VERDICT_SEEDS, DISTURBED_SEEDS, EXPORT_SEEDS = (k * 10_000_000 for k in range(1, 6))
"""First seeds of the acceptance check, of choosing the best checkpoint, of the verdict, of the disturbed episodes, and of
the observations on which exported files are replayed."""


@dataclass(frozen=True)
class Episodes:
    """Whole episodes, in the order of their seeds."""

    returns: NDArray[np.float64]
    """(E,) unclipped sums of rewards."""
    lengths: NDArray[np.int64]
    """(E,) environment steps."""
    fingerprints: NDArray[np.uint64]
    """(E,) equal where the start and all actions are equal: one and the same episode."""
    states: NDArray[Any]
    """(K, *obs_shape) a sample of the states visited."""


@dataclass(frozen=True)
class Play:
    """How episodes are played."""

    env_id: str
    """Environment."""
    epsilon: float = 0.0
    """Probability of a random action; 1 is the random policy."""
    sticky: float | None = None
    """ALE's probability of repeating an action; the environment's own where None."""
    threads: int = 2
    """Emulator threads."""
    max_steps: int | None = None
    """Cut every episode here and count what it has, as checks do while training: a greedy student can rally for ever."""
    keep_states: int = 0
    """States to sample."""
    device: str = "cpu"
    """Where the policies compute."""
    noise: tuple[float, ...] = ()
    """Standard deviation of the noise on each feature through which the policy sees a vector observation; () for none."""

    def __post_init__(self) -> None:
        check_numbers(
            self, epsilon="[0, 1]", sticky="[0, 1]", threads=THREADS, max_steps="[1, inf)", keep_states="[0, inf)", noise="[0, inf)"
        )


def play(policy: Values, how: Play, seeds: Sequence[int], *, tick: Tick | None = None) -> Episodes:
    """Plays one whole episode per seed; none is favoured for being short.

    Where the environment is deterministic and so is the policy, seeds that start in the same state give the same episode
    to the last frame: it is played once and counted for each of them, under one fingerprint.
    """
    queue = np.asarray(seeds, np.int64)
    envs = make_vec_env(how.env_id, len(queue), sticky=how.sticky, threads=how.threads)
    if not envs.info.deterministic or how.epsilon > 0 or how.noise:
        return _play(policy, how, queue, envs, tick)
    envs.reset(queue)
    _, first, inverse = np.unique(envs.start_keys(), return_index=True, return_inverse=True)
    if len(first) < len(queue):
        envs.close()
        envs = make_vec_env(how.env_id, len(first), sticky=how.sticky, threads=how.threads)
    once = _play(policy, how, queue[first], envs, tick)
    return Episodes(once.returns[inverse], once.lengths[inverse], once.fingerprints[inverse], once.states)


def _play(policy: Values, how: Play, seeds: NDArray[np.int64], envs: VecEnv, tick: Tick | None) -> Episodes:
    """One episode in each environment; those that have ended wait for the last."""
    rng = np.random.default_rng([int(seeds[0]), 0])
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    obs = envs.reset(seeds)
    check_finite(obs, np.zeros(1, np.float32), how.env_id, 0)
    fingerprints = np.array([zlib.crc32(o.tobytes()) for o in obs], np.uint64)
    live = np.arange(len(seeds))
    kept = _Reservoir(how.keep_states, np.random.default_rng([int(seeds[0]), 1]))  # its own draws: keeping states changes no episode
    while len(live) and (how.max_steps is None or int(lengths.max()) < how.max_steps):
        actions = np.zeros(len(seeds), np.int64)
        seen = obs[live] + rng.normal(0, how.noise, obs[live].shape).astype(np.float32) if how.noise else obs[live]
        try:
            actions[live] = _actions(policy, seen, how.epsilon, envs.info.n_actions, rng, how.device)
        except NotFiniteError as error:
            raise NotFiniteError(
                f"{error} in {how.env_id} after {lengths.max()} steps: no return follows from that, make it anew."
            ) from None
        kept.offer(obs, live)
        envs.send(actions)
        step = envs.recv()
        check_finite(step.obs[live], step.reward[live], how.env_id, int(lengths.max()))
        returns[live] += step.reward[live]
        lengths[live] += 1
        fingerprints[live] = fingerprints[live] * np.uint64(1099511628211) + actions[live].astype(np.uint64) + np.uint64(1)
        obs = step.obs
        ended = (step.terminated | step.truncated)[live]
        live = live[~ended]
        if tick is not None and ended.any():
            tick(len(seeds) - len(live), len(seeds), float(np.delete(returns, live).mean()))
    envs.close()
    states = np.stack(kept.states) if kept.states else np.zeros((0, *envs.info.obs_shape), envs.info.obs_dtype)
    return Episodes(returns, lengths, fingerprints, states)


class _Reservoir:
    """A sample of states in which each of those offered is with the same chance, however many there will be (Vitter 1985)."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.states = size, rng, list[NDArray[Any]]()
        self._offered = 0

    def offer(self, obs: NDArray[Any], which: NDArray[np.int64]) -> None:
        """Takes some of the states ``which`` of obs (N, *obs_shape)."""
        if self.size == 0:
            return
        numbers = self._offered + np.arange(len(which))
        slots = np.where(numbers < self.size, numbers, self.rng.integers(numbers + 1))
        self._offered += len(which)
        for env, slot in zip(which[slots < self.size], slots[slots < self.size].tolist(), strict=True):
            self.states[slot : slot + 1] = [obs[env].copy()]


def _actions(policy: Values, obs: NDArray[Any], epsilon: float, n_actions: int, rng: np.random.Generator, device: str) -> NDArray[np.int64]:
    n_envs = len(obs)
    if epsilon >= 1.0:
        return rng.integers(0, n_actions, n_envs)
    with torch.no_grad():
        values = policy(torch.from_numpy(obs).to(device)).cpu()
    if not torch.isfinite(values).all():
        raise NotFiniteError("The policy gave NaN or infinite action values")
    actions: NDArray[np.int64] = values.argmax(1).numpy()
    if epsilon > 0:
        random = rng.random(n_envs) < epsilon
        actions[random] = rng.integers(0, n_actions, int(random.sum()))
    return actions


def load_teachers(files: Sequence[TeacherFile], env_id: str, combine: Combine = "mean") -> Teacher:
    """The teacher of these files; several are an ensemble, whose temperatures are found on states of random play.

    Raises:
        DistilError: a file cannot be read, or the teachers do not fit each other or the environment.
    """
    if not files:
        raise SpecError("There is no teacher: name its file.")
    teachers = [load_teacher(file) for file in files]
    if len(teachers) == 1:
        return teachers[0]
    random = Play(env_id, epsilon=1.0, keep_states=512)
    states = play(teachers[0].action_values, random, seeds_from(ACCEPT_SEEDS, 8)).states
    info = describe_env(env_id)
    for teacher in teachers:
        teacher.check_fits(info)
    return ensemble(teachers, torch.from_numpy(states), combine)


def ticker(tell: Tell) -> Tick:
    """Tells of episodes as they end."""
    return lambda done, total, mean: tell("episodes", {"done": done, "total": total, "mean": mean})


def seeds_from(first: int, count: int) -> list[int]:
    """``count`` seeds from ``first`` on."""
    return list(range(first, first + count))


def checked(teacher: Teacher) -> Values:
    """The teacher's action values, with an error where they have another shape than they must or are not finite."""

    def values_of(obs: Tensor) -> Tensor:
        values = teacher.action_values(obs)
        if tuple(values.shape) != (len(obs), teacher.n_actions):
            raise TeacherError(
                f"The teacher {teacher.path} answers {len(obs)} observations with shape {tuple(values.shape)}: it must be "
                f"{(len(obs), teacher.n_actions)}."
            )
        if not torch.isfinite(values).all():
            raise TeacherError(f"The teacher {teacher.path} gives action values that are not finite: it cannot be distilled.")
        return values

    return values_of


def accept(teacher: Teacher, how: Play, *, episodes: int, weak_ok: bool = False, tick: Tick | None = None) -> dict[str, Any]:
    """The acceptance check before distilling: finite action values, and a return better than random play.

    Returns:
        The teacher's return with its interval, the random policy's, and whether the teacher is better.

    Raises:
        TeacherError: an action value is not finite, or the teacher is no better than random and ``weak_ok`` is not set.
    """
    check_number("episodes", episodes, "[2, inf)")
    seeds = seeds_from(ACCEPT_SEEDS, episodes)
    own = play(checked(teacher), how, seeds, tick=tick)
    random = play(checked(teacher), replace(how, epsilon=1.0, keep_states=0), seeds)
    rng = np.random.default_rng(0)
    gain = stats.bootstrap_interval(own.returns - random.returns, rng, clusters=own.fingerprints)
    better = gain[0] > 0
    if not better and not weak_ok:
        raise TeacherError(
            f"The teacher {teacher.path} is no better than random play in {how.env_id} ({own.returns.mean():.1f} against "
            f"{random.returns.mean():.1f} over {episodes} episodes): check the environment, or pass --accept-weak-teacher."
        )
    return {
        **stats.summarise(own.returns, rng, own.fingerprints),
        "longest_episode": int(own.lengths.max()),
        "random_return_mean": stats.mean(random.returns),
        "better_than_random": better,
    }


@dataclass(frozen=True)
class Comparison:
    """How a student is compared with its teacher."""

    episodes: int = 100
    """Paired greedy episodes at the first look."""
    max_episodes: int = 300
    """An inconclusive verdict plays on, ``episodes`` more at a time, up to this many."""
    disturbed_episodes: int = 40
    """Episodes of teacher and student with random actions and with sticky actions (Atari) or noisy observations (vectors); 0: none."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher − random)."""
    agreement_states: int = 2000
    """States of either kind on which agreement is measured."""

    def __post_init__(self) -> None:
        check_numbers(self, episodes="[2, inf)", disturbed_episodes="[0, inf)", margin="(0, inf)", agreement_states="[1, inf)")
        if self.max_episodes < self.episodes:
            raise SpecError(f"'max_episodes' ({self.max_episodes}) must be no smaller than 'episodes' ({self.episodes}).")


def compare(
    teacher: Teacher,
    student: Values,
    how: Play,
    comparison: Comparison,
    random_return: float,
    *,
    noise: tuple[float, ...] = (),
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Student against teacher on the verdict's own seeds; ``noise`` is what the student alone sees through.

    Returns:
        The parts ``teacher``, ``student``, ``agreement``, ``verdict`` and ``disturbed`` of results.json, and
        ``returns`` and ``disagreements`` of episodes.json.
    """
    looks = comparison.max_episodes // comparison.episodes
    taught = checked(teacher)
    how = replace(how, keep_states=comparison.agreement_states)
    ours: list[Episodes] = []
    theirs: list[Episodes] = []
    rng = np.random.default_rng(0)
    for look in range(looks):
        seeds = seeds_from(VERDICT_SEEDS + look * comparison.episodes, comparison.episodes)
        theirs.append(play(taught, how, seeds, tick=tick))
        ours.append(play(student, replace(how, noise=noise), seeds, tick=tick))
        teacher_returns, student_returns = (np.concatenate([e.returns for e in side]) for side in (theirs, ours))
        teacher_prints, student_prints = (np.concatenate([e.fingerprints for e in side]) for side in (theirs, ours))
        margin = float(comparison.margin * abs(teacher_returns.mean() - random_return))
        pairs = teacher_prints * np.uint64(31) + student_prints
        verdict = stats.non_inferiority(student_returns, teacher_returns, max(margin, 1e-9), rng, clusters=pairs, looks=looks)
        if verdict.result != "inconclusive":
            break
    student_summary = stats.summarise(student_returns, rng, student_prints)
    return {
        "teacher": stats.summarise(teacher_returns, rng, teacher_prints),
        "student": {
            **student_summary,
            "score": stats.score(float(student_returns.mean()), float(teacher_returns.mean()), random_return),
        },
        "agreement": _agreement(taught, student, theirs[0].states, ours[0].states, how.device),
        "verdict": {**asdict(verdict), "looks": looks, "margin_share": comparison.margin},
        "disturbed": _disturbed(taught, student, how, comparison.disturbed_episodes, theirs[0].states, tick),
        "returns": {"teacher": teacher_returns.tolist(), "student": student_returns.tolist()},
        "disagreements": _disagreements(taught, student, ours[0].states, how.device),
    }


def _agreement(teacher: Values, student: Values, teacher_states: NDArray[Any], student_states: NDArray[Any], device: str) -> dict[str, Any]:
    """Agreement on both kinds of states, plain and where the choice matters, and who picks what on the student's."""
    result: dict[str, Any] = {}
    for name, states in (("teacher_states", teacher_states), ("student_states", student_states)):
        by_teacher, by_student = _both(teacher, student, states, device)
        result[name] = float(agree(student=by_student, teacher=by_teacher).float().mean())
        result[f"{name}_where_it_matters"] = _weighted(by_teacher, by_student)
    actions = by_teacher.shape[1]
    table = torch.zeros(actions, actions, dtype=torch.int64)
    table.index_put_((by_teacher.argmax(1), by_student.argmax(1)), torch.ones(len(by_teacher), dtype=torch.int64), accumulate=True)
    result["table"] = table.tolist()
    return result


def weighted_agreement(teacher: Values, student: Values, states: NDArray[Any], device: str) -> float:
    """Agreement on some states (K, *obs_shape), each weighted by the teacher's value gap: mistakes count where they matter."""
    return _weighted(*_both(teacher, student, states, device))


def _both(teacher: Values, student: Values, states: NDArray[Any], device: str) -> tuple[Tensor, Tensor]:
    """What teacher and student say of some states (K, *obs_shape), each (K, A), on the CPU."""
    obs = torch.from_numpy(states).to(device)
    with torch.no_grad():
        by_teacher, by_student = teacher(obs).cpu(), student(obs).cpu()
    for side, values in (("teacher", by_teacher), ("student", by_student)):
        if not torch.isfinite(values).all():
            raise NotFiniteError(
                f"The {side} gave NaN or infinite action values on states that were visited: there is no agreement to measure."
            )
    return by_teacher, by_student


def _weighted(by_teacher: Tensor, by_student: Tensor) -> float:
    gap = value_gap(by_teacher)
    return float((agree(student=by_student, teacher=by_teacher) * gap).sum() / gap.sum().clamp_min(1e-12))


def _disagreements(teacher: Values, student: Values, states: NDArray[Any], device: str, most: int = 8) -> list[dict[str, Any]]:
    """The states visited by the student in which the two differ and the teacher's values differ most."""
    by_teacher, by_student = _both(teacher, student, states, device)
    gap = value_gap(by_teacher)
    differ = torch.nonzero(~agree(student=by_student, teacher=by_teacher)).flatten()
    worst = differ[gap[differ].argsort(descending=True, stable=True)][:most]
    return [
        {
            "teacher_action": int(by_teacher[i].argmax()),
            "student_action": int(by_student[i].argmax()),
            "gap": float(gap[i]),
            "obs": states[i].tolist() if states[i].ndim == 1 else None,
            "image": _png(states[i][-1]) if states[i].ndim == 3 else None,
        }
        for i in worst.tolist()
    ]


def _png(grey: NDArray[np.uint8]) -> str:
    """A grey picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _disturbed(teacher: Values, student: Values, how: Play, episodes: int, states: NDArray[Any], tick: Tick | None) -> dict[str, Any]:
    """Returns under random actions; in ALE under sticky actions, and with vectors under noise of a tenth of each feature's spread."""
    if episodes == 0:
        return {}
    ways: dict[str, dict[str, Any]] = {"epsilon_0.01": {"epsilon": 0.01}, "epsilon_0.05": {"epsilon": 0.05}}
    if states.ndim == 4:
        ways["sticky_0.25"] = {"sticky": 0.25}
    else:
        ways["noise_0.1"] = {"noise": tuple((0.1 * states.std(0)).tolist())}
    result = {}
    rng = np.random.default_rng(0)
    for name, change in ways.items():
        way = replace(how, **change, keep_states=0)
        seeds = seeds_from(DISTURBED_SEEDS, episodes)
        both = {side: play(policy, way, seeds, tick=tick) for side, policy in (("teacher", teacher), ("student", student))}
        result[name] = {side: stats.summarise(e.returns, rng, e.fingerprints) for side, e in both.items()}
    return result


def latency_us(policy: Values, obs_shape: tuple[int, ...], dtype: type[np.generic], calls: int = 300) -> float:
    """Median time of one greedy decision on a single observation, microseconds, on one CPU thread.

    Networks are compared bare: what stands around one and not around the other (`Teacher.action_values`) would be timed too.
    """
    obs = torch.from_numpy(np.zeros((1, *obs_shape), dtype))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    with torch.inference_mode():
        for call in range(calls + 20):
            start = time.perf_counter()
            policy(obs).argmax(1)
            if call >= 20:
                times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return stats.median(times) * 1e6


def size(network: Network) -> dict[str, int]:
    """Parameters, bytes and multiply-accumulates."""
    return {"params": network.spec.params, "bytes": count_bytes(network), "macs": network.spec.macs}

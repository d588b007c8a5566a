"""The acceptance check of a teacher."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl import stats
from distilrl.envs import EnvInfo, describe_env, make_vec_env
from distilrl.episodes import Episodes, Play, check_clusters
from distilrl.errors import DistilError, NotFiniteError, SpecError, TeacherError
from distilrl.evaluate import ACCEPT_SEEDS, every_start, joined, play, seeds_from
from distilrl.events import Noticed, Phase, Watch, silent
from distilrl.files import read_json_as, write_json
from distilrl.kept import place
from distilrl.plain import check_number
from distilrl.played import Acceptance, Returns
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher
from distilrl.teachers.vecnormalize import unused
from distilrl.verdict import units_in_words

LOOKED = 4
"""Steps by which it is told whether an environment repeats itself."""
SURE = 8
"""Equal differences from which on they prove anything: fewer may be alike by chance, and their interval has no width. A
coin falls as often on one side in 1 of 256 cases, and a look errs in at most 1 of 200."""


def accept(
    teacher: Teacher,
    how: Play,
    *,
    episodes: int,
    max_episodes: int | None = None,
    weak_ok: bool = False,
    watch: Watch = silent,
) -> Acceptance:
    """The acceptance check before distilling: finite numbers of the right shape, and a return better than random play.

    Args:
        teacher: who plays.
        how: in what.
        episodes: of the first look; in a game that repeats itself the teacher plays every start instead.
        max_episodes: while the interval of teacher − random holds 0 the episodes are doubled, up to this many; None:
            it is looked once. The interval is at 95 % over all looks (Bonferroni).
        weak_ok: a teacher that is no better is taken too.
        watch: told of episodes as they end.

    Returns:
        The teacher's return with its interval, the random policy's, and whether the teacher is better.

    Raises:
        TeacherError: a number is not finite, or the teacher is no better than random and ``weak_ok`` is not set.
    """
    check_number("accept_episodes", episodes, "[2, inf)", whole=True)
    most = episodes if max_episodes is None else max_episodes
    check_number("accept_max_episodes", most, f"[{episodes}, inf)", whole=True)
    _check_answers(teacher, describe_env(how.env))
    _check_repeats(how.env, watch)
    how, rng = replace(how, keep_states=0), np.random.default_rng(0)
    starts = every_start(how, ACCEPT_SEEDS)
    exact = starts is not None
    looks = (most // episodes).bit_length()
    own: list[Episodes] = []
    random: list[Episodes] = []
    for _ in range(looks):
        done = sum(len(one.returns) for one in random)
        seeds = seeds_from(ACCEPT_SEEDS + done, done or episodes)
        if not own or not exact:
            own.append(played_by(teacher, how, starts or seeds, watch))
            _check_measures(how, own[0])
        watch(Phase("random play"))
        random.append(play(teacher.policy, replace(how, epsilon=1.0, measures=()), seeds, watch=watch))
        watch(Phase("teacher's check"))
        theirs, chance = joined(own), joined(random)
        if how.cluster is not None:
            check_clusters(how, theirs.units, chance.units, "the teacher and random play")
        low, high = _gain(theirs, chance, rng, exact=exact, confidence=1.0 - 0.05 / looks)
        if low > 0 or high < 0:
            break
    if low <= 0 and not weak_ok:
        normalizer = " ".join(("--normalizer", *(str(path) for path in unused(teacher)[:1])))
        raise TeacherError(
            f"The teacher {teacher.path} is no better than random play in {how.env.label} "
            f"({theirs.returns.mean():.1f} against {chance.returns.mean():.1f} over {len(chance.returns)} "
            f"episodes{_of_clusters(how, theirs)}): "
            f"check the environment and its kwargs, give {normalizer} where it was trained behind VecNormalize, raise "
            "--accept-max-episodes where returns are noisy, or pass --accept-weak-teacher, with --margin-abs."
        )
    lost = theirs.returns.max() - chance.returns.min() if exact else (theirs.returns - chance.returns).max()
    found = Acceptance(
        **vars(Returns.of(theirs.returns, rng, theirs.units, exact=exact)),
        longest_episode=int(theirs.lengths.max()),
        random_return_mean=stats.mean(chance.returns),
        better_than_random=low > 0,
        worst_loss=float(lost),
    )
    if int(chance.lengths.max()) <= found.check_steps:
        return found
    # a check's score is 0 for what random play makes in a check, where who only loses time loses less
    cut = replace(how, epsilon=1.0, measures=(), max_steps=found.check_steps)
    mean = stats.mean(play(teacher.policy, cut, seeds_from(ACCEPT_SEEDS, len(chance.returns)), watch=watch).returns)
    # where what is lost is lost at an episode's end, a check does not see it, and whole episodes say more
    return replace(found, cut_random_return_mean=mean) if mean < found.return_mean else found


def played_by(teacher: Teacher, how: Play, seeds: Sequence[int], watch: Watch) -> Episodes:
    """A teacher's episodes; TeacherError where its numbers are not finite."""
    try:
        return play(teacher.policy, how, seeds, watch=watch)
    except NotFiniteError as error:
        raise TeacherError(f"The teacher {teacher.path} cannot be distilled: {error}") from None


def _gain(
    own: Episodes, random: Episodes, rng: np.random.Generator, *, exact: bool, confidence: float
) -> stats.Interval:
    """Interval of the mean return of teacher − random."""
    if exact:
        low, high = stats.mean_interval(random.returns, rng, clusters=random.units, confidence=confidence)
        mean = float(own.returns.mean())
        return mean - high, mean - low
    if len(np.unique(own.units)) == len(np.unique(random.units)) == 1:  # of which nothing follows for another
        return float("-inf"), float("inf")
    differences = own.returns - random.returns
    if len(differences) < SURE and np.ptp(differences) == 0:
        return float("-inf"), float("inf")
    # random play differs also where the teacher repeats itself, so that either side may be what is uncertain
    gains = [
        stats.mean_interval(differences, rng, clusters=side.units, confidence=confidence) for side in (own, random)
    ]
    lows, highs = zip(*gains, strict=True)
    return min(lows), max(highs)


def _check_measures(how: Play, games: Episodes) -> None:
    """What is to be measured is given in some step at least."""
    for m, measure in enumerate(how.measures):
        if np.isnan(games.measured[:, m]).all():
            raise SpecError(
                f"In none of the teacher's {len(games.returns)} episodes in {how.env.label} has a step "
                f"'{measure.name}' in its info: correct the name of the measure, or have the environment give it."
            )


def _check_repeats(env: EnvRef, watch: Watch) -> None:
    """Tells where two environments that are reset with one seed and take the same actions do not show the same."""
    shown: list[list[NDArray[Any]]] = []
    for _ in range(2):
        with closing(make_vec_env(env, 1)) as made:
            rng = np.random.default_rng(0)
            seen = [made.reset(np.array([ACCEPT_SEEDS], np.int64)).copy()]
            for _ in range(LOOKED):
                made.send(made.info.action.sample(1, rng))
                step = made.recv()
                seen += [step.obs.copy(), step.reward.copy()]
            shown.append(seen)
    if not all(np.array_equal(one, other) for one, other in zip(*shown, strict=True)):
        watch(
            Noticed(
                f"{env.label} does not repeat itself under one seed: teacher and student do not meet the same "
                "episodes, and a run that is cut short cannot be gone on with; call super().reset(seed=seed) and draw "
                "from self.np_random."
            )
        )


def _of_clusters(how: Play, games: Episodes) -> str:
    """Of how many clusters episodes are, in words; of few ones nothing is known."""
    return "" if how.cluster is None else f" of {len(np.unique(games.units))} {units_in_words(how.cluster)}"


def _check_answers(teacher: Teacher, info: EnvInfo) -> None:
    """A teacher of somebody's own may answer with anything: its numbers must have the head's width."""
    obs = torch.from_numpy(np.zeros((2, *info.obs.shape), info.obs.numpy))
    with torch.no_grad():
        p, _ = teacher.policy.forward(obs.to(teacher.policy.device), teacher.policy.start(2))
    if tuple(p.shape) != (2, teacher.head.width):
        raise TeacherError(
            f"The teacher {teacher.path} answers 2 observations with shape {tuple(p.shape)}: it must be "
            f"{(2, teacher.head.width)}."
        )


def kept_acceptance(
    teacher: Teacher, how: Play, episodes: int, max_episodes: int, make: Callable[[], Acceptance]
) -> tuple[Acceptance, Path | None]:
    """The acceptance of a teacher that the same check found before on this machine, else what ``make`` finds.

    The same is: the same file and what was told about it, environment, protocol, episodes and versions.

    Returns:
        The acceptance, and the file that it was read from; None where it was made.
    """
    # in other batches and on other threads a network's last digits are others
    holds = sorted(one.name for one in fields(Acceptance))  # what one of before does not say is not unsaid here
    batches = [how.at_once, how.threads]
    path = place("acceptance", teacher, how, episodes=[episodes, max_episodes], batches=batches, holds=holds)
    if path is None:
        return make(), None
    path = path.with_suffix(".json")
    with contextlib.suppress(DistilError):  # not there, of another version, or damaged: it is made anew
        return read_json_as(Acceptance, path), path
    found = make()
    if found.better_than_random:
        with contextlib.suppress(DistilError):  # a cache that cannot be written is none
            write_json(path, found.to_json())
    return found, None

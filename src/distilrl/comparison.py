"""Student against teacher: the same episodes, the verdict, agreement, disturbed play."""

import base64
import io
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distilrl import stats
from distilrl.envs import EnvInfo
from distilrl.episodes import Episodes, Play
from distilrl.errors import NotFiniteError, SpecError, TeacherError
from distilrl.evaluate import DISTURBED_SEEDS, VERDICT_SEEDS, play, seeds_from
from distilrl.events import Watch, silent
from distilrl.heads import Head
from distilrl.plain import read_as
from distilrl.played import (
    Agreement,
    Compared,
    Disagreement,
    Played,
    Returns,
    RunVerdict,
    Scored,
    Sides,
    SingleEpisodes,
    SingleReturns,
)
from distilrl.policies import Policy
from distilrl.spaces import ObsSpec
from distilrl.teachers import Teacher


@dataclass(frozen=True)
class Comparison:
    """How a student is compared with its teacher."""

    episodes: int = 100
    """Paired greedy episodes at the first look."""
    max_episodes: int = 300
    """An inconclusive verdict plays on, ``episodes`` more at a time, up to this many."""
    disturbed_episodes: int = 40
    """Episodes of teacher and student with random actions and with sticky actions (Atari) or noisy observations
    (vectors); 0: none."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher − random)."""
    agreement_states: int = 2000
    """States of either kind on which agreement is measured."""

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.max_episodes < self.episodes:
            raise SpecError(
                f"'episodes' must be at least 2 and 'max_episodes' no less, got {self.episodes} and "
                f"{self.max_episodes}."
            )
        if not 0 < self.margin < math.inf:
            raise SpecError(f"'margin' must be above 0 and finite, got {self.margin}.")
        if self.disturbed_episodes < 0 or self.agreement_states < 1:
            raise SpecError(
                "'disturbed_episodes' must be at least 0 and 'agreement_states' at least 1, got "
                f"{self.disturbed_episodes} and "
                f"{self.agreement_states}."
            )


def compare(
    teacher: Teacher,
    student: Policy,
    how: Play,
    comparison: Comparison,
    random_return: float,
    info: EnvInfo,
    *,
    noise: tuple[float, ...] = (),
    watch: Watch = silent,
) -> Compared:
    """Student against teacher on the verdict's own seeds; ``noise`` is what the student alone sees through.

    Raises:
        TeacherError: the teacher gave a number that is NaN or infinite.
        NotFiniteError: the student did.
    """
    looks = comparison.max_episodes // comparison.episodes
    how = replace(how, keep_states=comparison.agreement_states)
    ours: list[Episodes] = []
    theirs: list[Episodes] = []
    rng = np.random.default_rng(0)
    for look in range(looks):
        seeds = seeds_from(VERDICT_SEEDS + look * comparison.episodes, comparison.episodes)
        try:
            theirs.append(play(teacher.policy, how, seeds, watch=watch, shadow=student))
        except NotFiniteError as error:  # whose fault it is decides what to do
            raise TeacherError(f"The teacher {teacher.path} has no return to compare with: {error}") from None
        ours.append(play(student, replace(how, noise=noise), seeds, watch=watch, shadow=teacher.policy))
        teacher_returns, student_returns = (np.concatenate([e.returns for e in side]) for side in (theirs, ours))
        teacher_prints, student_prints = (np.concatenate([e.fingerprints for e in side]) for side in (theirs, ours))
        margin = float(comparison.margin * abs(teacher_returns.mean() - random_return))
        pairs = teacher_prints * np.uint64(31) + student_prints
        verdict = stats.non_inferiority(
            student_returns, teacher_returns, max(margin, 1e-9), rng, clusters=pairs, looks=looks
        )
        if verdict.result != "inconclusive":
            break
    own = Returns.of(student_returns, rng, student_prints)
    sides = {
        "teacher_states": _both(teacher, student, theirs[0], student_played=False),
        "student_states": _both(teacher, student, ours[0]),
    }
    score = stats.score(float(student_returns.mean()), float(teacher_returns.mean()), random_return)
    worst = _disagreements(teacher.head, student.head, sides["student_states"], ours[0].states, info.obs)
    return Compared(
        teacher=Played(**vars(Returns.of(teacher_returns, rng, teacher_prints)), truncated=_truncated(theirs)),
        student=Scored(**vars(own), truncated=_truncated(ours), score=score),
        agreement=_agreement(teacher.head, student.head, sides),
        verdict=RunVerdict(**vars(verdict), looks=looks, margin_share=comparison.margin),
        disturbed=_disturbed(
            (teacher.policy, student), how, noise, comparison.disturbed_episodes, theirs[0].states, info, watch
        ),
        episodes=SingleEpisodes(
            returns=SingleReturns(teacher=tuple(teacher_returns.tolist()), student=tuple(student_returns.tolist())),
            disagreements=worst,
        ),
    )


def _truncated(games: list[Episodes]) -> int:
    """Episodes that a limit cut."""
    return sum(int(one.truncated.sum()) for one in games)


def agreement(teacher: Teacher, student: Policy, games: Episodes) -> float:
    """Agreement on the states that were kept of the student's episodes, each weighted by what a mistake costs there."""
    return _weighted(teacher.head, student.head, *_both(teacher, student, games))


def _both(teacher: Teacher, student: Policy, games: Episodes, *, student_played: bool = True) -> tuple[Tensor, Tensor]:
    """What teacher and student say of the kept states, each (K, P), on the CPU; as it was while playing where one of
    them remembers.
    """
    if games.own is not None and games.shadow is not None:
        by_teacher, by_student = (games.shadow, games.own) if student_played else (games.own, games.shadow)
    else:
        obs = torch.from_numpy(games.states)
        with torch.no_grad():
            by_teacher = teacher.numbers(obs.to(teacher.policy.device)).cpu()
            by_student = student.forward(obs.to(student.device))[0].cpu()
    for side, numbers in (("teacher", by_teacher), ("student", by_student)):
        if not torch.isfinite(numbers).all():
            raise NotFiniteError(
                f"The {side} gave NaN or infinite numbers in states that were visited: there is no agreement to "
                "measure."
            )
    return by_teacher, by_student


def _weighted(theirs: Head, ours: Head, by_teacher: Tensor, by_student: Tensor) -> float:
    """Mean agreement, each state weighted by what a mistake costs there."""
    stakes = theirs.stakes(by_teacher)
    same = theirs.agree(theirs.greedy(by_teacher), ours.greedy(by_student))
    return float((same * stakes).sum() / stakes.sum().clamp_min(1e-12))


def _agreement(theirs: Head, ours: Head, sides: dict[str, tuple[Tensor, Tensor]]) -> Agreement:
    """Agreement and error on both kinds of states, plain and where the choice matters, and who does what on the
    student's.
    """
    result: dict[str, Any] = {}
    for name, (by_teacher, by_student) in sides.items():
        actions = theirs.greedy(by_teacher), ours.greedy(by_student)
        result[name] = float(theirs.agree(*actions).mean())
        result[f"{name}_where_it_matters"] = _weighted(theirs, ours, by_teacher, by_student)
        result[f"{name}_error"] = float(theirs.error(*actions).square().mean().sqrt())
    return read_as(Agreement, result | theirs.side_by_side(*actions))


def _disagreements(
    theirs: Head, ours: Head, both: tuple[Tensor, Tensor], states: NDArray[Any], obs: ObsSpec, most: int = 8
) -> tuple[Disagreement, ...]:
    """The states visited by the student in which the two differ and a mistake costs most."""
    by_teacher, by_student = both
    actions = theirs.greedy(by_teacher), ours.greedy(by_student)
    stakes = theirs.stakes(by_teacher)
    cost = theirs.error(*actions) * stakes
    differ = torch.nonzero(theirs.agree(*actions) < 1).flatten()
    worst = differ[cost[differ].argsort(descending=True, stable=True)][:most]
    return tuple(
        Disagreement(
            teacher_action=tuple(actions[0][i].tolist()),
            student_action=tuple(actions[1][i].tolist()),
            stakes=float(stakes[i]),
            error=float(theirs.error(actions[0][i : i + 1], actions[1][i : i + 1])),
            obs=tuple(states[i].tolist()) if obs.image is None else None,
            image=_png(_picture(states[i], obs)) if obs.image is not None else None,
        )
        for i in worst.tolist()
    )


def _picture(state: NDArray[Any], obs: ObsSpec) -> NDArray[np.uint8]:
    """The newest frame of an observation as (H, W) or (H, W, 3) bytes."""
    shape = obs.image or (1, 1, 1)
    image = state.reshape(-1)[-math.prod(shape) :].reshape(shape)
    newest = image[-(shape[0] // obs.frames) :]
    bright = newest if newest.dtype == np.uint8 or newest.max() > 1.5 else newest * 255
    shown: NDArray[np.uint8] = np.clip(bright, 0, 255).astype(np.uint8)
    return shown.transpose(1, 2, 0) if len(shown) == 3 else shown[-1]


def _png(picture: NDArray[np.uint8]) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _disturbed(
    players: tuple[Policy, Policy],
    how: Play,
    noise: tuple[float, ...],
    episodes: int,
    states: NDArray[Any],
    info: EnvInfo,
    watch: Watch,
) -> dict[str, Sides]:
    """Returns of teacher and student under random actions; in ALE under sticky actions, and with vectors under noise of
    a tenth of each number's spread; the student's own ``noise`` comes on top.
    """
    if episodes == 0:
        return {}
    ways: dict[str, dict[str, Any]] = {"epsilon_0.01": {"epsilon": 0.01}, "epsilon_0.05": {"epsilon": 0.05}}
    if info.atari:
        ways["sticky_0.25"] = {"sticky": 0.25}
    elif info.obs.image is None:
        ways["noise_0.1"] = {"noise": tuple((0.1 * states.std(0, dtype=np.float64)).tolist())}
    result = {}
    rng = np.random.default_rng(0)
    for name, change in ways.items():
        way = replace(how, **change, keep_states=0)
        seeds = seeds_from(DISTURBED_SEEDS, episodes)
        blurred = replace(way, noise=tuple(np.hypot(way.noise or 0.0, noise).tolist())) if noise else way
        games = [play(one, its, seeds, watch=watch) for one, its in zip(players, (way, blurred), strict=True)]
        theirs, ours = (Returns.of(one.returns, rng, one.fingerprints) for one in games)
        result[name] = Sides(teacher=theirs, student=ours)
    return result

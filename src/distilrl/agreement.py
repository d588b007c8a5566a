"""How alike teacher and student act on states that were visited, and where they do not."""

import base64
import colorsys
import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.devices import doubled
from distilrl.envs import EnvInfo
from distilrl.episodes import Episodes
from distilrl.errors import NotFiniteError
from distilrl.heads import Head
from distilrl.plain import read_as
from distilrl.played import Agreement, Disagreement
from distilrl.policies import Policy
from distilrl.spaces import ObsSpec
from distilrl.teachers import Teacher


def agreement(teacher: Teacher, student: Policy, games: Episodes) -> float:
    """Agreement on the states that were kept of the student's episodes, each weighted by what a mistake costs there."""
    return _weighted(teacher.head, student.head, *answers(teacher, student, games))


def answers(
    teacher: Teacher, student: Policy, games: Episodes, *, student_played: bool = True
) -> tuple[Tensor, Tensor]:
    """What teacher and student say of the kept states, each (K, P), on the CPU; as it was while playing where one of
    them remembers.
    """
    if games.own is not None and games.shadow is not None:
        pair = (games.shadow, games.own) if student_played else (games.own, games.shadow)
        by_teacher, by_student = map(torch.from_numpy, pair)
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
    stakes = doubled(theirs.stakes(by_teacher))  # of values that are masked by the lowest float, the sum is none
    same = theirs.agree(theirs.greedy(by_teacher), ours.greedy(by_student))
    return float((same * stakes).sum() / stakes.sum().clamp_min(1e-12))


def agreement_of(
    theirs: Head, ours: Head, sides: dict[str, tuple[Tensor, Tensor]], alike: tuple[int, ...]
) -> Agreement:
    """Agreement and error on both kinds of states, plain and where the choice matters, and who does what on the
    student's.
    """
    result: dict[str, Any] = {}
    acted = {
        name: (theirs.greedy(by_teacher), ours.greedy(by_student)) for name, (by_teacher, by_student) in sides.items()
    }
    for name, actions in acted.items():
        result[name] = float(theirs.agree(*actions).mean())
        result[f"{name}_where_it_matters"] = _weighted(theirs, ours, *sides[name])
        result[f"{name}_error"] = float(theirs.error(*actions).square().mean().sqrt())
    actions = acted["student_states"]
    if alike:
        result["student_states_in_effect"] = float(theirs.agree(*_effects(actions, alike)).mean())
    return read_as(Agreement, result | theirs.side_by_side(*actions))


def _effects(actions: tuple[Tensor, Tensor], alike: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Actions (K, 1) as the first of those that do the same, where that is known."""
    one, other = actions
    return (torch.tensor(alike)[one], torch.tensor(alike)[other]) if alike else actions


def disagreements(
    theirs: Head, ours: Head, both: tuple[Tensor, Tensor], states: NDArray[Any], info: EnvInfo, most: int = 8
) -> tuple[Disagreement, ...]:
    """The states visited by the student in which the two do not do the same and a mistake costs most."""
    obs = info.obs
    by_teacher, by_student = both
    actions = theirs.greedy(by_teacher), ours.greedy(by_student)
    stakes = theirs.stakes(by_teacher)
    cost = theirs.error(*actions) * stakes
    differ = torch.nonzero(theirs.agree(*_effects(actions, info.alike)) < 1).flatten()
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
    bright = newest if (newest.dtype == np.uint8 and not obs.board) or newest.max() > 1.5 else newest * 255.0
    shown: NDArray[np.uint8] = np.clip(bright, 0, 255).astype(np.uint8)
    if len(shown) == 3:
        return shown.transpose(1, 2, 0)
    if not obs.board or len(shown) == 1:
        grey: NDArray[np.uint8] = shown[-1]
        return grey
    painted = np.zeros((*shown.shape[1:], 3), np.uint8)
    for number, plane in enumerate(shown):  # kinds of cells, in colours of their own
        painted[plane > 0] = np.rint(255 * np.array(colorsys.hsv_to_rgb(number / len(shown), 0.65, 0.95)))
    return painted


def _png(picture: NDArray[np.uint8]) -> str:
    """A picture as a data URI."""
    from PIL import Image  # here: most that is played has no picture

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

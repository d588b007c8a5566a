"""What a teacher's file is: library, spaces, layers, what in it was not executed; and how it plays."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilrl import stats
from distilrl.acceptance import accept, played_by
from distilrl.display import watching
from distilrl.envs import EnvInfo, describe_env
from distilrl.episodes import Play
from distilrl.evaluate import ACCEPT_SEEDS, seeds_from
from distilrl.events import Event, Noticed, Phase, Watch
from distilrl.isolation import isolated
from distilrl.plain import check_number
from distilrl.played import PlayedTeacher, Returns
from distilrl.spaces import EnvLike, env_ref
from distilrl.teachers import Teacher, read_teacher
from distilrl.teachers.vecnormalize import unused

COLLAPSE = 0.7
"""A teacher that keeps less than this share of its score under a disturbance is warned of."""


def inspect(teacher: Teacher | str | Path) -> dict[str, Any]:
    """What a teacher's file says of itself, as plain data.

    Example::

        inspect(load_teacher("tqc-HalfCheetah-v3.zip"))["action"]  # {'low': (-1.0, ...), 'high': (1.0, ...), ...}

    Returns:
        Path, format, spaces, network, layers and size; ``kind``, ``obs_shape``, ``outputs`` and ``action`` are None
        where only the environment can tell.
    """
    teacher = read_teacher(teacher)
    layers = [{"name": name, "shape": list(p.shape)} for name, p in teacher.network.named_parameters()]
    return {
        "path": teacher.path,
        "format": teacher.format,
        "kind": teacher.kind,
        "obs_shape": list(teacher.obs_shape) if teacher.obs_shape else None,
        "outputs": teacher.outputs,
        "action": asdict(teacher.action) if teacher.action is not None else None,
        "squash": ("scale" if teacher.scaled else teacher.squash) if teacher.kind in ("mean", "gaussian") else None,
        "critic": teacher.critic is not None,
        "network": teacher.name,
        "layers": layers,
        **teacher.size(),
        "sha256": teacher.digest,
        **{name: value for name, value in teacher.meta.items() if name != "of_members"},
        **({"members": len(teacher.members)} if teacher.members else {}),
    }


@isolated()
def inspect_play(
    teacher: Teacher | str | Path, env: EnvLike, *, episodes: int = 20, threads: int = 2, watch: Watch | None = None
) -> PlayedTeacher:
    """The acceptance check, the score with random and with sticky actions, and warnings in words.

    Args:
        teacher: who plays, or the file or folder that it is read from.
        env: environment.
        episodes: of each way of playing.
        threads: CPU threads.
        watch: told of episodes as they end; None: as `distill` shows it.

    Raises:
        TeacherError: the spaces differ, or one of the teacher's numbers is not finite.

    Example::

        inspect_play(load_teacher("tqc.zip"), "HalfCheetah-v5", episodes=5).warnings
    """
    check_number("episodes", episodes, "[2, inf)", whole=True)
    ref = env_ref(env)
    info = describe_env(ref)
    teacher = read_teacher(teacher).fitted(info)
    how = Play(ref, threads=threads)
    noticed: list[str] = []
    with watching(watch) as watch:
        watch(Phase("teacher's check"))

        def hear(event: Event) -> None:
            noticed.extend([event.words] if isinstance(event, Noticed) else [])
            if not isinstance(event, Noticed):  # it is said with the other warnings
                watch(event)

        result = accept(teacher, how, episodes=episodes, weak_ok=True, watch=hear)
        ways = _ways(info)
        disturbed = {}
        for name, way in ways.items():
            watch(Phase(name))
            disturbed[name] = _disturbed(teacher, replace(how, **way), episodes, watch)
    warnings = noticed
    if not result.better_than_random:
        warnings.append(
            "It is no better than random play: wrong environment, wrong preprocessing (frame stack, channel order, "
            "scaling), or missing statistics: give --normalizer where it was trained behind VecNormalize."
        )
    warnings += [
        f"{path} is not used: give --normalizer {path} where it was trained behind it." for path in unused(teacher)
    ]
    for name, played in disturbed.items():
        score = stats.score(played.return_mean, result.return_mean, result.random_return_mean)
        if result.better_than_random and score is not None and score < COLLAPSE:
            warnings.append(f"Its score falls to {score:.2f} with {name}: a student will inherit that.")
    stuck = info.obs.image is not None and gets_stuck(result, disturbed["epsilon 0.01"])
    if stuck and result.better_than_random:
        warnings.append(
            "It scores more with a little noise: its greedy play gets stuck somewhere; consider --eval-epsilon 0.01."
        )
    return PlayedTeacher(
        **vars(result), env=info.id, protocol=info.protocol, disturbed=disturbed, warnings=tuple(warnings)
    )


def gets_stuck(greedy: Returns, noisy: Returns) -> bool:
    """Whether a random action now and then makes the return higher, beyond what few episodes differ by."""
    return noisy.return_ci95[0] > greedy.return_ci95[1]


def _ways(info: EnvInfo) -> dict[str, dict[str, Any]]:
    """How its play is disturbed, and what of `Play` that changes."""
    ways: dict[str, dict[str, Any]] = {"epsilon 0.01": {"epsilon": 0.01}}
    return ways | ({"sticky actions 0.25": {"sticky": 0.25}} if info.atari else {})


def _disturbed(teacher: Teacher, how: Play, episodes: int, watch: Watch) -> Returns:
    games = played_by(teacher, how, seeds_from(ACCEPT_SEEDS, episodes), watch)
    return Returns.of(games.returns, np.random.default_rng(0), games.units)

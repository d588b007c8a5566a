"""Playing an exported file itself, on the seeds of its student's verdict."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl import stats
from distilrl.display import watching
from distilrl.envs import EnvInfo, describe_env
from distilrl.episodes import Episodes, Play
from distilrl.errors import DistilError, FileError
from distilrl.evaluate import VERDICT_SEEDS, fair_seeds, play, same_starts
from distilrl.events import Watch
from distilrl.export.card import Reference, Shipped, read_card
from distilrl.export.replay import file_policy, open_export
from distilrl.files import digest
from distilrl.heads import Head
from distilrl.isolation import isolated
from distilrl.measures import Measured
from distilrl.plain import check_number
from distilrl.played import Difference, Returns
from distilrl.results import Verified
from distilrl.spaces import EnvLike, EnvRef, env_ref
from distilrl.verdict import Verdict, difference_interval, exact_verdict, non_inferiority


@isolated()
def verify(
    exported: str | Path, env: EnvLike | None = None, *, episodes: int = 100, watch: Watch | None = None
) -> Verified:
    """Plays an exported file itself, greedy, on the seeds of the verdict and as disturbed as its student was there.

    A C file is compiled and run, and a torch.export file is loaded by PyTorch: verify only what you exported, or had
    from somebody whom you trust. What another user of this machine owns or may write is refused, and so is a file whose
    SHA-256 is not the one in its card, which finds files that were mixed up or damaged; whoever can change the file can
    change the card. An ONNX graph is data: it is checked as a teacher's is.

    Args:
        exported: a folder that `export_policy` wrote, all of whose files must be there as they were written and the
            first of which is played; or one of its files.
        env: environment; that of the student's verdict by default, to be named where it was made by a function.
        episodes: full episodes; as many as the teacher played where its returns are known.
        watch: told as the work goes on; None: as `distill` shows it.

    Raises:
        FileError: it is no export, not the file that its card describes, or may be another user's program.

    Example::

        verify("runs/pong/export/c").return_mean
    """
    check_number("episodes", episodes, "[2, inf)", whole=True)
    return _verified(Path(exported), env, episodes, watch, owned=True)


def verify_own(path: Path, env: EnvRef | None, watch: Watch) -> Verified:
    """`verify` of a file that this process has just written, in a folder that nobody else could enter."""
    return _verified(path, env, 100, watch, owned=False)


def _verified(path: Path, env: EnvLike | None, episodes: int, watch: Watch | None, *, owned: bool) -> Verified:
    exported, folder = path, path if path.is_dir() else path.parent
    if not (folder / "export.json").is_file():
        raise FileError(f"{exported} is no export: give a folder that distilrl export wrote, or a file in one.")
    card = read_card(folder / "export.json")
    if path.is_dir():
        if not card.files:
            raise FileError(f"{card.path} names no file: export the run again.")
        path = folder / card.files[0]
    if path.name not in card.files:
        raise FileError(f"{path} is none of the files that {card.path} says can be played: {', '.join(card.files)}.")
    card.check(path, owned=owned, whole=exported.is_dir())
    _check_current(card, folder)
    judged_in = card.reference.env if card.reference is not None else card.env
    ref = env_ref(env) if env is not None else judged_in
    known = card.reference if ref.to_json() == judged_in.to_json() else None
    info = describe_env(ref)
    if (size := math.prod(info.obs.shape)) != card.of:
        raise FileError(
            f"{path} was made for observations of {card.of} numbers, but {ref.label} gives {size}: name the right "
            "environment."
        )
    if card.reads is None and info.obs.dtype != card.dtype:
        raise FileError(
            f"{path} reads observations of {card.dtype}, but {ref.label} gives {info.obs.dtype}: name the right "
            "environment."
        )
    check_actions(card.head, info, path)
    policy = file_policy(open_export(path, card.head, card.obs_size), card.head, card.reads)
    how = Play(ref, sensors=card.sensors)
    if known is not None:
        asked = tuple(one.measure for one, _ in known.measures)
        how = replace(how, epsilon=known.epsilon, cluster=known.cluster, measures=asked)
    count = len(known.teacher_returns) if known else episodes
    seeds, exact = fair_seeds(how, VERDICT_SEEDS + (known.after if known else 0), count)
    with watching(watch) as watch:
        games = play(policy, how, seeds, watch=watch)
    if known is not None and len(games.returns) != count:
        raise FileError(
            f"{card.path} holds {count} returns of a teacher, and {ref.label} has {len(games.returns)} starts: export "
            "the run again."
        )
    drawn = card.dtype == "uint8"
    if known is not None and len(known.starts) and (off := ~same_starts(known.starts, games.starts, drawn=drawn)).any():
        raise FileError(
            f"{off.sum()} of {count} episodes of {ref.label} begin otherwise than those whose returns {card.path} "
            "holds, so that it is not the environment of the verdict any more: install its version of then, or distil "
            "and export again."
        )
    verdict = against_student = None
    measures: tuple[Measured, ...] = ()
    if known is not None:
        verdict, against_student = _against(games, known, exact)
        pairs = _pairs(games, known.teacher_units)
        both = zip(known.measures, games.measured.T, strict=True)
        measures = tuple(one.again(theirs, ours, games.units, pairs, known.cluster) for (one, theirs), ours in both)
    returns = Returns.of(games.returns, np.random.default_rng(0), games.units, exact=exact)
    return Verified(
        **vars(returns), file=path.name, verdict=verdict, against_student=against_student, measures=measures
    )


def env_of(
    about: Mapping[str, Any], obs_shape: tuple[int, ...], head: Head, what: Path, env: EnvRef | None = None
) -> EnvInfo:
    """The environment of a student: the one named, or its own.

    Args:
        about: what its file says of itself.
        obs_shape: what it reads.
        head: what its numbers mean.
        what: its file.
        env: the one named.

    Raises:
        FileError: its file names none, or it is of another.
    """
    if env is None and "environment" not in about:
        raise FileError(f"{what} does not say in which environment it plays: name it.")
    info = describe_env(env or EnvRef.from_json(about["environment"], f"environment of {what}"))
    if info.obs.shape != obs_shape:
        raise FileError(
            f"The student in {what} reads observations of shape {obs_shape}, but {info.id} gives {info.obs.shape}: "
            "name the environment that it was trained in."
        )
    check_actions(head, info, what)
    return info


def check_actions(head: Head, info: EnvInfo, what: Path) -> None:
    """Refuses an environment whose actions are others than those that a policy's numbers stand for.

    Raises:
        FileError: they are.
    """
    try:
        head.action.within(info.action)
    except DistilError as error:
        raise FileError(
            f"{what} is not for the actions of {info.id}: {str(error).rstrip('.')}; name the right environment."
        ) from None


def _check_current(card: Shipped, folder: Path) -> None:
    """Refuses the export in a run's own folder that is of a student which that run has no more: it went on since."""
    home = folder.resolve().parent
    weights = home.parent / "student" / "student.safetensors"
    if home.name == "export" and weights.is_file() and digest(weights) != card.student_sha256:
        raise FileError(f"{folder} is of another student than {home.parent} holds now: export the run again.")


def _against(games: Episodes, known: Reference, exact: bool) -> tuple[Verdict, Difference]:
    """The file's episodes against the teacher's and the student's on the same seeds; as the student's own verdict was
    taken, so that a file that plays as the student gets the student's verdict.
    """
    rng = np.random.default_rng(0)
    theirs, students, margin = known.teacher_returns, known.student_returns, known.margin
    pairs, repeats = _pairs(games, known.teacher_units), known.cluster is None
    if exact:
        verdict = exact_verdict(games.returns, theirs, margin, clusters=pairs)
    else:
        verdict = non_inferiority(
            games.returns,
            theirs,
            margin,
            rng,
            span=known.span,
            clusters=pairs,
            looks=known.looks,
            cluster=known.cluster,
            repeats=repeats,
        )
    verdict = replace(verdict, protocol=known.protocol)
    lost = games.returns - students
    mean = stats.mean(lost)
    interval = (mean, mean)
    if not exact:
        labels = _pairs(games, students.view(np.uint64))
        interval = difference_interval(lost, rng, span=known.span, clusters=labels, repeats=repeats)
    return verdict, Difference(difference=mean, difference_ci95=interval)


def _pairs(games: Episodes, others: NDArray[np.uint64]) -> NDArray[Any]:
    """(E,) equal where both played one and the same episode again, or one of the same cluster; ``others`` (E,) tells
    the other's episodes apart.
    """
    if games.clusters is not None:
        return games.clusters
    together: NDArray[np.uint64] = games.units * np.uint64(31) + others
    return together

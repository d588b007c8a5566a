"""export.json, the card of an export: what is in it, where it comes from, and what is needed to check it again."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl.envs import EnvInfo, make_vec_env
from distilrl.episodes import Play
from distilrl.errors import FileError
from distilrl.evaluate import EXPORT_SEEDS, play, seeds_from
from distilrl.events import Watch
from distilrl.export.owners import check_owned
from distilrl.export.replay import Recording
from distilrl.files import digest, read_json, read_json_as
from distilrl.heads import Head, head_from_json
from distilrl.limits import LARGEST_NUMBER, LARGEST_OBSERVATION, MAX_EPISODES, MAX_LOOKS
from distilrl.measures import Measured
from distilrl.plain import from_plain, read_as, to_plain
from distilrl.played import SingleEpisodes
from distilrl.policies import Policy
from distilrl.results import Results
from distilrl.runs import RunFolder
from distilrl.sensors import EXACT, Feed, Sensors
from distilrl.spaces import EnvRef, Excerpt, ObsSpec
from distilrl.text import in_comment

STATES = 1000
"""Observations of the student's own play on which a file must answer as the student does."""
STRETCH, ROOM = 500, 2**21
"""Steps in a row of each of eight environments where memory or sensors are, and numbers that all of them hold together;
of large observations as few steps as make a thousand."""
LONGEST = 20_000
"""Steps after which an episode of that play is broken off."""
MORE_SEEDS = EXPORT_SEEDS + 1_000_000
"""First of those of further episodes, where the first ones are short."""
EXPLORED = 0.05
"""Share of random actions in that play."""
FORMAT = "distilrl-export"
VERSION = 4
PAGE = "index.html"
"""What ships of an export for the web."""


def card_of(
    target: str, info: EnvInfo, head: Head, network: str, params: int, sha256: str,
    *, sensors: Sensors, reads: Excerpt | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What export.json says before anything is written.

    Args:
        target: what is written.
        info: of the environment.
        head: of the policy.
        network: the policy's network in few words.
        params: how many parameters it has.
        sha256: of the file that holds it.
        sensors: through which the policy sees.
        reads: what the file reads of the environment's observation; None: all of it.
    """
    obs = reads.spec if reads is not None else info.obs
    return {
        "format": FORMAT,
        "version": VERSION,
        "target": target,
        "env": info.id,
        "environment": info.ref.to_json(),
        "obs": {
            "shape": list(obs.shape),
            "dtype": obs.dtype,
            "frames": obs.frames,
            "image": obs.image and list(obs.image),
            **({"names": list(obs.names)} if obs.names else {}),
            **({"codes": list(obs.codes)} if any(obs.codes) else {}),
            **({"reads": "image" if obs.pixels else list(reads.places), "of": info.obs.shape[0]} if reads else {}),
        },
        "head": head.to_json(),
        "network": network,
        "params": params,
        "student_sha256": sha256,
        "sensors": to_plain(sensors),
    }


def comment_of(card: dict[str, Any], info: EnvInfo) -> str:
    """What C says of itself in its first lines, with what the environment has around what the file reads and gives."""
    lines = [f"{card['network']} for {card['env']}, student {card['student_sha256'][:12]}, written by distilrl"]
    if info.ref.wrappers:
        lines.append(f"It reads what the environment gives behind {', '.join(info.ref.wrappers)}.")
    if "whole_actions" in info.protocol:
        lines.append(f"The environment's actions are whole numbers: {info.protocol['whole_actions']}.")
    if "note" in info.protocol:
        lines.append(info.protocol["note"])
    return "\n   ".join(in_comment(line) for line in lines)


def reference(results: Results, episodes: SingleEpisodes) -> dict[str, Any]:
    """What export.json says of a finished run: the worst of its verdicts, those of its measures, and what teacher and
    student did on the verdict's seeds.

    Args:
        results: of the run.
        episodes: of its verdict.
    """
    return {
        "student_verdict": results.worst,
        **({"student_measures": results.measured} if results.measured else {}),
        "reference": {
            "teacher_returns": list(episodes.returns.teacher),
            "student_returns": list(episodes.returns.student),
            "teacher_units": list(episodes.returns.teacher_units),
            "starts": list(episodes.returns.starts),
            "margin": results.verdict.margin,
            "span": results.verdict.span,
            "looks": results.verdict.looks,
            "after": results.verdict.after,
            "protocol": results.verdict.protocol,
            "cluster": results.verdict.cluster,
            "epsilon": results.protocol["epsilon"],
            "environment": results.verdict_environment or results.environment,
            "measures": [
                {"found": one.to_json(), "teacher_values": list(single.teacher)}
                for one, single in zip(results.measures, episodes.measured, strict=True)
            ],
        },
    }


def found_of(folder: RunFolder, sha256: str, student: Path) -> tuple[Results, SingleEpisodes] | None:
    """What a run found of its student, which has this digest; None where it is not finished.

    Raises:
        FileError: it found it of another student, or its files are of several runs.
    """
    if not folder.results.is_file() or not folder.episodes.is_file():
        return None
    results = read_json_as(Results, folder.results)
    if results.student_sha256 not in (None, sha256):
        raise FileError(
            f"{folder.results} speaks of another student than the one in {student}, by its digest: one of them is of "
            "another run, copy both again."
        )
    episodes = read_json_as(SingleEpisodes, folder.episodes)
    if len(episodes.measured) != len(results.measures):
        raise FileError(
            f"{folder.episodes} does not hold what {folder.results} says was measured: one of them is of another run, "
            "copy both again."
        )
    return results, episodes


def recorded(policy: Policy, env: EnvRef, watch: Watch, number: int = 0, *, sensors: Sensors = EXACT) -> Recording:
    """A thousand observations of a policy's own play as it sees them, now and then disturbed; others for each number.
    Of one with memory up to four thousand: stretches of its episodes, one after the other.
    """
    episodes = 8
    if policy.remembers or not sensors.exact:
        seen = _sequences(policy, env, seeds_from(EXPORT_SEEDS + number * episodes, episodes), sensors)
        spread = np.linspace(0, len(seen.obs) - 1, STATES).astype(int)
        return seen if policy.remembers else Recording.of(seen.obs[spread])
    how = Play(env, epsilon=EXPLORED, keep_states=STATES, max_steps=LONGEST)
    states = play(policy, how, seeds_from(EXPORT_SEEDS + number * episodes, episodes), watch=watch).states
    if len(states) < STATES:
        # short episodes: as many more as it takes, if they are all as short as the longest of these
        lacking = min(STATES - len(states), episodes * -(-(STATES - len(states)) // max(len(states), 1)))
        more = seeds_from(MORE_SEEDS + number * STATES, lacking)
        states = np.concatenate([states, play(policy, how, more, watch=watch).states])[:STATES]
    enough = states if len(states) >= STATES else np.concatenate([states] * -(-STATES // max(len(states), 1)))[:STATES]
    return Recording.of(enough)


def _sequences(policy: Policy, env: EnvRef, seeds: list[int], sensors: Sensors) -> Recording:
    """A stretch of each of several environments, one after the other: of every other one its first steps, of the others
    those with which the first episode ends that is long enough, so that what drifts is seen at both ends.

    Memory starts anew where a stretch begins, and where its episodes do.
    """
    envs, rng = make_vec_env(env, len(seeds)), np.random.default_rng(seeds[0])
    feed, everywhere = Feed(sensors, seeds, envs.info.obs.frames), np.arange(len(seeds))
    length = min(max(ROOM // (len(seeds) * math.prod(envs.info.obs.shape)), STATES // len(seeds)), STRETCH)
    stretches: list[deque[tuple[NDArray[Any], bool]]] = [deque(maxlen=length) for _ in seeds]
    fresh, going = np.ones(len(seeds), np.bool_), np.ones(len(seeds), np.bool_)
    try:
        obs, state = envs.reset(np.array(seeds, np.int64)), policy.start(len(seeds))
        for count in range(1, LONGEST + 1):
            seen = feed.see(obs, everywhere)
            for k in going.nonzero()[0]:
                stretches[k].append((seen[k].copy(), bool(fresh[k])))
            actions, state = policy.act(torch.from_numpy(seen), state)
            chosen = actions.numpy().copy()
            random = rng.random(len(seeds)) < EXPLORED
            chosen[random] = envs.info.action.sample(int(random.sum()), rng)
            envs.send(chosen)
            step = envs.recv()
            obs, fresh = step.obs, step.terminated | step.truncated
            state = policy.restart(state, torch.from_numpy(fresh))
            feed.restart(fresh)
            if count >= length:
                going[::2] = False
                going &= ~fresh
            if not going.any():
                break
    finally:
        envs.close()
    begins = [step == 0 or fresh for one in stretches for step, (_, fresh) in enumerate(one)]
    return Recording(np.stack([seen for one in stretches for seen, _ in one]), np.array(begins, np.bool_))


@dataclass(frozen=True)
class Reference:
    """What teacher and student did on the verdict's seeds."""

    teacher_returns: NDArray[np.float64]
    """(E,) of the teacher."""
    student_returns: NDArray[np.float64]
    """(E,) of the student."""
    teacher_units: NDArray[np.uint64]
    """(E,) labels: equal where the teacher played one and the same episode again, as far as is known."""
    starts: NDArray[np.float64]
    """(E,) mean of the numbers of each first observation; (0,) where a seed does not settle it."""
    margin: float
    """Largest acceptable loss."""
    span: float
    """Loss of the worst episode that must be reckoned with."""
    looks: int
    """How many times the verdict might look at growing data."""
    after: int
    """Seeds that it passed over."""
    protocol: str
    """Of what play the verdict speaks."""
    cluster: str | None
    """Key of the ``info`` that says which episodes are one unit."""
    epsilon: float
    """Probability of a random action."""
    env: EnvRef
    """Where they played, which need not be the environment that the file was written for."""
    measures: tuple[tuple[Measured, NDArray[np.float64]], ...]
    """What was measured beside the return, and the teacher's numbers (E,), NaN where there is none."""


@dataclass(frozen=True)
class Shipped:
    """What an export's card says, read and checked."""

    path: Path
    """The card."""
    env: EnvRef
    """Environment."""
    obs_size: int
    """Numbers in an observation as the file reads it."""
    reads: Excerpt | None
    """What that is of the environment's observation; None: all of it."""
    of: int
    """Numbers in the environment's observation."""
    dtype: str
    """Type of the numbers that the file reads."""
    head: Head
    """What the policy's numbers mean."""
    files: tuple[str, ...]
    """Names of the files that can be played."""
    sha256: Mapping[str, str]
    """Digest of each file."""
    student_sha256: str
    """Digest of the student's own file."""
    sensors: Sensors
    """Through which the policy sees, wherever it plays."""
    reference: Reference | None
    """None where the run was not finished."""

    def check(self, path: Path, *, owned: bool = True, whole: bool = False) -> None:
        """Makes sure that a file is the one that was exported, before anything of it is run; and with ``owned`` that
        nobody else could have written it, where it is a program. An ONNX graph is none: it is checked when it is
        opened. With ``whole`` all files of the export must be there as they were written, but for the examples, to
        begin with.

        Raises:
            FileError: it is another, or may be somebody else's.
        """
        names = [path.name, *(["policy.h"] if path.suffix == ".c" else [])]
        names += [PAGE] if path.with_name(PAGE).is_file() else []
        if owned and path.suffix != ".onnx":
            check_owned(
                path.parent, self.path, *(path.with_name(name) for name in names if path.with_name(name).is_file())
            )
        others = [name for name in self.sha256 if whole and not name.startswith("example.")]
        for name in dict.fromkeys([*names, *others]):
            file = self.path.with_name(name)
            if not file.is_file() or self.sha256.get(name) != digest(file):
                wrong = "its SHA-256 differs" if file.is_file() else "it is missing"
                raise FileError(f"{file} is not the file that {self.path} describes ({wrong}): export it again.")


def read_card(path: Path) -> Shipped:
    """Reads an export.json.

    Raises:
        FileError: it is missing, damaged, or of no export.
        SpecError: its environment or its head means nothing.
    """
    data = read_json(path)
    of = (data.get("format"), data.get("version")) if isinstance(data, dict) else None
    if of != (FORMAT, VERSION) or not isinstance(data.get("head"), dict):
        raise FileError(f"{path} is no card of an export that this version wrote: export the run again.")
    try:
        told = data.get("reference")
        files = tuple(
            Path(str(name)).name for name in data["files"]
        )  # names only, so that no path in a file is followed
        return Shipped(
            path,
            EnvRef.from_json(data["environment"], f"environment of {path}"),
            int(np.prod([int(n) for n in data["obs"]["shape"]])),
            _part(data["obs"]),
            int(data["obs"].get("of", np.prod(data["obs"]["shape"]))),
            str(data["obs"]["dtype"]),
            head_from_json(data["head"], f"head of {path}"),
            files,
            {Path(str(name)).name: str(value) for name, value in data["sha256"].items() if Path(str(name)).name},
            str(data["student_sha256"]),
            read_as(Sensors, data["sensors"], f"sensors of {path}"),
            _reference(told, path) if told is not None else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileError(f"{path} is damaged ({type(error).__name__}: {error}): export the run again.") from None


def _part(obs: dict[str, Any]) -> Excerpt | None:
    """What a file reads of an observation, as its card says it: places in a vector, or the image at its end."""
    reads, shape, kind = obs.get("reads"), tuple(int(n) for n in obs["shape"]), obs["dtype"]
    if reads is None:
        return None
    size, whole = math.prod(shape), int(obs["of"])
    if not 0 < size <= whole <= LARGEST_OBSERVATION:
        raise ValueError("what it reads is more than there is")
    places = tuple(range(whole - size, whole)) if reads == "image" else tuple(int(n) for n in reads)
    if len(places) != size or min(places) < 0 or max(places) >= whole or kind not in ("uint8", "float32"):
        raise ValueError("what it reads is not what it was given")
    return Excerpt(places, ObsSpec(shape, dtype=kind))


def _reference(data: dict[str, Any], path: Path) -> Reference:
    teacher, student = (np.array(data[name], np.float64) for name in ("teacher_returns", "student_returns"))
    if teacher.ndim != 1 or teacher.shape != student.shape or len(teacher) < 2:
        raise ValueError("the returns of teacher and student differ in number")
    if not (np.abs([teacher, student]) <= LARGEST_NUMBER).all():  # no NaN is
        raise ValueError("a return of teacher or student lies outside of what there is")
    units = np.array(data["teacher_units"], np.uint64) if data["teacher_units"] else teacher.view(np.uint64)
    if units.shape != teacher.shape:
        raise ValueError("the returns and the labels of the teacher differ in number")
    starts = np.array(data["starts"], np.float64)
    if starts.shape not in (teacher.shape, (0,)):
        raise ValueError("the returns and the starts of the teacher differ in number")
    env = EnvRef.from_json(data["environment"], "environment of the verdict")
    margin, span, epsilon = (from_plain(float, data[n], f"{n} of {path}") for n in ("margin", "span", "epsilon"))
    looks, after = (from_plain(int, data[n], f"{n} of {path}") for n in ("looks", "after"))
    if not _possible(margin, span, looks) or not 0 <= after < MAX_EPISODES:
        raise ValueError("the verdict's margin, span, looks or passed seeds lie outside of what there is")
    protocol, cluster = str(data["protocol"]), data["cluster"] and str(data["cluster"])
    measures = tuple(
        (read_as(Measured, one["found"], f"measures of {path}"), np.array(one["teacher_values"], np.float64))
        for one in data["measures"]
    )
    if any(values.shape != teacher.shape for _, values in measures):
        raise ValueError("the returns and the measures of the teacher differ in number")
    judged = [one.verdict for one, _ in measures if one.verdict is not None]
    if not all(_possible(verdict.margin, verdict.span, verdict.looks) for verdict in judged):
        raise ValueError("the margin, span or looks of a measure lie outside of what there is")
    return Reference(
        teacher, student, units, starts, margin, span, looks, after, protocol, cluster, epsilon, env, measures
    )


def _possible(margin: float, span: float, looks: int) -> bool:
    """Whether a verdict may have been taken so."""
    return 0 < margin <= LARGEST_NUMBER and 0 < span <= LARGEST_NUMBER and 0 < looks <= MAX_LOOKS

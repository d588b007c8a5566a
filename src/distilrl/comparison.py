"""Student against teacher: the same episodes, the verdict, disturbed play."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl import stats
from distilrl.agreement import agreement_of, answers, disagreements
from distilrl.envs import EnvInfo
from distilrl.episodes import Episodes, Play, check_clusters
from distilrl.errors import DistilError, NotFiniteError, SpecError, TeacherError
from distilrl.evaluate import DISTURBED_SEEDS, VERDICT_SEEDS, fair_seeds, play, same_starts, seeds_from
from distilrl.events import Judged, Phase, Recalled, Unplayed, Watch, silent
from distilrl.kept import kept_games
from distilrl.measures import Measure, Measured
from distilrl.plain import check_fields, check_numbers
from distilrl.played import (
    Acceptance,
    Agreement,
    Played,
    Returns,
    RunVerdict,
    Scored,
    Sides,
    SingleEpisodes,
    SingleMeasured,
    SingleReturns,
)
from distilrl.policies import Policy
from distilrl.sensors import EXACT, Sensors
from distilrl.teachers import Teacher
from distilrl.verdict import exact_verdict, non_inferiority

LOOKS = 3
"""How often an inconclusive verdict may look, where it is not said."""


@dataclass(frozen=True)
class Comparison:
    """How a student is compared with its teacher."""

    episodes: int = 100
    """Paired greedy episodes at the first look; a game that repeats itself is played once from each start instead."""
    max_episodes: int = 0
    """An inconclusive verdict plays on, ``episodes`` more at a time, up to this many; 0: three times ``episodes``."""
    disturbed_episodes: int = 100
    """Episodes of teacher and student with random actions, and with sticky actions (Atari) or noisy observations
    (vectors), each with a verdict of its own, which needs 50 distinct ones; 0: none."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher − random) of the acceptance check."""
    margin_abs: float | None = None
    """Largest acceptable loss in the environment's own units, in place of the share; None: the share counts."""
    agreement_states: int = 2000
    """States of either kind on which agreement is measured."""
    measures: tuple[Measure, ...] = ()
    """What is measured beside the return: numbers of the environment's ``info``; one with a margin has a verdict."""
    after: int = 0
    """Episodes that an earlier, inconclusive verdict may have played: it is asked anew on seeds behind theirs."""
    cluster: str | None = None
    """Key of the environment's ``info`` whose number says which episodes belong together (a patient's, a day's): the
    verdict's units are then these clusters; None: each episode that differs from the others is one."""

    def __post_init__(self) -> None:
        if self.max_episodes == 0 and isinstance(self.episodes, int):
            object.__setattr__(self, "max_episodes", LOOKS * self.episodes)
        if texts := [one for one in self.measures if isinstance(one, str)]:
            raise SpecError(f"'measures' holds the text {texts[0]!r:.80}: write Measure.of({texts[0]!r:.80}).")
        check_fields(self, episodes="[2, inf)", max_episodes=f"[{self.episodes}, inf)")
        check_numbers(self, after="[0, inf)", disturbed_episodes="[0, inf)", agreement_states="[1, inf)")
        check_numbers(self, margin_abs="(0, inf)")
        if not 0 < self.margin < 1:
            raise SpecError(
                f"'margin' must lie in (0, 1), got {self.margin:g}: it is a share of what the teacher is above random "
                "play, 0.05 is 5 %; --margin-abs is in the environment's own units."
            )
        asked = [(one.name, one.how) for one in self.measures]
        if twice := [one for number, one in enumerate(asked) if one in asked[:number]]:
            raise SpecError(f"The measure '{twice[0][0]}={twice[0][1]}' is asked for twice: leave one of them out.")

    def tolerance_of(self, acceptance: Acceptance) -> "Tolerance":
        """Margin and span, which are fixed by the acceptance check, before an episode of the verdict is played.

        Raises:
            TeacherError: the teacher is not shown to be better than random play, so that a share of what lies between
                them is no margin.
        """
        above, known = acceptance.return_mean - acceptance.random_return_mean, acceptance.better_than_random
        if not known and self.margin_abs is None:
            raise TeacherError(
                f"The teacher's return ({acceptance.return_mean:.2f}) is not shown to be above random play's "
                f"({acceptance.random_return_mean:.2f}), so that a share of the difference is no margin: give "
                "--margin-abs, in the environment's own units."
            )
        margin = self.margin * above if self.margin_abs is None else self.margin_abs
        # an episode may lose more than the mean does: a patient dies or does not, whom random play often saves too
        span = acceptance.worst_loss if acceptance.worst_loss > NEARLY * above else above
        return Tolerance(margin, span if known else max(span, 20 * margin))


NEARLY = 1.1
"""Times the mean loss of random play up to which the worst loss of its episodes is taken for the mean: a hundred equal
episodes would not pass else where it is 491 beside 481, and the verdict errs in at most 2.7 % (a test computes it)."""


@dataclass(frozen=True)
class Tolerance:
    """What a verdict is about."""

    margin: float
    """Largest acceptable loss of return, > 0."""
    span: float
    """Loss of the worst episode that must be reckoned with, > 0."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """All that `compare` finds."""

    teacher: Played
    """The teacher's episodes."""
    student: Scored
    """The student's, on the same seeds."""
    agreement: Agreement
    """How alike the two act."""
    verdict: RunVerdict
    """Whether the student keeps the return."""
    disturbed: dict[str, Sides]
    """By name of the disturbance."""
    episodes: SingleEpisodes
    """What episodes.json holds."""
    measures: tuple[Measured, ...]
    """What was asked for beside the return."""


def compare(
    teacher: Teacher,
    student: Policy,
    how: Play,
    comparison: Comparison,
    acceptance: Acceptance,
    info: EnvInfo,
    *,
    sensors: Sensors = EXACT,
    first: int = VERDICT_SEEDS,
    watch: Watch = silent,
) -> Compared:
    """Student against teacher on the verdict's own seeds, or others from ``first`` on; ``sensors`` are how the student
    alone sees.

    It plays on while a verdict, of the return or of a measure, is inconclusive; all are of the same episodes.

    Raises:
        TeacherError: the teacher gave a number that is NaN or infinite, or is no better than random play.
        NotFiniteError: the student did.
    """
    tolerance = comparison.tolerance_of(acceptance)
    how = replace(how, keep_states=comparison.agreement_states)
    rng = np.random.default_rng(0)
    seen = replace(how, sensors=sensors)
    # exact is what neither side plays under chance
    seeds, exact = fair_seeds(how if how.sensors.chance else seen, first + comparison.after, comparison.episodes)
    looks = 1 if exact else comparison.max_episodes // comparison.episodes
    games = _Games(teacher, student, how, seen, info, watch)
    for look in range(looks):
        games.play([seed + look * comparison.episodes for seed in seeds])
        verdict, measured = games.verdict(tolerance, looks, exact=exact), games.measured(looks)
        if "inconclusive" not in (verdict.result, *(one.verdict.result for one in measured if one.verdict)):
            break
    verdict = replace(verdict, after=comparison.after)
    watch(Judged(verdict))
    theirs, ours = games.returns(rng, exact=exact)
    sides = {
        "teacher_states": answers(teacher, student, games.theirs[0], student_played=False),
        "student_states": answers(teacher, student, games.ours[0]),
    }
    score = stats.score(ours.return_mean, theirs.return_mean, acceptance.random_return_mean)
    worst = disagreements(teacher.head, student.head, sides["student_states"], games.ours[0].states, info)
    measured = tuple(
        one if one.verdict is None else replace(one, verdict=replace(one.verdict, after=comparison.after))
        for one in measured
    )
    return Compared(
        teacher=Played(**vars(theirs), truncated=_truncated(games.theirs)),
        student=Scored(**vars(ours), truncated=_truncated(games.ours), score=score),
        agreement=agreement_of(teacher.head, student.head, sides, info.alike),
        verdict=verdict,
        disturbed=_disturbed(games, sensors, comparison.disturbed_episodes, tolerance),
        episodes=SingleEpisodes(
            returns=SingleReturns(
                teacher=tuple(_joined(games.theirs, "returns").tolist()),
                student=tuple(_joined(games.ours, "returns").tolist()),
                pairs=games.repeated(),
                teacher_units=games.teacher_units(),
                starts=games.starts(),
            ),
            disagreements=worst,
            measured=games.single(),
        ),
        measures=measured,
    )


MOST_PLAYED = 8
"""Evaluations of a teacher that are remembered for the next student."""
_played: ContextVar[list[tuple[Any, Episodes]] | None] = ContextVar("played", default=None)
"""What teachers played, who they are, how they did it and by which weights."""


@contextmanager
def played_once() -> Iterator[None]:
    """While it lasts, what a teacher has played is remembered for the next student: a plan asks for it once for each
    size. No longer, since nobody can say whether a user's environment is still the same.

    Example::

        with played_once():
            found = [compare(teacher, student, how, comparison, acceptance, info) for student in students]
    """
    if _played.get() is not None:
        yield
        return
    token = _played.set([])
    try:
        yield
    finally:
        _played.reset(token)


class _Games:
    """Episodes of teacher and student on the same seeds, and what they say."""

    def __init__(self, teacher: Teacher, student: Policy, his: Play, its: Play, info: EnvInfo, watch: Watch) -> None:
        """``his`` and ``its`` are how teacher and student are played."""
        self.teacher, self.student, self.his, self.its, self.info, self.watch = teacher, student, his, its, info, watch
        self.theirs: list[Episodes] = []
        self.ours: list[Episodes] = []
        self.random: list[Episodes] = []
        """Of the first seeds, where there are measures."""

    def play(self, seeds: list[int]) -> None:
        """More episodes of both; states are kept of the first."""
        teacher, student = self.teacher.policy, self.student
        try:
            self.theirs.append(self._of_teacher(seeds))
        except NotFiniteError as error:  # whose fault it is decides what to do
            raise TeacherError(f"The teacher {self.teacher.path} has no return to compare with: {error}") from None
        self.ours.append(play(student, self.its, seeds, watch=self.watch, shadow=teacher))
        if self.his.measures and not self.random:
            self.random.append(play(teacher, replace(self.his, epsilon=1.0, keep_states=0), seeds))
        self.his, self.its = (replace(how, keep_states=0) for how in (self.his, self.its))

    def _of_teacher(self, seeds: list[int]) -> Episodes:
        """The teacher's episodes, which are the same beside any student, unless one of the two remembers."""
        teacher, student = self.teacher.policy, self.student
        weights = teacher.checksums()
        if not weights or teacher.remembers or student.remembers:
            return play(teacher, self.his, seeds, watch=self.watch, shadow=student)
        key = (self.teacher.network, self.his, seeds, teacher.head, weights)
        known = _played.get()
        for same, games in known or []:
            if same == key:
                return games
        games, file = kept_games(
            self.teacher, self.his, seeds, lambda: play(teacher, self.his, seeds, watch=self.watch)
        )
        if file is not None:
            self.watch(Recalled(file))
        if known is not None:
            known.append((key, games))
            del known[:-MOST_PLAYED]
        return games

    def protocol(self, *, exact: bool = False) -> str:
        """How the student is played, in few words; noise that its teacher sees as well is another than its own, and
        whoever has other sensors than it sees through those.
        """
        told, (his, its) = in_words(self.its, self.info, exact=exact), (self.his.sensors, self.its.sensors)
        if his.exact or his == its or (his.noise == its.noise and not his.follows):
            return told
        if its.noise and not his.follows:
            return told.replace(its.words[0], f"{its.words[0]}, the teacher's too", 1)
        return f"{told}; against {', '.join(his.words)}"

    def verdict(self, tolerance: Tolerance, looks: int = 1, *, exact: bool = False) -> RunVerdict:
        """Of all episodes so far; the draws are the same whenever it is taken of them."""
        rng, pairs = np.random.default_rng(0), self._pairs()
        student, teacher = _joined(self.ours, "returns"), _joined(self.theirs, "returns")
        if exact:
            found = exact_verdict(student, teacher, tolerance.margin, clusters=pairs)
        else:
            found = non_inferiority(
                student,
                teacher,
                tolerance.margin,
                rng,
                span=tolerance.span,
                clusters=pairs,
                looks=looks,
                cluster=self.his.cluster,
                repeats=self.his.cluster is None,
            )
        told = vars(found) | {"protocol": self.protocol(exact=exact)}
        return RunVerdict(**told, looks=looks, span=tolerance.span)

    def _pairs(self) -> NDArray[Any]:
        """(E,) equal where both played one and the same episode again, or one of the same cluster."""
        theirs, ours = (_joined(side, "units") for side in (self.theirs, self.ours))
        if self.his.cluster is None:
            pairs: NDArray[np.uint64] = theirs * np.uint64(31) + ours
            return pairs
        check_clusters(self.his, theirs, ours, "teacher and student")
        return theirs

    def repeated(self) -> tuple[int, ...]:
        """Labels (E,) of pairs of episodes that are one unit; empty where each stands for itself."""
        pairs = self._pairs()
        known, labels = np.unique(pairs, return_inverse=True)
        return () if len(known) == len(pairs) else tuple(labels.tolist())

    def teacher_units(self) -> tuple[int, ...]:
        """Labels (E,) of the teacher's episodes, equal where it played one and the same again; empty where its returns
        tell these apart, or clusters count.
        """
        units, returns = (_joined(self.theirs, part) for part in ("units", "returns"))
        known, labels = np.unique(units, return_inverse=True)
        told = self.his.cluster is not None or len(known) == len(np.unique(returns))
        return () if told else tuple(labels.tolist())

    def starts(self) -> tuple[float, ...]:
        """By what the episodes' beginnings are known again (E,); empty where they were not the same for both."""
        theirs, ours = (_joined(side, "starts") for side in (self.theirs, self.ours))
        return tuple(theirs.tolist()) if same_starts(theirs, ours).all() else ()

    def measured(self, looks: int) -> tuple[Measured, ...]:
        """The measures of all episodes so far; the draws are the same whenever they are taken of them."""
        if not self.his.measures:
            return ()
        three = (self.theirs, self.ours, self.random)
        sides = [(_joined(side, "measured"), _joined(side, "units")) for side in three]
        protocol, pairs, cluster = self.protocol(), self._pairs(), self.his.cluster
        return tuple(
            Measured.of(measure, [(values[:, m], labels) for values, labels in sides], pairs, looks, protocol, cluster)
            for m, measure in enumerate(self.his.measures)
        )

    def single(self) -> tuple[SingleMeasured, ...]:
        """The measures of each episode so far."""
        if not self.his.measures:
            return ()
        theirs, ours = (_joined(side, "measured") for side in (self.theirs, self.ours))
        return tuple(SingleMeasured.of(*both) for both in zip(theirs.T, ours.T, strict=True))

    def returns(self, rng: np.random.Generator, *, exact: bool = False) -> tuple[Returns, Returns]:
        """The teacher's and the student's."""
        theirs, ours = (
            Returns.of(_joined(side, "returns"), rng, _joined(side, "units"), exact=exact)
            for side in (self.theirs, self.ours)
        )
        return theirs, ours


def in_words(how: Play, info: EnvInfo, *, exact: bool = False) -> str:
    """A way of playing an environment, in few words.

    Example::

        in_words(Play(EnvRef("ALE/Pong-v5")), describe_env("ALE/Pong-v5"))  # 'sticky actions (0.25)'
    """
    sticky = _sticky(how, info)
    parts = [f"random actions ({how.epsilon:g})"] if how.epsilon else []
    parts += [f"sticky actions ({sticky:g})"] if sticky else []
    parts += how.sensors.words
    return ", ".join(parts) or ("every start, greedy" if exact else "greedy")


def _sticky(how: Play, info: EnvInfo) -> float:
    """ALE's probability of repeating an action."""
    return float(info.protocol.get("sticky_actions", 0.0)) if how.sticky is None else how.sticky


def _joined(games: list[Episodes], what: str) -> NDArray[Any]:
    """(E,) of all episodes."""
    return np.concatenate([getattr(one, what) for one in games])


def _truncated(games: list[Episodes]) -> int:
    """Episodes that a limit cut."""
    return sum(int(one.truncated.sum()) for one in games)


def _disturbed(games: _Games, sensors: Sensors, episodes: int, tolerance: Tolerance) -> dict[str, Sides]:
    """Returns of teacher and student under random actions, and in ALE under sticky actions, with vectors under noise of
    a tenth of each number's spread; the student's own ``sensors`` come on top. What is no more than what they are
    played under anyway is left out, and so is what one of the two cannot play.
    """
    if episodes == 0:
        return {}
    info = games.info
    ways: dict[str, dict[str, Any]] = {"epsilon_0.01": {"epsilon": 0.01}} if games.his.epsilon < 0.01 else {}
    if info.atari:
        ways |= {"sticky_0.25": {"sticky": 0.25}} if _sticky(games.his, info) < 0.25 else {}
    elif info.obs.image is None:
        spread = games.theirs[0].states.std(0, dtype=np.float64)
        spread[list(games.teacher.exact)] = 0.0
        # choices, switches and counts: noise would make of them what no environment gives
        spread[(games.theirs[0].states == np.round(games.theirs[0].states)).all(0)] = 0.0
        ways |= {"noise_0.1": {"sensors": Sensors(tuple((0.1 * spread).tolist()))}} if spread.any() else {}
    result = {}
    rng = np.random.default_rng(0)
    for name, change in ways.items():
        way = replace(games.his, **change, keep_states=0, measures=())
        blurred = replace(way, sensors=sensors.behind(way.sensors.noise))
        both = _Games(games.teacher, games.student, way, blurred, info, games.watch)
        games.watch(Phase(both.protocol()))
        try:
            both.play(seeds_from(DISTURBED_SEEDS, episodes))
            verdict = both.verdict(tolerance)
        except DistilError as error:  # the verdict is there, and is not lost for it
            games.watch(Unplayed(both.protocol(), str(error)))
            continue
        theirs, ours = both.returns(rng)
        games.watch(Judged(verdict))
        result[name] = Sides(teacher=theirs, student=ours, verdict=verdict)
    return result

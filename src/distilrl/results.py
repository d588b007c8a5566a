"""What became of one teacher in one student, and of the training of a teacher: results.json of such a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilrl.measures import Measured
from distilrl.plain import Record
from distilrl.played import Agreement, Difference, Played, RandomPlay, Returns, RunVerdict, Scored, Sides
from distilrl.provenance import Provenance
from distilrl.shown import Rows, Shown
from distilrl.stats import Interval
from distilrl.verdict import HOLDS, RESULTS, Result, Verdict, difference_in_words, in_words, margin_in_words, worst_of


class Claims:
    """What is claimed of one policy beside another: the return's verdict, and those of the measures."""

    verdict: RunVerdict
    measures: tuple[Measured, ...]

    @property
    def worst(self) -> Result:
        """The worst verdict, of the return and of the measures: that all hold needs no correction for their number."""
        return min((self.verdict.result, *self.measured.values()), key=RESULTS.index)

    @property
    def holds(self) -> bool:
        """Whether all that is claimed is proven."""
        return self.worst in HOLDS

    @property
    def measured(self) -> dict[str, Result]:
        """The verdict of each measure that has one, by its name."""
        return {one.words: one.verdict.result for one in self.measures if one.verdict is not None}


@dataclass(frozen=True, kw_only=True)
class Effort(Record):
    """What training took."""

    seed: int
    """Seed of training."""
    recipe: str
    """Name of the method."""
    env_steps: int
    """Steps of one environment, summed over all."""
    updates: int
    """Gradient steps; rounds, of a tree and of a stage with reward."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""


@dataclass(frozen=True, kw_only=True)
class Training(Effort):
    """How something was trained."""

    stopped: str
    """Why training ended."""


@dataclass(frozen=True, kw_only=True)
class Distilling(Training):
    """How a student was trained."""

    labelled_states: int
    """States that the teacher labelled."""
    device: str
    """Where the networks computed."""
    temperature: float | None = None
    """By which the teacher's numbers were divided, 1 where none was found; a tree has none."""


@dataclass(frozen=True, kw_only=True)
class TeacherSide(Played):
    """The teacher in a run's results."""

    format: str
    """What kind of file it was."""
    params: int | None
    """Parameters; None where they cannot be known."""
    bytes: int | None
    """Bytes of its weights; None where they cannot be known."""
    macs: int | None
    """Multiply-accumulates of a decision; None where they cannot be known."""
    latency_us: float
    """Median microseconds of a greedy decision, in PyTorch on one thread."""


@dataclass(frozen=True, kw_only=True)
class Size(Record):
    """What a student is, and how large."""

    name: str
    """The network or tree in few words."""
    params: int
    """Parameters, or nodes."""
    bytes: int
    """Bytes of its weights."""
    macs: int
    """Multiply-accumulates of a decision."""


@dataclass(frozen=True, kw_only=True)
class Made(Size):
    """What a student is, whole."""

    spec: dict[str, Any]
    """The network's specification, or the tree's facts."""


@dataclass(frozen=True, kw_only=True)
class StudentSide(Scored, Made):
    """The student in a run's results."""

    latency_us: float
    """Median microseconds of a greedy decision, in PyTorch on one thread."""


@dataclass(frozen=True, kw_only=True)
class Link(Record):
    """A student of a chain of assistants."""

    name: str
    """The network in few words."""
    params: int
    """Parameters."""
    return_mean: float
    """Mean return of its verdict."""
    return_ci95: Interval | None
    """95 % interval of it; None where it is exact."""
    score: float | None
    """About the chain's first teacher."""
    verdict: Result
    """About the chain's first teacher."""
    path: str
    """Its run folder."""

    @staticmethod
    def of(results: "Results", path: Path) -> "Link":
        """Of the student's own results and its run folder."""
        student = results.student
        return Link(
            name=student.name,
            params=student.params,
            return_mean=student.return_mean,
            return_ci95=student.interval,
            score=student.score,
            verdict=results.worst,
            path=str(path),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Results(Claims, Shown, Distilling):
    """What became of a teacher in one student: the contents of results.json.

    Example::

        results = distill(teacher, Job(config), "runs/cheetah")
        print(results.verdict.result, results.student.return_mean, results.student.return_ci95)
        results.teacher.params / results.student.params  # how many times smaller

        again = read_as(Results, json.loads(Path("runs/cheetah/results.json").read_text()))
    """

    env: str
    """Name of the environment."""
    environment: dict[str, Any]
    """The environment as `EnvRef.from_json` reads it."""
    action: dict[str, Any]
    """The student's head: what its numbers mean."""
    protocol: dict[str, Any]
    """The environment's rules of play, and ``epsilon``."""
    wall_s: float
    """Seconds of the whole job; of one that was cut short and resumed, since then."""
    teacher: TeacherSide
    """The teacher."""
    random: RandomPlay
    """Random play."""
    student: StudentSide
    """The student."""
    agreement: Agreement
    """How alike the two act."""
    verdict: RunVerdict
    """Whether the student keeps the return."""
    disturbed: dict[str, Sides]
    """Both sides under each disturbance, by its name."""
    verdict_environment: dict[str, Any] | None = None
    """Where all of this was played, if that is not where training was."""
    chain: tuple[Link, ...] = ()
    """The chain of assistants, whose last student this is."""
    measures: tuple[Measured, ...] = ()
    """What was measured beside the return."""
    provenance: Provenance
    """What it was made with."""
    student_sha256: str | None = None
    """SHA-256 of the student's file; None where none was kept."""

    def _told(self) -> tuple[str, Rows]:
        rows: list[tuple[str, ...]] = [("", "return", "parameters", "MACs", "µs")]
        for name, one in (("teacher", self.teacher), ("student", self.student)):
            sizes = ("?" if n is None else f"{n:,}" for n in (one.params, one.macs))
            rows.append((name, one.in_words(), *sizes, f"{one.latency_us:,.0f}"))
        found = f"{difference_in_words(self.verdict)}, margin {margin_in_words(self.verdict)}"
        rows.append(("student - teacher", found, "", "", ""))
        rows += [(words, in_words(result), "", "", "") for words, result in self.measured.items()]
        return f"{self.env}, {self.student.name}, {self.recipe}: {in_words(self.verdict.result)}", rows


@dataclass(frozen=True, kw_only=True)
class DuelPolicy(Scored):
    """The policy that is judged."""

    params: int | None
    """Parameters; None where they cannot be known."""


@dataclass(frozen=True, kw_only=True)
class DuelOther(Played):
    """The policy that another is held against."""

    params: int | None
    """Parameters; None where they cannot be known."""


@dataclass(frozen=True, kw_only=True)
class Duel(Claims, Record):
    """Two policies on the same episodes, as `evaluate_against` found them."""

    policy: DuelPolicy
    """The one that is judged."""
    against: DuelOther
    """The one that it is held against."""
    random: RandomPlay
    """Random play."""
    agreement: Agreement
    """How alike the two act."""
    verdict: RunVerdict
    """Whether the policy keeps the other's return."""
    fresh: bool
    """The episodes are of seeds that no run plays, and not of the runs' verdicts."""
    measures: tuple[Measured, ...] = ()
    """What was measured beside the return."""


@dataclass(frozen=True, kw_only=True)
class Verified(Returns):
    """An exported file, played itself, as `verify` found it."""

    file: str
    """Name of the file."""
    verdict: Verdict | None
    """Against the teacher's returns on the same seeds; None where they are not known."""
    against_student: Difference | None
    """File − student; None where the student's returns are not known."""
    measures: tuple[Measured, ...] = ()
    """What the student's verdict measured beside the return, of the file; the ``student`` in them is the file."""

    @property
    def worst(self) -> Result | None:
        """The worst verdict, of the return and of the measures; None where there is none."""
        verdicts = (self.verdict, *(one.verdict for one in self.measures))
        return worst_of(*(one.result for one in verdicts if one is not None))


@dataclass(frozen=True, kw_only=True)
class TeacherTrained(Returns, Size):
    """A teacher that was trained, and how it plays."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TeacherResults(Shown, Training):
    """What came of training a teacher: results.json of such a folder."""

    env: str
    """Name of the environment."""
    student: TeacherTrained
    """The policy that was trained."""
    provenance: Provenance
    """What it was made with."""

    def _told(self) -> tuple[str, Rows]:
        made = self.student
        row = (made.name, made.in_words(), f"{made.params:,}", f"{self.env_steps:,}", f"{self.train_s:,.1f}")
        return f"{self.env}, {self.recipe}", [("", "return", "parameters", "steps", "seconds"), row]

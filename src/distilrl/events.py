"""What work under way says of itself: frozen events, and whoever watches takes them with ``match``.

Example::

    def watch(event: Event) -> None:
        match event:
            case Step(env_steps=done, budget=budget):
                print(f"{done} of {budget}")
            case Check(row=row):
                print(row["return"])
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilrl.played import RunVerdict, TeacherCard


@dataclass(frozen=True)
class Phase:
    """Another kind of work begins."""

    name: str
    """In words for a person: ``teacher's check`` (its acceptance), ``random play`` (beside it), ``finalists`` (the best
    checks' students meet again), ``reward`` (the stage with reward), ``verdict``, a way of playing that has a verdict
    of its own, ``recording`` (states that an exported file is replayed on), ``writing`` (that file), ``animation`` or
    ``report``."""


@dataclass(frozen=True)
class Accepted:
    """The teacher passed its check."""

    teacher: TeacherCard
    """The teacher, and how it plays."""
    kept: Path | None = None
    """File of an earlier run's check, where it was not played again."""
    unused: tuple[Path, ...] = ()
    """VecNormalize files that belong to the teacher's by where they lie, and that it was not read with."""
    of: str = ""
    """Of which of several tasks."""


@dataclass(frozen=True)
class Noticed:
    """Something that a person should know, and that ends nothing."""

    words: str
    """What, in a sentence."""


@dataclass(frozen=True)
class Recalled:
    """The teacher's side of a comparison was played by an earlier run, on the same seeds, and is not played again."""

    kept: Path
    """File of its episodes."""


@dataclass(frozen=True)
class Judged:
    """A verdict is there; others, on other ways of playing, may follow."""

    verdict: RunVerdict
    """The verdict."""
    of: str = ""
    """On which of several students, in few words; or of which of several tasks."""


@dataclass(frozen=True)
class Unplayed:
    """A way of playing beside the verdict's has no verdict: teacher, student or environment failed in it."""

    protocol: str
    """The way, as in `Judged`."""
    why: str
    """The error."""


@dataclass(frozen=True)
class Resumed:
    """A run goes on from its checkpoint."""

    env_steps: int
    """Steps that were made before."""
    moved: tuple[str, ...] = ()
    """What is otherwise on this machine than where the checkpoint was written: results may differ in their last digits
    from those of an unbroken run."""


@dataclass(frozen=True)
class Replaying:
    """Recorded steps are played again, on resuming."""

    done: int
    """Steps played."""
    total: int
    """Steps recorded."""


@dataclass(frozen=True)
class Step:
    """A vector step and its updates are done."""

    env_steps: int
    """Steps of one environment so far, summed over all."""
    budget: int
    """How many there will be at most."""
    training_return: float | None = None
    """Mean of the last episodes that the student played from beginning to end."""


@dataclass(frozen=True)
class Check:
    """The student was measured."""

    row: dict[str, Any]
    """A row of metrics.csv."""


@dataclass(frozen=True)
class Episodes:
    """Episodes of a check or a verdict have ended, or go on."""

    done: int
    """Episodes ended."""
    total: int
    """Episodes in all."""
    mean: float
    """Mean return so far; 0 before the first has ended."""
    steps: int = 0
    """Steps of the longest of those that are played at once."""


@dataclass(frozen=True)
class Drawn:
    """A step of the episode that an animation shows is drawn."""

    done: int
    """Steps so far."""
    total: int
    """How many there will be at most."""


@dataclass(frozen=True)
class Reached:
    """A run of several that is done in another process has come so far."""

    run: str
    """Its name."""
    phase: str
    """As `Phase` names it, or ``replaying`` or ``training``."""
    done: int
    """Steps or episodes."""
    total: int
    """How many there will be at most; 0: not known."""
    returned: float | None = None
    """Return of the last check."""


@dataclass(frozen=True)
class Ended:
    """A run of several has ended."""

    run: str
    """Its name."""
    verdict: str | None
    """Its verdict; None where it ended in an error."""
    words: str
    """What came of it, in one line."""


@dataclass(frozen=True)
class Replaced:
    """A collector died, and another has taken its place; the result is the same."""

    collector: int
    """Number of the collector."""
    node: str
    """Machine on which it died."""
    new_node: str
    """Machine on which the other one runs."""
    shards: int
    """Shards that are brought there."""
    steps: int
    """Vector steps that they play again."""


Event = (
    Phase | Accepted | Noticed | Recalled | Judged | Unplayed | Resumed | Replaying
    | Step | Check | Episodes | Drawn | Reached | Ended | Replaced
)  # fmt: skip
Watch = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Watches nothing.

    Example::

        distill("ppo.zip", job, "runs/cartpole", watch=silent)
    """


def named(watch: Watch, of: str) -> Watch:
    """Tells of whom a teacher's check and a verdict are, where there are several tasks or students.

    Example::

        distill("ppo.zip", job, "runs/cartpole", watch=named(watch, "CartPole-v1"))
    """

    def told(event: Event) -> None:
        watch(replace(event, of=of) if isinstance(event, Accepted | Judged) else event)

    return told

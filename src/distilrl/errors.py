"""What can go wrong on a user's side, as one tree of exceptions.

Each message is one sentence: what was wrong, where (file, field, shape), and what to do.
The command line prints it and exits with code 2::

    DistilError
    ├── SpecError         a student spec or a configuration value that means nothing
    │   └── BoundsError   bounds of actions that are not the environment's
    ├── FileError         a file that is missing, damaged, of a wrong format, or cannot be written
    │   └── HostileError  a file that would run code where it is unpickled (exit code 4)
    ├── TeacherError      a teacher that does not fit the environment, or is not worth distilling
    ├── EnvError          an environment that is unknown or of a kind that cannot be used
    ├── ExtraError        an optional package that is not installed
    ├── ResumeError       a run that cannot be continued to the same result
    ├── WorkerError       a process or a machine that died under a run, cannot be reached, or does not fit
    └── NotFiniteError    a loss, a weight, an action value or a return that is NaN or infinite
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class DistilError(Exception):
    """Base of every error that a user can cause and mend."""

    def __str__(self) -> str:
        """The sentence: one line, whatever was in a name that it quotes."""
        return "".join(c if c.isprintable() else "?" for c in super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        return again, (type(self), str(self))


def again(kind: type[DistilError], sentence: str) -> DistilError:
    """An error as another process raised it: its sentence is complete, which `__init__` may want the parts of."""
    return kind.__new__(kind, sentence)


class SpecError(DistilError):
    """A student spec or a configuration value is wrong."""


class UnaskedError(SpecError):
    """An answer about a file that the file does not need."""

    def __init__(self, sentence: str, answer: str) -> None:
        super().__init__(sentence)
        self.answer = answer
        """Its name, a field of `distilrl.TeacherFile`."""


class BoundsError(SpecError):
    """Bounds of real actions do not allow what is asked."""


class FileError(DistilError):
    """A file is missing, damaged, of an unknown format, or cannot be written."""


class HostileError(FileError):
    """A file asks for functions that no policy needs and that could do anything; none was called."""


class TeacherError(DistilError):
    """The teacher does not fit the environment, or plays no better than random."""


class EnvError(DistilError):
    """The environment is unknown, or of a kind that cannot be distilled in."""


class ExtraError(DistilError):
    """An optional package is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        way = f'pip install "distilrl[{extra}]"'  # which every shell reads as one word
        super().__init__(f"{purpose} needs the package '{package}': install it with {way}.")


class ResumeError(DistilError):
    """The run cannot be continued to the same result."""


class WorkerError(DistilError):
    """A process or a machine died under a run, cannot be reached, or does not fit."""


class NotFiniteError(DistilError):
    """A loss, a weight, an action value or a return is NaN or infinite: nothing can be concluded from it."""


@contextmanager
def closed_on_error(close: Callable[[], object]) -> Iterator[None]:
    """Closes what was opened where what follows goes wrong: nobody holds it then, but a notebook's traceback.

    Example::

        with closed_on_error(envs.close):
            collector = Collector(envs, replay, behaviour)
    """
    try:
        yield
    except BaseException:
        close()
        raise

"""What can go wrong on a user's side, as one tree of exceptions.

Each message is one sentence: what was wrong, where (file, field, shape), and what to do.
The command line prints it and exits with code 2::

    DistilError
    ├── SpecError         a student spec or a configuration value that means nothing
    ├── FileError         a file that is missing, damaged, of a wrong format, or cannot be written
    ├── TeacherError      a teacher that does not fit the environment, or is not worth distilling
    ├── EnvError          an environment that is unknown or of a kind that cannot be used
    ├── ExtraError        an optional package that is not installed
    ├── ClusterError      machines that cannot be reached, do not fit, or die again and again
    ├── ResumeError       a run that cannot be continued to the same result
    └── NotFiniteError    a loss, a weight, an action value or a return that is NaN or infinite
"""

from typing import Any


class DistilError(Exception):
    """Base of every error that a user can cause and mend."""


class SpecError(DistilError):
    """A student spec or a configuration value is wrong."""


class FileError(DistilError):
    """A file is missing, damaged, of an unknown format, or cannot be written."""


class TeacherError(DistilError):
    """The teacher does not fit the environment, or plays no better than random."""


class EnvError(DistilError):
    """The environment is unknown, or of a kind that cannot be distilled in."""


class ExtraError(DistilError):
    """An optional package is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._parts = package, extra, purpose
        super().__init__(f"{purpose} needs the package '{package}': install it with pip install 'distilrl[{extra}]'.")

    def __reduce__(self) -> Any:
        """A pickle makes it again from its parts, and not from its sentence."""
        return type(self), self._parts


class ClusterError(DistilError):
    """Machines cannot be reached, do not fit together, or die again and again."""


class ResumeError(DistilError):
    """The run cannot be continued to the same result."""


class NotFiniteError(DistilError):
    """A loss, a weight, an action value or a return is NaN or infinite: nothing can be concluded from it."""

"""How processes are started: afresh, because a fork of a process whose libraries run threads may hang."""

import contextlib
import copy
import multiprocessing
import pickle
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any

from distilrl.errors import DistilError, SpecError, WorkerError
from distilrl.text import first_line


class RemoteTraceback(Exception):
    """The traceback of an error in another process, which is the cause of the error that is raised here."""


def sendable(error: Exception) -> Exception:
    """An error as another process can read it: itself, or its words where pickle does not bring it back."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # is made anew by what pickle would call, without reading a pickle
    except Exception:  # of many kinds
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def quit_by(error: SystemExit) -> WorkerError:
    """What to say of code that would have ended the program, as if all were well or its process had died."""
    return WorkerError(
        f"What a run calls wanted to end the program (sys.exit({error.code!r:.60})): have your environment, teacher or "
        "recipe raise an error instead."
    )


@contextlib.contextmanager
def brought_back() -> Iterator[None]:
    """What is raised inside is `sendable`: executors lose what they cannot send, and a pool breaks over it."""
    try:
        yield
    except SystemExit as error:  # which would end whoever waits for it
        raise quit_by(error) from None
    except Exception as error:
        if (sent := sendable(error)) is error:
            raise
        raise sent from error


def unreadable(reason: BaseException, where: str) -> SpecError:
    """What to say of a call that names what cannot be found where it is to be made."""
    said = first_line(reason).removeprefix("System error: ")  # Ray's
    return SpecError(
        f"What a run needs cannot be read {where} ({said}): define teacher, environment and losses in a module that is "
        "found there too, not in a notebook or an interactive session, or name the teacher's file and the "
        "environment's id."
    )


def fresh_context(preload: Sequence[str]) -> BaseContext:
    """Forkserver, which imports the modules named once and not for every process; spawn where there is none, and on
    macOS, whose own libraries do not bear even that fork.
    """
    if sys.platform == "darwin" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def start(process: Any, kind: type[DistilError], otherwise: str) -> None:
    """Starts a process.

    Args:
        process: of `fresh_context`.
        kind: of the error where that fails.
        otherwise: how to do without.

    Raises:
        DistilError: of that kind.
    """
    try:
        process.start()
    except RuntimeError as error:  # this is a worker itself, which imports the script that started it
        raise kind(
            "Worker processes import the script that starts them: put what it does under "
            f'if __name__ == "__main__":, or {otherwise}.'
        ) from error
    except AssertionError as error:  # a daemonic process, as Dask's workers are, may have no children
        raise kind(f"A worker process cannot be started here ({first_line(error)}): {otherwise}.") from error
    except OSError as error:  # sockets have short names, and TMPDIR may be long
        raise kind(
            f"A worker process cannot be started ({error}): set TMPDIR to a short path, or {otherwise}."
        ) from error

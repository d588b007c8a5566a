"""Calls in processes of their own, as a `concurrent.futures.Executor`: what ``--jobs`` is.

Each call gets a fresh process, so that nothing of one run is left to the next, and the death of one is not the end of
the others.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

from distilrl.errors import WorkerError
from distilrl.plain import check_number
from distilrl.starting import RemoteTraceback, fresh_context, quit_by, sendable, start, unreadable

T = TypeVar("T")
TRIES = 3
"""How often a call is begun whose process dies under it."""


class Processes(ThreadPoolExecutor):
    """Calls in processes of their own, so many at a time; for calls that can be begun again.

    A call whose process is killed (most often: there was not enough memory) is begun again, twice at most. Processes
    end when the one that started them does, however that ends. To leave the ``with`` block by an error, Ctrl-C among
    them, or to shut down with ``cancel_futures``, ends what is under way.

    Args:
        jobs: how many at a time.

    Raises:
        SpecError: ``jobs`` is below 1.

    Example::

        with Processes(4) as executor:
            distill_seeds("ppo.zip", job, "runs/seeds", 8, executor=executor)
    """

    def __init__(self, jobs: int) -> None:
        check_number("jobs", jobs, "[1, inf)", whole=True)
        super().__init__(jobs, thread_name_prefix="job")
        self._guard, self._ended = threading.Lock(), False
        self._alive: set[Any] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        return super().submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            with self._guard:
                self._ended = True
                for process in self._alive:
                    process.kill()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        """The answer of a process to a call; begun again where it died."""
        for _ in range(TRIES):
            process, pipe = self._start()
            try:
                begun, answer = _ask(pipe, (function, args, kwargs))
            finally:
                pipe.close()
                process.join()
                with self._guard:
                    self._alive.discard(process)
            if answer is not None:
                return _opened(*answer)  # type: ignore[no-any-return]
            if self._ended:
                raise CancelledError
            if not begun:
                raise WorkerError(
                    f"A worker process did not start (exit code {process.exitcode}): a script that starts some needs "
                    'if __name__ == "__main__": around what it does.'
                )
        raise WorkerError(
            f"A worker process died {TRIES} times at the same run (exit code {process.exitcode}): most often there is "
            "not enough memory, so give fewer --jobs; the same command continues what was begun, of one run or a plan "
            "--resume."
        )

    def _start(self) -> tuple[Any, Connection]:
        """A new process, and the pipe to it."""
        context = fresh_context(["distilrl.series", "distilrl.plan"])
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))  # type: ignore[attr-defined]
        with self._guard:  # whoever ends all must not miss one
            if self._ended:
                raise CancelledError
            start(process, WorkerError, "do one run at a time")
            self._alive.add(process)
        theirs.close()
        return process, ours


def _ask(pipe: Connection, call: Any) -> tuple[bool, Any]:
    """Whether the process at the other end has begun, and its answer; None of one that died."""
    begun = False
    try:
        pipe.recv()
        begun = True
        pipe.send(call)
        return begun, pipe.recv()
    except (EOFError, OSError):
        return begun, None


def _opened(good: bool, answer: Any, trace: str) -> Any:
    """What a call returned; raises what it raised."""
    if good:
        return answer
    raise answer from RemoteTraceback(f"\n{trace}")


def _serve(pipe: Connection) -> None:
    """Does one call, and tells what came of it: (True, its value, "") or (False, its error, the traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started us, which then ends us
    try:
        pipe.send(None)
        function, args, kwargs = pipe.recv()
    except (EOFError, OSError):  # nobody waits any more, or the call cannot be sent
        return
    except Exception as error:  # of many kinds: it names what is not here
        pipe.send((False, unreadable(error, "in another process"), traceback.format_exc()))
        return
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        answer = (True, function(*args, **kwargs), "")
    except SystemExit as error:  # somebody's code would end this process as if it had died
        answer = (False, quit_by(error), traceback.format_exc())
    except Exception as error:
        answer = (False, sendable(error), traceback.format_exc())
    try:
        pipe.send(answer)
    except (EOFError, OSError):  # nobody waits any more
        pass
    except Exception as error:  # pickle's, of many kinds: the answer cannot be sent
        pipe.send((False, RuntimeError(f"{type(answer[1]).__name__} ({error}): {answer[1]}"), answer[2]))


def _end_with(pipe: Connection) -> None:
    """Ends this process when the other end of the pipe is closed, which happens at the latest when that process
    dies.
    """
    try:
        pipe.poll(None)
    finally:
        os._exit(1)

"""A Ray cluster as a `concurrent.futures.Executor`: one task a run."""

import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, TypeVar

from distilrl.distributed.connection import connect, other_versions
from distilrl.errors import WorkerError
from distilrl.provenance import versions
from distilrl.starting import brought_back, unreadable
from distilrl.text import first_line

T = TypeVar("T")
RETRIES = 2
"""How often a task is begun again whose process or machine dies under it."""


class RayExecutor(Executor):
    """Calls as Ray tasks, on whatever machine has room; for calls that can be begun again.

    A call whose process or machine dies is begun again, twice at most. Machines need the same distilrl and a folder
    that all of them see. To leave the ``with`` block by an error, or to shut down with ``cancel_futures``, ends what is
    under way; a cluster that we did not start goes on.

    Args:
        address: as `connect` takes it; not read where Ray is connected already.
        cpus: CPUs that a call occupies.
        gpus: GPUs that a call occupies.

    Raises:
        SpecError: the address is none.
        ExtraError: Ray is not installed.
        WorkerError: there is no cluster, it cannot be used, or none of its machines is large enough.

    Example::

        with RayExecutor("auto") as executor:
            distill_seeds("ppo.zip", job, "/mnt/seeds", 8, executor=executor)
    """

    def __init__(self, address: str = "auto", *, cpus: int = 1, gpus: float = 0.0) -> None:
        with ExitStack() as stack:
            self._ray = stack.enter_context(connect(address))
            _check_room(self._ray, cpus, gpus)
            self._connection = stack.pop_all()
        task = self._ray.remote(_call)
        self._task = task.options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
        self._left: set[_RayFuture[Any]] = set()
        self._ended = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        if self._ended:
            raise RuntimeError("This executor was shut down.")
        future: _RayFuture[T] = _RayFuture(self._ray, self._task.remote(versions(), fn, args, kwargs))
        self._left.add(future)
        future.add_done_callback(lambda one: self._left.discard(one))
        future.listen()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True
        left = list(self._left)
        for future in left if cancel_futures else ():
            future.cancel()
        if wait:
            _wait(left)
            self._connection.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _wait(futures: "list[_RayFuture[Any]]") -> None:
    wait(futures)


def _check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Raises where a call would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in machines):
        wanted = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        way = "give fewer --threads" + (", or --device cpu where it has no GPU" if gpus else "")
        raise WorkerError(f"No machine of the Ray cluster has {wanted}, as a run occupies: {way}.")


def _call(theirs: dict[str, str], function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """A task: the call itself, by the same versions."""
    if other := other_versions(versions(), theirs):
        raise WorkerError(
            f"{socket.gethostname()} has {other}, where the run comes from: install the same on every machine, or "
            "numbers differ."
        )
    with brought_back():
        return function(*args, **kwargs)


class _RayFuture(Future[T]):
    """What comes of a task."""

    cancel_ends_it = True
    """Also while it is under way, which a future of the standard library does not: `fan_out` asks."""

    def __init__(self, ray: Any, task: Any) -> None:
        super().__init__()
        self._ray, self._task = ray, task

    def listen(self) -> None:
        """Waits for the task, elsewhere."""
        self._task.future().add_done_callback(self._settle)

    def cancel(self) -> bool:
        """Cancels the task, also where it is under way: its process is ended."""
        before, cancelled = self.cancelled(), super().cancel()
        if cancelled and not before:
            self._ray.cancel(self._task, force=True)
            with suppress(RuntimeError):  # a task that ended meanwhile has said so itself
                self.set_running_or_notify_cancel()
        return cancelled

    def _settle(self, task: "Future[T]") -> None:
        """Takes over what came of the task, in the words of whoever raised it."""
        if self.cancelled() or not self.set_running_or_notify_cancel():
            return
        error, kinds = task.exception(), self._ray.exceptions
        cause = getattr(error, "cause", None) if isinstance(error, kinds.RayTaskError) else None
        if error is None:
            self.set_result(task.result())
        elif isinstance(cause, kinds.RaySystemError):  # its arguments cannot be read there
            self.set_exception(unreadable(cause, "on a machine of the cluster"))
        elif isinstance(error, kinds.RayTaskError):
            self.set_exception(cause if isinstance(cause, BaseException) else error)
        elif isinstance(error, kinds.RayError):
            self.set_exception(
                WorkerError(
                    f"A run was lost with its process or machine ({type(error).__name__}: {first_line(error)}): the "
                    "same command continues what was begun."
                )
            )
        else:
            self.set_exception(error)

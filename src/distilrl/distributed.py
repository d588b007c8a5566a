"""Many machines: the only module that imports Ray (extra ``ray``).

`RayExecutor` makes a Ray cluster a `concurrent.futures.Executor`, one task a run.
"""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from distilrl import __version__
from distilrl.errors import ExtraError, WorkerError

T = TypeVar("T")
RETRIES = 2
"""How often a task is begun again whose process or machine dies under it."""
SECONDS_TO_ANSWER = 5.0
"""How long an address may take to accept a connection; Ray itself would try for minutes."""
ENVIRONMENT = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""What Ray reads when it is imported, where the user has not set it: tasks are no less urgent than what started them,
and nothing is sent to Ray's makers.
"""


def connect(address: str) -> tuple[Any, bool]:
    """Ray's module, connected to a cluster, and whether it is we who connected it.

    Args:
        address: ``auto``: the cluster of this machine, or that of RAY_ADDRESS; ``local``: a new one of this machine
            alone, that ends with this process; else host:port of its head.

    Raises:
        ExtraError: Ray is not installed.
        WorkerError: there is no cluster, or it cannot be used.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ExtraError("ray", "ray", "--ray") from None
    if ray.is_initialized():
        return ray, False
    _check_reachable(address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with _unheard():
            ray.init(address, **quiet, **({"include_dashboard": False} if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise WorkerError(_refused(address, error)) from error
    return ray, True


@contextmanager
def _unheard() -> Iterator[None]:
    """Keeps from the terminal what Ray's own code writes there while it tries to connect; what is wrong, we say."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_reachable(address: str) -> None:
    """Raises where nothing listens at an address."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not colon or not host or not port.isdecimal():
        raise WorkerError(f"--ray {address} is no address: give auto, local, or HOST:PORT of the cluster's head.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(
            f"Nothing answers at {address} ({error}): start a cluster there with ray start --head, and let this "
            "machine reach its port."
        ) from None


def _refused(address: str, error: Exception) -> str:
    """Why a cluster cannot be used."""
    said, cluster = " ".join(str(error).split()), "The Ray cluster" + ("" if address == "auto" else f" at {address}")
    if address == "auto" and isinstance(error, ConnectionError) and "find any running" in said:
        return "No Ray cluster runs on this machine: start one with ray start --head, or give --ray local."
    if "ersion mismatch" in said:
        return f"{cluster} has other versions ({said:.200}): install the same on every machine."
    if isinstance(error, ConnectionError) or "auth" in said.lower():
        return (
            f"{cluster} refuses the connection: give every machine the head's token (RAY_AUTH_TOKEN, or "
            "the file of ray get-auth-token), the same RAY_AUTH_MODE and the same version of Ray."
        )
    return f"Ray cannot use the cluster at {address} ({said:.200}): see that it runs, with ray status."


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
        ExtraError: Ray is not installed.
        WorkerError: there is no cluster, it cannot be used, or none of its machines is large enough.

    Example::

        with RayExecutor("auto") as executor:
            distill_seeds("ppo.zip", job, "/shared/seeds", 8, executor=executor)
    """

    def __init__(self, address: str = "auto", *, cpus: int = 1, gpus: float = 0.0) -> None:
        self._ray, self._ours = connect(address)
        try:
            _check_room(self._ray, cpus, gpus)
        except WorkerError:
            self._end()
            raise
        task = self._ray.remote(_call)
        self._task = task.options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
        self._left: set[_RayFuture[Any]] = set()
        self._ended = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        if self._ended:
            raise RuntimeError("This executor was shut down.")
        future: _RayFuture[T] = _RayFuture(self._ray, self._task.remote(__version__, fn, args, kwargs))
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
            self._end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _end(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


def _wait(futures: "list[_RayFuture[Any]]") -> None:
    wait(futures)


def _check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Raises where a call would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in machines):
        wanted = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise WorkerError(f"No machine of the Ray cluster has {wanted}, as a run occupies: give fewer --threads.")


def _call(version: str, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """A task: the call itself, by the same version."""
    if version != __version__:
        raise WorkerError(
            f"{socket.gethostname()} has distilrl {__version__}, but the run comes from {version}: install the same "
            "on every machine."
        )
    return function(*args, **kwargs)


class _RayFuture(Future[T]):
    """What comes of a task."""

    def __init__(self, ray: Any, task: Any) -> None:
        super().__init__()
        self._ray, self._task = ray, task

    def listen(self) -> None:
        """Waits for the task, elsewhere."""
        self._task.future().add_done_callback(self._settle)

    def cancel(self) -> bool:
        """Cancels the task, also where it is under way: its process is ended."""
        cancelled = super().cancel()
        if cancelled:
            self._ray.cancel(self._task, force=True)
            self.set_running_or_notify_cancel()
        return cancelled

    def _settle(self, task: "Future[T]") -> None:
        """Takes over what came of the task, in the words of whoever raised it."""
        if self.cancelled() or not self.set_running_or_notify_cancel():
            return
        error, kinds = task.exception(), self._ray.exceptions
        if error is None:
            self.set_result(task.result())
        elif isinstance(error, kinds.RayTaskError):
            self.set_exception(error.cause if isinstance(error.cause, BaseException) else error)
        elif isinstance(error, kinds.RayError):
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            self.set_exception(
                WorkerError(
                    f"A run was lost with its process or machine ({type(error).__name__}: {said:.200}): the same "
                    "command continues what was begun."
                )
            )
        else:
            self.set_exception(error)

"""The connection to a Ray cluster, whoever needs it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distilrl.errors import ExtraError, SpecError, WorkerError
from distilrl.text import first_line

SECONDS_TO_ANSWER = 5.0
"""How long a head may take to answer at its port; Ray itself would try for minutes."""
SETTINGS = {
    "RAY_worker_niceness": "0",  # 15 by default: fine beside a desktop, not on machines that are for this
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "2",  # a task that its machine had no memory for is not counted among `max_retries`
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray reads when it is imported, where it is not set; of a running cluster, what it was started with counts."""


def other_versions(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """How another machine's versions differ from these, in words; empty where they do not."""
    differ = [name for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {theirs.get(name)} there and {ours[name]} here" for name in differ)


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster; one that is connected already stays so, and its address counts.

    Args:
        address: ``auto``: the cluster that this machine belongs to, or that of RAY_ADDRESS; ``local``: one of this
            machine alone, started here and gone with this program; or HOST:PORT of a head.

    Raises:
        SpecError: the address is none.
        ExtraError: Ray is not installed.
        WorkerError: there is no cluster, or it cannot be used.

    Example::

        with connect("auto") as ray:
            ray.cluster_resources()
    """
    _check_address(address)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ExtraError("ray", "ray", "--ray") from None
    if ray.is_initialized():
        yield ray
        return
    _check_there(address)
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    quiet |= {"include_dashboard": False} if address == "local" else {}
    try:
        with _unheard():
            ray.init(address, **quiet)
    except Exception as error:  # another version of Ray or Python, a port of something else, no room: of many kinds
        raise WorkerError(_refused(address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuses what is no address."""
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local") and (not host or not port.isdecimal() or "/" in address):
        raise SpecError(f"--ray {address}: write auto, local, or HOST:PORT of the cluster's head, e.g. 10.0.0.1:6379.")


def _check_there(address: str) -> None:
    """Refuses at once what Ray would look for during minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(
            f"Nothing answers at {address} ({first_line(error)}): start a head there with 'ray start --head', and let "
            "this machine reach its port."
        ) from error


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


def _refused(address: str, error: Exception) -> str:
    """Why a cluster cannot be used."""
    said, cluster = " ".join(str(error).split()), "The Ray cluster" + ("" if address == "auto" else f" at {address}")
    if address == "auto" and isinstance(error, ConnectionError) and "find any running" in said:
        return (
            "This machine belongs to no running Ray cluster: start one with 'ray start --head', or give --ray local or "
            "--ray HOST:PORT."
        )
    if "ersion mismatch" in said:
        return f"{cluster} has other versions ({said:.200}): install the same on every machine."
    if isinstance(error, ConnectionError) or "auth" in said.lower():
        return (
            f"{cluster} does not let us in: give every machine the head's token (RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, or the file of 'ray get-auth-token') and the same version of Ray."
        )
    return f"Ray at '{address}' cannot be used ({first_line(error)}): see that the cluster runs, with 'ray status'."

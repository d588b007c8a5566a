"""The connection to a Ray cluster, whoever needs it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distilrl.errors import ClusterError, ExtraError, SpecError

SECONDS_TO_ANSWER = 5.0
"""How long a head may take to answer at its port; Ray itself waits for minutes."""
SETTINGS = {
    "RAY_worker_niceness": "0",  # 15 by default: fine beside a desktop, not on machines that are for this
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of the environment of Ray's processes, where they are not set; of a cluster, what it was started with counts."""


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster; one that is connected already stays so.

    Args:
        address: ``auto``: the cluster that this machine belongs to; ``local``: one of this machine alone, started here
            and gone with this program; or HOST:PORT of a head.

    Raises:
        ClusterError: there is none, or it refuses us.
        ExtraError: Ray is not installed.

    Example::

        with connect("auto") as ray:
            ray.cluster_resources()
    """
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
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise ClusterError(_unanswered(address)) from error
    except Exception as error:  # another version of Ray or Python, a port of something else, no room: of many kinds
        raise ClusterError(f"Ray at '{address}' cannot be used: {first_line(error)}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Refuses what is no address.

    Raises:
        SpecError: says what is one.
    """
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local") and (not host or not port.isdigit() or "/" in address):
        raise SpecError(f"--ray {address}: write auto, local, or HOST:PORT of the cluster's head, e.g. 10.0.0.1:6379.")


def _check_there(address: str) -> None:
    """Refuses at once what Ray would look for during minutes."""
    check_address(address)
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Nothing answers at {address} ({first_line(error)}): start a head there with 'ray start --head', and let "
            "its port through."
        ) from error


def _unanswered(address: str) -> str:
    if address == "auto":
        return (
            "This machine belongs to no running Ray cluster: start one with 'ray start --head', or give --ray local or "
            "--ray HOST:PORT."
        )
    return (
        f"The Ray head at {address} does not let us in: give this machine the head's token (RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN), or start the head anew."
    )


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__

"""Says which environment does not come back from its own code: a call that hangs raises nothing by itself.

One thread of this process looks now and then at what is under way in the others. It sees nothing while compiled code
keeps Python's lock to itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

PATIENCE = 30.0
"""Seconds after which a call is named, and at each doubling of them again."""
_under_way: dict[int, "Calls"] = {}
"""By thread."""
_thread: threading.Thread | None = None


class Calls:
    """Calls into somebody's code, one after the other, as a context in which they are watched.

    Args:
        told: what the call of this number is, as "Environment 'X' has been in step 3".

    Example::

        with calls:
            for i in range(3):
                calls.begin(i)
                envs[i].step(action)
    """

    def __init__(self, told: Callable[[int], str]) -> None:
        self._told, self._number, self._since = told, 0, 0.0
        self._named, self._next = -1.0, 0.0

    def __enter__(self) -> "Calls":
        self.begin(0)
        _under_way[threading.get_ident()] = self
        _watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _under_way.pop(threading.get_ident(), None)

    def begin(self, number: int) -> None:
        """The call of this number begins now."""
        self._number, self._since = number, time.monotonic()

    def look(self, now: float) -> None:
        """Names the call if it is under way for too long at this time, and was not named of late."""
        since, number = self._since, self._number
        if since != self._named:
            self._named, self._next = since, PATIENCE
        if now - since >= self._next:
            self._next = 2 * (now - since)
            logging.getLogger(__name__).warning(
                "%s for %.0f s: wait if that is its way, or press Ctrl-C and mend it.", self._told(number), now - since
            )


def look(now: float) -> None:
    """Looks once at all that is under way."""
    for calls in list(_under_way.values()):
        calls.look(now)


def _watch() -> None:
    """Makes sure that somebody looks; a fork has no threads but its own."""
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_look_on, name="patience", daemon=True)
        _thread.start()


def _look_on() -> None:
    while True:
        time.sleep(PATIENCE / 4)
        look(time.monotonic())

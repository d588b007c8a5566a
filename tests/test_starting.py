"""How processes are started, and what a user is told where they cannot be."""

import sys

import pytest

from distilrl.errors import EnvError
from distilrl.starting import fresh_context, start


class Refused:
    def __init__(self, error):
        self.error = error

    def start(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("bootstrapping"), r'under if __name__ == "__main__":, or set workers=0\.'),
        (
            OSError("AF_UNIX path too long"),
            r"\(AF_UNIX path too long\): set TMPDIR to a short path, or set workers=0\.",
        ),
        (
            AssertionError("daemonic processes are not allowed to have children"),
            r"cannot be started here \(daemonic processes .* children\): set workers=0\.",
        ),
    ],
)
def test_what_cannot_be_started_is_one_sentence(error, words):
    with pytest.raises(EnvError, match=words):
        start(Refused(error), EnvError, "set workers=0")


def test_macos_gets_processes_that_are_no_fork(monkeypatch):
    assert fresh_context(["distilrl.text"]).get_start_method() in ("forkserver", "spawn")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fresh_context(["distilrl.text"]).get_start_method() == "spawn"

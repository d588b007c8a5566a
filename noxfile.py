"""The tests under each Python that is here: ``nox``, or ``nox -s tests-3.13 -- tests/test_zoo.py`` for one file."""

import nox

nox.options.error_on_missing_interpreters = False

ALONE = ("tests/test_collectors.py", "tests/test_ray.py")
"""They look for the one Ray that runs here."""


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Installs distilrl with all that its tests use, and runs them as `make test` does."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    spread = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run("python", "-m", "pytest", *spread, *(f"--ignore={name}" for name in ALONE))
    session.run("python", "-m", "pytest", *ALONE)

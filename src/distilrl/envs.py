"""Environments: ALE's native vector environment and Gymnasium's behind one interface and one autoreset rule.

Rule: an environment that ends an episode is reset in the same step (`AutoresetMode.SAME_STEP`); the observation
returned with ``terminated`` or ``truncated`` is the first one of the next episode, and no row of data ever spans two.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from distilrl.errors import EnvError, ExtraError
from distilrl.spaces import ActionSpec, EnvRef, ObsSpec

FRAMES_PER_STEP = 4


@dataclass(frozen=True)
class EnvInfo:
    """What the rest of the project must know of an environment."""

    ref: EnvRef
    """How it is made."""
    obs: ObsSpec
    """What it shows."""
    action: ActionSpec
    """What it takes."""
    atari: bool = False
    """It is a game of ALE, stepped by ALE's own vector environment: frames are cheap, budgets large."""
    deterministic: bool = False
    """Equal `VecEnv.start_keys` and equal actions make equal episodes."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """What else fixes the task: sticky actions, no-ops, frame skip, episode cap."""

    @property
    def id(self) -> str:
        """Its name, as a person would write it."""
        return self.ref.label


class Step(NamedTuple):
    """What N environments answer to N actions."""

    obs: NDArray[Any]
    """(N, *obs_shape); of the next episode where this one ended."""
    reward: NDArray[np.float32]
    """(N,), not clipped."""
    terminated: NDArray[np.bool_]
    """(N,): the episode ended by its own rules."""
    truncated: NDArray[np.bool_]
    """(N,): the episode was cut by a limit."""


class VecEnv(ABC):
    """N environments that step together; `send` returns at once where the environments run on threads of their own."""

    info: EnvInfo
    n_envs: int

    @abstractmethod
    def reset(self, seeds: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Starts episodes, seeded one by one, and returns all observations (N, *obs_shape).

        Args:
            seeds: (N,); those outside the mask are not used.
            mask: (N,); environments to reset, all by default.
        """

    def start_keys(self) -> NDArray[np.int64]:
        """(N,) after a full reset: equal where the episodes start in the same state, as far as that is known."""
        return np.arange(self.n_envs)

    @abstractmethod
    def send(self, actions: NDArray[np.int64]) -> None:
        """Hands over actions (N,)."""

    @abstractmethod
    def recv(self) -> Step:
        """Waits for the answer to the last `send`."""

    @abstractmethod
    def picture(self, index: int) -> NDArray[np.uint8]:
        """RGB image (H, W, 3) of one environment as it is now."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the environments hold."""


def make_vec_env(
    env_id: str, n_envs: int, *, sticky: float | None = None, threads: int = 2, pictures: bool = False, for_learning: bool = False
) -> VecEnv:
    """N copies of an environment.

    Args:
        env_id: ``PongNoFrameskip-v4`` (no sticky actions) or ``ALE/Pong-v5`` (sticky 0.25) and the same for every game
            of ALE, preprocessed as DQN's (frame skip 4, 84x84 grey, 4 frames, up to 30 no-ops, fire on reset); or
            any Gymnasium id with vector observations and discrete actions.
        n_envs: number of copies N.
        sticky: probability that ALE repeats the last action; the environment's own by default.
        threads: threads for ALE's emulators.
        pictures: `picture` will be called.
        for_learning: as DQN learns from ALE (Mnih et al. 2015): rewards clipped to their sign, and a lost life ends the episode.

    Raises:
        EnvError: unknown id, or a kind that cannot be distilled in.
    """
    import ale_py  # noqa: F401  (importing it registers its environments)

    try:
        spec = gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        raise EnvError(f"Environment '{env_id}' is unknown ({_first_sentence(error)}).") from None
    if str(spec.entry_point).startswith("ale_py"):
        if sticky is None:
            sticky = float(spec.kwargs.get("repeat_action_probability", 0.0))
        if not isinstance(spec.kwargs.get("frameskip"), int):
            name = env_id.split("-")[0]
            raise EnvError(f"'{env_id}' skips a random number of frames: use '{name}NoFrameskip-v4' or 'ALE/{name}-v5'.")
        return _AleVecEnv(env_id, str(spec.kwargs["game"]), n_envs, sticky, threads, for_learning)
    return _GymVecEnv(env_id, n_envs, pictures)


def describe_env(env_id: str) -> EnvInfo:
    """Spaces and protocol of an environment."""
    envs = make_vec_env(env_id, 1)
    envs.close()
    return envs.info


class _AleVecEnv(VecEnv):
    """ALE's native vector environment: emulation, resizing and stacking in C++ threads."""

    def __init__(self, env_id: str, game: str, n_envs: int, sticky: float, threads: int, for_learning: bool) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self._env = AtariVectorEnv(
            game,
            n_envs,
            num_threads=threads,
            frameskip=FRAMES_PER_STEP,
            repeat_action_probability=sticky,
            reward_clipping=for_learning,
            episodic_life=for_learning,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        )
        self.n_envs = n_envs
        shape = tuple(int(n) for n in self._env.single_observation_space.shape)
        self.info = EnvInfo(
            id=env_id,
            obs_shape=shape,
            n_actions=int(self._env.single_action_space.n),
            pixels=True,
            deterministic=sticky == 0.0,
            protocol={
                "actions": [action.name for action in self._env.ale.get_action_set()],
                "frame_skip": FRAMES_PER_STEP,
                "sticky_actions": sticky,
                "noop_max": 30,
                "fire_on_reset": True,
                "frame_stack": shape[0],
                "max_frames": 108_000,
                "reward_clipping": for_learning,
                "life_loss_terminal": for_learning,
            },
        )
        self._last: NDArray[Any] = np.zeros((n_envs, *shape), np.uint8)
        self._frames = np.zeros(n_envs, np.int64)

    def reset(self, seeds: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        mask = np.ones(self.n_envs, np.bool_) if mask is None else mask
        obs, info = self._env.reset(seed=seeds[mask], options={"reset_mask": mask})
        self._last = self._last.copy()
        self._last[info["env_id"]] = obs
        self._frames[info["env_id"]] = info["frame_number"]
        return self._last

    def start_keys(self) -> NDArray[np.int64]:
        return self._frames.copy()  # a game without sticky actions starts in as many ways as there are counts of no-ops

    def send(self, actions: NDArray[np.int64]) -> None:
        self._env.send(actions)

    def recv(self) -> Step:
        obs, reward, terminated, truncated, _ = self._env.recv()
        self._last = obs
        return Step(obs, reward.astype(np.float32), terminated, truncated)

    def picture(self, index: int) -> NDArray[np.uint8]:
        grey = self._last[index, -1].repeat(3, axis=0).repeat(3, axis=1)
        return np.stack([grey] * 3, axis=-1)

    def close(self) -> None:
        self._env.close()


class _GymVecEnv(VecEnv):
    """Gymnasium's vector environment of any registered id."""

    def __init__(self, env_id: str, n_envs: int, pictures: bool) -> None:
        options: dict[str, Any] = {"render_mode": "rgb_array"} if pictures else {}
        spec = gymnasium.spec(env_id)
        if pictures:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory: it needs no screen and no message about it
        if pictures and "rgb_array" not in _render_modes(spec):
            raise EnvError(f"'{env_id}' cannot draw itself (it has no render mode 'rgb_array').")
        try:
            self._env = gymnasium.make_vec(
                env_id,
                num_envs=n_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
                **options,
            )
        except gymnasium.error.DependencyNotInstalled as error:
            raise EnvError(
                f"Environment '{env_id}' needs a package that is not installed ({_first_sentence(error)}); "
                "for Box2D run pip install 'distilrl[box2d]'."
            ) from None
        except gymnasium.error.Error as error:
            raise EnvError(f"Environment '{env_id}' cannot be made ({_first_sentence(error)}).") from None
        obs_space, action_space = self._env.single_observation_space, self._env.single_action_space
        if not isinstance(action_space, gymnasium.spaces.Discrete):
            raise EnvError(f"'{env_id}' has {type(action_space).__name__} actions: only environments with Discrete actions can be used.")
        if not isinstance(obs_space, gymnasium.spaces.Box) or len(obs_space.shape) != 1:
            raise EnvError(
                f"'{env_id}' has observations of {obs_space}: only vectors (a Box of one dimension) and Atari pixels can "
                "be used; wrap it in gymnasium.wrappers.FlattenObservation."
            )
        self.n_envs = n_envs
        self.info = EnvInfo(
            id=env_id,
            obs_shape=tuple(int(n) for n in obs_space.shape),
            n_actions=int(action_space.n),
            pixels=False,
            obs_reach=tuple(float(n) for n in np.maximum(np.abs(obs_space.low), np.abs(obs_space.high))),
            protocol={"max_episode_steps": spec.max_episode_steps, "gymnasium": gymnasium.__version__},
        )
        self._actions: NDArray[np.int64] = np.zeros(n_envs, np.int64)

    def reset(self, seeds: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        options = {} if mask is None else {"reset_mask": mask}
        obs, _ = self._env.reset(seed=[int(s) for s in seeds], options=options)  # type: ignore[arg-type]
        return np.array(obs, np.float32)

    def send(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def recv(self) -> Step:
        obs, reward, terminated, truncated, _ = self._env.step(self._actions)
        return Step(np.array(obs, np.float32), np.asarray(reward, np.float32), terminated, truncated)

    def picture(self, index: int) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._env.render()[index], np.uint8)  # type: ignore[index]
        except gymnasium.error.DependencyNotInstalled:
            raise ExtraError("pygame", "render", f"Drawing {self.info.id}") from None

    def close(self) -> None:
        self._env.close()


def check_finite(obs: NDArray[Any], reward: NDArray[np.float32], env_id: str, steps: int) -> None:
    """Refuses what an environment answered where it is NaN or infinite, so that nobody else is blamed for it.

    Args:
        obs: (N, *obs_shape).
        reward: (N,).
        env_id: name of the environment.
        steps: vector steps made before this one.

    Raises:
        EnvError: names the environment and the step.
    """
    for what, values in (("a reward", reward), ("an observation", obs)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise EnvError(f"{env_id} gave {what} that is NaN or infinite at step {steps}: mend the environment, or choose another.")


def _render_modes(spec: Any) -> list[str]:
    creator = spec.entry_point
    creator = gymnasium.envs.registration.load_env_creator(creator) if isinstance(creator, str) else creator
    return list(getattr(creator, "metadata", {}).get("render_modes", []))


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")

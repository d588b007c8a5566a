"""ALE's native vector environment: emulation, resizing and stacking in C++ threads."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from distilrl.envs.interface import EnvInfo, Step, VecEnv
from distilrl.errors import EnvError
from distilrl.spaces import Choices, EnvRef, ObsSpec

FRAMES_PER_STEP = 4
OWN_KWARGS = {"repeat_action_probability", "full_action_space"}
"""What a game may be made with; the rest is fixed by DQN's protocol, or cannot be told to ALE's vector environment."""


def is_ale(spec: EnvSpec) -> bool:
    """Whether a registered environment is a game of ALE."""
    return str(spec.entry_point).startswith("ale_py")


class AleVecEnv(VecEnv):
    """N copies of one game, preprocessed as DQN's (Mnih et al. 2015)."""

    def __init__(
        self, ref: EnvRef, spec: EnvSpec, n_envs: int, sticky: float | None, threads: int, for_learning: bool
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        kwargs = _check_ref(ref, spec)
        if sticky is None:
            sticky = float(kwargs.get("repeat_action_probability", 0.0))
        self._env = AtariVectorEnv(
            str(spec.kwargs["game"]),
            n_envs,
            num_threads=threads,
            frameskip=FRAMES_PER_STEP,
            repeat_action_probability=sticky,
            full_action_space=bool(kwargs.get("full_action_space", False)),
            reward_clipping=for_learning,
            episodic_life=for_learning,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        )
        self.n_envs = n_envs
        frames, height, width = (int(n) for n in self._env.single_observation_space.shape)
        shape = (frames, height, width)
        self.info = EnvInfo(
            ref,
            ObsSpec(shape, shape, "uint8", frames),
            Choices((int(self._env.single_action_space.n),)),
            atari=True,
            deterministic=sticky == 0.0,
            protocol={
                "actions": [action.name for action in self._env.ale.get_action_set()],
                "frame_skip": FRAMES_PER_STEP,
                "sticky_actions": sticky,
                "noop_max": 30,
                "fire_on_reset": True,
                "frame_stack": frames,
                "max_frames": 108_000,
                "reward_clipping": for_learning,
                "life_loss_terminal": for_learning,
            },
        )
        self._last: NDArray[Any] = np.zeros((n_envs, *shape), np.uint8)
        self._frames = np.zeros(n_envs, np.int64)
        self._resting: NDArray[np.bool_] | None = None

    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        self._last, info = self._env.reset(seed=np.asarray(seeds, np.int64))
        self._frames[info["env_id"]] = info["frame_number"]
        return self._last.copy()

    def start_keys(self) -> NDArray[np.int64]:
        return self._frames.copy()  # without sticky actions a game starts in as many ways as there are counts of no-ops

    def send(self, actions: NDArray[Any], live: NDArray[np.bool_] | None = None) -> None:
        self._resting = None if live is None or live.all() else ~live
        self._env.send(np.ascontiguousarray(actions[:, 0], np.int64))

    def recv(self) -> Step:
        obs, reward, terminated, truncated, _ = self._env.recv()
        step = Step(np.array(obs), np.array(reward, np.float32), np.array(terminated), np.array(truncated))
        if self._resting is not None:  # ALE steps them all: what those at rest did is not seen
            step.obs[self._resting] = self._last[self._resting]
            for array in step[1:]:
                array[self._resting] = 0
        self._last = step.obs
        return step

    def picture(self, index: int) -> NDArray[np.uint8]:
        grey = self._last[index, -1].repeat(3, axis=0).repeat(3, axis=1)
        return np.stack([grey] * 3, axis=-1)

    def close(self) -> None:
        self._env.close()


def _check_ref(ref: EnvRef, spec: EnvSpec) -> dict[str, Any]:
    """What the game is made with.

    Raises:
        EnvError: something that ALE's vector environment cannot do.
    """
    fixed = [
        name
        for name in ("grey", "resize", "stack", "zeros", "wrappers")
        if getattr(ref, name) != getattr(EnvRef("x"), name)
    ]
    fixed += sorted(set(ref.kwargs) - OWN_KWARGS)
    if fixed:
        raise EnvError(
            f"'{ref.label}' is a game of ALE, whose preprocessing is fixed (84x84 grey, 4 frames): leave out {', '.join(fixed)}."
        )
    if not isinstance(spec.kwargs.get("frameskip"), int):
        name = spec.id.split("-")[0]
        raise EnvError(f"'{ref.label}' skips a random number of frames: use '{name}NoFrameskip-v4' or 'ALE/{name}-v5'.")
    return {**spec.kwargs, **ref.kwargs}

"""Small environments of every kind of action with known answers, their teachers, and settings that learn them."""

import gymnasium
import numpy as np
import torch
from conftest import SIGN, SignEnv

from distilrl.comparison import Comparison
from distilrl.config import TaskFile, TrainConfig
from distilrl.jobs import Job
from distilrl.spaces import EnvRef
from distilrl.teachers import Teacher

SLOPE = (0.8, -0.3)
"""The answer of LinearEnv: 0.8 x − 0.3 y."""


class LinearEnv(SignEnv):
    """Two numbers; the action that pays most, 0, is a linear function of them. Ten steps an episode."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-4, 4, (1,), np.float32)

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 2).astype(np.float32)
        return self.obs

    def step(self, action):
        miss = float(np.asarray(action)[0]) - float(self.obs @ np.array(SLOPE))
        self.steps += 1
        return self._observe(), -miss * miss, self.steps >= 10, False, {}


class MovedEnv(LinearEnv):
    """LinearEnv in which the action moves what is seen next."""

    def step(self, action):
        _, *rest = super().step(action)
        self.obs[0] += np.asarray(action)[0]
        return (self.obs, *rest)


class PairEnv(LinearEnv):
    """Two choices: whether the first number is positive, and in which of three ranges the second lies. Each right one
    pays a half.
    """

    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def step(self, action):
        right = (self.obs[0] > 0, np.digitize(self.obs[1], (-0.5, 0.5)))
        self.steps += 1
        return (
            self._observe(),
            float(np.mean([a == b for a, b in zip(action, right, strict=True)])),
            self.steps >= 10,
            False,
            {},
        )


class MeasuredEnv(SignEnv):
    """SignEnv that says in its info what a claim may be about. Ten steps an episode; an episode is "positive" where its
    first number is, and of one of 70 patients.
    """

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        self.positive, self.patient = bool(obs[0] > 0), int(1e6 * abs(obs[0])) % 70
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        info = {"wrong": reward <= 0, "step": self.steps, "cost": float(self.steps), "word": "none", "bad": np.nan}
        info |= {"patient": self.patient, "chosen": int(action), "one": 1}
        if self.positive:
            info["found"] = np.bool_(action == 1)
        if self.steps == 3:
            info["third"] = np.float32(7.0)
        return obs, reward, terminated, truncated, info


for env in (LinearEnv, MovedEnv, PairEnv, MeasuredEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)

LINEAR, MOVED, PAIR, MEASURED = (f"distilrl/{name}Env-v0" for name in ("Linear", "Moved", "Pair", "Measured"))


def linear_teacher() -> Teacher:
    return Teacher.from_callable(lambda obs: obs @ torch.tensor([SLOPE]).T, kind="mean", name="linear")


def pair_teacher() -> Teacher:
    def values(obs):
        x, y = obs[:, :1], obs[:, 1:]
        return torch.cat([-x, x, -y - 0.5, torch.zeros_like(y), y - 0.5], dim=1)

    return Teacher.from_callable(values, kind="q", name="pair")


def tiny_config(env: str = SIGN, *terms, **changes) -> TrainConfig:
    """Settings of a run of a second or two."""
    config = TrainConfig(tasks=(TaskFile(EnvRef(env)),))
    settings = {
        "env_steps": 1600, "learning_starts": 160, "check_every": 400, "check_episodes": 5, "final_episodes": 5,
        "batch_size": 64, "network": "mlp:8", "threads": 1,
        "average": 0.9, "stakes_exponent": 0.5,
    }  # fmt: skip
    return config.but(**(settings | ({"terms": terms} if terms else {}) | changes))


def tiny_job(env: str = SIGN, *terms, **changes) -> Job:
    return Job(tiny_config(env, *terms, **changes), Comparison(200, 200, 0, margin=0.1))

"""What several tests share: small environments with known answers, and the real teachers where they are at hand."""

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from distilrl.networks import Network, build
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
TEACHERS = Path(os.environ.get("DISTILRL_TEACHERS", ROOT.parent / "shared" / "teachers"))


def real_teacher(name: str) -> Path:
    """Path of a real teacher file; skips the test where it is absent."""
    path = TEACHERS / name
    if not path.exists():
        pytest.skip(f"{name} is not here: set DISTILRL_TEACHERS to a folder that holds it")
    return path


class SignEnv(gymnasium.Env):
    """Two numbers; action 1 pays 1 if the first is positive, action 0 if not. Ten steps an episode, 10 the best return."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 2).astype(np.float32) * np.array([1.0, 5.0], np.float32) + np.array([0.0, 3.0], np.float32)
        return self.obs

    def step(self, action):
        reward = float((self.obs[0] > 0) == bool(action))
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


class ForgetfulEnv(SignEnv):
    """Ignores its seed: no run in it can be resumed to the same result."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)


class ContinuousEnv(SignEnv):
    """Actions that are not discrete."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


for env in (SignEnv, ForgetfulEnv, ContinuousEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)

SIGN = "distilrl/SignEnv-v0"


def sign_network(sign: float = 1.0) -> Network:
    """The known answer of SignEnv: Q(s, 1) − Q(s, 0) has the sign of the first number."""
    network = Network(NetworkSpec((2,), 2, hidden=(4,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 0] = 1.0
        network.layers[0].weight[1, 0] = -1.0
        network.layers[2].weight[1, 0] = sign
        network.layers[2].weight[0, 1] = sign
    return network


def make_teacher(network: Network) -> Teacher:
    return Teacher(network, "q", "test", "memory", "0" * 64)


@pytest.fixture
def sign_teacher() -> Teacher:
    return make_teacher(sign_network())


@pytest.fixture
def random_network() -> Network:
    return build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))

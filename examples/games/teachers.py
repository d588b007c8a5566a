r"""Teachers of MinAtar's games by stable-baselines3's PPO, written as distilrl reads them.

    python -m examples.games.teachers Breakout --steps 1000000 --out runs/breakout-teacher

The network is that of Young & Tian 2019: 16 filters of 3x3 and 128 units. Its own file of stable-baselines3 holds a
class of ours, which distilrl would not execute; the weights are the same.
"""

import argparse
import time
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from distilrl.checkpoints import save_network
from distilrl.envs import describe_env
from distilrl.heads import head_for
from distilrl.networks import build
from distilrl.specs import NetworkSpec

FILTERS, UNITS = 16, 128


class Cells(BaseFeaturesExtractor):
    """A convolution of images (B, H, W, C) with their channels last, and a dense layer."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, UNITS)
        height, width, channels = space.shape
        self.conv = nn.Conv2d(channels, FILTERS, 3)
        self.dense = nn.Linear(FILTERS * (height - 2) * (width - 2), UNITS)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, H, W, C) to (B, UNITS)."""
        seen = torch.relu(self.conv(obs.permute(0, 3, 1, 2)))
        return torch.relu(self.dense(seen.flatten(1)))


def train(env_id: str, steps: int, seed: int) -> Any:
    """The trained PPO, at settings usual for many short environments."""
    envs = make_vec_env(env_id, n_envs=32, seed=seed)
    model = PPO(
        "MlpPolicy", envs, seed=seed, n_steps=128, batch_size=512, n_epochs=4,
        learning_rate=lambda left: 1e-3 * left, gamma=0.99, gae_lambda=0.95, clip_range=0.2, ent_coef=0.01,
        policy_kwargs={"features_extractor_class": Cells, "net_arch": []}, device="cpu",
    )  # fmt: skip
    return model.learn(steps)


def save(model: Any, env_id: str, out: str, **told: Any) -> None:
    """Writes what acts of the model."""
    info = describe_env(env_id)
    head = head_for(info.action, "logits")
    network = build(NetworkSpec.of(f"cnn:{FILTERS}k3s1:{UNITS}", info.obs, head.width))
    own = [layer for layer in network.layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    theirs = [model.policy.features_extractor.conv, model.policy.features_extractor.dense, model.policy.action_net]
    for layer, other in zip(own, theirs, strict=True):
        layer.load_state_dict(other.state_dict())
    save_network(out, network, head, name="teacher", env=info.id, environment=info.ref.to_json(), **told)


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description="A teacher of a game of MinAtar by PPO.")
    parser.add_argument("game")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    env_id = f"examples.games:games/{given.game}-v0"
    began = time.perf_counter()
    model = train(env_id, given.steps, given.seed)
    save(model, env_id, given.out, recipe="ppo of stable-baselines3", steps=given.steps, seed=given.seed)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes; judge it: distilrl evaluate {given.out} --env {env_id}")


if __name__ == "__main__":
    main()

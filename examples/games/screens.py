r"""Teachers of games that are seen as pixels, by stable-baselines3's PPO on distilrl's own environments and network.

    python -m examples.games.screens CrazyClimberNoFrameskip-v4 --steps 600000 --out runs/crazyclimber-ppo

What it learns is the network that distilrl reads, convolutions as small as a file below a megabyte asks for.
"""

import argparse
import time
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch import Tensor, nn

from distilrl import EnvRef, NetworkSpec, describe_env, make_vec_env
from distilrl.checkpoints import save_network
from distilrl.envs import EnvInfo
from distilrl.heads import head_for
from distilrl.networks import Network, build

NETWORK = "cnn:16k8s4,32k4s2,32k3s1:128"


class Screens(VecEnv):
    """distilrl's environments as stable-baselines3 steps them: ALE's rewards are clipped to their sign, and a lost life
    ends an episode.
    """

    def __init__(self, info: EnvInfo, actions: int, count: int, seed: int) -> None:
        self.envs = make_vec_env(info.ref, count, for_learning=info.atari)
        self.seeds = np.arange(seed, seed + count)
        screen = gymnasium.spaces.Box(0, 255, info.obs.shape, np.uint8)
        super().__init__(count, screen, gymnasium.spaces.Discrete(actions))

    def reset(self) -> Any:
        return self.envs.reset(self.seeds)

    def step_async(self, actions: Any) -> None:
        self.envs.send(actions[:, None])

    def step_wait(self) -> Any:
        step = self.envs.recv()
        return step.obs, step.reward, step.terminated | step.truncated, [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, *_: Any, **__: Any) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, *_: Any, **__: Any) -> list[bool]:
        return [False] * self.num_envs


class Trunk(BaseFeaturesExtractor):
    """All of a distilrl network but its head, which PPO's own takes the place of."""

    def __init__(self, space: gymnasium.spaces.Box, network: Network) -> None:
        super().__init__(space, cast("nn.Linear", network.layers[-1]).in_features)
        # PPO begins with orthogonal weights, and PyTorch makes none that lie channels last
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.layers[-1] = nn.Identity()
        network.standardise(torch.zeros(1), torch.tensor([1 / 255]))
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """(B, C, H, W) to (B, U)."""
        features: Tensor = self.network(obs)
        return features


def train(ref: EnvRef, spec: str, steps: int, seed: int) -> PPO:
    """The trained PPO, at settings usual for ALE but for its rates, which are those of a small network."""
    info = describe_env(ref)
    network = build(NetworkSpec.of(spec, info.obs, head_for(info.action, "logits").width))
    envs = VecNormalize(VecMonitor(Screens(info, network.spec.outputs, 8, seed)), norm_obs=False, gamma=0.99)
    model = PPO(
        "CnnPolicy", envs, seed=seed, n_steps=128, batch_size=256, n_epochs=4, gamma=0.99, gae_lambda=0.95,
        learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * max(left, 0.1), ent_coef=0.01,
        vf_coef=0.5,
        policy_kwargs={
            "features_extractor_class": Trunk, "features_extractor_kwargs": {"network": network},
            "net_arch": [], "normalize_images": False,
        }, verbose=1, device="cpu",
    )  # fmt: skip
    model.learn(steps, log_interval=20)
    envs.close()
    return model


def acting(model: PPO) -> Network:
    """The network that chooses the model's actions."""
    trunk = cast("Trunk", model.policy.features_extractor)
    trunk.network.layers[-1] = model.policy.action_net
    return trunk.network


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description="A teacher of a game seen as pixels by PPO.")
    parser.add_argument("env")
    parser.add_argument("--resize", type=int, nargs=2, help="height and width; not for ALE")
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    ref = EnvRef(given.env, resize=tuple(given.resize) if given.resize else None)
    network = acting(train(ref, given.network, given.steps, given.seed))
    head = head_for(describe_env(ref).action, "logits")
    told = {"recipe": "ppo of stable-baselines3", "steps": given.steps, "seed": given.seed}
    save_network(given.out, network, head, name="teacher", env=ref.label, environment=ref.to_json(), **told)
    resized = f" --resize {given.resize[0]} {given.resize[1]}" if given.resize else ""
    how = f"distilrl evaluate {given.out} --env {given.env}{resized}"
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes; judge it: {how}")


if __name__ == "__main__":
    main()

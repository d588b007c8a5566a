"""What rl-zoo3 trains DQN and QR-DQN with: environment → steps, and settings of the libraries' classes.

stable-baselines3's and sb3-contrib's, of hyperparams/dqn.yml and qrdqn.yml; LunarLander's are those of v2.
"""

from typing import Any

_CARTPOLE = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}  # fmt: skip
_ACROBOT = {
    "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0, "gamma": 0.99,
    "target_update_interval": 250, "train_freq": 4, "gradient_steps": -1, "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
}  # fmt: skip


def _network(**more: int) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [256, 256], **more}}


DQN: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, _CARTPOLE | _network()),
    "Acrobot-v1": (100_000, _ACROBOT | _network()),
    "MountainCar-v0": (120_000, {
        "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1000, "gamma": 0.98,
        "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8, "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07, **_network()}),
    "LunarLander-v3": (100_000, _ACROBOT | _network()),
}  # fmt: skip
QRDQN: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, _CARTPOLE | _network(n_quantiles=10)),
    "Acrobot-v1": (100_000, _ACROBOT | _network(n_quantiles=25)),
    "LunarLander-v3": (100_000, {
        "learning_rate": lambda left: 1.5e-3 * left, "batch_size": 128, "buffer_size": 100_000,
        "learning_starts": 10_000, "gamma": 0.995, "target_update_interval": 1, "train_freq": 256,
        "gradient_steps": -1, "exploration_fraction": 0.24, "exploration_final_eps": 0.18,
        **_network(n_quantiles=170)}),
}  # fmt: skip

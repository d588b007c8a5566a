"""What rl-zoo3 trains stable-baselines3's DQN and sb3-contrib's QR-DQN with (hyperparams/dqn.yml, qrdqn.yml): steps and settings."""

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
DQN: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, _CARTPOLE),
    "Acrobot-v1": (100_000, _ACROBOT),
    "MountainCar-v0": (120_000, {
        "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1000, "gamma": 0.98,
        "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8, "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07}),
    "LunarLander-v3": (100_000, _ACROBOT),
}  # fmt: skip
"""Network 256-256 in each; LunarLander's are those of v2."""
QRDQN: dict[str, tuple[int, int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, 10, _CARTPOLE),
    "Acrobot-v1": (100_000, 25, _ACROBOT),
    "LunarLander-v3": (100_000, 170, {
        "learning_rate": lambda left: 1.5e-3 * left, "batch_size": 128, "buffer_size": 100_000,
        "learning_starts": 10_000, "gamma": 0.995, "target_update_interval": 1, "train_freq": 256,
        "gradient_steps": -1, "exploration_fraction": 0.24, "exploration_final_eps": 0.18}),
}  # fmt: skip
"""The same with the number of quantiles."""

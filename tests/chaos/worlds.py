"""Environments drawn by number, of every kind of observation and action; a module that processes can import."""

import random
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


def _vector(rng: random.Random, numbers: int, dtype: Any = np.float32) -> spaces.Box:
    """Numbers of any size, with bounds or without."""
    scale = 10.0 ** rng.randint(-3, 4)
    if rng.random() < 0.5:
        return spaces.Box(-np.inf, np.inf, (numbers,), dtype)
    return spaces.Box(dtype(-3 * scale), dtype(3 * scale), (numbers,), dtype)


def _picture(rng: random.Random) -> spaces.Box:
    """A small picture of bytes or of numbers, channels last, first, or none."""
    side, channels = rng.choice((8, 12, 17)), rng.choice((1, 3, 4))
    shape = rng.choice(((side, side, channels), (channels, side, side + 3), (side, side + 1)))
    if rng.random() < 0.7:
        return spaces.Box(0, rng.choice((1, 255)), shape, np.uint8)
    return spaces.Box(0.0, 1.0, shape, np.float32)


def _seen(rng: random.Random) -> spaces.Space[Any]:
    """What a world shows."""
    kind = rng.choices(("vector", "picture", "dict", "odd"), (5, 2, 2, 2))[0]
    if kind == "vector":
        return _vector(rng, rng.randint(1, 6), rng.choice((np.float32, np.float32, np.float64)))
    if kind == "picture":
        return _picture(rng)
    if kind == "dict":
        parts: dict[str, spaces.Space[Any]] = {"pose": _vector(rng, 3), "mode": spaces.Discrete(3)}
        if rng.random() < 0.4:
            parts["camera"] = _picture(rng)
        return spaces.Dict(parts)
    return rng.choice((
        spaces.Discrete(5, start=rng.choice((0, -2))), spaces.MultiBinary(4), spaces.MultiDiscrete([3, 2]),
        spaces.Box(-1, 1, (2, 3), np.float32), spaces.Tuple((spaces.Discrete(2), _vector(rng, 2))),
        spaces.Box(0, 9, (3,), np.int64),
    ))  # fmt: skip


def _done(rng: random.Random) -> spaces.Space[Any]:
    """What a world takes."""
    kind = rng.choice(("choice", "choice", "choices", "bits", "real", "real"))
    if kind == "choice":
        return spaces.Discrete(rng.randint(2, 6), start=rng.choice((0, 0, 0, 1, -1)))
    if kind == "choices":
        return spaces.MultiDiscrete([rng.randint(2, 4) for _ in range(rng.randint(1, 3))])
    if kind == "bits":
        return spaces.MultiBinary(rng.randint(1, 3))
    low = [rng.choice((-1.0, -2.0, 0.0, -1e-3, -500.0)) for _ in range(rng.randint(1, 3))]
    high = [one + rng.choice((2.0, 1.0, 1e-2, 1000.0)) for one in low]
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


class WorldEnv(gymnasium.Env[Any, Any]):
    """A world drawn from its number: four numbers wander, what is shown depends on them, and what pays on them too."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: int = 0, render_mode: str | None = None) -> None:
        rng = random.Random(world)
        self.observation_space, self.action_space = _seen(rng), _done(rng)
        self.steps, self.ends = rng.randint(3, 30), rng.choice((0.0, 0.0, 0.1))
        self.pays = 10.0 ** rng.randint(-2, 3)
        self.weights = np.random.default_rng(world).normal(0, 1, (64, 4))
        apart = random.Random(world + 1)
        self.scale, self.offset = 10.0 ** apart.randint(-2, 3), apart.choice((0.0, 0.0, 1.0, 1e4))

    def _shown(self, space: spaces.Space[Any], at: int) -> Any:
        if isinstance(space, spaces.Dict):
            return {name: self._shown(part, at + 7 * place) for place, (name, part) in enumerate(space.items())}
        if isinstance(space, spaces.Tuple):
            return tuple(self._shown(part, at + 7 * place) for place, part in enumerate(space))
        told = float(self.weights[at] @ self.state)
        if isinstance(space, spaces.Discrete):
            return int(space.start + int(abs(3 * told)) % space.n)
        if isinstance(space, spaces.MultiBinary):
            return (self.weights[: space.shape[0]] @ self.state > 0).astype(np.int8)
        if isinstance(space, spaces.MultiDiscrete):
            return (np.abs(3 * self.weights[: len(space.nvec)] @ self.state).astype(int) % space.nvec).astype(np.int64)
        assert isinstance(space, spaces.Box)
        return self._box(space, told)

    def _box(self, space: spaces.Box, told: float) -> Any:
        if (len(space.shape) >= 2 and min(space.shape) > 3) or len(space.shape) == 3:
            bright = np.zeros(space.shape)
            bright[: space.shape[0] // 2, : space.shape[1] // 2] = 1 / (1 + np.exp(-told))
            bright += self.np_random.uniform(0, 0.2, space.shape)
            return (np.clip(bright, 0, 1) * float(space.high.flat[0])).round(3).astype(space.dtype)
        numbers = np.resize(self.weights[:8] @ self.state, space.shape) * self.scale + self.offset
        return np.clip(numbers, space.low, space.high).astype(space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.at = self.np_random.normal(0, 1, 4), 0
        self.group = int(self.np_random.integers(60))
        return self._shown(self.observation_space, 0), {"group": self.group, "far": 0.0}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        wants = np.tanh(self.weights[20:23] @ self.state)
        space = self.action_space
        if isinstance(space, spaces.Box):
            share = (np.asarray(action, np.float64) - space.low) / (space.high.astype(np.float64) - space.low)
            reward = 1 - float(np.mean((2 * share - 1 - wants[: len(share)]) ** 2))
        else:
            sizes = {
                spaces.Discrete: lambda: [space.n],
                spaces.MultiDiscrete: lambda: space.nvec,
                spaces.MultiBinary: lambda: [2] * space.n,
            }[type(space)]()
            chosen = np.atleast_1d(action) - getattr(space, "start", 0)
            right = [int((want + 1) / 2 * size * 0.999) for want, size in zip(wants, sizes, strict=False)]
            reward = float(np.mean([a == b for a, b in zip(chosen, right, strict=True)]))
        self.state = 0.9 * self.state + 0.45 * self.np_random.normal(0, 1, 4)
        self.at += 1
        over = bool(self.np_random.random() < self.ends)
        info = {"group": self.group, "far": float(abs(self.state[0]))}
        return self._shown(self.observation_space, 0), self.pays * reward, over, self.at >= self.steps, info


NAME = "distilrl/WorldEnv-v0"
WORLD = f"worlds:{NAME}"
if NAME not in gymnasium.registry:
    gymnasium.register(NAME, entry_point=WorldEnv)

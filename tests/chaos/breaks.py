"""An environment that breaks; in a module of its own, so that a worker process imports little else."""

import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import SignEnv

FAULT = "DISTILRL_CHAOS_FAULT"
"""``what:episodes``: what the environment does from its how manieth episode on."""


class BreaksEnv(SignEnv):
    """Sound, until it has played so many episodes; then it raises, hangs, dies, or gives what is no number."""

    played = 0

    def reset(self, *, seed=None, options=None):
        self.played += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        what, _, episodes = os.environ.get(FAULT, "").partition(":")
        if what and self.played > int(episodes) and self.steps == 4:
            if what == "raise":
                raise ValueError("broken\nand a second line")
            if what == "exit":
                raise SystemExit(0)
            if what == "die":
                os._exit(9)
            if what == "hang":
                time.sleep(3600)
            if what == "nan":
                obs = obs * np.float32("nan")
            if what == "shape":
                obs = np.zeros(5, np.float32)
            if what == "reward":
                reward = float("nan")
        return obs, reward, *rest

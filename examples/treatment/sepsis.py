"""ICU-Sepsis as a policy of 47 numbers sees it, its exact optimum, and the rules beside which policies stand."""

import contextlib
import copy
import functools
import io
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

with contextlib.redirect_stderr(io.StringIO()):  # it imports the old gym too, which asks to be replaced
    from icu_sepsis.envs import sepsis
    from icu_sepsis.utils.io import MDPParameters

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Untried = Literal["mean", "terminate"]
"""What follows a treatment that clinicians hardly ever gave in a state, so that nothing is known of it: what follows
those that they gave, in the mean, or death."""
LIVING = 713
"""States of patients under treatment; the three behind them are ends."""
TREATMENTS = 25
"""Five doses of fluids by five of vasopressors: 5 f + v. 0 is neither."""


@functools.cache
def model() -> Any:
    """The estimated dynamics, 205 MB; each of the package's environments would load them anew."""
    return MDPParameters(Path(sepsis.__file__).parent / "assets")


@functools.cache
def _package_env(untried: Untried) -> Any:
    """The package's own environment, of which copies take no time and no memory."""
    return sepsis.ICUSepsisEnv(params=model(), inadmissible_action_strategy=untried)


MEASUREMENTS = (
    "gender", "mechvent", "max_dose_vaso", "re_admission", "age", "Weight_kg", "GCS", "HR", "SysBP", "MeanBP", "DiaBP",
    "RR", "Temp_C", "FiO2_1", "Potassium", "Sodium", "Chloride", "Glucose", "Magnesium", "Calcium", "Hb", "WBC_count",
    "Platelets_count", "PTT", "PT", "Arterial_pH", "paO2", "paCO2", "Arterial_BE", "HCO3", "Arterial_lactate", "SOFA",
    "SIRS", "Shock_Index", "PaO2_FiO2", "cumulated_balance", "SpO2", "BUN", "Creatinine", "SGOT", "SGPT", "Total_bili",
    "INR", "input_total", "input_4hourly", "output_total", "output_4hourly",
)  # fmt: skip
"""Columns of the states' means, which the package does not name, in the order of the script of its authors that made
them (create_rl_table.py in their repository). The last eleven are logarithms.
"""


class Sepsis(gymnasium.Env[Any, np.int64]):
    """A patient with sepsis, whose treatment is chosen anew every four hours.

    The observation is what is known of the state: the means of 47 `MEASUREMENTS`, each standardised (vital signs,
    laboratory values, fluids, ventilation), by name. The reward is 1 at survival, so that the mean return is the share
    that survives. ``info["untried"]`` is 1 where the last treatment is one of which nothing is known.
    """

    def __init__(self, untried: Untried = "mean") -> None:
        """Makes the environment.

        Args:
            untried: what follows treatments of which nothing is known.
        """
        self.inner = copy.copy(_package_env(untried))
        number = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Dict([(name, number) for name in MEASUREMENTS])  # a dict would be sorted
        self.action_space = spaces.Discrete(TREATMENTS)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The next patient."""
        super().reset(seed=seed)
        self.inner.np_random = self.np_random
        _, self._info = self.inner.reset()
        return self._seen(), {}

    def get_action_meanings(self) -> list[str]:
        """What each treatment is, for reports and trees."""
        return [f"fluids {code // 5}, vasopressors {code % 5}" for code in range(TREATMENTS)]

    def step(self, action: np.int64) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Four hours."""
        untried = int(action) not in self._info["admissible_actions"]
        _, reward, ended, _, self._info = self.inner.step(divmod(int(action), 5))
        return self._seen(), float(reward), ended, False, {"untried": float(untried)}

    def _seen(self) -> dict[str, Array]:
        seen: Array = self._info["state_vector"].astype(np.float32)
        return dict(zip(MEASUREMENTS, seen[:, None], strict=True))


def known() -> NDArray[np.bool_]:
    """(713, 25) whether clinicians gave a treatment in a state often enough."""
    there = np.zeros((LIVING, TREATMENTS), np.bool_)
    for state, actions in enumerate(model().admissible_actions[:LIVING]):
        there[state, actions] = True
    return there


def transitions(untried: Untried) -> Floats:
    """(716, 25, 716) probabilities of the next state."""
    chances: Floats = model().tx_mat
    if untried == "mean":
        return chances
    chances = chances.copy()
    chances[:LIVING][~known()] = np.eye(len(chances))[LIVING]
    return chances


def survival(policy: Floats, untried: Untried = "mean") -> float:
    """The exact share that survives under a policy (713, 25), probabilities of treatments in each state."""
    chances = np.einsum("sa,sat->st", policy, transitions(untried)[:LIVING])
    values = np.linalg.solve(np.eye(LIVING) - chances[:, :LIVING], chances[:, LIVING + 1])
    return float(model().d_0[:LIVING] @ values)


def optimum(untried: Untried) -> Floats:
    """(713, 25) the chance of survival after each treatment, if all that follow are the best: value iteration."""
    chances = transitions(untried)[:LIVING]
    values = np.zeros(len(model().d_0))
    values[LIVING + 1] = 1.0
    while True:
        after: Floats = chances @ values
        if np.abs(after.max(1) - values[:LIVING]).max() < 1e-10:
            return after
        values[:LIVING] = after.max(1)


def states() -> Array:
    """(713, 47) what is seen in each state."""
    seen: Array = model().state_cluster_centers[:LIVING].astype(np.float32)
    return seen


def clinicians(obs: Array, rng: np.random.Generator) -> int:
    """What clinicians did in a state (47,), drawn as often as they did it."""
    state = int(np.abs(states() - obs).sum(1).argmin())
    return int(rng.choice(TREATMENTS, p=model().expert_policy[state]))

"""One task of a run: its environments, its teacher, its replay, who acts there, and what is measured of the student in it."""

import copy
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl import stats
from distilrl.collect import Collected, Collector
from distilrl.config import TrainConfig
from distilrl.envs import make_vec_env
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import SELECT_SEEDS, Episodes, Play, Tick, play, seeds_from, weighted_agreement
from distilrl.features import start_from
from distilrl.learner import Learner
from distilrl.networks import Network
from distilrl.objective import Progress, entropy_share, find_temperature, settle
from distilrl.replay import Replay, ReplaySpec
from distilrl.specs import NetworkSpec, between
from distilrl.teachers import Teacher

PRUNE_AT = (0.2, 0.35, 0.5)
"""Shares of the budget at which a student that is pruned gets narrower."""
DRIFT_STATES = 512
"""States of either sample whose distance is the drift."""
BANDS = {"agreement": 0.02, "entropy": 0.02, "drift": 0.05}
"""A measurement takes the place of the one in force where it differs by more than this."""


class Task:
    """One environment and its teacher within a run; a plain run has one task."""

    def __init__(self, config: TrainConfig, number: int, env_id: str, teacher: Teacher | None, acceptance: dict[str, Any] | None) -> None:
        """Makes the environments and checks that the teacher fits them."""
        self.config, self.number, self.env_id, self.teacher, self.acceptance = config, number, env_id, teacher, acceptance
        self.envs = make_vec_env(env_id, config.n_envs, threads=config.threads, for_learning=config.for_learning)
        info = self.envs.info
        self.spec = NetworkSpec.parse(config.student, info.obs_shape, info.n_actions)
        self.wide = NetworkSpec.parse(config.prune_from, info.obs_shape, info.n_actions) if config.prune_from is not None else self.spec
        between(self.wide, self.spec, 0.0)
        if config.obs_noise and (info.pixels or len(config.obs_noise) != info.obs_shape[0]):
            raise SpecError(
                f"'obs_noise' needs one standard deviation per feature of a vector observation, and {env_id} has {info.obs_shape}."
            )
        if any(not 0 <= index < info.obs_shape[0] for index in config.hidden_features) or (info.pixels and config.hidden_features):
            raise SpecError(f"'hidden_features' are numbers of features of a vector observation, and {env_id} has {info.obs_shape}.")
        if teacher is not None:
            teacher.check_fits(info)
            teacher.network.to(config.device)
        labelled = teacher is not None and config.needs_teacher
        spec = ReplaySpec(
            capacity=config.capacity,
            n_envs=config.n_envs,
            obs_shape=info.obs_shape,
            n_actions=info.n_actions,
            pixels=info.pixels,
            labelled=labelled,
            n_step=config.n_step,
            gap_exponent=config.gap_exponent,
            by_error=config.priority_exponent > 0,
        )
        self.replay = Replay(spec, torch.device(config.device))
        self.initial: Network | None = None
        self.best: dict[str, Tensor] = {}
        self.actions: list[NDArray[np.int64]] = []
        self.labelled: list[bool] = []
        self.recorded = np.zeros((0, config.n_envs), np.int64)
        self.recorded_labels = np.zeros(0, np.bool_)
        self.measured: dict[str, float] = {"score": 0.0, "agreement": 0.0, "entropy": 1.0, "drift": 0.0}
        self.scores: list[float] = []
        """Scores at the last three checks, in the world as it is now."""
        self._expected_obs: int | None = None
        self._priorities: Tensor | None = None
        self._obs: Tensor | None = None
        self._steps: Iterator[Collected] | None = None

    def shape(self, stage: int) -> NetworkSpec:
        """The student's shape at a stage of pruning, the last of which leaves what is wanted."""
        return between(self.wide, self.spec, stage / len(PRUNE_AT)) if self.config.prune_from is not None else self.spec

    def attach(self, learner: Learner) -> None:
        """Lets the learner's student of this task act."""
        self.learner = learner

    def begin(self) -> None:
        """Makes the collector."""
        asks = self.teacher.action_values if self.teacher is not None and self.replay.spec.labelled else None
        rng = np.random.default_rng([self.config.seed, 1 + self.number])
        self.collector = Collector(
            self.envs, self.replay, self.config.behaviour, rng, self._seen_by_student, asks, self.teacher.path if self.teacher else ""
        )

    def _seen_by_student(self, obs: Tensor) -> Tensor:
        """The acting student's values (N, A); where the task says so, of noisy observations."""
        if self.config.obs_noise:
            noise = self.collector.rng.normal(0, self.config.obs_noise, tuple(obs.shape)).astype(np.float32)
            obs = obs + torch.from_numpy(noise).to(obs.device)
        values: Tensor = self.learner.students[self.number](obs)
        return values

    @property
    def env_steps(self) -> int:
        """Steps of one environment, summed over all of the task."""
        return len(self.actions) * self.config.n_envs

    def progress(self, fraction: float) -> Progress:
        """How far this task has come, ``fraction`` of the budget being used."""
        return Progress(fraction, **self.measured)

    def collect(self, progress: Progress) -> None:
        """The next vector step; a recorded one is played again without learning from it."""
        if self._steps is None:
            seeds = self.config.seed * 10_000 + self.number * 1_000 + np.arange(self.config.n_envs)
            self._steps = self.collector.steps(seeds, self.recorded, self.recorded_labels)
        self.collector.progress = progress
        step = next(self._steps)
        self.actions.append(step.actions)
        self.labelled.append(step.labelled)
        self._obs = step.obs
        if step.replayed and len(self.actions) == len(self.recorded):
            self._verify(step)

    def _verify(self, step: Collected) -> None:
        """After the last recorded step, what is seen must be what the earlier run saw."""
        if _checksum(step.obs) != self._expected_obs:
            raise ResumeError(
                f"{self.env_id} did not answer its recorded actions as before (another version, or an environment that "
                "is not deterministic under its seed), so the run cannot continue to the same result: start it again."
            )
        if self._priorities is not None:
            self.replay.priorities = self._priorities

    def look_at_first_states(self) -> None:
        """Input statistics, temperature and the student's start, from the states collected before the first update."""
        config, learner, info = self.config, self.learner, self.envs.info
        mean, scale = torch.zeros_like(learner.students[self.number].obs_mean), torch.ones_like(learner.students[self.number].obs_scale)
        if config.standardise == "states":
            mean, scale = self.replay.standardisation()
        elif config.standardise == "space":
            reach = torch.tensor(info.obs_reach or [255.0], device=mean.device)
            scale = 1 / reach.clamp(1e-6, 1.0 if info.obs_reach else 255.0)
        scale[list(config.hidden_features)] = 0.0
        learner.standardise(self.number, mean, scale)
        if self.replay.spec.labelled:
            learner.set_temperature(self.number, find_temperature(self.replay.teacher_values(), config.entropy_share))
            self.measured["entropy"] = config.entropy_share
        if self.replay.spec.labelled and learner.beside[self.number].maps is not None:
            learner.measure_features(self.number, self.replay.observations(self.replay.newest(64, labelled=True)[:DRIFT_STATES]))
        if self.initial is not None:
            learner.students[self.number].load_state_dict(self.initial.state_dict())
            learner.students[self.number].unfold()
            learner.adopt_student(self.number)
        if config.start != "new" and self.teacher is not None:
            factor = 1 / learner.temperatures[self.number] if config.terms[0].student_temperature is not None else 1.0
            start_from(learner.students[self.number], self.teacher.network, config.start, factor)
            learner.adopt_student(self.number)
        self.collector.student_may_act = True

    def check(self, tick: Tick) -> dict[str, Any]:
        """Return on selection seeds and what else is measured of the student here."""
        config = self.config
        longest = (self.acceptance or {}).get("longest_episode")
        how = Play(
            self.env_id,
            epsilon=config.eval_epsilon,
            threads=config.threads,
            max_steps=2 * longest if longest else None,
            keep_states=500,
            device=config.device,
            noise=config.obs_noise,
        )
        seeds = seeds_from(SELECT_SEEDS + config.seed * 1000, config.check_episodes)
        games = play(self.learner.averages[self.number], how, seeds, tick=tick)
        mean = stats.mean(games.returns)
        score = None
        if self.acceptance is not None:
            score = stats.score(mean, self.acceptance["return_mean"], self.acceptance["random_return_mean"])
        if score is not None:
            self.measured["score"] = max(self.measured["score"], score)
            self.scores = [*self.scores[-2:], score]
        return {"return": mean, "score": score, "agreement": self._measure(games)}

    def _measure(self, games: Episodes) -> float | None:
        """Agreement, entropy and drift, each with its hysteresis; returns the agreement as measured."""
        if self.teacher is None or not self.replay.spec.labelled:
            return None
        agreement = weighted_agreement(self.teacher.action_values, self.learner.averages[self.number], games.states, self.config.device)
        recent = self.replay.teacher_values()[-DRIFT_STATES:]
        now = {"agreement": agreement, "entropy": entropy_share(recent, self.learner.temperatures[self.number]), "drift": self.drift()}
        for name, value in now.items():
            self.measured[name] = settle(self.measured[name], value, BANDS[name])
        return agreement

    def drift(self) -> float:
        """Largest two-sample statistic between states visited last and labelled states of before, 0 to 1.

        Of each feature of a vector; of pixels, of the student's action values.
        """
        rows = max(DRIFT_STATES // self.config.n_envs, 1)
        visited, trained_on = self.replay.newest(rows, labelled=False), self.replay.newest(self.replay.rows, labelled=True)
        trained_on = trained_on[~torch.isin(trained_on, visited)]
        if len(trained_on) < DRIFT_STATES:
            return 0.0
        spread = torch.linspace(0, len(trained_on) - 1, DRIFT_STATES, device=trained_on.device).long()
        samples = [self.replay.observations(index) for index in (visited, trained_on[spread])]
        if self.envs.info.pixels:
            with torch.no_grad():
                samples = [self.learner.averages[self.number](obs) for obs in samples]
        return max(stats.two_sample(a, b) for a, b in zip(*(s.cpu().numpy().T for s in samples), strict=True))

    def keep_best(self) -> None:
        """Remembers the averaged student as the best so far."""
        self.best = {k: v.clone() for k, v in self.learner.averages[self.number].state_dict().items()}

    def best_network(self) -> Network:
        """The best student as it ships: plain layers, raw observations."""
        learner = self.learner
        network = copy.deepcopy(learner.averages[self.number]).cpu()
        network.load_state_dict(self.best)
        network.fold()
        if self.config.scale_head:
            network.scale_head(learner.temperatures[self.number])
        return network.eval().requires_grad_(False)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the task."""
        tensors = {f"best.{k}": v.clone() for k, v in self.best.items()}
        tensors |= {"actions": torch.from_numpy(np.stack(self.actions).astype(np.uint8)), "labelled": torch.tensor(self.labelled)}
        if self.config.priority_exponent > 0:
            tensors["priorities"] = self.replay.priorities
        return tensors, {
            "rng": self.collector.rng.bit_generator.state,
            "collector": self.collector.state(),
            "teacher": self.teacher.digest if self.teacher is not None else None,
            "obs": _checksum(self._obs) if self._obs is not None else None,
            "measured": self.measured,
            "scores": self.scores,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        if state["teacher"] != (self.teacher.digest if self.teacher is not None else None):
            raise ResumeError("The run was started with another teacher (its digest differs): give it the same file.")
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.recorded = tensors["actions"].numpy().astype(np.int64)
        self.recorded_labels = tensors["labelled"].numpy()
        self.collector.rng.bit_generator.state = state["rng"]
        self.collector.load(state["collector"])
        self.collector.student_may_act = self.learner.updates > 0
        self.measured, self.scores = dict(state["measured"]), list(state["scores"])
        self._expected_obs, self._priorities = state["obs"], tensors.get("priorities")


def _checksum(obs: Tensor) -> int:
    return zlib.crc32(obs.cpu().numpy().tobytes())

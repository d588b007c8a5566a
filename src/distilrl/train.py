"""The only training loop: plain DQN, policy distillation and RL with a teacher are lists of terms on it.

Resuming: ALE cannot save its state, so a checkpoint holds the actions taken so far and a resumed run plays them again,
which restores environments and replay exactly; if what is then seen differs, the run says so and stops.
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl import stats
from distilrl.checkpoints import save_network
from distilrl.collect import Collected, Collector
from distilrl.config import TrainConfig
from distilrl.envs import VecEnv, make_vec_env
from distilrl.errors import ResumeError, SpecError
from distilrl.evaluate import SELECT_SEEDS, Play, Tell, play, seeds_from, ticker, weighted_agreement
from distilrl.learner import Learner
from distilrl.networks import Network, NetworkSpec
from distilrl.objective import Progress, find_temperature
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import Metrics, RunFolder
from distilrl.teachers import Teacher


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    network: Network
    """The best student by its own selection seeds, taking raw observations."""
    env_steps: int
    """Steps of one environment, summed over all."""
    updates: int
    """Gradient steps."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""
    temperature: float
    """Temperature of the teacher's values that was found (1 where none was)."""
    stopped: str
    """Why training ended."""
    history: list[dict[str, Any]]
    """One row per check."""


def train(
    config: TrainConfig,
    teacher: Teacher | None = None,
    *,
    acceptance: dict[str, Any] | None = None,
    folder: RunFolder | None = None,
    wandb: bool = False,
    tell: Tell | None = None,
) -> Trained:
    """Trains a student; continues from the folder's checkpoint if there is one.

    Args:
        config: all that decides the run.
        teacher: the frozen teacher; None for pure RL.
        acceptance: what `evaluate.accept` said of the teacher; the score and the stop rule need it.
        folder: where checkpoints, metrics and the best student go; None: nowhere.
        wandb: log to Weights & Biases too.
        tell: called as training goes on.

    Raises:
        ResumeError: the folder's checkpoint belongs to another teacher, or the environment does not replay.
    """
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.allow_tf32 = False  # action values lie close together: labels need float32
    envs = make_vec_env(config.env_id, config.n_envs, threads=config.threads, for_learning=config.for_learning)
    run = _Run(config, envs, teacher, acceptance, tell or silent)
    saved = folder.load_state() if folder is not None else None
    if saved is not None:
        run.load(*saved)
    metrics = _metrics(folder, len(run.track.history), wandb)
    with metrics as writer:
        while not run.track.stopped and (step := run.collect()):
            if step.replayed:
                continue
            # -- learn, while the environments work
            if run.env_steps >= config.learning_starts:
                run.learn()
            run.tell("step", run.numbers())
            # -- check, keep the best, stop or go on
            if run.env_steps % config.check_every < config.n_envs or run.env_steps >= config.env_steps:
                row = run.check()
                run.tell("check", row)
                if writer is not None:
                    writer.write(row)
                if folder is not None:
                    run.save(folder)
    envs.close()
    return run.trained()


def _metrics(folder: RunFolder | None, keep_rows: int, wandb: bool) -> AbstractContextManager[Metrics | None]:
    return Metrics(folder, keep_rows=keep_rows, wandb=wandb) if folder is not None else nullcontext()


@dataclass
class _Track:
    """What the checks remember; part of the checkpoint."""

    best_return: float = float("-inf")
    good_checks: int = 0
    train_s: float = 0.0
    stopped: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


class _Run:
    """The moving parts of one run, and how each phase of the loop moves them."""

    def __init__(self, config: TrainConfig, envs: VecEnv, teacher: Teacher | None, acceptance: dict[str, Any] | None, tell: Tell) -> None:
        if teacher is None and any(term.needs_teacher for term in config.terms):
            raise SpecError(f"The recipe '{config.recipe}' has terms that need a teacher: give it one.")
        self.config, self.teacher, self.acceptance, self.tell = config, teacher, acceptance, tell
        device, info = torch.device(config.device), envs.info
        self.generator = torch.Generator().manual_seed(config.seed)
        self.learner = Learner(
            replace(NetworkSpec.parse(config.student, info.obs_shape, info.n_actions), dueling=config.dueling),
            config.terms,
            learning_rate=config.learning_rate,
            average=config.average,
            device=device,
            generator=self.generator,
        )
        if teacher is not None:
            teacher.check_fits(info)
            teacher.network.to(device)
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
        self.replay = Replay(spec, device)
        self.collector = Collector(
            envs,
            self.replay,
            config.behaviour,
            np.random.default_rng([config.seed, 1]),
            self.learner.student,
            teacher.action_values if teacher is not None and labelled else None,
        )
        self.best = self._copy_of_average()
        self.track = _Track()
        self.actions: list[NDArray[np.int64]] = []
        self.recorded = np.zeros((0, config.n_envs), np.int64)
        self._expected_obs: int | None = None
        self._priorities: Tensor | None = None
        self._obs: Tensor | None = None
        self._steps: Iterator[Collected] | None = None
        self._losses: dict[str, list[Tensor]] = {}
        self._clock = time.perf_counter()

    @property
    def env_steps(self) -> int:
        return len(self.actions) * self.config.n_envs

    @property
    def progress(self) -> Progress:
        scores = [row["score"] for row in self.track.history if row["score"] is not None]
        return Progress(self.env_steps / self.config.env_steps, max(scores, default=0.0))

    def collect(self) -> Collected:
        """The next vector step; a recorded one is played again without learning from it."""
        if self._steps is None:
            self._steps = self.collector.steps(self.config.seed * 10_000 + np.arange(self.config.n_envs), self.recorded)
        self.collector.progress = self.progress
        step = next(self._steps)
        self.actions.append(step.actions)
        self._obs = step.obs
        if step.replayed:
            if self.env_steps == self.recorded.size:
                self._verify(step)
            self.tell("replay", {"done": self.env_steps, "total": self.recorded.size})
        return step

    def _verify(self, step: Collected) -> None:
        """After the last recorded step, what is seen must be what the earlier run saw."""
        if _checksum(step.obs) != self._expected_obs:
            raise ResumeError(
                f"{self.config.env_id} did not answer its recorded actions as before (another version, or an environment that "
                "is not deterministic under its seed), so the run cannot continue to the same result: start it again."
            )
        if self._priorities is not None:
            self.replay.priorities = self._priorities
        self._clock = time.perf_counter()

    def learn(self) -> None:
        """The updates that belong to one vector step."""
        config = self.config
        if self.learner.updates == 0:
            self._look_at_first_states()
        index = self.replay.draw(config.updates * config.batch_size, self.generator)
        weights = self.replay.importance_weights(index) if config.priority_exponent > 0 else None
        for number, part in enumerate(torch.split(index, config.batch_size)):
            batch = self.replay.batch(part, config.gamma)
            if weights is not None:
                batch = batch._replace(weight=weights[number * config.batch_size :][: len(part)])
            losses = self.learner.update(batch, self.progress, config.gamma**config.n_step, config.max_grad_norm)
            for name, value in losses.items():
                self._losses.setdefault(name, []).append(value)
            if weights is not None and self.learner.errors is not None:
                self.replay.set_priorities(part, self.learner.errors, config.priority_exponent)
            if self.learner.updates % config.target_every == 0:
                self.learner.refresh_target()

    def _look_at_first_states(self) -> None:
        """Input statistics and temperature, from the states collected before the first update."""
        if self.config.standardise == "states":
            mean, std = self.replay.statistics()
            self.learner.standardise(mean, 1 / std.clamp_min(1e-3 * max(float(std.max()), 1e-6)))
        elif self.config.standardise == "space":
            reach = torch.tensor(self.collector.envs.info.obs_reach or [255.0])
            self.learner.standardise(torch.zeros_like(reach), 1 / reach.clamp(1e-6, 1.0 if self.collector.envs.info.obs_reach else 255.0))
        if self.replay.spec.labelled:
            self.learner.temperature = find_temperature(self.replay.teacher_values(), self.config.entropy_share)
        self.collector.student_may_act = True

    def numbers(self) -> dict[str, Any]:
        """What a progress bar shows."""
        returns = self.collector.episode_returns[-20:]
        return {
            "env_steps": self.env_steps,
            "budget": self.config.env_steps,
            "updates": self.learner.updates,
            "training_return": stats.mean(returns) if returns else None,
        }

    def check(self) -> dict[str, Any]:
        """Return on selection seeds, best student, stop rule; one row of metrics."""
        config, track = self.config, self.track
        track.train_s += time.perf_counter() - self._clock
        longest = (self.acceptance or {}).get("longest_episode")
        how = Play(
            config.env_id,
            epsilon=config.eval_epsilon,
            threads=config.threads,
            max_steps=2 * longest if longest else None,
            keep_states=500,
            device=config.device,
        )
        seeds = seeds_from(SELECT_SEEDS + config.seed * 1000, config.check_episodes)
        games = play(self.learner.average, how, seeds, tick=ticker(self.tell))
        mean = stats.mean(games.returns)
        agreement = None
        if self.teacher is not None and self.replay.spec.labelled:
            agreement = weighted_agreement(self.teacher.action_values, self.learner.average, games.states, config.device)
        if mean >= track.best_return:
            track.best_return, self.best = mean, self._copy_of_average()
        score = None
        if self.acceptance is not None:
            score = stats.score(mean, self.acceptance["return_mean"], self.acceptance["random_return_mean"])
        losses = {f"loss/{t.loss}": _mean_of(self._losses.get(t.loss)) for t in config.terms}
        row = {
            "env_steps": self.env_steps,
            "updates": self.learner.updates,
            "train_s": track.train_s,
            "return": mean,
            "score": score,
            "agreement": agreement,
            "training_return": self.numbers()["training_return"],
            **losses,
        }
        self._losses = {}
        track.history.append(row)
        track.stopped = self._why_stop(mean, score, agreement)
        self._clock = time.perf_counter()
        return row

    def _why_stop(self, mean: float, score: float | None, agreement: float | None) -> str:
        """The stop rule; empty while training goes on."""
        config, track = self.config, self.track
        good = score is not None and score >= 1 - config.stop_gap and (agreement or 0.0) >= config.stop_agreement
        good = good or (config.stop_return is not None and mean >= config.stop_return)
        track.good_checks = track.good_checks + 1 if good else 0
        if track.good_checks >= config.patience:
            return f"good enough at {track.good_checks} checks in a row"
        return "budget used" if self.env_steps >= config.env_steps else ""

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint and the best student so far."""
        tensors, numbers = self.learner.state()
        actions = np.stack(self.actions)
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {"actions": torch.from_numpy(actions.astype(np.uint8)), "generator": self.generator.get_state()}
        if self.config.priority_exponent > 0:
            tensors["priorities"] = self.replay.priorities
        state = numbers | {
            "track": vars(self.track),
            "rng": self.collector.rng.bit_generator.state,
            "held": self.collector.held.tolist(),
            "teacher": self.teacher.digest if self.teacher is not None else None,
            "obs": _checksum(self._obs) if self._obs is not None else None,
        }
        folder.save_state(tensors, state)
        save_network(folder.student, self._best_network(), kind="q", env=self.config.env_id, recipe=self.config.recipe)

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads the checkpoint."""
        digest = self.teacher.digest if self.teacher is not None else None
        if state["teacher"] != digest:
            raise ResumeError("The run was started with another teacher (its digest differs): give it the same file.")
        self.learner.load_state(tensors, state)
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.recorded = tensors["actions"].numpy().astype(np.int64)
        self.generator.set_state(tensors["generator"])
        self.collector.rng.bit_generator.state = state["rng"]
        self.collector.held[:] = state["held"]
        self.collector.student_may_act = self.learner.updates > 0
        self.track = _Track(**state["track"])
        self._expected_obs, self._priorities = state["obs"], tensors.get("priorities")
        if self.track.stopped:
            self.actions = list(self.recorded)

    def _copy_of_average(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.learner.average.state_dict().items()}

    def _best_network(self) -> Network:
        network = Network(self.learner.student.spec)
        network.load_state_dict(self.best)
        network.standardise(self.learner.student.obs_mean.cpu(), self.learner.student.obs_scale.cpu())
        network.fold()
        if self.config.scale_head:
            network.scale_head(self.learner.temperature)
        return network.eval().requires_grad_(False)

    def trained(self) -> Trained:
        """What `train` returns."""
        track = self.track
        return Trained(
            self._best_network(),
            self.env_steps,
            self.learner.updates,
            track.train_s,
            self.learner.temperature,
            track.stopped,
            track.history,
        )


def silent(_event: str, _numbers: dict[str, Any]) -> None:
    """Tells nobody."""


def _checksum(obs: Tensor) -> int:
    return zlib.crc32(obs.cpu().numpy().tobytes())


def _mean_of(values: list[Tensor] | None) -> float | None:
    return float(torch.stack(values).mean()) if values else None

"""The only training loop: plain DQN, policy distillation and RL with a teacher are lists of terms on it; one task or several.

Resuming: ALE cannot save its state, so a checkpoint holds the actions taken so far and a resumed run plays them again,
which restores environments and replay exactly; if what is then seen differs, the run says so and stops.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distilrl import evolution, stats
from distilrl.checkpoints import save_network
from distilrl.config import TrainConfig
from distilrl.errors import NotFiniteError, ResumeError, SpecError
from distilrl.events import Check, Phase, Replaying, Step, Watch, silent
from distilrl.learner import Learner, Part, make_pupils
from distilrl.networks import Network
from distilrl.objective import columns
from distilrl.runs import Metrics, RunFolder
from distilrl.tasks import PRUNE_AT, Task
from distilrl.teachers import Teacher


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    networks: tuple[Network, ...]
    """The best students by their own selection seeds, one per task, taking raw observations."""
    env_steps: int
    """Steps of one environment, summed over all."""
    updates: int
    """Gradient steps."""
    train_s: float
    """Seconds of collecting and learning, checks not counted."""
    temperatures: tuple[float, ...]
    """Temperatures of the teachers' values that were found (1 where none was)."""
    stopped: str
    """Why training ended."""
    history: list[dict[str, Any]]
    """One row per check."""
    params: int
    """Parameters of all students together; what they share counts once."""
    labelled_states: int
    """States that a teacher labelled."""
    env_ids: tuple[str, ...]
    """Environment of each task."""

    def history_of(self, number: int) -> list[dict[str, Any]]:
        """One row per check, with the numbers of one task in the place of the first's."""
        env_id = self.env_ids[number]
        others = {f"{name}/{env}" for name in ("return", "score", "agreement") for env in self.env_ids}
        return [{name: row.get(f"{name}/{env_id}", value) for name, value in row.items() if name not in others} for row in self.history]

    @property
    def network(self) -> Network:
        """The student of the first task."""
        return self.networks[0]

    @property
    def temperature(self) -> float:
        """Temperature of the first task."""
        return self.temperatures[0]


def train(
    config: TrainConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    *,
    acceptance: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    folder: RunFolder | None = None,
    wandb: bool = False,
    tell: Tell | None = None,
    initial: Network | None = None,
) -> Trained:
    """Trains a student; continues from the folder's checkpoint if there is one.

    Args:
        config: all that decides the run.
        teacher: the frozen teacher, or one per task; None for pure RL.
        acceptance: what `evaluate.accept` said of the teacher, or of each; the score and the stop rule need it.
        folder: where checkpoints, metrics and the best student go; None: nowhere.
        wandb: log to Weights & Biases too.
        tell: called as training goes on.
        initial: a network of the student's shape to start from, as an earlier run gave it.

    Raises:
        ResumeError: the folder's checkpoint belongs to another teacher, or the environment does not replay.
    """
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.allow_tf32 = False  # action values lie close together: labels need float32
    run = _Run(config, _each(teacher, config, "teacher"), _each(acceptance, config, "acceptance"), tell or silent)
    run.tasks[0].initial = initial
    saved = folder.load_state() if folder is not None else None
    if saved is not None:
        run.load(*saved)
    metrics = _metrics(folder, len(run.track.history), wandb)
    with metrics as writer:
        while not run.track.stopped:
            tasks = run.collect()
            # -- learn, while the environments work
            if tasks and run.env_steps >= config.learning_starts:
                run.learn(tasks)
            run.tell("step", run.numbers())
            run.shrink()
            # -- check, keep the best, stop or go on
            if run.env_steps % config.check_every < run.stride or run.env_steps >= config.env_steps:
                row = run.check()
                run.tell("check", row)
                if writer is not None:
                    writer.write(row)
                if folder is not None:
                    run.save(folder)
    for task in run.tasks:
        task.envs.close()
    if run.learner.updates == 0:
        raise SpecError(
            f"Nothing was learnt in {run.env_steps} steps, because no transition could be drawn: let the teacher label a larger share of "
            f"the steps ('labels' of the behaviour), or lower 'n_step' ({config.n_step})."
        )
    return run.trained()


def _each(given: Any, config: TrainConfig, what: str) -> list[Any]:
    """One of it per task."""
    items = list(given) if isinstance(given, list | tuple) else [given] * (1 if given is not None else len(config.tasks))
    if len(items) != len(config.tasks):
        raise SpecError(f"There are {len(config.tasks)} tasks but {len(items)} of '{what}': give one for each.")
    return items


def _metrics(folder: RunFolder | None, keep_rows: int, wandb: bool) -> AbstractContextManager[Metrics | None]:
    return Metrics(folder, keep_rows=keep_rows, wandb=wandb) if folder is not None else nullcontext()


@dataclass
class _Track:
    """What the checks remember; part of the checkpoint."""

    best: float = float("-inf")
    good_checks: int = 0
    train_s: float = 0.0
    stopped: str = ""
    drifted: bool = False
    stage: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Run:
    """The moving parts of one run, and how each phase of the loop moves them."""

    def __init__(self, config: TrainConfig, teachers: list[Teacher | None], acceptances: list[dict[str, Any] | None], tell: Tell) -> None:
        if None in teachers and any(term.needs_teacher for term in config.terms):
            raise SpecError(f"The recipe '{config.recipe}' has terms that need a teacher: give it one.")
        self.config, self.tell, self.track = config, tell, _Track()
        self.generator = torch.Generator().manual_seed(config.seed)
        what = enumerate(zip(config.tasks, teachers, acceptances, strict=True))
        self.tasks = [Task(config, number, env_id, teacher, acceptance) for number, ((env_id, _), teacher, acceptance) in what]
        for task in self.tasks:
            task.begin()
        self.learner = self._learner()
        self.stride = config.n_envs * len(self.tasks)
        self._losses: dict[str, list[Tensor]] = {}
        self._clock = time.perf_counter()

    def _learner(self) -> Learner:
        """A learner of the students as wide as they are at this stage, and the tasks hand them over to it."""
        config = self.config
        learner = Learner(
            [replace(task.shape(self.track.stage), dueling=config.dueling) for task in self.tasks],
            config.terms,
            learning_rate=config.learning_rate,
            average=config.average,
            device=torch.device(config.device),
            generator=self.generator,
            teachers=[task.teacher.network if task.teacher is not None else None for task in self.tasks],
            reused_head=config.reused_head,
            share=config.share,
        )
        for task in self.tasks:
            task.attach(learner)
            task.keep_best()
        return learner

    def shrink(self) -> None:
        """Leaves out the weakest units once the budget has come to the next stage of pruning."""
        stage = sum(self.fraction >= share for share in PRUNE_AT) if self.config.prune_from is not None else 0
        if stage <= self.track.stage or self.learner.updates == 0:
            return
        wide = self.learner
        self.track.stage, self.track.best = stage, float("-inf")
        self.learner = self._learner()
        self.learner.continue_from(wide)
        self.tasks[0].keep_best()

    @property
    def env_steps(self) -> int:
        return sum(task.env_steps for task in self.tasks)

    @property
    def fraction(self) -> float:
        return self.env_steps / self.config.env_steps

    def collect(self) -> list[Task]:
        """One vector step per task; returns those in which there is something to learn. Recorded steps are played again first.

        What the first updates need of each task (statistics, temperature) must be there for all of them.
        """
        for task in self.tasks:
            while len(task.actions) < len(task.recorded):
                task.collect(task.progress(self.fraction))
                self.tell("replay", {"done": self.env_steps, "total": sum(task.recorded.size for task in self.tasks)})
                self._clock = time.perf_counter()
        fraction = self.fraction
        balanced = self.config.mix == "one" and self.learner.updates > 0
        for task in self._turns(self.tasks, len(self.tasks)) if balanced else self.tasks:
            task.collect(task.progress(fraction))
        if self.learner.updates == 0 and not all(task.replay.ready for task in self.tasks):
            return []
        return [task for task in self.tasks if task.labelled[-1] and task.replay.ready]

    def learn(self, tasks: list[Task]) -> None:
        """The updates that belong to one vector step."""
        config, learner = self.config, self.learner
        if learner.updates == 0:
            for task in self.tasks:
                task.look_at_first_states()
        count = config.updates * config.batch_size
        drawn = {task.number: torch.split(task.replay.draw(count, self.generator), config.batch_size) for task in tasks}
        turns = self._turns(tasks, config.updates)
        for number in range(config.updates):
            chosen = tasks if config.mix == "all" else [turns[number]]
            parts = [self._part(task, drawn[task.number][number], 1 / len(chosen)) for task in chosen]
            for name, value in learner.update(parts, config.gamma**config.n_step, config.max_grad_norm).items():
                self._losses.setdefault(name, []).append(value)
            if config.priority_exponent > 0 and learner.errors is not None:
                chosen[-1].replay.set_priorities(drawn[chosen[-1].number][number], learner.errors, config.priority_exponent)
            if learner.updates % config.target_every == 0:
                learner.refresh_target()

    def _part(self, task: Task, index: Tensor, share: float) -> Part:
        config = self.config
        batch = task.replay.batch(index, config.gamma)
        if config.priority_exponent > 0:
            batch = batch._replace(weight=task.replay.importance_weights(index))
        if config.obs_noise:
            noise = torch.randn(batch.obs.shape, generator=self.generator) * torch.tensor(config.obs_noise)
            batch = batch._replace(obs=batch.obs + noise.to(batch.obs.device))
        return Part(task.number, batch, task.progress(self.fraction), share)

    def _turns(self, tasks: list[Task], count: int) -> list[Task]:
        """Which task each step or update is of: the lower its score, the more often (at its teacher's score still a fifth as often).

        The score is the mean of the last three checks: the best one of many is luck.
        """
        if len(tasks) == 1:
            return tasks * count
        need = torch.tensor([min(max(1 - stats.mean(task.scores or [0.0]), 0.2), 1.0) for task in tasks])
        return [tasks[int(i)] for i in torch.multinomial(need, count, replacement=True, generator=self.generator)]

    def numbers(self) -> dict[str, Any]:
        """What a progress bar shows."""
        returns = self.tasks[0].collector.episode_returns[-RETURNS_KEPT:]
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
        losses = {f"loss/{t.loss}": _mean_of(self._losses.get(t.loss)) for t in config.terms}
        self._refuse_divergence(losses)
        rows = [task.check(ticker(self.tell)) for task in self.tasks]
        first = rows[0]
        self._notice_drift()
        value = first["return"] if len(rows) == 1 else sum(min(row["score"] or 0.0, 1.0) for row in rows) / len(rows)
        if value >= track.best:
            track.best = value
            for task in self.tasks:
                task.keep_best()
        others = {f"{name}/{task.env_id}": row[name] for task, row in zip(self.tasks[1:], rows[1:], strict=True) for name in row}
        row = {
            "env_steps": self.env_steps,
            "updates": self.learner.updates,
            "train_s": track.train_s,
            **first,
            **others,
            "training_return": self.numbers()["training_return"],
            "drift": self.tasks[0].measured["drift"],
            "labelled_states": self.labelled_states,
            **losses,
        }
        self._losses = {}
        track.history.append(row)
        track.stopped = self._why_stop(rows)
        self._clock = time.perf_counter()
        return row

    def _refuse_divergence(self, losses: dict[str, float | None]) -> None:
        """Ends a run whose losses or weights are NaN or infinite, before a student of such weights plays or is kept.

        Looked at here and not after each update, where the device would have to be waited for.
        """
        bad = [name.removeprefix("loss/") for name, value in losses.items() if value is not None and not math.isfinite(value)]
        if not bad and not self.learner.diverged():
            return
        what = f"The loss '{bad[0]}' has" if bad else "The student's weights have"
        raise NotFiniteError(
            f"{what} become NaN or infinite by update {self.learner.updates} ({self.env_steps} steps): training has diverged, lower "
            f"'learning_rate' ({self.config.learning_rate}), 'max_grad_norm' ({self.config.max_grad_norm}) or the weight of that loss."
        )

    def _notice_drift(self) -> None:
        """Where the visited states have left those trained on, what was best before does not count any more."""
        threshold = self.config.drift_threshold
        if threshold is None:
            return
        drifted = max(task.measured["drift"] for task in self.tasks) > threshold
        if drifted and not self.track.drifted:
            self.track.best, self.track.good_checks = float("-inf"), 0
            for task in self.tasks:
                task.measured["score"], task.scores = 0.0, []
        self.track.drifted = drifted

    def _why_stop(self, rows: list[dict[str, Any]]) -> str:
        """The stop rule; empty while training goes on."""
        config, track = self.config, self.track
        good = all(
            row["score"] is not None and row["score"] >= 1 - config.stop_gap and (row["agreement"] or 0.0) >= config.stop_agreement
            for row in rows
        )
        good = good or (config.stop_return is not None and rows[0]["return"] >= config.stop_return)
        track.good_checks = track.good_checks + 1 if good else 0
        if track.good_checks >= config.patience:
            return f"good enough at {track.good_checks} checks in a row"
        return "budget used" if self.env_steps >= config.env_steps else ""

    @property
    def labelled_states(self) -> int:
        return sum(sum(task.labelled) * self.config.n_envs for task in self.tasks if task.replay.spec.labelled)

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint and the best students so far."""
        tensors, numbers = self.learner.state()
        state: dict[str, Any] = numbers | {"track": vars(self.track), "tasks": []}
        for task in self.tasks:
            own, about = task.state()
            tensors |= {f"task.{task.number}.{k}": v for k, v in own.items()}
            state["tasks"].append(about)
        tensors["generator"] = self.generator.get_state()
        folder.save_state(tensors, state)
        for task in self.tasks:
            home = folder.of_task(task.env_id) if len(self.tasks) > 1 else folder
            save_network(home.student, task.best_network(), kind="q", env=task.env_id, recipe=self.config.recipe)

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads the checkpoint."""
        self.track = _Track(**state["track"])
        if self.track.stage:
            self.learner = self._learner()
        self.learner.load_state(tensors, state)
        self.generator.set_state(tensors["generator"])
        for task, about in zip(self.tasks, state["tasks"], strict=True):
            prefix = f"task.{task.number}."
            task.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, about)
            if self.track.stopped:
                task.actions, task.labelled = list(task.recorded), task.recorded_labels.tolist()

    def trained(self) -> Trained:
        """What `train` returns."""
        track = self.track
        return Trained(
            tuple(task.best_network() for task in self.tasks),
            self.env_steps,
            self.learner.updates,
            track.train_s,
            tuple(self.learner.temperatures),
            track.stopped,
            track.history,
            self.learner.params,
            self.labelled_states,
            tuple(task.env_id for task in self.tasks),
        )


def silent(_event: str, _numbers: dict[str, Any]) -> None:
    """Tells nobody."""


def _mean_of(values: list[Tensor] | None) -> float | None:
    return float(torch.stack(values).mean()) if values else None

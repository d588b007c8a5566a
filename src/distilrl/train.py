"""The loop of a run: plain DQN, policy distillation and RL with a teacher are lists of terms on it; one task or
several. A plan's many students and a tree's rounds have loops of their own over the same streams and checks.

Resuming: ALE cannot save its state, so a checkpoint holds the actions taken so far and a resumed run plays them again,
which restores environments and replay exactly; if what is then seen differs, the run says so and stops.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distilrl import evolution, stats
from distilrl.checkpoints import below
from distilrl.config import TrainConfig
from distilrl.devices import check_device
from distilrl.errors import NotFiniteError, closed_on_error
from distilrl.events import Check, Noticed, Phase, Replaying, Resumed, Step, Watch, silent
from distilrl.finalists import Finalists
from distilrl.isolation import isolated
from distilrl.learner import Learner, Part, check_own_losses, make_pupils, own_losses
from distilrl.metrics import Metrics
from distilrl.networks import Network
from distilrl.objective import columns
from distilrl.plain import read_as
from distilrl.played import Acceptance
from distilrl.runs import RunFolder, check_rows, fitting
from distilrl.shards import Collectors
from distilrl.stream import nothing_drawn
from distilrl.tasks import PRUNE_AT, Task, close_streams, make_tasks
from distilrl.teachers import Teacher
from distilrl.threads import use_threads
from distilrl.trained import Trained

USED_UP = "budget used"


@isolated()
def train(
    config: TrainConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    *,
    acceptance: Acceptance | Sequence[Acceptance] | None = None,
    folder: RunFolder | None = None,
    wandb: bool = False,
    watch: Watch = silent,
    initial: Network | None = None,
    collectors: Collectors | None = None,
    judge: Teacher | Sequence[Teacher] | None = None,
) -> Trained:
    """Trains a student; continues from the folder's checkpoint if there is one.

    Args:
        config: all that decides the run.
        teacher: the frozen teacher, or one per task; None for pure RL.
        acceptance: what `acceptance.accept` said of the teacher, or of each; the score and the stop rule need it.
        folder: where checkpoints, metrics and the best student go; None: nowhere.
        wandb: log to Weights & Biases too.
        watch: told of what happens.
        initial: a network of the student's shape to start from, as an earlier run gave it.
        collectors: who hosts the shards where ``config`` has rounds; this process by default. The student is the same.
        judge: whom ``acceptance`` and so the score are about, or one per task, where that is another than the teacher.

    Raises:
        ResumeError: the folder's checkpoint belongs to another teacher, or the environment does not replay.
        NotFiniteError: training diverged.

    Example::

        student = train(make_config("distil", "CartPole-v1"), teacher.fitted(describe_env("CartPole-v1"))).network
    """
    check_device(config.compute.device)
    use_threads(config.compute.threads)
    tasks = make_tasks(config, teacher, acceptance, initial, collectors, judge)
    with closed_on_error(lambda: close_streams(tasks)):  # networks may find no room on their device
        run = _Run(config, tasks, watch)
    with ExitStack() as stack:  # one writer for both stages
        with closing(run):
            if config.reward.env_steps > 0:  # said before training, not after
                evolution.refuse_images(run.tasks[0].spec)
            saved = folder.load_state() if folder is not None else None
            if saved is not None:
                run.load(*saved)
                watch(Resumed(run.recorded, folder.moved if folder is not None else ()))
            writer = stack.enter_context(_metrics(folder, run.track.history, wandb))
            while not run.track.stopped:
                tasks = run.collect()
                # -- learn, while the environments work
                if tasks and run.env_steps >= config.data.learning_starts:
                    run.learn(tasks)
                watch(run.step())
                run.shrink()
                # -- check, keep the best, stop or go on
                if run.env_steps % config.stop.check_every < run.stride or run.env_steps >= config.data.env_steps:
                    row = run.check()
                    watch(Check(row))
                    if writer is not None:
                        writer.write(row)
                    if folder is not None:
                        run.save(folder)
        run.check_learnt()
        if run.choose() and folder is not None:
            run.finalists.save(folder)
        trained = run.trained()
        if config.reward.env_steps == 0:
            return trained
        # -- a stage with reward, for students too small to imitate
        watch(Phase("reward"))
        return evolution.with_reward(trained, config, run.tasks[0], folder, watch, writer)


def _metrics(
    folder: RunFolder | None, before: Sequence[dict[str, Any]], wandb: bool
) -> AbstractContextManager[Metrics | None]:
    return Metrics(folder, before=before, wandb=wandb) if folder is not None else nullcontext()


@dataclass
class _Track:
    """What the checks remember; part of the checkpoint."""

    good_checks: int = 0
    turns: int = 0
    """How often it was looked whether a student is good enough on other episodes too."""
    train_s: float = 0.0
    stopped: str = ""
    drifted: bool = False
    stage: int = 0
    history: tuple[dict[str, int | float | None], ...] = ()


class _Run:
    """The moving parts of one run, and how each phase of the loop moves them."""

    def __init__(self, config: TrainConfig, tasks: list[Task], watch: Watch) -> None:
        self.config, self.tasks, self.watch, self.track = config, tasks, watch, _Track()
        self.generator = torch.Generator().manual_seed(config.seed)
        self.finalists = Finalists(self.tasks, config)
        self._own_losses = own_losses(config.terms)
        self.learner = self._learner()
        weights = [weight for pupil in self.learner.pupils for weight in pupil.student.parameters()]
        if len(tasks) > 1 and len(set(map(id, weights))) == len(weights):
            shape = f"{config.student.network} has none that fits all"
            watch(Noticed(f"The students of these tasks share no layer, since {shape}: give it one more of one width."))
        self.stride = config.data.n_envs * len(self.tasks)
        self._losses: dict[str, list[Tensor]] = {}
        self._clock = time.perf_counter()

    def _learner(self) -> Learner:
        """A learner of students as wide as they are at this stage, whose pupils the tasks take as theirs."""
        config = self.config
        pupils = make_pupils(
            [replace(task.shape(self.track.stage), dueling=config.student.dueling) for task in self.tasks],
            [task.head for task in self.tasks],
            [task.teacher for task in self.tasks],
            config.terms,
            config.student,
            self.generator,
            torch.device(config.compute.device),
        )
        learner = Learner(pupils, config.terms, config.optim)
        for task in self.tasks:
            task.join(learner)
        return learner

    def shrink(self) -> None:
        """Leaves out the weakest units once the budget has come to the next stage of pruning."""
        stage = sum(self.fraction >= share for share in PRUNE_AT) if self.config.student.prune_from is not None else 0
        if stage <= self.track.stage or self.learner.updates == 0:
            return
        wide = self.learner
        self.track.stage = stage
        self.finalists.forget()
        self.learner = self._learner()
        self.learner.continue_from(wide)

    @property
    def env_steps(self) -> int:
        return sum(task.stream.env_steps for task in self.tasks)

    @property
    def recorded(self) -> int:
        """Environment steps that a checkpoint holds."""
        return sum(task.stream.recorded for task in self.tasks)

    @property
    def fraction(self) -> float:
        return self.env_steps / self.config.data.env_steps

    def collect(self) -> list[Task]:
        """One vector step per task; returns those in which there is something to learn. Recorded steps are played again
        first.

        What the first updates need of each task (statistics, temperature) must be there for all of them.
        """
        recorded = self.recorded
        for task in self.tasks:
            while task.stream.replaying:
                task.collect(task.progress(self.fraction))
                self.watch(Replaying(self.env_steps, recorded))
                self._clock = time.perf_counter()
        fraction = self.fraction
        balanced = self.config.data.mix == "one" and self.learner.updates > 0
        for task in self._turns(self.tasks, len(self.tasks)) if balanced else self.tasks:
            task.collect(task.progress(fraction))
        if self.learner.updates == 0 and not all(task.stream.replay.ready for task in self.tasks):
            return []
        return [task for task in self.tasks if task.stream.learnable]

    def learn(self, tasks: list[Task]) -> None:
        """The updates that belong to one vector step."""
        data, optim, learner = self.config.data, self.config.optim, self.learner
        if learner.updates == 0:
            self.finalists.forget()  # before this a student reads its inputs, and speaks, otherwise than from now on
            for task in self.tasks:
                task.look_at_first_states()
        # -- every task draws; what the updates read is gathered at once, of those whose turn comes
        drawn = {task.number: task.stream.draw(self.generator) for task in tasks}
        turns = self._turns(tasks, optim.updates)
        read = tasks if data.mix == "all" else [task for task in tasks if task in turns]
        batches = {task.number: task.batches(drawn[task.number], self.generator) for task in read}
        for number in range(optim.updates):
            chosen = tasks if data.mix == "all" else [turns[number]]
            share = 1 / len(chosen)
            parts = [Part(t.number, batches[t.number][number], t.progress(self.fraction), share) for t in chosen]
            for name, value in learner.update(parts).items():
                self._losses.setdefault(name, []).append(value)
            if data.priority_exponent > 0 and learner.errors is not None:
                index = torch.split(drawn[chosen[-1].number], optim.batch_size)[number]
                chosen[-1].stream.replay.set_priorities(index, learner.errors, data.priority_exponent)

    def _turns(self, tasks: list[Task], count: int) -> list[Task]:
        """Which task each step or update is of: the lower its score, the more often (at its teacher's score still a
        fifth as often).

        The score is the mean of the last three checks: the best one of many is luck.
        """
        if len(tasks) == 1:
            return tasks * count
        need = torch.tensor([min(max(1 - stats.mean(task.scores or [0.0]), 0.2), 1.0) for task in tasks])
        return [tasks[int(i)] for i in torch.multinomial(need, count, replacement=True, generator=self.generator)]

    def step(self) -> Step:
        """What a progress bar shows."""
        return Step(self.env_steps, self.config.data.env_steps, self.tasks[0].training_return)

    def check(self) -> dict[str, Any]:
        """Return on selection seeds, best student, stop rule; one row of metrics."""
        config, track = self.config, self.track
        track.train_s += time.perf_counter() - self._clock
        names = columns(config.terms)
        losses = {f"loss/{name}": _mean_of(self._losses.get(name)) for name in names}
        self._refuse_divergence(losses)
        rows = [task.check(self.watch) for task in self.tasks]
        first = rows[0]
        self._notice_drift()
        self.finalists.add([(row["return"], row["score"]) for row in rows])
        own = [{"training_return": task.training_return, "drift": task.measured["drift"]} for task in self.tasks]
        others = {
            f"{name}/{task.name}": value
            for task, row, more in zip(self.tasks[1:], rows[1:], own[1:], strict=True)
            for name, value in (row | more).items()
        }
        row = {
            "env_steps": self.env_steps,
            "updates": self.learner.updates,
            "train_s": track.train_s,
            **first,
            **others,
            **own[0],
            "labelled_states": self.labelled_states,
            **losses,
        }
        self._losses = {}
        track.history += (row,)
        track.stopped = self._why_stop(rows)
        self._clock = time.perf_counter()
        return row

    def _refuse_divergence(self, losses: dict[str, float | None]) -> None:
        """Ends a run whose losses or weights are NaN or infinite, before a student of such weights plays or is kept.

        Looked at here and not after each update, where the device would have to be waited for.
        """
        bad = [
            name.removeprefix("loss/")
            for name, value in losses.items()
            if value is not None and not math.isfinite(value)
        ]
        if not bad and not self.learner.diverged():
            return
        what, optim = f"The loss '{bad[0]}' has" if bad else "The student's weights have", self.config.optim
        raise NotFiniteError(
            f"{what} become NaN or infinite by update {self.learner.updates} ({self.env_steps} steps): training has "
            "diverged, lower "
            f"'learning_rate' ({optim.learning_rate}), 'max_grad_norm' ({optim.max_grad_norm}) or the weight of that "
            "loss."
        )

    def _notice_drift(self) -> None:
        """Where the visited states have left those trained on, what was best before does not count any more."""
        threshold = self.config.stop.drift_threshold
        if threshold is None:
            return
        drifted = max(task.measured["drift"] for task in self.tasks) > threshold
        if drifted and not self.track.drifted:
            self.finalists.forget()
            self.track.good_checks = 0
            for task in self.tasks:
                task.measured["score"], task.scores = 0.0, []
        self.track.drifted = drifted

    def choose(self) -> bool:
        """Where the budget was used up, lets the finalists meet; whether they did."""
        how = self.finalists.meet(self.track.turns, self.watch) if self.track.stopped == USED_UP else ""
        self.track.stopped += f"; {how}" if how else ""
        return bool(how)

    def _why_stop(self, rows: list[dict[str, Any]]) -> str:
        """The stop rule; empty while training goes on."""
        stop, track = self.config.stop, self.track
        shares = [task.selection.share(row["return"]) for task, row in zip(self.tasks, rows, strict=True)]
        good = all(
            share is not None and share >= 1 - stop.gap and (row["agreement"] or 0.0) >= stop.agreement
            for share, row in zip(shares, rows, strict=True)
        )
        good = good or (stop.at_return is not None and rows[0]["return"] >= stop.at_return)
        whole = self.config.student.prune_from is None or track.stage == len(PRUNE_AT)  # else it is still too wide
        track.good_checks = track.good_checks + 1 if good and whole else 0
        if track.good_checks >= stop.patience:
            if self._confirmed():
                checks = f"{track.good_checks} checks in a row" if track.good_checks > 1 else "a check"
                return f"good enough at {checks} and on {stop.final_episodes} other episodes"
            track.good_checks = 0
        return USED_UP if self.env_steps >= self.config.data.env_steps else ""

    def _confirmed(self) -> bool:
        """Whether the best student is good enough on episodes that no check has: two good checks may be luck."""
        stop = self.config.stop
        found = self.finalists.again(0, self.track.turns, self.watch, paired=True)
        self.track.turns += 1
        reached = stop.at_return is not None and found[0][0] >= stop.at_return
        if reached or all(score is not None and score >= 1 - stop.gap for _, score in found):
            return True  # and it is what ships, whatever the checks say of others
        self.finalists.lower(found)
        return False

    @property
    def labelled_states(self) -> int:
        return sum(task.stream.labelled_states for task in self.tasks)

    def close(self) -> None:
        """Frees the environments."""
        close_streams(self.tasks)

    def check_learnt(self) -> None:
        """Refuses a run in which nothing was learnt."""
        if self.learner.updates == 0:
            raise nothing_drawn(self.config, self.env_steps)

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint and the best students so far."""
        tensors, numbers = self.learner.state()
        state: dict[str, Any] = numbers | {"track": vars(self.track), "best": self.finalists.values, "tasks": []}
        state["losses"] = self._own_losses
        for task in self.tasks:
            own, about = task.state()
            tensors |= {f"task.{task.number}.{k}": v for k, v in own.items()}
            state["tasks"].append(about)
        tensors["generator"] = self.generator.get_state()
        folder.save_state(tensors, state)
        self.finalists.save(folder)

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads the checkpoint.

        Raises:
            ResumeError: it is not of this run.
        """
        with fitting():
            self._load(tensors, state)

    def _load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        check_own_losses(self._own_losses, state["losses"])
        self.track = read_as(_Track, state["track"])
        check_rows(self.track.history)
        self.finalists.values = [float(one) for one in state["best"]]
        if self.track.stage:
            self.learner = self._learner()
        self.learner.load_state(tensors, state)
        self.generator.set_state(tensors["generator"])
        for task, about in zip(self.tasks, state["tasks"], strict=True):
            task.load(below(tensors, f"task.{task.number}."), about, ended=bool(self.track.stopped))

    def trained(self) -> Trained:
        """What `train` returns."""
        track = self.track
        return Trained(
            tuple(task.best_network() for task in self.tasks),
            tuple(task.head for task in self.tasks),
            self.env_steps,
            self.learner.updates,
            track.train_s,
            tuple(pupil.temperature for pupil in self.learner.pupils),
            track.stopped,
            list(track.history),
            self.learner.params,
            self.labelled_states,
            tuple(task.name for task in self.tasks),
        )


def _mean_of(values: list[Tensor] | None) -> float | None:
    return float(torch.stack(values).mean()) if values else None

"""The search of a plan: students of many sizes learn from one stream, in rounds; each check is a checkpoint."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from distilrl import stats
from distilrl.checkpoints import below, load_weights
from distilrl.config import RewardConfig
from distilrl.errors import NotFiniteError, ResumeError
from distilrl.evaluate import latency_us, size
from distilrl.events import Noticed, Phase, Replaying, Resumed, Step, Watch
from distilrl.heads import Head
from distilrl.jobs import Job
from distilrl.learner import check_own_losses, own_losses
from distilrl.networks import Network, blank
from distilrl.next_steps import asked_with
from distilrl.objective import TeacherTerm
from distilrl.plain import from_plain, to_plain
from distilrl.played import RunVerdict, TeacherCard
from distilrl.policies import Policy
from distilrl.population import Population, returns_of
from distilrl.runs import RunFolder, fitting, rows_of
from distilrl.schedules import START, Progress
from distilrl.sizes import of_search
from distilrl.specs import NetworkSpec, spelled
from distilrl.stream import Check, Stream, nothing_drawn
from distilrl.summaries import PlanRow
from distilrl.tasks import input_statistics
from distilrl.teachers import Teacher
from distilrl.trained import Trained
from distilrl.verdict import Result

CHECKS = 3
"""Checks of a round; at each, half of those that are not there yet are dropped."""
Saved = tuple[dict[str, Tensor], dict[str, Any]]
"""A checkpoint: its tensors, and the rest of it."""


@dataclass(frozen=True)
class Judgement:
    """What the verdict of a size comes to."""

    worst: Result
    """Of the return's verdict and the measures'."""
    of_return: RunVerdict


@dataclass
class Row:
    """The students of one size, of which the best stands for all."""

    spec: NetworkSpec
    network: Network
    """The best seed's best network."""
    scores: list[float]
    """Best score of each seed; none of a teacher that is no better than random play."""
    best_seed: int
    """Which seed returned most, from 0."""
    history: list[dict[str, Any]]
    """Checks of the best seed."""
    temperature: float
    """By which its labels were divided."""
    latency_us: float
    reached: bool
    """Whether its score is within the margin."""
    judgement: Judgement | None = None
    """None where its turn did not come."""

    @property
    def verdict(self) -> Result | None:
        """What its turn came to, in a word."""
        return self.judgement.worst if self.judgement is not None else None

    def result(self, head: Head) -> PlanRow:
        """A row of the frontier."""
        return PlanRow(
            student=spelled(self.spec, real=head.real),
            **size(self.network),
            latency_us=self.latency_us,
            score_mean=stats.mean(self.scores) if self.scores else None,
            worst_score=min(self.scores, default=None),
            best_score=max(self.scores, default=None),
            best_seed=self.best_seed,
            reached=self.reached,
            verdict=self.verdict,
            of_return=self.judgement.of_return if self.judgement is not None else None,
        )


@dataclass
class Round:
    """Students who learn over one budget of steps, by size and then by seed, and the best of each at its checks."""

    PLAIN: ClassVar = ("begin", "checks", "over", "temperature", "diverged")

    specs: list[NetworkSpec]
    """Sizes, the smallest first."""
    begin: int
    """Environment steps before it."""
    checks: int = 0
    """How many there were."""
    over: bool = False
    """Whether nobody learns any more."""
    temperature: float = 1.0
    """By which labels are divided."""
    networks: dict[int, Network] = field(default_factory=dict)
    """The best network of each student."""
    returns: dict[int, float] = field(default_factory=dict)
    """What it returned."""
    histories: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Checks of each student."""
    diverged: list[str] = field(default_factory=list)
    """Students whose weights became NaN, in words; a network of theirs is of a check before."""

    def note(self, k: int, row: dict[str, Any], network: Network) -> None:
        """What a check found of a student."""
        self.histories.setdefault(k, []).append(row)
        if k not in self.returns or row["return"] >= self.returns[k]:
            self.returns[k], self.networks[k] = row["return"], network

    def state(self) -> Saved:
        """What a checkpoint holds of it."""
        tensors = {f"{k}.{n}": value for k, one in self.networks.items() for n, value in one.state_dict().items()}
        about = {name: getattr(self, name) for name in self.PLAIN}
        students = [
            {"number": k, "network": one.spec.to_json(), "return": self.returns[k], "history": self.histories[k]}
            for k, one in sorted(self.networks.items())
        ]
        return tensors, about | {"specs": [spec.to_json() for spec in self.specs], "students": students}

    @classmethod
    def read(cls, tensors: dict[str, Tensor], state: dict[str, Any], where: str) -> "Round":
        """Reads back what `state` gave."""
        about = {name: state[name] for name in cls.PLAIN}
        found = cls([NetworkSpec.from_json(spec, where) for spec in state["specs"]], **about)
        for student in state["students"]:
            k = int(student["number"])
            network = blank(NetworkSpec.from_json(student["network"], where))
            load_weights(network, below(tensors, f"{k}."), where)
            found.networks[k] = network.eval().requires_grad_(False)
            found.returns[k] = from_plain(float, student["return"], f"return of {where}")
            found.histories[k] = rows_of(student["history"])
            if not found.histories[k]:
                raise LookupError("a student without a check")
        return found


class Search:
    """One stream of labelled states, and populations that learn from it."""

    def __init__(
        self,
        teacher: Teacher,
        job: Job,
        specs: Sequence[NetworkSpec],
        seeds: int,
        card: TeacherCard,
        folder: RunFolder,
        watch: Watch,
    ) -> None:
        """Makes the stream.

        Args:
            teacher: who labels.
            job: settings and comparison.
            specs: sizes of the first round, the smallest first.
            seeds: students of each size.
            card: what is known of the teacher.
            folder: where checkpoints go.
            watch: told of what happens.
        """
        self.teacher, self.job, self.seeds, self.card = teacher, job, seeds, card
        self.folder, self.watch = folder, watch
        self.config = of_search(job.train, specs)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.stream = Stream(self.config, teacher)
        self.check = Check(self.config, card.acceptance, keep_states=0)
        self.head = self.stream.head
        self.wanted = card.acceptance.return_mean - job.comparison.tolerance_of(card.acceptance).margin
        """Return within the margin of the teacher's."""
        least = self.check.score(self.wanted)
        self.margin = None if least is None else 1.0 - least
        """In scores, of which the teacher's is 1; None where there are none."""
        self.train_s = 0.0
        self._own_losses = own_losses(self.config.terms)
        self.rounds: list[Round] = []
        self.over = False
        """Whether all rounds are."""
        self.after = job.comparison.after
        """Episodes that were not to be asked about, before any were."""
        self.asked = [job.comparison.max_episodes]
        """Most episodes of a verdict, each time that they were taken; all but the last left the plan undecided, or were
        cut short."""
        self.verdicts: dict[str, Judgement] = {}
        """Those taken, by sizes in few words."""
        self._population: Population | None = None
        self._done = 0

    # -- learning

    def round(self, specs: Sequence[NetworkSpec]) -> list[Row]:
        """Trains all sizes and seeds over one budget of steps; a row per size, smallest first.

        Of a plan that is gone on with, first those rounds that it has begun, whatever the sizes given.
        """
        if self._done == len(self.rounds):
            self.rounds.append(Round(list(specs), self.stream.env_steps, over=not specs))
            if specs:
                self.watch(Phase("training"))
                self._begin()
        one = self.rounds[self._done]
        self._done += 1
        while not one.over and self._population is not None:
            self._go_on(one, self._population)
        rows = [self._row(one, number) for number in range(len(one.specs))]
        return [row for row in rows if row is not None]

    def finish(self) -> None:
        """No round comes any more."""
        self.over = True
        self.save()

    def _begin(self) -> None:
        """New students for the last round, who know the statistics and the temperature of what was seen so far."""
        config, stream, started = self.config, self.stream, time.perf_counter()
        while stream.env_steps < config.data.learning_starts or not stream.replay.ready:
            if stream.env_steps >= config.data.env_steps:
                raise nothing_drawn(config, stream.env_steps)
            stream.collect(START)
        self.train_s += time.perf_counter() - started
        self._population = population = self._students()
        population.standardise(*input_statistics(config, stream))
        population.look(stream.replay.labels())
        self.rounds[-1].temperature = population.temperature
        stream.student = population.policy

    def _students(self) -> Population:
        """The students of the last round, as they begin."""
        config, owners = self.config, self._owners(self.rounds[-1])
        return Population(
            [spec for spec, _ in owners],
            [seed for _, seed in owners],
            self.head,
            [term for term in config.terms if isinstance(term, TeacherTerm)],
            config.optim,
            labels_head=self.teacher.head,
            places=self.stream.replay.places,
            device=config.compute.device,
        )

    def _owners(self, one: Round) -> list[tuple[NetworkSpec, int]]:
        """Size and seed of each student."""
        return [(spec, self.config.seed + seed) for spec in one.specs for seed in range(self.seeds)]

    def _go_on(self, one: Round, population: Population) -> None:
        """To the next check, and its checkpoint; those that are there need no more, of the others the better half goes
        on.
        """
        data = self.config.data
        before = max(0, data.learning_starts - one.begin)  # steps in which nothing can be learnt yet
        self._learn(population, one.begin, before - (-(data.env_steps - before) * (one.checks + 1) // CHECKS))
        sound = self._sound(population, one)
        if sound:
            self._check(population, one, sound)
        rest = [k for k in sound if one.returns[k] < self.wanted]
        going_on = sorted(rest, key=lambda k: one.returns[k], reverse=True)[: (len(rest) + 1) // 2]
        if going_on:
            population.keep(going_on)
        one.checks += 1
        one.over = not going_on or one.checks == CHECKS
        self.save()

    def _learn(self, population: Population, begin: int, until: int) -> None:
        """Vector steps and updates until this many steps after ``begin``."""
        data, optim, stream, started = self.config.data, self.config.optim, self.stream, time.perf_counter()
        while stream.env_steps - begin < until:
            progress = Progress((stream.env_steps - begin) / data.env_steps)
            stream.collect(progress)
            if stream.learnable:
                batch = stream.batch(stream.draw(self.generator), self.generator)
                for one in batch.split(optim.batch_size):
                    population.update(one, progress)
            self.watch(Step(stream.env_steps - begin, data.env_steps))
        self.train_s += time.perf_counter() - started

    def _sound(self, population: Population, one: Round) -> list[int]:
        """Living students but those that have diverged, of whom their last check stays.

        Raises:
            NotFiniteError: none is left, and there was no check.
        """
        bad, optim = population.diverged(), self.config.optim
        sound = [k for k in population.alive if k not in bad]
        for k in bad:
            spec, seed = self._owners(one)[k]
            words = (
                f"The weights of {spec.describe()} (seed {seed}) have become NaN or infinite by update "
                f"{population.updates}: training has diverged, lower 'learning_rate' ({optim.learning_rate}) or "
                f"'max_grad_norm' ({optim.max_grad_norm})"
            )
            if not sound and not any(each.returns for each in self.rounds):
                raise NotFiniteError(f"{words}.")
            one.diverged.append(f"{spelled(spec, real=self.head.real)} (seed {seed})")
            self.watch(Noticed(f"{words}; it learns no more."))
        return sound

    def _check(self, population: Population, one: Round, students: Sequence[int]) -> None:
        """Plays these students, and notes for each its row of metrics and its network."""
        still = self.stream.replay.still()
        networks = [population.network(k, still) for k in students]
        means = returns_of(
            [Policy(network, self.head) for network in networks], self.check, self.stream.info, self.watch
        )
        about = {
            "env_steps": self.stream.env_steps,
            "updates": population.updates,
            "train_s": self.train_s,
            "labelled_states": self.stream.labelled_states,
        }
        for k, network, mean in zip(students, networks, means, strict=True):
            row = about | {"return": mean, "score": self.check.score(mean), "agreement": None}
            one.note(k, row, network)

    def _row(self, one: Round, number: int) -> Row | None:
        """What became of the students of one size; None where all have diverged before a check."""
        first = number * self.seeds
        members = [k for k in range(first, first + self.seeds) if k in one.returns]
        if not members:
            return None
        leader = max(members, key=one.returns.__getitem__)
        network, reached = one.networks[leader].cpu(), one.returns[leader] >= self.wanted
        scores = [self.check.score(one.returns[k]) for k in members]
        return Row(
            spec=one.specs[number],
            network=network,
            scores=[score for score in scores if score is not None],
            best_seed=leader - first,
            history=one.histories[leader],
            temperature=one.temperature,
            latency_us=latency_us(Policy(network, self.head), self.stream.info),
            reached=reached,
        )

    def trained(self, row: Row) -> tuple[Trained, Job]:
        """The best student of a size as a run of its own would give it, and the job of that run; steps and seconds are
        those of all that learned beside it until its last check.
        """
        last = row.history[-1]
        # the settings with which it was trained: a stage with reward was not among them
        changes = {"network": row.spec.describe(), "seed": self.config.seed + row.best_seed, "reward": RewardConfig()}
        trained = Trained(
            networks=(row.network,),
            heads=(self.head,),
            env_steps=last["env_steps"],
            updates=last["updates"],
            train_s=last["train_s"],
            temperatures=(row.temperature,),
            stopped="the plan's end",
            history=row.history,
            params=row.spec.params,
            labelled_states=last["labelled_states"],
            env_ids=(self.stream.info.id,),
        )
        return trained, replace(self.job, train=self.config.but(**changes))

    # -- checkpoints

    def judged(self, row: Row, judgement: Judgement) -> None:
        """The verdict of a size, which a plan that is gone on with does not take again."""
        row.judgement = self.verdicts[row.spec.describe()] = judgement
        self.save()

    def _ask(self, asked: list[int], verdicts: dict[str, Judgement], ended: int) -> None:
        """Goes on with verdicts; or asks for them anew on seeds behind theirs, where more episodes are asked for, or
        others than of a time that was cut short, ``ended`` being how many were not.

        Raises:
            ResumeError: a verdict failed that time.
        """
        most = self.job.comparison.max_episodes
        if most > asked[-1] or (most != asked[-1] and len(asked) > ended):
            if any(one.worst == "fail" for one in verdicts.values()):
                raise ResumeError(
                    f"A verdict of {self.folder.path} failed when it was asked with up to {asked[-1]:,} episodes, and "
                    f"was cut short then: go on with {asked_with(asked[-1])}."
                )
            asked, verdicts = [*asked, most], {}
        self.asked, self.verdicts = asked, verdicts
        comparison = replace(self.job.comparison, after=self.after + sum(asked[:-1]))
        self.job = replace(self.job, comparison=comparison)

    def save(self) -> None:
        """Writes the checkpoint."""
        tensors, about = self.stream.state()
        tensors = {f"stream.{name}": value for name, value in tensors.items()}
        tensors["generator"] = self.generator.get_state()
        state: dict[str, Any] = {
            "stream": about,
            "losses": self._own_losses,
            "over": self.over,
            "train_s": self.train_s,
            "verdicts": to_plain(self.verdicts),
            "asked": self.asked,
            "rounds": [],
        }
        for number, one in enumerate(self.rounds):
            own, about = one.state()
            tensors |= {f"round.{number}.{name}": value for name, value in own.items()}
            state["rounds"].append(about)
        if self._population is not None:
            own, state["students"] = self._population.state()
            tensors |= {f"students.{name}": value for name, value in own.items()}
        self.folder.save_state(tensors, state)

    def load(self, saved: Saved, ended: int) -> None:
        """Goes on from a checkpoint: what was collected is played again, unless all rounds are over.

        Args:
            saved: the checkpoint.
            ended: how many times verdicts were asked for and taken.

        Raises:
            ResumeError: it is not of this plan.
        """
        tensors, state = saved
        with fitting():
            self.over, self.train_s = state["over"], state["train_s"]
            if not self.over:
                check_own_losses(self._own_losses, state["losses"])
            verdicts = from_plain(dict[str, Judgement], state["verdicts"], "the checkpoint")
            self._ask(list(state["asked"]), verdicts, ended)
            for number, one in enumerate(state["rounds"]):
                self.rounds.append(Round.read(below(tensors, f"round.{number}."), one, "the checkpoint"))
            self.stream.load(below(tensors, "stream."), state["stream"], ended=self.over)
            self.generator.set_state(tensors["generator"])
            if not self.over:
                self._population = self._students()
                self._population.load_state(below(tensors, "students."), state["students"])
                self.stream.student = self._population.policy
        recorded = self.stream.recorded
        self.watch(Resumed(recorded, self.folder.moved))
        while self.stream.replaying:
            self.stream.collect(START)
            self.watch(Replaying(self.stream.env_steps, recorded))


def first_sizes(saved: Saved) -> list[NetworkSpec]:
    """The sizes with which the plan of a checkpoint began."""
    with fitting():
        return [NetworkSpec.from_json(spec, "the checkpoint") for spec in saved[1]["rounds"][0]["specs"]]

"""The smallest student that keeps the score: many sizes and seeds from one labelled stream, the verdict for those that
may pass.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilrl import stats
from distilrl.config import RewardConfig
from distilrl.display import watching
from distilrl.distill import how_played, results_of, take_acceptance, write_reports
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import NotFiniteError, SpecError
from distilrl.evaluate import latency_us, size
from distilrl.events import Step, Watch, silent
from distilrl.fanout import Call, fan_out
from distilrl.files import write_json
from distilrl.heads import Head
from distilrl.jobs import Job, Machines, claimed, load_one
from distilrl.networks import Network
from distilrl.objective import TeacherTerm, check_terms
from distilrl.played import Acceptance, TeacherCard
from distilrl.policies import Policy
from distilrl.population import Population, returns_of
from distilrl.provenance import Provenance
from distilrl.runs import RunFolder, described, write_metrics
from distilrl.schedules import START, Progress
from distilrl.sizes import Budget, PlanOptions, between_reached, check_plannable, ladder, of_search
from distilrl.specs import NetworkSpec, spelled, suited
from distilrl.stream import Check, Stream
from distilrl.summaries import PlanResults, PlanRow
from distilrl.tasks import input_statistics
from distilrl.teachers import Teacher
from distilrl.threads import use_threads
from distilrl.trained import Trained
from distilrl.verdict import HOLDS, Result

CHECKS = 3
"""Checks of a round; at each, half of those that are not there yet are dropped."""


def plan(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    sizes: Sequence[str] = (),
    seeds: int = 5,
    budget: Budget | None = None,
    refine: bool = True,
    executor: Executor | None = None,
    watch: Watch | None = None,
    report: bool = True,
) -> PlanResults:
    """Finds the smallest student whose loss is proven to be within the margin (verdict ``pass`` or ``within_margin``).

    All sizes and seeds learn from one stream by the job's own terms; the students drive in turn where the teacher does
    not. Where a size has a cell, all of them learn from sequences. At three checks, half of those that are not there
    yet are dropped (successive halving, Jamieson & Talwalkar 2016). Then sizes between the largest that fell short and
    the smallest that did not are tried the same way. The verdict, on seeds of its own, goes from the largest size that
    reached the margin downwards, with the best seed of each, until one does not hold: so the number of sizes needs no
    correction. No size gets a stage with reward.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: its recipe's settings and the comparison; the student it names is not used, but `make_config` finds larger
            batches where it names one with a cell.
        out: folder to write: plan.json, and ``winner``, a run folder.
        sizes: student specs; `ladder` by default.
        seeds: students of each size.
        budget: sizes beyond it are not tried.
        refine: try sizes between.
        executor: where the verdicts of several sizes are taken side by side, to the same plan; None: here, until one
            does not hold.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too, and the winner's.

    Returns:
        The contents of ``out/plan.json``.

    Raises:
        SpecError: no size fits the budget, or the recipe asks for what a plan cannot do.
        FileError: the folder holds a plan, or something else of distilrl's, already.

    Example::

        job = Job(make_config("distil", "CartPole-v1", teacher="ppo.zip", env_steps=30_000))
        plan(None, job, "runs/plan", seeds=3).winner
    """
    options = PlanOptions(tuple(sizes), seeds, budget or Budget(), refine)
    one, config = load_one(teacher, job.train), job.train
    info, head = describe_env(config.env), one.head.student
    check_terms(config.terms, one.head)
    check_plannable(config)
    config.but(seed=config.seed + seeds - 1)
    texts = [suited(text, real=head.real) for text in options.sizes or ladder(info.obs, head)]
    specs = [config.student.spec(info.obs, head.width, text) for text in texts]
    specs = sorted((s for s in specs if options.budget.allows(s, head, info)), key=lambda spec: spec.params)
    if not specs:
        raise SpecError("No size fits the budget: raise it, or give smaller --sizes.")
    of_search(config, specs)
    with watching(watch) as watch, claimed(RunFolder(out), job, kind="plan", **asdict(options)):
        judge = _Judge(one if isinstance(teacher, Teacher) else teacher, info, Path(out), executor, watch)
        results = _plan(one, job, specs, options, judge)
        if report:
            write_reports(*([Path(out) / "winner"] if results.winner else []), Path(out), watch=watch)
    return results


@dataclass(frozen=True)
class _Judge:
    """What the verdicts of a plan need beside its students."""

    teacher: Teacher | str | Path | None
    """The teacher, or where another process reads it."""
    info: EnvInfo
    """Of the environment."""
    folder: Path
    """Of the plan."""
    executor: Executor | None
    watch: Watch


def _plan(one: Teacher, job: Job, specs: list[NetworkSpec], options: PlanOptions, judge: _Judge) -> PlanResults:
    started, config, info, folder = time.perf_counter(), job.train, judge.info, judge.folder
    use_threads(config.compute.threads)
    card = take_acceptance(one, how_played(info, config), RunFolder(folder / "winner"), job, judge.watch)
    search = _Search(one, job, specs, card, judge.watch)
    try:
        found = search.round(specs, options.seeds)
        # -- between the largest that fell short and the smallest that did not
        between = between_reached(specs, [row.reached for row in found]) if options.refine else []
        between = [spec for spec in between if options.budget.allows(spec, search.head, info)]
        found = sorted([*found, *search.round(between, options.seeds)], key=lambda row: row.spec.params)
    finally:
        search.stream.close()
    one.to("cpu")
    winner = _winner([row for row in reversed(found) if row.reached], search, judge)
    if winner is not None:
        search.write(winner, judge)
    results = PlanResults(
        env=info.id,
        environment=info.ref.to_json(),
        verdict_environment=job.to_json()["verdict_env"],
        recipe=config.recipe,
        teacher=one.path,
        teacher_params=one.params,
        seeds=options.seeds,
        budget=asdict(options.budget),
        env_steps=search.stream.env_steps,
        labelled_states=search.stream.labelled_states,
        train_s=search.train_s,
        wall_s=time.perf_counter() - started,
        winner=spelled(winner.spec, real=search.head.real) if winner is not None else None,
        frontier=tuple(row.result(search.head) for row in found),
        provenance=Provenance.of(info.ref.id, config.compute.threads),
    )
    write_json(folder / "plan.json", results.to_json())
    return results


def _winner(rows: Sequence["_Row"], search: "_Search", judge: _Judge) -> "_Row | None":
    """The smallest size whose loss is within the margin, of verdicts taken from the largest size downwards until one
    does not hold; those taken ahead of their turn are forgotten then.

    In this fixed sequence each is taken at its full confidence, and yet the chance of any false pass is that of one
    (Maurer et al. 1995): the first size that is not good enough ends it, whatever became of those before.
    """
    teacher = search.teacher if judge.executor is None else judge.teacher
    calls = [Call(row.spec.describe(), (teacher, *search.trained(row), judge.info, search.card.judged)) for row in rows]
    taken: dict[int, Future[Result]] = {}
    turn, winner = 0, None
    with fan_out(judged, calls, judge.folder, executor=judge.executor, watch=judge.watch) as ended:
        for number, future in ended:
            taken[number] = future
            while turn in taken:
                row = rows[turn]
                row.verdict = taken[turn].result()
                if row.verdict not in HOLDS:
                    return winner
                winner, turn = row, turn + 1
    return winner


def judged(
    teacher: Teacher | str | Path | None,
    trained: Trained,
    job: Job,
    info: EnvInfo,
    acceptance: Acceptance,
    *,
    watch: Watch = silent,
) -> Result:
    """The verdict of one size of a plan, in any process; disturbed play, which decides nothing, is the winner's."""
    use_threads(job.train.compute.threads)
    one = teacher if isinstance(teacher, Teacher) else load_one(teacher, job.train)
    job = replace(job, comparison=replace(job.comparison, disturbed_episodes=0))
    return results_of(one, trained, 0, job, how_played(info, job.train), acceptance, watch)[0].worst


@dataclass
class _Row:
    """The students of one size, of which the best stands for all."""

    spec: NetworkSpec
    network: Network
    """The best seed's best network."""
    scores: list[float]
    """Best score of each seed."""
    best_seed: int
    """Which seed returned most, from 0."""
    history: list[dict[str, Any]]
    """Checks of the best seed."""
    temperature: float
    """By which its labels were divided."""
    latency_us: float
    reached: bool
    """Whether its score is within the margin."""
    verdict: Result | None = None

    def result(self, head: Head) -> PlanRow:
        """A row of the frontier."""
        return PlanRow(
            student=spelled(self.spec, real=head.real),
            **size(self.network),
            latency_us=self.latency_us,
            score_mean=stats.mean(self.scores),
            score_ci95=stats.t_interval(self.scores) if len(self.scores) > 1 else None,
            best_score=max(self.scores),
            best_seed=self.best_seed,
            reached=self.reached,
            verdict=self.verdict,
        )


class _Search:
    """One stream of labelled states, and populations that learn from it."""

    def __init__(
        self, teacher: Teacher, job: Job, specs: Sequence[NetworkSpec], card: TeacherCard, watch: Watch
    ) -> None:
        self.teacher, self.job, self.card, self.watch = teacher, job, card, watch
        self.config = of_search(job.train, specs)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.stream = Stream(self.config, teacher)
        self.check = Check(self.config, card.acceptance, keep_states=0)
        self.head = self.stream.head
        self.wanted = card.acceptance.return_mean - job.comparison.tolerance_of(card.acceptance).margin
        """Return within the margin of the teacher's."""
        self.train_s = 0.0

    def round(self, specs: Sequence[NetworkSpec], seeds: int) -> list[_Row]:
        """Trains all sizes and seeds over one budget of steps; a row per size, smallest first."""
        if not specs:
            return []
        config, stream = self.config, self.stream
        owners = [(spec, config.seed + seed) for spec in specs for seed in range(seeds)]
        population = self._population(owners)
        stream.student = population.policy
        best: dict[int, tuple[float, Network]] = {}
        histories: dict[int, list[dict[str, Any]]] = {k: [] for k in population.alive}
        begin = stream.env_steps
        for share in np.linspace(1 / CHECKS, 1, CHECKS):
            self._learn(population, begin, int(share * config.data.env_steps))
            for k, row, network in self._check(population, owners):
                histories[k].append(row)
                if k not in best or row["return"] >= best[k][0]:
                    best[k] = (row["return"], network)
            # those that are there need no more; of the others, the better half goes on
            rest = [k for k in population.alive if best[k][0] < self.wanted]
            going_on = sorted(rest, key=lambda k: best[k][0], reverse=True)[: (len(rest) + 1) // 2]
            if not going_on:
                break
            population.keep(going_on)
        return [
            self._row(spec, range(number * seeds, (number + 1) * seeds), best, histories, population)
            for number, spec in enumerate(specs)
        ]

    def _population(self, owners: list[tuple[NetworkSpec, int]]) -> Population:
        """New students, who know the statistics and the temperature of what was seen so far."""
        config, stream = self.config, self.stream
        while stream.env_steps < config.data.learning_starts or not stream.replay.ready:
            stream.collect(START)
            if stream.env_steps > config.data.env_steps:
                raise SpecError(
                    f"Nothing can be learnt after {stream.env_steps} steps, because the teacher labelled none: raise "
                    "'labels' of the behaviour."
                )
        population = Population(
            [spec for spec, _ in owners],
            [seed for _, seed in owners],
            self.head,
            [term for term in config.terms if isinstance(term, TeacherTerm)],
            config.optim,
            labels_head=self.teacher.head,
            device=config.compute.device,
        )
        population.standardise(*input_statistics(config, stream))
        population.look(stream.replay.labels())
        return population

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

    def _check(
        self, population: Population, owners: list[tuple[NetworkSpec, int]]
    ) -> list[tuple[int, dict[str, Any], Network]]:
        """A row of metrics of each living student, and its network."""
        if bad := population.diverged():
            spec, seed = owners[bad[0]]
            optim = self.config.optim
            raise NotFiniteError(
                f"The weights of {spec.describe()} (seed {seed}) have become NaN or infinite by update "
                f"{population.updates}: training has diverged, lower 'learning_rate' ({optim.learning_rate}) or "
                f"'max_grad_norm' ({optim.max_grad_norm})."
            )
        networks = [population.network(k) for k in population.alive]
        means = returns_of(
            [Policy(network, self.head) for network in networks], self.check, self.stream.info, self.watch
        )
        about = {"env_steps": self.stream.env_steps, "updates": population.updates, "train_s": self.train_s}
        checked = []
        for k, network, mean in zip(population.alive, networks, means, strict=True):
            score = self.check.score(mean)
            row = about | {"return": mean, "score": 0.0 if score is None else score, "agreement": None}
            checked.append((k, row, network))
        return checked

    def _row(
        self,
        spec: NetworkSpec,
        members: range,
        best: dict[int, tuple[float, Network]],
        histories: dict[int, list[dict[str, Any]]],
        population: Population,
    ) -> _Row:
        """What became of the students of one size."""
        leader = max(members, key=lambda k: best[k][0])
        mean, network = best[leader]
        network = network.cpu()
        latency = latency_us(Policy(network, self.head), self.stream.info)
        # a teacher no better than random, taken all the same, has no scores
        scores, reached = [self.check.score(best[k][0]) or 0.0 for k in members], mean >= self.wanted
        best_seed = members.index(leader)
        return _Row(spec, network, scores, best_seed, histories[leader], population.temperature, latency, reached)

    def trained(self, row: _Row) -> tuple[Trained, Job]:
        """The best student of a size as a run of its own would give it, and the job of that run."""
        stream = self.stream
        # the settings with which it was trained: a stage with reward was not among them
        changes = {"network": row.spec.describe(), "seed": self.config.seed + row.best_seed, "reward": RewardConfig()}
        trained = Trained(
            networks=(row.network,),
            heads=(self.head,),
            env_steps=stream.env_steps,
            updates=row.history[-1]["updates"],
            train_s=self.train_s,
            temperatures=(row.temperature,),
            stopped="the plan's end",
            history=row.history,
            params=row.spec.params,
            labelled_states=stream.labelled_states,
            env_ids=(stream.info.id,),
        )
        return trained, replace(self.job, train=self.config.but(**changes))

    def write(self, winner: _Row, judge: _Judge) -> None:
        """The folder of the size that passes, with all that a run of its own would say of it."""
        folder, info, (trained, job) = RunFolder(judge.folder / "winner"), judge.info, self.trained(winner)
        how = how_played(info, job.train, Machines(executor=judge.executor))
        results, episodes = results_of(self.teacher, trained, 0, job, how, self.card.judged, self.watch)
        write_json(folder.config, described(job.to_json(), "winner"))
        folder.save_student(trained.networks[0], trained.heads[0], info, job.train.recipe)
        write_metrics(folder.metrics, trained.history)
        write_json(folder.episodes, episodes.to_json())
        write_json(folder.results, replace(results, wall_s=self.train_s).to_json())

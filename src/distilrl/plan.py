"""The smallest student that keeps the score: many sizes and seeds from one labelled stream, the verdict for those that may pass."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilrl import stats
from distilrl.checkpoints import save_network, write_json
from distilrl.collect import Collected, Collector
from distilrl.distill import Job, claimed, load_one, results_of, take_acceptance
from distilrl.envs import EnvInfo, describe_env, make_vec_env
from distilrl.errors import SpecError
from distilrl.evaluate import SELECT_SEEDS, Play, Tell, latency_us, play, seeds_from, size
from distilrl.networks import Network
from distilrl.objective import find_temperature
from distilrl.population import Population
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import RunFolder, described, write_metrics
from distilrl.specs import NetworkSpec, scaled
from distilrl.teachers import Teacher
from distilrl.train import Trained, silent

VECTOR_SIZES = ("mlp:", "mlp:2", "mlp:4", "mlp:6", "mlp:8", "mlp:12", "mlp:16", "mlp:4,4", "mlp:8,8", "mlp:16,16", "mlp:24,24", "mlp:32,32")
PIXEL_SIZES = (
    "cnn:4k8s4,8k4s2,8k3s2:8", "cnn:4k8s4,8k4s2,8k3s2:24", "cnn:8k8s4,8k4s2,8k3s2:16", "cnn:8k8s4,8k4s2,8k3s2:32",
    "cnn:8,16,16:32", "cnn:16,16,16:64",
)  # fmt: skip
REFINED = 3
"""Sizes tried between the largest that fell short and the smallest that did not."""


@dataclass(frozen=True)
class Budget:
    """What the target can take; None: anything."""

    params: int | None = None
    """Parameters."""
    bytes: int | None = None
    """Bytes of weights in floats."""
    macs: int | None = None
    """Multiply-accumulates of one decision."""
    us: float | None = None
    """Microseconds of one decision in PyTorch on one thread of this machine."""

    def allows(self, network: Network, info: EnvInfo) -> bool:
        """Whether a network is small and fast enough."""
        own = size(network)
        limits = ((self.params, "params"), (self.bytes, "bytes"), (self.macs, "macs"))
        if any(limit is not None and own[name] > limit for limit, name in limits):
            return False
        return self.us is None or latency_us(network, info.obs_shape, info.obs_dtype) <= self.us


def plan(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    *,
    sizes: Sequence[str] = (),
    seeds: int = 5,
    budget: Budget | None = None,
    refine: bool = True,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Finds the smallest student whose verdict is ``pass``.

    All sizes and seeds learn from one stream: some of the environments are driven by the teacher, the others by the students in
    turn. At three checks, half of those that are not there yet are dropped (successive halving, Jamieson & Talwalkar 2016). Then sizes
    between the largest that fell short and the smallest that did not are tried the same way. The verdict, on seeds of its own, goes from
    the smallest size that reached the margin upwards, with the best seed of each, until one passes.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: its recipe's settings and the comparison; the student it names is not used.
        out: folder to write: plan.json, and ``winner``, a run folder.
        sizes: student specs; a ladder of twelve MLPs or six convolutional networks by default.
        seeds: students of each size.
        budget: sizes beyond it are not tried.
        refine: try sizes between.
        tell: called as the work goes on.

    Returns:
        The contents of ``out/plan.json``: the frontier, a row per size, and the winner.

    Raises:
        SpecError: no size fits the budget, or fewer than one seed.
        FileError: the folder holds a plan, or something else of distilrl's, already.
    """
    tell = tell or silent
    one, config = load_one(teacher, job.train), job.train
    info = describe_env(config.env_id)
    one.check_fits(info)
    if seeds < 1:
        raise SpecError(f"A plan needs at least one seed for each size, got {seeds}.")
    limit = budget or Budget()
    specs = [NetworkSpec.parse(text, info.obs_shape, info.n_actions) for text in sizes or (PIXEL_SIZES if info.pixels else VECTOR_SIZES)]
    specs = sorted((spec for spec in specs if limit.allows(Network(spec), info)), key=lambda spec: spec.params)
    if not specs:
        raise SpecError("No size fits the budget: raise it, or give smaller --sizes.")
    with claimed(RunFolder(out), job, kind="plan", sizes=list(sizes), seeds=seeds, budget=asdict(limit), refine=refine):
        return _plan(one, job, info, Path(out), specs, seeds, limit, refine, tell)


def _plan(
    one: Teacher,
    job: Job,
    info: EnvInfo,
    folder: Path,
    specs: list[NetworkSpec],
    seeds: int,
    limit: Budget,
    refine: bool,
    tell: Tell,
) -> dict[str, Any]:
    started, config, winner_folder = time.perf_counter(), job.train, RunFolder(folder / "winner")
    acceptance = take_acceptance(one, info, winner_folder, job, tell)
    search = _Search(one, job, info, acceptance, tell)
    rows = search.round(specs, seeds)
    if refine and (between := _between(rows, specs)):
        rows = sorted([*rows, *search.round([s for s in between if limit.allows(Network(s), info)], seeds)], key=lambda row: row["params"])
    search.close()
    result: dict[str, Any] = {
        "env": config.env_id, "teacher": one.path, "teacher_params": one.params, "seeds": seeds, "budget": asdict(limit),
        "env_steps": search.env_steps, "labelled_states": search.env_steps, "train_s": search.train_s, "winner": None,
    }  # fmt: skip
    winner = _first_pass(rows, search)
    if winner is not None:
        _keep_winner(winner_folder, job, *winner, search)
        result["winner"] = winner[0]["student"]
    result |= {"wall_s": time.perf_counter() - started, "frontier": [{k: v for k, v in row.items() if k != "network"} for row in rows]}
    write_json(folder / "plan.json", result)
    return result


def _first_pass(rows: list[dict[str, Any]], search: "_Search") -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """The first row whose verdict is ``pass``, smallest first, with its results and episodes; each row asked notes its verdict."""
    for row in rows:
        if row["reached"]:
            results, episodes = search.verdict(row)
            row["verdict"] = results["verdict"]["result"]
            if row["verdict"] == "pass":
                return row, results, episodes
    return None


def _between(rows: list[dict[str, Any]], specs: list[NetworkSpec]) -> list[NetworkSpec]:
    """Sizes between the largest that fell short below the smallest that did not, and that one."""
    there = [index for index, row in enumerate(rows) if row["reached"]]
    if not there or there[0] == 0:
        return []
    upper, below = specs[there[0]], rows[there[0] - 1]["params"]
    known = {spec.describe() for spec in specs}
    found: dict[str, NetworkSpec] = {}
    for step in range(1, REFINED + 1):
        spec = scaled(upper, round(below * (upper.params / below) ** (step / (REFINED + 1))))
        if below < spec.params < upper.params and spec.describe() not in known:
            found.setdefault(spec.describe(), spec)
    return list(found.values())


def _keep_winner(
    folder: RunFolder, job: Job, row: dict[str, Any], results: dict[str, Any], episodes: dict[str, Any], search: "_Search"
) -> None:
    """Writes the winner's run folder."""
    config = replace(job.train, student=row["student"], seed=job.train.seed + row["best_seed"])
    write_json(folder.config, described(replace(job, train=config).to_json(), "winner"))
    save_network(folder.student, row["network"], kind="q", env=config.env_id, recipe=config.recipe)
    write_metrics(folder.metrics, search.history(row))
    write_json(folder.episodes, episodes)
    write_json(folder.results, results)


class _Search:
    """One stream of labelled states, and populations that learn from it."""

    def __init__(self, teacher: Teacher, job: Job, info: EnvInfo, acceptance: dict[str, Any], tell: Tell) -> None:
        config = job.train
        torch.set_num_threads(config.threads)
        self.teacher, self.job, self.config, self.info, self.acceptance, self.tell = teacher, job, config, info, acceptance, tell
        self.generator = torch.Generator().manual_seed(config.seed)
        spec = ReplaySpec(
            config.capacity, config.n_envs, info.obs_shape, info.n_actions, info.pixels, labelled=True, gap_exponent=config.gap_exponent
        )
        self.replay = Replay(spec, torch.device("cpu"))
        self.envs = make_vec_env(config.env_id, config.n_envs, threads=config.threads)
        behaviour = replace(config.behaviour, name="mixed")
        rng = np.random.default_rng([config.seed, 1])
        self.collector = Collector(self.envs, self.replay, behaviour, rng, self._act, teacher.action_values, teacher.path)
        self.steps: Iterator[Collected] = self.collector.steps(config.seed * 10_000 + np.arange(config.n_envs))
        self.population: Population | None = None
        self.temperature = 1.0
        self.env_steps, self.train_s = 0, 0.0
        self._checks: dict[str, list[dict[str, Any]]] = {}

    def _act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.population.act(obs) if self.population is not None else self.teacher.action_values(obs)

    def close(self) -> None:
        """Frees the environments."""
        self.envs.close()

    def round(self, specs: Sequence[NetworkSpec], seeds: int) -> list[dict[str, Any]]:
        """Trains all sizes and seeds over one budget of steps; a row per size, smallest first."""
        if not specs:
            return []
        config = self.config
        owners = [(spec, seed) for spec in specs for seed in range(seeds)]
        population = Population(
            [spec for spec, _ in owners],
            [config.seed + seed for _, seed in owners],
            learning_rate=config.learning_rate,
            average=config.average,
        )
        while self.env_steps < config.learning_starts:
            next(self.steps)
            self.env_steps += config.n_envs
        population.standardise(*self.replay.standardisation())
        self.temperature = find_temperature(self.replay.teacher_values(), config.entropy_share)
        self.population, self.collector.student_may_act = population, True
        best: dict[int, tuple[float, Network]] = {}
        begin, checks = self.env_steps, np.linspace(config.env_steps / 3, config.env_steps, 3)
        for check in checks:
            self._learn(population, begin, int(check))
            self._check(population, owners, best)
            done = [k for k in population.alive if best[k][0] >= 1 - self.job.comparison.margin]
            rest = sorted((k for k in population.alive if k not in done), key=lambda k: best[k][0], reverse=True)
            going_on = rest[: (len(rest) + 1) // 2]  # those that are there need no more; of the others, the better half goes on
            if not going_on:
                break
            population.keep(going_on)
        return [self._row(spec, number, seeds, best) for number, spec in enumerate(specs)]

    def _learn(self, population: Population, begin: int, until: int) -> None:
        config, started = self.config, time.perf_counter()
        while self.env_steps - begin < until:
            next(self.steps)
            self.env_steps += config.n_envs
            fraction = (self.env_steps - begin) / config.env_steps
            self.collector.progress = replace(self.collector.progress, fraction=fraction)
            count = config.updates * config.batch_size
            drawn = torch.split(self.replay.draw(count, self.generator), config.batch_size) if self.replay.ready else ()
            for index in drawn:
                batch = self.replay.batch(index)
                if batch.teacher_values is not None:
                    population.update(batch.obs, batch.teacher_values / self.temperature, fraction)
            self.tell("step", {"env_steps": self.env_steps - begin, "budget": config.env_steps})
        self.train_s += time.perf_counter() - started

    def _check(self, population: Population, owners: list[tuple[NetworkSpec, int]], best: dict[int, tuple[float, Network]]) -> None:
        config = self.config
        how = Play(config.env_id, epsilon=config.eval_epsilon, threads=config.threads, max_steps=2 * self.acceptance["longest_episode"])
        for number, k in enumerate(population.alive):
            network = population.network(k)
            games = play(network, how, seeds_from(SELECT_SEEDS + config.seed * 1000, config.check_episodes))
            score = stats.score(stats.mean(games.returns), self.acceptance["return_mean"], self.acceptance["random_return_mean"])
            score = 0.0 if score is None else score  # a teacher no better than random, taken all the same: no size reaches it
            if k not in best or score >= best[k][0]:
                best[k] = (score, network)
            spec, seed = owners[k]
            row = {"env_steps": self.env_steps, "updates": population.updates, "train_s": self.train_s, "return": stats.mean(games.returns)}
            self._checks.setdefault(f"{spec.describe()} {seed}", []).append(row | {"score": score, "agreement": None})
            self.tell("episodes", {"done": number + 1, "total": len(population.alive), "mean": stats.mean(games.returns)})

    def _row(self, spec: NetworkSpec, number: int, seeds: int, best: dict[int, tuple[float, Network]]) -> dict[str, Any]:
        scores = [best[number * seeds + seed][0] for seed in range(seeds)]
        leader = int(np.argmax(scores))
        network = best[number * seeds + leader][1]
        interval = stats.t_interval(scores)
        return {
            "student": spec.describe(),
            **size(network),
            "latency_us": latency_us(network, self.info.obs_shape, self.info.obs_dtype),
            "score_mean": stats.mean(scores),
            "score_ci95": list(interval) if seeds > 1 else None,
            "best_score": scores[leader],
            "best_seed": leader,
            "reached": scores[leader] >= 1 - self.job.comparison.margin,
            "verdict": None,
            "network": network,
        }

    def history(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Checks of a row's best student."""
        return self._checks[f"{row['student']} {row['best_seed']}"]

    def verdict(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What results.json and episodes.json hold of a row's best student."""
        history = self.history(row)
        trained = Trained(
            networks=(row["network"],), env_steps=self.env_steps, updates=history[-1]["updates"], train_s=self.train_s,
            temperatures=(self.temperature,), stopped="the plan's end", history=history, params=row["params"],
            labelled_states=self.env_steps, env_ids=(self.config.env_id,),
        )  # fmt: skip
        job = replace(self.job, train=replace(self.config, student=row["student"], seed=self.config.seed + row["best_seed"]))
        results, episodes = results_of(self.teacher, trained, 0, job, self.info, self.acceptance, self.tell)
        return results | {"wall_s": self.train_s}, episodes

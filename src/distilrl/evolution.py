"""A stage with reward after imitation: evolution of a distilled student's weights, for students too small to imitate
their teacher.

Augmented random search (Mania, Guy & Recht 2018, algorithm 2, V2-t) from a distilled start: random directions are tried
both ways, the most telling ones move the weights. Departures: it starts from imitation instead of zeros, and a step is
measured in units of each layer's root mean square, so that one radius suits all layers. Inputs stay standardised as in
training. No gradient and no teacher is needed.
"""

import copy
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.config import RewardConfig, TrainConfig
from distilrl.envs import VecEnv, make_vec_env
from distilrl.errors import SpecError
from distilrl.evaluate import VERDICT_SEEDS
from distilrl.events import Check as CheckEvent
from distilrl.events import Step, Watch
from distilrl.heads import Head
from distilrl.networks import Network
from distilrl.policies import Policy
from distilrl.population import StackedMLP
from distilrl.runs import Metrics, RunFolder
from distilrl.specs import NetworkSpec
from distilrl.tasks import Task
from distilrl.trained import Trained

FIRST_SEED = 9 * VERDICT_SEEDS
"""First seed of the episodes that tell directions apart; far from those of training, selection and verdict."""
CHECK_EVERY = 5
"""Rounds between checks."""
FINALISTS = 4
"""How many times the episodes of a check decide whether a student that looks better is."""


def check_student(spec: NetworkSpec) -> None:
    """Refuses a student that is too large to be searched.

    Raises:
        SpecError: it has convolutions.
    """
    if spec.picture is not None:
        raise SpecError(
            "A stage with reward moves all weights at once, which suits an mlp student: leave it out for images."
        )


class Search:
    """The search from one network; everything random follows from the seed and the number of the round."""

    def __init__(
        self,
        network: Network,
        mean: Tensor,
        scale: Tensor,
        config: RewardConfig,
        seed: int,
        noise: tuple[float, ...] = (),
    ) -> None:
        """Takes the weights.

        Args:
            network: the distilled student, for raw observations.
            mean: what it subtracts from them, as in training.
            scale: what it multiplies them by.
            config: how it is searched.
            seed: of all draws.
            noise: standard deviation for each number of an observation through which the student sees it.

        Raises:
            SpecError: it has convolutions.
        """
        check_student(network.spec)
        self.config, self.seed, self.round, self.env_steps, self.noise = config, seed, 0, 0, noise
        self.template = copy.deepcopy(network)
        self.template.standardise(mean, torch.where(scale == 0, torch.zeros_like(scale), scale))
        self.template.unfold()
        parameters = list(self.template.parameters())
        self.weights = torch.cat([p.detach().reshape(-1) for p in parameters])
        layers = [[m.weight, m.bias] for m in self.template.layers if isinstance(m, torch.nn.Linear)]
        sizes = [float(torch.cat([p.detach().reshape(-1) for p in layer]).square().mean().sqrt()) for layer in layers]
        units = [torch.full((p.numel(),), size) for layer, size in zip(layers, sizes, strict=True) for p in layer]
        self.units = torch.cat(units).clamp_min(1e-3)
        """Root mean square of each weight's layer."""

    def network(self, weights: Tensor, *, ships: bool = False) -> Network:
        """The network of these weights; as it ships, for raw observations."""
        made = copy.deepcopy(self.template)
        # a copy: the parameters become views of what they are given, and folding would change the search itself
        torch.nn.utils.vector_to_parameters(weights.clone(), made.parameters())
        if ships:
            made.fold()
        return made.eval().requires_grad_(False)

    def step(self, envs: VecEnv, head: Head) -> float:
        """One round: directions are tried both ways and the weights move; returns the mean return of all that was
        tried.

        Args:
            envs: as many as there are directions, twice, times the episodes of each.
            head: what the numbers mean.
        """
        config = self.config
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.round)
        directions = torch.randn((config.directions, len(self.weights)), generator=rng) * self.units
        tried = torch.cat([self.weights + config.radius * directions, self.weights - config.radius * directions])
        returns = self._play(tried, envs, head)
        plus, minus = returns.chunk(2)
        best = torch.maximum(plus, minus).topk(min(config.best, config.directions)).indices
        spread = torch.cat([plus[best], minus[best]]).std().clamp_min(1e-6)
        # steps shrink to nothing over the budget: near the end a step is mostly the noise of its episodes
        rate = config.rate * max(1.0 - self.env_steps / config.env_steps, 0.0)
        self.weights += rate / (len(best) * spread) * ((plus - minus)[best].unsqueeze(1) * directions[best]).sum(0)
        self.round += 1
        return float(returns.mean())

    def _play(self, tried: Tensor, envs: VecEnv, head: Head) -> Tensor:
        """Mean return of each candidate (K, W); both ways of a direction meet the same episodes."""
        episodes, action = self.config.episodes, envs.info.action
        stacked = StackedMLP([self.network(one) for one in tried])
        template = self.template
        first = FIRST_SEED + self.seed * 1_000_000 + self.round * self.config.directions * episodes
        seeds = np.tile(first + np.arange(self.config.directions * episodes), 2)
        obs = envs.reset(seeds)
        returns, live = np.zeros(len(seeds)), np.ones(len(seeds), np.bool_)
        actions: NDArray[Any] = np.zeros((len(seeds), action.size), action.numpy)
        rng = np.random.default_rng([self.seed, self.round])
        while live.any():
            if self.noise:  # the same for both ways of a direction, as their episodes are
                blur = rng.normal(0, self.noise, (len(obs) // 2, obs.shape[1]))
                obs = obs + np.tile(blur, (2, 1)).astype(np.float32)
            seen = (torch.from_numpy(obs) - template.obs_mean) * template.obs_scale
            with torch.no_grad():
                numbers = stacked.each(seen.view(len(tried), episodes, -1)).flatten(0, 1)
            actions[live] = head.greedy(numbers).numpy()[live]
            envs.send(actions, live)
            step = envs.recv()
            obs = step.obs
            returns[live] += step.reward[live]
            self.env_steps += int(live.sum())
            live &= ~(step.terminated | step.truncated)
        return torch.from_numpy(returns).float().view(len(tried), episodes).mean(1)


def with_reward(trained: Trained, config: TrainConfig, task: Task, folder: RunFolder | None, watch: Watch) -> Trained:
    """The student after a stage with reward, or as it was where that did not raise its return; continued where it was
    cut short.

    A check may be lucky, so a student takes the place of the one before only if it is better on `FINALISTS` times as
    many episodes.

    Args:
        trained: what imitation gave.
        config: the run.
        task: its task, with the input statistics of training.
        folder: where the state of the search goes; None: nowhere.
        watch: told of what happens.
    """
    reward, head, student = config.reward, task.head, task.pupil.student
    search = Search(
        trained.networks[0], student.obs_mean.cpu(), student.obs_scale.cpu(), reward, config.seed, config.student.noise
    )
    check = task.check_student
    started, before = time.perf_counter(), 0.0
    best, best_return = trained.networks[0], float("-inf")
    history: list[dict[str, Any]] = []
    saved = folder.load_state("reward") if folder is not None else None
    if saved is not None:
        tensors, about = saved
        search.weights, search.round, search.env_steps = tensors["weights"], about["round"], about["env_steps"]
        best, best_return, before, history = (
            search.network(tensors["best"], ships=True),
            about["best_return"],
            about["train_s"],
            about["history"],
        )
        best_weights = tensors["best"]
    else:
        best_weights = search.weights.clone()
        best_return = check.long(Policy(best, head), FINALISTS)
    count = 2 * reward.directions * reward.episodes
    envs = make_vec_env(task.info.ref, count, threads=config.compute.threads, workers=config.data.workers)
    while search.env_steps < reward.env_steps:
        tried = search.step(envs, head)
        watch(Step(search.env_steps, reward.env_steps, tried))
        if search.round % CHECK_EVERY and search.env_steps < reward.env_steps:
            continue
        policy = Policy(search.network(search.weights, ships=True), head)
        found = check(policy, watch)
        if found.mean > best_return and (longer := check.long(policy, FINALISTS)) > best_return:
            best_weights, best_return = search.weights.clone(), longer
        seconds = before + time.perf_counter() - started
        row: dict[str, Any] = {
            "env_steps": trained.env_steps + search.env_steps,
            "updates": trained.updates + search.round,
        }
        row |= {
            "train_s": trained.train_s + seconds,
            "return": found.mean,
            "score": found.score,
            "agreement": None,
            "training_return": tried,
        }
        history.append(row)
        watch(CheckEvent(row))
        if folder is not None:
            about = {
                "round": search.round,
                "env_steps": search.env_steps,
                "best_return": best_return,
                "train_s": seconds,
                "history": history,
            }
            folder.save_state({"weights": search.weights, "best": best_weights}, about, name="reward")
    envs.close()
    if folder is not None:
        with Metrics(folder, keep_rows=len(trained.history)) as writer:
            for row in history:
                writer.write(row)
    return replace(
        trained,
        networks=(search.network(best_weights, ships=True),),
        env_steps=trained.env_steps + search.env_steps,
        updates=trained.updates + search.round,
        train_s=trained.train_s + before + time.perf_counter() - started,
        stopped=f"{trained.stopped}; then {search.round} rounds with reward",
        history=[*trained.history, *history],
    )

"""A stage with reward after imitation: evolution of a distilled student's weights, for students too small to imitate
their teacher.

Augmented random search (Mania, Guy & Recht 2018, algorithm 2, V2-t) from a distilled start: random directions are tried
both ways, the most telling ones move the weights. Departures: it starts from imitation instead of zeros, and a step is
measured in units of each layer's root mean square, so that one radius suits all layers; steps shrink to nothing over
the budget, and both ways of a direction meet the same episodes. Inputs stay standardised as in training. No gradient
and no teacher is needed.
"""

import copy
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilrl.config import RewardConfig, TrainConfig
from distilrl.envs import VecEnv, make_vec_env
from distilrl.episodes import ENDLESS
from distilrl.errors import SpecError
from distilrl.evaluate import VERDICT_SEEDS
from distilrl.events import Check as CheckEvent
from distilrl.events import Noticed, Step, Watch
from distilrl.heads import Head, Units
from distilrl.metrics import Metrics
from distilrl.networks import Network
from distilrl.plain import read_as
from distilrl.policies import Policy
from distilrl.runs import RunFolder, check_rows, fitting
from distilrl.specs import NetworkSpec
from distilrl.stacks import StackedMLP
from distilrl.stream import Checked
from distilrl.tasks import Task
from distilrl.trained import Trained

FIRST_SEED = 9 * VERDICT_SEEDS
"""First seed of the episodes that tell directions apart; far from those of training, selection and verdict."""
CHECK_EVERY = 5
"""Rounds between checks."""
LONGER = 4
"""How many times the episodes of a check decide whether a student that looks better is."""
APART = 10_000
"""Turn of those episodes: the student that imitated was chosen on others."""


def refuse_images(spec: NetworkSpec) -> None:
    """Refuses a student that sees images, whose convolutions are too many weights to be searched.

    Raises:
        SpecError: it sees images.
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
        trained: Network,
        config: RewardConfig,
        seed: int,
        noise: tuple[float, ...] = (),
        head_units: Units | None = None,
    ) -> None:
        """Takes the weights.

        Args:
            network: the distilled student, for raw observations.
            trained: the student as it was trained, which says how inputs are standardised.
            config: how it is searched.
            seed: of all draws.
            noise: standard deviation for each number of an observation through which the student sees it.
            head_units: of its outputs, as in training: a weight moves what tells actions apart as far as what they
                have in common.

        Raises:
            SpecError: it sees images.
        """
        refuse_images(network.spec)
        self.config, self.seed, self.round, self.env_steps, self.noise = config, seed, 0, 0, noise
        self.template = copy.deepcopy(network)
        self.template.standardise_as(trained)
        self.template.set_units(head_units)
        self.template.unfold()
        parameters = list(self.template.parameters())
        self.weights = torch.cat([p.detach().reshape(-1) for p in parameters])
        layers = [[m.weight, m.bias] for m in self.template.layers if isinstance(m, torch.nn.Linear)]
        sizes = [float(torch.cat([p.detach().reshape(-1) for p in layer]).square().mean().sqrt()) for layer in layers]
        units = [torch.full((p.numel(),), size) for layer, size in zip(layers, sizes, strict=True) for p in layer]
        self.units = torch.cat(units).clamp_min(1e-3)
        """Root mean square of each weight's layer; 0 of an input that imitation gave no weight because it never varied:
        what it would change elsewhere nothing here can show."""
        into = layers[0][0]
        self.units[: into.numel()].view_as(into)[:, (into == 0).all(0)] = 0.0

    def network(self, weights: Tensor, *, ships: bool = False) -> Network:
        """The network of these weights; as it ships, for raw observations."""
        made = copy.deepcopy(self.template)
        # a copy: the parameters become views of what they are given, and folding would change the search itself
        torch.nn.utils.vector_to_parameters(weights.clone(), made.parameters())
        if ships:
            made.fold()
        return made.eval().requires_grad_(False)

    def step(self, envs: VecEnv, head: Head, limit: int = ENDLESS) -> float:
        """One round: directions are tried both ways and the weights move; returns the mean return of all that was
        tried.

        Args:
            envs: as many as there are directions, twice, times the episodes of each.
            head: what the numbers mean.
            limit: steps after which an episode is cut; a candidate may be one whose episodes never end.
        """
        config = self.config
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.round)
        directions = torch.randn((config.directions, len(self.weights)), generator=rng) * self.units
        tried = torch.cat([self.weights + config.radius * directions, self.weights - config.radius * directions])
        returns = self._play(tried, envs, head, limit)
        plus, minus = returns.chunk(2)
        best = torch.maximum(plus, minus).topk(min(config.best, config.directions)).indices
        spread = torch.cat([plus[best], minus[best]]).std().clamp_min(1e-6)
        # steps shrink to nothing over the budget: near the end a step is mostly the noise of its episodes
        rate = config.rate * max(1.0 - self.env_steps / config.env_steps, 0.0)
        self.weights += rate / (len(best) * spread) * ((plus - minus)[best].unsqueeze(1) * directions[best]).sum(0)
        self.round += 1
        return float(returns.mean())

    def _play(self, tried: Tensor, envs: VecEnv, head: Head, limit: int) -> Tensor:
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
        steps = 0
        while live.any() and steps < limit:
            steps += 1
            if self.noise:  # the same for both ways of a direction, as their episodes are
                blur = rng.normal(0, self.noise, (len(obs) // 2, obs.shape[1]))
                obs = obs + np.tile(blur, (2, 1)).astype(np.float32)
            seen = (template.visible(torch.from_numpy(obs)) - template.obs_mean) * template.obs_scale
            with torch.no_grad():
                numbers = template.in_units(stacked.each(seen.view(len(tried), episodes, -1)).flatten(0, 1))
            actions[live] = head.greedy(numbers).numpy()[live]
            envs.send(actions, live)
            step = envs.recv()
            obs = step.obs
            returns[live] += step.reward[live]
            self.env_steps += int(live.sum())
            live &= ~(step.terminated | step.truncated)
        return torch.from_numpy(returns).float().view(len(tried), episodes).mean(1)


def with_reward(
    trained: Trained,
    config: TrainConfig,
    task: Task,
    folder: RunFolder | None,
    watch: Watch,
    writer: Metrics | None = None,
) -> Trained:
    """The student after a stage with reward, or as it was where that did not raise its return; continued where it was
    cut short.

    A check may be lucky, so a student takes the place of the one before only if it is better on `LONGER` times as
    many episodes.

    Args:
        trained: what imitation gave.
        config: the run.
        task: its task, with the input statistics of training.
        folder: where the state of the search goes; None: nowhere.
        watch: told of what happens.
        writer: of metrics, which has the rows of ``trained``.
    """
    reward, head, pupil = config.reward, task.head, task.pupil.student
    check = task.selection.whole()  # what is better than the teacher may last longer than its longest episode
    longer = LONGER * config.stop.check_episodes
    search = Search(trained.networks[0], pupil, reward, config.seed, config.student.noise, task.pupil.units)
    begin = search.weights.clone()
    # -- where it stands: at the distilled student, or where an earlier run was cut short
    saved = folder.load_state("reward") if folder is not None else None
    if saved is None:
        track = _Track(check.others(Policy(trained.networks[0], head), longer, turn=APART))
        best = search.weights.clone()
    else:
        tensors, about = saved
        with fitting():
            best, track = tensors["best"].view_as(search.weights), read_as(_Track, about, "reward")
            check_rows(track.history)
            search.weights = tensors["weights"].view_as(search.weights)
            search.round, search.env_steps = int(track.round), int(track.env_steps)
    if writer is not None:
        for row in track.history:  # of before it was cut short
            writer.write(row)
    count = 2 * reward.directions * reward.episodes
    made = make_vec_env(task.info.ref, count, threads=config.compute.threads, workers=config.data.workers)
    with closing(made) as envs:
        while search.env_steps < reward.env_steps:
            started = time.perf_counter()
            tried = search.step(envs, head, check.how.max_steps or ENDLESS)
            track.train_s += time.perf_counter() - started
            watch(Step(search.env_steps, reward.env_steps, tried))
            if search.round % CHECK_EVERY and search.env_steps < reward.env_steps:
                continue
            # -- look at it as it would ship
            policy = Policy(search.network(search.weights, ships=True), head)
            found = check(policy, watch)
            if found.mean > track.best_return:
                others = check.others(policy, longer, turn=APART)
                if others > track.best_return:
                    best, track.best_return = search.weights.clone(), others
            track.round, track.env_steps = search.round, search.env_steps
            track.history += (_row(trained, track, found, tried),)
            watch(CheckEvent(track.history[-1]))
            if writer is not None:
                writer.write(track.history[-1])
            if folder is not None:
                folder.save_state({"weights": search.weights, "best": best}, vars(track), name="reward")
    if search.round == 1:
        watch(
            Noticed(
                f"The stage with reward had steps for a single round ({search.env_steps:,}), which moves nothing: give "
                "it ten times as many, or leave it out."
            )
        )
    return replace(
        trained,
        # unfolding and folding round: where nothing was better it is what was judged, to the bit
        networks=trained.networks if torch.equal(best, begin) else (search.network(best, ships=True),),
        env_steps=trained.env_steps + search.env_steps,
        updates=trained.updates + search.round,
        train_s=trained.train_s + track.train_s,
        stopped=f"{trained.stopped}; then {search.round} rounds with reward",
        history=[*trained.history, *track.history],
    )


@dataclass
class _Track:
    """What the checks of the stage remember; part of its checkpoint."""

    best_return: float
    round: int = 0
    env_steps: int = 0
    train_s: float = 0.0
    history: tuple[dict[str, int | float | None], ...] = ()


def _row(trained: Trained, track: _Track, found: Checked, tried: float) -> dict[str, Any]:
    """A row of metrics.csv; rounds count as updates."""
    return {
        "env_steps": trained.env_steps + track.env_steps,
        "updates": trained.updates + track.round,
        "train_s": trained.train_s + track.train_s,
        "return": found.mean,
        "score": found.score,
        "agreement": None,
        "training_return": tried,
    }

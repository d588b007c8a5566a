"""Many students of one stream: MLPs stacked into batched products, others (convolutions, memory) in turn on the same
batch.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distilrl import stats
from distilrl.checkpoints import below
from distilrl.config import OptimConfig
from distilrl.context import Answer, Context, answer_of, begun, write_down
from distilrl.envs import EnvInfo
from distilrl.evaluate import most_at_once, play
from distilrl.events import Watch, silent
from distilrl.heads import Head, Units
from distilrl.memories import Memories
from distilrl.networks import Network, RecurrentNetwork, build
from distilrl.objective import WHOLE_BATCH, TeacherTerm, active, taught_at
from distilrl.optimisers import (
    DenseLayer,
    clip_gradients,
    dense_layers,
    make_optimisers,
    move_average,
    set_learning_rate,
)
from distilrl.policies import Policy, State
from distilrl.replay import Batch
from distilrl.schedules import Progress
from distilrl.specs import NetworkSpec
from distilrl.stacks import StackedMLP
from distilrl.stream import Check

SIDE_BY_SIDE = 100
"""Episodes that students of a check play at once, however many they are; no more than an evaluation may hold."""
TURN = 100
"""Steps for which the same students drive, before the next ones do."""


class Population:
    """Students of several sizes and seeds, trained on the same batches by one optimiser, averaged weights beside them.

    No student's step depends on who else is there: losses, the limit on gradients and moments are each one's
    own.

    Example::

        population = Population([small, large], [0, 1], head, (TeacherTerm("forward_kl"),), OptimConfig())
        losses = population.update(batch, Progress(0.1))  # (2,)
        population.network(0)  # as it ships
    """

    def __init__(
        self,
        specs: Sequence[NetworkSpec],
        seeds: Sequence[int],
        head: Head,
        terms: Sequence[TeacherTerm],
        optim: OptimConfig,
        *,
        labels_head: Head | None = None,
        places: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Builds student k of ``specs[k]`` from ``seeds[k]``.

        Args:
            specs: shape of each student.
            seeds: of the initial weights of each.
            head: what the students' numbers mean.
            terms: the objective.
            optim: how it is learnt.
            labels_head: what the teacher's numbers mean; the same as the students' by default.
            places: states that the replay has room for; None: students with a cell remember nothing of it.
            device: where the students live.
        """
        self.head, self.labels_head, self.terms, self.optim = head, labels_head or head, tuple(terms), optim
        self.temperature = 1.0
        """Stands in where a term leaves it to be found."""
        self.units: Units | None = None
        """Of the students' heads."""
        self.alive = list(range(len(specs)))
        networks = [build(spec, torch.Generator().manual_seed(seed)) for spec, seed in zip(specs, seeds, strict=True)]
        alike: dict[tuple[int, str], list[int]] = {}
        for k, spec in enumerate(specs):
            depth = -1 - k if spec.picture is not None or spec.remembers else len(spec.hidden)
            alike.setdefault((depth, spec.activation), []).append(k)
        self.groups = [(members, _module([networks[k] for k in members]).to(device)) for members in alike.values()]
        self.device = torch.device(device)
        whole = specs[0].picture is not None or not specs[0].unseen
        self._memories = {
            k: Memories(places, sum(spec.cell.kept), self.device)
            for k, spec in enumerate(specs)
            if spec.cell is not None and places is not None
        }
        self._seen = slice(None) if whole else torch.tensor(specs[0].seen, device=device)
        size = specs[0].obs_shape[0] if specs[0].picture is None else 1
        self.mean, self.scale = torch.zeros(size, device=device), torch.ones(size, device=device)
        self.moves: Tensor | None = None
        self.updates, self._acted = 0, 0
        remembering = any(spec.remembers for spec in specs)
        self.policy = Policy((_RememberingInTurn if remembering else _InTurn)(self), head)
        """Environment n is driven by student n, counted among the living and again from the first; the next ones follow
        after `TURN` steps.
        """
        self._restart()

    def _restart(self) -> None:
        """New optimisers and new averages of what is left; moments are forgotten."""
        self._parameters: list[Tensor] = [p for _, module in self.groups for p in module.parameters()]
        self._averages = [p.detach().clone() for p in self._parameters]
        self._since = 0
        grouped = [k for members, _ in self.groups for k in members]
        self._order = torch.tensor([grouped.index(k) for k in self.alive], device=self.device)
        layers = [layer for _, module in self.groups for layer in _layers(module)]
        self.optimisers = make_optimisers(self.optim.optimiser, layers, self._parameters, self.optim.learning_rate)
        # rounding in the eigenbasis leads into the padding; what leads out again is multiplied by 0
        self._inside = (
            [i for _, module in self.groups for i in _inside(module)] if self.optim.optimiser == "soap" else []
        )

    def standardise(self, mean: Tensor, scale: Tensor, moves: Tensor | None = None) -> None:
        """Sets what all students subtract and multiply by."""
        self.mean, self.scale, self.moves = mean, scale, moves
        for _, module in self.groups:
            if isinstance(module, Network):
                module.standardise(mean, scale, moves)

    def look(self, labels: Tensor) -> None:
        """Finds temperature and units in the teacher's numbers (K, P) of the first states."""
        self.temperature = self.labels_head.find_temperature(labels, self.optim.entropy_share)
        in_units = self.optim.value_units or self.labels_head.real
        self.units = self.labels_head.find_units(labels) if in_units else None

    def _numbers(
        self, module: "StackedMLP | Network", obs: Tensor, steps: int = 1, memory: Tensor | None = None
    ) -> Answer:
        """Numbers (K, B, P) of a group, of observations whose histories are as long as the longest of all students; and
        what a single student with a cell remembers after each step.
        """
        if isinstance(module, Network):
            own = obs if obs.ndim == 4 else obs[:, -module.spec.history * module.spec.obs_shape[0] :]
            numbers, after = answer_of(module, own, steps, memory)
            return self._in_units(numbers.unsqueeze(0)), after
        seen, own = self._seen, obs[:, -len(self.mean) :]
        return self._in_units(module((own[:, seen].float() - self.mean[seen]) * self.scale[seen])), None

    def _taught(self, members: list[int], module: "StackedMLP | Network", batch: Batch) -> Tensor:
        """Numbers (K, B, P) of a group for a batch; a student with a cell begins with what it remembered there, and
        writes down what it remembers now.
        """
        memories = self._memories.get(members[0])
        numbers, after = self._numbers(module, batch.obs, batch.steps, begun(memories, batch))
        write_down(memories, batch, after)
        return numbers

    def _in_units(self, numbers: Tensor) -> Tensor:
        return numbers if self.units is None else self.units.values(numbers)

    def owners(self, count: int) -> Tensor:
        """Whose turn it is in each of so many environments, (N,); the next call is of the next step."""
        first = self._acted // TURN * count
        self._acted += 1
        return torch.tensor(self.alive)[(torch.arange(count) + first) % len(self.alive)]

    def in_turn(self, obs: Tensor, owners: Tensor, kept: Tensor | None = None) -> Tensor:
        """Numbers (N, P), those of environment n by the student whose turn it is.

        Args:
            obs: (N, *obs_shape).
            owners: (N,) who that is.
            kept: (N, W) what each of them remembers, the numbers of its state side by side; taken one step on.
        """
        result = torch.zeros(len(obs), self.head.width, device=obs.device)
        for members, module in self.groups:
            places = torch.tensor(members)
            mine = torch.isin(owners, places).nonzero().flatten()
            if not len(mine):
                continue
            if isinstance(module, RecurrentNetwork) and kept is not None:
                state = _unpacked(kept[mine], module)
                numbers, state = module(obs[mine], state)
                after = torch.cat([part.flatten(1) for part in state], dim=1)
                kept[mine, : after.shape[1]], result[mine] = after, self._in_units(numbers)
            else:
                row = (owners[mine].unsqueeze(1) == places).int().argmax(1)
                result[mine] = self._numbers(module, obs[mine])[0][row, torch.arange(len(mine))]
        # who has diverged is found at the next check, and ends nobody else's play
        return result.nan_to_num(0.0, 0.0, 0.0)

    @torch.enable_grad()
    def update(self, batch: Batch, progress: Progress) -> Tensor:
        """One gradient step of all; returns the weighted loss of each living student, (K,)."""
        self.updates += 1
        optimisers = self.optimisers.values()
        set_learning_rate(optimisers, self.optim.learning_rate, self._since, progress.fraction)
        numbers = (self._taught(members, module, batch) for members, module in self.groups)
        loss = torch.cat([self._loss(one, batch, progress) for one in numbers])
        for optimiser in optimisers:
            optimiser.zero_grad()
        if loss.requires_grad:  # else every term's weight is 0 just now
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self._limit_gradients()
            for optimiser in optimisers:
                optimiser.step()
            if self._inside:
                with torch.no_grad():
                    torch._foreach_mul_(self._parameters, self._inside)
        self._since += 1
        move_average(self._averages, self._parameters, self.optim.average, self._since)
        return loss.detach()[self._order]

    def _loss(self, numbers: Tensor, batch: Batch, progress: Progress) -> Tensor:
        """Weighted loss (K,) of students that gave numbers (K, B, P)."""
        count, size = numbers.shape[:2]
        total = numbers.detach().new_zeros(count)
        for term, weight in active(self.terms, progress):
            if callable(term.loss) or ":" in term.loss or term.loss in WHOLE_BATCH:  # one student at a time
                each = torch.stack([self._of_term(term, one, batch, 1, progress) for one in numbers])  # type: ignore[arg-type]
            else:
                each = self._of_term(term, numbers.flatten(0, 1), batch, count, progress).view(count, size)  # type: ignore[arg-type]
            total = total + weight * batch.mean(each)
        return total

    def _of_term(self, term: TeacherTerm, numbers: Tensor, batch: Batch, times: int, progress: Progress) -> Tensor:
        """Loss of each row of numbers (times · B, P), which a network that only hands them on says again."""
        labels = batch.labels.repeat(times, 1) if batch.labels is not None else None
        said = batch._replace(obs=numbers, labels=labels)
        known = {"temperature": self.temperature, "units": self.units, "progress": progress}
        return term(Context([term], said, nn.Identity(), self.labels_head, **known))  # type: ignore[arg-type]

    def _limit_gradients(self) -> None:
        """Scales the gradient of each student down to the largest norm that is allowed."""
        most = self.optim.max_grad_norm
        for _, module in self.groups:
            if isinstance(module, Network):
                clip_gradients(list(module.parameters()), most)
                continue
            slopes = [p.grad for p in module.parameters() if p.grad is not None]
            norm = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0).sqrt()
            factor = (most / (norm + 1e-6)).clamp_max(1.0).view(-1, 1, 1)
            for slope in slopes:
                slope.mul_(factor)

    def diverged(self) -> list[int]:
        """Living students with a weight that is NaN or infinite; waits for the device, so it is for checks only."""
        found = []
        for members, module in self.groups:
            finite = [torch.isfinite(p.detach()) for p in module.parameters()]
            if isinstance(module, Network):
                found += members if not all(bool(one.all()) for one in finite) else []
                continue
            good = torch.stack([one.flatten(1).all(1) for one in finite]).all(0)
            found += [k for k, fine in zip(members, good.tolist(), strict=True) if not fine]
        return found

    def network(self, k: int, still: Tensor | None = None) -> Network:
        """Student k as it ships: averaged weights, raw observations, ``still`` ones forgotten (`Network.forget`).

        Raises:
            KeyError: it is not among the living.
        """
        start = 0
        for members, module in self.groups:
            count = len(list(module.parameters()))
            if k in members:
                averaged = copy.deepcopy(module)
                with torch.no_grad():
                    for parameter, average in zip(
                        averaged.parameters(), self._averages[start : start + count], strict=True
                    ):
                        parameter.copy_(average)
                network = averaged.network(members.index(k)) if isinstance(averaged, StackedMLP) else averaged
                network.standardise(self.mean, self.scale, self.moves)
                network.set_units(self.units)
                if still is not None:
                    network.forget(still)
                network.fold()
                if self.optim.scale_head:
                    network.scale_head(taught_at(self.terms, self.temperature, self.head))
                return network.eval().requires_grad_(False)
            start += count
        raise KeyError(k)

    def keep(self, chosen: Sequence[int]) -> None:
        """Goes on with some of the students only, from their averaged weights."""
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averages, strict=True):
                parameter.copy_(average)
        groups = []
        for members, module in self.groups:
            left = [k for k in members if k in chosen]
            if left and isinstance(module, StackedMLP):
                module.keep([members.index(k) for k in left])
            if left:
                groups.append((left, module))
        self.groups, self.alive = groups, [k for k in self.alive if k in chosen]
        self._memories = {k: memories for k, memories in self._memories.items() if k in chosen}
        self._restart()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of those whom `keep` has just chosen, whose weights are averages and moments
        forgotten, or of those who learn no more.
        """
        tensors = {"mean": self.mean, "scale": self.scale}
        if self.moves is not None:
            tensors["moves"] = self.moves
        if self.units is not None:
            tensors |= {"units.matrix": self.units.matrix, "units.offset": self.units.offset}
        for number, (_, module) in enumerate(self.groups):
            tensors |= {f"group.{number}.{name}": value for name, value in module.state_dict().items()}
        for k, memories in self._memories.items():
            tensors |= {f"memories.{k}.{name}": value for name, value in memories.state().items()}
        numbers = {"alive": self.alive, "updates": self.updates, "acted": self._acted, "temperature": self.temperature}
        return tensors, numbers

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        self.keep(state["alive"])
        known = (tensors[name].to(self.device) for name in ("mean", "scale", "moves") if name in tensors)
        self.standardise(*known)
        if "units.matrix" in tensors:
            self.units = Units(tensors["units.matrix"].to(self.device), tensors["units.offset"].to(self.device))
        for number, (_, module) in enumerate(self.groups):
            module.load_state_dict(below(tensors, f"group.{number}."))
        for k, memories in self._memories.items():
            memories.load_state(below(tensors, f"memories.{k}."))
        self.updates, self._acted, self.temperature = state["updates"], state["acted"], state["temperature"]
        self._restart()


class _InTurn(nn.Module):
    """A population as one network; its students are not parts of this module."""

    def __init__(self, population: Population) -> None:
        super().__init__()
        self._owners, self._answer = population.owners, population.in_turn

    def forward(self, obs: Tensor) -> Tensor:
        return self._answer(obs, self._owners(len(obs)))


class _RememberingInTurn(nn.Module):
    """The same of students some of whom remember. Whose turn begins knows nothing of the episode."""

    def __init__(self, population: Population) -> None:
        super().__init__()
        self._owners, self._answer, self._device = population.owners, population.in_turn, population.device
        networks = [module for _, module in population.groups if isinstance(module, RecurrentNetwork)]
        self._width = max(sum(part[0].numel() for part in network.start(1)) for network in networks)

    def start(self, count: int) -> State:
        """Who drives each environment, (N,), as yet nobody, and what they remember, (N, W)."""
        device = self._device
        return torch.full((count,), -1, device=device), torch.zeros(count, self._width, device=device)

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        before, kept = state
        owners = self._owners(len(obs))
        same = (owners.to(before.device) == before).unsqueeze(1)
        kept = torch.where(same, kept, 0.0)  # every memory begins with zeros, also behind one who has diverged
        return self._answer(obs, owners, kept), (owners.to(before.device), kept)


def _unpacked(kept: Tensor, network: RecurrentNetwork) -> State:
    """A network's state, of the first of the numbers (N, W)."""
    shapes = [part.shape[1:] for part in network.start(1)]
    counts = [math.prod(shape) for shape in shapes]
    parts = torch.split(kept[:, : sum(counts)], counts, dim=1)
    return tuple(part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True))


def _module(networks: list[Network]) -> StackedMLP | Network:
    spec = networks[0].spec
    return networks[0] if spec.picture is not None or spec.remembers else StackedMLP(networks)


def _layers(module: StackedMLP | Network) -> list[DenseLayer]:
    """Weights and biases of dense layers."""
    return (
        dense_layers(module) if isinstance(module, Network) else list(zip(module.weights, module.biases, strict=True))
    )


def _inside(module: StackedMLP | Network) -> list[Tensor]:
    """What keeps padding at zero; of a network, ones."""
    return module.inside() if isinstance(module, StackedMLP) else [torch.ones_like(p) for p in module.parameters()]


class _SideBySide(nn.Module):
    """Several networks that play at once, each its own episodes; whose an episode is, is kept as its state."""

    def __init__(self, networks: Sequence[nn.Module], episodes: int) -> None:
        super().__init__()
        self.networks, self.episodes = nn.ModuleList(networks), episodes

    def start(self, count: int) -> State:
        """Whose each of the episodes is, (count,), in their order; all are in one part."""
        if count != self.episodes * len(self.networks):
            raise ValueError(f"{len(self.networks)} networks play {self.episodes} episodes each, not {count} in all")
        return (torch.arange(count) // self.episodes,)

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        # rows of one network lie together, and are those that it would see if it played alone
        counts = torch.bincount(state[0], minlength=len(self.networks)).tolist()
        parts = zip(self.networks, torch.split(obs, counts), strict=True)
        return torch.cat([network(rows) for network, rows in parts if len(rows)]), state


def returns_of(policies: Sequence[Policy], check: Check, info: EnvInfo, watch: Watch = silent) -> list[float]:
    """Mean return of each of several policies in a check; those without memory play at once where that changes no
    episode.

    Args:
        policies: of one head.
        check: in what they play.
        info: of its environment.
        watch: told of episodes as they end.

    Example::

        returns_of([small, large], Check(config, acceptance, keep_states=0), info)
    """
    how, episodes = check.how, len(check.seeds)
    together = max(min(SIDE_BY_SIDE, most_at_once(how)) // episodes, 1)
    # in such a game equal starts would be played once for all, and Atari's episodes are played in small parts
    if info.deterministic or info.atari or together == 1 or any(policy.remembers for policy in policies):
        return [check(policy, watch).mean for policy in policies]
    means: list[float] = []
    for first in range(0, len(policies), together):
        some = policies[first : first + together]
        policy = Policy(_SideBySide([one.network for one in some], episodes), some[0].head)
        seeds = check.seeds * len(some)
        games = play(policy, replace(how, keep_states=0, at_once=len(seeds)), seeds, watch=watch)
        means += [stats.mean(returns) for returns in games.returns.reshape(len(some), episodes)]
    return means

"""Many students that learn from one stream: MLPs stacked into batched products, convolutional ones in turn on the same batch."""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl import losses
from distilrl.learner import move_average, set_learning_rate
from distilrl.networks import Network, build
from distilrl.specs import NetworkSpec

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "elu": F.elu, "silu": F.silu}


class StackedMLP(nn.Module):
    """K multilayer perceptrons of one depth and any widths as one: weights (K, out, in), padded with zeros that stay zeros."""

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.specs = [network.spec for network in networks]
        depth = len(self.specs[0].hidden) + 1
        layers = [[m for m in network.layers if isinstance(m, nn.Linear)] for network in networks]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for level in range(depth):
            outs, ins = (max(one[level].weight.shape[axis] for one in layers) for axis in (0, 1))
            weight, bias = torch.zeros(len(layers), outs, ins), torch.zeros(len(layers), 1, outs)
            for k, one in enumerate(layers):
                out, fan_in = one[level].weight.shape
                weight[k, :out, :fan_in], bias[k, 0, :out] = one[level].weight.detach(), one[level].bias.detach()
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, obs: Tensor) -> Tensor:
        """Standardised observations (B, D) to action values (K, B, A)."""
        return self.each(obs.expand(len(self.specs), -1, -1))

    def each(self, x: Tensor) -> Tensor:
        """Standardised observations (K, B, D), those of each network, to numbers (K, B, P)."""
        activation = FUNCTIONS[self.specs[0].activation]
        for level, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            x = activation(x) if level < len(self.weights) - 1 else x
        return x

    def keep(self, chosen: Sequence[int]) -> None:
        """Goes on with some of the students only."""
        self.specs = [self.specs[k] for k in chosen]
        for values in (self.weights, self.biases):
            for index, value in enumerate(values):
                values[index] = nn.Parameter(value.detach()[list(chosen)].clone())

    def network(self, k: int) -> Network:
        """One of the students, its standardisation not yet set."""
        network = Network(self.specs[k])
        layers = [m for m in network.layers if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                out, fan_in = layer.weight.shape
                layer.weight.copy_(weight[k, :out, :fan_in])
                layer.bias.copy_(bias[k, 0, :out])
        return network


class Population:
    """Students of several sizes and seeds, trained with the KL on the same batches by one Adam, averaged weights beside them."""

    def __init__(self, specs: Sequence[NetworkSpec], seeds: Sequence[int], *, learning_rate: float, average: float) -> None:
        """Builds student k of ``specs[k]`` from ``seeds[k]``."""
        self.learning_rate, self.decay = learning_rate, average
        self.alive = list(range(len(specs)))
        self.specs = list(specs)
        networks = [build(spec, torch.Generator().manual_seed(seed)) for spec, seed in zip(specs, seeds, strict=True)]
        depths: dict[int, list[int]] = {}
        for k, spec in enumerate(specs):
            depths.setdefault(-1 - k if spec.convs or spec.blocks else len(spec.hidden), []).append(k)
        self.groups = [(members, self._module([networks[k] for k in members])) for members in depths.values()]
        self.mean, self.scale = torch.zeros(1), torch.ones(1)
        self.updates = 0
        self._restart()

    @staticmethod
    def _module(networks: list[Network]) -> StackedMLP | Network:
        return networks[0] if networks[0].spec.convs or networks[0].spec.blocks else StackedMLP(networks)

    def _restart(self) -> None:
        """A new optimiser and new averages of what is left; Adam's moments are forgotten."""
        self._parameters: list[Tensor] = [p for _, module in self.groups for p in module.parameters()]
        self._averages = [p.detach().clone() for p in self._parameters]
        self._since = 0
        grouped = [k for members, _ in self.groups for k in members]
        self._order = torch.tensor([grouped.index(k) for k in self.alive])
        self.optimiser = torch.optim.Adam(self._parameters, lr=self.learning_rate, eps=1e-5, fused=True)

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Sets what all students subtract and multiply by."""
        self.mean, self.scale = mean, scale
        for _, module in self.groups:
            if isinstance(module, Network):
                module.standardise(mean, scale)

    def _values(self, module: StackedMLP | Network, obs: Tensor) -> Tensor:
        """Action values (K, B, A) of a group."""
        if isinstance(module, Network):
            return module(obs).unsqueeze(0)  # type: ignore[no-any-return]
        return module((obs.float() - self.mean) * self.scale)  # type: ignore[no-any-return]

    def act(self, obs: Tensor) -> Tensor:
        """Action values (N, A): environment n is driven by the n-th living student, and again from the first."""
        owner = torch.arange(len(obs)) % len(self.alive)
        result = torch.zeros(len(obs), self.specs[0].n_actions)
        place = {k: number for number, k in enumerate(self.alive)}
        with torch.no_grad():
            for members, module in self.groups:
                mine = torch.isin(owner, torch.tensor([place[k] for k in members])).nonzero().flatten()
                if len(mine):
                    values = self._values(module, obs[mine])
                    row = torch.tensor([members.index(self.alive[int(owner[n])]) for n in mine])
                    result[mine] = values[row, torch.arange(len(mine))]
        return result

    def update(self, obs: Tensor, teacher: Tensor, fraction: float) -> Tensor:
        """One gradient step of all; ``teacher`` (B, A) is divided by its temperature. Returns the KL of each living student, (K,)."""
        self.updates += 1
        set_learning_rate(self.optimiser, self.learning_rate, self._since, fraction)
        each = []
        for _, module in self.groups:
            values = self._values(module, obs)
            flat = losses.forward_kl(student=values.flatten(0, 1), teacher=teacher.expand(len(values), -1, -1).flatten(0, 1))
            each.append(flat.view(len(values), -1).mean(1))
        loss = torch.cat(each)
        self.optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._since += 1
        move_average(self._averages, self._parameters, self.decay, self._since)
        return loss.detach()[self._order]

    def network(self, k: int) -> Network:
        """Student k as it ships: averaged weights, raw observations."""
        start = 0
        for members, module in self.groups:
            count = len(list(module.parameters()))
            if k in members:
                own = [p.detach().clone() for p in module.parameters()]
                with torch.no_grad():
                    for parameter, average in zip(module.parameters(), self._averages[start : start + count], strict=True):
                        parameter.copy_(average)
                    network = module.network(members.index(k)) if isinstance(module, StackedMLP) else copy.deepcopy(module)
                    for parameter, value in zip(module.parameters(), own, strict=True):
                        parameter.copy_(value)
                network.standardise(self.mean, self.scale)
                network.fold()
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
        self._restart()

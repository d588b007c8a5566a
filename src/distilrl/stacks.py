"""Many small MLPs as one module of batched products."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distilrl.networks import Network
from distilrl.specs import ACTIVATIONS


class StackedMLP(nn.Module):
    """K multilayer perceptrons of one depth and activation, and any widths, as one: weights (K, out, in), padded with
    zeros that stay zeros.
    """

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
        """Standardised observations (B, D), the same for all, to numbers (K, B, P)."""
        return self.each(obs.expand(len(self.specs), -1, -1))

    def each(self, x: Tensor) -> Tensor:
        """Standardised observations (K, B, D), those of each network, to numbers (K, B, P)."""
        activation = ACTIVATIONS[self.specs[0].activation]()
        for level, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            x = activation(x) if level < len(self.weights) - 1 else x
        return x

    def inside(self) -> list[Tensor]:
        """Of each parameter, in their order: 1 where a student has it, 0 where it is padding."""
        widths = torch.tensor([[spec.features, *spec.hidden, spec.outputs] for spec in self.specs])
        outs, ins = (
            [torch.arange(w.shape[a]) < widths[:, level + 2 - a, None] for level, w in enumerate(self.weights)]
            for a in (1, 2)
        )
        weights = [(out.unsqueeze(2) & into.unsqueeze(1)) for out, into in zip(outs, ins, strict=True)]
        return [one.to(self.weights[0]) for one in (*weights, *(out.unsqueeze(1) for out in outs))]

    def keep(self, chosen: Sequence[int]) -> None:
        """Goes on with some of the students only."""
        self.specs = [self.specs[k] for k in chosen]
        for values in (self.weights, self.biases):
            for index, value in enumerate(values):
                values[index] = nn.Parameter(value.detach()[list(chosen)].clone())

    def network(self, k: int) -> Network:
        """One of the students, its standardisation not yet set."""
        network = Network(self.specs[k]).to(self.weights[0].device)
        layers = [m for m in network.layers if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                out, fan_in = layer.weight.shape
                layer.weight.copy_(weight[k, :out, :fan_in])
                layer.bias.copy_(bias[k, 0, :out])
        return network

"""A network of a spec.

It takes raw observations (bytes for pixels, floats for vectors): whatever scaling or standardisation
it was trained with lives in its first layer, so that the file that ships needs no preprocessing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.blocks import Dueling, MemoryCell, ResidualBlock, ReusedHead, interleaved, plain_layer, set_head
from distilrl.heads import Units
from distilrl.isolation import isolated
from distilrl.specs import ACTIVATIONS, NetworkSpec

FAR = 1e4
"""Times its scale by which a number may lie from 0 before what is subtracted from it is subtracted from the observation
itself while it trains: folded into the first layer's bias it would round off what varies."""


class Network(nn.Module):
    """Convolutions, dense layers and a linear head: raw observations to numbers (B, P).

    While it trains, the first layer sees (obs − obs_mean) · obs_scale; the two are not applied to the observations
    but to the layer's weights, which costs nothing, and `fold` makes that permanent. So it does with the `Units` of the
    head, where there are any.
    """

    obs_mean: Tensor
    obs_scale: Tensor
    _seen: Tensor
    obs_moves: Tensor | None
    """How many times as much as an observation a move counts, (D,); None: a history is read as observations."""
    out_matrix: Tensor | None
    out_offset: Tensor | None

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        activation = ACTIVATIONS[spec.activation]
        layers: list[nn.Module] = []
        channels = (spec.picture or spec.obs_shape)[0]
        for out, kernel, stride in spec.convs:
            layers += [nn.Conv2d(channels, out, kernel, stride), activation()]
            channels = out
        for out in spec.blocks:
            layers += [
                nn.Conv2d(channels, out, 3, padding=1),
                nn.MaxPool2d(3, 2, padding=1),
                ResidualBlock(out),
                ResidualBlock(out),
            ]
            channels = out
        if spec.blocks:
            layers.append(activation())
        features = spec.features
        if spec.picture is not None:
            layers.append(nn.Flatten())
        for width in spec.hidden:
            layers += [nn.Linear(features, width), activation()]
            features = width
        if spec.cell is not None:
            layers.append(MemoryCell(features, spec.cell))
            features = spec.cell.size + spec.beside_cell
        for width in spec.behind:
            layers += [nn.Linear(features, width), activation()]
            features = width
        layers.append(Dueling(features, spec.outputs) if spec.dueling else nn.Linear(features, spec.outputs))
        self.layers = nn.Sequential(*layers)
        self._first_index = 1 if isinstance(layers[0], nn.Flatten) else 0
        # one statistic for each number of a vector, and one for all pixels, which comes last beside a vector
        shape = (spec.vector + 1,) if spec.picture is not None else (spec.features,)
        self.register_buffer("obs_mean", torch.zeros(shape), persistent=False)
        self.register_buffer("obs_scale", torch.ones(shape), persistent=False)
        self.register_buffer("obs_moves", None, persistent=False)
        self._far = False
        self.register_buffer("_seen", torch.tensor(spec.seen, dtype=torch.int64), persistent=False)
        self.set_units(None)
        if spec.convs or spec.blocks:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def standardise(self, mean: Tensor, scale: Tensor, moves: Tensor | None = None) -> None:
        """From now on the first layer sees (obs − mean) · scale; shapes (1,) for an image, (D,) for vectors, (D + 1,)
        for both, D with what the network does not read.

        A padded first layer sees obs / sqrt(mean² + 1/scale²) instead: its zeros at the border must stay zeros. With
        ``moves`` (D,) one that reads a history sees only the latest observation so, and of those before it how far each
        number moved from one to the next, times these: a velocity, whose part of a number is small, counts as much as
        a position.
        """
        if self.spec.blocks:
            mean, scale = torch.zeros_like(mean), (mean.square() + scale.square().reciprocal()).rsqrt()
        if len(self.spec.obs_shape) == 1:  # the last place beside a vector is that of all pixels
            beside = [-1] if self.spec.image is not None else []
            seen = torch.tensor([*self.spec.seen, *beside], device=mean.device)
            mean, scale = (one[seen].repeat(self.spec.history) for one in (mean, scale))
        if moves is not None and self.spec.history > 1:
            own = scale[: len(self.spec.seen)]
            moves = torch.where(own == 0, torch.zeros_like(own), moves[self._seen] / own)
        self.set_statistics(mean, scale, moves if self.spec.history > 1 else None)

    def set_statistics(self, mean: Tensor, scale: Tensor, moves: Tensor | None) -> None:
        """Takes what `standardise` has made of its arguments."""
        self.obs_mean.copy_(mean)
        self.obs_scale.copy_(scale)
        self.obs_moves = moves.to(self.obs_mean.device) if moves is not None else None
        known = self.obs_mean.numel() > 0 and not self.obs_mean.is_meta
        self._far = known and bool((self.obs_mean * self.obs_scale).abs().max() > FAR)

    def forget(self, still: Tensor) -> None:
        """Gives no weight to numbers of a vector that always are what is subtracted from them, so that nothing changes.

        Args:
            still: (D,) what they always are, NaN of others; one that reads an image alone forgets none.
        """
        spec = self.spec
        if not spec.seen or bool(still.isnan().all()):
            return
        read = still.to(self.obs_mean.device)[self._seen].repeat(spec.history)
        read = read == self.obs_mean[: len(read)]
        dense, begin = self._joined() if spec.image is not None else (cast("nn.Linear", self._first()), 0)
        dense.weight.data[:, begin:][:, read] = 0.0

    @property
    def input_scale(self) -> Tensor:
        """What the numbers of observations are multiplied by, as `standardise` takes it; with a history the same for
        each of its observations, moves or not; 0 where a number is not seen.
        """
        spec = self.spec
        if not spec.unseen:
            return self.obs_scale
        own = self.obs_scale.view(spec.history, -1)
        whole = own.new_zeros(spec.history, own.shape[1] + len(spec.unseen))
        whole[:, self._seen] = own[:, : len(self._seen)]
        if spec.image is not None:
            whole[:, -1] = own[:, -1]
        return whole.flatten()

    @property
    def units(self) -> Units | None:
        """What takes the last layer's numbers to the outputs; None: they are the outputs."""
        if self.out_matrix is None or self.out_offset is None:
            return None
        return Units(self.out_matrix, self.out_offset)

    def set_units(self, units: Units | None) -> None:
        """From now on the outputs are the last layer's numbers in these units, wherever they come from."""
        for name in ("matrix", "offset"):
            value = getattr(units, name).to(self.obs_mean.device, copy=True) if units is not None else None
            self.register_buffer(f"out_{name}", value, persistent=False)

    def fold(self) -> None:
        """Moves what only training needs (standardisation, units, a dueling or reused head) into plain layers: the same
        function.
        """
        head = self.layers[-1]
        if isinstance(head, Dueling | ReusedHead):
            weight, bias = (t.detach() for t in head.plain())
            self.layers[-1] = plain = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
            plain.load_state_dict({"weight": weight, "bias": bias})
            plain.requires_grad_(next(head.parameters()).requires_grad)
            self.spec = replace(self.spec, dueling=False)
        if (units := self.units) is not None:
            plain = cast("nn.Linear", self.layers[-1])
            with torch.no_grad():
                plain.weight.copy_(units.matrix @ plain.weight)
                plain.bias.copy_(units.values(plain.bias))
            self.set_units(None)
        first = self._first()
        with torch.no_grad():
            weight, bias = self.folded()
            first.weight.copy_(weight)
            cast("Tensor", first.bias).copy_(bias)
            if self.spec.vector:
                dense, _ = self._joined()
                for own, folded in zip((dense.weight, dense.bias), self.folded_beside(), strict=True):
                    own.copy_(folded)
        self.set_statistics(torch.zeros_like(self.obs_mean), torch.ones_like(self.obs_scale), None)

    def unfold(self) -> None:
        """Makes weights that were written for raw observations the same function under the standardisation and the
        units now set; `fold`'s inverse.
        """
        first, scale, mean = self._first(), self.obs_scale, self.obs_mean
        if (units := self.units) is not None:
            weight, bias = plain_layer(self.layers[-1])
            set_head(self.layers[-1], units.inverse @ weight, units.numbers(bias))
        inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
        with torch.no_grad():
            if self.spec.vector:
                dense, start = self._joined()
                past = dense.weight[:, start:].clone()
                dense.weight[:, start:] = past * inverse[:-1]
                dense.bias.add_(past @ mean[:-1])
                inverse, mean = inverse[-1:], mean[-1:]
            raw = first.weight.clone()
            first.weight.copy_(self._of_moves(raw * inverse))
            shift = raw.sum(dim=(1, 2, 3)) * mean if raw.ndim == 4 else raw @ mean.expand(raw.shape[1])
            cast("Tensor", first.bias).add_(shift)

    def start_as(self, other: "Network") -> None:
        """Takes the weights of a network for raw observations; the same function, under the standardisation and the
        units now set. It is of the same shape, but for a dueling head.
        """
        self.layers[:-1].load_state_dict(other.layers[:-1].state_dict())
        set_head(self.layers[-1], *plain_layer(other.layers[-1]))
        self.unfold()

    def scale_head(self, factor: float) -> None:
        """Multiplies the outputs by a constant, in the head's weights."""
        head = self.layers[-1]
        with torch.no_grad():
            for tensor in (head.weight, head.bias) if isinstance(head, ReusedHead) else head.parameters():
                tensor.mul_(factor)

    def forward(self, obs: Tensor) -> Tensor:
        """Numbers (B, P) of observations (B, *obs_shape) of any number type."""
        return self.in_units(self._through(self._entered(obs), obs, list(self.layers)[self._first_index + 1 :]))

    def _entered(self, obs: Tensor) -> Tensor:
        """What the first layer makes of observations."""
        first = self._first()
        if self._far and not isinstance(first, nn.Conv2d):
            seen = self.visible(obs).to(first.weight.dtype).flatten(1)
            weight = self._of_observations(first.weight)
            return F.linear((seen - self.obs_mean) * self.obs_scale, weight, first.bias)
        weight, bias = self.folded()
        if not isinstance(first, nn.Conv2d):
            return F.linear(self.visible(obs).to(weight.dtype).flatten(1), weight, bias)
        image = obs
        if self.spec.image is not None:
            image = obs[:, -math.prod(self.spec.image) :].reshape(-1, *self.spec.image)
        return F.conv2d(
            interleaved(image).to(weight.dtype), weight, bias, first.stride, cast("tuple[int, int]", first.padding)
        )

    def _through(self, x: Tensor, obs: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        """What further layers make of that."""
        for layer in layers:
            x = layer(x)
            if self.spec.vector and isinstance(layer, nn.Flatten):
                x = torch.cat(
                    [x, (self.visible(obs).to(self.obs_mean.dtype) - self.obs_mean[:-1]) * self.obs_scale[:-1]], dim=1
                )
        return x

    def visible(self, obs: Tensor) -> Tensor:
        """What it reads of vectors (B, D), or of histories (B, H · D); beside an image, of the vector alone."""
        spec = self.spec
        if len(spec.obs_shape) > 1 or (not spec.unseen and spec.image is None):
            return obs
        return obs.view(len(obs), -1, spec.obs_shape[0])[:, :, self._seen].flatten(1)

    def bare(self) -> Self:
        """The same function of vectors that hold only what it reads, or of the image alone where it reads no vector."""
        shape = (len(self.spec.seen),) if self.spec.seen else self.spec.image or ()
        with isolated():
            network = type(self)(replace(self.spec, obs_shape=shape, image=None, unseen=()))
        network.load_state_dict(self.state_dict())
        network.standardise_as(self)
        return network.eval().requires_grad_(False)

    def standardise_as(self, other: "Network") -> None:
        """Takes over the standardisation of a network that reads the same."""
        self.set_statistics(other.obs_mean, other.obs_scale, other.obs_moves)

    def in_units(self, x: Tensor) -> Tensor:
        """The last layer's numbers in the units of the outputs."""
        return F.linear(x, self.out_matrix, self.out_offset) if self.out_matrix is not None else x

    def _joined(self) -> tuple[nn.Linear, int]:
        """The dense layer that reads an image's features and the vector beside it, and where the vector begins."""
        first = next(layer for layer in self.layers if isinstance(layer, nn.Linear | MemoryCell))
        dense = first.inputs if isinstance(first, MemoryCell) else first
        return dense, dense.weight.shape[1] - self.spec.vector

    def _first(self) -> nn.Conv2d | nn.Linear:
        first = self.layers[self._first_index]
        return cast("nn.Conv2d | nn.Linear", first.inputs if isinstance(first, MemoryCell) else first)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The first layer's weight and bias for raw observations, standardisation included."""
        first = self._first()
        if isinstance(first, nn.Conv2d):
            weight = first.weight * self.obs_scale[-1:]
            return weight, first.bias - weight.sum(dim=(1, 2, 3)) * self.obs_mean[-1:]  # type: ignore[operator]
        weight = self._of_observations(first.weight) * self.obs_scale
        mean = self.obs_mean.expand(weight.shape[1])
        return weight, first.bias - weight @ mean

    def folded_beside(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer that reads a vector behind an image's features, for raw numbers of it."""
        dense, start = self._joined()
        past = dense.weight[:, start:] * self.obs_scale[:-1]
        return torch.cat([dense.weight[:, :start], past], 1), dense.bias - past @ self.obs_mean[:-1]

    def _of_observations(self, weight: Tensor) -> Tensor:
        """Weights (out, H · D) for standardised observations of those for how they moved, and where they are now."""
        if self.obs_moves is None:
            return weight
        own = weight.view(len(weight), self.spec.history, -1)
        moved, latest = own[:, :-1] * self.obs_moves, own[:, -1:]
        return (torch.cat([torch.zeros_like(latest), moved], 1) - torch.cat([moved, -latest], 1)).flatten(1)

    def _of_moves(self, weight: Tensor) -> Tensor:
        """`_of_observations`' inverse."""
        if self.obs_moves is None:
            return weight
        so_far = weight.view(len(weight), self.spec.history, -1).cumsum(1)
        inverse = torch.where(self.obs_moves == 0, torch.zeros_like(self.obs_moves), 1 / self.obs_moves)
        return torch.cat([-so_far[:, :-1] * inverse, so_far[:, -1:]], 1).flatten(1)

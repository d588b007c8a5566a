"""Networks as data: a frozen, JSON-able `NetworkSpec`, and `build(spec)` that makes the module.

Every network takes raw observations (bytes for pixels, floats for vectors): whatever scaling or standardisation
it was trained with lives in its first layer, so that the file that ships needs no preprocessing.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.errors import SpecError

NATURE_KERNELS = ((8, 4), (4, 2), (3, 1))
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of a network from observations to action values."""

    obs_shape: tuple[int, ...]
    """Shape of one observation: (D,) for vectors, (C, H, W) for pixels."""
    n_actions: int
    """Number of discrete actions A."""
    convs: tuple[tuple[int, int, int], ...] = ()
    """Convolutions as (channels, kernel, stride), no padding; empty for an MLP."""
    blocks: tuple[int, ...] = ()
    """Channels of the stages of a residual network (IMPALA, Espeholt et al. 2018): each a padded 3x3 convolution, max-pooling of
    stride 2 and two residual blocks; instead of ``convs``."""
    hidden: tuple[int, ...] = ()
    """Widths of the dense layers before the head; empty for a linear head."""
    activation: str = "relu"
    """Name of the activation: relu, tanh or elu."""
    dueling: bool = False
    """The head is V + A − mean A (Wang et al. 2016) while it trains; a plain head of the same function when it ships."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise SpecError(f"Unknown activation '{self.activation}': use one of {', '.join(ACTIVATIONS)}.")
        if min((self.n_actions, *self.obs_shape, *self.hidden, *self.blocks, *(n for c in self.convs for n in c)), default=0) < 1:
            raise SpecError(f"Every size of a network must be at least 1, got {self.describe()}.")
        if self.convs and self.blocks:
            raise SpecError("A network has either 'convs' or residual 'blocks', not both.")
        if (self.convs or self.blocks) and len(self.obs_shape) != 3:
            raise SpecError(
                f"A convolutional network needs (C, H, W) observations, but these have shape {self.obs_shape}: "
                "use an mlp spec such as mlp:64,64."
            )
        self.conv_shapes()

    @property
    def features(self) -> int:
        """Number of inputs of the first dense layer."""
        shapes = self.conv_shapes()
        return math.prod(shapes[-1] if shapes else self.obs_shape)

    def conv_shapes(self) -> list[tuple[int, int, int]]:
        """Shape (C, H, W) after each convolution, or after each stage of a residual network."""
        shapes: list[tuple[int, int, int]] = []
        if not self.convs and not self.blocks:
            return shapes
        _, height, width = self.obs_shape
        for channels in self.blocks:
            height, width = (height + 1) // 2, (width + 1) // 2
            shapes.append((channels, height, width))
        for channels, kernel, stride in self.convs:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if height < 1 or width < 1:
                raise SpecError(
                    f"The {len(shapes) + 1}. convolution (kernel {kernel}, stride {stride}) of {self.describe()} "
                    f"does not fit its input: use fewer layers or smaller kernels for observations of {self.obs_shape}."
                )
            shapes.append((channels, height, width))
        return shapes

    def describe(self) -> str:
        """The spec in the words of the command line, for example ``cnn:16,16,16:64``."""
        dense = ",".join(map(str, self.hidden))
        if self.blocks:
            return f"resnet:{','.join(map(str, self.blocks))}:{dense}"
        if not self.convs:
            return f"mlp:{dense}"
        nature = [c[1:] for c in self.convs] == list(NATURE_KERNELS[: len(self.convs)])
        convs = ",".join(str(c) if nature else f"{c}k{k}s{s}" for c, k, s in self.convs)
        return f"cnn:{convs}:{dense}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "NetworkSpec":
        """Reads `to_json`'s data; unknown or missing keys are refused."""
        try:
            return cls(
                obs_shape=tuple(int(n) for n in data["obs_shape"]),
                n_actions=int(data["n_actions"]),
                convs=tuple((int(c), int(k), int(s)) for c, k, s in data.get("convs", ())),
                blocks=tuple(int(n) for n in data.get("blocks", ())),
                hidden=tuple(int(n) for n in data.get("hidden", ())),
                activation=str(data.get("activation", "relu")),
                dueling=bool(data.get("dueling", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"The network spec {data!r} is damaged ({error}): it needs obs_shape and n_actions.") from None

    @classmethod
    def parse(cls, text: str, obs_shape: tuple[int, ...], n_actions: int) -> "NetworkSpec":
        """Reads a student spec of the command line.

        ``mlp:64,64``, ``mlp:`` (linear), ``cnn:16,16,16:64`` (kernels and strides 8/4, 4/2, 3/1 in turn, then the
        dense widths), ``cnn:8k8s4,8k4s2,8k3s2:32`` (channels, kernel and stride written out), ``resnet:16,32,32:256``.

        Raises:
            SpecError: the text is none of these, or does not fit the observations.
        """
        mlp = re.fullmatch(r"mlp:(\d+(?:,\d+)*)?", text)
        if mlp and len(obs_shape) == 1:
            return cls(obs_shape, n_actions, hidden=_integers(mlp[1]))
        if mlp:
            raise SpecError(f"'{text}' is for vectors, but observations have shape {obs_shape}: use e.g. cnn:16,16,16:64.")
        resnet = re.fullmatch(r"resnet:(\d+(?:,\d+)*):(\d+(?:,\d+)*)?", text)
        if resnet:
            return cls(obs_shape, n_actions, blocks=_integers(resnet[1]), hidden=_integers(resnet[2]))
        cnn = re.fullmatch(r"cnn:(\d+(?:k\d+s\d+)?(?:,\d+(?:k\d+s\d+)?)*):(\d+(?:,\d+)*)?", text)
        if not cnn:
            raise SpecError(
                f"'{text}' is no student spec: write mlp:64,64 (or mlp: for a linear student) for vectors, "
                "cnn:16,16,16:64, cnn:8k8s4,8k4s2,8k3s2:32 or resnet:16,32,32:256 for pixels."
            )
        layers = cnn[1].split(",")
        if len(layers) > len(NATURE_KERNELS) and any("k" not in layer for layer in layers[len(NATURE_KERNELS) :]):
            raise SpecError(f"'{text}' has more than three convolutions: write kernels and strides out, e.g. 8k3s1.")
        convs = []
        for index, layer in enumerate(layers):
            numbers = [int(n) for n in re.findall(r"\d+", layer)]
            convs.append((numbers[0], *(numbers[1:] if len(numbers) == 3 else NATURE_KERNELS[index])))
        return cls(obs_shape, n_actions, convs=tuple((c, k, s) for c, k, s in convs), hidden=_integers(cnn[2]))

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(fan_in * out + out for fan_in, out, _ in self._layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass of one observation, biases not counted."""
        return sum(fan_in * out * positions for fan_in, out, positions in self._layers())

    def _layers(self) -> list[tuple[int, int, int]]:
        """(fan in, outputs, positions) of each layer."""
        layers = []
        channels = self.obs_shape[0]
        for (out, kernel, _), (_, height, width) in zip(self.convs, self.conv_shapes(), strict=bool(self.convs)):
            layers.append((channels * kernel * kernel, out, height * width))
            channels = out
        before = self.obs_shape[1:]
        for out, (_, height, width) in zip(self.blocks, self.conv_shapes(), strict=bool(self.blocks)):
            layers += [(channels * 9, out, math.prod(before)), *[(out * 9, out, height * width)] * 4]
            channels, before = out, (height, width)
        features = self.features
        for out in (*self.hidden, self.n_actions + self.dueling):
            layers.append((features, out, 1))
            features = out
        return layers


def _integers(text: str | None) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",")) if text else ()


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), the convolutions 3x3 and padded (He et al. 2016, in IMPALA's order)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return cast("Tensor", x + self.conv1(F.relu(self.conv0(F.relu(x)))))


class Dueling(nn.Module):
    """V + A − mean A (Wang et al. 2016, eq. 9), V and A linear in the same features."""

    def __init__(self, features: int, n_actions: int) -> None:
        super().__init__()
        self.value, self.advantage = nn.Linear(features, 1), nn.Linear(features, n_actions)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) to action values (B, A)."""
        return F.linear(x, *self.plain())

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that is the same function."""
        value, advantage = self.value, self.advantage
        return (
            value.weight + advantage.weight - advantage.weight.mean(0),
            value.bias + advantage.bias - advantage.bias.mean(),
        )


class ReusedHead(nn.Module):
    """The teacher's own frozen head behind a learned projection (SimKD, Chen et al. 2022); one plain layer when it ships."""

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.projection = nn.Linear(features, weight.shape[1])
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) to action values (B, A)."""
        return F.linear(self.projection(x), self.weight, self.bias)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that is the same function."""
        return self.weight @ self.projection.weight, self.weight @ self.projection.bias + self.bias


class Network(nn.Module):
    """Convolutions, dense layers and a linear head: raw observations to action values (B, A).

    While it trains, the first layer sees (obs − obs_mean) · obs_scale; the two are not applied to the observations
    but to the layer's weights, which costs nothing, and `fold` makes that permanent.
    """

    obs_mean: Tensor
    obs_scale: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        activation = ACTIVATIONS[spec.activation]
        layers: list[nn.Module] = []
        channels = spec.obs_shape[0]
        for out, kernel, stride in spec.convs:
            layers += [nn.Conv2d(channels, out, kernel, stride), activation()]
            channels = out
        for out in spec.blocks:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, 2, padding=1), ResidualBlock(out), ResidualBlock(out)]
            channels = out
        if spec.blocks:
            layers.append(activation())
        features = spec.features
        if len(spec.obs_shape) > 1:
            layers.append(nn.Flatten())
        for width in spec.hidden:
            layers += [nn.Linear(features, width), activation()]
            features = width
        layers.append(Dueling(features, spec.n_actions) if spec.dueling else nn.Linear(features, spec.n_actions))
        self.layers = nn.Sequential(*layers)
        self._first_index = 1 if isinstance(layers[0], nn.Flatten) else 0
        shape = (1,) if len(spec.obs_shape) > 1 else spec.obs_shape  # one statistic for pixels, one per feature for vectors
        self.register_buffer("obs_mean", torch.zeros(shape), persistent=False)
        self.register_buffer("obs_scale", torch.ones(shape), persistent=False)
        if spec.convs or spec.blocks:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """From now on the first layer sees (obs − mean) · scale; shapes (1,) for pixels, (D,) for vectors.

        A padded first layer sees obs / sqrt(mean² + 1/scale²) instead: its zeros at the border must stay zeros.
        """
        if self.spec.blocks:
            mean, scale = torch.zeros_like(mean), (mean.square() + scale.square().reciprocal()).rsqrt()
        self.obs_mean.copy_(mean)
        self.obs_scale.copy_(scale)

    def fold(self) -> None:
        """Moves what only training needs (standardisation, a dueling or reused head) into plain layers: the same function."""
        head = self.layers[-1]
        if isinstance(head, Dueling | ReusedHead):
            weight, bias = (t.detach() for t in head.plain())
            self.layers[-1] = plain = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
            plain.load_state_dict({"weight": weight, "bias": bias})
            plain.requires_grad_(next(head.parameters()).requires_grad)
            self.spec = replace(self.spec, dueling=False)
        first = self._first()
        with torch.no_grad():
            weight, bias = self.folded()
            first.weight.copy_(weight)
            cast("Tensor", first.bias).copy_(bias)
        self.obs_mean.zero_()
        self.obs_scale.fill_(1.0)

    def unfold(self) -> None:
        """Makes weights that were written for raw observations the same function under the standardisation now set; `fold`'s inverse."""
        first, scale = self._first(), self.obs_scale
        with torch.no_grad():
            raw = first.weight.clone()
            first.weight.copy_(raw * torch.where(scale == 0, torch.zeros_like(scale), 1 / scale))
            shift = raw.sum(dim=(1, 2, 3)) * self.obs_mean if raw.ndim == 4 else raw @ self.obs_mean.expand(raw.shape[1])
            cast("Tensor", first.bias).add_(shift)

    def scale_head(self, factor: float) -> None:
        """Multiplies the outputs by a constant, in the head's weights."""
        head = self.layers[-1]
        with torch.no_grad():
            for tensor in (head.weight, head.bias) if isinstance(head, ReusedHead) else head.parameters():
                tensor.mul_(factor)

    def forward(self, obs: Tensor) -> Tensor:
        """Action values (B, A) of observations (B, *obs_shape) of any number type."""
        first = self._first()
        weight, bias = self.folded()
        if isinstance(first, nn.Conv2d):
            x = obs.to(torch.float32, memory_format=torch.channels_last)
            x = F.conv2d(x, weight, bias, first.stride, cast("tuple[int, int]", first.padding))
        else:
            x = F.linear(obs.to(torch.float32).flatten(1), weight, bias)
        for layer in list(self.layers)[self._first_index + 1 :]:
            x = layer(x)
        return x

    def _first(self) -> nn.Conv2d | nn.Linear:
        return cast("nn.Conv2d | nn.Linear", self.layers[self._first_index])

    def folded(self) -> tuple[Tensor, Tensor]:
        """The first layer's weight and bias for raw observations, standardisation included."""
        first = self._first()
        weight = first.weight * self.obs_scale
        if isinstance(first, nn.Conv2d):
            return weight, first.bias - weight.sum(dim=(1, 2, 3)) * self.obs_mean  # type: ignore[operator]
        mean = self.obs_mean.expand(weight.shape[1])
        return weight, first.bias - weight @ mean


def draw_weights(module: nn.Module, generator: torch.Generator | None, gain: float = 1.0) -> None:
    """Normal weights of standard deviation gain/√(fan in), biases 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (gain / math.sqrt(parameter[0].numel())))
            else:
                parameter.zero_()


def reuse_head(network: Network, teacher: nn.Module, generator: torch.Generator) -> None:
    """Gives a network its teacher's frozen head behind a learned projection.

    Raises:
        SpecError: the teacher is not a `Network`, or its head is not of this network's actions.
    """
    theirs = teacher.layers[-1] if isinstance(teacher, Network) else None
    if not isinstance(theirs, nn.Linear) or theirs.weight.shape[0] != network.spec.n_actions:
        raise SpecError("Only a teacher of plain layers has a head that a student can reuse: choose another recipe.")
    features = network.spec.hidden[-1] if network.spec.hidden else network.spec.features
    network.layers[-1] = head = ReusedHead(features, theirs.weight, cast("Tensor", theirs.bias))
    draw_weights(head.projection, generator)


def build_shared(specs: Sequence[NetworkSpec], generator: torch.Generator | None = None) -> list[Network]:
    """One network per task with one body: what follows the first layer is shared, and the first layer too where the observations have
    one shape; each has its own head.

    Raises:
        SpecError: some tasks have pixels and some vectors.
    """
    if len({len(spec.obs_shape) for spec in specs}) > 1:
        raise SpecError("Tasks with pixels and tasks with vectors cannot share a body: distil them apart.")
    networks = [build(spec, generator) for spec in specs]
    first = networks[0]
    for other in networks[1:]:
        alike = other.spec.obs_shape == first.spec.obs_shape
        for index in range(0 if alike else first._first_index + 1, len(first.layers) - 1):
            other.layers[index] = first.layers[index]
    return networks


def between(wide: NetworkSpec, narrow: NetworkSpec, share: float) -> NetworkSpec:
    """The network whose widths lie between two of one build, in geometric steps: ``wide`` at a share of 0, ``narrow`` at 1.

    Raises:
        SpecError: they differ in more than their widths, or ``wide`` is narrower somewhere.
    """
    layers = [[c for c, _, _ in spec.convs] + list(spec.blocks) + list(spec.hidden) for spec in (wide, narrow)]
    shapes = [(len(spec.convs), len(spec.blocks), len(spec.hidden), [c[1:] for c in spec.convs]) for spec in (wide, narrow)]
    if shapes[0] != shapes[1] or any(big < small for big, small in zip(*layers, strict=True)):
        raise SpecError(f"{wide.describe()} cannot shrink to {narrow.describe()}: both need the same layers, the first wider ones.")
    widths = [round(small * (big / small) ** (1 - share)) for big, small in zip(*layers, strict=True)]
    convs = tuple((width, k, s) for width, (_, k, s) in zip(widths, narrow.convs, strict=False))
    dense = tuple(widths[len(widths) - len(narrow.hidden) :])
    return replace(narrow, convs=convs, blocks=tuple(widths[: len(narrow.blocks)]), hidden=dense)


def scaled(spec: NetworkSpec, params: int) -> NetworkSpec:
    """The network of the same build whose widths are multiplied so that it has about this many parameters."""

    def times(factor: float) -> NetworkSpec:
        convs = tuple((max(1, round(c * factor)), k, s) for c, k, s in spec.convs)
        blocks, hidden = (tuple(max(1, round(n * factor)) for n in widths) for widths in (spec.blocks, spec.hidden))
        return replace(spec, convs=convs, blocks=blocks, hidden=hidden)

    low, high = 0.0, 1.0
    while times(high).params < params and high < 1e4:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if times(middle).params < params else (low, middle)
    return min((times(low), times(high)), key=lambda candidate: abs(candidate.params - params))


def build(spec: NetworkSpec, generator: torch.Generator | None = None) -> Network:
    """A new network, its weights He-normal from ``generator`` (He et al. 2015), biases 0, and a head near 0."""
    network = Network(spec)
    gain = math.sqrt(2.0) if spec.activation != "tanh" else 1.0
    head = set(network.layers[-1].modules())
    for module in network.layers.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw_weights(module, generator, 0.1 if module in head else gain)
    return network


def count_bytes(network: nn.Module) -> int:
    """Bytes of the network's parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def count_macs(network: nn.Module, obs_shape: tuple[int, ...]) -> int | None:
    """Multiply-accumulates of one forward pass of one observation, biases not counted; None where no layer is one of PyTorch's."""
    if isinstance(network, Network):
        return network.spec.macs
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = cast("Tensor", module.weight)
        total += weight.numel() * (math.prod(output.shape[2:]) if output.ndim == 4 else 1)

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(torch.zeros((1, *obs_shape), dtype=torch.uint8 if len(obs_shape) == 3 else torch.float32))
    for hook in hooks:
        hook.remove()
    return total or None

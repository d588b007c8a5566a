"""Feature mapping: taps on modules, projectors between them, and a student that starts from, or ends in, its teacher's
weights.

Nothing in the models changes for a tap, and projectors never ship: they live beside the student while it trains.
"""

import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.blocks import Dueling, ResidualBlock, ReusedHead, draw_weights, plain_layer, set_head
from distilrl.errors import SpecError
from distilrl.networks import Network

Start = Literal["new", "svd", "strongest"]
POINTS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, ResidualBlock)
"""Modules whose outputs are paired by themselves; any other can be named."""
TAPLESS = "give a teacher of PyTorch's modules, or take a recipe without features, as 'distil'"
"""What is left to do with a graph of ONNX, or a function."""


class Taps:
    """While it is entered, keeps what the named modules give.

    Example::

        with Taps(network, ["layers.1"]) as taps:
            network(obs)
        features = taps["layers.1"]
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]) -> None:
        """Names the modules.

        Raises:
            SpecError: there is no module of that path.
        """
        modules = dict(network.named_modules())
        for path in paths:
            if path not in modules:
                named = ", ".join(name for name in modules if name)
                way = f"choose one of {named}" if named else TAPLESS
                raise SpecError(f"There is no module '{path}' to tap: {way}.")
        self._modules = {path: modules[path] for path in paths}
        self._hooks: list[Any] = []
        self._seen: dict[str, Tensor] = {}

    def __enter__(self) -> "Taps":
        for path, module in self._modules.items():
            self._hooks.append(
                module.register_forward_hook(lambda _m, _i, output, path=path: self._seen.__setitem__(path, output))
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __getitem__(self, path: str) -> Tensor:
        """Output of the module, (B, ...), in the last pass.

        Raises:
            SpecError: the pass did not call it.
        """
        if path not in self._seen:
            raise SpecError(f"The network does not call '{path}' as a module, so it has no tap: tap what follows it.")
        return self._seen[path]


def points(network: nn.Module, obs: Tensor) -> dict[str, tuple[int, ...]]:
    """Paths that can be paired by themselves, in the order of the pass, and the shape of one example there."""
    paths = [name for name, module in network.named_modules() if isinstance(module, POINTS)]
    paths += _into_a_reused_head(network)
    with torch.no_grad(), Taps(network, paths) as taps:
        network(obs)
    return {path: tuple(taps._seen[path].shape[1:]) for path in taps._seen}


def _into_a_reused_head(network: nn.Module) -> list[str]:
    """Path of what a reused head reads, if there is one."""
    if isinstance(network, Network) and isinstance(network.layers[-1], ReusedHead):
        return [f"layers.{len(network.layers) - 1}.projection"]
    return []


def refuse_memory(teacher: nn.Module) -> None:
    """Refuses a teacher with memory: its features depend on what came before a state, which no replay tells. So do
    those of a family's teachers on the member.

    Raises:
        SpecError: it has memory, or is of a family.
    """
    if any(getattr(module, "routes", False) for module in teacher.modules()):
        raise SpecError(
            "The members of a family have a teacher each, so that there are no features in common to compare: choose a "
            "recipe without feature terms, as 'distil'."
        )
    if hasattr(teacher, "start"):
        raise SpecError(
            "The teacher has memory, so its features of states out of their order cannot be compared: choose a recipe "
            "without feature terms, as 'distil'."
        )


class Wanted(NamedTuple):
    """What a feature term compares."""

    taps: str
    """``last`` (what the head reads), ``middle``, ``all``, or paths, ``layers.1=layers.3`` (several with commas)."""
    maps: bool = False
    """Only what convolutions give."""


def pair(student: nn.Module, teacher: nn.Module, obs: Tensor, wanted: Wanted) -> list[tuple[str, str]]:
    """Which tap of the student answers to which of the teacher. By themselves, taps of one rank (maps with maps,
    vectors with vectors) are paired by their relative depth.

    Args:
        student: network in training.
        teacher: the frozen one.
        obs: an observation (1, *obs_shape).
        wanted: which.

    Raises:
        SpecError: a network has nothing to tap, or no maps where these are wanted, the teacher has memory, or the text
            means nothing.
    """
    refuse_memory(teacher)
    taps = wanted.taps
    if "=" in taps:
        named = [tuple(item.split("=", 1)) for item in taps.split(",")]
        return cast("list[tuple[str, str]]", named)
    ours, theirs = points(student, obs), points(teacher, obs)
    names = "name the taps of the term as student.path=teacher.path, or take a recipe without features, as 'distil'"
    within = any(True for _ in teacher.children())
    ways = "choose a student with one, such as mlp:8", names if within else TAPLESS
    for name, found, way in zip(("student", "teacher"), (ours, theirs), ways, strict=True):
        if not found:
            raise SpecError(f"The {name} has no hidden layer that can be tapped: {way}.")
    matched = []
    for rank in (3,) if wanted.maps else (3, 1):
        mine, other = ([path for path, shape in found.items() if len(shape) == rank] for found in (ours, theirs))
        if mine and other:
            last = len(mine) - 1
            matched += [
                (path, other[round(i * (len(other) - 1) / last) if last else len(other) - 1])
                for i, path in enumerate(mine)
            ]
    if not matched and wanted.maps:
        raise SpecError(
            "'attention_transfer' compares the maps of convolutions, of which the student or its teacher has none: "
            "choose another recipe, as 'hints'."
        )
    if not matched:
        matched = [(list(ours)[-1], list(theirs)[-1])]
    if taps == "all":
        return matched
    if taps not in ("last", "middle"):
        raise SpecError(f"Unknown taps '{taps}': write last, middle, all, or student.path=teacher.path.")
    return [matched[-1] if taps == "last" else matched[(len(matched) - 1) // 2]]


class Projector(nn.Module):
    """From the student's features to the teacher's shape: linear, a 1x1 convolution and a resize, or nothing."""

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.size = teacher[1:] if len(teacher) == 3 else None
        self.map: nn.Module = nn.Identity()
        if student == teacher:
            self.size = None
        elif len(student) == len(teacher) == 3:
            self.map = nn.Conv2d(student[0], teacher[0], 1)
        else:
            self.size = None
            self.map = nn.Sequential(
                nn.Flatten(), nn.Linear(math.prod(student), math.prod(teacher)), nn.Unflatten(1, teacher)
            )
        draw_weights(self.map, generator)

    def forward(self, features: Tensor) -> Tensor:
        """(B, *student) to (B, *teacher)."""
        features = self.map(features)
        return F.adaptive_avg_pool2d(features, self.size) if self.size is not None else features


class FeatureMaps(nn.Module):
    """The feature taps of one task: pairs of taps for each wanted name, and projectors where elements are compared."""

    scales: Tensor

    def __init__(
        self,
        wanted: Sequence[Wanted],
        projected: Sequence[Wanted],
        student: nn.Module,
        teacher: nn.Module,
        obs: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Pairs the taps and makes the projectors.

        Args:
            wanted: what all feature terms compare.
            projected: those of them that need a projector.
            student: network in training.
            teacher: the frozen one; kept, but not as a submodule.
            obs: an observation (1, *obs_shape).
            generator: source of the projectors' weights.
        """
        super().__init__()
        self.pairs = {one: pair(student, teacher, obs, one) for one in dict.fromkeys(wanted)}
        self._teacher = (teacher,)
        self._in_its_units = _into_a_reused_head(student)
        self.student_paths = tuple(dict.fromkeys(mine for pairs in self.pairs.values() for mine, _ in pairs))
        self.teacher_paths = tuple(dict.fromkeys(theirs for pairs in self.pairs.values() for _, theirs in pairs))
        with torch.no_grad(), Taps(student, self.student_paths) as mine, Taps(teacher, self.teacher_paths) as theirs:
            student(obs)
            teacher(obs)
            shapes = {
                (a, b): (tuple(mine[a].shape[1:]), tuple(theirs[b].shape[1:]))
                for pairs in self.pairs.values()
                for a, b in pairs
            }
        for one, pairs in self.pairs.items():
            if one.maps and any(len(shape) != 3 for both in pairs for shape in shapes[both]):
                raise SpecError(f"'attention_transfer' compares maps of convolutions, which '{one.taps}' are not.")
        names = [(one, a, b) for one in dict.fromkeys(projected) for a, b in self.pairs[one]]
        self._place = {name: index for index, name in enumerate(names)}
        self.projectors = nn.ModuleList(Projector(*shapes[a, b], generator) for _, a, b in names)
        self.register_buffer("scales", torch.ones(len(self.teacher_paths)))

    def measure(self, obs: Tensor) -> None:
        """From now on the teacher's features are in units of their root mean square over these observations."""
        with torch.no_grad():
            raw = self._raw_teacher(obs)
            self.scales.copy_(
                torch.stack([raw[path].square().mean().sqrt().clamp_min(1e-6) for path in self.teacher_paths])
            )

    def _raw_teacher(self, obs: Tensor) -> dict[str, Tensor]:
        (teacher,) = self._teacher
        with torch.no_grad(), Taps(teacher, self.teacher_paths) as taps:
            teacher(obs)
            return {path: taps[path] for path in self.teacher_paths}

    def compare(
        self, wanted: Wanted, seen: Taps, teacher: dict[str, Tensor], *, project: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of features (B, ...), the student's first, projected where asked."""
        for mine, theirs in self.pairs[wanted]:
            features = seen[mine]
            if mine in self._in_its_units:  # its head reads it as it is, so it has no scale of its own to find
                features = features / self.scales[self.teacher_paths.index(theirs)]
            if project:
                features = self.projectors[self._place[wanted, mine, theirs]](features)
            yield features, teacher[theirs]

    def teacher_features(self, obs: Tensor) -> dict[str, Tensor]:
        """What the teacher's taps give, in the units that `measure` found."""
        raw = self._raw_teacher(obs)
        return {path: raw[path] / scale for path, scale in zip(self.teacher_paths, self.scales, strict=True)}


def start_from(student: Network, teacher: nn.Module, how: Start, head_factor: float = 1.0) -> list[str]:
    """Starts a student from its teacher's weights, projected to its widths layer by layer, as far as the two are built
    alike.

    ``strongest`` picks the units with the largest product of incoming and outgoing norms; ``svd`` takes the leading
    left singular vectors of each layer, which is exact for linear layers of enough width and a start otherwise. Layers
    are followed from the input on; the first one of another kind, kernel or stride ends the projection, and the head
    is set only if everything before it was. A teacher's head may be wider than the student's: a Gaussian's mean comes
    first.

    Args:
        student: network in training, its standardisation set.
        teacher: a `Network`.
        how: ``svd`` or ``strongest``.
        head_factor: multiplies the head, 1/τ for a student trained on the scale of Q/τ.

    Returns:
        The student's layers that were set.

    Raises:
        SpecError: the teacher is not a `Network`, or its first layer is of another kind already.

    Example::

        start_from(student, teacher.network, "svd")
    """
    if how == "new":
        return []
    if not isinstance(teacher, Network) or teacher.spec.blocks or student.spec.blocks:
        raise SpecError("Only a teacher of dense layers and plain convolutions gives a start: leave 'start' at new.")
    ours, theirs, basis = _weighted(student), _weighted(teacher), _entry(student, teacher)
    done: list[str] = []
    own: list[tuple[nn.Parameter, Tensor]] = []
    new = torch.zeros(0, dtype=torch.bool)
    # -- the layers before the head, as long as they are alike
    for (name, mine), (_, other), (_, following) in zip(ours[:-1], theirs[:-1], theirs[1:], strict=False):
        if not _alike(mine, other):
            break
        onward = plain_layer(following)[0].flatten(1)
        onward = onward[:, : onward.shape[1] - _passing_by(teacher, following)]
        past = _passing_by(teacher, other)
        basis, of_teacher = _project(cast("Layer", mine), cast("Layer", other), onward, basis, how, past)
        if not done:
            own = [(p, p.detach()[~of_teacher].clone()) for p in mine.parameters()]
            new = ~of_teacher
        done.append(name)
    # -- the head, if it reads the same features
    head, taught = ours[-1][1], theirs[-1][1]
    same_depth = len(done) == len(ours) - 1 == len(theirs) - 1
    if same_depth and student.spec.outputs <= teacher.spec.outputs and not isinstance(head, ReusedHead):
        weight, bias = plain_layer(taught)
        weight = _through(weight[: student.spec.outputs], basis, _passing_by(teacher, taught))
        set_head(head, weight * head_factor, bias[: student.spec.outputs] * head_factor)
        done.append(ours[-1][0])
    if not done:
        raise SpecError(
            "The student's first layer is not built like the teacher's (kind, kernel, stride): leave 'start' at new."
        )
    kept = [(p, p.detach().clone()) for name, m in ours[1:] if name not in done for p in m.parameters()]
    student.unfold()
    with torch.no_grad():
        for parameter, value in kept:  # what is new was drawn for standardised inputs
            parameter.copy_(value)
        for parameter, value in own:  # and so were units of the first layer that the teacher has none for
            parameter[new] = value
    return done


Layer = nn.Conv2d | nn.Linear


def _entry(student: Network, teacher: Network) -> Tensor:
    """(inputs of the teacher, inputs of the student) before the first layer: which number of the one is which of the
    other.

    Raises:
        SpecError: a start cannot be had from what the two see or remember.
    """
    if student.spec.unseen and student.spec.image is not None:
        raise SpecError(
            "A student that sees only a part of a vector beside an image starts anew: leave 'start' at new."
        )
    if teacher.spec.remembers or student.spec.remembers:
        raise SpecError("A network with memory neither gives a start nor takes one: leave 'start' at new.")
    basis = torch.eye((teacher.spec.picture or (teacher.spec.features,))[0], device=student.obs_mean.device)
    if student.spec.picture is not None or len(student.spec.obs_shape) > 1:
        return basis
    # what the student does not see is no input of it
    known = teacher.spec.seen
    if set(student.spec.seen) - set(known):
        raise SpecError("The student sees numbers that its teacher does not, so it starts anew: leave 'start' at new.")
    return basis[:, [known.index(place) for place in student.spec.seen]]


def _weighted(network: Network) -> list[tuple[str, nn.Module]]:
    """Path and module of each layer with weights, the head last."""
    kinds = (nn.Conv2d, nn.Linear, Dueling, ReusedHead)
    return [(f"layers.{i}", m) for i, m in enumerate(network.layers) if isinstance(m, kinds)]


def _passing_by(network: Network, layer: nn.Module) -> int:
    """Numbers of a vector beside an image that this layer reads, the last of its inputs."""
    first = next(m for m in network.layers if isinstance(m, nn.Linear | Dueling | ReusedHead))
    return network.spec.vector if layer is first else 0


def _through(weight: Tensor, basis: Tensor, past: int) -> Tensor:
    """A layer's weights (out, in · positions + past) with its inputs written in a basis (in, student's in)."""
    outputs, known = weight.shape[0], weight.flatten(1)
    maps, rest = known[:, : known.shape[1] - past], known[:, known.shape[1] - past :]
    maps = maps.reshape(outputs, basis.shape[0], -1)  # a dense layer after maps reads many positions of each
    return torch.cat([torch.einsum("oip,ij->ojp", maps, basis).reshape(outputs, -1), rest], dim=1)


def _alike(mine: nn.Module, other: nn.Module) -> bool:
    if isinstance(mine, nn.Conv2d) and isinstance(other, nn.Conv2d):
        return mine.kernel_size == other.kernel_size and mine.stride == other.stride
    return isinstance(mine, nn.Linear) and isinstance(other, nn.Linear)


def _project(mine: Layer, other: Layer, onward: Tensor, basis: Tensor, how: Start, past: int) -> tuple[Tensor, Tensor]:
    """Sets one layer from the teacher's; returns the basis (teacher's units, student's units) of what it gives, and
    which of the student's units (student's units,) were set.

    Args:
        mine: the student's.
        other: the teacher's.
        onward: weights (·, teacher's units · positions) with which the teacher's next layer reads it.
        basis: of what it reads, (teacher's units, student's units).
        how: ``svd`` or ``strongest``.
        past: numbers that it reads beside them.
    """
    weight, bias = plain_layer(other)
    outputs, weight = len(weight), _through(weight, basis, past)
    width = min(mine.weight.shape[0], outputs)
    out = torch.zeros(outputs, mine.weight.shape[0], device=weight.device)
    with torch.no_grad():
        if how == "svd":
            left = torch.linalg.svd(torch.cat([weight, bias.unsqueeze(1)], 1), full_matrices=False)[0][:, :width]
            out[:, : left.shape[1]] = left * torch.where(
                left.sum(0) < 0, -1.0, 1.0
            )  # ReLU lets positive features through
        else:
            strength = weight.norm(dim=1) * onward.reshape(len(onward), outputs, -1).norm(dim=(0, 2))
            chosen = strength.topk(width).indices.sort().values
            out[chosen, torch.arange(width, device=weight.device)] = 1.0
        used = out.norm(dim=0) > 0  # a student wider than its teacher keeps the rest as it is
        mine.weight[used] = (out.T @ weight).reshape(mine.weight.shape)[used]
        cast("Tensor", mine.bias)[used] = (out.T @ bias)[used]
    return out, used

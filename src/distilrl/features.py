"""Feature mapping: taps on modules, projectors between them, and a student that starts from, or ends in, its teacher's weights.

Nothing in the models changes for a tap, and projectors never ship: they live beside the student while it trains.
"""

import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilrl.errors import SpecError
from distilrl.networks import Network, ResidualBlock, ReusedHead, draw_weights

Start = Literal["new", "svd", "strongest"]
POINTS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, ResidualBlock)
"""Modules whose outputs are paired by themselves; any other can be named."""


class Taps:
    """While it is entered, keeps what the named modules give: ``with Taps(net, ["layers.1"]) as taps: net(obs); taps["layers.1"]``."""

    def __init__(self, network: nn.Module, paths: Sequence[str]) -> None:
        """Names the modules.

        Raises:
            SpecError: there is no module of that path.
        """
        modules = dict(network.named_modules())
        for path in paths:
            if path not in modules:
                raise SpecError(f"There is no module '{path}' to tap: choose one of {', '.join(name for name in modules if name)}.")
        self._modules = {path: modules[path] for path in paths}
        self._hooks: list[Any] = []
        self._seen: dict[str, Tensor] = {}

    def __enter__(self) -> "Taps":
        for path, module in self._modules.items():
            self._hooks.append(module.register_forward_hook(lambda _m, _i, output, path=path: self._seen.__setitem__(path, output)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __getitem__(self, path: str) -> Tensor:
        """Output of the module, (B, ...), in the last pass.

        Raises:
            SpecError: the pass did not call it.
        """
        if path not in self._seen:
            raise SpecError(f"The module '{path}' cannot be tapped, because the network does not call it as a module: tap what follows it.")
        return self._seen[path]


def points(network: nn.Module, obs: Tensor) -> dict[str, tuple[int, ...]]:
    """Paths that can be paired by themselves, in the order of the pass, and the shape of one example there."""
    paths = [name for name, module in network.named_modules() if isinstance(module, POINTS)]
    if isinstance(network, Network) and isinstance(network.layers[-1], ReusedHead):
        paths.append(f"layers.{len(network.layers) - 1}.projection")
    with torch.no_grad(), Taps(network, paths) as taps:
        network(obs)
    return {path: tuple(taps._seen[path].shape[1:]) for path in taps._seen}


def pair(student: nn.Module, teacher: nn.Module, obs: Tensor, taps: str) -> list[tuple[str, str]]:
    """Which tap of the student answers to which of the teacher.

    Args:
        student: network in training.
        teacher: the frozen one.
        obs: an observation (1, *obs_shape).
        taps: ``last`` (what the head reads), ``middle``, ``all``, or paths, ``layers.1=layers.3`` (several with commas). By themselves,
            taps of one rank (maps with maps, vectors with vectors) are paired by their relative depth.

    Raises:
        SpecError: a network has nothing to tap, or the text means nothing.
    """
    if "=" in taps:
        named = [tuple(item.split("=", 1)) for item in taps.split(",")]
        return cast("list[tuple[str, str]]", named)
    ours, theirs = points(student, obs), points(teacher, obs)
    for name, found in (("student", ours), ("teacher", theirs)):
        if not found:
            raise SpecError(f"The {name} has no hidden layer that can be tapped: name the taps as student.path=teacher.path.")
    matched = []
    for rank in (3, 1):
        mine, other = ([path for path, shape in found.items() if len(shape) == rank] for found in (ours, theirs))
        if mine and other:
            last = len(mine) - 1
            matched += [(path, other[round(i * (len(other) - 1) / last) if last else len(other) - 1]) for i, path in enumerate(mine)]
    if not matched:
        matched = [(list(ours)[-1], list(theirs)[-1])]
    if taps == "all":
        return matched
    if taps not in ("last", "middle"):
        raise SpecError(f"Unknown taps '{taps}': write last, middle, all, or student.path=teacher.path.")
    return [matched[-1] if taps == "last" else matched[(len(matched) - 1) // 2]]


class Projector(nn.Module):
    """From the student's features to the teacher's shape: linear, or a 1x1 convolution and a resize; nothing where the shapes are equal."""

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
            self.map = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(student), math.prod(teacher)), nn.Unflatten(1, teacher))
        draw_weights(self.map, generator)

    def forward(self, features: Tensor) -> Tensor:
        """(B, *student) to (B, *teacher)."""
        features = self.map(features)
        return F.adaptive_avg_pool2d(features, self.size) if self.size is not None else features


class FeatureMaps(nn.Module):
    """The feature taps of one task: for each wanted name, pairs of taps, and projectors for the terms that compare element by element."""

    scales: Tensor

    def __init__(
        self,
        wanted: Sequence[str],
        projected: Sequence[str],
        student: nn.Module,
        teacher: nn.Module,
        obs: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Pairs the taps and makes the projectors.

        Args:
            wanted: the ``taps`` of all feature terms.
            projected: those of them that need a projector.
            student: network in training.
            teacher: the frozen one; kept, but not as a submodule.
            obs: an observation (1, *obs_shape).
            generator: source of the projectors' weights.
        """
        super().__init__()
        self.pairs = {taps: pair(student, teacher, obs, taps) for taps in dict.fromkeys(wanted)}
        self._teacher = (teacher,)
        self.student_paths = tuple(dict.fromkeys(mine for pairs in self.pairs.values() for mine, _ in pairs))
        self.teacher_paths = tuple(dict.fromkeys(theirs for pairs in self.pairs.values() for _, theirs in pairs))
        with torch.no_grad(), Taps(student, self.student_paths) as mine, Taps(teacher, self.teacher_paths) as theirs:
            student(obs)
            teacher(obs)
            shapes = [
                (tuple(mine[a].shape[1:]), tuple(theirs[b].shape[1:])) for taps in dict.fromkeys(projected) for a, b in self.pairs[taps]
            ]
        names = [(taps, a, b) for taps in dict.fromkeys(projected) for a, b in self.pairs[taps]]
        self._place = {name: index for index, name in enumerate(names)}
        self.projectors = nn.ModuleList(Projector(ours, other, generator) for ours, other in shapes)
        self.register_buffer("scales", torch.ones(len(self.teacher_paths)))

    def measure(self, obs: Tensor) -> None:
        """From now on the teacher's features are in units of their root mean square over these observations."""
        with torch.no_grad():
            raw = self._raw_teacher(obs)
            self.scales.copy_(torch.stack([raw[path].square().mean().sqrt().clamp_min(1e-6) for path in self.teacher_paths]))

    def _raw_teacher(self, obs: Tensor) -> dict[str, Tensor]:
        (teacher,) = self._teacher
        with torch.no_grad(), Taps(teacher, self.teacher_paths) as taps:
            teacher(obs)
            return {path: taps[path] for path in self.teacher_paths}

    def compare(self, taps: str, seen: Taps, teacher: dict[str, Tensor], *, project: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of features (B, ...), the student's first, projected where asked."""
        for mine, theirs in self.pairs[taps]:
            features = seen[mine]
            if project:
                features = self.projectors[self._place[taps, mine, theirs]](features)
            yield features, teacher[theirs]

    def teacher_features(self, obs: Tensor) -> dict[str, Tensor]:
        """What the teacher's taps give, in the units that `measure` found."""
        raw = self._raw_teacher(obs)
        return {path: raw[path] / scale for path, scale in zip(self.teacher_paths, self.scales, strict=True)}


def start_from(student: Network, teacher: nn.Module, how: Start, head_factor: float = 1.0) -> list[str]:
    """Starts a student from its teacher's weights, projected to its widths layer by layer, as far as the two are built alike.

    ``strongest`` picks the units with the largest product of incoming and outgoing norms; ``svd`` takes the leading left singular vectors
    of each layer, which is exact for linear layers of enough width and a start otherwise. Layers are followed from
    the input on; the first one of another kind, kernel or stride ends the projection, and the head is set only if everything before it was.

    Args:
        student: network in training, its standardisation set.
        teacher: a `Network`.
        how: ``svd`` or ``strongest``.
        head_factor: multiplies the head, 1/τ for a student trained on the scale of Q/τ.

    Returns:
        The student's layers that were set.

    Raises:
        SpecError: the teacher is not a `Network`, or its first layer is of another kind already.
    """
    if how == "new":
        return []
    if not isinstance(teacher, Network) or teacher.spec.blocks or student.spec.blocks:
        raise SpecError("A student can start only from a teacher of dense layers and plain convolutions: leave 'start' at new.")
    ours, theirs = _weighted(student), _weighted(teacher)
    basis = torch.eye(teacher.spec.obs_shape[0], device=student.obs_mean.device)
    done: list[str] = []
    while len(done) < len(ours) and len(done) < len(theirs):
        (name, mine), (_, other) = ours[len(done)], theirs[len(done)]
        head = len(done) == len(ours) - 1
        if head != (len(done) == len(theirs) - 1) or not _alike(mine, other):
            break
        following = theirs[len(done) + 1][1] if len(done) + 1 < len(theirs) else None
        basis = _project(mine, other, following, basis, how, head_factor if head else None)
        done.append(name)
    if not done:
        raise SpecError("The student's first layer is not built like the teacher's (kind, kernel, stride): leave 'start' at new.")
    student.unfold()
    return done


def _weighted(network: Network) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    layers = [(f"layers.{i}", m) for i, m in enumerate(network.layers)]
    return [(name, m) for name, m in layers if isinstance(m, nn.Conv2d | nn.Linear)]


def _alike(mine: nn.Module, other: nn.Module) -> bool:
    if isinstance(mine, nn.Conv2d) and isinstance(other, nn.Conv2d):
        return mine.kernel_size == other.kernel_size and mine.stride == other.stride
    return isinstance(mine, nn.Linear) and isinstance(other, nn.Linear)


def _project(
    mine: nn.Conv2d | nn.Linear, other: nn.Conv2d | nn.Linear, following: nn.Module | None, basis: Tensor, how: Start, head: float | None
) -> Tensor:
    """Sets one layer from the teacher's; returns the basis (teacher's units, student's units) of what it gives."""
    outputs = other.weight.shape[0]
    weight = other.weight.detach().reshape(outputs, basis.shape[0], -1)  # (out, in, positions): a dense layer after maps reads many
    weight = torch.einsum("oip,ij->ojp", weight, basis).reshape(outputs, -1)
    bias = cast("Tensor", other.bias).detach()
    with torch.no_grad():
        if head is not None:
            mine.weight.copy_((weight * head).reshape(mine.weight.shape))
            cast("Tensor", mine.bias).copy_(bias * head)
            return basis
        width = min(mine.weight.shape[0], outputs)
        out = torch.zeros(outputs, mine.weight.shape[0], device=weight.device)
        if how == "svd":
            left = torch.linalg.svd(torch.cat([weight, bias.unsqueeze(1)], 1), full_matrices=False)[0][:, :width]
            out[:, : left.shape[1]] = left * torch.where(left.sum(0) < 0, -1.0, 1.0)  # ReLU lets positive features through
        else:
            onward = cast("Tensor", following.weight).detach() if following is not None else torch.ones(1, outputs, device=weight.device)
            strength = weight.norm(dim=1) * onward.reshape(onward.shape[0], outputs, -1).norm(dim=(0, 2))
            chosen = strength.topk(width).indices.sort().values
            out[chosen, torch.arange(width, device=weight.device)] = 1.0
        used = out.norm(dim=0) > 0  # a student wider than its teacher keeps the rest as it is
        mine.weight[used] = (out.T @ weight).reshape(mine.weight.shape)[used]
        cast("Tensor", mine.bias)[used] = (out.T @ bias)[used]
    return out

"""Networks as data: a frozen, JSON-able `NetworkSpec`, its text on the command line, and what it counts."""

import math
import re
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, cast, get_args

from torch import nn

from distilrl.blocks import Cell, CellKind
from distilrl.errors import SpecError
from distilrl.limits import LARGEST_NETWORK, LARGEST_OBSERVATION, MAX_SPEC_LAYERS
from distilrl.plain import read_as
from distilrl.spaces import ObsSpec

NATURE_KERNELS = ((8, 4), (4, 2), (3, 1))
LARGE_IMAGE = 36
"""Shorter side of the smallest image that the Nature kernels fit."""
BOARD = 20
"""Images with a side shorter than this are boards of cells, in which one cell decides."""
ACTIVATIONS = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU,
}  # fmt: skip
"""By name, each as PyTorch makes it where nothing is said: ELU of alpha 1, LeakyReLU of slope 0.01, GELU by erf."""

LONGEST_HISTORY = 256
"""Observations that a student sees at once, at most."""


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of a network from observations to the numbers that a head reads."""

    obs_shape: tuple[int, ...]
    """Shape of one observation: (D,) for vectors, (C, H, W) for an image alone."""
    outputs: int
    """Numbers P that it gives: one for each choice of an action, or one for each dimension of a real one."""
    convs: tuple[tuple[int, int, int], ...] = ()
    """Convolutions as (channels, kernel, stride), no padding; empty for an MLP."""
    blocks: tuple[int, ...] = ()
    """Channels of the stages of a residual network (IMPALA, Espeholt et al. 2018): each a padded 3x3 convolution,
    max-pooling of stride 2 and two residual blocks; instead of ``convs``."""
    hidden: tuple[int, ...] = ()
    """Widths of the dense layers before the head, or before the cell where there is one; empty for none. What the last
    of them gives goes into the cell and past it, too."""
    activation: str = "relu"
    """Name of the activation, one of `ACTIVATIONS`."""
    dueling: bool = False
    """The head is V + A − mean A (Wang et al. 2016) while it trains; a plain head of the same function when it
    ships."""
    image: tuple[int, int, int] | None = None
    """(C, H, W) of an image that is the last numbers of a vector: its convolutions' features and the rest go into the
    dense layers."""
    cell: Cell | None = None
    """What it remembers of an episode by; None: nothing but ``history``."""
    behind: tuple[int, ...] = ()
    """Widths of the dense layers between the cell and the head."""
    history: int = 1
    """Vector observations that it sees at once, the oldest first; before the first of an episode, that one again."""
    unseen: tuple[int, ...] = ()
    """Places in a vector observation that it does not read, in their order."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise SpecError(f"Unknown activation '{self.activation}': use one of {', '.join(ACTIVATIONS)}.")
        if self.history < 1:
            raise SpecError(f"A history must be at least 1, got {self.history}.")
        if min((self.outputs, *self.obs_shape, *self.widths, *(n for c in self.convs for n in c))) < 1:
            raise SpecError(f"Every size of a network must be at least 1, got {self.describe()}.")
        if (layers := len(self.convs) + len(self.widths)) > MAX_SPEC_LAYERS:
            raise SpecError(f"A network has {MAX_SPEC_LAYERS:,} layers at most, and not {layers:,}.")
        if not self.obs_shape or math.prod(self.obs_shape) > LARGEST_OBSERVATION:
            raise SpecError(
                f"'obs_shape' of a network must have sizes of at most {LARGEST_OBSERVATION:,} numbers together, got "
                f"{self.obs_shape!r:.80}."
            )
        self._check_memory()
        self._check_unseen()
        if self.dueling and not (self.hidden or self.convs or self.blocks or self.cell):
            raise SpecError(
                "A dueling head needs a layer before it: give a student such as mlp:16, or leave 'dueling' out."
            )
        if self.convs and self.blocks:
            raise SpecError("A network has either 'convs' or residual 'blocks', not both.")
        if self.blocks and self.activation != "relu":
            raise SpecError(f"Residual blocks are made of ReLU: leave '{self.activation}' out, or use a cnn spec.")
        if self.image is not None and (
            len(self.obs_shape) != 1 or math.prod(self.image) >= self.obs_shape[0] or not self.convs
        ):
            raise SpecError(
                "A network of an image beside a vector needs convolutions, and observations of both in one vector."
            )
        if (self.convs or self.blocks) and self.picture is None:
            raise SpecError(
                f"A convolutional network needs (C, H, W) observations, but these have shape {self.obs_shape}: "
                "use an mlp spec such as mlp:64,64."
            )
        self.conv_shapes()
        if self.params > LARGEST_NETWORK:
            raise SpecError(
                f"{self.describe()} has {self.params:,} parameters, more than {LARGEST_NETWORK:,}: choose less."
            )

    def _check_memory(self) -> None:
        if self.cell is not None and self.cell.kind not in get_args(CellKind):
            raise SpecError(f"Unknown cell '{self.cell.kind}': use one of {', '.join(get_args(CellKind))}.")
        if self.cell is None and self.behind:
            raise SpecError("'behind' are layers behind a cell, and there is none: leave it empty.")
        if self.history > 1 and (len(self.obs_shape) != 1 or self.image is not None):
            raise SpecError(
                "'history' is of vectors, and these observations have an image, whose frames of time the environment "
                "stacks: give the student a cell, such as cnn:16,16,16:64+gru:32."
            )
        if self.history > LONGEST_HISTORY:
            raise SpecError(f"A history of {self.history} observations is too long: choose at most {LONGEST_HISTORY}.")

    def _check_unseen(self) -> None:
        places = range(self._beside)
        in_order = all(a < b for a, b in pairwise(self.unseen))
        if not in_order or not all(place in places for place in self.unseen):
            raise SpecError(
                f"'unseen' must name places in a vector of {len(places)} numbers, each once and in order, got "
                f"{list(self.unseen)}."
            )
        if self.unseen and len(self.unseen) == len(places) and self.picture is None:
            raise SpecError("A student that sees no number of its observation has nothing to decide by: hide fewer.")

    @property
    def seen(self) -> tuple[int, ...]:
        """Places in the vector of an observation that it reads; () of an image alone."""
        hidden = set(self.unseen)
        return tuple(place for place in range(self._beside) if place not in hidden)

    @property
    def remembers(self) -> bool:
        """Whether what it answers depends on earlier observations of the episode."""
        return self.cell is not None or self.history > 1

    @property
    def activates(self) -> bool:
        """Whether its ``activation`` is behind any layer; a cell has its own."""
        return bool(self.convs or self.blocks or self.hidden or self.behind)

    @property
    def last_width(self) -> int:
        """Numbers that the head reads."""
        if self.cell is not None and not self.behind:
            return self.cell.size + self.beside_cell
        dense = self.behind or self.hidden
        return dense[-1] if dense else self.features

    @property
    def beside_cell(self) -> int:
        """Numbers that go past the cell: those of the dense layer before it."""
        return self.hidden[-1] if self.cell is not None and self.hidden else 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of all that can be made wider or narrower, but for convolutions: blocks, dense layers, cell."""
        return (*self.blocks, *self.hidden, *((self.cell.size,) if self.cell is not None else ()), *self.behind)

    @property
    def picture(self) -> tuple[int, ...] | None:
        """(C, H, W) that the convolutions read; None for vectors."""
        return self.image or (self.obs_shape if len(self.obs_shape) == 3 else None)

    @property
    def _beside(self) -> int:
        """Numbers of a vector in an observation, beside an image or without one."""
        return 0 if len(self.obs_shape) != 1 else self.obs_shape[0] - math.prod(self.image or (0,))

    @property
    def vector(self) -> int:
        """Numbers that go past the convolutions into the dense layers, beside an image."""
        return len(self.seen) if self.image is not None else 0

    @property
    def features(self) -> int:
        """Number of inputs of the first dense layer."""
        shapes = self.conv_shapes()
        if shapes:
            return math.prod(shapes[-1]) + self.vector
        return (len(self.seen) if len(self.obs_shape) == 1 else math.prod(self.obs_shape)) * self.history

    def conv_shapes(self) -> list[tuple[int, int, int]]:
        """Shape (C, H, W) after each convolution, or after each stage of a residual network."""
        shapes: list[tuple[int, int, int]] = []
        if not self.convs and not self.blocks:
            return shapes
        _, height, width = self.picture or (0, 0, 0)
        for channels in self.blocks:
            height, width = (height + 1) // 2, (width + 1) // 2
            shapes.append((channels, height, width))
        for channels, kernel, stride in self.convs:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if height < 1 or width < 1:
                raise SpecError(
                    f"The {len(shapes) + 1}. convolution (kernel {kernel}, stride {stride}) of {self.describe()} "
                    f"does not fit its input: use fewer layers or smaller kernels for images of {self.picture}, e.g. "
                    "cnn:16k3s2,16k3s1:64."
                )
            shapes.append((channels, height, width))
        return shapes

    def describe(self) -> str:
        """The spec in the words of the command line, for example ``cnn:16,16,16:64`` or ``mlp:32,32@silu``."""
        words = [self._before_cell()] if self.cell is None or self.hidden or self.convs or self.blocks else []
        words += [f"{self.cell.kind}:{self.cell.size}"] if self.cell is not None else []
        words += [f"mlp:{','.join(map(str, self.behind))}"] if self.behind else []
        options = [f"@{self.activation}"] if self.activation != "relu" and self.activates else []
        options += [f"@history={self.history}"] if self.history > 1 else []
        return "+".join(words) + "".join(options)

    def _before_cell(self) -> str:
        dense = ",".join(map(str, self.hidden))
        if self.blocks:
            return f"resnet:{','.join(map(str, self.blocks))}:{dense}"
        if not self.convs:
            return f"mlp:{dense}"
        nature = [c[1:] for c in self.convs] == list(NATURE_KERNELS[: len(self.convs)])
        convs = ",".join(str(c) if nature else f"{c}k{k}s{s}" for c, k, s in self.convs)
        return f"cnn:{convs}:{dense}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back; of memory and of what is not seen only where there is some."""
        plain = {"cell": None, "behind": (), "history": 1, "unseen": ()}
        return {k: v for k, v in asdict(self).items() if k not in plain or v != plain[k]}

    @classmethod
    def from_json(cls, data: Any, where: str = "network") -> "NetworkSpec":
        """Reads `to_json`'s data.

        Raises:
            SpecError: a key is unknown or missing, or a value has another type or means nothing.
        """
        return read_as(cls, data, where)

    @classmethod
    def parse(
        cls, text: str, obs_shape: tuple[int, ...], outputs: int, image: tuple[int, int, int] | None = None
    ) -> "NetworkSpec":
        """Reads a student spec of the command line.

        ``mlp:64,64``, ``mlp:`` (linear), ``cnn:16,16,16:64`` (kernels and strides 8/4, 4/2, 3/1 in turn, then the
        dense widths), ``cnn:8k8s4,8k4s2,8k3s2:32`` (channels, kernel and stride written out), ``resnet:16,32,32:256``.
        With memory: ``gru:16`` or ``lstm:16``, layers before and behind it with a plus, ``mlp:32+gru:16+mlp:32`` or
        ``cnn:16,16,16:64+gru:32``. Each with ``@tanh`` or another of `ACTIVATIONS` behind it for another activation
        than ReLU, and of vectors with ``@history=3`` for what sees the last three observations at once.

        Raises:
            SpecError: the text is none of these, does not fit the observations, or names an activation that no layer
                has.
        """
        if re.search(r"\d{10}", text):
            raise SpecError(f"'{text:.60}' has a width that no network has: write a smaller number.")
        words, options = _options(text)
        if options:
            spec = replace(cls.parse(words, obs_shape, outputs, image), **options)
            if "activation" in options and not spec.activates:
                raise SpecError(
                    f"'@{spec.activation}' of '{text}' is of dense layers and convolutions before the head, and there "
                    f"is none: leave it out, or add one, as in {words.rstrip(':')}{'+mlp' if spec.cell else ''}:16."
                )
            return spec
        if has_cell(text):
            return cls._with_cell(text, obs_shape, outputs, image)
        mlp = re.fullmatch(r"mlp:(\d+(?:,\d+)*)?", text)
        if mlp and len(obs_shape) == 1 and image is None:
            return cls(obs_shape, outputs, hidden=_integers(mlp[1]))
        if mlp:
            raise SpecError(
                f"'{text}' is for vectors, but observations have an image of {image or obs_shape}: use e.g. "
                f"{suggest(image or obs_shape)}."
            )
        resnet = re.fullmatch(r"resnet:(\d+(?:,\d+)*):(\d+(?:,\d+)*)?", text)
        if resnet and image is not None:
            raise SpecError(
                f"'{text}' is for an image alone, and numbers lie beside this one: use e.g. {suggest(image)}."
            )
        if resnet:
            return cls(obs_shape, outputs, blocks=_integers(resnet[1]), hidden=_integers(resnet[2]))
        cnn = re.fullmatch(r"cnn:(\d+(?:k\d+s\d+)?(?:,\d+(?:k\d+s\d+)?)*):(\d+(?:,\d+)*)?", text)
        if not cnn:
            raise SpecError(
                f"'{text}' is no student spec: write mlp:64,64 (or mlp: for a linear student) for vectors, "
                "cnn:16,16,16:64, cnn:8k8s4,8k4s2,8k3s2:32 or resnet:16,32,32:256 for pixels, "
                "gru:16 or mlp:32,32@history=3 for memory."
            )
        layers = cnn[1].split(",")
        if len(layers) > len(NATURE_KERNELS) and any("k" not in layer for layer in layers[len(NATURE_KERNELS) :]):
            raise SpecError(f"'{text}' has more than three convolutions: write kernels and strides out, e.g. 8k3s1.")
        convs = []
        for index, layer in enumerate(layers):
            numbers = [int(n) for n in re.findall(r"\d+", layer)]
            convs.append((numbers[0], *(numbers[1:] if len(numbers) == 3 else NATURE_KERNELS[index])))
        return cls(
            obs_shape, outputs, convs=tuple((c, k, s) for c, k, s in convs), hidden=_integers(cnn[2]), image=image
        )

    @classmethod
    def _with_cell(
        cls, text: str, obs_shape: tuple[int, ...], outputs: int, image: tuple[int, int, int] | None
    ) -> "NetworkSpec":
        found = re.fullmatch(r"(?:([^+]+)\+)?(gru|lstm):(\d+)(?:\+mlp:(\d+(?:,\d+)*))?", text)
        if not found or has_cell(found[1] or ""):
            raise SpecError(
                f"'{text}' is no student with memory: write gru:16, lstm:16, mlp:32+gru:16+mlp:32 or "
                "cnn:16,16,16:64+gru:32."
            )
        before, kind, cell_size, behind = found.groups()
        if before is None and (len(obs_shape) != 1 or image is not None):
            raise SpecError(
                f"'{text}' is for vectors, but observations have an image of {image or obs_shape}: use e.g. "
                f"{suggest(image or obs_shape)}+{kind}:{cell_size}."
            )
        plain = cls.parse(before or "mlp:", obs_shape, outputs, image)
        return replace(plain, cell=Cell(cast("CellKind", kind), int(cell_size)), behind=_integers(behind))

    @classmethod
    def of(cls, text: str, obs: ObsSpec, outputs: int) -> "NetworkSpec":
        """`parse` for an environment's observations."""
        return cls.parse(text, obs.shape, outputs, None if obs.pixels else obs.image)

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(layer.weights + layer.biases for layer in self._layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass of one observation, biases not counted."""
        return sum(layer.weights * layer.positions for layer in self._layers())

    def _layers(self) -> list["_Counts"]:
        layers = []
        channels = (self.picture or self.obs_shape)[0]
        for (out, kernel, _), (_, height, width) in zip(self.convs, self.conv_shapes(), strict=bool(self.convs)):
            layers.append(_Counts.of(channels * kernel * kernel, out, height * width))
            channels = out
        before = (self.picture or self.obs_shape)[1:]
        for out, (_, height, width) in zip(self.blocks, self.conv_shapes(), strict=bool(self.blocks)):
            layers.append(_Counts.of(channels * 9, out, math.prod(before)))
            layers += [_Counts.of(out * 9, out, height * width)] * 4
            channels, before = out, (height, width)
        features = self.features
        for out in self.hidden:
            layers.append(_Counts.of(features, out))
            features = out
        if (cell := self.cell) is not None:
            layers += [_Counts.of(features, cell.gates), _Counts(cell.size * cell.gates, cell.own_biases)]
            features = cell.size + self.beside_cell
        for out in (*self.behind, self.outputs + self.dueling):
            layers.append(_Counts.of(features, out))
            features = out
        return layers


class _Counts(NamedTuple):
    """What a layer has."""

    weights: int
    biases: int
    positions: int = 1
    """How often each weight is used in a pass."""

    @classmethod
    def of(cls, fan_in: int, outputs: int, positions: int = 1) -> "_Counts":
        return cls(fan_in * outputs, outputs, positions)


def history_of(text: str) -> int:
    """Observations that a spec of the command line sees at once.

    Example::

        history_of("mlp:32,32@history=3")  # 3
    """
    return int(_options(text)[1].get("history", 1))


def has_cell(text: str) -> bool:
    """Whether a spec of the command line has a memory cell.

    Example::

        has_cell("mlp:32+gru:16")  # True
    """
    return re.search(r"(?:^|\+)(?:gru|lstm):", text) is not None


def _options(text: str) -> tuple[str, dict[str, Any]]:
    """A spec's words, and what is behind its @s.

    Raises:
        SpecError: an option means nothing.
    """
    words, *given = text.split("@")
    options: dict[str, Any] = {}
    for one in given:
        name, is_number, number = one.partition("=")
        if ("history" if is_number else "activation") in options:
            raise SpecError(f"'{text}' says twice what follows an @: leave '@{one}' out.")
        if is_number and (name != "history" or not number.isdecimal()):
            raise SpecError(f"'@{one}' of '{text}' means nothing: write an activation, such as @tanh, or @history=3.")
        options |= {"history": int(number)} if is_number else {"activation": name}
    return words, options


def suited(text: str, *, real: bool) -> str:
    """A student spec with the activation that suits its actions, where it has hidden layers of vectors and names none:
    ReLU for choices, tanh for real actions.

    Example::

        suited("mlp:32,32", real=True)  # mlp:32,32@tanh
    """
    words, at, options = text.partition("@")
    named = activation_of(text) is not None
    dense = "cnn:" not in words and "resnet:" not in words and re.search(r"mlp:\d", words)
    return f"{words}@tanh{at}{options}" if real and dense and not named else text


def activation_of(text: str) -> str | None:
    """The activation that a student spec names; None where it names none."""
    options = text.split("@")[1:]
    return next((option for option in options if option and "=" not in option), None)


def spelled(spec: NetworkSpec, *, real: bool) -> str:
    """A spec in words that the command line reads back as the same: ReLU is named where `suited` would take another.

    Example::

        spelled(NetworkSpec((3,), 1, hidden=(16,)), real=True)  # mlp:16@relu
    """
    text = spec.describe()
    words, at, options = text.partition("@")
    return text if suited(text, real=real) == text else f"{words}@relu{at}{options}"


def suggest(picture: tuple[int, ...]) -> str:
    """A small convolutional spec that fits images (C, H, W): the Nature kernels where they fit, else smaller ones; of
    boards one convolution that leaves out no cell.
    """
    side = min(picture[1:])
    if side >= LARGE_IMAGE:
        return "cnn:16,16,16:64"
    return "cnn:16k3s2,16k3s1:64" if side >= BOARD else "cnn:16k3s1:64" if side >= 3 else "cnn:16k1s1:64"


def _integers(text: str | None) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",")) if text else ()

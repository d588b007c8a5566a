"""TorchScript files are code, which is never executed; of layouts that are known the tensors are read.

They are those in which robots' policies are shipped: legged_gym's and Unitree's (dense layers, or ``memory``, an LSTM,
and ``actor``), Isaac Lab's ``policy.pt``, and what rsl_rl writes itself since its version 4. A layout is known by the
name of its class and by having no attribute beside those that are known: any other may do anything to the numbers.
Activations are named in the file, and buffers that hold a state start at zero.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distilrl.networks import Network
from distilrl.teachers.archive import Checkpoint, unknown_script
from distilrl.teachers.layers import CLASSES, Layer, Stack, assemble, layer
from distilrl.teachers.pickles import ModuleOf, TensorOf
from distilrl.teachers.recurrent import Memory, Remembering, acting, read_memory, statistics_of


@dataclass(frozen=True)
class _Layout:
    """Where the parts of an exporter's module are."""

    library: str
    actor: str
    """Dense layers."""
    memory: str | None = None
    """An LSTM or a GRU before them."""
    normaliser: str | None = None
    """What observations pass first."""
    output: tuple[str, ...] = ()
    """Attributes of what its numbers pass last; only what leaves them as they are is known."""


RSL_OUTPUT = ("deterministic_output", "distribution")
LAYOUTS = {
    "PolicyExporterLSTM": _Layout("legged_gym", "actor", "memory"),
    "_TorchPolicyExporter": _Layout("Isaac Lab", "actor", "rnn", "normalizer"),
    "_TorchMLPModel": _Layout("rsl_rl", "mlp", None, "obs_normalizer", RSL_OUTPUT),
    "_TorchLSTMModel": _Layout("rsl_rl", "mlp", "rnn", "obs_normalizer", RSL_OUTPUT),
    "_TorchGRUModel": _Layout("rsl_rl", "mlp", "rnn", "obs_normalizer", RSL_OUTPUT),
}
"""By name of the class."""
IDLE = {"hidden_state", "cell_state", "training", "_is_full_backward_hook", "is_recurrent", "rnn_type"}
"""Attributes that do nothing to the numbers."""
SAME = ("state_dependent_std", False)
"""An attribute that does nothing either, with this value."""
ENDS = {"Identity", "_IdentityDeterministicOutput", "GaussianDistribution"}
"""Classes of what leaves the numbers as they are."""
OWN = re.compile(r"__torch__\.torch\.nn\.modules\.(\w+)\.(?:___torch_mangle_\d+\.)?(\w+)")
"""Names of PyTorch's own modules: package and class; a number tells those of other attributes apart."""
RSL = re.compile(
    r"__torch__\.(?:\w+\.)*rsl_rl\.(?:\w+\.)*"
    r"(MLP|EmpiricalNormalization|_IdentityDeterministicOutput|GaussianDistribution)"
)
"""Those of rsl_rl's that are known."""
STATISTICS = {"_mean", "_var", "_std", "count", "eps", "until", "training", "_is_full_backward_hook"}
"""Attributes of rsl_rl's normaliser."""

NOTE = "Its code was not executed: its tensors are used as its exporter uses them."


@dataclass(frozen=True)
class Script:
    """The policy of a TorchScript file."""

    network: "Network | Stack | Remembering"
    library: str | None
    """None where any could have written it."""


def read(checkpoint: Checkpoint) -> Script:
    """The policy of a TorchScript file.

    Raises:
        FileError: its layout is not known, or its shapes do not chain.
    """
    label, root = checkpoint.label, checkpoint.loaded
    if _class(root) == "Sequential":
        return Script(assemble(_dense(checkpoint, root, ""), label), None)
    layout = LAYOUTS.get(root.kind.rpartition(".")[2]) if isinstance(root, ModuleOf) else None
    if layout is None:
        raise unknown_script(label)
    parts = {name: one for name, one in _attributes(root).items() if name not in IDLE and (name, one) != SAME}
    ends = [parts.pop(name) for name in layout.output if name in parts]
    others = set(parts) - {layout.actor, layout.memory, layout.normaliser}
    if others or any(one is not None and _class(one) not in ENDS for one in ends):
        raise unknown_script(label)
    dense = _dense(checkpoint, parts.get(layout.actor), f"{layout.actor}.")
    memory = _memory(checkpoint, layout, parts)
    statistics = _statistics(checkpoint, parts.get(layout.normaliser or ""), layout, dense, memory)
    return Script(acting(dense, memory, statistics, label), layout.library)


def _dense(checkpoint: Checkpoint, actor: Any, prefix: str) -> list[Layer]:
    """Dense layers with an activation between them, and nothing after."""
    modules = {name: one for name, one in _attributes(actor).items() if isinstance(one, ModuleOf)}
    order = list(modules)  # in which they are called
    named = [name for name in order if not (name.isascii() and name.isdigit())]
    if _class(actor) not in ("Sequential", "MLP") or not modules or named or order != sorted(order, key=int):
        raise unknown_script(checkpoint.label)
    if not _calls_alone(_text_of(checkpoint, actor)):
        raise unknown_script(checkpoint.label)
    kinds = [_class(modules[name]) for name in order]
    dense, between = kinds[::2], kinds[1::2]
    if len(kinds) % 2 == 0 or set(dense) != {"Linear"} or not set(between) <= set(CLASSES):
        raise unknown_script(checkpoint.label)
    for name in order[1::2]:  # in the code, too, there is what no attribute says
        if not _plain(_class(modules[name]), _text_of(checkpoint, modules[name])):
            raise unknown_script(checkpoint.label)
    found = {f"{prefix}{name}.{part}": one for name in order[::2] for part, one in _tensors(modules[name])}
    tensors, activations = checkpoint.tensors(found), [CLASSES[kind] for kind in between]
    return [
        layer(tensors, f"{prefix}{name}", checkpoint.label, activation)
        for name, activation in zip(order[::2], [*activations, None], strict=True)
    ]


def _text_of(checkpoint: Checkpoint, module: ModuleOf) -> str:
    """The text of a module's class; empty where the file has none."""
    code = checkpoint.code(module.kind)
    found = re.search(rf"^class {_class(module)}\b.*?(?=^class |\Z)", code, re.DOTALL | re.MULTILINE)
    return found[0] if found is not None else ""


def _calls_alone(text: str) -> bool:
    """Whether the text of a container calls its modules and nothing else, as where hooks of it were traced."""
    return bool(text) and re.search(r"(?<![\w.])(?:torch|ops|annotate)\.\w", text) is None


def _plain(kind: str, text: str) -> bool:
    """Whether the text of a module says of an activation what PyTorch makes it where nothing is said."""
    if not text:
        return False
    # -- as an argument of the function, as a constant of the class, as an argument of the function by another name
    told = re.findall(r"\b(?:elu|leaky_relu)_?\(\w+, ([^,)]+)", text)
    told += re.findall(r": Final\[float\] = (\S+)", text) + re.findall(r"\b_\d+\(\w+, ([^,)]+)", text)
    default = {"ELU": 1.0, "LeakyReLU": 0.01}.get(kind)
    ways = re.findall(r"approximate=([^,)]+)", text)
    return all(_number(one) == default for one in told) and set(ways) <= {'"none"'}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _memory(checkpoint: Checkpoint, layout: _Layout, parts: dict[str, Any]) -> Memory | None:
    """The memory, if there is one."""
    memory = parts.get(layout.memory or "")
    if memory is None:
        return None
    if _class(memory) not in ("LSTM", "GRU"):
        raise unknown_script(checkpoint.label)
    found = {f"{layout.memory}.{name}": one for name, one in _tensors(memory)}
    made = read_memory(checkpoint.tensors(found), str(layout.memory), checkpoint.label)
    if type(made).__name__ != _class(memory):  # which its tensors tell, and the file says
        raise unknown_script(checkpoint.label)
    return made


def _statistics(
    checkpoint: Checkpoint, normaliser: Any, layout: _Layout, dense: list[Layer], memory: Memory | None
) -> tuple[Tensor, Tensor] | None:
    """Mean and 1 / (deviation + epsilon) of observations, each (D,); None where they pass as they are."""
    label, known = checkpoint.label, _attributes(normaliser)
    if normaliser is None or _class(normaliser) == "Identity":
        return None
    epsilon, plain = known.get("eps"), _class(normaliser) == "EmpiricalNormalization" and not set(known) - STATISTICS
    if not plain or type(epsilon) is not float or not epsilon > 0:
        raise unknown_script(label)
    found = {f"{layout.normaliser}.{name}": one for name, one in _tensors(normaliser) if name != "count"}
    size = memory.input_size if memory else dense[0].weight.shape[1]
    return statistics_of(checkpoint.tensors(found), str(layout.normaliser), size, epsilon, label)


def _attributes(module: Any) -> dict[str, Any]:
    """Attributes of a module by name; none where it is no module."""
    state = module.state if isinstance(module, ModuleOf) else None
    return {k: v for k, v in state.items() if isinstance(k, str)} if isinstance(state, dict) else {}


def _class(module: Any) -> str:
    """Name of the class of one of PyTorch's own modules, or of one of rsl_rl's; empty for anything else."""
    if not isinstance(module, ModuleOf):
        return ""
    own, rsl = OWN.fullmatch(module.kind), RSL.fullmatch(module.kind)
    return own[2] if own else rsl[1] if rsl else ""


def _tensors(module: Any) -> list[tuple[str, TensorOf]]:
    """Tensors of a module by name."""
    return [(name, one) for name, one in _attributes(module).items() if isinstance(one, TensorOf)]

"""TorchScript files are code, which is never executed; of one layout that is known the tensors are read.

It is the one in which legged_gym, and so Unitree, exports a policy with memory: ``memory``, an LSTM, then ``actor``,
dense layers with an activation between them, whose classes are named in the file. Its buffers hold the state, which
starts at zero.
"""

import re
from typing import Any

from distilrl.specs import ACTIVATIONS
from distilrl.teachers.archive import Checkpoint, unknown_script
from distilrl.teachers.extractors import Flat
from distilrl.teachers.layers import layer
from distilrl.teachers.pickles import ModuleOf, TensorOf
from distilrl.teachers.recurrent import Remembering, read_memory, remembering

EXPORTER = re.compile(r"__torch__\.(?:\w+\.)*PolicyExporterLSTM")
OWN = re.compile(r"__torch__\.torch\.nn\.modules\.(\w+)\.(?:___torch_mangle_\d+\.)?(\w+)")
"""Names of PyTorch's own modules: package and class; a number tells those of other attributes apart."""
CLASSES = {kind.__name__: name for name, kind in ACTIVATIONS.items()}
"""Activations by the names of their classes."""
ATTRIBUTES = {"hidden_state", "cell_state", "training", "_is_full_backward_hook", "is_recurrent", "actor", "memory"}
"""Attributes of the exporter; any other may do anything to the numbers."""

NOTE = "Its code was not executed: its tensors are used as legged_gym's exporter uses them."


def read(checkpoint: Checkpoint) -> Remembering:
    """The policy of a TorchScript file.

    Raises:
        FileError: its layout is not known, or its shapes do not chain.
    """
    label, root = checkpoint.label, checkpoint.loaded
    if not isinstance(root, ModuleOf) or not EXPORTER.fullmatch(root.kind) or set(_attributes(root)) - ATTRIBUTES:
        raise unknown_script(label)
    memory, actor = (_attributes(root).get(name) for name in ("memory", "actor"))
    modules = {name: one for name, one in _attributes(actor).items() if name.isascii() and name.isdigit()}
    if _class(memory) != "LSTM" or _class(actor) != "Sequential" or not modules:
        raise unknown_script(label)
    order = sorted(modules, key=int)
    kinds = [_class(modules[name]) for name in order]
    dense, between = kinds[::2], kinds[1::2]
    if len(kinds) % 2 == 0 or set(dense) != {"Linear"} or not set(between) <= set(CLASSES):
        raise unknown_script(label)
    found = {f"memory.{name}": one for name, one in _tensors(memory)}
    for name in order[::2]:
        found |= {f"actor.{name}.{part}": one for part, one in _tensors(modules[name])}
    tensors = checkpoint.tensors(found)
    activations = [CLASSES[kind] for kind in between]
    layers = [
        layer(tensors, f"actor.{name}", label, activation)
        for name, activation in zip(order[::2], [*activations, None], strict=True)
    ]
    lstm = read_memory(tensors, "memory", label)
    return remembering(Flat(), ((lstm.input_size,), lstm.input_size), lstm, layers, label)


def _attributes(module: Any) -> dict[str, Any]:
    """Attributes of a module by name; none where it is no module."""
    state = module.state if isinstance(module, ModuleOf) else None
    return {k: v for k, v in state.items() if isinstance(k, str)} if isinstance(state, dict) else {}


def _class(module: Any) -> str:
    """Name of the class of one of PyTorch's own modules; empty for anything else."""
    own = OWN.fullmatch(module.kind) if isinstance(module, ModuleOf) else None
    return own[2] if own else ""


def _tensors(module: Any) -> list[tuple[str, TensorOf]]:
    """Tensors of a module by name."""
    return [(name, one) for name, one in _attributes(module).items() if isinstance(one, TensorOf)]

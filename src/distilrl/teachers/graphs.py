"""ONNX graphs as data: what could run code, leave its folder, loop or fill memory is refused before it is run."""

import math
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distilrl.errors import FileError
from distilrl.limits import MAX_BYTES, MAX_CALLS, MAX_ELEMENTS, MAX_NODES
from distilrl.text import first_line, legible

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
MOVING = {
    "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Clip", "Concat", "Split", "Slice", "Gather",
    "Transpose",
}  # fmt: skip
"""Operators that leave numbers between -1 and 1 what they are, or put them side by side."""
LOOPS = {"Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"}
RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "BiasDropout",
    "BitmaskDropout",
}  # fmt: skip


def read_graph(onnx: Any, path: Path) -> Any:
    """The graph of a file, its weights not read.

    Raises:
        FileError: it is no graph.
    """
    if path.stat().st_size > MAX_BYTES:
        raise FileError(f"{path} is larger than a policy can be: give a graph of the network alone.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises what it likes for bytes that are no graph
        raise FileError(f"{path} is not a readable ONNX file ({first_line(error)}): export it again.") from None
    if not model.graph.input or not model.graph.output:
        raise FileError(f"{path} is not an ONNX graph with inputs and outputs: export it again.")
    if not all(
        isinstance(v.name, str) and v.name and v.name.isprintable() for v in (*model.graph.input, *model.graph.output)
    ):
        raise FileError(f"{path} holds names that are not text: the file is damaged, export it again.")
    return model


def check_graph(onnx: Any, model: Any, path: Path, output: str | None = None) -> int:
    """Refuses what could run code, leave the folder, loop, or fill memory; returns the number of parameters. Chance may
    be there that does not reach the ``output``.
    """
    params = 0
    if _steps(model, path) > MAX_NODES:
        raise FileError(f"{path} has more than {MAX_NODES} steps, more than a policy can need: export it again.")
    own = {f.domain for f in model.functions}
    if any(_holds(one) for function in model.functions for one in function.attribute_proto):
        raise FileError(
            f"{path} has functions with graphs or tensors for defaults, which could be anything: export it again "
            "without functions."
        )
    beside = drawn_beside(model, output) if output is not None else set()
    for graph in graphs_in(model):
        constants = {t.name: t for t in getattr(graph, "initializer", ())}
        if _sparse(graph):
            raise FileError(f"{path} holds sparse tensors, which may unfold to any size: export it with dense weights.")
        for node in graph.node:
            if node.domain not in DOMAINS | own:
                raise FileError(
                    f"{path} uses the custom operator {node.domain}.{node.op_type}, which is code: export it with "
                    "standard operators."
                )
            if node.op_type in LOOPS:
                raise FileError(
                    f"{path} uses the operator {node.op_type}, which may never end: export the policy without loops."
                )
            if (node.op_type in RANDOM and not beside & set(node.output)) or (
                node.op_type == "Dropout" and _drops(onnx, node, constants)
            ):
                raise FileError(
                    f"{path} draws random numbers ({node.op_type}): export the action that it takes without exploring."
                )
        for tensor in tensors_in(graph):
            if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):  # sizes and places
                params += math.prod(tensor.dims)
            if math.prod(tensor.dims) > MAX_ELEMENTS:
                raise FileError(
                    f"Tensor '{tensor.name}' in {path} claims shape {tuple(tensor.dims)}, more than a policy can need."
                )
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _check_external({e.key: e.value for e in tensor.external_data}.get("location", ""), path)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # its C++ side raises several kinds
        raise FileError(f"{path} is not a sound ONNX graph ({first_line(error)}): export it again.") from None
    for value in (value for graph in graphs_in(inferred) for value in (*graph.value_info, *_outputs(graph))):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if math.prod(sizes) > MAX_ELEMENTS:
            raise FileError(
                f"Tensor '{value.name}' in {path} would have shape {tuple(sizes)}, more than a policy can need."
            )
    return params


def _holds(attribute: Any) -> bool:
    """Whether an attribute holds more than numbers and texts."""
    single = any(attribute.HasField(name) for name in ("g", "t", "sparse_tensor"))
    return single or bool(attribute.graphs or attribute.tensors or attribute.sparse_tensors)


def _steps(model: Any, path: Path) -> int:
    """Nodes of a graph after the functions that it calls, and those that they call, are written out."""
    functions = {(f.domain, f.name): f for f in model.functions}
    known: dict[tuple[str, str], int] = {}

    def count(nodes: Any, inside: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in known:
                if key in inside or len(inside) > MAX_CALLS:
                    raise FileError(f"{path} has functions that call each other without end: export it again.")
                known[key] = count([n for g in _graphs_of(functions[key]) for n in g.node], (*inside, key))
            total += known.get(key, 1)
        return min(total, MAX_NODES + 1)

    return count([node for graph in _graphs_of(model.graph) for node in graph.node], ())


def _drops(onnx: Any, node: Any, constants: dict[str, Any]) -> bool:
    """Whether a Dropout may drop: its training mode is given and is not a constant false."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode = constants.get(node.input[2])
    if mode is None or mode.data_location == onnx.TensorProto.EXTERNAL:
        return True
    return bool(onnx.numpy_helper.to_array(mode).any())


def _outputs(graph: Any) -> list[Any]:
    """Typed outputs of a graph; a function's have names only."""
    return [value for value in graph.output if not isinstance(value, str)]


def _check_external(location: str, path: Path) -> None:
    """External data must be a plain file beside the graph or below: where a link leads may be anywhere."""
    parts, shown = re.split(r"[\\/]", location), legible(location)  # both separators, as on Windows
    if not parts[0] or ".." in parts or re.match("[A-Za-z]:", location):
        raise FileError(f"{path} wants to read '{shown}', outside its own folder: export it with its weights inside.")
    target = path.parent.joinpath(*parts)
    try:
        linked = any(one.is_symlink() for one in (target, *target.parents[: len(parts) - 1]))
        about = target.stat()
    except (OSError, ValueError):  # not there, or no name that a file can have
        raise FileError(
            f"{path} keeps its weights in '{shown}', which is not beside it: copy that file too; of the Hub, download "
            "both into a folder of yours."
        ) from None
    if not stat.S_ISREG(about.st_mode):
        raise FileError(f"{path} keeps its weights in '{shown}', which is no file: export it with its weights inside.")
    if linked or about.st_nlink > 1:
        raise FileError(f"{path} keeps its weights in '{shown}', which is a link: put a copy of the file in its place.")
    if about.st_size > MAX_BYTES:
        raise FileError(f"{target} is larger than a policy can be: give a graph of the network alone.")


def graphs_in(model: Any) -> Iterator[Any]:
    """The graph, its functions, and the graphs inside their nodes."""
    for one in (model.graph, *model.functions):
        yield from _graphs_of(one)


def _graphs_of(graph: Any) -> Iterator[Any]:
    """A graph or function, and the graphs inside its nodes."""
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += list(attribute.graphs)


def last_step(onnx: Any, model: Any, output: str) -> str:
    """Operator that makes the numbers of an output, before they are only moved about; empty where there is none. What
    cuts them off at -1 and 1 makes them.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    name, seen = output, set[str]()
    while name in makers and name not in seen:
        seen.add(name)
        if makers[name].op_type not in MOVING or not makers[name].input or _clips(onnx, model, makers[name]):
            return str(makers[name].op_type)
        name = makers[name].input[0]
    return ""


def _clips(onnx: Any, model: Any, node: Any) -> bool:
    """Whether a node cuts numbers off at -1 and 1."""
    if node.op_type != "Clip":
        return False
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for one in model.graph.node:
        known |= {name: part.t for name in one.output for part in one.attribute if part.name == "value"}
    tensors = [known[name] for name in node.input[1:3] if name in known]
    ends = [one.f for one in node.attribute if one.name in ("min", "max")]  # of old graphs
    ends += [
        float(onnx.numpy_helper.to_array(tensor).item()) for tensor in tensors
        if math.prod(tensor.dims) == 1 and tensor.data_location != onnx.TensorProto.EXTERNAL
    ]  # fmt: skip
    return sorted(ends) == [-1.0, 1.0]


def inputs_of(model: Any) -> list[str]:
    """Inputs that whoever runs a graph must give; old files list their weights beside them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def unused_inputs(model: Any, output: str) -> set[str]:
    """Inputs that do not reach an output, as an index by which a graph also looks something up; none where all do not.

    Example::

        unused_inputs(onnx.load("tracking.onnx"), "actions")  # {'time_step'}
    """
    needed = _reached(reversed(model.graph.node), {output})
    inputs = set(inputs_of(model))
    return inputs - needed if inputs & needed else set()


def drawn_beside(model: Any, output: str) -> set[str]:
    """What is drawn by chance and does not reach an output, as a sample beside the mean."""
    needed = _reached(reversed(model.graph.node), {output})
    return {name for node in model.graph.node if node.op_type in RANDOM for name in node.output} - needed


def left_out(model: Any, output: str) -> set[str]:
    """Inputs and chance that do not reach an output."""
    return unused_inputs(model, output) | drawn_beside(model, output)


def without_inputs(onnx: Any, model: Any, names: set[str]) -> Any:
    """A graph without some of its inputs or other values, what depends on them, and what is then of no use."""
    spoilt = set(names)
    for node in model.graph.node:
        if spoilt & _asked(node):
            spoilt |= set(node.output)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph, kept = part.graph, [value for value in model.graph.output if value.name not in spoilt]
    needed = _reached(reversed(model.graph.node), {value.name for value in kept})
    for values, those in (
        (graph.input, [value for value in model.graph.input if value.name not in names]),
        (graph.output, kept),
        (graph.node, [node for node in model.graph.node if needed & set(node.output)]),
        (graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in needed]),
    ):
        del values[:]
        values.extend(those)
    return part


def _reached(nodes: Iterable[Any], names: set[str]) -> set[str]:
    """All that some values are made of, from nodes in the reverse of their order."""
    needed = set(names)
    for node in nodes:
        if needed & set(node.output):
            needed |= _asked(node)
    return needed


def _asked(node: Any) -> set[str]:
    """What a node and the graphs inside it read; names that are a graph's own do no harm."""
    inside = (one for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) for one in graph.node)
    return {name for name in node.input if name}.union(*map(_asked, inside))


def _sparse(graph: Any) -> bool:
    """Whether a graph or one of its nodes holds a sparse tensor."""
    held = (one.HasField("sparse_tensor") or one.sparse_tensors for node in graph.node for one in node.attribute)
    return bool(getattr(graph, "sparse_initializer", ())) or any(held)


def tensors_in(graph: Any) -> Iterator[Any]:
    """Initialisers, and tensors held by nodes."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors

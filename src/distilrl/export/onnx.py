"""ONNX graphs, written node by node: raw observations in, the head's numbers and the action out, batch of any size."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.blocks import Cell, MemoryCell, ResidualBlock
from distilrl.errors import ExtraError
from distilrl.export.int8 import Quantised
from distilrl.export.int8_layers import INPUT_LIMIT, Entry, IntStep
from distilrl.export.int8_memory import FEATURE_BITS, IntCell, Moves
from distilrl.export.last import last_step
from distilrl.heads import Head
from distilrl.networks import Network
from distilrl.spaces import ObsSpec

OPSET, IR = 17, 9
MIDDLE = 128
"""Zero point of bytes without a sign: signed weights saturate at 16 bits in onnxruntime where there is no VNNI."""
NODES: dict[type[nn.Module], str] = {nn.ReLU: "Relu", nn.Tanh: "Tanh", nn.ELU: "Elu"}


class Graph:
    """Nodes, constants and outputs under way."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError:
            raise ExtraError("onnx", "onnx", "Writing ONNX") from None
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.kept: list[Any] = []
        """Outputs that are the state after a step; they come last."""
        self.names = 0

    def constant(self, values: Any) -> str:
        """The name of a constant array."""
        name = f"c{len(self.constants)}"
        # ascontiguousarray would make a scalar a vector
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        output = output or self._name()
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def nodes_of(self, kind: str, inputs: list[str], count: int, **attributes: Any) -> list[str]:
        """Adds a node of several outputs; their names."""
        outputs = [self._name() for _ in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def output(self, name: str, kind: str, *shape: int) -> None:
        """Makes a value an output of the graph, ("batch", *shape)."""
        self.outputs.append(self._value(name, kind, *shape))

    def remembered(self, name: str, *shape: int) -> str:
        """An input that is the state before a step, zeros where an episode begins, ("batch", *shape)."""
        self.inputs.append(self._value(f"{name}_in", "FLOAT", *shape))
        return f"{name}_in"

    def keep(self, value: str, name: str, *shape: int) -> None:
        """Makes a value the state after the step."""
        self.node("Identity", [value], f"{name}_out")
        self.kept.append(self._value(f"{name}_out", "FLOAT", *shape))

    def _value(self, name: str, kind: str, *shape: int) -> Any:
        element = getattr(self.onnx.TensorProto, kind)
        return self.onnx.helper.make_tensor_value_info(name, element, ["batch", *shape])

    def finish(self, obs: ObsSpec, head: Head, numbers: str, metadata: dict[str, Any]) -> bytes:
        """The whole model as bytes."""
        helper = self.onnx.helper
        last_step(head).onnx(self, numbers)
        inputs = [self._value("obs", "UINT8" if obs.dtype == "uint8" else "FLOAT", *obs.shape), *self.inputs]
        graph = helper.make_graph(self.nodes, "policy", inputs, [*self.outputs, *self.kept], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="distilrl")
        model.ir_version = IR
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
        helper.set_model_props(model, texts)
        self.onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def _name(self) -> str:
        self.names += 1
        return f"n{self.names - 1}"


def write(network: Network, head: Head, obs: ObsSpec, metadata: dict[str, Any]) -> bytes:
    """A folded network in floats.

    Its outputs are ``action_values`` (batch, P) and ``action``, (batch,) of one choice or (batch, F) of several; of
    real actions ``mean`` (batch, A), before it is squashed or clipped, and ``action`` (batch, A). Actions are what the
    environment takes. What a network with memory keeps goes in and comes out beside that: ``h_in`` and ``h_out`` of a
    cell (an LSTM's ``c`` too), ``past`` and ``begun`` of a history. Zeros begin an episode.

    Args:
        network: folded.
        head: what its numbers mean.
        obs: what it reads.
        metadata: what the file says of itself.

    Raises:
        ExtraError: onnx is not installed.

    Example::

        Path("policy.onnx").write_bytes(write(network, head, info.obs, {"env": info.id}))
    """
    graph = Graph()
    x, vector = "obs", None
    if obs.dtype == "uint8":
        x = graph.node("Cast", [x], to=graph.onnx.TensorProto.FLOAT)
    if network.spec.image is not None:
        x, vector = _parted(graph, x, obs, network.spec.seen)
    if network.spec.history > 1:
        x = _with_past(graph, x, network.spec.history, obs.shape[0])
    for module in network.layers:
        if isinstance(module, MemoryCell):
            h = _remembering(graph, module, x)
            x = graph.node("Concat", [h, x], axis=1) if network.spec.beside_cell else h
        else:
            x = _module(graph, module, x)
        if isinstance(module, nn.Flatten) and vector is not None:
            x = graph.node("Concat", [x, vector], axis=1)
    return graph.finish(obs, head, x, metadata)


def _parted(graph: Graph, x: str, obs: ObsSpec, seen: tuple[int, ...]) -> tuple[str, str]:
    """The image and what is read of the vector, at these places, of an observation that has both."""
    image = obs.image or ()
    sizes = graph.constant(np.array([obs.vector, math.prod(image)], np.int64))
    features, pixels = graph.nodes_of("Split", [x, sizes], 2, axis=1)
    if seen != tuple(range(obs.vector)):
        features = graph.node("Gather", [features, graph.constant(np.array(seen, np.int64))], axis=1)
    return graph.node("Reshape", [pixels, graph.constant(np.array([-1, *image], np.int64))]), features


def _with_past(graph: Graph, x: str, history: int, size: int) -> str:
    """Observations before and this one, the oldest first; the first of an episode stands for those before it."""
    past, begun = graph.remembered("past", history - 1, size), graph.remembered("begun", 1)
    one, axes = graph.constant(np.float32(1.0)), graph.constant(np.array([1], np.int64))
    new = graph.node("Unsqueeze", [x, axes])
    known = graph.node("Unsqueeze", [graph.node("Equal", [begun, one]), axes])
    seen = graph.node("Concat", [graph.node("Where", [known, past, new]), new], axis=1)
    ends = graph.constant(np.array([history], np.int64))
    graph.keep(graph.node("Slice", [seen, axes, ends, axes]), "past", history - 1, size)
    graph.keep(graph.node("Max", [begun, one]), "begun", 1)
    return graph.node("Flatten", [seen], axis=1)


def _remembering(graph: Graph, cell: MemoryCell, x: str) -> str:
    """The nodes of a memory cell, by the formulas of `MemoryCell`."""
    inner = np.zeros(cell.cell.gates, np.float32)
    inner[cell.cell.gates - len(_array(cell.bias)) :] = _array(cell.bias)
    weight, bias = graph.constant(_array(cell.recurrent.weight)), graph.constant(inner)
    into = _module(graph, cell.inputs, x)
    return _gated(graph, cell.cell, into, lambda h: graph.node("Gemm", [h, weight, bias], transB=1))


def _gated(graph: Graph, cell: Cell, into: str, recurrent: Callable[[str], str]) -> str:
    """What the gates make of what comes in and of what was before; ``recurrent`` adds the layer that reads that."""
    size, count = cell.size, cell.gates // cell.size
    before = [graph.remembered(name, size) for name in ("h", "c")[: len(cell.kept)]]
    parts = graph.constant(np.full(count, size, np.int64))
    ins = graph.nodes_of("Split", [into, parts], count, axis=1)
    own = graph.nodes_of("Split", [recurrent(before[0]), parts], count, axis=1)

    def gate(kind: str, index: int) -> str:
        return graph.node(kind, [graph.node("Add", [ins[index], own[index]])])

    if cell.kind == "lstm":
        kept = graph.node("Mul", [gate("Sigmoid", 1), before[1]])
        new = graph.node("Add", [kept, graph.node("Mul", [gate("Sigmoid", 0), gate("Tanh", 2)])])
        output = graph.node("Mul", [gate("Sigmoid", 3), graph.node("Tanh", [new])])
        graph.keep(output, "h", size)
        graph.keep(new, "c", size)
        return output
    inside = graph.node("Mul", [gate("Sigmoid", 0), own[2]])
    candidate = graph.node("Tanh", [graph.node("Add", [ins[2], inside])])
    moved = graph.node("Mul", [gate("Sigmoid", 1), graph.node("Sub", [before[0], candidate])])
    output = graph.node("Add", [candidate, moved])
    graph.keep(output, "h", size)
    return output


def _module(graph: Graph, module: nn.Module, x: str) -> str:
    """The nodes of one module."""
    if isinstance(module, nn.Conv2d):
        (stride, _), pad = module.stride, int(module.padding[0])
        inputs = [x, graph.constant(_array(module.weight)), graph.constant(_array(module.bias))]
        return graph.node("Conv", inputs, strides=[int(stride)] * 2, pads=[pad] * 4)
    if isinstance(module, nn.Linear):
        return graph.node(
            "Gemm", [x, graph.constant(_array(module.weight)), graph.constant(_array(module.bias))], transB=1
        )
    if isinstance(module, nn.MaxPool2d):
        return graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    if isinstance(module, ResidualBlock):
        inner = graph.node("Relu", [x])
        inner = graph.node("Relu", [_module(graph, module.conv0, inner)])
        return graph.node("Add", [x, _module(graph, module.conv1, inner)])
    if isinstance(module, nn.Flatten):
        return graph.node("Flatten", [x], axis=1)
    if isinstance(module, nn.SiLU):
        return graph.node("Mul", [x, graph.node("Sigmoid", [x])])
    if isinstance(module, nn.LeakyReLU):
        return graph.node("LeakyRelu", [x], alpha=module.negative_slope)
    if isinstance(module, nn.GELU):
        root, half = graph.constant(np.float32(math.sqrt(0.5))), graph.constant(np.float32(0.5))
        share = graph.node("Mul", [graph.node("Erf", [graph.node("Mul", [x, root])]), half])
        return graph.node("Mul", [x, graph.node("Add", [share, half])])
    return graph.node(NODES[type(module)], [x])


def write_int8(student: Quantised, head: Head, obs: ObsSpec, metadata: dict[str, Any]) -> bytes:
    """A quantised student as pairs of QuantizeLinear and DequantizeLinear, which onnxruntime fuses to integer kernels.

    Args:
        student: in integers.
        head: what its numbers mean.
        obs: what it reads.
        metadata: what the file says of itself.

    Raises:
        ExtraError: onnx is not installed.

    Example::

        Path("policy.onnx").write_bytes(write_int8(quantised, head, info.obs, {}))
    """
    graph = Graph()
    x, vector = "obs", None
    if student.vector is not None:
        places = next(one.step.vector for one in student.steps if one.step.vector)
        x, vector = _parted(graph, x, obs, places)
        vector = _clipped(graph, _floored(graph, _in_units(graph, vector, student.vector)), student.vector.limit)
    if student.entry is None:
        x = graph.node("DequantizeLinear", [x, graph.constant(np.float32(1.0)), graph.constant(np.uint8(0))])
    else:
        x, limit = _in_units(graph, x, student.entry), student.entry.limit
        signed = limit == INPUT_LIMIT or student.moves is not None
        one, zero = graph.constant(np.float32(1.0)), graph.constant(np.uint8(MIDDLE if signed else 0))
        if student.moves is not None:
            x, limit = _moved(graph, _clipped(graph, _floored(graph, x), limit), student.moves), INPUT_LIMIT
        x = _clipped(graph, x, limit)
        x = graph.node("DequantizeLinear", [graph.node("QuantizeLinear", [x, one, zero]), one, zero])
    unit = 1.0
    for one_step, next_unit in zip(student.steps, student.activation_scales, strict=True):
        if vector is not None and one_step.step.vector:  # in the same unit, which the weights take for one
            as_large = graph.node("Mul", [vector, graph.constant(np.float32(unit))])
            x = graph.node("Concat", [graph.node("Flatten", [x], axis=1), as_large], axis=1)
        if isinstance(one_step, IntCell):
            into, features = _rounded(graph, one_step.inputs, unit, x), x
            cell = Cell(one_step.step.kind, one_step.step.size)
            x = _gated(graph, cell, into, partial(_rounded, graph, one_step.recurrent, next_unit))
            if one_step.step.beside:  # in the same unit, which the weights behind them take for one
                as_large = graph.constant(np.float32(next_unit * (1 << FEATURE_BITS) / unit))
                x = graph.node("Concat", [x, graph.node("Mul", [features, as_large])], axis=1)
        else:
            x = _rounded(graph, one_step, unit, x)
        if one_step.step.activation:
            q, zero_q = graph.constant(np.float32(next_unit)), graph.constant(np.uint8(0))
            x = graph.node("Relu", [x])
            x = graph.node("DequantizeLinear", [graph.node("QuantizeLinear", [x, q, zero_q]), q, zero_q])
        unit = next_unit
    return graph.finish(obs, head, x, metadata)


def _in_units(graph: Graph, x: str, entry: Entry) -> str:
    """Numbers of an observation in the units in which they enter, not yet rounded."""
    x = graph.node("Sub", [x, graph.constant(entry.zero)]) if entry.shifts else x
    return graph.node("Mul", [x, graph.constant(entry.gain)])


def _floored(graph: Graph, x: str) -> str:
    """Rounded, halves upwards."""
    return graph.node("Floor", [graph.node("Add", [x, graph.constant(np.float32(0.5))])])


def _clipped(graph: Graph, x: str, limit: int) -> str:
    return graph.node("Clip", [x, graph.constant(np.float32(-limit)), graph.constant(np.float32(limit))])


def _moved(graph: Graph, x: str, moves: Moves) -> str:
    """What the first layer reads of a history, of observations as they are kept."""
    size = len(moves.bits)
    seen = _with_past(graph, x, moves.history, size)
    before, axes = (moves.history - 1) * size, graph.constant(np.array([1], np.int64))
    ends = [graph.constant(np.array([at], np.int64)) for at in (0, size, before, before + size)]
    first, second, latest = (
        graph.node("Slice", [seen, ends[a], ends[b], axes]) for a, b in ((0, 2), (1, 3), (2, 3))
    )  # fmt: skip
    read = graph.node("Concat", [graph.node("Sub", [second, first]), latest], axis=1)
    lost = graph.constant((1 / moves.units(np.ones(size))).astype(np.float32))
    return _floored(graph, graph.node("Mul", [read, lost]))


def _rounded(graph: Graph, one: IntStep, unit: float, x: str) -> str:
    """The nodes of a layer of integers, which reads numbers whose unit is ``unit``."""
    step = one.step
    scale = (one.scale / unit).astype(np.float32)  # of the weights alone
    zero = graph.constant(np.full(len(scale), MIDDLE, np.uint8))
    weight = (_channels_first(one.weight, step.weight.shape, step.in_shape) + MIDDLE).astype(np.uint8)
    weights = graph.node("DequantizeLinear", [graph.constant(weight), graph.constant(scale), zero], axis=0)
    bias = graph.constant((one.bias * one.scale).astype(np.float32))
    if step.weight.ndim == 4:
        return graph.node("Conv", [x, weights, bias], strides=[step.stride] * 2)
    x = graph.node("Flatten", [x], axis=1) if len(step.in_shape) == 3 and not step.vector else x
    return graph.node("Gemm", [x, weights, bias], transB=1)


def _channels_first(weight: NDArray[Any], shape: tuple[int, ...], in_shape: tuple[int, ...]) -> NDArray[Any]:
    """Back from a run with channels innermost to PyTorch's order."""
    if len(shape) == 4:
        return weight.reshape(shape[0], shape[2], shape[3], shape[1]).transpose(0, 3, 1, 2)
    if len(in_shape) == 3:
        channels, height, width = in_shape
        features = weight[:, : math.prod(in_shape)].reshape(shape[0], height, width, channels).transpose(0, 3, 1, 2)
        return np.concatenate([features.reshape(shape[0], -1), weight[:, math.prod(in_shape) :]], axis=1)
    return weight


def _array(tensor: Tensor | None) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().astype(np.float32) if tensor is not None else np.zeros(0, np.float32)

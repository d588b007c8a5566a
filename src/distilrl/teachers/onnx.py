"""ONNX graphs through onnxruntime: teachers of Keras, TensorFlow, JAX, PaddlePaddle and whatever else can write one.

A graph is data, but it can ask for custom code, for files beside it, and for endless loops or memory: all of these are
refused before onnxruntime sees it. Needs the extra ``onnx``.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.checkpoints import digest
from distilrl.errors import ExtraError, FileError
from distilrl.heads import Kind
from distilrl.teachers.archive import MAX_BYTES, first_line
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
LOOPS = {"Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"}
RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "BiasDropout",
    "BitmaskDropout",
}  # fmt: skip
MAX_NODES = 100_000
"""Most steps of a graph, the functions that it calls written out."""
DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
}
VALUE_NAMES = ("action_values", "q_values", "q", "logits", "action_logits", "policy_logits")
ACTION_NAMES = ("deterministic_continuous_actions", "continuous_actions", "actions", "action", "mu", "mean")


class OnnxPolicy(nn.Module):
    """One input, one output of a graph, as raw observations to a policy's numbers on the CPU; a pickle holds the
    graph.
    """

    def __init__(
        self, path: Path, shape: tuple[Any, ...], dtype: type[np.generic], output: str, divisor: float, session: Any
    ) -> None:
        """Wraps a session.

        Args:
            path: the file.
            shape: the graph's input shape, its batch dimension first; a string or None where a size is free.
            dtype: the graph's input type.
            output: name of the output to read.
            divisor: pixels are divided by it.
            session: of onnxruntime.
        """
        super().__init__()
        self.path, self.session, self.dtype, self.output, self.divisor = path, session, dtype, output, divisor
        self.input = session.get_inputs()[0].name
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.last = len(shape) == 4 and _channels_last(shape)

    def __getstate__(self) -> dict[str, Any]:
        import onnx

        return self.__dict__ | {"session": onnx.load(self.path).SerializeToString()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import onnxruntime

        super().__setstate__(state | {"session": _session(onnxruntime, state["session"])})  # type: ignore[no-untyped-call]

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        array = obs.detach().cpu().numpy()
        if self.last:
            array = array.transpose(0, 2, 3, 1)
        array = array.astype(self.dtype) / self.dtype(self.divisor) if self.divisor != 1.0 else array.astype(self.dtype)
        parts = [self._run(part) for part in self._parts(np.ascontiguousarray(array))]
        return torch.from_numpy(np.concatenate(parts)[: len(obs)].astype(np.float32)).to(obs.device)

    def _parts(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """The whole batch, or batches of the fixed size, the last one filled up with zeros."""
        if self.batch is None:
            return [array]
        missing = -len(array) % self.batch
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        return np.split(array, len(array) // self.batch)

    def _run(self, part: NDArray[Any]) -> NDArray[Any]:
        values: NDArray[Any] = self.session.run([self.output], {self.input: part})[0]
        return values


def _session(onnxruntime: Any, graph: str | bytes) -> Any:
    """Of a file that was checked, or of the bytes of one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=False)


def load(file: TeacherFile) -> Teacher:
    """Reads a graph with one observation input.

    Raises:
        ExtraError: onnx or onnxruntime is not installed.
        FileError: damaged, hostile, or its input or output cannot be told.
    """
    file.check_options("divisor", "output", "kind", "squash")
    try:
        return _load(file)
    except UnicodeDecodeError:
        raise FileError(f"{file.path} holds names that are not text: the file is damaged, export it again.") from None


def _load(file: TeacherFile) -> Teacher:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ExtraError(error.name or "onnxruntime", "onnx", f"Reading {file.path}") from None
    path = Path(file.path)
    model = _read(onnx, path)
    params = _check(onnx, model, path)
    try:
        session = _session(onnxruntime, str(path))
    except Exception as error:  # onnxruntime raises many kinds for a graph that it cannot run
        raise FileError(f"{path} cannot be run by onnxruntime ({first_line(error)}): export it again.") from None
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise FileError(
            f"{path} has {len(inputs)} inputs ({_names(inputs)}): only policies that see one observation at a time "
            "can be distilled."
        )
    shape, dtype = tuple(inputs[0].shape), DTYPES.get(inputs[0].type)
    if dtype is None or len(shape) not in (2, 4) or any(not isinstance(n, int) for n in shape[1:]):
        raise FileError(
            f"{path} takes {inputs[0].type} of shape {shape}: a batch of vectors or pictures of fixed size is "
            "needed, of floats or bytes."
        )
    divisor = _divisor(file, onnx, model, len(shape), dtype)
    obs_shape = (shape[3], shape[1], shape[2]) if len(shape) == 4 and _channels_last(shape) else shape[1:]
    output, outputs = _output(file, session, shape, dtype, divisor)
    meta: dict[str, Any] = {
        "library": "ONNX",
        "algorithm": None,
        "version": ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "input": f"{inputs[0].name} {shape} {inputs[0].type}",
        "output": output,
        **({"pixels_divided_by": divisor} if len(shape) == 4 else {}),
        "not_executed": [],
    }
    policy = OnnxPolicy(path, shape, dtype, output, divisor, session)
    return Teacher(
        policy,
        file.own_kind or _kind(file, output),
        f"ONNX {meta['producer']}".strip(),
        str(path),
        _digest(onnx, model, path),
        meta,
        obs_shape,
        outputs,
        params,
        squash=file.own_squash or "clip",
    )


def _kind(file: TeacherFile, output: str) -> Kind | None:
    """What an output holds, by its name; None where only the environment can tell."""
    if output in ACTION_NAMES or file.squash:
        return "mean"
    return "logits" if "logit" in output else "q" if output in VALUE_NAMES else None


def _digest(onnx: Any, model: Any, path: Path) -> str:
    """SHA-256 of the graph, and of the files beside it that hold its weights."""
    tensors = [
        tensor
        for graph in _graphs(model)
        for tensor in _tensors(graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    beside = sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"})
    if not beside:
        return digest(path)
    parts = [digest(path), *(f"{name} {digest(path.parent / name)}" for name in beside)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(onnx: Any, path: Path) -> Any:
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


def _check(onnx: Any, model: Any, path: Path) -> int:
    """Refuses what could run code, leave the folder, loop, or fill memory; returns the number of parameters."""
    params = 0
    if _steps(model, path) > MAX_NODES:
        raise FileError(f"{path} has more than {MAX_NODES} steps, more than a policy can need: export it again.")
    own = {f.domain for f in model.functions}
    for graph in _graphs(model):
        constants = {t.name: t for t in getattr(graph, "initializer", ())}
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
            if node.op_type in RANDOM or (node.op_type == "Dropout" and _drops(onnx, node, constants)):
                raise FileError(
                    f"{path} draws random numbers ({node.op_type}): export the action that it takes without exploring."
                )
        for tensor in _tensors(graph):
            params += math.prod(tensor.dims)
            if math.prod(tensor.dims) > MAX_BYTES // 4:
                raise FileError(
                    f"Tensor '{tensor.name}' in {path} claims shape {tuple(tensor.dims)}, more than a policy can need."
                )
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _check_external({e.key: e.value for e in tensor.external_data}.get("location", ""), path)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # its C++ side raises several kinds
        raise FileError(f"{path} is not a sound ONNX graph ({first_line(error)}): export it again.") from None
    for value in (value for graph in _graphs(inferred) for value in (*graph.value_info, *_outputs(graph))):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if math.prod(sizes) > MAX_BYTES // 4:
            raise FileError(
                f"Tensor '{value.name}' in {path} would have shape {tuple(sizes)}, more than a policy can need."
            )
    return params


def _steps(model: Any, path: Path) -> int:
    """Nodes of a graph after the functions that it calls, and those that they call, are written out."""
    functions = {(f.domain, f.name): f for f in model.functions}
    known: dict[tuple[str, str], int] = {}

    def count(nodes: Any, inside: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in known:
                if key in inside or len(inside) > 100:
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
    return mode is None or bool(onnx.numpy_helper.to_array(mode).any())


def _outputs(graph: Any) -> list[Any]:
    """Typed outputs of a graph; a function's have names only."""
    return [value for value in graph.output if not isinstance(value, str)]


def _check_external(location: str, path: Path) -> None:
    """External data must lie in the graph's own folder."""
    folder = path.resolve().parent
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        raise FileError(
            f"{path} wants to read '{location[:80]}', outside its own folder: export it with its weights inside."
        )
    if not target.is_file():
        raise FileError(f"{path} keeps its weights in '{location[:80]}', which is not beside it: copy that file too.")
    if target.stat().st_size > MAX_BYTES:
        raise FileError(f"{target} is larger than a policy can be: give a graph of the network alone.")


def _graphs(model: Any) -> Iterator[Any]:
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


def _tensors(graph: Any) -> Iterator[Any]:
    """Initialisers, and tensors held by nodes."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _divisor(file: TeacherFile, onnx: Any, model: Any, rank: int, dtype: type[np.generic]) -> float:
    """What pixels are divided by before the graph sees them: 1 where it takes bytes or divides by 255 itself."""
    if rank != 4:
        if file.divisor is not None:
            raise FileError(f"{file.path} reads vectors, which are not divided: leave the divisor out.")
        return 1.0
    if file.divisor is not None or dtype is np.uint8:
        return file.divisor or 1.0
    scalars = [
        t for graph in _graphs(model) for t in _tensors(graph) if math.prod(t.dims) == 1 and t.data_type in (1, 10, 11)
    ]
    if any(
        min(abs(v - 255.0), abs(v - 1 / 255)) < 1e-4 * v
        for t in scalars
        if (v := float(onnx.numpy_helper.to_array(t).reshape(-1)[0])) > 0
    ):
        return 1.0
    raise FileError(
        f"{file.path} takes pixels as floats and does not say of what range: say --divisor 255, or --divisor 1 for "
        "raw pixels."
    )


def _output(
    file: TeacherFile, session: Any, shape: tuple[Any, ...], dtype: type[np.generic], divisor: float
) -> tuple[str, int]:
    """Name of the output with the policy's numbers, and how many they are, found by running the graph on zeros."""
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 2
    zeros = np.zeros((batch, *shape[1:]), dtype)
    names = [o.name for o in session.get_outputs()]
    try:
        answers = dict(
            zip(
                names,
                session.run(None, {session.get_inputs()[0].name: zeros / dtype(divisor) if divisor != 1 else zeros}),
                strict=True,
            )
        )
    except Exception as error:  # onnxruntime raises many kinds
        raise FileError(f"{file.path} fails on observations of zeros ({first_line(error)}): export it again.") from None
    fitting = {
        name: answer.shape[1]
        for name, answer in answers.items()
        if isinstance(answer, np.ndarray)
        and answer.ndim == 2
        and len(answer) == batch
        and answer.shape[1] >= 1
        and answer.dtype.kind == "f"
    }
    several = [name for name, width in fitting.items() if width > 1]
    named = [name for name in (*VALUE_NAMES, *ACTION_NAMES) if name in fitting]
    wanted = (
        [file.output]
        if file.output
        else list(fitting)
        if len(fitting) == 1
        else named[:1] or several[: len(several) == 1]
    )
    if not wanted or wanted[0] not in fitting:
        found = ", ".join(f"{n} {getattr(a, 'shape', '')}" for n, a in answers.items())
        raise FileError(
            f"{file.path} has the outputs {found[:200]}: numbers of a policy (batch, numbers) are needed, name "
            "theirs with --teacher-output."
        )
    return wanted[0], int(fitting[wanted[0]])


def _channels_last(shape: tuple[Any, ...]) -> bool:
    return bool(shape[3] < shape[1])


def _names(items: list[Any]) -> str:
    return ", ".join(str(i.name) for i in items)[:120]

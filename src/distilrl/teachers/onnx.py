"""ONNX graphs through onnxruntime: teachers of Keras, TensorFlow, JAX, PaddlePaddle and whatever else can write one.

A graph is data, but it can ask for custom code, for files beside it, and for endless loops or memory: all of these are
refused before onnxruntime sees it. Needs the extra ``onnx``.
"""

import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl.errors import ExtraError, FileError
from distilrl.files import digest
from distilrl.heads import Kind
from distilrl.limits import MAX_RUN_BYTES
from distilrl.policies import State
from distilrl.teachers.graphs import (
    check_graph,
    graphs_in,
    inputs_of,
    last_step,
    left_out,
    read_graph,
    tensors_in,
    without_inputs,
)
from distilrl.teachers.slots import Slot, find_slots
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher
from distilrl.text import first_line, legible

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
}
VALUE_NAMES = ("action_values", "q_values", "q", "logits", "action_logits", "policy_logits")
ACTION_NAMES = ("deterministic_continuous_actions", "continuous_actions", "actions", "action", "mu", "mean")
SPREAD = re.compile(r"(?:^|[^a-z])(?:log_?)?(?:std|stddev|sigma|scale)s?$", re.IGNORECASE)
"""Names of what stands beside a mean where a policy draws its actions."""
MOST_SAID = 16
"""Notes of whoever exported a file that are kept."""


@dataclass(frozen=True)
class Seen:
    """The input that observations go to."""

    name: str
    shape: tuple[Any, ...]
    """Its batch dimension first; a text or None where a size is free."""
    dtype: type[np.generic]
    batch: int | None
    """How many a call takes; None: any number."""
    divisor: float
    """Pixels are divided by it."""

    @property
    def last(self) -> bool:
        """Whether it takes an image's channels last."""
        return len(self.shape) == 4 and _channels_last(self.shape)

    def array(self, obs: Tensor) -> NDArray[Any]:
        """Raw observations (B, *obs_shape) as the input wants them."""
        array = obs.detach().cpu().numpy()
        if self.dtype is np.uint8 and array.ndim == 4 and array.dtype != np.uint8:
            raise FileError(
                f"The graph's input '{self.name}' takes pixels as bytes, and this environment gives them as floats: "
                "choose the environment that it was trained in."
            )
        if self.dtype is np.uint8 and array.ndim == 2 and (array != array.astype(np.uint8)).any():
            raise FileError(
                f"The graph's input '{self.name}' takes bytes, and this environment gives other numbers: choose the "
                "environment that it was trained in."
            )
        return self.divided(array.transpose(0, 2, 3, 1) if self.last else array)

    def divided(self, array: NDArray[Any]) -> NDArray[Any]:
        """Pixels of any number type in the input's, divided."""
        array = np.ascontiguousarray(array.astype(self.dtype))
        return array / self.dtype(self.divisor) if self.divisor != 1.0 else array

    def parts(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """The whole batch, or batches of the fixed size, the last one filled up with zeros."""
        if self.batch is None:
            return [array]
        missing = -len(array) % self.batch
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        return np.split(array, len(array) // self.batch)


class OnnxPolicy(nn.Module):
    """One input, one output of a graph, as raw observations to a policy's numbers on the CPU; a pickle holds the
    graph.
    """

    def __init__(self, path: Path, seen: Seen, output: str, session: Any) -> None:
        """Wraps a session.

        Args:
            path: the file.
            seen: the input that observations go to.
            output: name of the output to read.
            session: of onnxruntime.
        """
        super().__init__()
        self.path, self.seen, self.output, self.session = path, seen, output, session

    def __getstate__(self) -> dict[str, Any]:
        import onnx

        return self.__dict__ | {"session": _whole(onnx, self.path, self.output).SerializeToString()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import onnxruntime

        super().__setstate__(state | {"session": _session(onnxruntime, state["session"])})  # type: ignore[no-untyped-call]

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        parts = self.seen.parts(self.seen.array(obs))
        return _joined([self._run([self.output], {self.seen.name: part})[0] for part in parts], obs)

    def _run(self, wanted: list[str], fed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs of the graph.

        Raises:
            FileError: it fails on these observations, or would take more than `MAX_RUN_BYTES` for them.
        """
        try:
            answers: list[NDArray[Any]] = self.session.run(wanted, fed)
        except Exception as error:  # onnxruntime raises many kinds
            raise failed(self.path, "an observation", error) from None
        return answers


class RememberingOnnx(OnnxPolicy):
    """A graph that takes a state beside the observation and gives the next one."""

    def __init__(self, path: Path, seen: Seen, output: str, session: Any, slots: tuple[Slot, ...]) -> None:
        super().__init__(path, seen, output, session)
        self.slots = slots

    def start(self, count: int) -> State:
        """Zeros (count, *shape) for each of its states."""
        return tuple(torch.from_numpy(slot.zeros(count)) for slot in self.slots)

    def forward(self, obs: Tensor, state: State) -> tuple[Tensor, State]:  # type: ignore[override]
        """Raw observations (B, *obs_shape) and the state before them to numbers (B, P) and the state after them."""
        seen = self.seen.parts(self.seen.array(obs))
        before = [self.seen.parts(part.detach().cpu().numpy()) for part in state]
        answers = []
        for part, *states in zip(seen, *before, strict=True):
            fed = {slot.input: slot.feed(one) for slot, one in zip(self.slots, states, strict=True)}
            wanted = [self.output, *(slot.output for slot in self.slots)]
            p, *after = self._run(wanted, {self.seen.name: part} | fed)
            answers.append([p, *(slot.after(one) for slot, one in zip(self.slots, after, strict=True))])
        numbers, *following = (_joined(list(parts), obs) for parts in zip(*answers, strict=True))
        return numbers, tuple(following)


def _joined(parts: list[NDArray[Any]], obs: Tensor) -> Tensor:
    """What a graph gave for parts of a batch, in float32, without what filled the last one up."""
    return torch.from_numpy(np.concatenate(parts)[: len(obs)].astype(np.float32)).to(obs.device)


def open_graph(path: Path, why: str, threads: int | None = None, outputs: Sequence[str] = ()) -> tuple[Any, int, Any]:
    """A graph that was checked: as data, how many parameters its session has, and the session of onnxruntime.

    Args:
        path: the file.
        why: what needs it, for whoever has no onnxruntime.
        threads: that compute; as many as PyTorch's by default.
        outputs: names of which the first that is there is wanted; inputs that do not reach it are left out.

    Raises:
        ExtraError: onnx or onnxruntime is not installed.
        FileError: damaged, hostile, or nothing that onnxruntime could run.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ExtraError(error.name or "onnxruntime", "onnx", why) from None
    model = read_graph(onnx, path)
    there = {value.name for value in model.graph.output}
    wanted = next((name for name in outputs if name in there), None)
    params = check_graph(onnx, model, path, wanted)
    graph: str | bytes = str(path)
    try:
        if wanted and left_out(model, wanted):
            part = _whole(onnx, path, wanted)
            params, graph = check_graph(onnx, part, path), part.SerializeToString()
        return model, params, _session(onnxruntime, graph, threads)
    except Exception as error:  # onnxruntime raises many kinds for a graph that it cannot run
        raise FileError(f"{path} cannot be run by onnxruntime ({first_line(error)}): export it again.") from None


def _whole(onnx: Any, path: Path, output: str) -> Any:
    """A graph that was checked with all of its weights, without inputs and chance that do not reach an output."""
    model = onnx.load(path)
    unused = left_out(model, output)
    return without_inputs(onnx, model, unused) if unused else model


@functools.cache
def _bound_memory(onnxruntime: Any) -> None:
    """Has the graphs of this process share one allocator, which gives them no more than `MAX_RUN_BYTES`."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    about = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(about, onnxruntime.OrtArenaCfg({"max_mem": MAX_RUN_BYTES}))


def _session(onnxruntime: Any, graph: str | bytes, threads: int | None = None) -> Any:
    """Of a file that was checked, or of the bytes of one; what it takes as it runs is bounded."""
    _bound_memory(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level, options.intra_op_num_threads = 4, threads or torch.get_num_threads()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=False)


def failed(path: str | Path, what: str, error: Exception) -> FileError:
    """What onnxruntime raised as it ran a graph on ``what``, as a sentence."""
    if "BFCArena" in str(error):
        most = f"{MAX_RUN_BYTES / (1 << 30):g} GiB"
        return FileError(f"{path} wants more than {most} of memory for {what}: give a graph of the network alone.")
    return FileError(f"{path} fails on {what} ({first_line(error)}): export it again.")


def load(file: TeacherFile) -> Teacher:
    """Reads a graph with one observation input, and states beside it where the policy has memory.

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
    path = Path(file.path)
    names = (file.output,) if file.output else (*VALUE_NAMES, *ACTION_NAMES)
    model, params, session = open_graph(path, f"Reading {file.path}", outputs=names)
    import onnx  # which is there, since it read the graph

    observed, slots, batch = find_slots(session.get_inputs(), session.get_outputs(), path)
    shape, dtype = tuple(observed.shape), DTYPES.get(observed.type)
    if dtype is None or len(shape) not in (2, 4) or any(not isinstance(n, int) for n in shape[1:]):
        raise FileError(
            f"{path} takes {observed.type} of shape {shape}: export it for a batch (also of 1) of vectors or pictures "
            "of fixed size, of floats or bytes."
        )
    divisor = _divisor(file, model, len(shape), dtype)
    seen = Seen(observed.name, shape, dtype, batch, divisor)
    obs_shape = (shape[3], shape[1], shape[2]) if seen.last else shape[1:]
    output, outputs, others = _output(file, session, seen, slots)
    taken = {one.name for one in session.get_inputs()}
    left = [name for name in inputs_of(model) if name not in taken]
    meta: dict[str, Any] = {
        "library": "ONNX",
        "algorithm": None,
        "version": ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "input": f"{observed.name} {shape} {observed.type}",
        "output": output,
        **({"left_out": f"{', '.join(left)}, which the output does not depend on"} if left else {}),
        **({"state": [f"{slot.input} {slot.shape}" for slot in slots]} if slots else {}),
        **({"pixels_divided_by": divisor} if len(shape) == 4 else {}),
        "not_executed": [],
    }
    # what whoever exported it says of it, such as the scale of its actions
    said = {legible(one.key, 40): legible(one.value) for one in model.metadata_props[:MOST_SAID]}
    meta |= {"says": said} if said else {}
    kind = file.own_kind or _kind(file, output)
    # rl_games' own player scales what its network gives to the bounds, and an exported network does not
    of_games = output == "mu" and any(value.name in ("log_std", "sigma") for value in model.graph.output)
    bounded = kind in (None, "mean") and (of_games or last_step(onnx, model, output) in ("Tanh", "Clip"))
    # what is squashed behind a mean is not in a graph that gives mean and spread; rl_games, above, clips
    beside = any(SPREAD.search(name) for name in others)
    if len(shape) == 4 and len(set(shape[1:])) == 1:
        meta["note"] = f"The sides of its picture are all {shape[1]}: the first is taken for the channels."
    if others and file.output is None:
        meta["note"] = f"It is read as '{output}'; {', '.join(others)[:80]} are as many numbers (--teacher-output)."
    policy = RememberingOnnx(path, seen, output, session, slots) if slots else OnnxPolicy(path, seen, output, session)
    return Teacher(
        policy,
        kind,
        f"ONNX {meta['producer']}".strip(),
        str(path),
        _digest(model, path),
        meta,
        obs_shape,
        outputs,
        params,
        # a graph of a mean acts as it is; of a mean and a deviation nobody knows what was left out behind them
        squash=file.own_squash or (None if bounded or beside or kind == "gaussian" else "clip"),
        scaled=file.scaled,
        bounded=bounded,
    )


def _kind(file: TeacherFile, output: str) -> Kind | None:
    """What an output holds, by its name; None where only the environment can tell.

    Raises:
        FileError: probabilities, from which the loss of logits and of action values is another one.
    """
    if "prob" in output and "log" not in output:
        raise FileError(
            f"{file.path} gives probabilities ('{output}'), by which no loss goes: export the graph up to its logits, "
            "or say --kind q if they are action values after all."
        )
    if output in ACTION_NAMES or file.squash:
        return "mean"
    return "logits" if "logit" in output else "q" if output in VALUE_NAMES else None


def _digest(model: Any, path: Path) -> str:
    """SHA-256 of the graph, and of the files beside it that hold its weights."""
    import onnx

    tensors = [
        tensor
        for graph in graphs_in(model)
        for tensor in tensors_in(graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    beside = sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"})
    if not beside:
        return digest(path)
    parts = [digest(path), *(f"{name} {digest(path.parent / name)}" for name in beside)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _divisor(file: TeacherFile, model: Any, rank: int, dtype: type[np.generic]) -> float:
    """What pixels are divided by before the graph sees them: 1 where it takes bytes or divides by 255 itself."""
    if rank != 4:
        if file.divisor is not None:
            raise FileError(f"{file.path} reads vectors, which are not divided: leave the divisor out.")
        return 1.0
    if dtype is np.uint8 and file.divisor not in (None, 1.0):
        raise FileError(f"{file.path} takes pixels as bytes, which are not divided: leave the divisor out.")
    if file.divisor is not None or dtype is np.uint8:
        return file.divisor or 1.0
    import onnx

    scalars = [
        t
        for graph in graphs_in(model)
        for t in tensors_in(graph)
        if math.prod(t.dims) == 1 and t.data_type in (1, 10, 11)
    ]
    if any(
        min(abs(v - 255.0), abs(v - 1 / 255)) < 1e-4 * v
        for t in scalars
        if (v := float(onnx.numpy_helper.to_array(t, str(Path(file.path).parent)).reshape(-1)[0])) > 0
    ):
        return 1.0
    raise FileError(
        f"{file.path} takes pixels as floats and does not say of what range: say --divisor 255, or --divisor 1 for "
        "raw pixels."
    )


def _output(file: TeacherFile, session: Any, seen: Seen, slots: tuple[Slot, ...]) -> tuple[str, int, list[str]]:
    """Name of the output with the policy's numbers, how many they are, and names of others with as many, found by
    running the graph on zeros.
    """
    batch = seen.batch or 2
    zeros = seen.divided(np.zeros((batch, *seen.shape[1:]), seen.dtype))
    feed = {seen.name: zeros} | {slot.input: slot.feed(slot.zeros(batch)) for slot in slots}
    names = [o.name for o in session.get_outputs()]
    try:
        answers = dict(zip(names, session.run(None, feed), strict=True))
    except Exception as error:  # onnxruntime raises many kinds
        raise failed(file.path, "observations of zeros", error) from None
    for slot in slots:
        if slot.after(answers[slot.output]).shape != (batch, *slot.shape):
            raise FileError(
                f"{file.path} gives the state '{slot.output}' in shape {answers[slot.output].shape}, which its input "
                f"'{slot.input}' does not take: export it again."
            )
    own = {name: answer for name, answer in answers.items() if all(name != slot.output for slot in slots)}
    fitting = {
        name: answer.shape[1]
        for name, answer in own.items()
        if isinstance(answer, np.ndarray)
        and answer.ndim == 2
        and len(answer) == batch
        and answer.shape[1] >= 1
        and answer.dtype.kind == "f"
    }
    several = [name for name, width in fitting.items() if width > 1]
    named = [name for name in (*VALUE_NAMES, *ACTION_NAMES) if name in fitting]
    chosen = [
        n for n, a in own.items() if isinstance(a, np.ndarray) and a.dtype.kind in "iu" and a.shape[:1] == (batch,)
    ]
    alone = not file.output and not named and set(fitting.values()) == {1}
    if file.output in chosen or (chosen and alone):
        raise FileError(
            f"{file.path} gives chosen actions ('{file.output or chosen[0]}'), which do not say how good the others "
            "are: export the graph up to its logits or action values instead."
        )
    wanted = (
        [file.output]
        if file.output
        else list(fitting)
        if len(fitting) == 1
        else named[:1] or several[: len(several) == 1]
    )
    if not wanted or wanted[0] not in fitting:
        found = ", ".join(f"{n} {getattr(a, 'shape', '')}" for n, a in answers.items())
        if file.output and file.output not in answers:
            way = f"none is called {file.output}"
        elif fitting:
            way = (
                f"name that of the policy with --teacher-output ({', '.join(fitting)}), or join the heads of several "
                "choices into one output, one behind the other"
            )
        else:
            way = "none gives numbers (batch, numbers), so export the graph up to its action values, logits or means"
        raise FileError(f"{file.path} has the outputs {found[:200]}: {way}.")
    width = int(fitting[wanted[0]])
    return wanted[0], width, [name for name, size in fitting.items() if size == width and name != wanted[0]]


def _channels_last(shape: tuple[Any, ...]) -> bool:
    return bool(shape[3] < shape[1])

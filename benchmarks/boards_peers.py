"""The same networks in C by other tools, on the same emulated boards: sizes and instructions a decision.

    pip install emlearn onnx                  # and onnx2c on the PATH, built from its sources
    python benchmarks/boards_peers.py

    pip install 'distilrl[litert]'            # for TensorFlow Lite Micro, which is built from the sources in a folder
    git clone https://github.com/tensorflow/tflite-micro SOURCES/tflite-micro   # and google's flatbuffers, gemmlowp
    git -C SOURCES/tflite-micro checkout COMMIT                                 # and ruy, each at its one of COMMITS
    apt install libstdc++-arm-none-eabi-newlib
    python benchmarks/boards_peers.py --tflm SOURCES

Each tool's code is wrapped as policy.c, so that `boards.on_board` measures it as it measures ours, and must answer as
ours does to 1e-4. Weights and observations are those of `boards.STUDENTS`. Results go to results/boards/peers.jsonl.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from boards import BOARD, OUT, make, on_board, student, write_student
from lines import fill, taken
from onnx import load_model_from_string
from onnx.utils import Extractor

from distilrl.export import onnx, tflite
from distilrl.export.steps import layers_of
from distilrl.files import read_json, write_json
from distilrl.spaces import ObsSpec

CLOSE = 1e-4
"""Largest difference of an answer, which shows that a tool was given the same network."""
WRAPPED = """#include <stdint.h>
{code}
#include "policy.h"
void policy_values(const float *obs, float *values) {{
    {values}
}}
int policy_act(const float *obs) {{
    {act}
}}
"""
"""What makes a policy of a tool's network."""


def emlearn(folder: Path, name: str) -> None:
    """``loadable`` code; ``inline`` code of version 0.23.2 cannot be generated."""
    import emlearn
    from emlearn.net import c_generate_net_loadable

    network, head = student(name)
    layers = layers_of(network, "c")
    kinds = [layer.activation or "identity" for layer in layers]
    code = c_generate_net_loadable(kinds, [layer.weight.T for layer in layers], [layer.bias for layer in layers], "net")
    inputs, outputs = network.spec.obs_shape[0], head.width
    values = (
        f"eml_net_infer(&net, obs, {inputs});\n    for (int a = 0; a < {outputs}; a++) values[a] = net.activations2[a];"
    )
    act = f"return eml_net_predict(&net, obs, {inputs});"
    (folder / "policy.c").write_text(WRAPPED.format(code=code, values=values, act=act))
    for header in Path(emlearn.includedir).glob("*.h"):
        shutil.copy(header, folder)


def onnx2c(folder: Path, name: str) -> None:
    """C of our ONNX file up to its values; it knows no ArgMax, so that the choice is made as in our C."""
    network, head = student(name)
    file = folder / "policy.onnx"
    model = load_model_from_string(onnx.write(network, head, ObsSpec(network.spec.obs_shape), {}))
    file.write_bytes(Extractor(model).extract_model(["obs"], ["action_values"]).SerializeToString())
    code = subprocess.run(["onnx2c", "-d", "batch:1", str(file)], capture_output=True, text=True, check=True).stdout
    inputs, outputs = network.spec.obs_shape[0], head.width
    values = f"entry((const float (*)[{inputs}])obs, (float (*)[{outputs}])values);"
    act = (
        f"float values[{outputs}];\n    policy_values(obs, values);\n    int best = 0;\n"
        f"    for (int a = 1; a < {outputs}; a++)\n        if (values[a] > values[best]) best = a;\n    return best;"
    )
    (folder / "policy.c").write_text(WRAPPED.format(code=code, values=values, act=act))


COMMITS = {
    "tflite-micro": "90b983c2b3f1480642e040bbd2ddb37b998f3424",
    "flatbuffers": "v25.9.23",
    "gemmlowp": "719139ce755a0f31cbf1c37f7f98adcc7fc9f425",
    "ruy": "d37128311b445e758136b8602d1bbd2a755e115d",
}
"""What was measured; the three others are those that tflite-micro's own Makefile takes."""
SOURCES = """
lite/micro/ micro_interpreter micro_interpreter_graph micro_interpreter_context micro_context micro_allocator
    micro_allocation_info memory_helpers flatbuffer_utils micro_log micro_op_resolver micro_resource_variable
    micro_utils
lite/micro/arena_allocator/ non_persistent_arena_buffer_allocator persistent_arena_buffer_allocator
    single_arena_buffer_allocator
lite/micro/memory_planner/ greedy_memory_planner linear_memory_planner
lite/micro/tflite_bridge/ flatbuffer_conversions_bridge micro_error_reporter
lite/micro/kernels/ fully_connected fully_connected_common kernel_util
lite/core/ api/flatbuffer_conversions api/tensor_utils c/common
lite/kernels/ kernel_util internal/common internal/quantization_util internal/runtime_shape internal/tensor_ctypes
    internal/portable_tensor_utils
compiler/mlir/lite/ core/api/error_reporter schema/schema_utils
"""
"""The interpreter and the one kernel that an MLP needs, below tensorflow/: a folder, and its files without .cc."""
FLAGS = (
    "-std=c++17 -w -Os -fno-rtti -fno-exceptions -fno-threadsafe-statics -fno-unwind-tables "
    "-fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections -DTF_LITE_STATIC_MEMORY -DNDEBUG "
    "-DTF_LITE_STRIP_ERROR_STRINGS "
    "-DFLATBUFFERS_LOCALE_INDEPENDENT=0"
)
"""Those of its Makefile's smallest build (release), but kernels too with -Os, as all others here."""
INTERPRETER = """#include <cstdint>
#include <cstdio>
#include <new>
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
using Operators = tflite::MicroMutableOpResolver<1>;
alignas(16) static const unsigned char model[] = {{{model}}};
alignas(16) static uint8_t arena[{arena}];
alignas(8) static uint8_t room[sizeof(tflite::MicroInterpreter)], shelf[sizeof(Operators)];
static tflite::MicroInterpreter *interpreter;

static bool set_up(unsigned size) {{
    Operators *operators = new (shelf) Operators;
    operators->AddFullyConnected();
    interpreter = new (room) tflite::MicroInterpreter(tflite::GetModel(model), *operators, arena, size);
    return interpreter->AllocateTensors() == kTfLiteOk;
}}

static void first() {{ {first} }}

extern "C" const float *invoke(const float *obs) {{
    first();
    if (!interpreter && !set_up(sizeof arena)) return nullptr;
    float *input = interpreter->input(0)->data.f;
    for (int i = 0; i < {inputs}; i++) input[i] = obs[i];
    interpreter->Invoke();
    return interpreter->output(0)->data.f;
}}
"""
"""A network of TensorFlow Lite Micro in constant memory; set up at its first decision, which is not measured."""
SMALLEST = """
    set_up(sizeof arena);
    unsigned size = interpreter->arena_used_bytes();
    while (!set_up(size)) size += 16;
    printf("arena %u\\n", size);
"""
"""Tells the fewest bytes in which it can be set up, which takes more than what stays in use."""
LARGE_ARENA = 5_000
"""Bytes in which any of these networks runs, also where 16 kB are all."""


def compiler(board: str) -> list[str]:
    """The C++ compiler of a board, with the options that the Makefile gives the one of C."""
    told = make(f"BOARD={board}", "--eval", "cc: ; @echo $(CC_$(BOARD))", "cc")
    return shlex.split(told.replace("arm-none-eabi-gcc", "arm-none-eabi-g++"))


def tflm_library(sources: Path, board: str) -> Path:
    """The interpreter, built once for a board, one file after the other."""
    folder = sources / "build" / board
    folder.mkdir(parents=True, exist_ok=True)
    objects, below = [], ""
    for word in SOURCES.split():
        if word.endswith("/"):
            below = word
            continue
        objects.append(folder / f"{below}{word}.o".replace("/", "_"))
        if not objects[-1].exists():
            compile_tflm(sources, board, sources / "tflite-micro" / "tensorflow" / below / f"{word}.cc", objects[-1])
    subprocess.run(["arm-none-eabi-ar", "rcs", folder / "libtflm.a", *objects], check=True)
    return folder / "libtflm.a"


def compile_tflm(sources: Path, board: str, source: Path, target: Path) -> None:
    """One file of TensorFlow Lite Micro, or one that includes its headers."""
    include = [sources / "tflite-micro", sources / "flatbuffers" / "include", sources / "gemmlowp", sources / "ruy"]
    words = [*compiler(board), *FLAGS.split(), *(f"-I{path}" for path in include), "-c", source, "-o", target]
    subprocess.run(words, cwd=BOARD, check=True)


def tflm(folder: Path, name: str, board: str, sources: Path) -> str:
    """The .tflite file that `distilrl export --to tflite` writes, up to its values; its arena is as small as it can be.

    Returns:
        What policy.c is linked with.
    """
    network, head = student(name)
    inputs, outputs = network.spec.obs_shape[0], head.width
    model = tflite.write(network.layers, np.zeros((1, inputs), np.float32))
    code = "const float *invoke(const float *);\nstatic const float *given;"
    values = f"given = invoke(obs);\n    for (int a = 0; a < {outputs}; a++) values[a] = given[a];"
    act = (
        f"given = invoke(obs);\n    int best = 0;\n    for (int a = 1; a < {outputs}; a++)\n"
        "        if (given[a] > given[best]) best = a;\n    return best;"
    )
    (folder / "policy.c").write_text(WRAPPED.format(code=code, values=values, act=act))
    library, arena = tflm_library(sources, board), LARGE_ARENA
    for first in (SMALLEST, ""):
        text = INTERPRETER.format(model=",".join(map(str, model)), arena=arena, inputs=inputs, first=first)
        (folder / "model.cc").write_text(text)
        compile_tflm(sources, board, folder / "model.cc", folder / "model.o")
        beside = f"{folder / 'model.o'} {library}"
        if first:
            words = [
                f"EXPORT={folder}",
                f"BOARD={board}",
                f"BUILD={folder}/build",
                "OPTIMISE=-Os -w",
                f"EXTRA={beside}",
            ]
            said = make("run", *words, "DEFINES=-DRECORDS=1 -DREPEATS=1")
            arena = int(re.search(r"^arena (\d+)$", said, re.MULTILINE)[1])
    return beside


TOOLS = {"emlearn": emlearn, "onnx2c": onnx2c}


def measured(student: str, tool: str, board: str, sources: Path = Path()) -> dict[str, Any]:
    """One line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, beside = Path(scratch), ""
        write_student(folder, student)
        if tool in TOOLS:
            TOOLS[tool](folder, student)
        elif tool == "tflite-micro":
            beside = tflm(folder, student, board, sources)
        found = on_board(folder, board, "-Os -w", beside=beside)
    if tool != "distilrl" and found["largest_difference"] > CLOSE:
        sys.exit(f"{tool} was given another network than {student}: it differs by {found['largest_difference']}.")
    return found


def main(words: list[str]) -> None:
    sources = taken(words, "--tflm", "")
    tools = ["distilrl", *(tool for tool in TOOLS if tool == "emlearn" or shutil.which(tool))]
    tools += ["tflite-micro"] if sources else []
    keys = [
        {"student": name, "tool": tool, "board": board}
        for name in ("mlp", "mlp-large")
        for board in ("mps2-an386", "microbit")
        for tool in tools
    ]
    function = partial(measured, sources=Path(sources).resolve()) if sources else measured
    fill(OUT / "peers.jsonl", function, keys)
    if sources:
        exporter = {"litert-torch": metadata.version("litert-torch")}
        write_json(OUT / "machine.json", read_json(OUT / "machine.json") | COMMITS | exporter)


if __name__ == "__main__":
    main(sys.argv[1:])

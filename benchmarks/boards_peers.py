"""The same networks in C by other tools, on the same emulated boards: sizes and instructions a decision.

    pip install emlearn onnx                  # and onnx2c on the PATH, built from its sources
    python benchmarks/boards_peers.py

Each tool's code is wrapped as policy.c, so that `boards.on_board` measures it as it measures ours, and must answer as ours
does to 1e-4. Weights and observations are those of `boards.STUDENTS`. Results go to results/boards/peers.jsonl.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from boards import OUT, on_board, student, write_student
from lines import fill
from onnx import load_model_from_string
from onnx.utils import Extractor

from distilrl.export import onnx
from distilrl.export.steps import layers_of
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
    layers = layers_of(network, "C")
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


TOOLS = {"emlearn": emlearn, "onnx2c": onnx2c}


def measured(student: str, tool: str, board: str) -> dict[str, Any]:
    """One line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_student(folder, student)
        if tool in TOOLS:
            TOOLS[tool](folder, student)
        found = on_board(folder, board, "-Os -w")
    if tool in TOOLS and found["largest_difference"] > CLOSE:
        sys.exit(f"{tool} was given another network than {student}: it differs by {found['largest_difference']}.")
    return found


def main() -> None:
    tools = ["distilrl", *(tool for tool in TOOLS if tool == "emlearn" or shutil.which(tool))]
    keys = [
        {"student": name, "tool": tool, "board": board}
        for name in ("mlp", "mlp-large")
        for board in ("mps2-an386", "microbit")
        for tool in tools
    ]
    fill(OUT / "peers.jsonl", measured, keys)


if __name__ == "__main__":
    main()

"""The same networks in C by other tools, on the same emulated boards: sizes and instructions a decision.

    pip install emlearn                                  # and onnx2c on the PATH, built from its sources
    python benchmarks/boards_peers.py

Each tool's code is wrapped as policy.c, so that `boards.on_board` measures it as it measures ours. Results go to
results/boards/peers.jsonl.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from boards import OUT, STUDENTS, on_board, student, write_student
from lines import fill, machine

from distilrl.export import onnx
from distilrl.export.steps import layers_of
from distilrl.spaces import ObsSpec

WRAPPED = """#include <stdint.h>
{code}
#include "policy.h"
void policy_values(const float obs[{inputs}], float values[{outputs}]) {{
    {values}
}}
int policy_act(const float obs[{inputs}]) {{
    {act}
}}
"""
"""What makes a policy of a tool's network."""


def emlearn(folder: Path, name: str) -> None:
    """The network by emlearn's ``loadable`` code; its ``inline`` code cannot be generated in 0.23.2."""
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
    _wrap(folder, name, code, values, f"return eml_net_predict(&net, obs, {inputs});")
    for header in Path(emlearn.includedir).glob("*.h"):
        shutil.copy(header, folder)


def _wrap(folder: Path, name: str, code: str, values: str, act: str) -> None:
    _, shape, head = STUDENTS[name]
    text = WRAPPED.format(code=code, values=values, act=act, inputs=shape[0], outputs=head.width)
    (folder / "policy.c").write_text(text)

"""A web page that holds the student: the C of `c` in WebAssembly, checked on golden observations and, for CartPole, playing."""

import base64
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.checkpoints import write_bytes
from distilrl.errors import FileError, SpecError
from distilrl.export.c import Source

FLAGS = ("--target=wasm32", "-O3", "-std=c99", "-nostdlib", "-ffreestanding", "-msimd128", "-Wl,--no-entry", "-Wl,--export-dynamic")
EXPORTS = ("policy_act", "policy_values", "policy_buffer")


def wasm(source: Source, activation: str) -> bytes:
    """A policy's C as a WebAssembly module without imports; ``policy_buffer`` is where an observation goes.

    Raises:
        FileError: there is no clang with WebAssembly here, or it refuses.
        SpecError: the activation needs the mathematics library.
    """
    if activation != "relu":
        raise SpecError(f"A page cannot hold a student with '{activation}' units, which need a mathematics library: use relu.")
    clang = shutil.which("clang")
    if clang is None or shutil.which("wasm-ld") is None:
        raise FileError("Writing a page needs clang and wasm-ld (on Debian: apt install clang lld): install them.")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_bytes(home / "policy.h", source.header.encode())
        code = source.code.replace("#include <math.h>\n", "").replace("#include <string.h>\n", "")
        write_bytes(home / "policy.c", (code + "\nobs_t policy_buffer[POLICY_OBS_SIZE];\n").encode())
        exports = [f"-Wl,--export={name}" for name in (*EXPORTS, "__heap_base")]
        command = [clang, *FLAGS, *exports, str(home / "policy.c"), "-o", str(home / "policy.wasm")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own code)
        if done.returncode:
            raise FileError(f"clang does not compile the policy to WebAssembly ({done.stderr.strip()[:160]}): export it to c instead.")
        return (home / "policy.wasm").read_bytes()


def page(module: bytes, env_id: str, name: str, golden: NDArray[Any], actions: NDArray[np.int64]) -> str:
    """The page, complete in itself."""
    data = {
        "env": env_id,
        "name": name,
        "wasm": base64.b64encode(module).decode(),
        "size": int(golden[0].size),
        "pixels": golden.dtype == np.uint8,
        "golden": base64.b64encode(np.ascontiguousarray(golden).tobytes()).decode(),
        "actions": [int(a) for a in actions],
    }
    return TEMPLATE.replace("__DATA__", json.dumps(data)).replace("__TITLE__", f"{env_id}: {name}")


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>__TITLE__</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.2rem; font-weight: 600; } canvas { width: 100%; border: 1px solid #e3e3e3; } .soft { color: #666; }
</style>
</head>
<body>
<h1>__TITLE__</h1>
<p id="check">loading the policy</p>
<canvas id="field" width="640" height="320" hidden></canvas>
<p id="told" class="soft"></p>
<script>
const data = __DATA__;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const policy = new WebAssembly.Instance(new WebAssembly.Module(bytes(data.wasm))).exports;
const Kind = data.pixels ? Uint8Array : Float32Array;
const seat = new Kind(policy.memory.buffer, policy.policy_buffer.value, data.size);
function act(obs) { seat.set(obs); return policy.policy_act(policy.policy_buffer.value); }

const golden = new Kind(bytes(data.golden).buffer);
const same = data.actions.filter((action, i) => act(golden.subarray(i * data.size, (i + 1) * data.size)) === action).length;
const started = performance.now();
for (let i = 0; i < 20000 && performance.now() - started < 500; i++) { act(golden.subarray(0, data.size)); act.calls = i + 1; }
const each = (performance.now() - started) * 1000 / act.calls;
document.getElementById("check").textContent =
  `${same} of ${data.actions.length} actions as expected, ${each < 1 ? each.toFixed(2) : each.toFixed(0)} µs a decision in this browser`;

/* CartPole's equations (Barto, Sutton and Anderson 1983), as in Gymnasium */
function step(state, action) {
  let [x, dx, angle, spin] = state;
  const force = action === 1 ? 10 : -10, cos = Math.cos(angle), sin = Math.sin(angle);
  const temp = (force + 0.05 * spin * spin * sin) / 1.1;
  const spinning = (9.8 * sin - cos * temp) / (0.5 * (4 / 3 - 0.1 * cos * cos / 1.1));
  const moving = temp - 0.05 * spinning * cos / 1.1;
  return [x + 0.02 * dx, dx + 0.02 * moving, angle + 0.02 * spin, spin + 0.02 * spinning];
}
const fallen = s => Math.abs(s[0]) > 2.4 || Math.abs(s[2]) > 12 * Math.PI / 180;
const start = () => Array.from({ length: 4 }, () => Math.random() * 0.1 - 0.05);

if (data.env.startsWith("CartPole")) {
  let total = 0;
  for (let episode = 0; episode < 20; episode++) {
    let state = start(), steps = 0;
    while (steps < 500 && !fallen(state)) { state = step(state, act(state)); steps++; }
    total += steps;
  }
  document.getElementById("told").textContent = `20 episodes played in this page: mean return ${(total / 20).toFixed(1)} of 500`;
  document.body.dataset.mean = total / 20;
  const canvas = document.getElementById("field"), pen = canvas.getContext("2d");
  canvas.hidden = false;
  let state = start(), steps = 0;
  function frame() {
    if (steps++ >= 500 || fallen(state)) { state = start(); steps = 0; }
    state = step(state, act(state));
    const x = 320 + state[0] * 120;
    pen.clearRect(0, 0, 640, 320);
    pen.strokeStyle = "#b8b8b8"; pen.beginPath(); pen.moveTo(0, 250); pen.lineTo(640, 250); pen.stroke();
    pen.fillStyle = "#4a4a4a"; pen.fillRect(x - 30, 232, 60, 36);
    pen.strokeStyle = "#1769aa"; pen.lineWidth = 10; pen.lineCap = "round";
    pen.beginPath(); pen.moveTo(x, 236); pen.lineTo(x + 150 * Math.sin(state[2]), 236 - 150 * Math.cos(state[2])); pen.stroke();
    pen.lineWidth = 1; pen.fillStyle = "#666"; pen.fillText(`step ${steps}`, 10, 20);
    requestAnimationFrame(frame);
  }
  frame();
}
document.body.dataset.same = same;
</script>
</body>
</html>
"""

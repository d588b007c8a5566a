"""A web page that holds the student: its C in WebAssembly, checked on golden observations; it plays CartPole, and takes
images in where a policy answers one with a choice.
"""

import base64
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.envs.images import LUMA
from distilrl.errors import FileError
from distilrl.export import web_images
from distilrl.export.c import Source
from distilrl.export.last import Last
from distilrl.export.replay import Answers, compiled
from distilrl.files import write_text
from distilrl.heads import Categorical, Head
from distilrl.modules import find_program
from distilrl.spaces import ObsSpec

FLAGS = (
    "--target=wasm32", "-O3", "-std=c99", "-ffp-contract=off", "-nostdlib", "-ffreestanding", "-msimd128",
    "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--stack-first",
)  # fmt: skip
AT_ONCE = 8 * 2**20
"""Bytes of WebAssembly that Chromium compiles while a page waits for it."""
STACK = 64 * 1024
"""Bytes of the stack beside what a decision keeps there."""
EXPORTS = ("policy_act", "policy_values", "policy_buffer", "policy_action", "policy_numbers")
OF_MEMORY = ("policy_reset", "policy_memory")


def wasm(source: Source, last: Last, *, remembers: bool = False) -> bytes:
    """A policy's C as a WebAssembly module without imports.

    ``policy_buffer`` is where an observation goes, ``policy_action`` where an action of several numbers comes from,
    ``policy_numbers`` where the head's do, and ``policy_memory`` the state of one that ``remembers``.

    Raises:
        FileError: there is no clang with WebAssembly here, or it refuses.
    """
    clang = find_program("clang")
    if clang is None or find_program("wasm-ld") is None:
        raise FileError(
            "Writing a page needs clang and wasm-ld (Debian: apt install clang lld; macOS: brew install llvm lld, "
            "and llvm's bin first in PATH): install them."
        )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_text(home / "policy.h", source.header)
        write_text(home / "policy.c", source.code + seats(last, remembers=remembers))
        exports = [f"-Wl,--export={name}" for name in (*EXPORTS, *(OF_MEMORY if remembers else ()), "__heap_base")]
        stack = f"-Wl,-z,stack-size={STACK + -(-source.stack_bytes // 16) * 16}"
        command = [clang, *FLAGS, stack, *exports, str(home / "policy.c"), "-o", str(home / "policy.wasm")]
        failed, told = compiled(command)
        if failed:
            raise FileError(f"clang does not compile the policy to WebAssembly ({told}): export it to c instead.")
        module = (home / "policy.wasm").read_bytes()
    if len(module) > AT_ONCE:
        raise FileError(
            f"The policy is {len(module):,} bytes of WebAssembly, and browsers compile no more than {AT_ONCE:,} while "
            "a page is read: export it to onnx."
        )
    return module


def seats(last: Last, *, remembers: bool = False) -> str:
    """C of the memory through which a page and the policy talk."""
    memory = "policy_state policy_memory;\n" if remembers else ""
    hand = f"{last.element} policy_action[POLICY_ACTION_SIZE];\nfloat policy_numbers[POLICY_VALUES];\n"
    return f"\nobs_t policy_buffer[POLICY_OBS_SIZE];\n{hand}{memory}"


def about_image(
    obs: ObsSpec, head: Head, choices: Sequence[str], *, remembers: bool = False, grey: bool = False
) -> dict[str, Any]:
    """What a page must know to take an image in; nothing where the policy does not answer one image, of bytes, grey or
    in colours, with one choice. ``grey``: the environment's colours are taken away as they are for training.
    """
    shape = obs.image
    if shape is None or not obs.pixels or obs.dtype != "uint8" or obs.frames > 1 or shape[0] not in (1, 3) or remembers:
        return {}
    if not isinstance(head, Categorical) or head.action.size > 1 or obs.board:
        return {}
    first = (head.action.start or (0,))[0]
    named = list(choices) if len(choices) == head.width else [str(first + i) for i in range(head.width)]
    luma = list(LUMA) if grey else None
    return {"image": shape, "logits": head.kind == "logits", "width": head.width, "choices": named, "luma": luma}


def picture(golden: NDArray[np.generic], frames: int) -> dict[str, Any] | None:
    """How a page paints the newest frame of images (K, C, H, W): channels of a frame, grey or colours, and the values
    that are black and white; None of boards, whose channels are kinds of cells.
    """
    channels = golden.shape[1] // frames
    low, high = (0, 255) if golden.dtype == np.uint8 else (float(golden.min()), float(golden.max()))
    if channels not in (1, 3) or (float(golden.max()) <= 1 and golden.dtype == np.uint8) or low == high:
        return None
    return {"channels": channels, "low": low, "high": high}


def page(
    module: bytes, env: str, name: str, last: Last, golden: NDArray[np.generic], answers: Answers,
    *, remembers: bool = False, reads: Sequence[int] | None = None, image: Mapping[str, Any] | None = None,
    cartpole: int = 0, frames: int = 1, note: str = "",
) -> str:  # fmt: skip
    """The page, complete in itself.

    Args:
        module: of `wasm`.
        env: the environment's name.
        name: the student's.
        last: its last step.
        golden: (K, *obs_shape) observations on which the page is checked.
        answers: what it must say of them.
        remembers: the policy has memory; then they are of one episode from its beginning.
        reads: places in the environment's observation of what it reads; None: all of it.
        image: of `about_image`, where the page takes images in.
        frames: of time in one image.
        cartpole: most steps of an episode where the environment is Gymnasium's CartPole as it is, which the page plays.
        note: what whoever opens it must know, in the environment's own words.
    """
    close, share = last.tolerance() or (np.zeros(last.size),) * 2
    data = {
        "env": env,
        "name": name,
        "wasm": base64.b64encode(module).decode(),
        "size": int(golden[0].size),
        "bytes": golden.dtype == np.uint8,
        "golden": base64.b64encode(np.ascontiguousarray(golden).tobytes()).decode(),
        "scalar": last.scalar,
        "remembers": remembers,
        "reads": list(reads) if reads is not None else None,
        "cartpole": cartpole,
        "real": last.element == "float",
        "actions": answers.actions.tolist(),
        "close": close.tolist(),
        "share": share.tolist(),
        "board": golden.shape[1:] if golden.ndim == 4 and not image else None,
        "picture": picture(golden, frames) if golden.ndim == 4 else None,
        **(image or {}),
    }
    text, told = (words.replace("&", "&amp;").replace("<", "&lt;") for words in (f"{env}: {name}", note))
    plain = json.dumps(data).replace("<", "\\u003c")  # no name ends the script, or begins another
    parts = {"STYLE": web_images.STYLE, "BODY": web_images.BODY, "SCRIPT": web_images.SCRIPT} if image else {}
    shown = f"<p><strong>{told}</strong></p>\n" if note else ""
    filled = {"STYLE": "", "BODY": "", "SCRIPT": ""} | parts | {"NOTE": shown, "TITLE": text, "DATA": plain}
    # in one pass: what a name or a note holds is filled in nowhere
    return re.sub("__(STYLE|BODY|SCRIPT|NOTE|TITLE|DATA)__", lambda place: filled[place[1]], TEMPLATE)


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>__TITLE__</title>
<style>
:root { color-scheme: light dark; --text: #222; --soft: #666; --line: #e3e3e3; --strong: #1769aa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --soft: #a0a0a0; --line: #3a3a3a; --strong: #6db3ee; --page: #161616; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; } .soft { color: var(--soft); }
canvas { width: 100%; border: 1px solid var(--line); box-sizing: border-box; } #field { background: #fff; }
[hidden] { display: none !important; }
#board { width: 20rem; image-rendering: pixelated; }
__STYLE__</style>
</head>
<body>
<h1>__TITLE__</h1>
__NOTE__<p id="check" aria-live="polite">loading the policy</p>
<noscript><p>This page runs the policy by JavaScript and WebAssembly: allow scripts to see it decide.</p></noscript>
<p id="shown"></p>
__BODY__<canvas id="board" role="img" aria-label="the observation" hidden></canvas>
<canvas id="field" width="640" height="320" role="img" aria-label="CartPole as the policy plays it" hidden></canvas>
<p id="told" class="soft"></p>
<script>
globalThis.onerror = why => {
  document.getElementById("check").textContent = `this browser cannot run the policy: ${why}`;
};
const data = __DATA__;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const policy = new WebAssembly.Instance(new WebAssembly.Module(bytes(data.wasm))).exports;
const Kind = data.bytes ? Uint8Array : Float32Array;
const seat = new Kind(policy.memory.buffer, policy.policy_buffer.value, data.size);
const Hand = data.real ? Float32Array : Int32Array;
const hand = new Hand(policy.memory.buffer, policy.policy_action.value, data.close.length);
const memory = data.remembers ? [policy.policy_memory.value] : [];
const reset = () => { if (data.remembers) policy.policy_reset(...memory); };
function act(obs) { /* an action as a row of numbers */
  seat.set(obs);
  const one = policy.policy_act(...memory, policy.policy_buffer.value, policy.policy_action.value);
  return data.scalar ? [one] : hand;
}

const golden = new Kind(bytes(data.golden).buffer);
const observation = i => golden.subarray(i * data.size, (i + 1) * data.size);
reset();
const near = (one, other) => one.every((number, i) =>
  Math.abs(number - other[i]) <= data.close[i] + data.share[i] * Math.abs(other[i]));
const same = data.actions.filter((action, i) => near(action, act(observation(i)))).length;
const started = performance.now();
for (let i = 0; i < 20000 && performance.now() - started < 500; i++) { act(observation(0)); act.calls = i + 1; }
const each = (performance.now() - started) * 1000 / act.calls;
document.getElementById("check").textContent =
  `${same} of ${data.actions.length} actions as expected, ` +
  `${each < 1 ? each.toFixed(2) : each.toFixed(0)} µs a decision in this browser`;

function draw(obs) { /* the newest frame; of cells each channel in a colour of its own */
  const canvas = document.getElementById("board"), pen = canvas.getContext("2d");
  const [channels, height, width] = data.board, area = height * width;
  canvas.hidden = false; canvas.width = width; canvas.height = height;
  if (data.picture) {
    const { channels: own, low, high } = data.picture, shown = pen.createImageData(width, height);
    const frame = obs.subarray((channels - own) * area);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++)
        shown.data[4 * i + c] = 255 * (frame[(own === 3 ? c : 0) * area + i] - low) / (high - low);
      shown.data[4 * i + 3] = 255;
    }
    pen.putImageData(shown, 0, 0);
    return;
  }
  pen.fillRect(0, 0, width, height);
  obs.forEach((cell, i) => {
    const channel = Math.floor(i / area), place = i % area;
    pen.fillStyle = `hsl(${360 * channel / channels} 80% 60%)`;
    if (cell > 0) pen.fillRect(place % width, Math.floor(place / width), 1, 1);
  });
}

let shown = 0;
function show() {
  if (shown === 0) reset();
  if (data.board) draw(observation(shown));
  const numbers = Array.from(act(observation(shown))).map(n => data.real ? n.toFixed(4) : n).join(", ");
  document.getElementById("shown").textContent = `action of observation ${shown + 1}: ${numbers}`;
  shown = (shown + 1) % data.actions.length;
}
show();
const playing = data.cartpole > 0 && data.cartpole <= 10000; /* longer ones would keep the page from opening */
const still = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches;
/* one memory: the episode on show has it */
if (!(playing && data.remembers) && !data.image && !still) setInterval(show, 1000);

/* CartPole's equations (Barto, Sutton and Anderson 1983), as in Gymnasium */
function step(state, action) {
  let [x, dx, angle, spin] = state;
  const force = action === 1 ? 10 : -10, cos = Math.cos(angle), sin = Math.sin(angle);
  const temp = (force + 0.05 * spin * spin * sin) / 1.1;
  const spinning = (9.8 * sin - cos * temp) / (0.5 * (4 / 3 - 0.1 * cos * cos / 1.1));
  const moving = temp - 0.05 * spinning * cos / 1.1;
  return [x + 0.02 * dx, dx + 0.02 * moving, angle + 0.02 * spin, spin + 0.02 * spinning];
}
const read = state => data.reads ? data.reads.map(i => state[i]) : state;
const fallen = s => Math.abs(s[0]) > 2.4 || Math.abs(s[2]) > 12 * Math.PI / 180;
const start = () => Array.from({ length: 4 }, () => Math.random() * 0.1 - 0.05);

if (playing) {
  let total = 0;
  for (let episode = 0; episode < 20; episode++) {
    let state = start(), steps = 0;
    reset();
    while (steps < data.cartpole && !fallen(state)) { state = step(state, act(read(state))[0]); steps++; }
    total += steps;
  }
  document.getElementById("told").textContent =
    `20 episodes played in this page: mean return ${(total / 20).toFixed(1)} of ${data.cartpole}`;
  document.body.dataset.mean = total / 20;
  const canvas = document.getElementById("field"), pen = canvas.getContext("2d");
  canvas.hidden = false;
  let state = start(), steps = 0;
  reset();
  function frame() {
    if (steps++ >= data.cartpole || fallen(state)) { state = start(); steps = 0; reset(); }
    state = step(state, act(read(state))[0]);
    const x = 320 + state[0] * 120;
    pen.clearRect(0, 0, 640, 320);
    pen.strokeStyle = "#b8b8b8"; pen.beginPath(); pen.moveTo(0, 250); pen.lineTo(640, 250); pen.stroke();
    pen.fillStyle = "#4a4a4a"; pen.fillRect(x - 30, 232, 60, 36);
    pen.strokeStyle = "#1769aa"; pen.lineWidth = 10; pen.lineCap = "round";
    pen.beginPath(); pen.moveTo(x, 236);
    pen.lineTo(x + 150 * Math.sin(state[2]), 236 - 150 * Math.cos(state[2])); pen.stroke();
    pen.lineWidth = 1; pen.fillStyle = "#666"; pen.fillText(`step ${steps}`, 10, 20);
    if (!still) requestAnimationFrame(frame);
  }
  frame();
}
document.body.dataset.same = same;
__SCRIPT__</script>
</body>
</html>
"""

"""example.py and example.c of each kind of file: they load it and hold it against its golden observations."""

from distilrl.export.last import Last, literals

CHECK = """close = np.abs(action.reshape(wanted.shape) - wanted) <= golden["near"]
print(f"{close.all(axis=1).mean():.1%} of {len(wanted)} actions as expected")
"""
EXAMPLES = {
    "onnx": f'''"""pip install numpy onnxruntime; python example.py"""
import numpy as np
import onnxruntime

golden = np.load("golden.npz")
wanted = golden["action"]
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
numbers, action = session.run(["@numbers", "action"], {{"obs": golden["obs"]}})
{CHECK}''',
    "torch": f'''"""pip install numpy torch; python example.py"""
import numpy as np
import torch

golden = np.load("golden.npz")
wanted = golden["action"]
policy = torch.export.load("policy.pt2").module()
numbers, action = policy(torch.from_numpy(golden["obs"]))
action = action.detach().numpy()
{CHECK}''',
    "tflite": f'''"""pip install numpy ai-edge-litert; python example.py"""
import numpy as np
from ai_edge_litert.interpreter import Interpreter

golden = np.load("golden.npz")
wanted = golden["action"]
policy = Interpreter("policy.tflite").get_signature_runner()
last = sorted(policy.get_output_details())[-1]
action = np.concatenate([policy(args_0=obs[None])[last] for obs in golden["obs"]])
{CHECK}''',
}
"""By target; ``@numbers`` is what the head's numbers are called."""
REMEMBERING = f'''"""pip install numpy onnxruntime; python example.py"""
import numpy as np
import onnxruntime

golden = np.load("golden.npz")
wanted = golden["action"]
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
# what is remembered goes from one step to the next; an episode begins with zeros
kept = {{one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in session.get_inputs() if one.name != "obs"}}
actions = []
for obs in golden["obs"]:
    outputs = ["action", *(name.replace("_in", "_out") for name in kept)]
    action, *after = session.run(outputs, {{"obs": obs[None], **kept}})
    kept = dict(zip(kept, after))
    actions.append(action)
action = np.concatenate(actions)
{CHECK}'''
"""Of an ONNX file with memory."""


def example(target: str, numbers_name: str, *, remembers: bool = False) -> str:
    """example.py of a target."""
    if remembers:
        return REMEMBERING
    return EXAMPLES.get(target, EXAMPLES["onnx"]).replace("@numbers", numbers_name)


def c_example(last: Last, *, remembers: bool = False) -> str:
    """example.c: holds the policy against golden.bin, which has one action and one observation after the other; of a
    policy that ``remembers``, those of one episode from its beginning.
    """
    if last.scalar:
        compared = "same += policy_act(obs) == action[0];"
    elif last.element == "int32_t":
        compared = (
            "policy_act(obs, own);\n        int all = 1;\n"
            "        for (int i = 0; i < POLICY_ACTION_SIZE; i++) all &= own[i] == action[i];\n        same += all;"
        )
    else:
        compared = (
            "policy_act(obs, own);\n        int all = 1;\n        for (int i = 0; i < POLICY_ACTION_SIZE; i++) {\n"
            "            const float near = close[i] + share[i] * (own[i] < 0 ? -own[i] : own[i]);\n"
            "            all &= own[i] - action[i] <= near && action[i] - own[i] <= near;\n        }\n"
            "        same += all;"
        )
    own = "" if last.scalar else f"    {'int' if last.element == 'int32_t' else 'float'} own[POLICY_ACTION_SIZE];\n"
    limits = "".join(
        f"    static const float {name}[POLICY_ACTION_SIZE] = {{{literals(numbers)}}};\n"
        for name, numbers in zip(("close", "share"), last.tolerance() or (), strict=False)
    )
    if remembers:
        compared = compared.replace("policy_act(obs", "policy_act(&state, obs")
        own += "    policy_state state;\n    policy_reset(&state);\n"
    return C_EXAMPLE.replace("@element", last.element).replace("@compared", compared).replace("@own", own + limits)


C_EXAMPLE = """/* cc -O3 -std=c99 example.c policy.c -o example && ./example golden.bin */
#include <stdio.h>
#include "policy.h"

int main(int argc, char **argv) {
    static obs_t obs[POLICY_OBS_SIZE];
    @element action[POLICY_ACTION_SIZE];
@own    int seen = 0, same = 0;
    FILE *golden = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!golden) return 2;
    while (fread(action, sizeof action, 1, golden) == 1 && fread(obs, sizeof obs, 1, golden) == 1) {
        seen++;
        @compared
    }
    fclose(golden);
    printf("%d of %d actions as expected\\n", same, seen);
    return same == seen && seen > 0 ? 0 : 1;
}
"""

"""example.py of each kind of file: loads it and holds it against golden.npz."""

CHECK = """close = np.abs(action.reshape(wanted.shape) - wanted) <= 1e-4 * np.maximum(np.abs(wanted), 1)
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

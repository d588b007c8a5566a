"""pip install numpy onnxruntime; python example.py"""
import numpy as np
import onnxruntime

golden = np.load("golden.npz")
wanted = golden["action"]
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
# what is remembered goes from one step to the next; an episode begins with zeros
kept = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in session.get_inputs() if one.name != "obs"}
actions = []
for obs in golden["obs"]:
    outputs = ["action", *(name.replace("_in", "_out") for name in kept)]
    action, *after = session.run(outputs, {"obs": obs[None], **kept})
    kept = dict(zip(kept, after))
    actions.append(action)
action = np.concatenate(actions)
close = np.abs(action.reshape(wanted.shape) - wanted) <= golden["near"]
print(f"{close.all(axis=1).mean():.1%} of {len(wanted)} actions as expected")

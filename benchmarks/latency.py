"""Microseconds of one greedy decision on a single observation, one thread: the median of 15 rounds, of many calls each,
in which all ways take turns.

    python benchmarks/latency.py RUN [--sb3 FILE.zip]

RUN: a finished run folder; FILE.zip: its teacher, for stable-baselines3's own `predict` (needs stable-baselines3, or
sb3-contrib). C is timed inside C, over a loop of different observations, so that no Python is counted. A student with
memory is answered from its first state on; it has no rows of torch.export, TorchScript and NumPy.
"""

import argparse
import importlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from lines import RESULTS, machine

from distilrl import Policy, TrainConfig, __version__, export_policy, load_network, load_teacher, trust
from distilrl.evaluate import load_teachers
from distilrl.export.last import Last, last_step
from distilrl.export.steps import Step, steps
from distilrl.files import read_json, write_json
from distilrl.text import as_file_name

TIMER = r"""
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "policy.h"
static double now(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * t.tv_sec + 1e-3 * t.tv_nsec;
}
static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
int main(int argc, char **argv) {
    static obs_t obs[64][POLICY_OBS_SIZE];
    static double times[201];
    @element action[POLICY_ACTION_SIZE], own[POLICY_ACTION_SIZE]; int rows = 0, calls = atoi(argv[2]); double sum = 0;
    FILE *golden = fopen(argv[1], "rb");
    @state
    while (rows < 64 && fread(action, sizeof action, 1, golden) == 1 && fread(obs[rows], sizeof obs[0], 1, golden) == 1)
        rows++;
    for (int t = 0; t < 201; t++) {
        double start = now();
        for (int i = 0; i < calls; i++) { @call sum += own[0]; }
        times[t] = (now() - start) / calls;
    }
    qsort(times, 201, sizeof times[0], compare);
    printf("%.4f %f\n", times[100], sum);
    return 0;
}
"""


ROUNDS = 15
"""In which all ways take turns: what else the machine does then meets each of them alike."""
Timer = Callable[[], float]


def timer_of(call: Callable[[], object], calls: int = 500) -> Timer:
    """What times a call, in microseconds."""

    def timed() -> float:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return float(np.median(times[calls // 10 :])) * 1e6

    return timed


def decision(policy: Policy, obs: torch.Tensor) -> Callable[[], object]:
    """One greedy decision in PyTorch."""
    state = policy.start(1)
    return lambda: policy.head.greedy(policy.forward(obs, state)[0])


def in_numpy(layers: list[Step]) -> Callable[[np.ndarray], np.ndarray]:
    """The student in NumPy: one matrix product per layer; gives the head's numbers."""
    known = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}

    def numbers(obs: np.ndarray) -> np.ndarray:
        x = obs.astype(np.float32)
        for step in layers:
            weight = step.weight.reshape(len(step.bias), -1)
            if step.weight.ndim == 4:
                kernel = step.weight.shape[2]
                windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[
                    :, :: step.stride, :: step.stride
                ]
                columns = windows.transpose(0, 3, 4, 1, 2).reshape(weight.shape[1], -1)
                x = (weight @ columns + step.bias[:, None]).reshape(step.out_shape)
            else:
                x = weight @ x.reshape(-1) + step.bias
            x = x if step.activation is None else known[step.activation](x)
        return x

    return numbers


def timer_in_c(folder: Path, last: Last, native: bool, calls: int, remembers: bool, program: Path) -> Timer:
    """What times a C file, in microseconds, compiled as ``program``."""
    state = "policy_state state; policy_reset(&state);" if remembers else ""
    given = ("&state, " if remembers else "") + "obs[i % rows]"
    call = f"own[0] = policy_act({given});" if last.scalar else f"policy_act({given}, own);"
    timer = program.with_suffix(".c")
    timer.write_text(TIMER.replace("@element", last.element).replace("@call", call).replace("@state", state))
    flags = ["-O3", "-std=c99", *(["-march=native"] if native else [])]
    subprocess.run(["cc", *flags, f"-I{folder}", timer, f"{folder}/policy.c", "-lm", "-o", program], check=True)

    def timed() -> float:
        told = subprocess.run([program, folder / "golden.bin", str(calls)], capture_output=True, text=True, check=True)
        return float(told.stdout.split()[0])

    return timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--sb3", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig.from_json(read_json(options.run / "config.json")["train"])
    env = config.env
    trust(*env.modules)
    stored = load_network(options.run / "student")
    network, head, last = stored.network.eval(), stored.head, last_step(stored.head)
    ways: dict[str, Timer] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        integers = ["int8"] if network.spec.activation == "relu" else []
        remembers = network.spec.remembers
        for target in ("onnx", "c", *integers, *(() if remembers else ("torch",))):
            folders[target] = options.run / "export" / target
            if not folders[target].is_dir():
                folders[target] = Path(scratch) / target
                export_policy(options.run, target, folders[target])
        obs = np.load(folders["onnx"] / "golden.npz")["obs"][:1]
        tensor = torch.from_numpy(obs)
        if options.sb3:
            known: dict = {"lr_schedule": 0.0, "exploration_schedule": 0.0}
            if obs.ndim == 2:  # old files hold spaces of gym, which is not needed to predict
                played = gymnasium.make(env.id, **env.kwargs)
                known |= {"observation_space": played.observation_space, "action_space": played.action_space}
            meta = load_teacher(options.sb3).meta
            library = importlib.import_module(
                "sb3_contrib" if meta["library"] == "sb3-contrib" else "stable_baselines3"
            )
            algorithm = getattr(library, meta["algorithm"])
            model = algorithm.load(options.sb3, device="cpu", custom_objects=known)
            ways["teacher, stable-baselines3 predict"] = timer_of(lambda: model.predict(obs[0], deterministic=True))
        teacher = load_teachers(config.tasks[0].teacher, env, config.combine)
        with torch.inference_mode():
            ways["teacher, PyTorch"] = timer_of(decision(teacher.policy, tensor))
            ways["student, PyTorch"] = timer_of(decision(Policy(network, head), tensor))
            if not remembers:
                program = torch.export.load(folders["torch"] / "policy.pt2").module()
                ways["student, torch.export"] = timer_of(lambda: program(tensor))
                traced = torch.jit.freeze(torch.jit.trace(network, tensor))
                ways["student, TorchScript"] = timer_of(lambda: head.greedy(traced(tensor)))
        if last.scalar and not remembers:  # of other actions, the last step is no one line of NumPy
            numbers = in_numpy(steps(network, "NumPy"))
            assert np.allclose(numbers(obs[0]), network(tensor)[0].detach().numpy(), rtol=1e-3, atol=1e-4)
            ways["student, NumPy"] = timer_of(lambda: int(numbers(obs[0]).argmax()))
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        for target in ("onnx", *integers):
            name = "student, onnxruntime int8" if target == "int8" else "student, onnxruntime"
            session = onnxruntime.InferenceSession(
                str(folders[target] / "policy.onnx"), settings, providers=["CPUExecutionProvider"]
            )
            kept = [one for one in session.get_inputs() if one.name != "obs"]
            state = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in kept}
            ways[name] = timer_of(lambda session=session, given={"obs": obs, **state}: session.run(["action"], given))
        calls = 20 if obs.ndim == 4 else 20_000
        for target in ("c", *integers):
            name = "student, C int8" if target == "int8" else "student, C"
            for way, native in ((name, False), (f"{name}, -march=native", True)):
                ways[way] = timer_in_c(
                    folders[target], last, native, calls, remembers, Path(scratch) / f"{target}-{native}"
                )
        with torch.inference_mode():
            rounds = [[timed() for timed in ways.values()] for _ in range(ROUNDS)]
    rows = dict(zip(ways, np.median(rounds, axis=0).tolist(), strict=True))
    for name, value in rows.items():
        print(f"{name:40} {value:10.3f} us")
    name = f"{as_file_name(env.id)}-{network.spec.describe().replace(':', '-').replace(',', '-')}"
    facts = {
        "distilrl": __version__,
        "torch": torch.__version__,
        "threads": 1,
        "env": env.label,
        "student": network.spec.describe(),
    }
    machine(RESULTS / "latency", "onnxruntime")
    write_json(RESULTS / "latency" / f"{name}.json", facts | {"microseconds": rows})


if __name__ == "__main__":
    main()

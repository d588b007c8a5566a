"""Flash and RAM of exported students on a microcontroller: what arm-none-eabi-gcc makes of their C for a Cortex-M4 and a Cortex-M0.

    python benchmarks/flash.py RUN [RUN ...]      # run folders; exports to c and int8 are made where they are missing

Sizes are of policy.o alone (arm-none-eabi-size): flash = text + data, RAM = data + bss. Results go to results/flash.jsonl. On
Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from distilrl.checkpoints import read_json
from distilrl.export import export_policy
from distilrl.plain import read_as
from distilrl.results import Results

CPUS = {
    "cortex-m4": ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "cortex-m0": ["-mcpu=cortex-m0", "-mthumb"],
}


def measure(source: Path, cpu: str) -> dict[str, int]:
    """Bytes of flash and RAM of one C file."""
    compiler, sizer = (shutil.which(f"arm-none-eabi-{name}") for name in ("gcc", "size"))
    if compiler is None or sizer is None:
        sys.exit("arm-none-eabi-gcc is not here: install it (Debian: gcc-arm-none-eabi libnewlib-arm-none-eabi)")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "policy.o"
        flags = ["-std=c99", "-Os", "-Wall", "-Wextra", "-Werror", *CPUS[cpu]]
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(out)], check=True)
        text, data, bss = map(
            int,
            subprocess.run([sizer, str(out)], capture_output=True, text=True, check=True)
            .stdout.splitlines()[1]
            .split()[:3],
        )
    return {"flash": text + data, "ram": data + bss}


def main(runs: list[Path]) -> None:
    rows = []
    for run in runs:
        results = read_as(Results, read_json(run / "results.json"))
        trees = (run / "tree.json").is_file()
        for target in ("c",) if trees else ("c", "int8"):
            folder = run / "export" / target
            if not folder.is_dir():
                export_policy(run, target)
            for cpu in CPUS:
                row = {
                    "env": results.env,
                    "student": results.student.name,
                    "target": target,
                    "cpu": cpu,
                    **measure(folder / "policy.c", cpu),
                }
                rows.append(row)
                print(row, flush=True)
    out = Path("benchmarks/results/flash.jsonl")
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main([Path(arg) for arg in sys.argv[1:]])

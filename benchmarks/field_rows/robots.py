"""Robots: Gymnasium's in MuJoCo and Box2D, and Unitree's. Teachers are public: docs/fields/robots.md says where."""

from dataclasses import replace

from distilrl import Measure

from . import Field, Row, single_action

ROUGH = "examples.robots:Rough-v0"
QUIET = "--disturbed-episodes 0"
"""What disturbs robots is benchmarks/robots.py's."""
FALLS = f"--measure 'fallen=max<=0.05' {QUIET}"


def _robot(name: str, more: str = "") -> str:
    """Options of a robot of Gymnasium's that may fall."""
    return f"""--env-kwargs '{{"robot": "{name}"{more}}}' {FALLS}"""


ROWS = {
    "HalfCheetah": Row(
        ROUGH, "teachers/tqc-HalfCheetah-v3.zip", ("mlp:64,64",), _robot("HalfCheetah-v5"), "--steps 200000"
    ),
    "Hopper": Row(
        ROUGH, "teachers/trpo-Hopper-v3.zip", ("mlp:16,16", "mlp:8,8"),
        _robot("Hopper-v5") + " --normalizer teachers/trpo-Hopper-v3.vecnormalize.pkl", "--steps 40000",
    ),
    "Walker2d": Row(
        ROUGH, "teachers/tqc-Walker2d-v3.zip", ("mlp:32,32", "mlp:16,16"), _robot("Walker2d-v5"), "--steps 100000"
    ),
    "Ant": Row(
        ROUGH, "teachers/trpo-Ant-v3.zip", ("mlp:24,24", "mlp:16"),
        _robot("Ant-v5", ', "include_cfrc_ext_in_observation": false')
        + " --zeros 84 --normalizer teachers/trpo-Ant-v3.vecnormalize.pkl",
        "--steps 20000",
    ),
    "BipedalWalker": Row(
        ROUGH, "teachers/a2c-BipedalWalker-v3.zip", ("mlp:16", "mlp:8", "mlp:4"),
        _robot("BipedalWalker-v3") + " --normalizer teachers/a2c-BipedalWalker-v3.vecnormalize.pkl", "--steps 30000",
    ),
    "Unitree Go1": Row(
        "examples.unitree:Go1-v0", "teachers/go1_policy.onnx", ("mlp:64,64", "mlp:16"),
        f"""--env-kwargs '{{"noise": 1.0, "push": 1.0}}' {FALLS}""", "--steps 20000",
    ),
    "Unitree Go1, 150,000 steps": Row(
        "examples.unitree:Go1-v0", "teachers/go1_policy.onnx",
        ("mlp:31,32", "mlp:28+gru:10", "mlp:27@history=2", "mlp:24", "mlp:20+gru:3"),
        f"""--env-kwargs '{{"noise": 1.0, "push": 1.0}}' {FALLS}""", "--steps 150000",
    ),
    "Unitree G1": Row(
        "examples.unitree:G1-v0", "teachers/motion.pt", ("mlp:32,32", "mlp:20+gru:3"), FALLS, "--steps 60000"
    ),
    "Unitree G1, 150,000 steps": Row(
        "examples.unitree:G1-v0", "teachers/motion.pt", ("mlp:24", "mlp:20+gru:3", "mlp:13@history=2"),
        FALLS, "--steps 150000",
    ),
    "Unitree G1, 400,000 steps": Row(
        "examples.unitree:G1-v0", "teachers/motion.pt", ("mlp:24",), FALLS, "--steps 400000"
    ),
    "Unitree G1, rough": Row(
        "examples.unitree:G1-v0", "teachers/motion.pt", ("mlp:64+gru:32", "mlp:32+gru:16", "mlp:32,32"),
        f"""--env-kwargs '{{"noise": 1.0, "push": 1.0}}' {FALLS}""", "--steps 150000",
    ),
}  # fmt: skip
STILL, STILL_STANDING = single_action(), single_action(Measure("fallen", "max"))
FIELD = Field(
    "robots",
    "机器人",
    "docs/fields/robots.md",
    "robots",
    {
        name: replace(row, rules={"no action": STILL_STANDING if FALLS in row.options else STILL})
        for name, row in ROWS.items()
    },
)

"""Imports form a tree, as drawn in docs/design.md, and optional packages are imported only where they are used."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "distilrl"
DESIGN = SOURCE.parents[1] / "docs" / "design.md"
ROWS = [
    {
        "draws",
        "errors",
        "isolation",
        "limits",
        "losses",
        "memories",
        "modules",
        "origins",
        "stats",
        "terminal",
        "text",
        "threads",
        "unrolled",
    },
    {"blocks", "devices", "plain", "scales", "spaces", "starting", "verdict"},
    {
        "envs",
        "files",
        "heads",
        "optimisers",
        "played",
        "processes",
        "provenance",
        "schedules",
        "sensors",
        "shown",
        "specs",
    },
    {"events", "measures", "networks", "policies", "sensed", "targets", "widths", "worlds", "zoo"},
    {"checkpoints", "discriminator", "features", "replay", "results", "stacks", "trained"},
    {"context", "fanout", "runs", "summaries", "trees"},
    {"display", "episodes", "metrics", "next_steps", "objective", "studies", "teachers"},
    {"agreement", "collect", "evaluate", "kept"},
    {"acceptance", "animate", "comparison", "config", "shards"},
    {"distributed", "export", "figures", "inspection", "learner", "reward_recipes", "sizes", "stream"},
    {"population", "recipes", "report", "tasks"},
    {"evolution", "finalists"},
    {"jobs", "train"},
    {"distill", "search"},
    {"plan", "series", "teaching", "viper"},
    {"sweep"},
    {"cli"},
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
OPTIONAL = {
    "tensorboard": "metrics",
    "wandb": "metrics",
    "pygame": "envs",
    "sklearn": "viper",
    "pandas": "studies",
    "huggingface_hub": "teachers",
    "ray": "distributed",
}
ONNX = ("onnx", "onnxruntime")
NOTEBOOKS = ("IPython",)
"""What is imported where it runs already."""


def modules():
    for path in SOURCE.rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py") or path.parent != SOURCE:
            yield path.relative_to(SOURCE).parts[0].removesuffix(".py"), path


def imports(tree):
    """What a module imports: when it is imported, later in a function, or for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from imports(node)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: getattr(value, "stem", value))
def test_imports_point_down(name, path):
    for node in imports(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "distilrl" else [f"distilrl.{a.name}" for a in node.names]
        for imported in names:
            parts = imported.split(".")
            if parts[0] == "distilrl" and parts[-1] != "__version__" and parts[1] != name:
                assert ROW[parts[1]] < ROW[name], f"{name} (row {ROW[name]}) imports {imported} (row {ROW[parts[1]]})"
            for optional, home in OPTIONAL.items():
                assert optional not in parts or name == home, f"{name} imports {optional}"
            assert parts[0] not in ONNX or name in ("teachers", "export"), f"{name} imports {imported}"


def test_limits_of_readers_are_in_one_place():
    for name, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        names = {t.id for t in targets if isinstance(t, ast.Name) and t.id.startswith(("MAX_", "LARGEST_"))}
        assert not names or name == "limits", f"{path} has {names}"


def test_every_module_has_a_row():
    assert {name for name, _ in modules()} == set(ROW)


def test_the_table_of_the_design_is_that_of_the_modules():
    lines = re.findall(r"^\| (\d+) \| ([^|]+) \|", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(row) for row, names in lines for name in re.findall(r"`(\w+)(?:\.py|/)`", names)} == ROW


def test_nothing_in_the_package_can_execute_a_file():
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "pickle.load", "pickle.loads", "torch.jit.load"}, path
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), path


KINDS = {"Bounds", "Choices", "Categorical", "Point", "Gaussian"}


def test_only_the_heads_and_the_last_step_of_exports_ask_what_kind_a_policy_is():
    """Everything else asks a head; so a new kind of policy is a new head, and nothing else changes."""
    asked = []
    for name, path in modules():
        if name in ("spaces", "heads", "export"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = None
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                where = node.args[1]
            elif isinstance(node, ast.MatchClass):
                where = node.cls
            elif isinstance(node, ast.Compare) and ast.unparse(node.left).startswith("type("):
                where = node.comparators[0]
            named = {part.id for part in ast.walk(where) if isinstance(part, ast.Name)} if where is not None else set()
            asked += [f"{path.name}:{node.lineno} asks for {kind}" for kind in named & KINDS]
    assert not asked


def test_what_is_imported_is_declared():
    """Each package by its own name, not by that of another which happens to bring it."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(one for some in project["optional-dependencies"].values() for one in some)]
    names = {re.split(r"[\[>=<~]", one)[0].lower().replace("_", "-") for one in declared}
    names |= {"mujoco", "box2d"} & {extra for one in declared for extra in re.findall(r"\w+", one)}  # gymnasium's own
    homes = metadata.packages_distributions()
    for name, path in modules():
        for node in imports(ast.parse(path.read_text(encoding="utf-8"))):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for package in (
                {one.split(".")[0] for one in named} - {"distilrl", "", *NOTEBOOKS} - {*sys.stdlib_module_names}
            ):
                found = {one.lower().replace("_", "-") for one in homes.get(package, [package])}
                assert found & names, f"{name} imports {package}, which pyproject.toml does not name"

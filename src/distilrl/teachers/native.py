"""Our own format: a folder with ``spec.json`` and safetensors, or a run folder, whose student is then the teacher."""

import hashlib
import json
from pathlib import Path
from typing import Any

from distilrl.checkpoints import load_network
from distilrl.errors import FileError
from distilrl.files import digest
from distilrl.runs import RunFolder
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher
from distilrl.trees import TreePolicy, load_tree

OURS = (
    "path",
    "format",
    "kind",
    "obs_shape",
    "outputs",
    "params",
    "bytes",
    "macs",
    "sha256",
    "layers",
    "network",
    "not_executed",
    "library",
    "algorithm",
    "version",
    "observation",
    "of_members",
    "note",
    "dangerous",
)
"""What is said of a teacher by us, and not by its file."""


def _tree(path: Path) -> Teacher:
    """A decision tree of ours."""
    tree, about = load_tree(path)
    meta: dict[str, Any] = {"library": "distilrl", "algorithm": "viper", "version": None, "not_executed": []}
    meta |= {k: v for k, v in about.items() if k not in OURS}
    head = tree.head.to_json()
    return Teacher(
        TreePolicy(tree),
        head["kind"],
        f"distilrl {tree.describe()}",
        str(path.parent),
        digest(path),
        meta,
        obs_shape=tree.obs_shape,
        outputs=tree.head.width,
        params=len(tree.feature),
        action=tree.head.action,
        squash=head.get("squash", "clip"),
    )


def load(file: TeacherFile) -> Teacher:
    """Reads a folder that holds a network, a run folder, or a tree's.

    Raises:
        FileError: it holds neither, or what it holds is damaged.
    """
    file.check_options()
    if file.normalizer is not None:
        raise FileError(
            f"{file.path} is a folder of ours, which reads what the environment shows: leave --normalizer out."
        )
    folder = RunFolder(file.path).with_student().path
    if (folder / "tree.json").is_file():
        return _tree(folder / "tree.json")
    if not (folder / "spec.json").is_file() and (folder / "student" / "spec.json").is_file():
        folder = folder / "student"
    if not (folder / "spec.json").is_file():
        if (folder / "config.json").is_file():
            raise RunFolder(folder).lacking("student")
        if (folder / "export.json").is_file():
            graph = folder / "policy.onnx"
            way = f", {graph} is a policy like any other" if graph.is_file() else ""
            raise FileError(f"{folder} is an export: distilrl verify {folder} replays and plays it{way}.")
        raise FileError(f"{folder} holds no policy: there is neither spec.json nor student/spec.json in it.")
    stored = load_network(folder)
    head = stored.head.to_json()
    # the same weights answer otherwise under another activation, and mean something else under another head
    decides = json.dumps([stored.digest, stored.network.spec.to_json(), head], sort_keys=True)
    meta: dict[str, Any] = {"library": "distilrl", "algorithm": None, "version": None, "not_executed": []}
    meta |= {k: v for k, v in stored.meta.items() if k not in OURS}
    return Teacher(
        stored.network,
        head["kind"],
        "distilrl",
        str(folder),
        hashlib.sha256(decides.encode()).hexdigest(),
        meta,
        action=stored.head.action,
        squash=head.get("squash", "clip"),
    )

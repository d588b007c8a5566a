"""Writes src/distilrl/zoo.json, by which `distilrl zoo` knows these teachers: python zoo/table.py."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
TABLE = HOME.parent / "src" / "distilrl" / "zoo.json"


def table() -> dict[str, Any]:
    """Environment, sizes and digests of each teacher."""
    return {home.name: teacher(home) for home in sorted(HOME.iterdir()) if home.is_dir() and home.name[0] not in "_."}


def teacher(home: Path) -> dict[str, Any]:
    """A row: the environment is what spec.json says, or else the card."""
    if (spec := home / "spec.json").is_file():
        env = json.loads(spec.read_text(encoding="utf-8"))["env"].partition(" ")[0]
    else:
        card = (home / "README.md").read_text(encoding="utf-8")
        (env,) = re.findall(r"^\| environment \| `([^`]+)`", card, re.MULTILINE)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(home.iterdir())
    }
    return {"env": env, "files": files}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")

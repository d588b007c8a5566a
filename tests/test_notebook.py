"""The notebook: its cells, in order, as they stand there but for the budgets."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "distilrl.ipynb"
SMALLER = {
    "at_return=475.0, env_steps=50_000": "at_return=60.0, env_steps=3_000",
    "env_steps=30_000": "env_steps=1_000",
    "Comparison(disturbed_episodes=0)": "Comparison(50, 50, 0)",
    "iterations=10": "iterations=2",
    '("mlp:", "mlp:2", "mlp:4", "mlp:8"), seeds=2': '("mlp:", "mlp:4"), seeds=1',
}


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs():
    assert not [cell for cell in cells() if cell["outputs"] or cell["execution_count"]]


def test_its_cells_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'distilrl[trees]'")
    monkeypatch.chdir(tmp_path)
    text = "\n".join("".join(cell["source"]) for cell in cells())
    for whole, small in SMALLER.items():
        assert text.count(whole) == 1
        text = text.replace(whole, small)
    code = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    with mpl.rc_context({"backend": "agg"}):
        exec(compile(code, str(NOTEBOOK), "exec"), names := {})
    assert names["results"].verdict.result in repr(names["results"]).replace(" ", "_")
    assert (tmp_path / "notebook-runs" / "student" / "report.html").is_file()
    assert names["card"]["weight_bytes"] == 4 * 114

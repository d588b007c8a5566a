"""The run folder: what a run leaves behind, written so that a run killed at any moment can be resumed or says why not."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from distilrl.checkpoints import read_json, read_tensors, save_tensors, write_bytes, write_json
from distilrl.errors import ExtraError, FileError

Row = Mapping[str, float | int | None]


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.teacher = self.path / "config.json", self.path / "teacher.json"
        self.results, self.report = self.path / "results.json", self.path / "report.html"
        self.episodes = self.path / "episodes.json"
        self.tree = self.path / "tree.json"
        self.student, self.metrics = self.path / "student", self.path / "metrics.csv"
        self._state = self.path / "checkpoint" / "state.safetensors"

    def of_task(self, env_id: str) -> "RunFolder":
        """The folder of one task of a run of several: a run folder to every command that reads one."""
        return RunFolder(self.path / env_id.replace("/", "-"))

    def begin(self, config: Mapping[str, Any]) -> None:
        """Starts a new run here.

        Raises:
            FileError: the folder holds a run already, or cannot be written.
        """
        if self.config.exists():
            raise FileError(f"{self.path} already holds a run: choose another --out, or continue it with --resume.")
        write_json(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run in this folder.

        Raises:
            FileError: there is none.
        """
        if not self.config.is_file():
            raise FileError(f"{self.path} holds no run: it has no config.json.")
        return read_config(self.config)

    def save_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes the checkpoint in one step."""
        save_tensors(self._state, tensors, state)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None before the first."""
        return read_tensors(self._state) if self._state.is_file() else None


def read_config(path: Path) -> dict[str, Any]:
    """A configuration as `RunFolder` holds it.

    Raises:
        FileError: the file is missing, or holds none.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise FileError(f"{path} does not hold a configuration: restore it.")
    return data


class Metrics:
    """Numbers as they come: metrics.csv, TensorBoard events where tensorboard is installed, Weights & Biases on request."""

    def __init__(self, folder: RunFolder, *, keep_rows: int = 0, wandb: bool = False) -> None:
        """Opens the files, keeping the first ``keep_rows`` rows of a run that is resumed.

        Raises:
            ExtraError: ``wandb`` is wanted but not installed.
        """
        self.rows: list[dict[str, str]] = read_metrics(folder.metrics)[:keep_rows]
        self._path = folder.metrics
        self._wandb: Any = None
        if wandb:
            try:
                import wandb as weights_and_biases
            except ImportError:
                raise ExtraError("wandb", "wandb", "--wandb") from None
            self._wandb = weights_and_biases.init(project="distilrl", name=folder.path.name, config=folder.read_config())
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # an extra: the same numbers are in metrics.csv
            return
        self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=self._last_step() + 1 if keep_rows else None)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _last_step(self) -> int:
        return int(self.rows[-1]["env_steps"]) if self.rows else -1

    def write(self, row: Row) -> None:
        """Adds one row; ``env_steps`` is its step."""
        self.rows.append(_as_text(row))
        _write_rows(self._path, self.rows)
        numbers = {name: value for name, value in row.items() if value is not None}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, int(numbers["env_steps"]))
            self._board.flush()
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=int(numbers["env_steps"]))


def _as_text(row: Row) -> dict[str, str]:
    return {name: "" if value is None else repr(value) for name, value in row.items()}


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a metrics.csv of these rows, at least one."""
    _write_rows(path, [_as_text(row) for row in rows])


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

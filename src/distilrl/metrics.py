"""Numbers of a run as they come: metrics.csv, and what else shows them while it goes on."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from distilrl.errors import ExtraError, FileError, SpecError
from distilrl.files import read_regular, unwritable, write_text
from distilrl.limits import MAX_JSON_BYTES, MAX_VALUES
from distilrl.runs import RunFolder
from distilrl.text import first_line

Row = Mapping[str, float | int | None]


class Metrics:
    """Numbers as they come: metrics.csv, TensorBoard events where tensorboard is installed, Weights & Biases on
    request.
    """

    def __init__(self, folder: RunFolder, *, before: Sequence[Row] = (), wandb: bool = False) -> None:
        """Opens the files, beginning with the rows ``before`` of a run that is resumed.

        Raises:
            ExtraError: ``wandb`` is wanted but not installed.
            SpecError: it does not begin.
            FileError: the folder of TensorBoard's events cannot be written.
        """
        self.rows: list[dict[str, str]] = [_as_text(row) for row in before]
        self._path = folder.metrics
        self._wandb: Any = None
        if wandb:
            try:
                import wandb as weights_and_biases
            except ImportError:
                raise ExtraError("wandb", "wandb", "--wandb") from None
            config = folder.read_config()
            try:
                self._wandb = weights_and_biases.init(
                    project="distilrl", name=folder.path.resolve().name, config=config
                )
            except Exception as error:  # no key, no network, a disk that is full: each an error of another class
                raise SpecError(
                    f"--wandb: Weights & Biases does not begin ({first_line(error)}): go on with --resume, with it "
                    "where that is mended, or without."
                ) from error
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception:  # an extra, and one that fails in many ways beside another TensorFlow or protobuf
            return  # the same numbers are in metrics.csv
        self._events = folder.path / "tensorboard"
        with _told(self._events):
            self._board = SummaryWriter(str(self._events), purge_step=self._last_step() + 1 if before else None)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            with _told(self._events) if error is None else suppress(OSError):  # what was raised first is told
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def _last_step(self) -> int:
        return int(self.rows[-1]["env_steps"]) if self.rows else -1

    def write(self, row: Row) -> None:
        """Adds one row; ``env_steps`` is its step."""
        self.rows.append(_as_text(row))
        _write_rows(self._path, self.rows)
        numbers = {name: value for name, value in row.items() if value is not None}
        if self._board is not None:
            with _told(self._events):
                for name, value in numbers.items():
                    self._board.add_scalar(name, value, int(numbers["env_steps"]))
                self._board.flush()
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=int(numbers["env_steps"]))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Has what another library's writer raises told in a sentence."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None


def _as_text(row: Row) -> dict[str, str]:
    return {name: "" if value is None else repr(value) for name, value in row.items()}


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a metrics.csv of these rows, at least one."""
    _write_rows(path, [_as_text(row) for row in rows])


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none if there is no such file.

    Raises:
        FileError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        text = read_regular(path, MAX_JSON_BYTES).decode("utf-8")
        if text.count(",") + text.count("\n") > MAX_VALUES:
            raise ValueError("it holds more values than a run can have")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(f"{path} cannot be read ({first_line(error)}): restore or remove it.") from None

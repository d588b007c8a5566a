"""Many jobs from their config.json files: a run folder each, and one table of what became of them."""

import csv
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from distilrl.display import watching
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.events import Ended, Watch
from distilrl.fanout import Call, fan_out
from distilrl.files import write_text
from distilrl.isolation import isolated
from distilrl.jobs import Job
from distilrl.plain import Record, to_plain
from distilrl.played import mean_in_words
from distilrl.results import Results
from distilrl.runs import KINDS, RunFolder, read_config
from distilrl.series import finish, in_words
from distilrl.stats import Interval
from distilrl.summaries import TasksResults
from distilrl.verdict import Result
from distilrl.verdict import in_words as verdict_in_words

TABLES = ("sweep.csv", "sweep.md")
"""Files that hold the table."""
COLUMNS = ("run", "environment", "student", "params", "steps", "seconds", "return [95 %]", "score", "verdict")
"""What people are shown of a row."""
SINGLE = ("run", "winner")
"""Kinds of folders whose config.json is of one run."""


@dataclass(frozen=True, kw_only=True)
class SweepRow(Record):
    """What became of one run of a sweep."""

    run: str
    """Name of the run, and of its folder."""
    env: str
    """Name of the environment; several are joined by +."""
    student: str
    """The network, as the job names it."""
    params: int | None = None
    """Parameters of the student."""
    env_steps: int | None = None
    """Steps of one environment, summed over all."""
    train_s: float | None = None
    """Seconds of collecting and learning, checks not counted."""
    return_mean: float | None = None
    """Mean return of the verdict; None of several tasks."""
    return_ci95: Interval | None = None
    """95 % interval of it; None where it is exact."""
    score: float | None = None
    """(return − random) / (teacher − random); of several tasks the mean."""
    verdict: Result | None = None
    """Whether the student keeps the return, and all measures with it; None where the run ended in an error."""
    error: str = ""
    """The error, in one sentence."""


@isolated()
def sweep(
    configs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    executor: Executor | None = None,
    watch: Watch | None = None,
) -> tuple[SweepRow, ...]:
    """Does many jobs, each in ``out/NAME``, and leaves their table in ``out/sweep.csv`` and ``out/sweep.md``.

    A run that is finished is not run again, and one that was cut short is resumed, so the same call goes on where it
    was stopped; more jobs may come. The table is of the jobs of this call, and replaces the one before once it has a
    row for each of them that is finished. A run that ends in an error is a row too, and the others go on.

    Args:
        configs: files like the config.json of a run folder, named by their own name, or by their folder's where that is
            config.json; or folders: a run folder, or one that holds such files or run folders.
        out: folder of the runs.
        executor: where runs are done side by side, to the same results; None: here, one after the other.
        watch: told of what happens; None: as `distill` shows it.

    Returns:
        A row for each job, in their order.

    Raises:
        SpecError: a file is not of one run, two have one name, or there is none.
        FileError: a file cannot be read, or ``out`` holds something else of distilrl's.

    Example::

        with Processes(4) as executor:
            rows = sweep(["jobs"], "runs/sweep", executor=executor)
        [row.run for row in rows if row.verdict != "pass"]
    """
    jobs, home = jobs_of([configs] if isinstance(configs, str | Path) else configs, Path(out)), Path(out)
    runs = (path.name for path in home.glob("*") if RunFolder(path).kind() == "run")  # of a sweep of other jobs
    RunFolder(home).check_free(but=(*TABLES, *jobs, *runs))
    finished = {name for name in jobs if RunFolder(home / name).results.is_file()}
    first = sorted(jobs, key=lambda name: name not in finished)  # what is there already is only read
    calls = [Call(name, (None, jobs[name], home / name)) for name in first]
    rows: dict[str, SweepRow] = {}
    with (
        watching(watch) as watch,
        RunFolder(home).lock(),
        fan_out(finish, calls, home, executor=executor, watch=watch) as ended,
    ):
        for number, future in ended:
            row, words = _row(first[number], jobs[first[number]], future)
            rows[row.run] = row
            watch(Ended(row.run, row.verdict, words))
            if finished <= rows.keys():
                write_table(home, [rows[name] for name in jobs if name in rows])
    return tuple(rows[name] for name in jobs if name in rows)


def jobs_of(configs: Sequence[str | Path], out: Path | None = None) -> dict[str, Job]:
    """The jobs that files and folders hold, by the names of their runs; a run that ``out`` holds of one of these files
    already is that one.

    Raises:
        SpecError: a file is not of one run, two have one name, or there is none.
        FileError: a file cannot be read.
    """
    files: dict[str, Path] = {}
    for path in (file for given in configs for file in _files(Path(given))):
        name = path.resolve().parent.name if path.stem == "config" else path.stem
        if name in files:
            there = out is not None and path.resolve() == (out / name / "config.json").resolve()
            if there or files[name].resolve() == path.resolve():
                continue
            raise SpecError(f"{files[name]} and {path} would both be the run '{name}': rename one of them.")
        files[name] = path
    if not files:
        raise SpecError("A sweep needs at least one config.json: name files, or folders that hold some.")
    return {name: _job(path) for name, path in files.items()}


def _files(given: Path) -> Iterator[Path]:
    """Configurations that a file or a folder stands for."""
    if not given.is_dir():
        yield given
        return
    found = [given / "config.json"] if (given / "config.json").is_file() else []
    found = found or [*sorted(given.glob("[!.]*.json")), *sorted(given.glob("*/config.json"))]
    if not found:
        raise FileError(f"{given} holds no configuration: name a config.json, or a folder with some.")
    yield from found


def _job(file: Path) -> Job:
    """The job that a file holds."""
    data = read_config(file)
    kind = data.get("kind", "run")
    if kind not in SINGLE:
        what = KINDS.get(str(kind), f"the unknown kind {kind!r}")
        raise SpecError(f"{file} is the configuration of {what}, and a sweep is of single runs: leave it out.")
    try:
        job = Job.from_json(data)
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None
    if not job.train.tasks or not all(task.teacher for task in job.train.tasks):
        raise SpecError(f"{file} names no teacher: write its file into 'train.tasks'.")
    return job


def _row(name: str, job: Job, future: "Future[Results | TasksResults]") -> tuple[SweepRow, str]:
    """What became of a run, and the same in one line."""
    row = SweepRow(
        run=name, env=" + ".join(task.env.label for task in job.train.tasks), student=job.train.student.network
    )
    try:
        results = future.result()
    except DistilError as error:
        return replace(row, error=str(error)), str(error)
    except Exception as error:  # of whatever the user's own code raises: the others go on
        words = " ".join(f"{type(error).__name__}: {error}".split())
        words = f"{words}; distilrl distill --config on this run alone shows where."
        return replace(row, error=words), words
    row = replace(row, env_steps=results.env_steps, train_s=results.train_s, verdict=results.worst)
    row = replace(row, params=results.student.params, score=results.student.score)
    if isinstance(results, Results):
        student = results.student
        row = replace(row, return_mean=student.return_mean, return_ci95=student.interval)
    return row, in_words(results)


def write_table(home: Path, rows: Sequence[SweepRow]) -> None:
    """Writes sweep.csv, whole numbers as they are, and sweep.md, rounded for people."""
    text = io.StringIO()
    names = [field.name for field in fields(SweepRow)]
    at = names.index("return_ci95")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names[:at], "return_low", "return_high", *names[at + 1 :]])
    for row in rows:
        values = to_plain(row)
        low, high = values["return_ci95"] or ("", "")
        cells: list[Any] = [values[name] for name in names]
        writer.writerow(["" if cell is None else cell for cell in (*cells[:at], low, high, *cells[at + 1 :])])
    write_text(home / "sweep.csv", text.getvalue())
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|--:|--:|--:|---|--:|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in shown(row)) + " |" for row in rows]
    write_text(home / "sweep.md", "\n".join(lines) + "\n")


def shown(row: SweepRow) -> tuple[str, ...]:
    """A row in the words of its `COLUMNS`; an error stands where its verdict would."""
    return (
        row.run,
        row.env,
        row.student,
        "" if row.params is None else f"{row.params:,}",
        "" if row.env_steps is None else f"{row.env_steps:,}",
        "" if row.train_s is None else f"{row.train_s:,.1f}",
        "" if row.return_mean is None else mean_in_words(row.return_mean, row.return_ci95),
        "" if row.score is None else f"{row.score:.3f}",
        verdict_in_words(row.verdict) or f"error: {row.error}",
    )

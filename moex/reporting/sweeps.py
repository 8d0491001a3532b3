"""How the jobs of a sweep stand, read from the files that they and their runs leave.

A sweep's folder holds `sweep.json`, the command, and for each job a folder with its number and `job.json` in it.
Runs that belong to no sweep are read from their own folders.
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

SWEEP, RECORD = "sweep.json", "job.json"
# Waiting: not begun, or requeued. Stopped: saved, by a signal or at the end of its minutes. Lost: it ran, and its
# process is gone.
STATES = ("finished", "running", "failed", "stopped", "lost", "waiting")
_COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}
# Seconds without a heartbeat after which a job on another machine counts as lost; it writes one every 10 or so,
# but may load data, compile or evaluate for longer.
PATIENCE = 600.0


class DamagedError(ValueError):
    """A file of a sweep or a run that does not hold what it should."""


@dataclass(frozen=True)
class Record:
    """What `job.json` holds.

    Attributes:
        overrides: those of this job.
        folder: its run's, seen from the sweep's; empty where the configuration cannot be.
        state: one of `STATES`, but never `lost`, which only the reader can see.
        host: where its worker runs or ran.
        pid: the worker's process.
        start: when the worker started.
        end: when the worker ended.
        message: the last line of its error.
    """

    overrides: list[str]
    folder: str
    state: str = "waiting"
    host: str = ""
    pid: int = 0
    start: str = ""
    end: str = ""
    message: str = ""


@dataclass(frozen=True)
class Job:
    """How one job stands.

    Attributes:
        label: its number in the sweep; the folder of a run without one.
        state: one of `STATES`.
        folder: its run's; None where the configuration cannot be.
        overrides: those of this job.
        progress: epochs done and all of them.
        heartbeat: when it last told that it lives.
        error: the test error of its last epoch, once it is finished; a fraction.
        message: the last line of its error.
    """

    label: str
    state: str
    folder: Path | None
    overrides: list[str] = field(default_factory=list)
    progress: str = ""
    heartbeat: datetime | None = None
    error: float | None = None
    message: str = ""


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep, by their numbers."""
    return [read_job(path) for path in sorted(sweep.glob(f"*/{RECORD}"), key=lambda path: int(path.parent.name))]


def read_job(path: Path) -> Job:
    """How the job stands whose `job.json` this is: a result of its run counts more than what the job wrote."""
    label = path.parent.name
    try:
        record = Record(**(_read_json(path) or {}))
    except (DamagedError, TypeError):
        return Job(label, "failed", None, message=f"cannot read {path}")
    if not record.folder:
        return Job(label, record.state, None, record.overrides, message=record.message)
    return _read_run(Path(os.path.normpath(path.parents[1] / record.folder)), label, record)


def read_run(folder: Path, label: str) -> Job:
    """How a run stands that belongs to no sweep."""
    return _read_run(folder, label, None)


def _read_run(folder: Path, label: str, record: Record | None) -> Job:
    overrides, state, message = (record.overrides, record.state, record.message) if record else ([], "stopped", "")
    beat = None
    try:
        result = _read_json(folder / "result.json", "epochs", "last")
        if result is not None:
            return _finished(label, folder, result, overrides)
        beat = _read_json(folder / "heartbeat.json", "time", "epoch", "epochs", "host", "pid")
    except DamagedError as error:
        message = str(error)
    if record is None:
        if beat is not None and _lives(beat["host"], beat["pid"], start=beat["time"], beat=beat):
            state = "running"
    elif state == "running":
        # A heartbeat from before this start is of the session before.
        if beat is not None and beat["time"] < record.start:
            beat = None
        if not _lives(record.host, record.pid, start=record.start, beat=beat):
            state = "lost"
    return Job(label, state, folder, overrides, _progress(beat), _time_of(beat), message=message)


def print_status(path: Path, console: Console) -> None:
    """Prints a table for the sweep in a folder, or for each sweep below it and the runs that belong to none.

    Raises:
        ValueError: there is no such folder, or neither a sweep nor a run in it.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a folder" if path.exists() else f"there is no folder {path}")
    sweeps = sorted(found.parent for found in path.rglob(SWEEP))
    swept: set[Path] = set()
    for sweep in sweeps:
        jobs = read_jobs(sweep)
        swept.update(job.folder.resolve() for job in jobs if job.folder is not None)
        try:
            command = (_read_json(sweep / SWEEP, "command") or {})["command"]
        except DamagedError as error:
            command = str(error)
        _print_table(jobs, varying_overrides(jobs), title=str(sweep), command=command, console=console)
    runs = sorted(found.parent for found in path.rglob("config.yaml") if found.parent.resolve() not in swept)
    # W&B keeps a config.yaml in its own folders.
    runs = [run for run in runs if run.resolve().name.startswith("seed")]
    if not sweeps and not runs:
        raise ValueError(f"{path} holds neither a sweep nor a run")
    if runs:
        jobs = [read_run(run, str(run.relative_to(path)) if run != path else run.resolve().name) for run in runs]
        _print_table(jobs, [job.label for job in jobs], title=f"runs in {path}", command="", console=console)


def varying_overrides(jobs: Sequence[Job]) -> list[str]:
    """For each job those of its overrides that not all jobs have; for a job that is alone, all of them."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(override for override in job.overrides if override not in common) for job in jobs]


def count_states(jobs: Iterable[Job]) -> str:
    """How many jobs are in which state, in words."""
    counts = Counter(job.state for job in jobs)
    named = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{counts.total()} {'job' if counts.total() == 1 else 'jobs'}: {named}"


def _print_table(jobs: Sequence[Job], names: Sequence[str], *, title: str, command: str, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("job", "state", "epoch", "last heartbeat", "test error, %", "what went wrong"):
        table.add_column(column, overflow="fold", justify="right" if column in ("epoch", "test error, %") else "left")
    for job, name in zip(jobs, names, strict=True):
        table.add_row(
            Text(name if name == job.label else f"{job.label}  {name}"),
            Text(job.state, style=_COLOURS.get(job.state, "")),
            job.progress,
            _age(job.heartbeat) if job.state in ("running", "lost") else "",
            "" if job.error is None else f"{100 * job.error:.2f}",
            Text(job.message),
        )
    for line in filter(None, (title, command)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(count_states(jobs), highlight=False)


def _finished(label: str, folder: Path, result: dict[str, Any], overrides: list[str]) -> Job:
    epochs = result["epochs"]
    return Job(label, "finished", folder, overrides, f"{epochs}/{epochs}", error=result["last"]["error"])


def _lives(host: str, pid: int, *, start: str, beat: dict[str, Any] | None) -> bool:
    """Whether a process that said when it started is still there: seen here, believed for a while elsewhere."""
    if host != socket.gethostname():
        heard = datetime.fromisoformat(start if beat is None else beat["time"])
        return (datetime.now(UTC) - heard).total_seconds() < PATIENCE
    try:
        process = psutil.Process(pid)
        # Another one may have its number since; start is in whole seconds.
        return (
            process.create_time() <= datetime.fromisoformat(start).timestamp() + 1
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def _progress(beat: dict[str, Any] | None) -> str:
    return "" if beat is None else f"{beat['epoch']}/{beat['epochs']}"


def _time_of(beat: dict[str, Any] | None) -> datetime | None:
    return None if beat is None else datetime.fromisoformat(beat["time"])


def _age(time: datetime | None) -> str:
    if time is None:
        return "none yet"
    seconds = max(0, int((datetime.now(UTC) - time).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _read_json(path: Path, *keys: str) -> dict[str, Any] | None:
    """What a file holds, these keys at least; None if there is none.

    Raises:
        DamagedError: it holds something else, or cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise DamagedError(f"cannot read {path}") from None
    if not isinstance(content, dict) or not content.keys() >= {*keys}:
        raise DamagedError(f"cannot read {path}")
    return content

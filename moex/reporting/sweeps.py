"""How the jobs of a sweep stand, read from the files that they and their runs leave.

A sweep's folder holds `sweep.json`, the command, and for each job a folder with its number and `job.json` in it.
Runs that belong to no sweep are read from their own folders.
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
# Waiting: not begun, or queued again. Stopped: saved, by a signal or at the end of its minutes. Lost: it ran, and its
# process is gone.
STATES = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "lost": "red", "waiting": ""}
# Seconds without a heartbeat after which a job on another machine counts as lost; it writes one every 10 or so,
# but may load data, compile or evaluate for longer.
PATIENCE = 600.0


@dataclass(frozen=True)
class Job:
    """How one job stands."""

    label: str  # its number in the sweep; the folder of a run without one
    state: str  # one of STATES
    folder: Path | None  # its run's; None where the configuration cannot be
    overrides: Sequence[str] = ()  # those of this job
    message: str = ""  # what went wrong
    heartbeat: Mapping[str, Any] = field(default_factory=dict)  # how far its run was, when and where
    result: Mapping[str, Any] = field(default_factory=dict)  # of its run, once it is finished


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep, by their numbers."""
    return [read_job(path) for path in sorted(sweep.glob(f"*/{RECORD}"), key=lambda path: int(path.parent.name))]


def read_job(path: Path) -> Job:
    """How the job stands whose `job.json` this is."""
    try:
        record = _read_json(path, "overrides", "folder", "state", "message")
    except ValueError as error:
        return Job(path.parent.name, "failed", None, message=str(error))
    return read_run(Path(os.path.normpath(path.parents[1] / record["folder"])), path.parent.name, record)


def read_run(folder: Path, label: str, record: Mapping[str, Any] | None = None) -> Job:
    """How a run stands, for which a result counts more than what its job wrote, if it has one.

    A job's record holds `overrides`, the run's `folder`, seen from the sweep's, a `state`, and what went wrong, the
    `message`; once it ran, `host`, `pid` and `start` of the process that waits for its worker.
    """
    heartbeat: Mapping[str, Any] = {}
    overrides, message = (record["overrides"], record["message"]) if record else ((), "")
    if record and not record["folder"]:
        return Job(label, record["state"], None, overrides, message)
    try:
        if result := _read_json(folder / "result.json", "epochs", "last"):
            return Job(label, "finished", folder, overrides, result=result)
        heartbeat = _read_json(folder / "heartbeat.json", "time", "epoch", "epochs", "host", "pid")
    except ValueError as error:
        message = str(error)
    if record is None:
        state = "running" if heartbeat and _is_alive(heartbeat, heartbeat["time"], heartbeat) else "stopped"
    elif (state := record["state"]) == "running":
        # A heartbeat from before this start is of the session before.
        heartbeat = heartbeat if heartbeat.get("time", "") >= record["start"] else {}
        state = "running" if _is_alive(record, record["start"], heartbeat) else "lost"
    return Job(label, state, folder, overrides, message, heartbeat)


def _is_alive(process: Mapping[str, Any], start: str, heartbeat: Mapping[str, Any]) -> bool:
    """Whether a process that said when it started is still there: seen here, believed for a while elsewhere."""
    if process["host"] != socket.gethostname():
        return _seconds_since(heartbeat.get("time", start)) < PATIENCE
    try:
        found = psutil.Process(process["pid"])
        # Another one may have its number since; start is in whole seconds.
        is_younger = found.create_time() > datetime.fromisoformat(start).timestamp() + 1
        return not is_younger and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _seconds_since(time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    """What a file holds, these keys at least; nothing if there is none. A damaged one is a `ValueError`."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        [content[key] for key in keys]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError):
        raise ValueError(f"cannot read {path}") from None
    return content


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
            command = _read_json(sweep / SWEEP, "command")["command"]
        except ValueError as error:
            command = str(error)
        names = [f"{job.label}  {text}" for job, text in zip(jobs, varying_overrides(jobs), strict=True)]
        _print_jobs(jobs, names, title=f"{sweep}\n{command}", console=console)
        print_results(jobs, console)
    # W&B keeps a config.yaml in its own folders.
    runs = sorted(found.parent for found in path.rglob("config.yaml") if found.parent.resolve().name[:4] == "seed")
    runs = [run for run in runs if run.resolve() not in swept]
    if runs:
        names = [str(run.relative_to(path)) if run != path else run.resolve().name for run in runs]
        jobs = [read_run(run, name) for run, name in zip(runs, names, strict=True)]
        _print_jobs(jobs, names, title=f"runs in {path}", console=console)
    elif not sweeps:
        raise ValueError(f"{path} holds neither a sweep nor a run")


def print_results(jobs: Sequence[Job], console: Console) -> None:
    """Prints what came out of a sweep whose jobs are all finished: a row for each recipe."""
    folders = [job.folder for job in jobs if job.state == "finished" and job.folder is not None]
    if len(folders) == len(jobs):
        from moex.reporting.tables import print_table, tabulate

        print_table(tabulate(folders), console)


def varying_overrides(jobs: Sequence[Job]) -> list[str]:
    """For each job those of its overrides that not all jobs have; for a job that is alone, all of them."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(override for override in job.overrides if override not in common) for job in jobs]


def count_states(jobs: Iterable[Job]) -> str:
    """How many jobs are in which state, in words."""
    counts = Counter(job.state for job in jobs)
    named = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{counts.total()} {'job' if counts.total() == 1 else 'jobs'}: {named}"


def _print_jobs(jobs: Sequence[Job], names: Sequence[str], *, title: str, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("job", "state", "epoch", "last heartbeat", "test error, %", "what went wrong"):
        table.add_column(column, overflow="fold", justify="right" if column in ("epoch", "test error, %") else "left")
    for job, name in zip(jobs, names, strict=True):
        epochs = job.result.get("epochs") or job.heartbeat.get("epochs")
        epoch = epochs if job.result else job.heartbeat.get("epoch")
        has_beaten = job.heartbeat and job.state in ("running", "lost")
        table.add_row(
            Text(name),
            Text(job.state, style=STATES[job.state]),
            f"{epoch}/{epochs}" if epochs else "",
            f"{_seconds_since(job.heartbeat['time']):.0f} s ago" if has_beaten else "",
            f"{100 * job.result['last']['error']:.2f}" if job.result else "",
            Text(job.message),
        )
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(count_states(jobs), highlight=False)

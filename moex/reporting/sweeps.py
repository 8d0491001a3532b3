"""How the jobs of a sweep stand, read from the files that they and their runs leave.

A sweep's folder holds `sweep.json`, the command, and for each job a folder with its number and `job.json` in it.
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from moex.reporting.runs import RESULT, read_run

SWEEP, RECORD = "sweep.json", "job.json"
# Waiting: not begun. Stopped: saved, by a signal or at the end of its minutes. Lost: it ran, and its process is gone.
STATES = ("finished", "running", "failed", "stopped", "lost", "waiting")
# Seconds without a heartbeat after which a job on another machine counts as lost; it writes one every 10 or so,
# but may load data, compile or evaluate for longer.
PATIENCE = 600.0


@dataclass(frozen=True)
class JobStatus:
    """How one job stands."""

    number: int  # in the sweep
    state: str  # one of STATES
    message: str = ""  # what went wrong
    overrides: Sequence[str] = ()  # those of this job
    folder: Path | None = None  # its run's; None where the configuration cannot be
    heartbeat: Mapping[str, Any] = field(default_factory=dict)  # how far its run was, when and where
    result: Mapping[str, Any] = field(default_factory=dict)  # of its run, once it is finished


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_jobs(sweep: Path) -> list[JobStatus]:
    """The jobs of a sweep, by their numbers."""
    return [read_job(path) for path in sorted(sweep.glob(f"*/{RECORD}"), key=lambda path: int(path.parent.name))]


def read_job(path: Path) -> JobStatus:
    """How the job stands whose `job.json` this is; a result of its run counts more than what the job wrote.

    The file holds `overrides`, the run's `folder`, seen from the sweep's, a `state`, and what went wrong, the
    `message`; once it ran, `host`, `pid` and `start` of its worker.
    """
    job = JobStatus(int(path.parent.name), state="failed")
    try:
        record = _read_json(path, "overrides", "folder", "state", "message")
        job = replace(job, **{key: record[key] for key in ("state", "message", "overrides")})
        if record["folder"]:
            folder = Path(os.path.normpath(path.parents[1] / record["folder"]))
            job = replace(job, folder=folder)
            if (folder / RESULT).exists():
                return replace(
                    job, state="finished", message="", result=read_run(folder / RESULT, to_show=True).result
                )
            job = replace(job, heartbeat=_read_json(folder / "heartbeat.json", "time", "epoch", "epochs"))
    except ValueError as error:
        job = replace(job, message=str(error))
    if job.state == "running" and not _is_alive(record, max(record["start"], job.heartbeat.get("time", ""))):
        return replace(job, state="lost")
    return job


def _is_alive(record: Mapping[str, Any], last_sign: str) -> bool:
    """Whether the process of a record is still there: seen here, believed for a while after a sign elsewhere."""
    if record["host"] != socket.gethostname():
        return _seconds_since(last_sign) < PATIENCE
    try:
        process = psutil.Process(record["pid"])
        # Another one may have its number since; start is in whole seconds.
        is_younger = process.create_time() > datetime.fromisoformat(record["start"]).timestamp() + 1
        return not is_younger and process.status() != psutil.STATUS_ZOMBIE
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
    """Prints a table for the sweep in a folder, or for each sweep below it.

    Raises:
        ValueError: there is no such folder, or no sweep in it.
    """
    import pandas as pd

    from moex.reporting.tables import print_table

    sweeps = sorted(found.parent for found in path.rglob(SWEEP))
    if not sweeps:
        raise ValueError(f"{path} holds no sweep" if path.is_dir() else f"there is no folder {path}")
    for sweep in sweeps:
        jobs = read_jobs(sweep)
        try:
            command = _read_json(sweep / SWEEP, "command")["command"]
        except ValueError as error:
            command = str(error)
        console.print(f"{sweep}\n{command}", markup=False, highlight=False, soft_wrap=True)
        common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
        table = pd.DataFrame([_row(job, common) for job in jobs])
        print_table(table, console, left=("overrides", "state", "what went wrong"))
        console.print(count_states(jobs), highlight=False)
        print_results(jobs, console)


def print_results(jobs: Sequence[JobStatus], console: Console) -> None:
    """Prints what came out of a sweep whose jobs are all finished: a row for each recipe."""
    from moex.reporting.tables import as_text, print_table, tabulate

    folders = [job.folder for job in jobs if job.state == "finished" and job.folder is not None]
    if len(folders) == len(jobs):
        print_table(as_text(tabulate(folders)), console)


def count_states(jobs: Iterable[JobStatus]) -> str:
    """How many jobs are in which state, in words."""
    counts = Counter(job.state for job in jobs)
    named = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{counts.total()} {'job' if counts.total() == 1 else 'jobs'}: {named}"


def _row(job: JobStatus, common: Collection[str]) -> dict[str, str]:
    """What the table of a sweep says of a job, told by those of its overrides that not all jobs have."""
    known = job.result or job.heartbeat
    beats = job.heartbeat and job.state in ("running", "lost")
    return {
        "job": str(job.number),
        "overrides": " ".join(text for text in job.overrides if text not in common),
        "state": job.state,
        "epoch": f"{known.get('epoch', known['epochs'])}/{known['epochs']}" if known else "",
        "last heartbeat": f"{_seconds_since(job.heartbeat['time']):.0f} s ago" if beats else "",
        "test error, %": f"{100 * job.result['last']['error']:.2f}" if job.result else "",
        "what went wrong": job.message,
    }

"""A sweep: its folder, the record of each of its jobs, and which of them are left to run.

The folder is named after the jobs, so that the same command finds it again. `moex.reporting.sweeps` reads it.
"""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex import config
from moex.checkpoint import write_text_atomically
from moex.reporting.sweeps import RECORD, SWEEP, Record, count_states, read_job, read_jobs


class LaunchError(RuntimeError):
    """A sweep that cannot be started, or whose launcher lost a job."""


def sweep_folder(varied: Sequence[str], jobs: Sequence[Sequence[str]], parent: str) -> Path:
    """Where a sweep is recorded: the beginning of what it varies, to be read, and a digest of its jobs."""
    readable = re.sub(r"[^\w.]+", "-", " ".join(varied)).strip("-")[:60] or "default"
    digest = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:8]
    return Path(parent) / f"{readable}-{digest}"


def new_records(
    jobs: Sequence[list[str]], folder: Path, *, compose: Callable[[list[str]], DictConfig]
) -> list[Record]:
    """A record for each job that is not begun.

    One whose configuration is impossible, or whose run is that of a job before it, has failed, and that is told.

    Args:
        jobs: the overrides of each.
        folder: the sweep's.
        compose: what Hydra makes of a job's overrides.
    """
    records = [_new_record(overrides, compose(overrides), folder) for overrides in jobs]
    first: dict[str, int] = {}
    for number, record in enumerate(records):
        # What the two differ in is not of the recipe: how often to save, on how many devices.
        if record.folder and (same := first.setdefault(record.folder, number)) != number:
            message = f"the same run as job {same}: {os.path.normpath(folder / record.folder)}"
            record = records[number] = Record(record.overrides, folder="", state="failed", message=message)
        if record.state == "failed":
            print(f"error: job {number}: {record.message}", file=sys.stderr, flush=True)
    return records


@contextmanager
def open_sweep(records: Sequence[Record], folder: Path) -> Iterator[dict[int, list[str]]]:
    """Writes the records down, and keeps other commands away from the sweep.

    Yields:
        The overrides of the jobs that are left, by their numbers: neither finished, nor impossible, nor running, as
        submitted jobs may, which outlive the command that submitted them.

    Raises:
        LaunchError: another command runs this sweep, or its folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise LaunchError(f"another command runs this sweep: {_status_command(folder)}") from None
    except OSError as error:
        raise LaunchError(f"cannot write {folder}: {error.strerror}") from None
    with lock:
        try:
            _write_all(records, folder)
        except OSError as error:
            raise LaunchError(str(error)) from None
        jobs = read_jobs(folder)
        print(f"{count_states(jobs)}; {_status_command(folder)}", flush=True)
        yield {int(job.label): job.overrides for job in jobs if job.state == "waiting"}


def update_record(path: Path, **changes: Any) -> None:
    """Writes down how a job stands now."""
    _write(path, dataclasses.replace(Record(**json.loads(path.read_text())), **changes))


def _write_all(records: Sequence[Record], folder: Path) -> None:
    """Writes down the sweep's command, and the record of each job that does not run."""
    command = json.dumps({"command": shlex.join(["python", *sys.argv])}, ensure_ascii=False)
    write_text_atomically(folder / SWEEP, command)
    for number, record in enumerate(records):
        path = folder / str(number) / RECORD
        if not path.exists() or read_job(path).state != "running":
            path.parent.mkdir(exist_ok=True)
            _write(path, record)


def _new_record(overrides: list[str], composed: DictConfig, folder: Path) -> Record:
    try:
        run = config.run_folder(config.parse(OmegaConf.masked_copy(composed, [*set(composed) - {"hydra"}])))
    except (ValueError, OmegaConfBaseException) as error:
        return Record(overrides, folder="", state="failed", message=str(error).splitlines()[0])
    return Record(overrides, folder=os.path.relpath(run, folder))


def _status_command(folder: Path) -> str:
    script = Path(sys.argv[0]).parent / "scripts" / "sweep.py"
    return shlex.join(["python", str(script), "status", str(folder)])


def _write(path: Path, record: Record) -> None:
    text = json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n"
    write_text_atomically(path, text)

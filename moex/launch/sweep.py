"""A sweep: its jobs, and the folder where each has a record, named after them so that the same command finds it.

`moex.reporting.sweeps` reads the records.
"""

import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import joblib
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from moex.config import run_folder
from moex.files import saving, write_text_atomically
from moex.launch.devices import share_machine
from moex.launch.job import Job, train
from moex.launch.signals import Stopped, passing_on
from moex.reporting.sweeps import RECORD, SWEEP, count_states, read_job, read_jobs


def combine(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job: every combination of the values. Of one key, the last override counts."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        is_sweep, key = override.is_sweep_override(), override.get_key_element()
        if is_sweep and not override.is_discrete_sweep():
            raise HydraException(f"{override.input_line}: a sweep takes lists of values, choice(...) and range(...)")
        texts = override.sweep_string_iterator() if is_sweep else [override.get_value_element_as_str()]
        values[key] = [f"{key}={text}" for text in texts]
        if not values[key]:
            raise HydraException(f"{override.input_line}: a sweep takes one value or more")
    return [list(job) for job in itertools.product(*values.values())]


def sweep_folder(
    overrides: Sequence[Override], combinations: Sequence[Sequence[str]], parent: str, *, name: str | None = None
) -> Path:
    """Where a sweep is recorded: its name, or the beginning of what it varies, and a digest of its jobs."""
    varied = [override for override in overrides if override.is_sweep_override()] or overrides
    text = " ".join(str(override.input_line) for override in varied)
    readable = name or re.sub(r"[^\w.]+", "-", text).strip("-")[:60]
    digest = hashlib.sha256(json.dumps(combinations).encode()).hexdigest()[:8]
    return Path(parent) / f"{readable or 'default'}-{digest}"


def make_jobs(
    combinations: Sequence[list[str]], folder: Path, *, make: Callable[[int], Job]
) -> tuple[dict[int, Job], list[dict[str, Any]]]:
    """The possible jobs of a sweep by their numbers, and the first record of each, possible or not.

    Impossible is a job whose configuration is, or whose run is that of a job before it. Each reason is told once.
    """
    jobs: dict[int, Job] = {}
    runs: dict[Path, int] = {}
    reasons: dict[str, list[str]] = {}
    records = []
    for number, overrides in enumerate(combinations):
        record = {"overrides": overrides, "folder": "", "state": "waiting", "message": ""}
        try:
            job = make(number)
            run = run_folder(job.config)
            # What the two differ in does not act on the training: how often to save, on how many devices.
            if (same := runs.setdefault(run, number)) != number:
                raise ValueError(f"the same run as job {same}: {run}")
            jobs[number] = job
            record["folder"] = os.path.relpath(run, folder)
        except ValueError as error:
            record |= {"state": "failed", "message": (reason := str(error).splitlines()[0])}
            reasons.setdefault(reason, []).append(str(number))
        records.append(record)
    for reason, numbers in reasons.items():
        print(f"error: job{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {reason}", file=sys.stderr, flush=True)
    return jobs, records


@contextmanager
def open_sweep(folder: Path, records: Sequence[dict[str, Any]], *, command: str) -> Iterator[list[int]]:
    """Writes down the command and the jobs, and keeps other commands away from the sweep.

    Yields:
        The numbers of the jobs that are left: neither finished, nor impossible, nor running, as submitted jobs may,
        which outlive the command that submitted them.

    Raises:
        HydraException: another command runs this sweep.
        SaveError: its folder cannot be written.
    """
    status = f"python scripts/sweep.py status {folder}"
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise HydraException(f"another command runs this sweep: {status}") from None
    with lock:
        write_text_atomically(folder / SWEEP, json.dumps({"command": command}, ensure_ascii=False))
        running = {job.number for job in read_jobs(folder) if job.state == "running"}
        for number, record in enumerate(records):
            if number not in running:
                (folder / str(number)).mkdir(exist_ok=True)
                write_text_atomically(folder / str(number) / RECORD, json.dumps(record, ensure_ascii=False))
        jobs = read_jobs(folder)
        print(f"{count_states(jobs)}; {status}", flush=True)
        yield [job.number for job in jobs if job.state == "waiting"]


def run_jobs(jobs: Iterable[Job], *, at_once: int) -> list[int]:
    """Trains jobs on this machine, so many at once, and returns their exit codes. A failed one lets the others run.

    Raises:
        Stopped: a signal came; those that ran have saved.
    """
    # A thread for each waits for its worker, and the main one for signals, after which no further job is taken.
    parallel = joblib.Parallel(at_once, backend="threading", batch_size=1, pre_dispatch=at_once)
    run = joblib.delayed(_run_one)
    with passing_on() as signals:
        codes: list[int] = parallel(run(job, signals, at_once=at_once) for job in jobs if not signals)
    if signals:
        raise Stopped(signals[0])
    return codes


def _run_one(job: Job, signals: Sequence[int], *, at_once: int) -> int:
    """One job of several: beside others with devices and an output of its own, since a terminal has room for one."""
    if at_once == 1:
        print(f"{job.title}{' '.join(job.overrides)}", flush=True)
        return train(job, signals)
    assert job.record is not None
    path = job.record.with_name("output.log")
    with path.open("ab") as output, share_machine(job.config.runtime, at_once=at_once) as environment:
        share = " ".join(f"{name}={value}" for name, value in environment.items())
        print(f"{job.title}{share} {os.path.relpath(path)}", flush=True)
        code = train(job, signals, output=output, **environment)
    if message := read_job(job.record).message:
        print(f"{job.title}error: {message}", file=sys.stderr, flush=True)
    return code

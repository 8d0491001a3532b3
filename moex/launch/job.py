"""One job: what Hydra composed, trained in a worker of its own."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex import config
from moex.files import write_text_atomically
from moex.launch.signals import Stopped, passing_on
from moex.reporting.sweeps import RECORD, now


@dataclass(frozen=True)
class Job:
    """A run that a command asks for."""

    overrides: list[str]  # what the command line says about it
    command: str  # what starts it alone
    values: dict[str, Any]  # its whole configuration
    run: Path  # the run's folder
    runtime: config.RuntimeConfig
    record: Path | None  # its job.json, in a folder with its number; None outside a sweep

    @property
    def title(self) -> str:
        """By which a sweep's lines name it."""
        assert self.record is not None
        return f"job {self.record.parent.name}"


def make_job(composed: DictConfig, hydra: Any) -> Job:
    """A job of what Hydra composed, and of Hydra's own configuration.

    Raises:
        ValueError: the configuration is impossible.
    """
    overrides = list(hydra.overrides.task)
    if hydra.job.chdir:
        raise ValueError("hydra.job.chdir: every path is seen from where the command runs, so leave it out")
    try:
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from None
    values["name"] = name_run(values["name"], overrides)
    parsed = config.parse(values)
    config.identify_weights(parsed)
    # The worker needs no file to find the run's folder.
    values["model"]["weights_digest"] = parsed.model.weights_digest
    record = Path(hydra.sweep.dir, hydra.sweep.subdir, RECORD) if hydra.mode == RunMode.MULTIRUN else None
    command = command_line(hydra, overrides)
    return Job(overrides, command, values, config.run_folder(parsed), parsed.runtime, record)


def name_run(name: str, overrides: Sequence[str]) -> str:
    """The composed name, followed by the overrides that make the training another; as it is where one sets it.

    Without one, a run is named after what it trains.
    """
    keys = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in overrides]
    acting = [text for text, key in zip(overrides, keys, strict=True) if config.acts_on_training(key)]
    return name if not name or "name" in keys else " ".join([name, *acting])


def command_line(hydra: Any, arguments: Sequence[str]) -> str:
    """The command of these arguments, with the folders of configurations that this one has."""
    added = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    folders = [f"--config-dir={os.path.relpath(path)}" for path in added]
    return shlex.join(["python", f"{hydra.job.name}.py", *folders, *arguments])


def run_job(composed: DictConfig) -> int:
    """Trains what Hydra composed: the command's only run, or a task that submitit runs for a sweep.

    A task that was told to stop is queued again, unless by SIGINT.

    Returns:
        The exit code of a task. After a single run the process exits.
    """
    try:
        job = make_job(composed, HydraConfig.get())
    except ValueError as error:
        sys.exit(f"error: {error}")
    with passing_on(may_kill=job.record is None) as signals:
        code = train(job, signals)
    if job.record is None:
        if code and signals:
            raise Stopped(signals[0])
        sys.exit(code)
    if code > 128 and signals and signal.SIGINT not in signals:
        _requeue(job)
    return code


def train(
    job: Job, signals: Sequence[int], *, output: IO[bytes] | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """Trains a job in a worker, unless a signal has come, and writes down how it stands.

    Args:
        job: what to train.
        signals: those that this process has passed on.
        output: where its lines go, if not to the terminal, which then has its errors alone.
        environment: what is added to the worker's.

    Returns:
        Its exit code: 128 and its number for a signal.
    """
    if signals:
        return 128 + signals[0]
    prefix = f"{job.title}: " if output else ""
    _record(job, state="running", host=socket.gethostname(), pid=os.getpid(), start=now(), message="")
    with subprocess.Popen(
        [sys.executable, "-m", "moex.run"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.PIPE,
        # Its own session: Ctrl-C on the terminal reaches this process alone, which decides what it means.
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    ) as worker:
        if signals:
            worker.terminate()  # It was too young to be told.
        assert worker.stdin is not None
        # Left open: its end tells the worker that this process is gone. A worker that was stopped does not read.
        with suppress(BrokenPipeError):
            worker.stdin.write(json.dumps({"command": job.command, "config": job.values}).encode() + b"\n")
            worker.stdin.flush()
        message = _pass_errors_on(worker, output, prefix=prefix)
    code = worker.returncode
    if code < 0:
        message = f"the worker was ended by {signal.Signals(-code).name}"
        code = 128 - code
        if not signals:
            print(f"{prefix}error: {message}; the same command continues", file=sys.stderr, flush=True)
    # It may also have failed meanwhile, which is not to be tried again.
    stopped = bool(signals) and code > 128
    failed = bool(code) and not stopped
    # Whoever finds the run's result knows that it did not only stop.
    _record(job, state="failed" if failed else "stopped", message=message if failed else "")
    return 128 + signals[0] if stopped else code


def _pass_errors_on(worker: subprocess.Popen[bytes], output: IO[bytes] | None, *, prefix: str) -> str:
    """Passes on what a worker writes to its standard error until it ends; returns the last line.

    On the terminal each line says whose it is; the job's output has them too.
    """
    assert worker.stderr is not None
    end = b""
    # Something that the worker started may hold the pipe open after it.
    while (ready := select.select([worker.stderr], [], [], 0.2)[0]) or worker.poll() is None:
        chunk = os.read(worker.stderr.fileno(), 1 << 16) if ready else b""
        if ready and not chunk:
            break
        end = (end + chunk)[-(1 << 14) :]
        sys.stderr.buffer.write(b"".join(prefix.encode() + line for line in chunk.splitlines(keepends=True)))
        sys.stderr.flush()
        if output is not None:
            output.write(chunk)
    worker.wait()
    return next(reversed(end.decode(errors="replace").strip().splitlines()), "").removeprefix("error: ")


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Writes a job's record, the whole of it or nothing."""
    write_text_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _record(job: Job, **changes: object) -> None:
    """Writes down how a job of a sweep stands; on several nodes, the first one does."""
    if job.record is not None and os.environ.get("SLURM_PROCID", "0") == "0":
        try:
            write_record(job.record, json.loads(job.record.read_text()) | changes)
        # A run does not need its record.
        except OSError as error:
            print(f"{job.title}: error: {error}", file=sys.stderr, flush=True)


def _requeue(job: Job) -> None:
    """Gives this process the signal that it kept from submitit, whose handler queues the job again and exits."""
    from submitit.core.utils import UncompletedJobError

    _record(job, state="waiting")
    try:
        signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
    # Too many times already, or the scheduler refuses.
    except (UncompletedJobError, subprocess.SubprocessError) as error:
        message = f"not requeued: {error}"
        print(f"error: {message}", file=sys.stderr, flush=True)
        _record(job, state="stopped", message=message)

"""One job: what Hydra composed, trained in a worker, in whichever process the launcher put the job."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from submitit.core.utils import UncompletedJobError

from moex import config
from moex.launch.devices import lease_devices, visible_devices
from moex.launch.signals import told
from moex.launch.sweep import update_record
from moex.reporting.sweeps import RECORD, now

# Of this command's jobs.
exit_codes: list[int] = []


def run_job(composed: DictConfig) -> int:
    """Trains what Hydra composed in a worker, and returns its exit code.

    A failed job of a sweep lets the next ones run. Signals let the worker finish its step and save; under submitit
    the job is then requeued.

    Raises:
        KeyboardInterrupt: the command was told to stop.
    """
    told.listen_as_job()
    if told.received:
        return 128 + told.received[0]
    if _is_sweep():
        print(f"job {_job_folder().name}: {' '.join(_overrides())}", flush=True)
    finished = False
    try:
        folder = config.run_folder(config.parse(composed))
        job = {"command": _job_command(), "config": OmegaConf.to_container(composed, resolve=True)}
    except (ValueError, OmegaConfBaseException) as error:
        code, message = 1, f"error: {str(error).splitlines()[0]}"
        _tell(message)
    else:
        code, message = _train(job, composed)
        # Without one, the run used up its minutes.
        finished = (folder / "result.json").exists()
    # It may also have failed meanwhile, which is not to be tried again.
    stopped = bool(told.received) and code > 128
    if stopped:
        code = 128 + told.received[0]
    state = "finished" if finished else "stopped" if stopped or not code else "failed"
    _record(state=state, end=now(), message=message.removeprefix("error: ") if state == "failed" else "")
    if stopped and told.is_submitted and signal.SIGINT not in told.received:
        _requeue()
    # A run that was about to end has ended, but the sweep around it stops.
    if told.is_command and told.received and (code or _is_sweep()):
        raise KeyboardInterrupt
    if not _is_sweep():
        exit_codes.append(code)
    return code


def _train(job: dict[str, object], composed: DictConfig) -> tuple[int, str]:
    """Runs the worker to its end; returns its exit code and the last line of its standard error."""
    with ExitStack() as stack:
        output, environment = None, dict(os.environ)
        if _is_side_by_side():
            # The progress of jobs side by side would be unreadable on one terminal.
            output = stack.enter_context((_job_folder() / "output.log").open("ab", buffering=0))
            environment |= stack.enter_context(_own_devices(composed))
        worker = subprocess.Popen(
            [sys.executable, "-m", "moex.run"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            # Its own session: Ctrl-C on the terminal reaches the parent alone, which decides what it means.
            start_new_session=True,
            env=environment,
        )
        told.start_worker(worker)
        _record(state="running", host=socket.gethostname(), pid=worker.pid, start=now(), end="", message="")
        assert worker.stdin is not None
        assert worker.stderr is not None
        errors = _Errors(worker.stderr, output)
        # Left open: its end tells the worker that the parent is gone. A worker that was stopped does not read.
        with suppress(BrokenPipeError):
            worker.stdin.write(json.dumps(job).encode() + b"\n")
            worker.stdin.flush()
        code = worker.wait()
        told.worker = None
        # Something that the worker started may still hold its end.
        errors.join(timeout=5)
        if code >= 0:
            return code, errors.last_line
        message = f"the worker was ended by {signal.Signals(-code).name}"
        if not told.received:
            errors.pass_on(f"error: {message}; the same command continues\n".encode())
        return 128 - code, message


class _Errors(threading.Thread):
    """Passes on what a worker writes to its standard error, and keeps the last line of it.

    With an output of its own, the job's lines are in there too, and on the terminal they say whose they are.
    """

    def __init__(self, pipe: IO[bytes], output: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        self.last_line = ""
        self._pipe = pipe
        self._output = output
        self.start()

    def run(self) -> None:
        """Ends with the pipe."""
        recent = b""
        with self._pipe:
            while chunk := self._read():
                self.pass_on(chunk)
                recent = (recent + chunk)[-(1 << 14) :]
                lines = [line for line in recent.decode(errors="replace").splitlines() if line.strip()]
                self.last_line = lines[-1].strip() if lines else ""

    def pass_on(self, chunk: bytes) -> None:
        """Writes a part to the terminal, and to the job's output."""
        sys.stderr.buffer.write(_prefix().encode() + chunk)
        sys.stderr.flush()
        if self._output is not None:
            # Full, or closed after the worker, something of which still writes: the terminal has it.
            with suppress(OSError, ValueError):
                self._output.write(chunk)

    def _read(self) -> bytes:
        """The next line beside other jobs; alone, what there is."""
        return os.read(self._pipe.fileno(), 1 << 16) if self._output is None else self._pipe.readline()


@contextmanager
def _own_devices(composed: DictConfig) -> Iterator[dict[str, str]]:
    """What gives a job beside others devices of its own, in its environment; tells which they are."""
    output = os.path.relpath(_job_folder() / "output.log")
    visible = visible_devices() if composed.runtime.device != "cpu" else []
    if not visible:
        # joblib shares out the processor's cores itself.
        print(f"job {_job_folder().name} on the CPU, {os.environ['OMP_NUM_THREADS']} threads: {output}", flush=True)
        yield {}
        return
    count = composed.runtime.devices or max(1, len(visible) // HydraConfig.get().launcher.n_jobs)
    with lease_devices(visible, count) as leased:
        names = ",".join(leased)
        print(f"job {_job_folder().name} on CUDA {names}: {output}", flush=True)
        yield {"CUDA_VISIBLE_DEVICES": names}


def _requeue() -> None:
    """Lets submitit start this job again, by the handler that it had installed for its own signal.

    On success that handler exits.
    """
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    requeue = told.former[number]
    assert callable(requeue)
    _record(state="waiting")
    try:
        requeue(number, None)
    # Too many times already, or the scheduler refuses.
    except (UncompletedJobError, subprocess.SubprocessError) as error:
        message = f"not requeued: {error}"
        _tell(f"error: {message}")
        _record(state="stopped", message=message)


def _record(**changes: object) -> None:
    """Writes down how this job of a sweep stands; on several nodes, the first one does."""
    if _is_sweep() and os.environ.get("SLURM_PROCID", "0") == "0":
        try:
            update_record(_job_folder() / RECORD, **changes)
        # A run does not need its record.
        except OSError as error:
            _tell(f"error: {error}")


def _tell(message: str) -> None:
    """Prints a line about this job."""
    print(f"{_prefix()}{message}", file=sys.stderr, flush=True)


def _prefix() -> str:
    """Whose line it is on a terminal that several jobs share."""
    return f"job {_job_folder().name}: " if _is_side_by_side() else ""


def _is_side_by_side() -> bool:
    """Whether this process is one of joblib's."""
    return not (told.is_command or told.is_submitted)


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def _job_folder() -> Path:
    """In the sweep's folder; its name is the job's number."""
    return Path(HydraConfig.get().runtime.output_dir)


def _is_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _job_command() -> str:
    """What starts this job alone, for the record."""
    hydra = HydraConfig.get()
    folders = [
        argument
        for source in hydra.runtime.config_sources
        if source.provider == "command-line"
        for argument in ("--config-dir", os.path.relpath(source.path))
    ]
    return shlex.join(["python", f"{hydra.job.name}.py", *folders, *_overrides()])

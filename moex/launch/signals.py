"""What signals mean to the command, and to the processes in which joblib and submitit run its jobs.

To the command, SIGINT and SIGTERM mean: let every job save, and end; a second one ends all at once. To a job's
process each signal means: save and end. It may come several times, from the terminal, from the command and from
the scheduler, so only the command counts. SIGUSR1 and SIGUSR2, a scheduler's warning, ask for the same and are
counted by neither.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import psutil

ENDING = (signal.SIGINT, signal.SIGTERM)
HANDLED = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
# What a process of joblib's, and one of submitit's, runs as its main module.
_JOB_MODULES = ("joblib.externals.loky.backend.popen_loky_posix", "submitit.core._submit")

Handler = Callable[[int, FrameType | None], object] | int | None


class Told:
    """What this process was told by signals, and whom it tells.

    Attributes:
        received: the signals, in their order.
        worker: the worker that this process waits for, if it waits for one.
        is_command: whether this process is the command itself, rather than one that runs a job for it.
        former: the handlers before ours.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.worker: subprocess.Popen[bytes] | None = None
        self.is_command = False
        self.former: dict[int, Handler] = {}

    @property
    def is_submitted(self) -> bool:
        """Whether this process is submitit's, and outlives the command."""
        return not self.is_command and "SUBMITIT_EXECUTOR" in os.environ

    def listen_as_command(self) -> None:
        """From now on signals stop the command: its jobs first."""
        self.is_command = True
        for number in HANDLED:
            self.former[number] = signal.signal(number, self._stop_command)

    def listen_as_job(self) -> None:
        """From now on signals stop the job that runs in this process, and those that would follow in it."""
        if self.is_command or self.former:
            return
        for number in HANDLED:
            self.former[number] = signal.signal(number, self._stop_job)
        if not self.is_submitted:
            threading.Thread(target=_end_with_the_command, daemon=True).start()

    def start_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """The worker is the one to tell, also of what came while it started."""
        self.worker = worker
        if self.received:
            worker.terminate()

    def _stop_command(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        at_once = sum(received in ENDING for received in self.received) > 1
        jobs = _job_processes()
        for job in jobs:
            # What has gone meanwhile needs no telling.
            with suppress(psutil.NoSuchProcess):
                if at_once:
                    for process in (job, *job.children(recursive=True)):
                        process.kill()
                else:
                    # Unlike the others, it lets submitit requeue nothing.
                    job.send_signal(signal.SIGINT)
        if self.worker is not None:
            self.worker.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
        elif not jobs or at_once:
            raise KeyboardInterrupt

    def _stop_job(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if self.worker is not None:
            self.worker.terminate()


told = Told()


def _end_with_the_command() -> None:
    """A process of joblib's would go on without its parent; when it ends, its worker does."""
    command = os.getppid()
    while os.getppid() == command:
        time.sleep(0.5)
    os._exit(1)


def _job_processes() -> list[psutil.Process]:
    """Those of joblib's and submitit's that descend from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(module in process.cmdline() for module in _JOB_MODULES):
                found.append(process)
    return found

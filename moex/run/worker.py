"""The worker: trains one job, on one device itself, for several by a rank for each of this machine's.

`moex.launch` starts it: as a copy of its own process, or anew, as `python -m moex.run`, which reads the job, a line
of JSON, from standard input. No worker outlives its parent, and the ranks end with it: `moex.run.__main__`.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from moex.config import parse
from moex.config.checks import check_shares
from moex.distributed.ranks import STOP_SIGNALS, RankError, StopRequest, run_ranks
from moex.files import write_text_atomically
from moex.reporting.sweeps import now
from moex.run.checks import check_network
from moex.run.device import visible_gpus
from moex.run.scratch import scratch_folder
from moex.run.session import train_rank


def main() -> int:
    """Trains what standard input asks for and returns the exit code."""
    stop = StopRequest()
    job = json.loads(sys.stdin.readline())
    with scratch_folder():
        return run(job, stop)


def work(job: dict[str, Any]) -> int:
    """The same in a process that `multiprocessing` has copied, with `STOP_SIGNALS` blocked."""
    # Its own session: Ctrl-C on the terminal reaches the parent alone, which decides what it means.
    os.setsid()
    stop = StopRequest()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with scratch_folder():
        return run(job, stop)


def run(job: dict[str, Any], stop: StopRequest) -> int:
    """Trains one job, tells how it ended, and writes that into its record, if it has one.

    Args:
        job: the configuration, the command that asked for it, and the path of its `job.json`.
        stop: when to save and to end.

    Returns:
        The exit code.
    """
    started = {"host": socket.gethostname(), "pid": os.getpid(), "start": now(), "message": ""}
    _record(job["record"], state="running", **started)
    try:
        code = _train(job, stop)
    except Exception as error:
        is_told = isinstance(error, RankError)
        text = str(error) if is_told else f"{type(error).__name__}: {error}"
        _record(job["record"], state="failed", message=text.splitlines()[-1])
        if not is_told:
            raise
        print(f"error: {text}", file=sys.stderr, flush=True)
        return 1
    # Whoever finds the run's result knows that it did not only stop.
    _record(job["record"], state="stopped")
    return code


def _train(job: dict[str, Any], stop: StopRequest) -> int:
    """Trains one job on this machine's devices and returns the exit code.

    Raises:
        RankError: the configuration is impossible here, or what ended the run.
    """
    console = Console()
    try:
        config = parse(job["config"])
        processes = config.runtime.layout(visible_gpus=visible_gpus(config.runtime))
        check_shares(config, world_size=processes.world_size)
        check_network(config)
    except (ValueError, OSError) as error:
        raise RankError(str(error)) from None
    if processes.world_size == 1:
        return train_rank(job, processes, stop)
    if processes.nodes > 1:
        here = f"node {processes.node_rank} of {processes.nodes}"
        console.print(f"{here} meets the others at {processes.rendezvous}", soft_wrap=True, highlight=False)
    return run_ranks(train_rank, job, processes, layout=processes, stop=stop)


def _record(path: str | None, **changes: object) -> None:
    """Writes down how a job of a sweep stands; on several nodes, the first one does."""
    if path is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    try:
        content = json.loads(Path(path).read_text()) | changes
        write_text_atomically(Path(path), json.dumps(content, ensure_ascii=False))
    # A run does not need its record.
    except OSError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)

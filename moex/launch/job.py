"""One job: what Hydra composed, trained in a worker of its own."""

import dataclasses
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from moex.config import Config, identify_weights, name_run, parse, run_folder, settle_precision
from moex.distributed.parent import as_parent, end_with
from moex.distributed.ranks import STOP_SIGNALS
from moex.launch.arguments import as_written
from moex.launch.signals import Stopped, passing_on
from moex.reporting.finished import read_result, show
from moex.reporting.sweeps import RECORD


@dataclass(frozen=True)
class Job:
    """A run that a command asks for."""

    overrides: list[str]  # what the command line says about it
    command: str  # what starts it alone
    config: Config  # what it trains
    record: Path | None  # its job.json, in a folder with its number; None outside a sweep

    @property
    def title(self) -> str:
        """With which a sweep's lines about it begin; empty outside a sweep."""
        return f"job {self.record.parent.name}: " if self.record else ""


def make_job(composed: DictConfig, hydra: Any) -> Job:
    """A job of what Hydra composed, and of Hydra's own configuration.

    Raises:
        ValueError: the configuration is impossible.
    """
    overrides = [as_written(text) for text in hydra.overrides.task]
    if hydra.job.chdir:
        raise ValueError("hydra.job.chdir: every path is seen from where the command runs, so leave it out")
    config = parse(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
    # So that the worker needs no file to find the run's folder.
    identify_weights(config)
    if took := settle_precision(config.runtime):
        _tell_once(took)
    config.name = name_run(composed.name, overrides) or config.name
    record = Path(hydra.sweep.dir, hydra.sweep.subdir, RECORD) if hydra.mode == RunMode.MULTIRUN else None
    return Job(overrides, command_line(hydra, overrides), config, record)


@cache
def _tell_once(text: str) -> None:
    print(text, flush=True)


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
        if is_finished(job.config):
            return 0
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    with passing_on(may_kill=job.record is None) as signals:
        code = train(job, signals)
    if job.record is None:
        if code and signals:
            raise Stopped(signals[0])
        sys.exit(code)
    # It may also have failed meanwhile, which is not to be tried again.
    if code > 128 and signals and signal.SIGINT not in signals:
        # Submitit's own handler, which is back in its place, queues the job again and exits.
        signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
    return code


def is_finished(config: Config) -> bool:
    """Whether there is nothing left to train; then its result is printed.

    Several nodes, which need no folder in common, hear of it from node 0.
    """
    folder = run_folder(config)
    if config.runtime.node_count > 1:
        return False
    try:
        result = read_result(folder)
    # Damaged: the worker tells of it, and makes it again.
    except ValueError:
        return False
    if result is None:
        return False
    console = Console()
    console.print(f"{folder} is finished: nothing is left to train", soft_wrap=True)
    show(result, folder, console)
    if absent := config.test_sets.keys() - result.get("test_sets", {}).keys():
        labels, name = ", ".join(sorted(absent)), config.test_sets[min(absent)].name
        how = f"python evaluate.py checkpoint={folder} dataset={name}"
        console.print(f"not scored at its end: {labels}; this does it: {how}", soft_wrap=True)
    return True


def train(job: Job, signals: Sequence[int], *, output: IO[bytes] | None = None, **environment: str) -> int:
    """Trains a job in a worker.

    Args:
        job: what to train.
        signals: those that this process has passed on.
        output: where its lines go, if not to the terminal.
        environment: what is added to the worker's.

    Returns:
        Its exit code: 128 and its number for the signal that ended it.
    """
    record = None if job.record is None else str(job.record)
    request = {"command": job.command, "config": dataclasses.asdict(job.config), "record": record}
    # A copy of this process has imported what it needs. Not where others run in its threads, nor on a Mac, whose
    # libraries do not bear it.
    is_copy = output is None and sys.platform == "linux"
    code = _copy(request, signals) if is_copy else _start(request, signals, output, environment)
    if code < 0 and not signals:
        ended = f"the worker was ended by {signal.Signals(-code).name}; the same command continues"
        print(f"{job.title}error: {ended}", file=sys.stderr, flush=True)
    return code if code >= 0 else 128 - code


def _copy(request: dict[str, Any], signals: Sequence[int]) -> int:
    """Trains in a copy of this process, and returns its exit code as `subprocess` has it."""
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(request,))
    # Until it listens to them, they wait for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    worker.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if signals:
        worker.terminate()
    worker.join()
    assert worker.exitcode is not None
    return worker.exitcode


def _work(request: dict[str, Any]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    end_with(parent.pid)
    # Imported where it is needed: what is refused never gets here.
    from moex.run import __main__ as main
    from moex.run import worker

    # Ranks begin with the main module of whoever starts them.
    sys.modules["__main__"] = main
    sys.exit(worker.work(request))


def _start(
    request: dict[str, Any], signals: Sequence[int], output: IO[bytes] | None, environment: dict[str, str]
) -> int:
    """Trains in a process that begins anew, and returns its exit code as `subprocess` has it."""
    with subprocess.Popen(
        [sys.executable, "-m", "moex.run"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        text=True,
        # Its own session: Ctrl-C on the terminal reaches this process alone, which decides what it means.
        start_new_session=True,
        env=os.environ | environment | as_parent(),
    ) as worker:
        if signals:
            worker.terminate()  # It was too young to be told.
        # A worker that was stopped does not read.
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=worker.stdin, flush=True)
        return worker.wait()

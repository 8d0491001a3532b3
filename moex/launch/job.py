"""One job: what Hydra composed, trained in a worker of its own."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from moex.config import Config, identify_weights, name_run, parse
from moex.distributed.parent import as_parent
from moex.launch.signals import Stopped, passing_on
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
    overrides = list(hydra.overrides.task)
    if hydra.job.chdir:
        raise ValueError("hydra.job.chdir: every path is seen from where the command runs, so leave it out")
    config = parse(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
    # So that the worker needs no file to find the run's folder.
    identify_weights(config)
    config.name = name_run(composed.name, overrides) or config.name
    record = Path(hydra.sweep.dir, hydra.sweep.subdir, RECORD) if hydra.mode == RunMode.MULTIRUN else None
    return Job(overrides, command_line(hydra, overrides), config, record)


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
    # It may also have failed meanwhile, which is not to be tried again.
    if code > 128 and signals and signal.SIGINT not in signals:
        # Submitit's own handler, which is back in its place, queues the job again and exits.
        signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
    return code


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
        code = worker.wait()
    if code < 0 and not signals:
        ended = f"the worker was ended by {signal.Signals(-code).name}; the same command continues"
        print(f"{job.title}error: {ended}", file=sys.stderr, flush=True)
    return code if code >= 0 else 128 - code

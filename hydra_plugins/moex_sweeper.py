"""Hydra's sweeper for train.py, here because Hydra takes plugins from a folder of this name alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from moex.launch.arguments import understand
from moex.launch.devices import jobs_at_once, visible_devices
from moex.launch.job import Job, command_line, make_job
from moex.launch.sweep import combine, make_jobs, open_sweep, run_jobs, sweep_folder
from moex.reporting.sweeps import count_states, print_results, read_jobs


def _read_jobs(path: Path) -> list[list[str]]:
    """The lists of overrides in a file.

    Raises:
        HydraException: it is missing, or holds something else.
    """
    try:
        jobs: Any = json.loads(path.expanduser().read_text())
    except (OSError, ValueError) as error:
        raise HydraException(f"hydra.sweeper.jobs is {str(path)!r}: it cannot be read ({error})") from None
    is_list = isinstance(jobs, list) and all(isinstance(job, list) for job in jobs)
    if not is_list or not all(isinstance(text, str) for job in jobs for text in job):
        raise HydraException(f"hydra.sweeper.jobs is {str(path)!r}: it must hold a list of lists of overrides")
    return [[*job] for job in jobs]


class ResumingSweeper(Sweeper):
    """Every combination of the values, as Hydra's own; but a sweep has a folder, and what is finished stays so.

    Jobs on this machine are run here, each in its worker, as many at once as joblib's launcher is told; others are
    given to submitit's.

    Args:
        params: values of keys that the command line need not name.
        jobs: a JSON file with lists of overrides, to each of which the combinations are added; None: one empty list.
    """

    def __init__(self, params: Mapping[str, object] | None = None, jobs: str | None = None) -> None:
        self._params = [f"{key}={value}" for key, value in (params or {}).items()]
        self._jobs = None if jobs is None else Path(jobs)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Sweeper`."""
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Runs the jobs that are left, and exits: with zero if none has failed, now or before."""
        loader, hydra = self._context.config_loader, self._config.hydra
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._params, *arguments])
        listed = [[]] if self._jobs is None else _read_jobs(self._jobs)
        combinations = [[*job, *combination] for job in listed for combination in combine(overrides)]
        name = self._jobs.stem if self._jobs else None
        folder = sweep_folder(overrides, combinations, str(Path(hydra.sweep.dir).expanduser()), name=name)
        # With its place, since a launcher that gets a part of the jobs would count them anew.
        placed = [
            [*combination, understand(f"hydra.sweep.dir={folder}"), f"hydra.sweep.subdir={number}"]
            for number, combination in enumerate(combinations)
        ]

        def make(number: int) -> Job:
            composed = loader.load_sweep_config(self._config, placed[number])
            return make_job(composed, composed.hydra)

        jobs, records = make_jobs(combinations, folder, make=make)
        if not jobs:
            sys.exit(1)
        options = [text for text in hydra.overrides.hydra if not text.startswith("hydra.mode=")]
        command = command_line(hydra, ["--multirun", *options, *hydra.overrides.task])
        at_once = jobs_at_once(hydra.launcher.get("n_jobs", 1), jobs=len(jobs))
        with open_sweep(folder, records, command=command) as left:
            if left and at_once > 1:
                unit = "GPUs" if visible_devices() else "cores"
                print(f"{at_once} jobs at once share the {unit}: hydra.launcher.n_jobs says how many", flush=True)
            if not left or hydra.runtime.choices["hydra/launcher"] in ("basic", "joblib"):
                codes = run_jobs([jobs[number] for number in left], at_once=at_once)
            else:
                codes = self._submit([placed[number] for number in left], folder)
        # A pipe or a file has no width that lines would have to fit.
        print_results(read_jobs(folder), Console() if sys.stdout.isatty() else Console(width=1000))
        sys.exit(max([int(len(jobs) < len(records)), *codes]))

    def _submit(self, batch: Sequence[Sequence[str]], folder: Path) -> list[int]:
        """Submits jobs and waits for them; returns their exit codes. On a cluster they outlive this process."""
        self._config.hydra.sweep.dir = str(folder)
        launcher = Plugins.instance().instantiate_launcher(self._context, self._task_function, self._config)
        try:
            return [job.return_value for job in launcher.launch(batch, initial_job_idx=0)]
        except KeyboardInterrupt:
            # On this machine submitit's controllers are ours, with a task each, which SIGINT does not queue again.
            controllers = psutil.Process().children()
            for controller in controllers:
                with suppress(psutil.NoSuchProcess):
                    for task in controller.children():
                        task.send_signal(signal.SIGINT)
            psutil.wait_procs(controllers)
            if not controllers:
                print("what was submitted goes on, until its scheduler ends it", file=sys.stderr, flush=True)
            raise
        # A job was lost, may not be queued again, or there is no scheduler.
        except (RuntimeError, subprocess.SubprocessError) as error:
            reason = " ".join(str(error).splitlines()[:2])
            raise HydraException(f"{reason}; {count_states(read_jobs(folder))}") from error

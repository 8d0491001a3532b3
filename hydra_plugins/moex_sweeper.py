"""Hydra's sweeper for train.py, here because Hydra takes plugins from a folder of this name alone."""

import sys

import psutil
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="resuming",
    node=BasicSweeperConf(_target_="hydra_plugins.moex_sweeper.ResumingSweeper"),
)


class ResumingSweeper(BasicSweeper):
    """The product of all values, as Hydra's own; but a sweep has a folder, and what is finished is not launched."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Names the sweep's folder, which the launcher and the jobs find in their configurations."""
        # Hydra imports every plugin it finds, before it knows which one it needs.
        from moex.launch.devices import jobs_at_once
        from moex.launch.sweep import LaunchError, sweep_folder

        arguments = [*self._parse_config(), *config.hydra.overrides.task]
        parsed = OverridesParser.create(config_loader=hydra_context.config_loader).parse_overrides(arguments)
        (self.jobs,) = self.split_arguments(parsed, None)
        varied = [text for text, value in zip(arguments, parsed, strict=True) if value.is_sweep_override()]
        self.folder = sweep_folder(varied or arguments, self.jobs, config.hydra.sweep.dir)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{self.folder}'")
            if "n_jobs" in config.hydra.launcher:
                if config.hydra.launcher.n_jobs == 0:
                    raise LaunchError(
                        "hydra.launcher.n_jobs is 0: it must be 1 or more, or -1 for one job a GPU or core"
                    )
                # joblib knows of cores alone.
                config.hydra.launcher.n_jobs = jobs_at_once(config.hydra.launcher.n_jobs, jobs=len(self.jobs))
                config.hydra.overrides.hydra.append(f"hydra.launcher.n_jobs={config.hydra.launcher.n_jobs}")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Launches the jobs that are left, and tells the command how they ended."""
        from moex.launch.job import exit_codes
        from moex.launch.sweep import new_records, open_sweep

        def compose(overrides: list[str]) -> DictConfig:
            assert self.hydra_context is not None
            assert self.config is not None
            return self.hydra_context.config_loader.load_sweep_config(self.config, overrides)

        records = new_records(self.jobs, self.folder, compose=compose)
        exit_codes.extend(record.state == "failed" for record in records)
        if all(record.state == "failed" for record in records):
            return
        with open_sweep(records, self.folder) as left:
            # The number names the job's folder: launchers count only those that they are given.
            batch = [[*overrides, f"hydra.sweep.subdir={number}"] for number, overrides in left.items()]
            exit_codes.extend(self._launch(batch))

    def _launch(self, batch: list[list[str]]) -> list[int]:
        from submitit.core.utils import UncompletedJobError

        from moex.launch.signals import told
        from moex.launch.sweep import LaunchError
        from moex.reporting.sweeps import count_states, read_jobs

        assert self.launcher is not None
        codes: list[int] = []
        for chunk in self.split_overrides_to_chunks(batch, self.max_batch_size) if batch else ():
            try:
                returned = self.launcher.launch(chunk, initial_job_idx=len(codes))
            except KeyboardInterrupt:
                self._tell_what_goes_on()
                raise
            # One was lost, and submitit does not wait for those after it. On this machine they are our children.
            except UncompletedJobError as error:
                psutil.wait_procs(psutil.Process().children())
                if told.received:
                    raise KeyboardInterrupt from None
                self._tell_what_goes_on()
                lost = " ".join(str(error).splitlines()[:2])
                raise LaunchError(f"{lost}; {count_states(read_jobs(self.folder))}") from None
            # Not a job's error, which would be in what it returned.
            except RuntimeError as error:
                if told.received:
                    raise KeyboardInterrupt from None
                raise LaunchError(" ".join(str(error).splitlines()[:2])) from error
            if told.received:
                raise KeyboardInterrupt
            codes += [job.return_value for job in returned]
        return codes

    def _tell_what_goes_on(self) -> None:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

        if isinstance(self.launcher, SlurmLauncher):
            print("the jobs that SLURM has go on, until scancel ends them", file=sys.stderr, flush=True)

"""The command: Hydra's program over its jobs, and its exit code."""

import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

import moex
from moex import config
from moex.launch.job import exit_codes
from moex.launch.overrides import OverrideError, check_overrides, in_one_line
from moex.launch.signals import told
from moex.launch.sweep import LaunchError

# Every key of the schema is there to be overridden, whichever choice a group makes.
ConfigStore.instance().store("schema", dataclasses.asdict(config.Config()))


def run_program(train: Callable[[], object], *, configs: Path) -> int:
    """Runs Hydra's program over its jobs.

    Args:
        train: a function that `hydra.main` decorates.
        configs: the folder of the groups.

    Returns:
        Zero if every job succeeded, else the first failed job's exit code; 128 and its number for a signal.
    """
    # Hydra spreads a mistake over a dozen lines; asked for full errors, it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(_python_path())
    told.listen_as_command()
    try:
        check_overrides(sys.argv[1:], configs)
        train()
    except (OverrideError, HydraException, LaunchError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        command = shlex.join(["python", *sys.argv])
        print(f"stopped; the same command continues: {command}", file=sys.stderr, flush=True)
        # A process of joblib's that was only starting may have received it alone.
        return 128 + (told.received[0] if told.received else signal.SIGINT)
    return next((code for code in exit_codes if code), 0)


def _python_path() -> list[str]:
    """Every process finds this very package, installed or not, wherever the command runs."""
    assert moex.__file__ is not None
    package = str(Path(moex.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return [package, *([inherited] if inherited else [])]

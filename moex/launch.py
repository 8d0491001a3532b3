"""From a command to the process that trains: one parent runs Hydra, each job trains in a worker of its own.

A worker of its own, because jobs of a sweep would otherwise share torch's global switches. The parent forwards
signals, and the worker ends when the parent does.
"""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import moex
from moex import config

_exit_codes: list[int] = []

# Every key of the schema is there to be overridden, whichever choice a group makes.
ConfigStore.instance().store("schema", dataclasses.asdict(config.Config()))


class OverrideError(ValueError):
    """A mistake on the command line."""


def run_program(train: Callable[[], None], *, configs: Path) -> int:
    """Runs Hydra's program over its jobs.

    Args:
        train: a function that `hydra.main` decorates.
        configs: the folder of the groups.

    Returns:
        Zero if every job succeeded, else the first failed job's exit code.
    """
    # Hydra spreads a mistake over a dozen lines; asked for full errors, it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        check_overrides(sys.argv[1:], configs)
        train()
    except (OverrideError, HydraException) as error:
        print(f"error: {_in_one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return next((code for code in _exit_codes if code), 0)


def check_overrides(arguments: Sequence[str], configs: Path) -> None:
    """Refuses an override of a key or a choice that does not exist, telling the nearest that do.

    Hydra refuses them too, but only says that a key is not there, and in a sweep after the jobs before it.

    Raises:
        OverrideError: there is no such key or choice.
    """
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    if any(argument.startswith(("--config-dir", "-cd")) for argument in arguments):
        return  # That folder adds groups and choices of its own.
    keys = config.known_keys()
    for override in parsed:
        key = override.key_or_group
        if key == "experiment" and not override.is_add():
            raise OverrideError(
                f"an experiment is added with a plus: +experiment={override.get_value_element_as_str()}"
            )
        free = key == "experiment" or key.startswith(("hydra", "model.options"))
        if not free and key not in keys:
            raise OverrideError(config.unknown_key(key))
        if (configs / key).is_dir() and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            known = sorted(path.stem for path in (configs / key).glob("*.yaml"))
            values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
            for value in map(str, values):
                if value not in known:
                    raise OverrideError(f"there is no {key} {value!r}: it must be one of {', '.join(known)}")


def run_job(composed: DictConfig) -> None:
    """Trains what Hydra composed in a worker, and keeps its exit code for `run_program`.

    A failed job of a sweep lets the next ones run. SIGINT and SIGTERM end the program: the worker is told,
    finishes its step and saves; a second signal ends both at once.
    """
    try:
        config.parse(composed)
        job = {"command": _job_command(), "config": OmegaConf.to_container(composed, resolve=True)}
    except (ValueError, OmegaConfBaseException) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        _exit_codes.append(1)
        return
    received: list[int] = []
    worker = subprocess.Popen(
        [sys.executable, "-m", "moex.run"],
        stdin=subprocess.PIPE,
        text=True,
        # Its own session: Ctrl-C on the terminal reaches the parent alone, which decides what it means.
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(_python_path())},
    )

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            worker.kill()
        else:
            worker.terminate()

    former = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert worker.stdin is not None
        # Left open: its end tells the worker that the parent is gone.
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        code = worker.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    # A run that was about to end has ended, but the sweep around it stops.
    if received and (code != 0 or _is_sweep()):
        print(f"stopped; the same command continues: {_command()}", file=sys.stderr, flush=True)
        sys.exit(128 + received[0])
    if code < 0:
        name = signal.Signals(-code).name
        print(f"error: the worker was ended by {name}; the same command continues", file=sys.stderr, flush=True)
        code = 128 - code
    _exit_codes.append(code)


def _is_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _job_command() -> str:
    """What starts this job alone, for the record."""
    return shlex.join(["python", Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])


def _command() -> str:
    """What was typed."""
    multirun = ["--multirun"] if _is_sweep() else []
    arguments = [argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun")]
    return shlex.join(["python", sys.argv[0], *multirun, *arguments])


def _python_path() -> list[str]:
    """The worker finds this very package, installed or not, wherever the command runs."""
    assert moex.__file__ is not None
    package = str(Path(moex.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return [package, *([inherited] if inherited else [])]


def _in_one_line(error: Exception) -> str:
    """What Hydra says, without the lines about its inside."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: an override is KEY=VALUE or GROUP=CHOICE"
    lines = [line.strip() for line in str(error).splitlines()]
    inside = ("full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(inside))

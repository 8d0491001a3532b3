"""The command: Hydra's program over its jobs, and how it ends."""

import dataclasses
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

import moex
from moex import config
from moex.config.evaluation import EvaluationConfig
from moex.files import SaveError
from moex.launch.manifests import store_manifests
from moex.launch.signals import Stopped, raise_on_signals

# Every key of the schema is there to be overridden, whichever choice a group makes; options are the network's own.
schema = OmegaConf.create(config.defaults())
OmegaConf.set_struct(schema.model.options, False)
ConfigStore.instance().store("schema", schema)
evaluation = OmegaConf.create(dataclasses.asdict(EvaluationConfig()))
OmegaConf.set_struct(evaluation.dataset, False)
OmegaConf.set_struct(evaluation.model.options, False)
ConfigStore.instance().store("evaluation_schema", evaluation)


class LaunchError(Exception):
    """What a command cannot do, in words for its user."""


def run_command(
    program: Callable[[], object],
    arguments: Sequence[str],
    *,
    configs: Path,
    unknown_key: Callable[[str], str] = config.unknown_key,
) -> int:
    """Runs Hydra's program over its jobs, which exits by itself where it has an exit code to tell.

    Args:
        program: a function that `hydra.main` decorates.
        arguments: of the command line, the program's name first.
        configs: the folder of the groups; the manifests in `experiments/` are beside it.
        unknown_key: says what is wrong about a key that the program lacks.

    Returns:
        The exit code: 1 for a mistake in the arguments, 128 and its number for a signal.
    """
    # Hydra spreads a mistake over a dozen lines; asked for full errors, it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Every process finds this very package, installed or not, wherever the command runs.
    package = str(Path(moex.__path__[0]).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    raise_on_signals()
    options = {argument.partition("=")[0] for argument in arguments}
    try:
        if options & {"--cfg", "-c"} and options & {"--multirun", "-m"}:
            raise LaunchError("--cfg shows one run: leave --multirun out")
        try:
            store_manifests(configs.with_name("experiments"), configs)
        except ValueError as error:
            raise LaunchError(str(error)) from None
        program()
    except (LaunchError, HydraException, SaveError) as error:
        print(f"error: {explain(error, unknown_key)}", file=sys.stderr, flush=True)
        return 1
    except Stopped as stopped:
        command = shlex.join(["python", *arguments])
        print(f"stopped; the same command continues: {command}", file=sys.stderr, flush=True)
        return 128 + int(stopped.args[0])
    return 0


def explain(error: Exception, unknown_key: Callable[[str], str]) -> str:
    """What is wrong, in a line: what Hydra says, without the lines about its inside."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: an override is KEY=VALUE or GROUP=CHOICE"
    unknown = re.match(r"Could not override '(\S+)'\.\nTo append to your config", str(error))
    if unknown and not unknown[1].startswith(("hydra.", "model.options.")):
        return unknown_key(unknown[1])
    pattern = r"Could not find '([\w/]+)/([^/']+)'\s+Available options in '[\w/]+':(.*?)(?:Config search path|$)"
    if absent := re.search(pattern, str(error), re.DOTALL):
        group, name, choices = absent[1], absent[2], absent[3].split()
        nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
        return f"there is no {group} {name!r}: " + (
            f"the nearest are {', '.join(nearest)}" if nearest else f"it must be one of {', '.join(choices)}"
        )
    lines = [line.strip() for line in str(error).splitlines()]
    inside = ("full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(inside))

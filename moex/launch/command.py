"""The command: Hydra's program over its jobs, and how it ends."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException

import moex
from moex import config
from moex.config.composition import explain, offer_schemas
from moex.files import SaveError
from moex.launch.manifests import offer_manifests
from moex.launch.signals import Stopped, raise_on_signals


def run_command(
    program: Callable[[], object],
    arguments: Sequence[str],
    *,
    manifests: Path | None = None,
    unknown_key: Callable[[str], str] = config.unknown_key,
) -> int:
    """Runs Hydra's program over its jobs, which exits by itself where it has an exit code to tell.

    Args:
        program: a function that `hydra.main` decorates. Where it cannot do what is asked, it raises `HydraException`.
        arguments: of the command line, the program's name first.
        manifests: the folder of those whose groups the program has.
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
    offer_schemas()
    options = {argument.partition("=")[0] for argument in arguments}
    try:
        if options & {"--cfg", "-c"} and options & {"--multirun", "-m"}:
            raise HydraException("--cfg shows one run: leave --multirun out")
        if manifests is not None:
            offer_manifests(manifests)
        program()
    except (HydraException, SaveError) as error:
        print(f"error: {explain(error, unknown_key)}", file=sys.stderr, flush=True)
        return 1
    except Stopped as stopped:
        command = shlex.join(["python", *arguments])
        print(f"stopped; the same command continues: {command}", file=sys.stderr, flush=True)
        return 128 + int(stopped.args[0])
    return 0

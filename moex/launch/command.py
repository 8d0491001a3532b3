"""The command: Hydra's program over its jobs, and how it ends."""

import gc
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException

import moex
from moex import config
from moex.command_line import run_main
from moex.config.composition import explain, offer_schemas
from moex.files import SaveError
from moex.launch.arguments import read_arguments
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
        The exit code: 1 for a mistake in the arguments, 128 and its number for a signal, that of a pipe whose reader
        is gone included.
    """
    # What was imported is no garbage, nor is it that of workers, which begin as copies.
    gc.freeze()
    gc.enable()
    # Hydra spreads a mistake over a dozen lines; asked for full errors, it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Every process finds this very package, installed or not, wherever the command runs.
    package = str(Path(moex.__path__[0]).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    raise_on_signals()
    offer_schemas()

    def run() -> int:
        # Hydra returns nothing of what the jobs return.
        program()
        return 0

    if "--version" in arguments:
        print(f"moex {moex.__version__}")
        return 0
    try:
        # Hydra reads them there.
        sys.argv[1:] = read_arguments(arguments[1:], sweeps=manifests is not None)
        if manifests is not None:
            offer_manifests(manifests)
        return run_main(run)
    except (HydraException, SaveError) as error:
        print(f"error: {explain(error, unknown_key)}", file=sys.stderr, flush=True)
        return 1
    except ValueError as error:
        # Hydra refuses some arguments by an error that is none of its own.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith("hydra."):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    except Stopped as stopped:
        command = shlex.join(["python", *arguments])
        print(f"stopped; the same command continues: {command}", file=sys.stderr, flush=True)
        return 128 + int(stopped.args[0])

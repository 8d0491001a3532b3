"""What all command lines have in common: paths and names as people write them, and readers that have seen enough."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from moex.registry import suggest


def user_path(text: str) -> Path:
    """A path, which may begin with `~`, as an argument has it."""
    return Path(text).expanduser()


def one_of(kind: str, choices: Sequence[str]) -> Callable[[str], str]:
    """The type of an argument that is a name among the choices, and may be given any number of times, or never.

    Args:
        kind: of what the names are.
        choices: what there is; argparse's own would refuse that none is named.
    """

    def check(name: str) -> str:
        if name not in choices:
            raise argparse.ArgumentTypeError(f"there is no {kind} {name!r}: {suggest(name, choices)}")
        return name

    return check


def run_main(main: Callable[[], int | None]) -> int:
    """Runs a program, whose output may be read no further than `head` does.

    Returns:
        Its exit code; 128 and the number of SIGPIPE, as a shell has it, where nobody reads any more.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left to be written at the exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + int(signal.SIGPIPE)
    return code

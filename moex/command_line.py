"""What all command lines have in common: paths and names as people write them, and readers that have seen enough."""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def user_path(text: str) -> Path:
    """A path, which may begin with `~`, as an argument has it."""
    return Path(text).expanduser()


def suggest(name: str, choices: Sequence[str], *, otherwise: str | None = None) -> str:
    """What would be right instead of a name that is not among the choices: the nearest; where none is near, any.

    Args:
        name: what was asked for.
        choices: what there is.
        otherwise: what is said instead of all choices where none is near.
    """
    if nearest := difflib.get_close_matches(name, choices, n=3, cutoff=0.4):
        return f"the nearest are {', '.join(nearest)}"
    return otherwise or f"it must be one of {', '.join(choices)}"


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

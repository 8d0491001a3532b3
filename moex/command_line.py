"""What all command lines have in common: paths as people write them, and readers that have seen enough."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def user_path(text: str) -> Path:
    """A path, which may begin with `~`, as an argument has it."""
    return Path(text).expanduser()


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

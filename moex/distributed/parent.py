"""A process that ends with the one that started it, however that ends; imports nothing that takes time."""

import os
import threading
import time

from moex.leftovers import remove_all

# The environment variable with the number of the process that a process is to end with.
PARENT = "MOEX_PARENT"
# Seconds between two looks.
EVERY = 0.5


def end_with_the_parent() -> None:
    """From here on, ends this process soon after its parent, if that has said who it is; see `as_parent`."""
    # Not for processes that this one starts.
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        end_with(int(parent))


def end_with(parent: int) -> None:
    """From here on, ends this process soon after the one of this number, which has started it.

    What was being written aside goes, as temporary files do, and the next run resumes.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY)
        try:
            remove_all()
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def as_parent() -> dict[str, str]:
    """What the environment of a process has to hold so that it ends with this one."""
    return {PARENT: str(os.getpid())}

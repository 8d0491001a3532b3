"""Real processes of `train.py`, for tests: started, watched, and their traces."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]
QUICK = ("epochs=2", "limit_train=200", "limit_test=100")


def start(*overrides, cwd):
    # One thread: the tests of this file share the machine with others.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "WANDB_MODE": "offline"}
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *overrides],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*overrides, cwd):
    """The exit code and what was printed."""
    process = start(*overrides, cwd=cwd)
    printed, _ = process.communicate(timeout=180)
    return process.returncode, printed


def folders(root):
    return sorted(path.parent for path in root.rglob("config.yaml"))


def wait_for_save(process, folder_root, *, saves):
    """Returns after some more saves of the process's run, with its worker."""
    seen, deadline = set(), time.monotonic() + 90
    while len(seen) <= saves:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        for path in folder_root.rglob("last.pt"):
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.005)
    (worker,) = psutil.Process(process.pid).children()
    return worker

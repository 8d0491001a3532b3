"""`train.py` for tests: as real processes, started, watched, and their traces; or within the test's own process."""

import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import torch
from hydra.core.global_hydra import GlobalHydra

from moex.distributed.ranks import STOP_SIGNALS, StopRequest
from moex.launch import job
from moex.run import worker

REPOSITORY = Path(__file__).parents[1]
QUICK = ("epochs=2", "limit_train=200", "limit_test=100")
# One thread: tests share the machine with others.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "WANDB_MODE": "offline"}


def environment():
    """What a command sees: also the data sets beside this file, as modules of a user's would be."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parent)]))
    return os.environ | ENVIRONMENT | {"PYTHONPATH": path}


def start(*arguments, cwd, **variables):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        cwd=cwd,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, as a terminal gives it.
        start_new_session=True,
    )


def end(process):
    """The exit code and what was printed."""
    printed, _ = process.communicate(timeout=180)
    assert "Traceback" not in printed
    return process.returncode, printed


def run(*arguments, cwd):
    """The exit code and what was printed."""
    return end(start(*arguments, cwd=cwd))


def train_here(job, _):
    """The worker's part as a call."""
    record = job.record and str(job.record)
    return worker.run({"command": job.command, "config": asdict(job.config), "record": record}, StopRequest())


def run_here(*arguments, cwd, monkeypatch, capfd, script="train.py"):
    """The same without a process: the worker's part is a call, so that only what processes do is missing.

    On one thread, as in a process: then the bits are the same. What is printed as an error comes last.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(job, "train", train_here)
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = dict(os.environ)
    try:
        os.environ.update(environment())
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        torch.set_num_threads(threads)
        GlobalHydra.instance().clear()
        for number, handler in former.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(before)
    message, code = (f"{code}\n", 1) if isinstance(code, str) else ("", code)
    return code, "".join(capfd.readouterr()) + message


def folders(root):
    return sorted(path.parent for path in root.rglob("config.yaml"))


def wait_for(condition, process):
    """What the condition gives, once it gives something."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found


def wait_for_save(process, folder_root, *, saves):
    """Returns after some more saves of the process's run, with its worker."""
    seen = set()

    def enough():
        for path in folder_root.rglob("last.pt"):
            # A save moves the former one away before it puts its own there.
            with suppress(FileNotFoundError):
                seen.add(path.stat().st_mtime_ns)
        return len(seen) > saves

    wait_for(enough, process)
    (worker,) = workers_of(process)
    return worker


def workers_of(process):
    """The workers of a command: copies of it, or processes that begin anew."""
    return children_of(process, "train.py") or children_of(process, "moex.run")


def children_of(process, word):
    """The children of a process that have a word in their command lines; others may be short-lived."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            found += [child] if word in " ".join(child.cmdline()) else []
    return found


def assert_gone(processes):
    assert not psutil.wait_procs(processes, timeout=20)[1]

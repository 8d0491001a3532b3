"""Temporary files of a worker are gone when it has ended, however it was ended."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from program import REPOSITORY

from moex.run.scratch import scratch_folder

WORKER = """
import multiprocessing, os, sys, tempfile, time
from pathlib import Path
from moex.distributed.parent import end_with
from moex.files import write_aside
from moex.run.scratch import scratch_folder

def work():
    with scratch_folder():
        end_with(os.getppid())
        tempfile.mkdtemp(prefix="a-library")
        write_aside(Path(sys.argv[1]), lambda file: file.write(b"half"))
        print(os.getpid(), tempfile.gettempdir(), flush=True)
        time.sleep(60)

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
"""


def test_a_folder_for_the_time_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Set by the folder, and so set back by the test.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with scratch_folder() as folder:
        assert folder.parent == tmp_path
        assert tempfile.mkdtemp().startswith(str(folder))
        # What it has compiled, torch keeps for later runs.
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)


def test_nothing_is_left_where_the_parent_is_killed(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WORKER, str(tmp_path / "last.pt")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        worker, folder = parent.stdout.readline().split()
        assert Path(folder).parent == temporary
        assert list(Path(folder).iterdir())
        assert (tmp_path / "last.pt.tmp").exists()
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while Path("/proc", worker).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []

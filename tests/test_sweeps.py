"""How the state of a sweep's jobs is read from the files that they leave, and shown."""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moex.reporting import sweeps
from moex.reporting.runs import METRICS

REPOSITORY = Path(__file__).parents[1]
HERE = socket.gethostname()


def ago(minutes):
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def beat(folder, *, minutes, epoch=3, host=HERE, pid=None):
    pid = os.getpid() if pid is None else pid
    content = {"time": ago(minutes), "epoch": epoch, "epochs": 30, "step": 5, "host": host, "pid": pid}
    write(folder / "heartbeat.json", content)


def finish(folder):
    figures = {"epoch": 30, **dict.fromkeys(METRICS, 0.0125)}
    speed = {"images_per_second": 1.0, "seconds": 1.0, "device": "cpu"}
    write(
        folder / "result.json",
        {"name": "x", "seed": 0, "recipe": {}, "epochs": 30, "last": figures, "best": figures, **speed},
    )


def record(overrides, run):
    return {"overrides": overrides, "folder": run, "state": "waiting", "message": ""}


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def root(tmp_path):
    """An output root with a sweep of three jobs that are not begun, and what its runs' folders will be."""
    sweep = tmp_path / "multirun" / "seed-0-1-2"
    write(sweep / "sweep.json", {"command": "python train.py --multirun epochs=30 seed=0,1,2"})
    for seed in range(3):
        overrides, run = ["epochs=30", f"seed={seed}"], f"../../digits/recipe/seed{seed}"
        write(sweep / str(seed) / "job.json", record(overrides, run))
    return tmp_path


def change(root, number, **changes):
    path = root / "multirun" / "seed-0-1-2" / str(number) / "job.json"
    write(path, json.loads(path.read_text()) | changes)


def only(root, number):
    return sweeps.read_jobs(root / "multirun" / "seed-0-1-2")[number]


@pytest.mark.parametrize(
    ("host", "lives", "started", "heard", "state"),
    [
        (HERE, True, 0, None, "running"),
        (HERE, True, 0, 0, "running"),
        (HERE, False, 1, 0, "lost"),
        (HERE, True, 60 * 24 * 365, 0, "lost"),  # Another process has its number since.
        ("elsewhere", False, 60, 1, "running"),
        ("elsewhere", False, 60, 30, "lost"),
        ("elsewhere", False, 1, None, "running"),
        ("elsewhere", False, 60, None, "lost"),
        ("elsewhere", False, 1, 30, "running"),  # A heartbeat of the session before.
    ],
)
def test_a_running_job_is_believed_as_long_as_it_can_be(root, gone, host, lives, started, heard, state):
    pid = os.getpid() if lives else gone
    change(root, 1, state="running", host=host, pid=pid, start=ago(started))
    if heard is not None:
        beat(root / "digits" / "recipe" / "seed1", minutes=heard, host=host, pid=pid)
    assert only(root, 1).state == state
    assert [only(root, number).state for number in (0, 2)] == ["waiting", "waiting"]


@pytest.mark.parametrize("state", ["running", "failed", "stopped", "waiting"])
def test_a_result_counts_more_than_what_the_job_wrote(root, state):
    change(root, 0, state=state, message="of a former start", host=HERE, pid=os.getpid(), start=ago(0))
    finish(root / "digits" / "recipe" / "seed0")
    job = only(root, 0)
    assert (job.state, job.result["epochs"], job.result["last"]["error"], job.message) == ("finished", 30, 0.0125, "")


def test_jobs_are_in_the_order_of_their_numbers(root):
    for number in (10, 9):
        write(root / "multirun" / "seed-0-1-2" / str(number) / "job.json", record([f"seed={number}"], ""))
    assert [job.number for job in sweeps.read_jobs(root / "multirun" / "seed-0-1-2")] == [0, 1, 2, 9, 10]


@pytest.fixture
def status(monkeypatch, capsys):
    """Exit code and lines of the command, as a pipe gets them."""

    def run(path):
        monkeypatch.setattr(sys, "argv", ["sweep.py", "status", str(path)])
        monkeypatch.syspath_prepend(REPOSITORY / "scripts")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(REPOSITORY / "scripts" / "sweep.py"), run_name="__main__")
        printed = capsys.readouterr()
        return ended.value.code, (printed.out + printed.err).splitlines()

    return run


def test_the_command(root, status):
    finish(root / "digits" / "recipe" / "seed0")
    # The first process of all is older than its start.
    change(root, 1, state="running", host=HERE, pid=1, start=ago(2))
    beat(root / "digits" / "recipe" / "seed1", minutes=1)
    error = "no layer 'nowhere' in ResNet: points: " + ", ".join(f"stage{index}" for index in range(30))
    change(root, 2, state="failed", message=error)
    code, lines = status(root / "multirun" / "seed-0-1-2")
    assert code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert lines[:2] == [
        str(root / "multirun" / "seed-0-1-2"),
        "python train.py --multirun epochs=30 seed=0,1,2",
    ]
    assert ["0", "seed=0", "finished", "30/30", "1.25"] in rows
    (running,) = [row for row in rows if row[0] == "1"]
    assert running[1:4] == ["seed=1", "running", "3/30"]
    assert re.fullmatch(r"6\d s ago", running[4])
    assert ["2", "seed=2", "failed", error] in rows
    assert lines[-1] == "3 jobs: 1 finished, 1 running, 1 failed"

    write(root / "multirun" / "seed-3" / "sweep.json", {"command": "python train.py --multirun seed=3"})
    write(root / "multirun" / "seed-3" / "0" / "job.json", record(["seed=3", "augmentation.steps=[moex]"], ""))
    code, below = status(root)
    assert code == 0
    assert below[:2] == lines[:2]
    assert "python train.py --multirun seed=3" in below
    rows = [re.split(r"\s{2,}", line.strip()) for line in below]
    assert ["0", "seed=3 augmentation.steps=[moex]", "waiting"] in rows
    assert below[-1] == "1 job: 1 waiting"


def test_the_command_finds_nothing(tmp_path, status):
    assert status(tmp_path / "nowhere") == (1, [f"error: there is no folder {tmp_path / 'nowhere'}"])
    assert status(tmp_path) == (1, [f"error: {tmp_path} holds no sweep"])


@pytest.mark.parametrize("damage", ["", "[]", "{}", "\0"])
def test_a_damaged_file_hides_no_job(root, status, damage):
    sweep, recipe = root / "multirun" / "seed-0-1-2", root / "digits" / "recipe"
    damaged = [sweep / "0" / "job.json", recipe / "seed1" / "result.json", recipe / "seed2" / "heartbeat.json"]
    change(root, 2, state="running", host=HERE, pid=os.getpid(), start=ago(0))
    for path in damaged:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(damage)
    jobs = sweeps.read_jobs(sweep)
    assert [job.state for job in jobs] == ["failed", "waiting", "running"]
    reasons = [
        f"cannot read {damaged[0]}",
        f"{damaged[1].parent} is not a finished run: ",
        f"cannot read {damaged[2]}",
    ]
    for job, reason in zip(jobs, reasons, strict=True):
        assert job.message.startswith(reason)
    (sweep / "sweep.json").write_text(damage)
    code, lines = status(root)
    assert code == 0
    assert lines[1] == f"cannot read {sweep / 'sweep.json'}"

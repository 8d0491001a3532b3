"""What the worker tells, and writes down, of how its job stands."""

import json
import os
import socket

import pytest

from moex.distributed.ranks import STOPPED, RankError
from moex.run import worker


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "3" / "job.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"overrides": [], "folder": "", "state": "waiting", "message": "of a former start"}))
    return path


@pytest.fixture
def run(monkeypatch, record):
    """Runs a job that ends as it is told, with an exit code or an error: how it stood, and what came out."""

    def call(end):
        def train(job, stop):
            stood.update(json.loads(record.read_text()))
            if isinstance(end, Exception):
                raise end
            return end

        stood = {}
        monkeypatch.setattr(worker, "_train", train)
        return stood, worker.run({"record": str(record)}, None)

    return call


@pytest.mark.parametrize(
    ("end", "code", "state", "message", "told"),
    [
        (0, 0, "stopped", "", ""),  # It may also be finished, which its result says.
        (STOPPED, STOPPED, "stopped", "", ""),
        (RankError("no layer 'nowhere'"), 1, "failed", "no layer 'nowhere'", "error: no layer 'nowhere'\n"),
        (RankError("rank 1 failed\nOSError: no"), 1, "failed", "OSError: no", "error: rank 1 failed\nOSError: no\n"),
    ],
    ids=repr,
)
def test_how_a_job_ended(run, record, capsys, end, code, state, message, told):
    stood, returned = run(end)
    assert returned == code
    assert (stood["state"], stood["message"]) == ("running", "")
    assert (stood["host"], stood["pid"]) == (socket.gethostname(), os.getpid())
    written = json.loads(record.read_text())
    assert (written["state"], written["message"]) == (state, message)
    assert capsys.readouterr().err == told


def test_a_mistake_of_ours_is_raised(run, record):
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError("on purpose"))
    assert json.loads(record.read_text())["message"] == "ZeroDivisionError: on purpose"


def test_a_run_goes_on_without_its_record(run, record, capsys):
    (record.parent / "job.json.tmp").mkdir()  # Where it would be written aside.
    assert run(0)[1] == 0
    assert f"error: cannot write {record}: Is a directory" in capsys.readouterr().err


def test_of_several_nodes_the_first_one_writes(run, record, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    run(0)
    assert json.loads(record.read_text())["state"] == "waiting"

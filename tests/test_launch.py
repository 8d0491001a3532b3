"""What a command makes of its jobs, of devices, and of signals that come late."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from moex.config import Config, RuntimeConfig
from moex.distributed.ranks import STOP_SIGNALS
from moex.launch import devices, job, sweep
from moex.launch.signals import Stopped, passing_on
from moex.run import worker as program

CONFIGS = Path(__file__).parents[1] / "configs"


def make_job(*overrides):
    """The job of a command line, outside a sweep."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("train", overrides=["hydra.job.chdir=false", *overrides], return_hydra_config=True)
    return job.make_job(composed, composed.hydra)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        # Without an experiment, after what it trains.
        (["epochs=3"], "digits-resnet8-moex"),
        (["+experiment=digits_moex"], "digits_moex"),
        (["+experiment=digits_moex", "model=resnet20"], "digits_moex model=resnet20"),
        (["+experiment=digits_moex", "+model.options.memory_saving=true"], "digits_moex"),
        (["+experiment=digits_moex", "optimizer.lr=1", "epochs=3"], "digits_moex optimizer.lr=1 epochs=3"),
        (["+experiment=digits_moex", "model=resnet20", "name=mine"], "mine"),
        # Where, how often and on what does not make a training another.
        (["+experiment=digits_moex", "seed=3", "output_root=x", "dataset.root=y", "logger=both"], "digits_moex"),
        (["+experiment=digits_moex", "runtime.devices=1", "checkpoint.every_steps=3"], "digits_moex"),
        (["+experiment=digits_moex", "runtime.precision=bf16"], "digits_moex runtime.precision=bf16"),
        (["+experiment=digits_moex", "+model.options.width=3"], "digits_moex +model.options.width=3"),
    ],
)  # fmt: skip
def test_a_name_says_what_is_trained(overrides, name):
    assert make_job(*overrides).config.name == name


def test_a_job_is_started_alone_by_its_command():
    assert make_job("+experiment=digits_moex", "seed=3").command == "python app.py +experiment=digits_moex seed=3"


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["seed=1"], ["seed=1"]),
        (["seed=0,1", "epochs=3"], ["seed=0 epochs=3", "seed=1 epochs=3"]),
        (["seed=range(2)", "epochs=choice(1,2)"], [f"seed={a} epochs={b}" for a in (0, 1) for b in (1, 2)]),
        # What the command line says counts more than a study's values.
        (["seed=0,1,2", "epochs=3", "seed=5"], ["seed=5 epochs=3"]),
    ],
)  # fmt: skip
def test_a_sweep_has_every_combination(overrides, jobs):
    combined = sweep.combine(OverridesParser.create().parse_overrides(overrides))
    assert [" ".join(overrides) for overrides in combined] == jobs


def test_a_run_is_trained_once(tmp_path, capsys):
    seeds = [["seed=0"], ["seed=1"], ["seed=0", "logger=both"], ["epochs=0"]]
    jobs, records = sweep.make_jobs(seeds, tmp_path, make=lambda number: make_job(*seeds[number]))
    assert [record["state"] for record in records] == ["waiting", "waiting", "failed", "failed"]
    assert list(jobs) == [0, 1]
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: job 2: the same run as job 0: ")
    assert told[1] == "error: job 3: epochs is 0: it must be 1 or more"


def test_a_sweep_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "sweep" / "sweep.json").mkdir(parents=True)
    for folder in (tmp_path / "file" / "sweep", tmp_path / "sweep"):
        with pytest.raises(OSError, match=f"cannot write {folder}"), sweep.open_sweep(folder, [], command=""):
            pass


@pytest.fixture
def leases(monkeypatch, tmp_path):
    """Leases on a machine of its own."""
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    with ExitStack() as stack:
        yield lambda visible, count: "".join(stack.enter_context(devices.lease_devices(visible, count)))


@pytest.mark.parametrize(
    ("jobs", "shares"),
    [
        ([("0123", 2)] * 3, ["01", "23", "01"]),  # The third has to share.
        ([("0123", 1)] * 6, ["0", "1", "2", "3", "0", "1"]),
        ([("0123", 3)] * 3, ["012", "301", "230"]),
        ([("01", 4)] * 2, ["01", "01"]),
        # Sweeps that take different numbers, or see different devices.
        ([("0123", 1), ("0123", 2), ("0123", 1)], ["0", "12", "3"]),
        ([("0123", 2), ("12", 1), ("3210", 1)], ["01", "2", "3"]),
    ],
)
def test_a_device_is_shared_only_where_there_are_too_few(leases, jobs, shares):
    assert [leases(visible, count) for visible, count in jobs] == shares


def test_a_device_is_free_again_when_its_job_ends(leases):
    names = ["0", "MIG-GPU-8932f937/1/0"]
    with devices.lease_devices(names, 1) as first:
        assert leases(names, 1) == names[1]
    with devices.lease_devices(names, 1) as second:
        assert first == second == ["0"]


@pytest.mark.parametrize(
    ("asked", "gpus", "jobs", "at_once"),
    [(3, 2, 9, 3), (-1, 4, 9, 4), (-2, 4, 9, 3), (-1, 4, 2, 2), (-1, 0, 99, 16), (-1, 0, 3, 3), (-99, 4, 9, 1)],
)
def test_how_many_jobs_run_at_once(monkeypatch, asked, gpus, jobs, at_once):
    monkeypatch.setattr(devices, "visible_devices", lambda: [str(index) for index in range(gpus)])
    monkeypatch.setattr(devices.joblib, "cpu_count", lambda: 16)
    assert devices.jobs_at_once(asked, jobs=jobs) == at_once


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("GPU-8932f937, GPU-1b22", 2, ["GPU-8932f937", "GPU-1b22"]),
        ("0,1,9", 2, ["0", "1"]),
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_devices_keep_the_names_that_were_given(monkeypatch, variable, count, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert devices.visible_devices() == names


def test_no_jobs_at_once_are_refused():
    with pytest.raises(HydraException, match="n_jobs is 0: it must be 1 or more, or -1"):
        devices.jobs_at_once(0, jobs=3)


@pytest.mark.parametrize(
    ("runtime", "gpus", "share"),
    [
        ({}, 4, {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ({"device": "cuda", "devices": 3}, 4, {"CUDA_VISIBLE_DEVICES": "0,1,2"}),
        ({"device": "cuda"}, 1, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"device": "cpu"}, 4, {"OMP_NUM_THREADS": "8"}),
        ({}, 0, {"OMP_NUM_THREADS": "8"}),
    ],
)
def test_a_job_is_told_its_devices(monkeypatch, tmp_path, runtime, gpus, share):
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "visible_devices", lambda: [str(index) for index in range(gpus)])
    monkeypatch.setattr(devices.joblib, "cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with devices.share_machine(RuntimeConfig(**runtime), at_once=2) as environment:
        assert environment == share
    assert bool(list(tmp_path.iterdir())) == ("CUDA_VISIBLE_DEVICES" in share)  # No GPU: nothing to lease.


@pytest.fixture
def sweep_job(tmp_path):
    """A job of a sweep, with the record that its worker would leave."""
    record = tmp_path / "3" / "job.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"overrides": [], "folder": "", "state": "failed", "message": "no"}))
    return job.Job([], "", Config(), record)


@pytest.fixture
def worker(monkeypatch, sweep_job):
    """Lets a script be the worker of a job, which it returns, and restores the handlers of signals."""
    popen = subprocess.Popen

    def make(script):
        monkeypatch.setattr(
            job.subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", script], **options)
        )
        return sweep_job

    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield make
    for number, handler in former.items():
        signal.signal(number, handler)


def test_jobs_side_by_side_are_told_apart(worker, tmp_path, capfd):
    """The lines of each are in its own file, and what went wrong is on the terminal too."""
    script = "import os; os.write(1, b'epoch 1\\n'); os.write(2, b'Traceback\\nerror: no\\n'); exit(1)"
    assert sweep.run_jobs([worker(script)], at_once=2) == [1]
    assert capfd.readouterr().err == "job 3: error: no\n"
    assert (tmp_path / "3" / "output.log").read_text() == "epoch 1\nTraceback\nerror: no\n"


@pytest.fixture(params=["anew", "copy"])
def train(request, worker, monkeypatch):
    """Trains by a script, in a worker that begins anew and in one that begins as a copy of this process."""

    def anew(script, signals, *, output):
        return job.train(worker(script), signals, output=output)

    def copy(script, signals, *, output):
        def run(*_):
            os.dup2(output.fileno(), 1)
            exec(script, {})

        monkeypatch.setattr(program, "run", run)
        return job.train(made, signals)

    made = worker("")
    return {"anew": anew, "copy": copy}[request.param]


def test_what_a_worker_leaves_behind_does_not_keep_the_command(train, tmp_path):
    start = time.monotonic()
    with (tmp_path / "log").open("wb") as output:
        assert train("import subprocess; subprocess.Popen(['sleep', '5'])", [], output=output) == 0
    assert time.monotonic() - start < 5


# Is ready to be told, and ends as it is told.
PATIENT = """
import os, signal, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
os.write(1, b"ready")
while not got: time.sleep(0.01)
{then}
"""


@pytest.mark.parametrize(
    ("received", "then", "code"),
    [
        (["SIGINT"], "exit(143)", 143),
        (["SIGUSR1"], "exit(143)", 143),
        (["SIGTERM"], "exit(0)", 0),  # It was about to end.
        (["SIGTERM"], "exit(1)", 1),  # It failed, which is not to be tried again.
        (["SIGINT", "SIGINT"], "time.sleep(60)", 128 + signal.SIGKILL),
        (["SIGUSR2", "SIGTERM", "SIGINT"], "time.sleep(60)", 128 + signal.SIGKILL),
        (["SIGUSR1", "SIGUSR2", "SIGTERM"], "time.sleep(1); exit(143)", 143),
    ],
    ids=str,
)
def test_a_second_signal_ends_at_once_but_a_warning_does_not_count(train, received, then, code):
    reading, writing = os.pipe()

    def tell():
        os.read(reading, 5)
        for count, name in enumerate(received, start=1):
            os.kill(os.getpid(), signal.Signals[name])
            while len(signals) < count:
                time.sleep(0.01)

    with passing_on() as signals, os.fdopen(writing, "wb") as output, os.fdopen(reading, "rb"):
        teller = threading.Thread(target=tell)
        teller.start()
        assert train(PATIENT.format(then=then), signals, output=output) == code
        teller.join()
    assert [signal.Signals(number).name for number in signals] == received


@pytest.mark.parametrize("at_once", [1, 2])
def test_after_a_signal_no_job_begins(sweep_job, monkeypatch, at_once):
    def jobs():
        yield sweep_job
        signal.raise_signal(signal.SIGTERM)
        yield sweep_job
        yield sweep_job

    begun = []
    monkeypatch.setattr(sweep, "train", lambda *_, **__: begun.append("job") or 0)
    with pytest.raises(Stopped) as stopped:
        sweep.run_jobs(jobs(), at_once=at_once)
    assert stopped.value.args == (signal.SIGTERM,)
    assert begun == ["job"]


@pytest.mark.parametrize(
    ("received", "code", "queued"),
    [
        ("SIGTERM", 143, True),
        ("SIGUSR2", 143, True),
        ("SIGINT", 143, False),  # Its command stops it.
        ("SIGTERM", 0, False),
        ("SIGTERM", 1, False),
    ],
)
def test_a_task_that_was_told_to_stop_is_queued_again(worker, monkeypatch, received, code, queued):
    def train(_, signals):
        signal.raise_signal(signal.Signals[received])
        return code

    queue = []
    signal.signal(signal.SIGUSR2, lambda *_: queue.append("requeue"))  # As submitit does.
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    monkeypatch.setattr(job.HydraConfig, "get", lambda: None)
    monkeypatch.setattr(job, "make_job", lambda *_: worker(""))
    monkeypatch.setattr(job, "train", train)
    assert job.run_job(None) == code
    assert queue == ["requeue"] * queued

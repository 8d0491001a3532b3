"""What the command makes of its arguments, of devices, and of signals that come late."""

import io
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from moex import launch
from moex.config import Config
from moex.launch import devices, job, signals, sweep
from moex.reporting import sweeps

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = str(CONFIGS.parent / "experiments")


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1", "dataset=cifar100", "+experiment=digits_moex"],
        ["--multirun", "+experiment=glob(digits_*)"],
        ["-m", "model=choice(resnet20,resnet32)", "seed=range(3)"],
        ["-m", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "seed=0,1"],
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        [f"--config-dir={EXPERIMENTS}", "+study=normalisation", "epochs=3"],
        ["-m", "--config-dir", EXPERIMENTS, "+study=normalisation,weight", "model=resnet20"],
        ["--cfg", "job", "seed=1"],
        ["hydra.verbose=true", "+model.options.alpha=3", "~augmentation.cutout", "++epochs=3"],
    ],
    ids=" ".join,
)
def test_accepted(arguments):
    launch.check_overrides(arguments, CONFIGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=3"], "unknown key 'epoch': the nearest are epochs"),
        (["lr=3"], "the nearest are optimizer.lr"),
        (["-m", "model=resnet20,resnet21"], "there is no model 'resnet21': it must be one of densenet_bc_100"),
        (["experiment=digits_moex"], r"with a plus: \+experiment=digits_moex"),
        (["--config-dir", EXPERIMENTS, "+study=x"], "there is no study 'x': it must be one of components"),
        (["--config-dir", EXPERIMENTS, "+study=weight", "epohcs=3"], "unknown key 'epohcs': the nearest are epochs"),
        (["--config-dir=/nowhere", "model=mine"], "there is no folder /nowhere"),
        (["--multirun", "--cfg", "job", "seed=0,1"], "--cfg shows one run: leave --multirun out"),
        (["-m", "-c", "job"], "--cfg shows one run: leave --multirun out"),
        (["hydra.job.chdir=true"], "hydra.job.chdir: every path is seen from where"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(launch.OverrideError, match=message):
        launch.check_overrides(arguments, CONFIGS)


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


def test_a_run_goes_on_without_its_record(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(job, "_is_sweep", lambda: True)
    monkeypatch.setattr(job, "_job_folder", lambda: tmp_path)
    sweep._write(tmp_path / "job.json", sweeps.Record(["seed=1"], folder="seed1"))
    job._record(state="stopped")
    assert sweeps.read_job(tmp_path / "job.json").state == "stopped"
    (tmp_path / "job.json.tmp").mkdir()  # Where it would be written aside.
    job._record(state="finished")
    assert (
        capsys.readouterr().err == f"job {tmp_path.name}: error: cannot write {tmp_path}/job.json: Is a directory\n"
    )


def test_errors_of_jobs_side_by_side_are_told_apart(monkeypatch, tmp_path, capfdbinary):
    monkeypatch.setattr(job, "_job_folder", lambda: Path("3"))
    (tmp_path / "pipe").write_bytes(b"Traceback\nerror: no\n")
    with (tmp_path / "output.log").open("wb", buffering=0) as output:
        errors = job._Errors((tmp_path / "pipe").open("rb"), output)
        errors.join()
    assert capfdbinary.readouterr().err == b"job 3: Traceback\njob 3: error: no\n"
    assert (tmp_path / "output.log").read_bytes() == (tmp_path / "pipe").read_bytes()
    assert errors.last_line == "error: no"


def test_a_sweep_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "sweep" / "sweep.json").mkdir(parents=True)
    for folder in (tmp_path / "file" / "sweep", tmp_path / "sweep"):
        with pytest.raises(sweep.LaunchError, match=f"cannot write {folder}"), sweep.open_sweep([], folder):
            pass


def test_a_run_is_trained_once(tmp_path, capsys):
    composed = [OmegaConf.structured(Config(seed=seed)) for seed in (0, 1, 0)]
    records = sweep.new_records(
        [[str(number)] for number in range(3)], tmp_path, compose=lambda job: composed[int(*job)]
    )
    assert [record.state for record in records] == ["waiting", "waiting", "failed"]
    assert capsys.readouterr().err.startswith("error: job 2: the same run as job 0: ")


@pytest.mark.parametrize(
    ("runtime", "gpus", "share"),
    [
        ({"device": "auto", "devices": None}, 4, {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ({"device": "cuda", "devices": 3}, 4, {"CUDA_VISIBLE_DEVICES": "0,1,2"}),
        ({"device": "cuda", "devices": None}, 1, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"device": "cpu", "devices": None}, 4, {}),
        ({"device": "auto", "devices": None}, 0, {}),
    ],
)
def test_a_job_is_told_its_devices(monkeypatch, tmp_path, runtime, gpus, share):
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(job, "visible_devices", lambda: [str(index) for index in range(gpus)])
    monkeypatch.setattr(job, "_job_folder", lambda: Path("3"))
    monkeypatch.setattr(job.HydraConfig, "get", lambda: OmegaConf.create({"launcher": {"n_jobs": 2}}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with job._own_devices(OmegaConf.create({"runtime": runtime})) as environment:
        assert environment == share
    assert bool(list(tmp_path.iterdir())) == bool(share)  # Without a GPU there is nothing to lease.


class Worker:
    """Finishes its work although it was told to stop meanwhile."""

    pid = 1

    def __init__(self, received):
        self.stdin, self.told, self.received = io.BytesIO(), [], received
        self.stderr = Path(os.devnull).open("rb")  # noqa: SIM115

    def send_signal(self, number):
        self.told.append(number)

    def wait(self):
        for number in self.received:
            signal.raise_signal(number)
        return 0


@pytest.fixture
def told(monkeypatch):
    """A process that no signal has reached, with the handlers of a command."""
    told = signals.Told()
    monkeypatch.setattr(job, "told", told)
    monkeypatch.setattr(job, "_job_command", lambda: "python train.py")
    monkeypatch.setattr(job, "_record", lambda **_: None)
    monkeypatch.setattr(job, "_job_folder", lambda: Path("3"))
    monkeypatch.setattr(job, "_overrides", lambda: ["seed=1"])
    monkeypatch.setattr(job, "exit_codes", [])
    told.listen_as_command()
    yield told
    for number, handler in told.former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("is_sweep", [False, True])
def test_a_signal_while_a_job_ends_stops_the_sweep_around_it(monkeypatch, told, is_sweep):
    worker = Worker([signal.SIGINT])
    monkeypatch.setattr(job.subprocess, "Popen", lambda *_, **__: worker)
    monkeypatch.setattr(job, "_is_sweep", lambda: is_sweep)
    if is_sweep:
        with pytest.raises(KeyboardInterrupt):
            launch.run_job(OmegaConf.create())
    else:
        assert launch.run_job(OmegaConf.create()) == 0
        assert job.exit_codes == [0]
    assert worker.told == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("received", "killed"),
    [
        (["SIGINT", "SIGINT"], True),
        (["SIGTERM", "SIGINT"], True),
        (["SIGUSR1", "SIGTERM"], False),
        (["SIGUSR2", "SIGUSR1", "SIGTERM"], False),
        (["SIGUSR1", "SIGTERM", "SIGTERM"], True),
    ],
)
def test_a_second_signal_ends_at_once_but_a_warning_does_not_count(monkeypatch, told, received, killed):
    worker = Worker([signal.Signals[name] for name in received])
    monkeypatch.setattr(job.subprocess, "Popen", lambda *_, **__: worker)
    monkeypatch.setattr(job, "_is_sweep", lambda: False)
    launch.run_job(OmegaConf.create())
    *first, last = worker.told
    assert set(first) == {signal.SIGTERM}
    assert last == (signal.SIGKILL if killed else signal.SIGTERM)

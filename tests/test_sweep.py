"""Sweeps as their users meet them: real processes side by side, real signals, submitit, and a sham SLURM."""

import json
import os
import shutil
import signal
import time

import noise
import psutil
import pytest
from program import assert_gone, end, start, wait_for

from moex.reporting import sweeps

QUICK = ("--multirun", "dataset.target=noise.Noise", "epochs=20")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.fixture
def slow(tmp_path):
    """A file: as long as it is there, runs are slow enough to be caught."""
    (tmp_path / noise.SLOW).touch()
    return tmp_path / noise.SLOW


def sweep_of(root):
    (folder,) = (root / "outputs" / "multirun").iterdir()
    return folder


def states(root):
    return [job.state for job in sweeps.read_jobs(sweep_of(root))]


def sessions(folder):
    return len(json.loads((folder / "result.json").read_text())["sessions"])


def test_jobs_side_by_side(tmp_path, here, slow):
    """A failed job lets the others run; signals and kills leave no process behind; then only the rest is run."""
    command = (*QUICK, *JOBLIB, "augmentation.moex.layer=stem,stage1,nowhere")

    def both_have_saved():
        return len(list(tmp_path.rglob("last.pt"))) == 2

    process = start(*command, cwd=tmp_path)
    wait_for(both_have_saved, process)
    assert states(tmp_path) == ["running", "running", "waiting"]
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # As Ctrl-C on a terminal.
    code, printed = end(process)
    assert code == 128 + signal.SIGINT, printed
    assert printed.count("the same command continues: python") == 1
    assert_gone(family)
    assert states(tmp_path) == ["stopped", "stopped", "waiting"]

    process = start(*command, cwd=tmp_path)
    wait_for(lambda: states(tmp_path)[:2] == ["running", "running"], process)
    code, printed = here(*command)
    assert code == 1
    assert "another command runs this sweep" in printed
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert_gone(family)
    assert states(tmp_path) == ["lost", "lost", "waiting"]

    slow.unlink()
    code, printed = end(start(*command, cwd=tmp_path))
    assert code == 1
    assert states(tmp_path) == ["finished", "finished", "failed"]
    assert sweeps.read_jobs(sweep_of(tmp_path))[2].message.startswith("no layer 'nowhere' in ResNet")
    assert printed.count("job 2: error: no layer 'nowhere'") == 1
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(results) == 2
    assert all(sessions(path.parent) >= 2 for path in results)
    assert "continuing" in (sweep_of(tmp_path) / "0" / "output.log").read_text()
    for path in results:
        assert json.loads(path.read_text())["command"].startswith("python train.py dataset.target=noise.Noise ")

    # Another launcher finds the same sweep, and the one job that is left.
    code, printed = here(*QUICK, "augmentation.moex.layer=stem,stage1,nowhere")
    assert code == 1
    assert "3 jobs: 2 finished, 1 waiting" in printed
    assert printed.count("no layer 'nowhere'") == 1
    assert results == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}


def test_sigterm_starts_no_further_job_and_a_second_signal_ends_all_at_once(tmp_path, slow):
    process = start(*QUICK, *JOBLIB, "seed=0,1,2,3", cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.rglob("last.pt"))) == 2, process)
    process.terminate()
    code, printed = end(process)
    assert code == 128 + signal.SIGTERM, printed
    assert states(tmp_path) == ["stopped", "stopped", "waiting", "waiting"]

    process = start(*QUICK, *JOBLIB, "seed=0,1,2,3", cwd=tmp_path)
    wait_for(lambda: states(tmp_path).count("running") == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    for member in family:
        member.suspend()  # It cannot save.
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert end(process)[0] == 128 + signal.SIGTERM
    assert_gone(family)
    assert states(tmp_path) == ["lost", "lost", "waiting", "waiting"]


def test_an_impossible_job_fails_before_the_others_begin_and_a_failed_one_lets_them_run(tmp_path, here):
    code, printed = here("--multirun", "augmentation.moex.layer=nowhere,stem", "epochs=0,1", QUICK[1])
    assert code == 1
    assert "4 jobs: 2 failed, 2 waiting" in printed
    *_, first, second = printed.splitlines()
    assert first == "error: jobs 0, 2: epochs is 0: it must be 1 or more"
    assert second.startswith("error: no layer 'nowhere' in ResNet")
    assert states(tmp_path) == ["failed", "failed", "failed", "finished"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["+experiment=imagenet_resnet50_baseline,imagenet_resnet50_moex", "dataset.format=folder"],
        ["schedule=step,plateau", "schedule.factor=0.5"],
    ],
)
def test_a_key_that_the_swept_choices_have_fits_them(tmp_path, here, overrides):
    """Though the choices without the sweep lack it; so the number of jobs at once is all that is wrong."""
    code, printed = here("-m", *overrides, "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert code == 1
    assert printed.startswith("error: hydra.launcher.n_jobs is 0: it must be 1 or more")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_sweep_one_after_the_other_stops_at_a_signal(tmp_path, slow, number):
    process = start(*QUICK, "seed=0,1", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.rglob("last.pt")), process)
    process.send_signal(number)
    code, printed = end(process)
    assert code == 128 + number, printed
    assert printed.count("the same command continues: python") == 1
    assert states(tmp_path) == ["stopped", "waiting"]


def worker_of(root):
    """The process that trains the first job, once that has saved; its parent is submitit's task."""
    record = next(root.glob("outputs/multirun/*/0/job.json"), None)
    saved = next(root.glob("outputs/*/seed0/checkpoints/last.pt"), None)
    if record is None or saved is None or saved.stat().st_mtime <= record.stat().st_mtime:
        return None
    content = json.loads(record.read_text())
    running = content["state"] == "running" and psutil.pid_exists(content["pid"])
    return psutil.Process(content["pid"]) if running else None


def test_submitit_runs_jobs_on_this_machine(tmp_path, slow):
    """A killed job is lost, the command stops what it runs, and a job that was told to stop is queued again."""
    command = (*QUICK, "hydra/launcher=submitit_local", "seed=0")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(slow, elsewhere)
    lost = start(*command, cwd=elsewhere)
    wait_for(lambda: worker_of(elsewhere), lost).parent().kill()  # For 15 s submitit believes that it goes on.

    process = start(*command, cwd=tmp_path)
    wait_for(lambda: worker_of(tmp_path), process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    code, printed = end(process)
    assert code == 128 + signal.SIGTERM, printed
    assert "goes on" not in printed
    assert_gone(family)
    assert states(tmp_path) == ["stopped"]

    process = start(*command, cwd=tmp_path)
    task = wait_for(lambda: worker_of(tmp_path), process).parent()
    for number in (signal.SIGUSR1, signal.SIGTERM):  # SLURM repeats itself.
        task.send_signal(number)
    slow.unlink()
    code, printed = end(process)
    assert code == 0, printed
    assert states(tmp_path) == ["finished"]
    (run,) = tmp_path.glob("outputs/*/seed0")
    assert sessions(run) == 3

    code, printed = end(lost)
    assert code == 1
    assert "has not produced any output" in printed
    assert printed.endswith("; 1 job: 1 lost\n")


SLURM = {
    # Keeps what was submitted, and runs it at once.
    "sbatch": 'cp "$1" $SHAM/$JOB.sh; SLURM_JOB_ID=$JOB bash "$1" >> $SHAM/log 2>&1 & echo Submitted batch job $JOB',
    "srun": 'while [ "${1#--}" != "$1" ]; do case "$1" in *=*|--unbuffered) shift;; *) shift 2;; esac; done; "$@"',
    "scontrol": 'echo "$@" >> $SHAM/requeued; SLURM_JOB_ID=$JOB bash $SHAM/$JOB.sh >> $SHAM/log 2>&1 &',
    "sacct": 'printf "JobID|State|NodeList\\n$JOB|RUNNING|here\\n"',
}


def test_slurm_keeps_its_jobs_when_the_command_is_stopped_and_requeues_them(tmp_path, here, slow):
    sham = tmp_path / "sham"
    sham.mkdir()
    for name, script in SLURM.items():
        (sham / name).write_text(f"#!/bin/sh\n{script}\n")
        (sham / name).chmod(0o755)
    options = ("partition=gpu", "timeout_min=30", "gpus_per_node=2", "signal_delay_s=60")
    command = (*QUICK, "seed=0", "hydra/launcher=slurm", *(f"hydra.launcher.{option}" for option in options))
    environment = {"PATH": f"{sham}{os.pathsep}{os.environ['PATH']}", "SHAM": str(sham), "JOB": "6"}

    (sham / "scontrol").write_text("#!/bin/sh\nexit 1\n")  # It may not be queued again, and saves all the same.
    process = start(*command, cwd=tmp_path, **environment)
    wait_for(lambda: worker_of(tmp_path), process).parent().send_signal(signal.SIGTERM)
    code, printed = end(process)
    assert code == 1
    assert "error: Command '['scontrol', 'requeue', '6']' returned" in printed
    assert states(tmp_path) == ["stopped"]

    (sham / "scontrol").write_text(f"#!/bin/sh\n{SLURM['scontrol']}\n")
    environment["JOB"] = "7"
    process = start(*command, cwd=tmp_path, **environment)
    worker = wait_for(lambda: worker_of(tmp_path), process)
    process.send_signal(signal.SIGINT)
    code, printed = end(process)
    assert code == 128 + signal.SIGINT
    assert "what was submitted goes on" in printed
    worker.suspend()  # Until a second command has seen it.
    code, printed = here(*command)
    assert code == 0
    assert printed.startswith("1 job: 1 running; python scripts/sweep.py status outputs/multirun/")
    slow.unlink()
    worker.resume()
    worker.parent().send_signal(signal.SIGUSR2)
    while states(tmp_path) != ["finished"]:
        assert "Traceback" not in (sham / "log").read_text()
        time.sleep(0.1)
    submitted = (sham / "7.sh").read_text().splitlines()
    for line in (
        "partition=gpu",
        "time=30",
        "gpus-per-node=2",
        "ntasks-per-node=1",
        "cpus-per-task=16",
        "signal=USR2@60",
        "requeue",
    ):
        assert f"#SBATCH --{line}" in submitted
    assert (sham / "requeued").read_text() == "requeue 7\n"
    (run,) = tmp_path.rglob("result.json")
    assert sessions(run.parent) == 3


def test_without_slurm_a_line_says_so(tmp_path, monkeypatch, here):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    code, printed = here(*QUICK, "seed=0", "hydra/launcher=slurm")
    assert code == 1
    assert 'error: Could not detect "srun"' in printed
    assert states(tmp_path) == ["waiting"]

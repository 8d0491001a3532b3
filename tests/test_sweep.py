"""Sweeps as their users meet them: real processes side by side, real signals, a real launcher, and a sham SLURM."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moex.reporting import sweeps

REPOSITORY = Path(__file__).parents[1]
# A step an epoch: long enough to be caught, short enough to be waited for.
QUICK = ("epochs=200", "limit_train=64", "limit_test=64", "checkpoint.every_minutes=null")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def start(*overrides, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "--multirun", *overrides],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
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


def wait_for(condition, process):
    """What the condition gives, once it gives something."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return found


def sweep_of(root):
    (folder,) = (root / "outputs" / "multirun").iterdir()
    return folder


def states(root):
    return [job.state for job in sweeps.read_jobs(sweep_of(root))]


def sessions(folder):
    return len(json.loads((folder / "result.json").read_text())["sessions"])


def test_jobs_side_by_side(tmp_path):
    """A failed job lets the others run; signals and kills leave no process behind; then only the rest is run."""
    command = (*QUICK, *JOBLIB, "augmentation.moex.layer=stem,stage1,nowhere")

    def both_have_saved():
        return len(list(tmp_path.rglob("last.pt"))) == 2

    process = start(*command, cwd=tmp_path)
    wait_for(both_have_saved, process)
    assert states(tmp_path) == ["running", "running", "waiting"]
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches joblib's processes as well.
    code, printed = end(process)
    assert code == 128 + signal.SIGINT, printed
    assert printed.count("the same command continues: python") == 1
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert states(tmp_path) == ["stopped", "stopped", "waiting"]

    process = start(*command, cwd=tmp_path)
    wait_for(lambda: states(tmp_path)[:2] == ["running", "running"], process)
    code, printed = end(start(*command, cwd=tmp_path))
    assert code == 1
    assert "another command runs this sweep" in printed
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(family, timeout=20)[1]
    process.communicate()
    assert states(tmp_path) == ["lost", "lost", "waiting"]

    code, printed = end(start(*command, cwd=tmp_path))
    assert code == 1
    assert states(tmp_path) == ["finished", "finished", "failed"]
    assert sweeps.read_jobs(sweep_of(tmp_path))[2].message.startswith("no layer 'nowhere' in ResNet")
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(results) == 2
    assert all(sessions(path.parent) >= 2 for path in results)
    assert "continuing" in (sweep_of(tmp_path) / "0" / "output.log").read_text()
    for path in results:
        assert json.loads(path.read_text())["command"].startswith("python train.py epochs=200 limit_train=64")

    # Another launcher finds the same sweep, and the one job that is left.
    code, printed = end(start(*QUICK, "augmentation.moex.layer=stem,stage1,nowhere", cwd=tmp_path))
    assert code == 1
    assert "3 jobs: 2 finished, 1 waiting" in printed
    assert printed.count("no layer 'nowhere'") == 1
    assert results == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}


def test_sigterm_starts_no_further_job_and_a_second_signal_ends_at_once(tmp_path):
    process = start("epochs=5000", *QUICK[1:], *JOBLIB, "seed=0,1,2,3", cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.rglob("last.pt"))) == 2, process)
    process.terminate()
    code, printed = end(process)
    assert code == 128 + signal.SIGTERM, printed
    assert sorted(states(tmp_path)) == ["stopped", "stopped", "waiting", "waiting"]

    process = start("epochs=5000", *QUICK[1:], *JOBLIB, "seed=0,1,2,3", cwd=tmp_path)
    wait_for(lambda: states(tmp_path).count("running") == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    for member in family:
        if "moex.run" in member.cmdline():
            member.suspend()  # It cannot save.
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert end(process)[0] == 128 + signal.SIGTERM
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_an_impossible_job_fails_before_the_others_begin(tmp_path):
    code, printed = end(start("epochs=0,1", *QUICK[1:], cwd=tmp_path))
    assert code == 1
    assert "error: job 0: epochs is 0" in printed
    assert states(tmp_path) == ["failed", "finished"]


def test_where_all_jobs_are_impossible_nothing_is_created(tmp_path):
    code, printed = end(start("epochs=0", "seed=0,1", cwd=tmp_path))
    assert code == 1
    assert printed.splitlines() == [f"error: job {number}: epochs is 0: it must be 1 or more" for number in (0, 1)]
    assert list(tmp_path.iterdir()) == []


def task_of(root, seed):
    """The process of submitit's that waits for the run of a seed, once that has saved."""
    record = sweep_of(root) / str(seed) / "job.json" if (root / "outputs" / "multirun").exists() else None
    if record is None or not list(root.rglob(f"seed{seed}/checkpoints/last.pt")):
        return None
    content = json.loads(record.read_text())
    return psutil.Process(content["pid"]).parent() if content["state"] == "running" else None


def test_submitit_requeues_a_job_that_was_told_to_stop(tmp_path):
    process = start(*QUICK, "hydra/launcher=submitit_local", "seed=0,1", cwd=tmp_path)
    # SLURM repeats itself.
    pending = {0: (signal.SIGTERM,), 1: (signal.SIGUSR1, signal.SIGTERM)}

    def all_are_told():
        for seed in list(pending):
            if task := task_of(tmp_path, seed):
                for number in pending.pop(seed):
                    task.send_signal(number)
        return not pending

    wait_for(all_are_told, process)
    code, printed = end(process)
    assert code == 0, printed
    assert states(tmp_path) == ["finished", "finished"]
    assert [sessions(path) for path in sorted(tmp_path.rglob("seed[01]"))] == [2, 2]


def test_the_command_stops_what_submitit_runs_on_this_machine(tmp_path):
    process = start("epochs=5000", *QUICK[1:], "hydra/launcher=submitit_local", "seed=0,1", cwd=tmp_path)
    for seed in (0, 1):
        wait_for(lambda seed=seed: task_of(tmp_path, seed), process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    code, printed = end(process)
    assert code == 128 + signal.SIGTERM, printed
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert states(tmp_path) == ["stopped", "stopped"]


def test_a_job_that_is_killed_lets_the_others_end(tmp_path):
    process = start(*QUICK, "hydra/launcher=submitit_local", "seed=0,1", cwd=tmp_path)
    wait_for(lambda: task_of(tmp_path, 0), process).kill()
    code, printed = end(process)
    assert code == 1
    assert "has not produced any output" in printed
    assert printed.endswith("; 2 jobs: 1 finished, 1 lost\n")


SLURM = {
    # Keeps what was submitted, and runs it at once.
    "sbatch": 'cp "$1" $SHAM/submission.sh; SLURM_JOB_ID=7 bash "$1" >> $SHAM/log 2>&1 & echo Submitted batch job 7',
    "srun": 'while [ "${1#--}" != "$1" ]; do case "$1" in *=*|--unbuffered) shift;; *) shift 2;; esac; done; "$@"',
    "scontrol": 'echo "$@" >> $SHAM/requeued; SLURM_JOB_ID=7 bash $SHAM/submission.sh >> $SHAM/log 2>&1 &',
    "sacct": 'printf "JobID|State|NodeList\\n7|RUNNING|here\\n"',
}


def sham_slurm(root):
    """The environment in which its commands are found; they keep in `sham` what they were asked."""
    sham = root / "sham"
    sham.mkdir()
    for name, script in SLURM.items():
        (sham / name).write_text(f"#!/bin/sh\n{script}\n")
        (sham / name).chmod(0o755)
    return {"PATH": f"{sham}{os.pathsep}{os.environ['PATH']}", "SHAM": str(sham)}


def test_slurm_gets_what_was_asked_for_and_requeues(tmp_path):
    sham = tmp_path / "sham"
    options = ("partition=gpu", "timeout_min=30", "gpus_per_node=2", "signal_delay_s=60")
    process = start(
        *QUICK,
        "seed=0",
        "hydra/launcher=slurm",
        *(f"hydra.launcher.{option}" for option in options),
        cwd=tmp_path,
        **sham_slurm(tmp_path),
    )
    task = wait_for(lambda: task_of(tmp_path, 0), process)
    submitted = (sham / "submission.sh").read_text().splitlines()
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
    task.send_signal(signal.SIGUSR2)
    code, printed = end(process)
    assert code == 0, (printed, (sham / "log").read_text())
    assert (sham / "requeued").read_text() == "requeue 7\n"
    assert states(tmp_path) == ["finished"]
    (run,) = tmp_path.rglob("result.json")
    assert sessions(run.parent) == 2


def test_slurm_keeps_its_jobs_when_the_command_is_stopped(tmp_path):
    command = ("epochs=5000", *QUICK[1:], "seed=0", "hydra/launcher=slurm")
    environment = sham_slurm(tmp_path)
    process = start(*command, cwd=tmp_path, **environment)
    task = wait_for(lambda: task_of(tmp_path, 0), process)
    process.send_signal(signal.SIGINT)
    code, printed = end(process)
    assert code == 128 + signal.SIGINT
    assert "the jobs that SLURM has go on" in printed
    code, printed = end(start(*command, cwd=tmp_path, **environment))
    assert code == 0
    assert printed.startswith(f"1 job: 1 running; python {REPOSITORY}/scripts/sweep.py status outputs/multirun/")
    # A job that must not be requeued saves all the same.
    (tmp_path / "sham" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    task.send_signal(signal.SIGTERM)
    task.wait(timeout=60)
    (job,) = sweeps.read_jobs(sweep_of(tmp_path))
    assert job.state == "stopped"
    assert job.message.startswith("not requeued: Command '['scontrol', 'requeue', '7']'")


def test_without_slurm_a_line_says_so(tmp_path):
    code, printed = end(start(*QUICK, "seed=0", "hydra/launcher=slurm", cwd=tmp_path, PATH="/usr/bin:/bin"))
    assert code == 1
    assert 'error: Could not detect "srun"' in printed
    assert states(tmp_path) == ["waiting"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_sweep_one_after_the_other_stops_at_a_signal(tmp_path, number):
    process = start("epochs=5000", *QUICK[1:], "seed=0,1", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.rglob("last.pt")), process)
    process.send_signal(number)
    code, printed = end(process)
    assert code == 128 + number, printed
    assert printed.count("the same command continues: python") == 1
    assert states(tmp_path) == ["stopped", "waiting"]

"""The command, as its users meet it: real processes, real kills, real exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

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


def predictions(folder):
    with np.load(folder / "predictions.npz") as arrays:
        return dict(arrays)


def content(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_and_its_second_start(tmp_path, read_tensorboard, read_wandb, wandb_history):
    code, printed = run(*QUICK, "logger=both", "name=first", cwd=tmp_path)
    assert code == 0, printed
    (folder,) = folders(tmp_path)
    assert folder.parts[-4:-2] == ("outputs", "first")
    assert folder.name == "seed0"
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]

    result = json.loads((folder / "result.json").read_text())
    assert {"name", "config", "seed", "epochs", "images_per_second", "seconds", "device", "world_size"} <= set(result)
    assert result["command"] == "python train.py epochs=2 limit_train=200 limit_test=100 logger=both name=first"
    assert {"precision", "versions", "commit", "dirty", "parameters", "start", "end"} <= set(result)
    table = pd.read_csv(folder / "metrics.csv")
    assert table["epoch"].tolist() == [1, 2]
    arrays = predictions(folder)
    assert arrays["logits"].shape == (100, 10)
    error = (arrays["logits"].argmax(1) != arrays["labels"]).mean()
    assert result["last"]["error"] == pytest.approx(error)
    assert table["test_error"].iloc[-1] == pytest.approx(error)
    assert result["best"]["error"] == pytest.approx(table["test_error"].min())
    assert result["parameters"] == 75290 - 2 * 9 * 16  # One input channel instead of three.
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    assert sum(value.numel() for key, value in best["model"].items() if "running" not in key) >= result["parameters"]
    for name in ("learning_curves", "reliability", "response_rate"):
        figure = folder / "figures" / f"{name}.png"
        assert figure.stat().st_size > 10_000
        assert str(figure.relative_to(tmp_path)) in printed

    events = read_tensorboard(folder)
    logged = [event.value for event in events.Scalars("epoch/test_error")]
    assert logged == pytest.approx(table["test_error"].tolist())
    assert [event.value for event in events.Scalars("last/error")] == pytest.approx([error])
    sessions = read_wandb(folder)
    assert [value for _, value in wandb_history(sessions)["epoch/test_error"]] == table["test_error"].tolist()
    assert sessions[0][-1].HasField("exit")

    before = content(folder)
    code, printed = run(*QUICK, "name=first", cwd=tmp_path)
    assert code == 0
    assert "nothing is left to train" in printed
    assert content(folder) == before


STEPS = ("epochs=10", "batch_size=16", "augmentation=cutmix_moex", "checkpoint.every_steps=7", "seed=4")


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


def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path, read_tensorboard):
    code, printed = run(*STEPS, "name=unbroken", cwd=tmp_path)
    assert code == 0, printed
    root = tmp_path / "outputs" / "broken"
    command = (*STEPS, "name=broken", "logger=tensorboard", "logger.every_steps=5")

    for saves in (2, 5):  # The worker is killed: the parent says so.
        process = start(*command, cwd=tmp_path)
        wait_for_save(process, root, saves=saves).kill()
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGKILL
        assert "the worker was ended by SIGKILL; the same command continues" in printed

    process = start(*command, cwd=tmp_path)  # The parent is killed: the worker goes too.
    worker = wait_for_save(process, root, saves=3)
    process.kill()
    process.communicate(timeout=60)
    worker.wait(timeout=20)

    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(*command, cwd=tmp_path)
        wait_for_save(process, root, saves=3)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + number, printed
        assert "saved" in printed
        assert "the same command continues: python" in printed
        assert "Traceback" not in printed

    code, printed = run(*command, cwd=tmp_path)
    assert code == 0, printed
    assert "continuing" in printed
    broken, unbroken = folders(tmp_path)
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (broken, unbroken)
    )
    assert ours["model"].keys() == theirs["model"].keys()
    for key, value in ours["model"].items():
        assert torch.equal(value, theirs["model"][key]), key
    ours, theirs = (
        pd.read_csv(folder / "metrics.csv").drop(columns=["seconds", "images_per_second"])
        for folder in (broken, unbroken)
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for name in ("logits", "best_logits"):
        assert np.array_equal(np.load(broken / "predictions.npz")[name], np.load(unbroken / "predictions.npz")[name])
    result = json.loads((broken / "result.json").read_text())
    assert len(result["sessions"]) >= 5

    # TensorBoard has each row once.
    table, events = pd.read_csv(broken / "metrics.csv"), read_tensorboard(broken)
    assert [event.step for event in events.Scalars("step/loss")] == list(range(5, table["step"].iloc[-1] + 1, 5))
    for name in ("epoch", "train_loss", "test_error"):
        logged = [(event.step, event.value) for event in events.Scalars(f"epoch/{name}")]
        assert logged == [*zip(table["step"], np.float32(table[name]), strict=True)]


def test_a_second_signal_ends_at_once(tmp_path):
    process = start("epochs=500", "checkpoint.every_steps=5", cwd=tmp_path)
    worker = wait_for_save(process, tmp_path, saves=1)
    worker.suspend()  # It cannot finish its step.
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


MISTAKES = {
    "misspelt key": (["epoch=3"], r"unknown key 'epoch': the nearest are epochs"),
    "misspelt key with a plus": (["+model.nam=x"], r"unknown key 'model.nam'"),
    "wrong type": (["epochs=many"], r"epochs: Value 'many'"),
    "wrong value": (["augmentation.moex.probability=1.5"], r"must be in [0, 1]"),
    "no such choice": (["dataset=cifar11"], r"no dataset 'cifar11': it must be one of cifar10, cifar100, digits"),
    "no such experiment": (
        ["+experiment=nothing"],
        r"no experiment 'nothing': it must be one of cifar100_densenet_bc_100_baseline",
    ),
    "no such choice in a sweep": (["-m", "seed=0,1", "model=resnet20,resnet21"], r"no model 'resnet21'"),
    "a sweep without its flag": (["seed=0,1"], r"add --multirun"),
    "not an override": (["epochs"], r"cannot read 'epochs': an override is KEY=VALUE"),
    "an open bracket": (["schedule.milestones=[0.5"], r"cannot read 'schedule.milestones=[0.5'"),
    "no such option": (["model.options.width=3"], r"use +model.options.width=3"),
    "experiment without its plus": (["experiment=digits_moex"], r"+experiment=digits_moex"),
    "no such network": (["model.name=resnet21"], r"6n+2, such as 20 or 26"),
    "no such point": (["augmentation.moex.layer=stm"], r"did you mean stem"),
    "no data": (["dataset=cifar100", "dataset.root=nowhere"], r"dataset.download=true"),
    "no folder can be made": (["output_root=/proc/nowhere"], r"/proc/nowhere"),
}


@pytest.mark.parametrize(("overrides", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_a_short_answer_and_creates_nothing(tmp_path, overrides, message):
    code, printed = run(*overrides, cwd=tmp_path)
    assert code == 1, printed
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_explodes(tmp_path):
    code, printed = run(*QUICK, "optimizer.lr=1e20", "schedule=step", cwd=tmp_path)
    assert code == 1
    assert "is not finite at epoch 1, step" in printed
    assert "learning rate 1e+20" in printed
    assert "Last good checkpoint: none" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("result.json"))


def test_a_damaged_checkpoint(tmp_path):
    process = start("epochs=500", "checkpoint.every_steps=5", cwd=tmp_path)
    wait_for_save(process, tmp_path, saves=4)
    process.terminate()
    process.communicate(timeout=60)
    (last,) = tmp_path.rglob("last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    process = start("epochs=500", "checkpoint.every_steps=5", cwd=tmp_path)
    wait_for_save(process, tmp_path, saves=1)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert "last.pt is damaged" in printed
    assert "continuing" in printed


def test_a_sweep_goes_on_after_a_failed_job(tmp_path):
    code, printed = run(
        "--multirun",
        "+experiment=digits_baseline,digits_moex",
        "seed=0,1",
        "augmentation.moex.layer=stem,nowhere",
        *QUICK,
        cwd=tmp_path,
    )
    assert code == 1
    assert printed.count("no layer 'nowhere'") == 2
    names = sorted({folder.parents[1].name for folder in folders(tmp_path) if (folder / "result.json").exists()})
    assert names == ["digits_baseline", "digits_moex"]
    assert len(list(tmp_path.rglob("result.json"))) == 6


def test_help_explains_the_groups(tmp_path):
    code, printed = run("--help", cwd=tmp_path)
    assert code == 0
    for word in ("cifar100_pyramidnet_moex", "augmentation: cutmix, cutmix_moex", "+experiment=NAME", "--multirun"):
        assert word in printed

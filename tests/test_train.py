"""The command, as its users meet it: real processes, real kills, real exit codes."""

import json
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from program import QUICK, end, folders, run, start, wait_for_save


def predictions(folder):
    with np.load(folder / "predictions.npz") as arrays:
        return dict(arrays)


def content(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, with both loggers: where it ran, and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    code, printed = run(*QUICK, "logger=both", "name=first", "seed=2", cwd=root)
    assert code == 0, printed
    return root, printed


def test_what_a_run_leaves(finished, read_tensorboard, read_wandb):
    root, printed = finished
    (folder,) = folders(root)
    assert folder.name == "seed2"
    assert [path.name for path in root.iterdir()] == ["outputs"]

    result = json.loads((folder / "result.json").read_text())
    assert {"name", "config", "seed", "epochs", "images_per_second", "seconds", "device", "world_size"} <= set(result)
    assert result["command"] == f"python train.py {' '.join(QUICK)} logger=both name=first seed=2"
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
        assert str(figure.relative_to(root)) in printed

    events = read_tensorboard(folder)
    logged = [event.value for event in events.Scalars("epoch/test_error")]
    assert logged == pytest.approx(table["test_error"].tolist())
    assert [event.value for event in events.Scalars("last/error")] == pytest.approx([error])
    assert read_wandb(folder, "epoch/test_error") == table["test_error"].tolist()


def test_the_same_command_trains_a_finished_run_no_further(finished, here):
    root, _ = finished
    before = content(root)
    code, printed = here(*QUICK, "name=first", "seed=2", f"output_root={root / 'outputs'}")
    assert code == 0
    assert "nothing is left to train" in printed
    assert content(root) == before


# Four saves an epoch: often enough to be caught between two, and soon over.
STEPS = (
    "epochs=10", "batch_size=16", "limit_train=448", "limit_test=100", "augmentation=cutmix_moex",
    "checkpoint.every_steps=7", "seed=4",
)  # fmt: skip


def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path, here, read_tensorboard):
    """Killed three times, stopped twice, and once with a damaged checkpoint."""
    code, printed = here(*STEPS, "output_root=unbroken")
    assert code == 0, printed
    root = tmp_path / "broken"
    command = (*STEPS, "output_root=broken", "logger=tensorboard", "logger.every_steps=5")

    for saves in (2, 5):  # The worker is killed: the command says so.
        process = start(*command, cwd=tmp_path)
        wait_for_save(process, root, saves=saves).kill()
        code, printed = end(process)
        assert code == 128 + signal.SIGKILL
        assert "the worker was ended by SIGKILL; the same command continues" in printed

    process = start(*command, cwd=tmp_path)  # The command is killed: the worker goes too.
    worker = wait_for_save(process, root, saves=3)
    process.kill()
    process.communicate(timeout=60)
    worker.wait(timeout=20)

    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(*command, cwd=tmp_path)
        wait_for_save(process, root, saves=3)
        process.send_signal(number)
        code, printed = end(process)
        assert code == 128 + number, printed
        assert "saved" in printed
        assert "the same command continues: python" in printed

    (last,) = root.rglob("last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    code, printed = here(*command)
    assert code == 0, printed
    assert "last.pt is damaged" in printed
    assert "continuing" in printed
    broken, unbroken = folders(root)[0], folders(tmp_path / "unbroken")[0]
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
    assert [event.step for event in events.Scalars("step/loss")] == [1, *range(5, table["step"].iloc[-1] + 1, 5)]
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


def test_a_loss_that_explodes(tmp_path, here):
    code, printed = here(*QUICK, "optimizer.lr=1e20", "schedule=step")
    assert code == 1
    assert "is not finite at epoch 1, step" in printed
    assert "learning rate 1e+20" in printed
    assert "Last good checkpoint: none" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("result.json"))


def test_help_explains_the_groups(here):
    code, printed = here("--help")
    assert code == 0
    for word in ("cifar100_pyramidnet_moex", "augmentation: cutmix, cutmix_moex", "+experiment=NAME", "--multirun"):
        assert word in printed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, with room for two checkpoints and not for three, and what makes it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=1100k"):
        pytest.skip("only root can mount a small file system")
    yield disk, lambda: mount("remount", "size=20m")
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing(small_disk, finished, here):
    disk, enlarge = small_disk
    command = (*QUICK, "seed=2")
    code, printed = here(*command, f"output_root={disk}")
    assert code == 1, printed
    *_, error, advice = printed.splitlines()
    last = next(disk.rglob("last.pt"))
    assert error == f"error: cannot write {last.with_name('best.pt')}: No space left on device"
    assert advice == f"{last} is whole: once there is room, the same command continues from it"
    assert "Traceback" not in printed
    assert not list(disk.rglob("*.tmp"))

    assert enlarge()
    code, printed = here(*command, f"output_root={disk}")
    assert code == 0, printed
    assert "after epoch 1, step 0" in printed
    for name in ("logits", "best_logits"):
        ours, theirs = (predictions(folders(root)[0])[name] for root in (disk, finished[0]))
        assert np.array_equal(ours, theirs)

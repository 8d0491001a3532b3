"""The end of a run, also of one whose files have suffered."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.config import parse, run_folder
from moex.engine import evaluate
from moex.logging import Loggers
from moex.run.build import create_state, load_sets
from moex.run.folder import read_result
from moex.run.result import finish
from moex.run.training import train

CPU = torch.device("cpu")
NO_LOGGERS = Loggers({}, console=Console(quiet=True))


@pytest.fixture
def trained(reopen, tmp_path, request):
    """A run after its last epoch, before its end."""
    values = {"output_root": str(tmp_path), "limit_train": 128, "limit_test": 50, "epochs": 3}
    config = parse(values | getattr(request, "param", {}))
    sets = load_sets(config, CPU)
    state = create_state(config, sets, CPU)
    folder = run_folder(config)
    console = Console(record=True, width=300)
    reopen(state, folder, console)
    train(state, sets, config, folder, stop=threading.Event(), loggers=NO_LOGGERS, console=Console(quiet=True))
    return state, sets, config, folder, console


def end(trained):
    state, sets, config, folder, console = trained
    result = finish(state, sets, config, folder, console=console)
    assert read_result(folder) == json.loads(json.dumps(result))
    return result, folder, console.export_text()


def test_what_a_finished_run_leaves(trained):
    result, folder, printed = end(trained)
    table = pd.read_csv(folder / "metrics.csv")
    assert result["last"]["error"] == table["test_error"].iloc[-1]
    assert result["best"]["error"] == table["test_error"].min()
    assert result["best"]["epoch"] == 1 + table["test_error"].argmin()
    with np.load(folder / "predictions.npz") as arrays:
        for which, name in (("last", "logits"), ("best", "best_logits")):
            assert (arrays[name].argmax(1) != arrays["labels"]).mean() == pytest.approx(result[which]["error"])
    assert result["images_per_second"] == table["images_per_second"].median()
    assert printed == ""


@pytest.mark.parametrize("trained", [{"optimizer": {"ema_decay": 0.5}}], indirect=True)
def test_where_weights_are_averaged_the_average_is_what_is_scored(trained):
    state, sets = trained[:2]
    logits, _ = evaluate(state.average.model, sets.test, precision="fp32")
    weights, _ = evaluate(state.model, sets.test, precision="fp32")
    last = state.average.model.state_dict()["fc.weight"].clone()
    result, folder, _ = end(trained)
    assert result["recipe"]["optimizer.ema_decay"] == 0.5
    with np.load(folder / "predictions.npz") as arrays:
        assert np.array_equal(arrays["logits"], logits.numpy())
        assert not np.array_equal(arrays["logits"], weights.numpy())
        assert (arrays["best_logits"].argmax(1) != arrays["labels"]).mean() == pytest.approx(result["best"]["error"])
    saved = checkpoint.read(folder / "checkpoints" / "last.pt")
    assert torch.equal(saved["average"]["fc.weight"], last)
    assert torch.equal(saved["model"]["fc.weight"], state.model.fc.weight)


@pytest.mark.parametrize("left", [None, 2])
def test_killed_between_the_last_checkpoint_and_its_row(trained, left):
    folder = trained[3]
    path = folder / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    if left is not None:
        path.write_text("".join(lines[: left + 1]))
    end(trained)
    assert path.read_text() == "".join(lines)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def of_another_epoch(path):
    best = checkpoint.read(path)
    checkpoint.save_best(path.parent, best | {"epoch": 77})


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "is damaged"), (of_another_epoch, "is of epoch 77"), (None, "there is no checkpoint")],
    ids=["truncated", "of another epoch", "missing"],
)
def test_best_weights_that_are_lost_do_not_lose_the_run(trained, damage, message):
    state, folder = trained[0], trained[3]
    path = folder / "checkpoints" / "best.pt"
    path.unlink() if damage is None else damage(path)
    result, _, printed = end(trained)
    assert result["best"]["error"] == state.best["test_error"]
    assert message in printed
    assert "predictions.npz will lack best_logits" in printed
    with np.load(folder / "predictions.npz") as arrays:
        assert set(arrays) == {"logits", "labels"}


@pytest.mark.parametrize("name", ["predictions.npz", "metrics.csv", "result.json"])
def test_a_full_disk_at_the_end_is_said_and_made_good(trained, reopen, name, monkeypatch):
    """As the disk fills up before each file: the run is not finished, and is when it ends again."""
    folder, fsync = trained[3], os.fsync

    def full_disk(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == f"{name}.tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    metrics = (folder / "metrics.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(checkpoint.SaveError, match=rf"cannot write .*{name}: No space left on device"):
        end(trained)
    monkeypatch.undo()
    assert read_result(folder) is None
    assert (folder / "metrics.csv").read_bytes() == metrics
    assert not list(folder.rglob("*.tmp"))
    reopen(trained[0], folder, trained[4])
    result, _, _ = end(trained)
    assert result["last"]["error"] == trained[0].history[-1]["test_error"]

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
from moex.engine import predict
from moex.files import SaveError
from moex.reporting.finished import read_result, show
from moex.run.result import finish


@pytest.fixture
def trained(build, reopen, go_on, tmp_path, request):
    """A run after its last epoch, before its end, and its console."""
    console = Console(record=True, width=300)
    run = reopen(build(tmp_path, epochs=3, **getattr(request, "param", {})), console)
    go_on(run)
    return run, console


def end(trained):
    run, console = trained
    result = finish(run, stop=threading.Event(), console=console)
    assert read_result(run.folder) == json.loads(json.dumps(result))
    return result, run.folder, console.export_text()


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
    assert result["selected_on"] == "test"
    assert "validation" not in result
    confusion = result["confusion"]
    assert confusion.keys() == {"of", "test"}
    assert confusion["of"] == "last"
    assert np.sum(confusion["test"]) - np.trace(confusion["test"]) == pytest.approx(50 * result["last"]["error"])


@pytest.mark.parametrize("trained", [{"dataset": {"validation": 0.3}}], indirect=True)
def test_what_is_left_where_a_validation_set_chooses(trained):
    result, folder, _ = end(trained)
    table = pd.read_csv(folder / "metrics.csv").set_index("epoch")
    best = 1 + table["validation_error"].reset_index(drop=True).argmin()
    assert (result["selected_on"], result["best"]["epoch"]) == ("validation", best)
    for which, epoch in (("last", 3), ("best", best)):
        assert result[which]["error"] == table.loc[epoch, "test_error"]
        assert result["validation"][which]["error"] == table.loc[epoch, "validation_error"]
    assert result["recipe"]["dataset.validation"] == 0.3
    confusion = result["confusion"]
    assert confusion["of"] == "best"
    for split, error in (("test", result["best"]["error"]), ("validation", result["validation"]["best"]["error"])):
        matrix = np.array(confusion[split])
        assert 1 - matrix.trace() / matrix.sum() == pytest.approx(error)
    # A line for each class.
    assert str(confusion["test"][0]) in (folder / "result.json").read_text()
    console = Console(record=True, width=300)
    show(result, folder, console)
    assert f"best epoch ({best}, chosen on the validation set)" in console.export_text()


@pytest.mark.parametrize("trained", [{"optimizer": {"ema_decay": 0.5}}], indirect=True)
def test_where_weights_are_averaged_the_average_is_what_is_scored(trained):
    run, _ = trained
    state = run.state
    logits, _ = predict(state.average.model, run.test, batch_size=500, precision="fp32")
    weights, _ = predict(state.model, run.test, batch_size=500, precision="fp32")
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
    folder = trained[0].folder
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
    checkpoint.write_best(path.parent, best | {"epoch": 77})


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "is damaged"), (of_another_epoch, "is of epoch 77"), (None, "there is no checkpoint")],
    ids=["truncated", "of another epoch", "missing"],
)
def test_best_weights_that_are_lost_do_not_lose_the_run(trained, damage, message):
    state, folder = trained[0].state, trained[0].folder
    path = folder / "checkpoints" / "best.pt"
    path.unlink() if damage is None else damage(path)
    result, _, printed = end(trained)
    assert result["best"]["error"] == state.best["test_error"]
    assert message in printed
    assert "predictions.npz will lack best_logits" in printed
    with np.load(folder / "predictions.npz") as arrays:
        assert set(arrays) == {"logits", "labels"}


def test_predictions_that_are_gone_come_back_as_the_screen_tells(trained):
    _, folder, _ = end(trained)
    with np.load(folder / "predictions.npz") as arrays:
        before = dict(arrays)
    (folder / "predictions.npz").unlink()
    (folder / "result.json").unlink()
    end(trained)
    with np.load(folder / "predictions.npz") as arrays:
        assert all(np.array_equal(arrays[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["predictions.npz", "metrics.csv", "result.json"])
def test_a_full_disk_at_the_end_is_said_and_made_good(trained, reopen, name, monkeypatch):
    """As the disk fills up before each file: the run is not finished, and is when it ends again."""
    folder, fsync = trained[0].folder, os.fsync

    def full_disk(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == f"{name}.tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    metrics = (folder / "metrics.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SaveError, match=rf"cannot write .*{name}: No space left on device"):
        end(trained)
    monkeypatch.undo()
    assert read_result(folder) is None
    assert (folder / "metrics.csv").read_bytes() == metrics
    assert not list(folder.rglob("*.tmp"))
    reopen(*trained)
    result, _, _ = end(trained)
    assert result["last"]["error"] == trained[0].state.history[-1]["test_error"]

"""The end of a run, also of one whose files have suffered."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.config import parse, run_folder
from moex.logging import Loggers
from moex.run.build import create_state, load_sets
from moex.run.folder import read_result, resume
from moex.run.result import finish
from moex.run.training import train

CPU = torch.device("cpu")
NO_LOGGERS = Loggers({}, console=Console(quiet=True))


@pytest.fixture
def trained(tmp_path):
    """A run after its last epoch, before its end."""
    config = parse({"output_root": str(tmp_path), "limit_train": 128, "limit_test": 50, "epochs": 3})
    sets = load_sets(config, CPU)
    state = create_state(config, sets, CPU)
    folder = run_folder(config)
    console = Console(record=True, width=300)
    resume(state, folder, "python train.py", console)
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

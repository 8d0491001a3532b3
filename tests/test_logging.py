"""What a run tells: the bar, the lines, the table of epochs, TensorBoard and W&B."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from moex.logging import Loggers, ProgressDisplay, TensorBoardLogger, WandbLogger, write_metrics

ROW = {
    "epoch": 1,
    "train_loss": 2.5,
    "test_error": 0.9123,
    "test_aurra": 0.15,
    "test_rms_calibration_error": 0.042,
    "learning_rate": 0.1,
    "images_per_second": 1234.5,
}


def shown(*, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=160)
    with ProgressDisplay(console, epochs=20, steps_per_epoch=50, done=60) as display:
        display.step(epoch=1, step=40)
        display.loss(2.3456, images_per_second=4321)
        time.sleep(0.3)  # The bar is drawn ten times a second.
        display.epoch(ROW)
        display.step(epoch=2, step=0)
    return stream.getvalue()


def test_a_terminal_gets_a_bar_and_lines():
    text = shown(terminal=True)
    for part in ("epoch 2/20", "step 10/50", "step 40/50", "loss 2.346", "4,321 images/s", "left"):
        assert part in text


def test_a_file_gets_lines_alone():
    text = shown(terminal=False)
    assert text.splitlines() == [
        "epoch  1/20  loss 2.500  test error 91.23 %  AURRA 15.00 %  RMS calibration error  4.20 %"
        "  lr 0.1  1,234 images/s"
    ]


def test_metrics_are_read_back_to_the_last_bit(tmp_path):
    history = [
        {"epoch": epoch, "loss": float(value)} for epoch, value in enumerate(np.random.default_rng(0).random(9))
    ]
    write_metrics(tmp_path, history)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table.to_dict("records") == history


def test_tensorboard_forgets_what_is_trained_again(tmp_path, read_tensorboard):
    killed = TensorBoardLogger(tmp_path, done=0)
    for step in range(1, 6):
        killed.log({"step/loss": step}, step=step)
    # Not closed: what is logged is on the disk. The last checkpoint was that of step 3.
    session = TensorBoardLogger(tmp_path, done=3)
    for step in range(4, 8):
        session.log({"step/loss": 10 * step}, step=step)
    session.close(finished=True)
    events = read_tensorboard(tmp_path).Scalars("step/loss")
    assert [(event.step, event.value) for event in events] == [
        *((step, step) for step in (1, 2, 3)),
        *((step, 10 * step) for step in (4, 5, 6, 7)),
    ]
    killed.close(finished=False)


@pytest.mark.usefixtures("no_wandb_key")
def test_wandb_keeps_every_row_and_a_run_for_each_folder(tmp_path, read_wandb, wandb_history):
    folders = [tmp_path / name for name in ("seed0", "seed1")]
    for folder in folders:
        folder.mkdir()
        logger = WandbLogger(folder, project="moex", config={"optimizer": {"lr": 0.1}})
        for step in (1, 2, 3, 2, 3):
            logger.log({"step/loss": step / 3}, step=step)
        logger.close(finished=True)
    ((ours,), (theirs,)) = map(read_wandb, folders)
    assert wandb_history([ours])["step/loss"] == [(step, step / 3) for step in (1, 2, 3, 2, 3)]
    ids = {record.run.run_id for record in ours + theirs if record.HasField("run")}
    assert len(ids) == 2


class Recorder:
    """A logger that keeps what it is told, and fails at one point."""

    def __init__(self, told, *, fails_at=None):
        self.told, self.fails_at = told, fails_at
        self.tell("create")

    def tell(self, point):
        if point == self.fails_at:
            raise RuntimeError("no [luck]\nat all")
        self.told.append(point)

    def log(self, values, *, step):
        self.tell("log")

    def finish(self, result, *, figures, step):
        self.tell("finish")

    def close(self, *, finished):
        self.tell("close")


@pytest.mark.parametrize("point", ["create", "log", "finish", "close"])
def test_one_that_fails_is_reported_once_and_left_out(point):
    bad, good, console = [], [], Console(file=io.StringIO(), width=200)
    factories = {"bad": lambda: Recorder(bad, fails_at=point), "good": lambda: Recorder(good)}
    with Loggers(factories, console=console) as loggers:
        for step in (1, 2):
            loggers.log({"loss": 1.0}, step=step)
        loggers.finish({}, figures=[], step=2)
    assert good == ["create", "log", "log", "finish", "close"]
    assert bad == [*good[: good.index(point)], *(["close"] if point in ("log", "finish") else [])]
    assert console.file.getvalue() == "warning: bad failed (no [luck]): the run goes on without it\n"


def test_they_are_told_whether_the_run_finished():
    class Closed(Recorder):
        def close(self, *, finished):
            self.told.append(finished)

    told = []
    with Loggers({"log": lambda: Closed(told)}, console=Console()):
        pass
    with pytest.raises(KeyboardInterrupt), Loggers({"log": lambda: Closed(told)}, console=Console()):
        raise KeyboardInterrupt
    assert told == ["create", True, "create", False]

"""What a run tells: the bar, the lines, the table of epochs."""

import io
import time

import numpy as np
import pandas as pd
from rich.console import Console

from moex.logging import ProgressDisplay, write_metrics

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

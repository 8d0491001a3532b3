"""What a run tells while it trains, and what it refuses to go on with."""

import threading

import pandas as pd
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from moex.logging import ProgressDisplay, create_loggers
from moex.run.folder import NonFiniteError, resume
from moex.run.training import Stopped, train

CPU = torch.device("cpu")


def run(config, folder, sets, state, *, stop=None):
    console = Console(quiet=True)
    with create_loggers(config.logger, folder, done=state.global_step, full_config={}, console=console) as loggers:
        train(state, sets, config, folder, stop=stop or threading.Event(), loggers=loggers, console=console)


def test_the_loss_is_told_in_epochs_shorter_than_the_interval(build, tmp_path, monkeypatch):
    losses = []
    monkeypatch.setattr(ProgressDisplay, "loss", lambda self, loss, **_: losses.append(loss))
    values = {"epochs": 4, "batch_size": 32, "logger": {"tensorboard": True, "every_steps": 6}}
    config, folder, sets, state = build(tmp_path, **values)
    run(config, folder, sets, state)
    assert len(losses) == 4 + 2  # The epochs, and steps 6 and 12 of the run.
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [6, 12]
    table = pd.read_csv(folder / "metrics.csv")
    assert table["train_loss"].between(0.5, 4).all()


def test_stopped_at_the_end_of_an_epoch_its_speed_is_still_known(build, tmp_path):
    stop = threading.Event()
    stop.set()
    config, folder, sets, state = build(tmp_path, epochs=1, batch_size=128)
    with pytest.raises(Stopped):
        run(config, folder, sets, state, stop=stop)
    config, folder, sets, state = build(tmp_path, epochs=1, batch_size=128)
    resume(state, folder, "python train.py", Console(quiet=True))
    assert state.step == state.steps_per_epoch
    run(config, folder, sets, state)
    assert 0 < state.history[0]["images_per_second"] < float("inf")
    assert state.history[0]["seconds"] >= 128 / state.history[0]["images_per_second"]


def test_logits_that_are_not_finite_end_the_run(build, tmp_path):
    """After the only step of an epoch, the loss was finite and so are the weights."""
    values = {"epochs": 1, "batch_size": 128, "optimizer": {"lr": 1e10}, "schedule": {"name": "step"}}
    config, folder, sets, state = build(tmp_path, **values)
    with pytest.raises(NonFiniteError, match=r"is not finite at epoch 1, step 1 \(learning rate 1e\+10\).*none"):
        run(config, folder, sets, state)
    assert not (folder / "checkpoints").exists()

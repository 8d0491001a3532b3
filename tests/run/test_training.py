"""The epochs of a run: what is logged and recorded, and what a run refuses to go on with."""

import math
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.data.source import ResidentSource
from moex.engine import evaluate
from moex.loggers import ProgressDisplay, open_loggers
from moex.metrics import summarise_scores
from moex.run.folder import NonFiniteError
from moex.run.training import Stopped, train


def test_the_loss_is_logged_in_epochs_shorter_than_the_interval(build, tmp_path, monkeypatch, read_tensorboard):
    losses = []
    monkeypatch.setattr(ProgressDisplay, "loss", lambda self, loss, **_: losses.append(loss))
    logger = {"use": {"tensorboard": {}}, "every_steps": 6}
    run = build(tmp_path, epochs=4, batch_size=32, logger=logger)
    console = Console(quiet=True)
    with open_loggers(run.loggers, run.folder, done=0, config={}, console=console) as loggers:
        train(run, stop=threading.Event(), loggers=loggers, console=console)
    assert len(losses) == 4 + 4 + 2  # The epochs, their first steps, and steps 6 and 12 of the run.
    assert [event.step for event in read_tensorboard(run.folder).Scalars("step/loss")] == [1, 6, 12]
    table = pd.read_csv(run.folder / "metrics.csv")
    assert table["train_loss"].between(0.5, 4).all()
    assert (table["waiting_share"] == 0).all()


def test_stopped_at_the_end_of_an_epoch_its_speed_is_still_known(build, reopen, go_on, tmp_path):
    run = reopen(build(tmp_path, epochs=1, batch_size=128))
    with pytest.raises(Stopped):
        go_on(run, stop=True)
    run = reopen(build(tmp_path, epochs=1, batch_size=128))
    assert run.state.step == run.state.steps_per_epoch
    go_on(run)
    (row,) = run.state.history
    assert 0 < row["images_per_second"] < float("inf")
    assert row["seconds"] >= 128 / row["images_per_second"]


def test_waiting_is_added_up_over_sessions(build, reopen, go_on, tmp_path, monkeypatch):
    """What waits is training: not the look at a few samples before it."""

    def batches(self, requests):
        for request in requests:
            self.waited += 0.25
            yield self.batch(request)

    monkeypatch.setattr(ResidentSource, "batches", batches)
    with pytest.raises(Stopped):
        go_on(reopen(build(tmp_path, epochs=2, batch_size=32)), stop=True)
    run = reopen(build(tmp_path, epochs=2, batch_size=32))
    assert run.state.epoch_waited == 0.25
    go_on(run)
    for row in run.state.history:
        # Four steps, of 128 samples.
        assert row["waiting_share"] == pytest.approx(4 * 0.25 / (128 / row["images_per_second"]))


def test_a_checkpoint_from_before_waiting_was_counted(build, tmp_path):
    state = build(tmp_path).state
    saved = state.state_dict()
    del saved["epoch_waited"]
    state.load_state_dict(saved | {"epoch_seconds": 3.0})
    assert (state.epoch_seconds, state.epoch_waited) == (3.0, 0.0)


def test_logits_that_are_not_finite_end_the_run(build, go_on, tmp_path):
    """After the only step of an epoch, the loss was finite and so are the weights."""
    run = build(tmp_path, epochs=1, batch_size=128, optimizer={"lr": 1e10}, schedule={"name": "step"})
    with pytest.raises(NonFiniteError, match=r"is not finite at epoch 1, step 1 \(learning rate 1e\+10\).*none"):
        go_on(run)
    assert not (run.folder / "checkpoints").exists()


def test_the_validation_set_chooses_where_there_is_one(build, go_on, tmp_path):
    """It is measured each epoch; the test set where the epoch is the best so far, and at the end."""
    run = build(tmp_path, epochs=6, dataset={"validation": 0.4}, optimizer={"lr": 0.3})
    assert run.selected_on == "validation"
    assert (len(run.training.source), len(run.validation), len(run.test)) == (76, 52, 50)
    go_on(run)
    errors = [row["validation_error"] for row in run.state.history]
    bests = [error < min(errors[:epoch], default=math.inf) for epoch, error in enumerate(errors)]
    assert not all(bests[:-1]), "the seed shows an epoch that is not the best"
    measured = ["test_error" in row for row in run.state.history]
    assert measured == [*bests[:-1], True]
    assert run.state.best["validation_error"] == min(errors)
    table = pd.read_csv(run.folder / "metrics.csv")
    assert table["test_error"].notna().tolist() == measured
    # The weights of that epoch, on both sets.
    best = checkpoint.read(run.folder / "checkpoints" / "best.pt")
    run.state.model.load_state_dict(best["model"])
    for split, source in (("validation", run.validation), ("test", run.test)):
        values = summarise_scores(evaluate(run.state.model, source, batch_size=500, precision="fp32"))
        assert {f"{split}_{name}": value for name, value in values.items()}.items() <= best.items()


def test_the_size_of_evaluation_batches_does_not_change_what_is_scored(build, tmp_path):
    run = build(tmp_path)
    model = run.state.model.double()
    model.register_forward_pre_hook(lambda _, inputs: tuple(value.double() for value in inputs))
    small, large = (evaluate(model, run.test, batch_size=size, precision="fp32") for size in (7, 500))
    assert torch.equal(small.rank, large.rank)
    # Logits are rounded to float32 once, whatever the batch.
    np.testing.assert_allclose(small.loss, large.loss, rtol=1e-6)

"""The epochs of a run: train, look, save, evaluate, record."""

import threading
import time
from pathlib import Path

from rich.console import Console

from moex import checkpoint, metrics
from moex.config import Config
from moex.engine import State, evaluate, learning_rate_at, train_epoch
from moex.logging import Loggers, ProgressDisplay, write_metrics
from moex.run.build import Sets
from moex.run.folder import check_finite, non_finite, save


class Stopped(Exception):
    """The run was asked to stop, and has saved where it stands."""


def train(
    state: State,
    sets: Sets,
    config: Config,
    folder: Path,
    *,
    stop: threading.Event,
    loggers: Loggers,
    console: Console,
) -> None:
    """Trains the epochs that are left, and saves as it goes.

    Raises:
        Stopped: `stop` was set; everything up to now is saved.
        NonFiniteError: the loss or a weight is not finite.
    """
    display = ProgressDisplay(
        console, epochs=config.epochs, steps_per_epoch=state.steps_per_epoch, done=state.global_step
    )
    with display:
        while state.epoch < config.epochs:
            _train_epoch(state, sets, config, folder, stop=stop, loggers=loggers, display=display)


def _train_epoch(
    state: State,
    sets: Sets,
    config: Config,
    folder: Path,
    *,
    stop: threading.Event,
    loggers: Loggers,
    display: ProgressDisplay,
) -> None:
    last_tick = last_save = time.monotonic()

    def samples() -> int:
        return min(state.step * config.batch_size, len(sets.train))

    def tick() -> float:
        """Seconds since the last tick, which the run has lasted longer."""
        nonlocal last_tick
        before, last_tick = last_tick, time.monotonic()
        state.seconds += last_tick - before
        return last_tick - before

    for lr in train_epoch(state, sets.train, config, classes=sets.classes):
        state.epoch_seconds += tick()
        display.step(epoch=state.epoch, step=state.step)
        if state.global_step % config.logger.every_steps == 0:
            check_finite(state, folder, config)
            loss, speed = float(state.totals[0]) / samples(), samples() / state.epoch_seconds
            display.loss(loss, images_per_second=speed)
            values = {"step/loss": loss, "step/learning_rate": lr, "step/images_per_second": speed}
            loggers.log(values, step=state.global_step)
        every_steps, every_minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
        due = every_steps is not None and state.step % every_steps == 0
        due |= every_minutes is not None and time.monotonic() - last_save > 60 * every_minutes
        if due or stop.is_set():
            save(state, folder, config)
            last_save = time.monotonic()
        if stop.is_set():
            raise Stopped(f"saved {folder} after epoch {state.epoch}, step {state.step}")

    check_finite(state, folder, config)
    state.epoch_seconds += tick()
    last_step = state.steps_per_epoch - 1
    logits, labels = evaluate(state.model, sets.test, precision=config.runtime.precision)
    if not logits.isfinite().all():
        raise non_finite("a logit of the test set", state, folder, config, step=last_step)
    loss, wrong = (state.totals / len(sets.train)).tolist()
    tick()
    row = {
        "epoch": state.epoch + 1,
        "step": state.global_step,
        "learning_rate": learning_rate_at(state, config, step=last_step),
        "train_loss": loss,
        "train_error": wrong,
        **{f"test_{name}": value for name, value in metrics.evaluate(logits, labels).items()},
        "images_per_second": len(sets.train) / state.epoch_seconds,
        "seconds": state.seconds,
    }
    state.history.append(row)
    if not state.best or row["test_error"] < state.best["test_error"]:
        state.best = row
        checkpoint.save_best(folder / "checkpoints", {"model": state.model.state_dict(), **row})
    state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.totals.zero_()
    # Before the save, as within an epoch: a session that continues from there logs what follows alone.
    loggers.log({f"epoch/{name}": value for name, value in row.items()}, step=state.global_step)
    save(state, folder, config)
    write_metrics(folder, state.history)
    display.epoch(row)

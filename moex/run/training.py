"""The epochs of a run: train, look, save, evaluate, record. Every rank runs them; rank 0 writes and prints."""

import time
from enum import IntEnum
from pathlib import Path

from rich.console import Console

from moex import checkpoint, metrics
from moex.config import Config
from moex.distributed import Agreement, StopRequest, rank
from moex.engine import State, evaluate, learning_rate_at, train_epoch
from moex.logging import Loggers, ProgressDisplay, write_metrics
from moex.run.build import Sets
from moex.run.folder import check_finite, non_finite, save, write_heartbeat

# Seconds between two signs of life.
HEARTBEAT = 10.0


class Wish(IntEnum):
    """What a rank wishes to do after a step, besides what all know to be due; a larger one includes the smaller."""

    GO_ON = 0
    SAVE = 1
    END_IN_TIME = 2
    STOP = 3


class Stopped(Exception):
    """The run was asked to stop, and has saved where it stands."""


class TimeOver(Exception):
    """The run has used the minutes that it was given, and has saved where it stands."""


class Clock:
    """What is due by the clock of this rank.

    Args:
        config: of the run.
        stop: whether the run was asked to stop.
    """

    def __init__(self, config: Config, stop: StopRequest) -> None:
        self._every_minutes, self._max_minutes = config.checkpoint.every_minutes, config.runtime.max_minutes
        self._stop = stop
        self._start = self._last_save = self._last_tick = time.monotonic()
        self._last_heartbeat = float("-inf")

    def tick(self) -> float:
        """Seconds since the last tick."""
        before, self._last_tick = self._last_tick, time.monotonic()
        return self._last_tick - before

    def saved(self) -> None:
        """A checkpoint was just saved."""
        self._last_save = time.monotonic()

    def heartbeat_is_due(self) -> bool:
        """Whether to give a sign of life; the next one is due some seconds later."""
        due = time.monotonic() - self._last_heartbeat > HEARTBEAT
        if due:
            self._last_heartbeat = time.monotonic()
        return due

    def wish(self) -> Wish:
        """What to do after the current step."""
        now = time.monotonic()
        if self._stop.is_set():
            return Wish.STOP
        if self._max_minutes is not None and now - self._start > 60 * self._max_minutes:
            return Wish.END_IN_TIME
        if self._every_minutes is not None and now - self._last_save > 60 * self._every_minutes:
            return Wish.SAVE
        return Wish.GO_ON


def train(
    state: State,
    sets: Sets,
    config: Config,
    folder: Path,
    *,
    stop: StopRequest,
    loggers: Loggers,
    console: Console,
) -> None:
    """Trains the epochs that are left, and saves as it goes.

    Raises:
        Stopped: `stop` was set; everything up to now is saved.
        TimeOver: `runtime.max_minutes` are over; everything up to now is saved.
        NonFiniteError: the loss or a weight is not finite.
    """
    display = ProgressDisplay(
        console, epochs=config.epochs, steps_per_epoch=state.steps_per_epoch, done=state.global_step
    )
    clock, agreement = Clock(config, stop), Agreement()
    agreement.propose(clock.wish())
    with display:
        while state.epoch < config.epochs:
            _train_epoch(
                state, sets, config, folder, clock=clock, agreement=agreement, loggers=loggers, display=display
            )


def _train_epoch(
    state: State,
    sets: Sets,
    config: Config,
    folder: Path,
    *,
    clock: Clock,
    agreement: Agreement,
    loggers: Loggers,
    display: ProgressDisplay,
) -> None:
    def samples() -> int:
        return min(state.step * config.batch_size, len(sets.train))

    for lr in train_epoch(state, sets.train, config, classes=sets.classes):
        seconds = clock.tick()
        state.epoch_seconds, state.seconds = state.epoch_seconds + seconds, state.seconds + seconds
        display.step(epoch=state.epoch, step=state.step)
        if state.global_step % config.logger.every_steps == 0:
            loss_sum, _ = check_finite(state, folder, config)
            loss, speed = loss_sum / samples(), samples() / state.epoch_seconds
            display.loss(loss, images_per_second=speed)
            values = {"step/loss": loss, "step/learning_rate": lr, "step/images_per_second": speed}
            loggers.log(values, step=state.global_step)
        wish = agreement.settle(clock.wish())
        every_steps = config.checkpoint.every_steps
        if wish >= Wish.SAVE or (every_steps is not None and state.step % every_steps == 0):
            save(state, folder, config)
            clock.saved()
        if rank() == 0 and (wish > Wish.SAVE or clock.heartbeat_is_due()):
            write_heartbeat(folder, state, config)
        where = f"saved {folder} after epoch {state.epoch}, step {state.step}"
        if wish == Wish.STOP:
            raise Stopped(where)
        if wish == Wish.END_IN_TIME:
            minutes = f"runtime.max_minutes={config.runtime.max_minutes:g} are over"
            raise TimeOver(f"{where}: {minutes}; the same command continues")
        agreement.propose(clock.wish())

    totals = check_finite(state, folder, config)
    seconds = clock.tick()
    state.epoch_seconds += seconds
    last_step = state.steps_per_epoch - 1
    logits, labels = evaluate(state.evaluated, sets.test, precision=config.runtime.precision)
    if not logits.isfinite().all():
        raise non_finite("a logit of the test set", state, folder, config, step=last_step)
    loss, wrong = (total / len(sets.train) for total in totals)
    state.seconds += seconds + clock.tick()
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
        if rank() == 0:
            checkpoint.save_best(folder / "checkpoints", {"model": state.evaluated.state_dict(), **row})
    state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.totals.zero_()
    # Before the save, as within an epoch: a session that continues from there logs what follows alone.
    loggers.log({f"epoch/{name}": value for name, value in row.items()}, step=state.global_step)
    save(state, folder, config)
    clock.saved()
    if rank() == 0:
        write_metrics(folder, state.history)
    display.epoch(row)

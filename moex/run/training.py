"""The epochs of a run: train, look, save, evaluate, record. Every rank runs them; rank 0 writes and prints."""

import time
from collections.abc import Iterator
from contextlib import closing
from enum import IntEnum

from rich.console import Console

from moex import checkpoint, metrics
from moex.data import TEST, Source
from moex.distributed.communication import Agreement, rank
from moex.distributed.ranks import StopRequest
from moex.engine import evaluate, train_epoch
from moex.loggers import Loggers, ProgressDisplay
from moex.run.build import Run
from moex.run.folder import check_finite, non_finite, save, write_heartbeat, write_metrics

# Seconds between two heartbeats.
HEARTBEAT = 10.0


class Action(IntEnum):
    """What a rank proposes to do after a step, besides what all know to be due; a larger one includes the smaller."""

    CONTINUE = 0
    SAVE = 1
    END_IN_TIME = 2
    STOP = 3


class Stopped(Exception):
    """The run was asked to stop, and has saved where it stands."""


class TimeOver(Exception):
    """The run has used the minutes that it was given, and has saved where it stands."""


class Timer:
    """What is due by the clock of this rank.

    Args:
        run: for how often to save, and how long to train.
        stop: whether the run was asked to stop.
    """

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self._every_minutes, self._max_minutes = run.checkpoints.every_minutes, run.max_minutes
        self._stop, self._source = stop, run.training.source
        self._waited = self._source.waited
        self._start = self._last_save = self._last_lap = time.monotonic()
        self._last_heartbeat = float("-inf")

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._last_lap = self._last_lap, time.monotonic()
        return self._last_lap - before

    def waited(self) -> float:
        """Seconds that training has waited for its source since this was asked before."""
        before, self._waited = self._waited, self._source.waited
        return self._waited - before

    def reset_save(self) -> None:
        """Counts the minutes to the next save from now on."""
        self._last_save = time.monotonic()

    def heartbeat_is_due(self) -> bool:
        """Whether to write a heartbeat; the next one is due some seconds later."""
        due = time.monotonic() - self._last_heartbeat > HEARTBEAT
        if due:
            self._last_heartbeat = time.monotonic()
        return due

    def action(self) -> Action:
        """What to do after the current step."""
        now = time.monotonic()
        if self._stop.is_set():
            return Action.STOP
        if self._max_minutes is not None and now - self._start > 60 * self._max_minutes:
            return Action.END_IN_TIME
        if self._every_minutes is not None and now - self._last_save > 60 * self._every_minutes:
            return Action.SAVE
        return Action.CONTINUE


def train(run: Run, *, stop: StopRequest, loggers: Loggers, console: Console) -> None:
    """Trains the epochs that are left, and saves as it goes.

    Raises:
        Stopped: `stop` was set; everything up to now is saved.
        TimeOver: `runtime.max_minutes` are over; everything up to now is saved.
        NonFiniteError: the loss or a weight is not finite.
        SourceError: samples cannot be had.
    """
    state, epochs = run.state, run.training.epochs
    display = ProgressDisplay(console, epochs=epochs, steps_per_epoch=state.steps_per_epoch, done=state.global_step)
    timer, agreement = Timer(run, stop), Agreement()
    agreement.propose(timer.action())
    with display:
        while state.epoch < epochs:
            with closing(train_epoch(state, run.training)) as steps:
                _follow_steps(run, steps, timer=timer, agreement=agreement, loggers=loggers, display=display)
            _complete_epoch(run, timer=timer, loggers=loggers, display=display)


def _follow_steps(
    run: Run,
    steps: Iterator[float],
    *,
    timer: Timer,
    agreement: Agreement,
    loggers: Loggers,
    display: ProgressDisplay,
) -> None:
    """Logs, saves and stops between the steps of an epoch."""
    state, every_steps = run.state, run.checkpoints.every_steps
    # What is shown of an epoch is its own from its first step on.
    is_first = True
    for lr in steps:
        seconds = timer.lap()
        state.epoch_seconds, state.seconds = state.epoch_seconds + seconds, state.seconds + seconds
        state.epoch_waited += timer.waited()
        display.step(epoch=state.epoch, step=state.step)
        is_due = state.global_step % run.loggers.every_steps == 0
        if is_due or is_first:
            samples = min(state.step * run.training.batch_size, len(run.training.source))
            loss_sum, _ = check_finite(run)
            loss, speed = loss_sum / samples, samples / state.epoch_seconds
            display.loss(loss, images_per_second=speed, waiting_share=state.epoch_waited / state.epoch_seconds)
            if is_due or state.global_step == 1:
                values = {"step/loss": loss, "step/learning_rate": lr, "step/images_per_second": speed}
                loggers.log(values, step=state.global_step)
        is_first = False
        action = agreement.settle(timer.action())
        # After the last step of an epoch a save follows its evaluation. One before would let the epoch's row, logged
        # at the same step, be logged twice where a run is killed in between.
        is_last = state.step == state.steps_per_epoch
        saves = action == Action.SAVE or (every_steps is not None and state.step % every_steps == 0)
        if action > Action.SAVE or (saves and not is_last):
            save(run)
            timer.reset_save()
        if rank() == 0 and (action > Action.SAVE or timer.heartbeat_is_due()):
            write_heartbeat(run)
        where = f"saved {run.folder} after epoch {state.epoch}, step {state.step}"
        if action == Action.STOP:
            raise Stopped(where)
        if action == Action.END_IN_TIME:
            minutes = f"runtime.max_minutes={run.max_minutes:g} are over"
            raise TimeOver(f"{where}: {minutes}; the same command continues")
        agreement.propose(timer.action())


def _complete_epoch(run: Run, *, timer: Timer, loggers: Loggers, display: ProgressDisplay) -> None:
    """Evaluates, records and saves after the last step of an epoch."""
    state, training, folder = run.state, run.training, run.folder
    totals = check_finite(run)
    seconds = timer.lap()
    state.epoch_seconds += seconds
    loss, wrong = (total / len(training.source) for total in totals)
    row = {
        "epoch": state.epoch + 1,
        "step": state.global_step,
        "learning_rate": training.learning_rate(state.epoch, state.steps_per_epoch - 1),
        "train_loss": loss,
        "train_error": wrong,
    }
    choice = f"{run.selected_on}_error"
    row |= _measure(run, run.selected_on, run.validation or run.test)
    is_best = not state.best or row[choice] < state.best[choice]
    if run.validation is not None and (is_best or state.epoch + 1 == training.epochs):
        # Where the validation set chooses, the test set is measured for what may be reported alone.
        row |= _measure(run, TEST, run.test)
    state.seconds += seconds + timer.lap()
    row |= {
        "images_per_second": len(training.source) / state.epoch_seconds,
        "waiting_share": state.epoch_waited / state.epoch_seconds,
        "seconds": state.seconds,
    }
    state.history.append(row)
    if is_best:
        state.best = row
        if rank() == 0:
            checkpoint.write_best(folder / "checkpoints", {"model": state.evaluated.state_dict(), **row})
    state.epoch, state.step, state.epoch_seconds, state.epoch_waited = state.epoch + 1, 0, 0.0, 0.0
    state.totals.zero_()
    # Before the save, as within an epoch: a session that continues from there logs what follows alone.
    loggers.log({f"epoch/{name}": value for name, value in row.items()}, step=state.global_step)
    save(run)
    timer.reset_save()
    if rank() == 0:
        write_metrics(run)
    display.epoch(row, split=run.selected_on)


def _measure(run: Run, split: str, source: Source) -> dict[str, float]:
    """The metrics of the network that is evaluated on a split, by their names in metrics.csv.

    Raises:
        NonFiniteError: a logit is not finite.
    """
    scores = evaluate(
        run.state.evaluated, source, batch_size=run.evaluation_batch_size, precision=run.training.precision
    )
    if scores.loss.isnan().any():
        raise non_finite(f"a logit of the {split} set", run, step=run.state.steps_per_epoch - 1)
    return {f"{split}_{name}": value for name, value in metrics.summarise_scores(scores).items()}

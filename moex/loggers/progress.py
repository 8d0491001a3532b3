"""What a run shows on a terminal while it trains."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressDisplay:
    """A bar on a terminal, elsewhere only the line an epoch.

    Before the bar stand the epoch and its step, its loss and its images/s so far, which the line of the epoch has at
    its end; the bar, the share beside it and the time left are of the whole run.
    """

    def __init__(self, console: Console, *, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._console = console
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s{task.fields[waiting]}"),
            TextColumn(" whole run"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task(
            "",
            total=epochs * steps_per_epoch,
            completed=done,
            epoch=done // steps_per_epoch + 1,
            epochs=epochs,
            step=done % steps_per_epoch,
            steps=steps_per_epoch,
            loss="-",
            speed="-",
            waiting="",
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, *, epoch: int, step: int) -> None:
        """After a step: `epoch` epochs and `step` steps of the next one are done."""
        self._bar.update(self._task, completed=epoch * self._steps_per_epoch + step, epoch=epoch + 1, step=step)

    def loss(self, loss: float, *, images_per_second: float, waiting_share: float) -> None:
        """At the logging interval: of the epoch so far the mean loss, the speed, the share of it spent waiting."""
        speed, waiting = f"{images_per_second:,.0f}", _say_waiting(waiting_share)
        self._bar.update(self._task, loss=f"{loss:.3f}", speed=speed, waiting=waiting)

    def epoch(self, row: Mapping[str, float], *, split: str) -> None:
        """At the end of an epoch: its row of metrics.csv, as a line with the metrics of a split."""
        speed, waiting = row["images_per_second"], row["waiting_share"]
        self.loss(row["train_loss"], images_per_second=speed, waiting_share=waiting)
        self._console.print(
            f"epoch {row['epoch']:>{len(str(self._epochs))}.0f}/{self._epochs}"
            f"  loss {row['train_loss']:.3f}"
            f"  {split} error {100 * row[f'{split}_error']:5.2f} %"
            f"  AURRA {100 * row[f'{split}_aurra']:5.2f} %"
            f"  RMS calibration error {100 * row[f'{split}_rms_calibration_error']:5.2f} %"
            f"  lr {row['learning_rate']:.3g}"
            f"  {speed:,.0f} images/s{_say_waiting(waiting)}",
            highlight=False,
            soft_wrap=True,
        )


def _say_waiting(share: float) -> str:
    """How much of the training waited for data, where that is anything."""
    return f", {100 * share:.0f} % waiting for data" if share >= 0.005 else ""

"""What a run tells while it trains: a progress bar or a line an epoch, metrics.csv, TensorBoard, W&B."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moex.checkpoint import saving, write_atomically
from moex.config import LoggerConfig


class Logger(Protocol):
    """Where scalars go."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Records values at a step, counted over the whole run."""

    def close(self) -> None:
        """Flushes what is buffered."""


class TensorBoardLogger:
    """Event files for TensorBoard, in `<folder>/tensorboard`."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder / "tensorboard"
        # What a killed session logged after its last checkpoint is trained, and logged, again.
        with saving(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=first_step)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        with saving(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        with saving(self._folder):
            self._writer.close()


class WandbLogger:
    """A run of Weights & Biases: offline, in `<folder>/wandb`, unless WANDB_MODE or a key says otherwise."""

    def __init__(self, folder: Path, *, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name="/".join(folder.parts[-3:]),
            dir=str(folder),
            config=dict(config),
            mode=None if "WANDB_MODE" in os.environ or wandb.api.api_key else "offline",
            settings=wandb.Settings(silent=True),
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def create_loggers(
    config: LoggerConfig, folder: Path, *, first_step: int, full_config: Mapping[str, Any]
) -> list[Logger]:
    """The loggers that the configuration names besides metrics.csv."""
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, first_step=first_step))
    if config.wandb:
        loggers.append(WandbLogger(folder, project=config.project, config=full_config))
    return loggers


def write_metrics(folder: Path, history: list[dict[str, float]]) -> None:
    """Writes metrics.csv, a row an epoch; floats are written so that reading gives the same bits."""
    table = pd.DataFrame(history)
    write_atomically(folder / "metrics.csv", lambda file: table.to_csv(file, index=False))


class ProgressDisplay:
    """A bar on a terminal: epoch, step, loss, images/s, time left; elsewhere only the line an epoch."""

    def __init__(self, console: Console, *, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._console = console
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s"),
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

    def loss(self, loss: float, *, images_per_second: float) -> None:
        """At the logging interval: the mean loss of the epoch so far, and the speed."""
        self._bar.update(self._task, loss=f"{loss:.3f}", speed=f"{images_per_second:,.0f}")

    def epoch(self, row: Mapping[str, float]) -> None:
        """At the end of an epoch: its row of metrics.csv, as a line."""
        self.loss(row["train_loss"], images_per_second=row["images_per_second"])
        self._console.print(
            f"epoch {row['epoch']:>{len(str(self._epochs))}.0f}/{self._epochs}"
            f"  loss {row['train_loss']:.3f}"
            f"  test error {100 * row['test_error']:5.2f} %"
            f"  AURRA {100 * row['test_aurra']:5.2f} %"
            f"  RMS calibration error {100 * row['test_rms_calibration_error']:5.2f} %"
            f"  lr {row['learning_rate']:.3g}"
            f"  {row['images_per_second']:,.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )

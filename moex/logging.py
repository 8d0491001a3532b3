"""What a run tells while it trains: a progress bar or a line an epoch, metrics.csv, TensorBoard, W&B."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moex.checkpoint import write_atomically, write_text_atomically
from moex.config import LoggerConfig, flatten

# Seconds that an upload to W&B may take at the end of a run; what is left stays in the folder for `wandb sync`.
UPLOAD_PATIENCE = 300


class Logger(Protocol):
    """Where a run's numbers and figures go. Steps are counted over the whole run, all its sessions."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Records scalars at a step."""

    def finish(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """Records the figures, and the hyper-parameters with the final metrics, of a run that is complete.

        Args:
            result: what `result.json` holds.
            figures: pictures in PNG.
            step: the last one.
        """

    def close(self, *, finished: bool) -> None:
        """Writes what is buffered; a run that is not `finished` may be continued in another session."""


class TensorBoardLogger:
    """Event files for TensorBoard, in `<folder>/tensorboard`."""

    def __init__(self, folder: Path, *, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed session logged after its last checkpoint, at step `done`, is trained and logged again.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # A checkpoint that follows must not outlive what was logged before it.
        self._writer.flush()

    def finish(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        for name, path in _named(figures).items():
            with Image.open(path) as image:
                self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")
        # add_hparams opens a second file, and TensorBoard goes on to it for good.
        self._writer.flush()
        # In this very folder: one of their own would be a second run to TensorBoard.
        self._writer.add_hparams(
            _hyper_parameters(result["config"]), _final_metrics(result), run_name=".", global_step=step
        )

    def close(self, *, finished: bool) -> None:
        """See `Logger`."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases: offline, in `<folder>/wandb`, unless WANDB_MODE or a key says otherwise.

    Every session of a run has the same id, which lies in `<folder>/wandb/id`. W&B counts its own steps and takes
    none back, so ours are a value of each row, `global_step`, which its charts take as their abscissa.
    """

    def __init__(self, folder: Path, *, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        self._run = wandb.init(
            id=_wandb_id(folder),
            resume="allow",
            project=project,
            name="/".join(folder.parts[-3:]),
            dir=str(folder),
            config=dict(config),
            mode=None if "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False) else "offline",
            settings=wandb.Settings(silent=True, finish_timeout=UPLOAD_PATIENCE, finish_timeout_raises=True),
        )
        self._run.define_metric("*", step_metric="global_step")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        self._run.log({**values, "global_step": step})

    def finish(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        import wandb

        images = {name: wandb.Image(str(path)) for name, path in _named(figures).items()}
        self._run.log({**images, "global_step": step})
        self._run.summary.update(_final_metrics(result))

    def close(self, *, finished: bool) -> None:
        """See `Logger`."""
        self._run.finish(exit_code=0 if finished else 1)


class Loggers:
    """The loggers of a run as one, closed at the end of its `with` block, however that ends.

    A logger that fails, at whatever it does, is reported in a line and left out from then on: the run goes on.
    """

    def __init__(self, factories: Mapping[str, Callable[[], Logger]], *, console: Console) -> None:
        """Opens each logger.

        Args:
            factories: by the name that a report calls it, what opens a logger.
            console: where failures are reported.
        """
        self._console = console
        self._loggers: dict[str, Logger] = {}
        for name, create in factories.items():
            try:
                self._loggers[name] = create()
            except Exception as error:
                self._report(name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda logger: logger.close(finished=error is None))

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.log(values, step=step))

    def finish(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.finish(result, figures=figures, step=step))

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:
                del self._loggers[name]
                self._report(name, error)
                # What it has recorded so far may still be saved.
                with suppress(Exception):
                    logger.close(finished=False)

    def _report(self, name: str, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self._console.print(
            f"warning: {name} failed ({reason}): the run goes on without it",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def create_loggers(
    config: LoggerConfig, folder: Path, *, done: int, full_config: Mapping[str, Any], console: Console
) -> Loggers:
    """Opens the loggers that the configuration names besides metrics.csv, for a run with `done` steps behind it."""
    factories: dict[str, Callable[[], Logger]] = {}
    if config.tensorboard:
        factories["TensorBoard"] = lambda: TensorBoardLogger(folder, done=done)
    if config.wandb:
        factories["W&B"] = lambda: WandbLogger(folder, project=config.project, config=full_config)
    return Loggers(factories, console=console)


def _hyper_parameters(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """A whole configuration as dotted keys, with values that TensorBoard takes; None is no value to it."""
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in flatten(dict(config)).items()
        if value is not None
    }


def _final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {f"{which}/{name}": value for which in ("last", "best") for name, value in result[which].items()}


def _named(figures: Sequence[Path]) -> dict[str, Path]:
    return {f"figures/{path.stem}": path for path in figures}


def _wandb_id(folder: Path) -> str:
    """The id of a run in its project: drawn in the first session, and read in those that continue it."""
    path = folder / "wandb" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, secrets.token_hex(8))
    return path.read_text()


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

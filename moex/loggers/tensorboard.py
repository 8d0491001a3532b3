"""TensorBoard."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moex.loggers.base import LoggerSettings, final_metrics, named_figures
from moex.metrics import summarise
from moex.settings import flatten


@dataclass
class TensorBoardSettings(LoggerSettings):
    """There is nothing to set."""

    name = "tensorboard"
    title = "TensorBoard"

    def open(self, folder: Path, *, done: int, config: Mapping[str, Any]) -> "TensorBoardLogger":
        """See `LoggerSettings`."""
        return TensorBoardLogger(folder, done=done, config=config)


class TensorBoardLogger:
    """Event files for TensorBoard, in `<folder>/tensorboard`."""

    def __init__(self, folder: Path, *, done: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        events = folder / "tensorboard"
        _await_new_second(events)
        # What a killed session logged after its last checkpoint, at step `done`, is trained and logged again.
        self._writer: Any = SummaryWriter(str(events), purge_step=done + 1)
        # Into this very file: SummaryWriter.add_hparams opens one of its own, and that at the end alone.
        *begin, self._end = summary.hparams(_hyper_parameters(config), dict.fromkeys(_final_names(), 0.0))
        self._add(*begin)
        self._writer.flush()

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # A checkpoint that follows must not outlive what was logged before it.
        self._writer.flush()

    def log_result(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        for name, path in named_figures(figures).items():
            with Image.open(path) as image:
                self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")
        for name, value in final_metrics(result).items():
            self._writer.add_scalar(name, value, step)
        self._add(self._end)

    def close(self, *, finished: bool) -> None:
        """See `Logger`."""
        self._writer.close()

    def _add(self, *summaries: Any) -> None:
        for each in summaries:
            self._writer.file_writer.add_summary(each)


def _await_new_second(folder: Path) -> None:
    """TensorBoard reads a folder's files by name: the second of their creation, then the host and the process."""
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.01)


def _final_names() -> list[str]:
    """What `final_metrics` will name."""
    names = ("epoch", *summarise([[1.0, 0.0]], [0]))
    return [f"{which}/{name}" for which in ("last", "best") for name in names]


def _hyper_parameters(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """A configuration as dotted keys, with values that TensorBoard takes; None is no value to it."""
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in flatten(dict(config)).items()
        if value is not None
    }

"""TensorBoard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moex.loggers.base import LoggerSettings, final_metrics, named_figures
from moex.settings import flatten


@dataclass
class TensorBoardSettings(LoggerSettings):
    """There is nothing to set."""

    name = "tensorboard"
    title = "TensorBoard"

    def open(self, folder: Path, *, done: int, config: Mapping[str, Any]) -> "TensorBoardLogger":
        """See `LoggerSettings`."""
        return TensorBoardLogger(folder, done=done)


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

    def log_result(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        for name, path in named_figures(figures).items():
            with Image.open(path) as image:
                self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")
        # add_hparams opens a second file, and TensorBoard goes on to it for good.
        self._writer.flush()
        # In this very folder: one of their own would be a second run to TensorBoard.
        self._writer.add_hparams(
            _hyper_parameters(result["config"]), final_metrics(result), run_name=".", global_step=step
        )

    def close(self, *, finished: bool) -> None:
        """See `Logger`."""
        self._writer.close()


def _hyper_parameters(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """A whole configuration as dotted keys, with values that TensorBoard takes; None is no value to it."""
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in flatten(dict(config)).items()
        if value is not None
    }

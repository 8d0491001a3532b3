"""What a logger is, and the loggers of a run as one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from rich.console import Console

from moex.settings import require


class Logger(Protocol):
    """Where a run's numbers and figures go. Steps are counted over the whole run, all its sessions."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Records scalars at a step."""

    def log_result(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """Records the figures and the final metrics of a run that is complete.

        Args:
            result: what `result.json` holds.
            figures: pictures in PNG.
            step: the last one.
        """

    def close(self, *, finished: bool) -> None:
        """Writes what is buffered; a run that is not `finished` may be continued in another session."""


@dataclass
class LoggerSettings:
    """The settings of one logger, which open it; a subclass in a file of this folder is found by its `name`.

    Attributes:
        name: its key in `logger.use`.
        title: what reports call it.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def open(self, folder: Path, *, done: int, config: Mapping[str, Any]) -> Logger:
        """Opens the logger for a session of a run.

        Args:
            folder: the run's.
            done: steps that former sessions have behind them.
            config: the run's configuration, nested, as far as it is in use.
        """
        raise NotImplementedError


@dataclass
class LoggerConfig:
    """Loggers besides metrics.csv, by name, with their settings; and the steps between two readings of the loss."""

    every_steps: int = 50
    use: dict[str, LoggerSettings] = field(default_factory=dict)

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        require(self.every_steps >= 1, f"{key}.every_steps", self.every_steps, "1 or more")


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

    def log_result(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.log_result(result, figures=figures, step=step))

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


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the last and of the best epoch by the names that loggers give them."""
    return {f"{which}/{name}": value for which in ("last", "best") for name, value in result[which].items()}


def named_figures(figures: Sequence[Path]) -> dict[str, Path]:
    """Pictures by the names that loggers give them."""
    return {f"figures/{path.stem}": path for path in figures}

"""Where a run's numbers go besides metrics.csv: a file of this folder is a logger, found by its name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from moex.loggers.base import Logger, LoggerConfig, Loggers, LoggerSettings
from moex.loggers.progress import ProgressDisplay
from moex.registry import find_classes

__all__ = [
    "Logger",
    "LoggerConfig",
    "LoggerSettings",
    "Loggers",
    "ProgressDisplay",
    "find",
    "names",
    "open_loggers",
]


def names() -> list[str]:
    """The loggers of this folder."""
    return list(find_classes(__name__, LoggerSettings))


def find(name: str) -> type[LoggerSettings]:
    """The settings of a logger.

    Raises:
        ValueError: there is no such logger.
    """
    known = find_classes(__name__, LoggerSettings)
    if name not in known:
        raise ValueError(f"there is no logger {name!r}: logger.use may have {', '.join(known)}")
    return known[name]


def open_loggers(
    settings: LoggerConfig, folder: Path, *, done: int, config: Mapping[str, Any], console: Console
) -> Loggers:
    """Opens the loggers of a session of a run.

    Args:
        settings: which loggers.
        folder: the run's.
        done: steps that former sessions have behind them.
        config: the run's configuration, nested, as far as it is in use.
        console: where failures are reported.
    """
    factories: dict[str, Callable[[], Logger]] = {
        logger.title: partial(logger.open, folder, done=done, config=config) for logger in settings.use.values()
    }
    return Loggers(factories, console=console)

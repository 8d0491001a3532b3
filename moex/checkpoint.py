"""A run's checkpoints: which there are, how they are saved, and what is read of a damaged one."""

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moex.files import flush_folder, saving, verify_archive, write_aside, write_atomically
from moex.settings import require

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@dataclass
class CheckpointConfig:
    """When to save besides the end of each epoch, and every which epoch's checkpoint stays; null: never, none."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0
    keep_every_epochs: int | None = None

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        for name, span in vars(self).items():
            require(span is None or span > 0, f"{key}.{name}", span, "more than 0, or null")


def write_last(folder: Path, state: dict[str, Any]) -> None:
    """Saves plain containers and tensors as `last.pt`; the former one becomes `previous.pt`.

    Raises:
        SaveError: the former one is whole, as `last.pt` or as `previous.pt`.
    """
    last = folder / LAST
    with saving(last):
        folder.mkdir(parents=True, exist_ok=True)
        aside = write_aside(last, lambda file: torch.save(state, file))
        if last.exists():
            last.replace(folder / PREVIOUS)
        aside.replace(last)
        flush_folder(folder)


def write_best(folder: Path, state: dict[str, Any]) -> None:
    """Saves `best.pt`.

    Raises:
        SaveError: the former one is whole.
    """
    _write_as(folder / BEST, state)


def write_epoch(folder: Path, state: dict[str, Any], *, epoch: int) -> None:
    """Saves `epoch0010.pt` and the like, which no later save replaces.

    Raises:
        SaveError: there is none.
    """
    _write_as(folder / f"epoch{epoch:04}.pt", state)


def present(folder: Path) -> list[Path]:
    """The checkpoints that a run may continue from, the newest first."""
    return [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]


def load(folder: Path, *, report: Callable[[str], object]) -> dict[str, Any] | None:
    """The newest whole checkpoint of a folder, on the CPU; None if there never was one.

    Where there is a whole one to fall back to, the damaged one is kept under another name, so that no later save
    puts it in the place of the whole one.

    Args:
        folder: where `write_last` wrote.
        report: told, in one line, about each damaged file.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    found = present(folder)
    damaged: list[tuple[Path, ValueError]] = []
    for path in found:
        try:
            state = read(path)
        except ValueError as error:
            damaged.append((path, error))
            continue
        for other, fault in damaged:
            other.replace(other.with_name(other.name + ".damaged"))
            report(f"{fault}: kept as {other.name}.damaged, going on from the one before it")
        return state
    if found:
        raise ValueError(
            f"no checkpoint in {folder} is whole: delete {folder.parent} to start this run from its beginning"
        )
    return None


def read(path: Path) -> dict[str, Any]:
    """One checkpoint, its checksums verified, on the CPU.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        verify_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    return state


def _write_as(path: Path, state: dict[str, Any]) -> None:
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: torch.save(state, file))

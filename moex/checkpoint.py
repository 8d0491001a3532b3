"""Checkpoints that survive a kill at any moment: written aside, flushed to disk, then renamed."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whatever happens, `path` holds either its old content or the whole new one."""
    _write_aside(path, write).replace(path)
    _flush_folder(path.parent)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Saves plain containers and tensors as `last.pt`; the former one becomes `previous.pt`."""
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    aside = _write_aside(last, lambda file: torch.save(state, file))
    if last.exists():
        last.replace(folder / PREVIOUS)
    aside.replace(last)
    _flush_folder(folder)


def save_best(folder: Path, state: dict[str, Any]) -> None:
    """Saves `best.pt`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / BEST, lambda file: torch.save(state, file))


def load(folder: Path, *, report: Callable[[str], object]) -> dict[str, Any] | None:
    """The newest whole checkpoint of a folder, on the CPU; None if there never was one.

    Where there is a whole one to fall back to, the damaged one is kept under another name, so that no later save
    puts it in the place of the whole one.

    Args:
        folder: where `save` saved.
        report: told, in one line, about each damaged file.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    found = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
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
        # torch.load does not verify the checksums that its zip archive holds: a flipped bit would pass.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    return state


def _write_aside(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    return aside


def _flush_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

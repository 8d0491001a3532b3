"""A run's checkpoints: which there are, how they are saved, and what is read of a damaged one.

Each holds a checksum of its content, beside those of the archive that it is. What was saved by a version without it
is read by the archive's alone.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moex.files import flush_folder, saving, verify_archive, write_aside, write_atomically
from moex.settings import require

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
# Where a checkpoint keeps the checksum of all else that it holds.
CHECKSUM = "content_checksum"


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
        aside = write_aside(last, lambda file: _dump(state, file))
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
    kept = sorted(folder.glob("epoch*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)
    return [path for path in (folder / LAST, folder / PREVIOUS, *kept) if path.exists()]


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that can be read; None if there is none."""
    for path in present(folder):
        with suppress(ValueError):
            read(path)
            return path
    return None


def load(
    folder: Path, *, check: Callable[[dict[str, Any]], object], report: Callable[[str], object]
) -> dict[str, Any] | None:
    """The newest whole checkpoint of a folder, on the CPU; None if there never was one.

    Where there is a whole one to fall back to, the damaged one is kept under another name, so that no later save
    puts it in the place of the whole one.

    Args:
        folder: where `write_last` wrote.
        check: raises `ValueError` for a content that is not the run's.
        report: told, in one line, about each damaged file.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    damaged: list[tuple[Path, ValueError]] = []
    for path in present(folder):
        try:
            state = read(path, check=check)
        except ValueError as error:
            damaged.append((path, error))
            continue
        for other, fault in damaged:
            other.replace(other.with_name(other.name + ".damaged"))
            report(f"{fault}: kept as {other.name}.damaged, going on from the one before it")
        return state
    if damaged:
        raise ValueError(
            f"no checkpoint in {folder} is whole: {damaged[0][1]}. Put a whole one there as {LAST}, or move "
            f"{folder.parent} elsewhere to begin this run anew"
        )
    return None


def read(path: Path, *, check: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    """One checkpoint, its checksums verified, on the CPU.

    Args:
        path: its file.
        check: raises `ValueError` for a content that is not what it has to be.

    Raises:
        ValueError: the file is missing or damaged, or its content is another.
    """
    try:
        verify_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]})") from None
    try:
        verify_content(state)
        check(state)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    return state


def verify_content(state: Any) -> None:
    """Takes the checksum out of what a checkpoint holds, and compares it with the rest.

    Raises:
        ValueError: it is another's, a number is not finite, or the content is none of a checkpoint.
    """
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not a dictionary")
    given = state.pop(CHECKSUM, None)
    if given is not None and given != content_checksum(state):
        raise ValueError("bad checksum of its content")
    for name, value in _leaves(state):
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} is not finite")


def content_checksum(state: Mapping[str, Any]) -> str:
    """A checksum of all tensors and values in plain containers, with their names and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _leaves(state):
        is_tensor = isinstance(value, Tensor)
        digest.update(f"{name} {(value.dtype, tuple(value.shape)) if is_tensor else repr(value)};".encode())
        if is_tensor:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What plain containers hold, by dotted names; an empty one is a leaf."""
    items = content.items() if isinstance(content, Mapping) else enumerate(content)
    for key, value in items:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping | list | tuple) and len(value):
            yield from _leaves(value, path)
        else:
            yield path, value


def _dump(state: dict[str, Any], file: Any) -> None:
    torch.save(state | {CHECKSUM: content_checksum(state)}, file)


def _write_as(path: Path, state: dict[str, Any]) -> None:
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: _dump(state, file))

"""Files that survive a kill at any moment: written aside, flushed to disk, then renamed."""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from moex.leftovers import remember


class SaveError(OSError):
    """A file could not be written: the disk is full, a quota is used up, or the file system is read-only."""


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Names the file, where the system refuses to write it.

    Raises:
        SaveError: in the place of any `OSError` inside.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whatever happens, `path` holds either its old content or the whole new one.

    Raises:
        SaveError: it holds the old one.
    """
    with saving(path):
        write_aside(path, write).replace(path)
        flush_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text, in UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a file beside `path`, to be renamed, flushes it and returns where it is.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    # Into memory first: where a disk is full, torch.save hides that behind an error about its own archive.
    content = io.BytesIO()
    write(content)
    aside = path.with_name(path.name + ".tmp")
    remember(aside)
    try:
        with aside.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # A read-only file system refuses this as well.
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    return aside


def flush_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_archive(path: Path) -> None:
    """Verifies the checksums in a zip archive, such as torch.save writes; torch.load lets a flipped bit pass.

    Raises:
        zipfile.BadZipFile: it is damaged, or no such archive.
        OSError: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"bad checksum of {damaged}")

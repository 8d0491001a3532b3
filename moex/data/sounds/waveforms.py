"""WAV files as waveforms of one rate and width: what is converted on the way, and what is refused."""

import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moex.data.naming import first
from moex.data.sounds.spectrogram import RATE

Waveform = npt.NDArray[np.int16]

# Of int16: what the loudest sample, 1, is.
FULL_SCALE = 32_768
# The size that stands in the header of a file whose writer did not know it.
UNKNOWN = 0xFFFFFFFF


class Reading(NamedTuple):
    """A waveform, int16 `[T]`, and what had to be done to it: nothing where it was mono, 16 bit and 16 kHz."""

    waveform: Waveform
    converted: str


@dataclass(frozen=True)
class Unreadable:
    """Why a file is refused."""

    reason: str


def read_waveform(path: str, *, seconds: float | None = None) -> Reading:
    """Reads a WAV file, at most so many seconds of it.

    Other rates are resampled, channels are averaged, and other widths, floating point too, rounded to 16 bit, all
    that is louder than 1 clipped.

    Args:
        path: of the file.
        seconds: what is longer is cut, and what is shorter stays so; None: all of it.

    Raises:
        ValueError: it is empty, cut off, damaged, no sound, or holds numbers that are none.
        OSError: it cannot be opened.
    """
    import soundfile

    _check_whole(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, kind, frames = file.samplerate, file.channels, file.subtype, file.frames
            is_plain = channels == 1 and kind == "PCM_16"
            wanted = -1 if seconds is None else round(seconds * rate)
            values = file.read(wanted, dtype="int16" if is_plain and rate == RATE else "float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(error.error_string.removesuffix(".")) from None
    if not len(values):
        raise ValueError("it has no samples")
    done = [f"{channels} channels"] * (channels > 1) + [kind] * (kind != "PCM_16") + [f"{rate:,} Hz"] * (rate != RATE)
    if 0 <= wanted < frames:
        done.append(f"{frames / rate:.2f} s")
    if values.dtype == np.int16:
        return Reading(values[:, 0], ", ".join(done))
    if not np.isfinite(values).all():
        raise ValueError("it has samples that are not finite")
    return Reading(_to_int16(_resample(values.mean(1), rate)), ", ".join(done))


def read_waveforms(paths: Sequence[str], *, seconds: float | None, where: str) -> Iterator[Waveform]:
    """Reads many files, and warns of those that were converted or cut when all are read.

    Args:
        paths: of the files, below `where`.
        seconds: of each at most; None: all.
        where: they lie, for messages.

    Yields:
        The waveforms in the order of the paths.

    Raises:
        ValueError: at the end, where some cannot be read: the first of them, and how many.
    """
    refused, converted = [], []
    # libsndfile works outside Python's lock, and a disk answers several questions at a time.
    with ThreadPoolExecutor() as pool:
        for path, reading in zip(paths, pool.map(partial(_try, seconds=seconds), paths), strict=True):
            name = path.removeprefix(f"{where}/")
            if isinstance(reading, Unreadable):
                refused.append(f"{name} ({reading.reason})")
                continue
            if reading.converted:
                converted.append(f"{name} ({reading.converted})")
            yield reading.waveform
    if refused:
        raise ValueError(f"{where}: {len(refused)} of {len(paths)} recordings cannot be read: {first(refused)}")
    if converted:
        limit = "" if seconds is None else f" and {seconds:g} s at most"
        # What is to be looked at lies there, not in the code.
        warnings.warn_explicit(
            f"{len(converted)} of {len(paths)} recordings are converted to mono, 16 bit, {RATE:,} Hz{limit}: "
            f"{first(converted)}",
            UserWarning,
            where,
            0,
        )


def of_length(waveforms: Iterable[Waveform], count: int, length: int) -> npt.NDArray[np.int16]:
    """So many waveforms one below the other, int16 `[count, length]`: cut at the end, or continued by silence."""
    stacked = np.zeros((count, length), dtype=np.int16)
    for row, waveform in enumerate(waveforms):
        stacked[row, : len(waveform)] = waveform[:length]
    return stacked


def _try(path: str, *, seconds: float | None) -> Reading | Unreadable:
    try:
        return read_waveform(path, seconds=seconds)
    except (ValueError, OSError) as error:
        return Unreadable(getattr(error, "strerror", None) or str(error))


def _check_whole(path: str) -> None:
    """Refuses a file that ends before its header says; libsndfile would take what is there for all."""
    with Path(path).open("rb") as file:
        header, size = file.read(8), file.seek(0, 2)
    if not size:
        raise ValueError("it is empty")
    if len(header) == 8 and header[:4] == b"RIFF":
        (promised,) = struct.unpack("<I", header[4:])
        # Some writers count a byte of padding and leave it out.
        if promised != UNKNOWN and promised + 8 > size + 1:
            raise ValueError(f"it is cut off: {size:,} of {promised + 8:,} bytes")


def _resample(values: npt.NDArray[np.float64], rate: int) -> npt.NDArray[np.float64]:
    if rate == RATE:
        return values
    import soxr

    resampled: npt.NDArray[np.float64] = soxr.resample(values, rate, RATE)
    return resampled


def _to_int16(values: npt.NDArray[np.float64]) -> Waveform:
    return np.clip(np.rint(values * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)

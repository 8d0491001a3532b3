"""Background noise: which of it may be heard in which split, and the silence that is cut from it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moex.data.dataset import TEST, TRAIN, VALIDATION
from moex.data.sounds.spectrogram import RATE

Sound = npt.NDArray[np.int16]

# A stretch of noise of about so many seconds gives a part to each split.
STRETCH = 20
SHARES = {TRAIN: 0.8, VALIDATION: 0.1, TEST: 0.1}
# Silence is the same for every seed of a run: it belongs to the data set.
SEEDS = {TRAIN: 0, VALIDATION: 1, TEST: 2}


@dataclass(frozen=True)
class Noise:
    """Noise by the split in which it may be heard.

    Attributes:
        parts: sounds of each split, int16 `[T]`, each of a second or more.
    """

    parts: dict[str, list[Sound]]

    def seconds(self, split: str) -> Sound:
        """The whole seconds of a split, `[K, RATE]`."""
        whole = [part[: len(part) // RATE * RATE].reshape(-1, RATE) for part in self.parts[split]]
        return np.concatenate(whole or [np.empty((0, RATE), dtype=np.int16)])

    def cut(self, split: str, count: int) -> Sound:
        """So many seconds of a split, `[count, RATE]`, each beginning anywhere."""
        generator, parts = np.random.default_rng(SEEDS[split]), self.parts[split]
        cuts = np.empty((count, RATE), dtype=np.int16)
        for cut in cuts:
            part = parts[generator.integers(len(parts))]
            begin = generator.integers(len(part) - RATE + 1)
            cut[:] = part[begin : begin + RATE]
        return cuts


def together(sounds: Iterable[Sound]) -> Noise:
    """Noise that is for training, all of it, one recording after the other."""
    joined = np.concatenate([*sounds])
    return Noise({TRAIN: [joined] if len(joined) >= RATE else []})


def share_out(sounds: Iterable[Sound], *, where: str) -> Noise:
    """Noise of which each split has parts of its own, from all of the recordings.

    Raises:
        ValueError: it is too short for that.
    """
    joined = np.concatenate([*sounds])
    stretches = max(1, len(joined) // (STRETCH * RATE))
    parts: dict[str, list[Sound]] = {split: [] for split in SHARES}
    for stretch in np.array_split(joined, stretches):
        ends = np.rint(np.cumsum(list(SHARES.values())) * len(stretch)).astype(int)
        for split, part in zip(SHARES, np.split(stretch, ends[:-1]), strict=True):
            parts[split].append(part)
    if min(len(part) for theirs in parts.values() for part in theirs) < RATE:
        raise ValueError(
            f"{where} holds {len(joined) / RATE:.1f} s of background noise: silence is cut from "
            f"{1 / min(SHARES.values()):g} s or more, or made of zeros, with dataset.silence=zeros"
        )
    return Noise(parts)

"""The published augmentation of recordings: what may happen, and what is drawn for all samples of a batch at once.

In this order, each with its probability: amplitude; speed, and pitch with it; a stretch of the transform in time, the
pitch left as it is; a shift in time; background noise, which is changed in the same four ways first.

Source: the public baseline of Speech Commands that docs/data.md names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moex.data.sounds.spectrogram import FRAMES
from moex.settings import require

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Speeds are steps of so small a part, so that positions in a waveform are whole numbers: the same on every device.
STEP = 2**16


@dataclass
class Chance:
    """A change that happens to some samples, by a strength that is uniform in a range.

    Attributes:
        probability: with which it happens to a sample.
        low: the lowest strength.
        high: the highest.
    """

    probability: float = 0.5
    low: float = 0.0
    high: float = 0.0

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        require(0 <= self.probability <= 1, f"{key}.probability", self.probability, "a probability, from 0 to 1")
        require(self.low <= self.high, f"{key}.low", self.low, f"{key}.high, {self.high}, or less")

    def check_range(self, key: str, low: float, high: float) -> None:
        """Refuses a range that leads out of another one."""
        for name, value in (("low", self.low), ("high", self.high)):
            require(low <= value <= high, f"{key}.{name}", value, f"from {low:g} to {high:g}")

    def draw(self, size: int, generator: np.random.Generator, *, unchanged: float) -> Floats:
        """The strengths of so many samples, `unchanged` where nothing happens."""
        happens = generator.random(size) < self.probability
        return np.where(happens, generator.uniform(self.low, self.high, size), unchanged)

    def draw_whole(self, size: int, generator: np.random.Generator) -> Integers:
        """The same of whole numbers, both ends included, 0 where nothing happens."""
        happens = generator.random(size) < self.probability
        return np.where(happens, generator.integers(round(self.low), round(self.high) + 1, size), 0)


@dataclass(frozen=True)
class Changes:
    """What becomes of some waveforms but for the noise.

    Attributes:
        gains: that they are multiplied with, `[n]`.
        steps: from one sample of the waveform to the next that is heard, in parts of `STEP`, `[n]`.
        rates: from one frame of the transform to the next that is heard, `[n]`.
        shifts: by how many frames they come earlier, `[n]`.
    """

    gains: Floats
    steps: Integers
    rates: Floats
    shifts: Integers

    @property
    def lengths(self) -> Integers:
        """How many frames a stretched transform has, `[n]`."""
        return np.ceil(FRAMES / self.rates).astype(np.int64)

    @classmethod
    def none(cls, size: int) -> "Changes":
        """Nothing becomes of so many."""
        return cls(np.ones(size), np.full(size, STEP), np.ones(size), np.zeros(size, dtype=np.int64))

    def scale(self, shares: Floats) -> "Changes":
        """The same, and so much of each, `[n]`."""
        return replace(self, gains=self.gains * shares)

    def join(self, other: "Changes") -> "Changes":
        """These and others."""
        theirs = vars(other)
        return Changes(**{name: np.concatenate([values, theirs[name]]) for name, values in vars(self).items()})

    def take(self, rows: Integers) -> "Changes":
        """Those of some."""
        return Changes(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Draws:
    """All that is drawn for a batch.

    Attributes:
        own: what becomes of the samples.
        noise: what becomes of the noise that they may get.
        clips: which second of noise that is, `[n]`.
        shares: that the noise has in what is heard, 0 where there is none, `[n]`.
    """

    own: Changes
    noise: Changes
    clips: Integers
    shares: Floats

    @classmethod
    def none(cls, size: int) -> "Draws":
        """Nothing becomes of so many."""
        return cls(Changes.none(size), Changes.none(size), np.zeros(size, dtype=np.int64), np.zeros(size))

    def take(self, rows: Integers) -> "Draws":
        """Those of some samples."""
        return Draws(self.own.take(rows), self.noise.take(rows), self.clips[rows], self.shares[rows])


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample; the ranges are those of the settings of the same names."""

    amplitude: Chance
    speed: Chance
    stretch: Chance
    shift: Chance
    noise: Chance

    def draw(self, size: int, *, clips: int, generator: np.random.Generator) -> Draws:
        """Draws for a whole batch.

        Args:
            size: of the batch.
            clips: how many seconds of noise there are; without any, none is heard.
            generator: draws.
        """
        own, noise = (self._draw_changes(size, generator) for _ in range(2))
        chosen = generator.integers(0, max(clips, 1), size)
        shares = self.noise.draw(size, generator, unchanged=0.0)
        return Draws(own, noise, chosen, shares if clips else np.zeros(size))

    def _draw_changes(self, size: int, generator: np.random.Generator) -> Changes:
        gains = self.amplitude.draw(size, generator, unchanged=1.0)
        # Slower by a tenth: a tenth more samples, each so much nearer to the last.
        slower = 1 + self.speed.draw(size, generator, unchanged=0.0)
        rates = 1 + self.stretch.draw(size, generator, unchanged=0.0)
        shifts = self.shift.draw_whole(size, generator)
        return Changes(gains, np.rint(STEP / slower).astype(np.int64), rates, shifts)


def check_augmentation(key: str, settings: Mapping[str, Chance]) -> None:
    """Refuses ranges that cannot be, by the names of the changes."""
    limits = {
        "amplitude": (0.0, np.inf),
        "speed": (-0.5, 1.0),
        "stretch": (-0.5, 1.0),
        "shift": (-(FRAMES - 1), FRAMES - 1),
        "noise": (0.0, 1.0),
    }
    for name, (low, high) in limits.items():
        settings[name].check_range(f"{key}.{name}", low, high)
    for name in ("low", "high"):
        value = getattr(settings["shift"], name)
        require(value == round(value), f"{key}.shift.{name}", value, "a whole number of frames")

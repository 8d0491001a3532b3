"""Recordings that lie on the device, from which batches of spectrograms are made."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moex.data.sounds.augmentation import Augmentation, Draws
from moex.data.sounds.changes import (
    Planes,
    change_power,
    change_waveforms,
    on_device,
    shift,
    stretch,
)
from moex.data.sounds.spectrogram import BANDS, FRAMES, Spectrograms, decibels, frames_of, power_of
from moex.data.sounds.waveforms import FULL_SCALE
from moex.data.source import Request, ResidentSource

# So many transforms at once fit any device.
AT_ONCE = 64


@dataclass(frozen=True)
class Recordings:
    """Waveforms, and the noise that may be heard behind them: the inputs of `moex.data.Samples`.

    Attributes:
        waveforms: int16 `[N, T]`.
        noise: seconds of background noise, int16 `[K, T]`; there may be none.
    """

    waveforms: npt.NDArray[np.int16]
    noise: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, which: Any) -> "Recordings":
        """Some of these: what a slice or an int64 array indexes."""
        return Recordings(self.waveforms[which], self.noise)


class ResidentSounds(ResidentSource):
    """Waveforms as int16 on the device; a batch is augmented and turned into spectrograms there."""

    def __init__(
        self,
        recordings: Recordings,
        labels: Tensor,
        *,
        augmentation: Augmentation,
        balanced: bool,
        mean: float,
        std: float,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        """Lays a set on the device.

        Args:
            recordings: of the set.
            labels: int64 `[N]`.
            augmentation: what may happen to them.
            balanced: whether an epoch has all classes equally often.
            mean: of decibels, which is taken off them.
            std: of decibels, by which they are divided then.
            device: where the set lives and batches are made.
            channels_last: the memory format of the batches.
        """
        self._waveforms = torch.from_numpy(recordings.waveforms).to(device)
        self._noise = torch.from_numpy(recordings.noise).to(device)
        self._labels, self._classes = labels.to(device), labels.numpy()
        self._augmentation, self._balanced = augmentation, balanced
        self._spectrograms = Spectrograms(device)
        self._mean, self._std = mean, std
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self._labels)

    def order(self, generator: np.random.Generator) -> Tensor:
        """A permutation; of a balanced epoch, as many draws with replacement, with equal chances for each class."""
        if not self._balanced:
            return super().order(generator)
        weights = 1 / np.bincount(self._classes)[self._classes]
        return torch.from_numpy(generator.choice(len(self), len(self), p=weights / weights.sum()))

    def batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """See `ResidentSource`."""
        samples = request.indices[request.share]
        draws = None
        if request.generator is not None:
            whole = self.draw(len(request.indices), request.generator)
            draws = whole.take(request.share.numpy())
        return self.look(samples, draws), self._labels[samples.to(self._labels.device, non_blocking=True)]

    def draw(self, size: int, generator: np.random.Generator, *, augmentation: Augmentation | None = None) -> Draws:
        """What becomes of a batch of so many samples, by this source's augmentation or by another one."""
        return (augmentation or self._augmentation).draw(size, clips=len(self._noise), generator=generator)

    def look(self, samples: Tensor, draws: Draws | None = None) -> Tensor:
        """What a network sees, float32 `[n, 1, BANDS, FRAMES]`.

        Args:
            samples: which, int64 `[n]`.
            draws: what becomes of them; None leaves them as they are.
        """
        samples = samples.to(self._labels.device, non_blocking=True)
        mel_power = self._mel_power(samples, Draws.none(len(samples)) if draws is None else draws)
        inputs = (decibels(mel_power) - self._mean) / self._std
        return inputs.contiguous(memory_format=self._memory_format)

    def listen(self, samples: Tensor, draws: Draws | None = None) -> Tensor:
        """The same for people: waveforms, float32 `[n, T]`."""
        samples = samples.to(self._labels.device)
        if draws is None:
            return self._waveforms[samples].float() / FULL_SCALE
        return self._spectrograms.invert(torch.complex(*self._hear(samples, draws)))

    def _mel_power(self, samples: Tensor, draws: Draws) -> Tensor:
        """The power in mel bands, `[n, FRAMES, BANDS]`: of each kind of samples by no more work than it needs."""
        kinds = np.where(draws.shares > 0, 2, draws.own.rates != 1)
        mel_power = self._noise.new_empty((len(samples), FRAMES, BANDS), dtype=torch.float32)
        for kind, make in enumerate((self._make_plain, self._make_stretched, self._make_noisy)):
            rows = np.flatnonzero(kinds == kind)
            if len(rows):
                places = on_device(rows, samples)
                mel_power.index_copy_(0, places, make(samples[places], draws.take(rows)))
        return mel_power

    def _make_plain(self, samples: Tensor, draws: Draws) -> Tensor:
        frames = shift(change_waveforms(self._waveforms[samples], draws.own), draws.own)
        return self._spectrograms.mel_power(power_of(self._spectrograms.transform(frames)))

    def _make_stretched(self, samples: Tensor, draws: Draws) -> Tensor:
        frames = frames_of(change_waveforms(self._waveforms[samples], draws.own))
        return self._spectrograms.mel_power(change_power(power_of(self._spectrograms.transform(frames)), draws.own))

    def _make_noisy(self, samples: Tensor, draws: Draws) -> Tensor:
        real, imaginary = self._hear(samples, draws)
        return self._spectrograms.mel_power(real.square_().add_(imaginary.square_()))

    def _hear(self, samples: Tensor, draws: Draws) -> Planes:
        """The transforms of samples with the noise behind them, `[n, FRAMES, BINS]`."""
        size, parts, changes = len(samples), [self._waveforms[samples]], draws.own.scale(1 - draws.shares)
        if draws.shares.any():
            parts.append(self._noise[on_device(draws.clips, samples)])
            changes = changes.join(draws.noise.scale(draws.shares))
        waveforms = change_waveforms(torch.cat(parts), changes)
        # A transform is linear: what is not stretched is added up before it is transformed.
        first, *others = shift(waveforms, changes).split(size)
        for other in others:
            first += other
        spectra = self._spectrograms.transform(first)
        heard = spectra.real.contiguous(), spectra.imag.contiguous()
        rows = np.flatnonzero(changes.rates != 1)
        if len(rows):
            frames = frames_of(waveforms.index_select(0, on_device(rows, samples)))
            stretched = stretch(self._spectrograms.transform(frames), changes.take(rows))
            # The sounds of a sample one after the other, so that the sum is the same each time.
            for part in range(len(parts)):
                theirs = np.flatnonzero(rows // size == part)
                index, places = on_device(theirs, samples), on_device(rows[theirs] % size, samples)
                for plane, addend in zip(heard, stretched, strict=True):
                    plane.index_add_(0, places, addend.index_select(0, index))
        return heard


def spectrograms_of(waveforms: npt.NDArray[np.int16], *, mean: float, std: float, device: torch.device) -> Tensor:
    """The spectrograms of recordings as they are, float32 `[N, 1, BANDS, FRAMES]` on the device.

    Args:
        waveforms: int16 `[N, T]`.
        mean: of decibels, which is taken off them.
        std: of decibels, by which they are divided then.
        device: where they are to be.
    """
    spectrograms = Spectrograms(device)
    parts = []
    for part in torch.from_numpy(waveforms).split(AT_ONCE):
        spectra = spectrograms.transform(frames_of(part.to(device).float() / FULL_SCALE))
        parts.append(decibels(spectrograms.mel_power(power_of(spectra))))
    return (torch.cat(parts) - mean) / std

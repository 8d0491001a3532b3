"""What a network sees of one second of sound: a picture of 32 mel bands by 32 frames, in decibels.

As librosa makes it and the public baseline of Speech Commands uses it: a centred short-time Fourier transform of
2,048 samples every 512, reflected at both ends; Slaney's mel bands, each of area one; decibels relative to the
loudest value of the recording, -80 at least.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RATE = 16_000
WINDOW = 2048
HOP = 512
BINS = WINDOW // 2 + 1
FRAMES = 1 + RATE // HOP
BANDS = 32
# Of power, below which nothing is told apart; waveforms lie in [-1, 1].
SMALLEST_POWER = 1e-10
RANGE = 80.0


class Spectrograms:
    """The transform of frames and its inverse, and its power in mel bands, on a device.

    Args:
        device: where the waveforms are.
    """

    def __init__(self, device: torch.device) -> None:
        from torchaudio.functional import melscale_fbanks

        self._window = torch.hann_window(WINDOW, device=device)
        bands = melscale_fbanks(BINS, 0.0, RATE / 2, BANDS, RATE, norm="slaney", mel_scale="slaney")
        self._bands = bands.to(device)

    def transform(self, frames: Tensor) -> Tensor:
        """The transform of frames, float32 `[n, FRAMES, WINDOW]`: complex `[n, FRAMES, BINS]`."""
        spectra: Tensor = torch.fft.rfft(frames * self._window)
        return spectra

    def invert(self, spectra: Tensor) -> Tensor:
        """The waveforms, float32 `[n, 16000]`, whose transform is nearest to these spectra `[n, FRAMES, BINS]`."""
        return torch.istft(spectra.transpose(1, 2), WINDOW, HOP, window=self._window, center=True, length=RATE)

    def mel_power(self, power: Tensor) -> Tensor:
        """The power in each mel band, `[n, FRAMES, BANDS]`, of that in each bin, `[n, FRAMES, BINS]`."""
        # A product for each recording: its bits do not depend on how many there are.
        return torch.bmm(power, self._bands.expand(len(power), -1, -1))


def frames_of(waveforms: Tensor) -> Tensor:
    """The frames of waveforms, float32 `[n, RATE]`, one every `HOP` samples: a view `[n, FRAMES, WINDOW]`."""
    return _padded(waveforms, rows=len(waveforms)).unfold(1, WINDOW, HOP)


def chosen_frames(waveforms: Tensor, chosen: npt.NDArray[np.int64]) -> Tensor:
    """Frames of waveforms, float32 `[n, RATE]`, in any order.

    Args:
        waveforms: `[n, RATE]`.
        chosen: of each row, which frames, `[n, k]`; -1 is silence.

    Returns:
        `[n, k, WINDOW]`.
    """
    padded = _padded(waveforms, rows=len(waveforms) + 1)
    length = padded.shape[1]
    padded[-1, :WINDOW] = 0.0
    rows = np.arange(len(chosen))[:, None] * length
    starts = torch.from_numpy(np.where(chosen < 0, len(waveforms) * length, rows + chosen * HOP).ravel())
    # Windows overlap, and none is there before it is chosen.
    windows = padded.view(-1).as_strided((padded.numel() - WINDOW + 1, WINDOW), (1, 1))
    return windows.index_select(0, starts.to(waveforms.device, non_blocking=True)).view(*chosen.shape, WINDOW)


def _padded(waveforms: Tensor, *, rows: int) -> Tensor:
    """Waveforms, reflected at both ends, `[rows, RATE + WINDOW]`; rows beyond them are not filled."""
    half, there = WINDOW // 2, len(waveforms)
    padded = waveforms.new_empty(rows, RATE + WINDOW)
    padded[:there, half:-half] = waveforms
    padded[:there, :half] = waveforms[:, 1 : half + 1].flip(1)
    padded[:there, -half:] = waveforms[:, -half - 1 : -1].flip(1)
    return padded


def decibels(mel_power: Tensor) -> Tensor:
    """Decibels relative to the maximum of each recording, from -80 to 0.

    Args:
        mel_power: `[n, FRAMES, BANDS]`.

    Returns:
        Float32 `[n, 1, BANDS, FRAMES]`.
    """
    level = 10 * mel_power.clamp(min=SMALLEST_POWER).log10().transpose(1, 2)[:, None]
    return (level - level.amax((2, 3), keepdim=True)).clamp(min=-RANGE)


def power_of(spectra: Tensor) -> Tensor:
    """The squared magnitude of complex numbers."""
    return spectra.real.square() + spectra.imag.square()

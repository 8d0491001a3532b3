"""What a network sees of one second of sound: a picture of 32 mel bands by 32 frames, in decibels.

As librosa makes it and the public baseline of Speech Commands uses it: a centred short-time Fourier transform of
2,048 samples every 512, reflected at both ends; Slaney's mel bands, each of area one; decibels relative to the
loudest value of the recording, -80 at least.
"""

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
    """The transform and its inverse, and the decibels of its power, on a device.

    Args:
        device: where the waveforms are.
    """

    def __init__(self, device: torch.device) -> None:
        from torchaudio.functional import melscale_fbanks

        self._window = torch.hann_window(WINDOW, device=device)
        bands = melscale_fbanks(BINS, 0.0, RATE / 2, BANDS, RATE, norm="slaney", mel_scale="slaney")
        self._bands = bands.to(device)

    def transform(self, waveforms: Tensor) -> Tensor:
        """The short-time Fourier transform of waveforms, float32 `[n, 16000]`: complex `[n, FRAMES, BINS]`."""
        spectra = torch.stft(
            waveforms, WINDOW, HOP, window=self._window, center=True, pad_mode="reflect", return_complex=True
        )
        return spectra.transpose(1, 2)

    def invert(self, spectra: Tensor) -> Tensor:
        """The waveforms, float32 `[n, 16000]`, whose transform is nearest to these spectra `[n, FRAMES, BINS]`."""
        return torch.istft(spectra.transpose(1, 2), WINDOW, HOP, window=self._window, center=True, length=RATE)

    def mel_power(self, power: Tensor) -> Tensor:
        """The power in each mel band, `[n, FRAMES, BANDS]`, of that in each bin, `[n, FRAMES, BINS]`."""
        # A product for each recording: its bits do not depend on how many there are.
        return torch.bmm(power, self._bands.expand(len(power), -1, -1))


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

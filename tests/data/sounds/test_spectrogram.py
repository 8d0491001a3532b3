"""Spectrograms against librosa's, of made and of real recordings.

Tolerance: librosa computes in float64 here. A float32 transform of 2,048 samples is off by less than 1e-6 of the
loudest bin, on any machine and by any library: it has 11 stages, of which each rounds by at most 6e-8. The quietest
band that is shown, 80 dB below the loudest, has 1e-4 of its amplitude, so that it would be off by 1 %, or 0.09 dB, if
all of its bins were off at the worst and to the same side. What is louder is nearer.
"""

import librosa
import numpy as np
import pytest
import soundfile
import torch
from sounds import look, to_int16, tone

from moex.data.sounds.source import spectrograms_of
from moex.data.sounds.spectrogram import BANDS, FRAMES, RATE, Spectrograms, frames_of

CPU = torch.device("cpu")
TOLERANCE = 0.09  # dB; on one machine it was 0.0004


def published(waveform):
    """What the public baseline makes of int16 samples, in float64."""
    return look(librosa.stft(waveform / 32768, n_fft=2048, hop_length=512, pad_mode="reflect"))


def waveforms():
    draws = np.random.default_rng(0)
    quiet = (draws.normal(size=RATE) * 3).astype(np.int16)
    loud = draws.integers(-32768, 32768, RATE).astype(np.int16)
    click = np.zeros(RATE, dtype=np.int16)
    click[9_000] = 32767
    return np.stack([*(to_int16(tone(seed)) for seed in range(5)), quiet, loud, click, np.zeros_like(click)])


def assert_alike(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < TOLERANCE


def test_made_recordings():
    sounds = waveforms()
    ours = spectrograms_of(sounds, mean=0.0, std=1.0, device=CPU)
    assert ours.dtype == torch.float32
    assert ours.shape == (len(sounds), 1, BANDS, FRAMES) == (len(sounds), 1, 32, 32)
    assert_alike(ours.numpy(), np.stack([published(sound) for sound in sounds]))
    assert -80 <= ours.min() < ours.max() == 0
    # Nothing is louder than the rest of nothing.
    assert not ours[-1].any()


def test_real_recordings(speech_commands_root):
    paths = sorted(speech_commands_root.glob("*/*.wav"))[::60]
    sounds = np.stack([soundfile.read(path, dtype="int16")[0] for path in paths])
    ours = spectrograms_of(sounds, mean=0.0, std=1.0, device=CPU)
    assert_alike(ours.numpy(), np.stack([published(sound) for sound in sounds]))


def test_normalised():
    sounds = waveforms()[:3]
    plain = spectrograms_of(sounds, mean=0.0, std=1.0, device=CPU)
    torch.testing.assert_close(spectrograms_of(sounds, mean=-40.0, std=20.0, device=CPU), (plain + 40) / 20)


def test_in_parts_it_is_the_same_to_the_bit():
    sounds = np.concatenate([waveforms()] * 40)
    whole = spectrograms_of(sounds, mean=0.0, std=1.0, device=CPU)
    for rows in (slice(1), slice(5, 12), slice(100, 101)):
        assert torch.equal(spectrograms_of(sounds[rows], mean=0.0, std=1.0, device=CPU), whole[rows])


def test_the_inverse():
    spectrograms = Spectrograms(CPU)
    sounds = torch.from_numpy(waveforms() / 32768).float()
    back = spectrograms.invert(spectrograms.transform(frames_of(sounds)))
    assert back.shape == sounds.shape
    assert (back - sounds).abs().max() < 1e-5


@pytest.mark.parametrize("hertz", [300, 1_000, 3_000, 6_500])
def test_a_tone_is_in_its_band(hertz):
    """Band k is loudest for a tone at its centre, by Slaney's scale: linear to 1 kHz, then logarithmic."""
    sound = to_int16(0.5 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE))
    picture = spectrograms_of(sound[None], mean=0.0, std=1.0, device=CPU)[0, 0, :, 16]
    position = hertz / (200 / 3) if hertz < 1_000 else 15 + np.log(hertz / 1_000) / (np.log(6.4) / 27)
    highest = 15 + np.log(8) / (np.log(6.4) / 27)
    assert int(picture.argmax()) == pytest.approx(position / highest * 33 - 1, abs=0.51)

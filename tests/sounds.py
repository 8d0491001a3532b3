"""Small recordings in the published layout, and the published pipeline, recording by recording, by librosa."""

import io
import os
import time

import librosa
import numpy as np
import soundfile

from moex.data.sounds.publication import VERSIONS

RATE = 16_000


def tone(seed, *, seconds=1.0, rate=RATE):
    """A voice of a kind: a few partials that glide, and a little noise; float64 in [-1, 1]."""
    draws, time_axis = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    pitch = draws.uniform(100, 400) * (1 + draws.uniform(-0.3, 0.3) * time_axis)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    partials = sum(np.sin(k * phase) / k for k in range(1, 9))
    loudness = np.exp(-((time_axis - seconds / 2) ** 2) / 0.05)
    return 0.3 * partials * loudness + 0.01 * draws.normal(size=len(time_axis))


def to_int16(values):
    return np.clip(np.rint(values * 32768), -32768, 32767).astype(np.int16)


def wav(values, *, rate=RATE, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, values, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def write_speech_commands(folder, *, version="0.02", speakers=("aa", "bb", "cc", "dd"), noise_seconds=12, lists=True):
    """Each speaker says each word once; `cc` is in the validation list and `dd` in that of the test."""
    for number, word in enumerate(VERSIONS[version].words):
        (folder / word).mkdir(parents=True)
        for turn, speaker in enumerate(speakers):
            content = wav(to_int16(tone([number, turn])))
            (folder / word / f"{speaker}_nohash_0.wav").write_bytes(content)
    noise = folder / "_background_noise_"
    noise.mkdir()
    (noise / "README.md").write_text("Noise.")
    draws = np.random.default_rng(0)
    for name in ("bike", "tap"):
        (noise / f"{name}.wav").write_bytes(wav(to_int16(0.1 * draws.normal(size=noise_seconds * RATE // 2))))
    if lists:
        for name, speaker in (("validation", "cc"), ("testing", "dd")):
            lines = [f"{word}/{speaker}_nohash_0.wav\n" for word in VERSIONS[version].words]
            (folder / f"{name}_list.txt").write_text("".join(lines))
    age(folder)
    return folder


def age(folder, seconds=100):
    """Lets all of a folder have changed so long ago that what was read of it may be kept."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


# The public baseline's pipeline in float64, one recording at a time.


def change_waveform(waveform, *, gain, step):
    """Amplitude, speed and pitch, one second of it; `step` is in parts of 2^16."""
    length = len(waveform)
    changed = np.interp(np.arange(0, length, step / 65536), np.arange(length), waveform * gain)[:length]
    return np.pad(changed, (0, length - len(changed)))


def change_spectrum(waveform, *, rate, shift):
    """The transform, stretched by librosa's phase vocoder and shifted: complex `[BINS, FRAMES]`."""
    spectrum = librosa.stft(waveform, n_fft=2048, hop_length=512, pad_mode="reflect")
    frames = spectrum.shape[1]
    if rate != 1:
        spectrum = librosa.phase_vocoder(spectrum, rate=rate, hop_length=512)
    if shift >= 0:
        spectrum = np.pad(spectrum, ((0, 0), (0, shift)))[:, shift:]
    else:
        spectrum = np.pad(spectrum, ((0, 0), (-shift, 0)))[:, :shift]
    return np.pad(spectrum, ((0, 0), (0, max(0, frames - spectrum.shape[1]))))[:, :frames]


def hear(waveform, noise, draws, sample):
    """One sample with all that was drawn for it: complex `[BINS, FRAMES]`."""

    def change(sound, changes):
        changed = change_waveform(sound / 32768, gain=changes.gains[sample], step=changes.steps[sample])
        return change_spectrum(changed, rate=changes.rates[sample], shift=changes.shifts[sample])

    share = draws.shares[sample]
    own, behind = change(waveform, draws.own), change(noise[draws.clips[sample]], draws.noise)
    return own * (1 - share) + behind * share


def look(spectrum):
    """Its decibels, `[1, BANDS, FRAMES]`."""
    bands = librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=32, dtype=np.float64)
    return librosa.power_to_db(bands @ np.abs(spectrum) ** 2, ref=np.max)[None]

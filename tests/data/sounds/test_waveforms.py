"""WAV files of all kinds: what becomes of them, and which are refused."""

import warnings

import numpy as np
import pytest
import soundfile
from sounds import RATE, to_int16, tone, wav

from moex.data.sounds.waveforms import of_length, read_waveform, read_waveforms


def write(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


def read(tmp_path, content, *, seconds=1.0):
    (path,) = write(tmp_path, {"x.wav": content})
    return read_waveform(path, seconds=seconds)


def test_what_is_16_bit_comes_back_to_the_bit(tmp_path):
    values = np.random.default_rng(0).integers(-32768, 32768, RATE).astype(np.int16)
    reading = read(tmp_path, wav(values))
    assert reading.waveform.dtype == np.int16
    assert np.array_equal(reading.waveform, values)
    assert not reading.converted


@pytest.mark.parametrize(
    ("subtype", "steps"), [("PCM_U8", 257), ("PCM_24", 1), ("PCM_32", 1), ("FLOAT", 1), ("DOUBLE", 1), ("ULAW", 1100)]
)
def test_other_widths_are_rounded(tmp_path, subtype, steps):
    """To within the file's own steps, in those of 16 bit."""
    values = tone(0)
    reading = read(tmp_path, wav(values, subtype=subtype))
    assert np.abs(reading.waveform - 32768 * values).max() <= steps
    assert reading.converted == subtype


def test_what_is_too_loud_is_clipped(tmp_path):
    reading = read(tmp_path, wav(np.array([-3.0, -1.0, 0.5, 1.0, 3.0]), subtype="DOUBLE"))
    assert reading.waveform.tolist() == [-32768, -32768, 16384, 32767, 32767]


def test_channels_are_averaged(tmp_path):
    left, right = to_int16(tone(0)), to_int16(tone(1))
    reading = read(tmp_path, wav(np.stack([left, right], 1)))
    assert np.abs(reading.waveform - (left.astype(float) + right) / 2).max() <= 0.5
    assert reading.converted == "2 channels"


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path, rate):
    """A tone stays the same tone, at the same time; its ends ring a little."""
    axis = {hertz: np.arange(hertz) / hertz for hertz in (rate, RATE)}
    played = {hertz: 0.5 * np.sin(2 * np.pi * 440 * time + 1) for hertz, time in axis.items()}
    reading = read(tmp_path, wav(to_int16(played[rate]), rate=rate))
    assert len(reading.waveform) == RATE
    inside = slice(500, -500)
    assert np.abs(reading.waveform[inside] / 32768 - played[RATE][inside]).max() < 1e-3
    assert reading.converted == f"{rate:,} Hz"


def test_what_is_longer_is_cut_and_what_is_shorter_continued_by_silence(tmp_path):
    values = to_int16(tone(0, seconds=1.5))
    reading = read(tmp_path, wav(values))
    assert np.array_equal(reading.waveform, values[:RATE])
    assert reading.converted == "1.50 s"
    assert np.array_equal(read(tmp_path, wav(values), seconds=None).waveform, values)
    short = read(tmp_path, wav(values[:700]))
    assert not short.converted
    stacked = of_length(iter([short.waveform, values]), 2, RATE)
    assert np.array_equal(stacked[0, :700], values[:700])
    assert not stacked[0, 700:].any()
    assert np.array_equal(stacked[1], values[:RATE])


def with_size(content, size):
    """A header that promises so many bytes."""
    return content[:4] + size.to_bytes(4, "little") + content[8:]


WHOLE = wav(to_int16(tone(0)))
REFUSED = {
    "empty": (b"", "it is empty"),
    "no sound": (b"nothing of the kind" * 100, "Format not recognised"),
    "no samples": (wav(np.zeros(0, dtype=np.int16)), "it has no samples"),
    "cut off": (WHOLE[:20_000], r"it is cut off: 20,000 of 32,044 bytes"),
    "a header alone": (WHOLE[:12], "it is cut off"),
    "not finite": (wav(np.array([0.0, np.nan]), subtype="FLOAT"), "not finite"),
    "a damaged header": (WHOLE[:12] + b"\xff" * 24 + WHOLE[36:], "[Ff]ormat|RIFF|WAV"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_writers_that_do_not_know_the_size(tmp_path):
    for size in (0xFFFFFFFF, 0, len(WHOLE) - 7):
        assert len(read(tmp_path, with_size(WHOLE, size)).waveform) == RATE


def test_many_are_read_in_their_order(tmp_path):
    values = [to_int16(tone(seed)) for seed in range(200)]
    paths = write(tmp_path, {f"{seed:03}.wav": wav(value) for seed, value in enumerate(values)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(read_waveforms(paths, seconds=1.0, where=str(tmp_path)))
    assert all(np.array_equal(one, other) for one, other in zip(found, values, strict=True))


def test_all_that_cannot_be_read_are_counted_and_five_are_named(tmp_path):
    contents = {f"{number}.wav": b"" if number % 2 else WHOLE for number in range(14)}
    paths = write(tmp_path, contents)
    message = (
        rf"^{tmp_path}: 8 of 15 recordings cannot be read: 1.wav \(it is empty\), 3.wav \(it is empty\), "
        r"5.wav \(it is empty\), 7.wav \(it is empty\), 9.wav \(it is empty\), \.\.\.$"
    )
    with pytest.raises(ValueError, match=message):
        list(read_waveforms([*paths, str(tmp_path / "absent.wav")], seconds=1.0, where=str(tmp_path)))


def test_all_that_are_converted_are_told(tmp_path):
    stereo = wav(np.stack([tone(0, rate=44_100)] * 2, 1), rate=44_100, subtype="PCM_24")
    paths = write(tmp_path, {"a.wav": WHOLE, "b.wav": stereo, "c.wav": wav(to_int16(tone(0, seconds=2)))})
    message = (
        r"^2 of 3 recordings are converted to mono, 16 bit, 16,000 Hz and 1 s at most: "
        r"b.wav \(2 channels, PCM_24, 44,100 Hz\), c.wav \(2.00 s\)$"
    )
    with pytest.warns(UserWarning, match=message) as told:
        found = list(read_waveforms(paths, seconds=1.0, where=str(tmp_path)))
    assert [len(waveform) for waveform in found] == [RATE] * 3
    assert told[0].filename == str(tmp_path)


def test_nothing_is_written(tmp_path):
    paths = write(tmp_path, {"a.wav": WHOLE})
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    list(read_waveforms(paths, seconds=1.0, where=str(tmp_path)))
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == before
    assert soundfile.info(paths[0]).frames == RATE

"""Which noise may be heard where."""

import numpy as np
import pytest

from moex.data.sounds.noise import share_out, together

RATE = 16_000
SPLITS = ("train", "validation", "test")


def counting(*seconds):
    """Recordings whose samples count the tenths of seconds, from the first to the last recording."""
    total = np.repeat(np.arange(round(10 * sum(seconds))), RATE // 10).astype(np.int16)
    return np.split(total, np.cumsum([round(RATE * length) for length in seconds])[:-1])


@pytest.mark.parametrize("seconds", [(10.0,), (7.5, 4.0), (60.0, 59.5, 61.0), (1.0,) * 60])
def test_no_noise_is_heard_in_two_splits(seconds):
    noise = share_out(counting(*seconds), where="here")
    heard = {split: {int(sample) for part in noise.parts[split] for sample in part} for split in SPLITS}
    assert set().union(*heard.values()) == set(range(round(10 * sum(seconds))))
    # A tenth of a second at each border belongs to both.
    borders = 2 * len(noise.parts["train"])
    assert sum(map(len, heard.values())) <= round(10 * sum(seconds)) + 2 * borders
    assert len(heard["train"]) == pytest.approx(8 * sum(seconds), abs=borders)
    for split in SPLITS:
        assert {int(sample) for cut in noise.cut(split, 30) for sample in cut} <= heard[split]
    assert {int(sample) for sample in noise.seconds("train").ravel()} <= heard["train"]


def test_cuts_are_the_same_each_time_and_begin_anywhere():
    noise = share_out([np.arange(30_000, dtype=np.int16)] * 20, where="here")
    cuts = noise.cut("train", 200)
    assert cuts.shape == (200, RATE)
    assert np.array_equal(cuts, noise.cut("train", 200))
    assert len(set(cuts[:, 0].tolist())) > 150
    assert noise.cut("test", 0).shape == (0, RATE)


def test_all_of_it_for_training():
    recordings = counting(1.5, 2.0, 0.7)
    noise = together(recordings)
    assert np.array_equal(noise.seconds("train").ravel(), np.concatenate(recordings)[: 4 * RATE])
    assert together(counting(0.5)).seconds("train").shape == (0, RATE)


def test_too_little():
    message = "^here holds 9.0 s of background noise: silence is cut from 10 s or more, or .*dataset.silence=zeros$"
    with pytest.raises(ValueError, match=message):
        share_out(counting(4.0, 5.0), where="here")

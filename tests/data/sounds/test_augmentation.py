"""What is drawn, by its law; and each change against the published pipeline, recording by recording.

Tolerance of decibels: that of test_spectrogram.py. Waveforms are changed by a few float32 operations on numbers up to
1, each right to 6e-8.
"""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from sounds import RATE, change_spectrum, change_waveform, hear, look, to_int16, tone

from moex.data.sounds.augmentation import STEP, Augmentation, Chance, Changes, Draws
from moex.data.sounds.changes import change_waveforms
from moex.data.sounds.source import Recordings, ResidentSounds
from moex.data.speech_commands import SpeechCommands
from moex.settings import check_settings

DRAWS = 20_000
TOLERANCE = 0.09  # dB
PUBLISHED = SpeechCommands().augmentation
NAMES = [item.name for item in dataclasses.fields(Augmentation)]


def recordings(count=6):
    """Sounds that end early as well, so that frames of them are silent, and noise."""
    sounds = np.stack([to_int16(tone(seed)) for seed in range(count)])
    sounds[1, 9_000:] = 0
    sounds[2, :7_000] = 0
    return Recordings(sounds, np.stack([to_int16(0.3 * tone(100 + seed)) for seed in range(3)]))


def source_of(augmentation=PUBLISHED, *, sounds=None, balanced=False):
    sounds = recordings() if sounds is None else sounds
    return ResidentSounds(
        sounds,
        torch.arange(len(sounds)),
        augmentation=augmentation,
        balanced=balanced,
        mean=0.0,
        std=1.0,
        device=torch.device("cpu"),
        channels_last=False,
    )


@pytest.fixture(scope="module")
def drawn():
    return PUBLISHED.draw(DRAWS, clips=7, generator=np.random.default_rng(0))


def assert_uniform(values, unchanged, low, high):
    """Half are changed, and these are uniform."""
    changed = values[values != unchanged]
    assert len(changed) / DRAWS == pytest.approx(0.5, abs=0.015)
    assert stats.kstest(changed, stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("of", ["own", "noise"])
def test_the_published_law(drawn, of):
    changes = getattr(drawn, of)
    assert_uniform(changes.gains, 1.0, 0.7, 1.1)
    # By how much longer they last; in so small steps that the law is that of real numbers.
    assert_uniform(STEP / changes.steps, 1.0, 0.8, 1.2)
    assert_uniform(changes.rates, 1.0, 0.8, 1.2)
    counts = np.bincount(changes.shifts + 8, minlength=17)
    expected = np.where(np.arange(17) == 8, 0.5 + 0.5 / 17, 0.5 / 17) * DRAWS
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_the_published_law_of_noise(drawn):
    assert_uniform(drawn.shares, 0.0, 0.0, 0.45)
    assert stats.chisquare(np.bincount(drawn.clips, minlength=7)).pvalue > 1e-3


def test_nothing_depends_on_anything_else(drawn):
    columns = [*vars(drawn.own).values(), *vars(drawn.noise).values(), drawn.clips, drawn.shares]
    table = np.abs(np.corrcoef(np.stack([np.asarray(column, dtype=float) for column in columns])))
    assert (table - np.eye(len(table))).max() < 4.5 / np.sqrt(DRAWS)


def test_without_noise_none_is_heard():
    draws = PUBLISHED.draw(100, clips=0, generator=np.random.default_rng(0))
    assert not draws.shares.any()


@pytest.mark.parametrize(
    "step", [STEP, round(STEP / 0.8), round(STEP / 0.93), round(STEP / 1.07), round(STEP / 1.2), STEP // 2, 2 * STEP]
)
def test_speed_and_amplitude(step):
    sounds = recordings().waveforms
    changes = dataclasses.replace(
        Changes.none(len(sounds)), gains=np.linspace(0.7, 1.1, len(sounds)), steps=np.full(len(sounds), step)
    )
    ours = change_waveforms(torch.from_numpy(sounds), changes)
    assert ours.dtype == torch.float32
    for row, sound, gain in zip(ours.numpy(), sounds, changes.gains, strict=True):
        theirs = change_waveform(sound / 32768, gain=gain, step=step)
        assert np.abs(row - theirs).max() < 1e-6


def spectrum_of(sound, **changes):
    return change_spectrum(sound / 32768, **{"rate": 1, "shift": 0} | changes)


def draws_of(size, **changes):
    own = {name: np.full(size, value) for name, value in changes.items()}
    return dataclasses.replace(Draws.none(size), own=dataclasses.replace(Changes.none(size), **own))


def assert_looks(source, draws, expected):
    ours = source.look(torch.arange(len(expected)), draws).numpy()
    theirs = np.stack([look(spectrum) for spectrum in expected])
    assert np.abs(ours - theirs).max() < TOLERANCE


@pytest.mark.parametrize("shift", [-31, -8, -1, 0, 1, 8, 31])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.97, 1.0, 1.02, 1.2, 2.0])
def test_stretch_and_shift(rate, shift):
    sounds = recordings()
    expected = [spectrum_of(sound, rate=rate, shift=shift) for sound in sounds.waveforms]
    assert_looks(source_of(), draws_of(6, rates=rate, shifts=shift), expected)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.97, 1.0, 1.02, 1.2, 2.0])
def test_noise_is_added_to_the_right_phase(rate):
    """Of a stretched transform too, for which phases are made up; both are stretched, and shifted apart."""
    sounds, size = recordings(), 6
    noise = dataclasses.replace(
        Changes.none(size), rates=np.full(size, 1.9 - 0.9 * rate), shifts=np.full(size, -3), gains=np.full(size, 0.8)
    )
    draws = dataclasses.replace(
        draws_of(size, rates=rate, shifts=2),
        noise=noise,
        clips=np.arange(size) % 3,
        shares=np.linspace(0.05, 1, size),
    )
    assert_looks(source_of(), draws, [hear(sounds.waveforms[k], sounds.noise, draws, k) for k in range(size)])


def test_a_batch_as_it_is_drawn():
    """All at once, as in training, 60 times each recording."""
    sounds, source, size = recordings(), source_of(), 360
    draws = source.draw(size, np.random.default_rng(0))
    samples = np.arange(size) % 6
    ours = source.look(torch.from_numpy(samples), draws).numpy()
    for k in range(size):
        theirs = look(hear(sounds.waveforms[samples[k]], sounds.noise, draws, k))
        assert np.abs(ours[k] - theirs).max() < TOLERANCE, k


def test_what_is_heard_is_what_is_seen():
    """Of what is not stretched nor mixed, so that its transform has an inverse."""
    sounds, source = recordings(), source_of()
    everyone = torch.arange(6)
    plain = source.listen(everyone)
    assert torch.equal(plain, torch.from_numpy(sounds.waveforms / 32768).float())
    draws = draws_of(6, gains=0.9, steps=round(STEP / 1.1))
    heard = source.listen(everyone, draws)
    for row, sound in zip(heard.numpy(), sounds.waveforms, strict=True):
        assert np.abs(row - change_waveform(sound / 32768, gain=0.9, step=round(STEP / 1.1))).max() < 1e-5
    # A shift of four frames, but for the ends, where frames are cut.
    moved = source.listen(everyone, draws_of(6, shifts=4))
    assert (moved[:, 2048:-6_000] - plain[:, 2048 + 4 * 512 :][:, : RATE - 8_048]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_each_change_has_its_own_settings(name):
    """Alone it changes something; without any, batches are as those that are not augmented."""
    never = {other: dataclasses.replace(getattr(PUBLISHED, other), probability=0.0) for other in NAMES}
    always = never | {name: dataclasses.replace(getattr(PUBLISHED, name), probability=1.0)}
    everyone, generator = torch.arange(6), np.random.default_rng(3)
    source = source_of(Augmentation(**never))
    plain = source.look(everyone)
    assert torch.equal(source.look(everyone, source.draw(6, generator)), plain)
    source = source_of(Augmentation(**always))
    changed = (source.look(everyone, source.draw(6, generator)) - plain).abs().amax((1, 2, 3))
    # Louder or less loud, it is as loud as the loudest of it.
    assert (changed.max() < 1e-3) if name == "amplitude" else (changed > 1).sum() >= 5


WRONG = {
    "no probability": ({"speed": Chance(1.5, 0, 0)}, "dataset.speed.probability is 1.5: it must be a probability"),
    "no range": (
        {"noise": Chance(0.5, 0.4, 0.3)},
        "dataset.noise.low is 0.4: it must be dataset.noise.high, 0.3, or",
    ),
    "twice as fast": ({"speed": Chance(0.5, -0.6, 0)}, "dataset.speed.low is -0.6: it must be from -0.5 to 1"),
    "all away": ({"shift": Chance(0.5, -8, 32)}, "dataset.shift.high is 32: it must be from -31 to 31"),
    "half a frame": ({"shift": Chance(0.5, -8, 0.5)}, "dataset.shift.high is 0.5: it must be a whole number"),
    "more than all noise": ({"noise": Chance(0.5, 0, 1.1)}, "dataset.noise.high is 1.1: it must be from 0 to 1"),
    "upside down": ({"amplitude": Chance(0.5, -1, 1)}, "dataset.amplitude.low is -1: it must be from 0 to inf"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be(changed, message):
    dataset = dataclasses.replace(SpeechCommands(), **changed)
    with pytest.raises(ValueError, match=message):
        check_settings(dataset, "dataset")

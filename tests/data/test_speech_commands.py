"""Speech Commands: the real recordings, and small ones in the published layout."""

import os
import shutil
import time
import warnings

import numpy as np
import pytest
import soundfile
import torch
from sounds import age, to_int16, tone, wav, write_speech_commands

import moex
from moex import data
from moex.config import parse, recipe
from moex.data import Request
from moex.data.sounds.publication import COMMANDS, VERSIONS
from moex.data.sounds.source import ResidentSounds, spectrograms_of
from moex.data.speech_commands import SpeechCommands

CPU = torch.device("cpu")
WORDS = VERSIONS["0.02"].words


def dataset_of(folder, tmp_path, **settings):
    return SpeechCommands(**{"version": "0.02", "root": str(folder), "cache": str(tmp_path / "cache")} | settings)


def counts(samples, dataset):
    return dict(
        zip(dataset.class_names, samples.labels.bincount(minlength=dataset.num_classes).tolist(), strict=True)
    )


def test_the_real_recordings(speech_commands_root, tmp_path):
    """Every sample is its file, with the label of its word; silence is a tenth as many."""
    before = {path: path.stat().st_mtime_ns for path in (speech_commands_root, *speech_commands_root.rglob("*"))}
    dataset = dataset_of(speech_commands_root, tmp_path)
    splits = dataset.read(seed=0)
    assert {name: len(samples.labels) for name, samples in splits.items()} == {
        "train": 1_511 + 151,
        "validation": 230 + 23,
        "test": 667,
    }
    listed = {
        split: (speech_commands_root / name).read_text().split()
        for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt"))
    }
    for split, names in listed.items():
        samples = splits[split]
        for name, waveform, label in zip(
            sorted(names), samples.inputs.waveforms, samples.labels.tolist(), strict=False
        ):
            assert np.array_equal(waveform, soundfile.read(speech_commands_root / name, dtype="int16")[0])
            word = name.partition("/")[0]
            assert dataset.class_names[label] == (word if word in COMMANDS else "unknown")
    assert counts(splits["test"], dataset)["silence"] == 0
    assert counts(splits["validation"], dataset)["silence"] == 23
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(before) == {speech_commands_root, *speech_commands_root.rglob("*")}
    # What a run loads: augmented, and balanced.
    sources = data.load(dataset, seed=0, device=CPU)
    assert {name: len(source) for name, source in sources.items()} == {"train": 1_662, "validation": 253, "test": 667}
    order = sources["train"].order(np.random.default_rng(0))
    inputs, labels = sources["train"].batch(Request(order[:96], torch.arange(96), np.random.default_rng(0)))
    assert inputs.shape == (96, *dataset.shape) == (96, 1, 32, 32)
    assert torch.isfinite(inputs).all()
    assert len(set(labels.tolist())) > 8


@pytest.mark.parametrize("task", ["commands", "all"])
@pytest.mark.parametrize("number", ["0.01", "0.02"])
def test_labels(tmp_path, number, task):
    folder = write_speech_commands(tmp_path / "folder", version=number, speakers=("aa", "cc", "dd"))
    dataset = dataset_of(folder, tmp_path, version=number, task=task)
    splits, words = dataset.read(seed=0), VERSIONS[number].words
    if task == "all":
        assert dataset.class_names == words
        assert all(counts(samples, dataset) == dict.fromkeys(words, 1) for samples in splits.values())
        return
    assert dataset.class_names == (*COMMANDS, "unknown", "silence")
    spoken = dict.fromkeys(COMMANDS, 1) | {"unknown": len(words) - 10}
    assert counts(splits["train"], dataset) == spoken | {"silence": 3}
    assert counts(splits["validation"], dataset) == spoken | {"silence": 3}
    assert counts(splits["test"], dataset) == spoken | {"silence": 0}


def test_silence(published, tmp_path):
    splits = {
        kind: dataset_of(published, tmp_path, silence=kind, silence_share=0.5, silence_test=True).read(seed=0)
        for kind in ("noise", "zeros")
    }
    for split, count in (("train", 70), ("validation", 35), ("test", 35)):
        heard = {kind: parts[split].inputs.waveforms[count:] for kind, parts in splits.items()}
        assert len(heard["noise"]) == len(heard["zeros"]) == count // 2
        assert not heard["zeros"].any()
        # Noise of a tenth of the loudest, none of which is there twice.
        assert heard["noise"].std() == pytest.approx(3_277, rel=0.02)
        assert len(np.unique(heard["noise"][:, 0])) > count // 4
    # All of the noise may be heard in training where none of it is held out for silence.
    assert [len(splits[kind]["train"].inputs.noise) for kind in ("noise", "zeros")] == [9, 12]
    again = dataset_of(published, tmp_path, silence_share=0.5).read(seed=7)
    assert np.array_equal(again["train"].inputs.waveforms, splits["noise"]["train"].inputs.waveforms)


def test_without_background_noise(folder, tmp_path):
    shutil.rmtree(folder / "_background_noise_")
    message = "_background_noise_ holds no background noise"
    for settings in ({}, {"silence": "zeros"}, {"task": "all"}):
        with pytest.raises(ValueError, match=message):
            dataset_of(folder, tmp_path, **settings).read(seed=0)
    # The published test set needs none.
    assert len(dataset_of(folder, tmp_path).read_test(seed=0)["test"].labels) == 35
    with pytest.raises(ValueError, match=message):
        dataset_of(folder, tmp_path, silence_test=True).read_test(seed=0)
    dataset = dataset_of(folder, tmp_path, silence="zeros")
    dataset.noise.probability = 0
    assert len(dataset.read(seed=0)["train"].inputs.noise) == 0


def test_the_test_set_alone_is_that_of_the_whole(published, tmp_path):
    dataset = dataset_of(published, tmp_path)
    one, other = dataset.read(seed=0)["test"], dataset.read_test(seed=0)["test"]
    assert np.array_equal(one.inputs.waveforms, other.inputs.waveforms)
    assert torch.equal(one.labels, other.labels)


def test_limits_take_all_words(published, tmp_path):
    sources = data.load(dataset_of(published, tmp_path), seed=0, device=CPU, limit_train=35, limit_test=12)
    assert {name: len(source) for name, source in sources.items()} == {"train": 35, "validation": 12, "test": 12}
    assert len(sources["train"]._labels.unique()) == 12


def test_what_is_not_trained_on_is_as_it_is(published, tmp_path):
    dataset = dataset_of(published, tmp_path, mean=-40.0, std=20.0)
    samples = dataset.read(seed=0)["validation"]
    for channels_last in (False, True):
        source = dataset.source(samples, training=False, device=CPU, channels_last=channels_last)
        inputs, labels = source.batch(Request(torch.arange(38), torch.arange(38)))
        assert torch.equal(inputs, spectrograms_of(samples.inputs.waveforms, mean=-40.0, std=20.0, device=CPU))
        assert torch.equal(labels, samples.labels)
    assert isinstance(dataset.source(samples, training=True, device=CPU, channels_last=False), ResidentSounds)


def count_reads(monkeypatch):
    read, opened = [], soundfile.SoundFile

    def open_file(path, *arguments, **settings):
        read.append(path)
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(soundfile, "SoundFile", open_file)
    return read


def test_files_are_read_once_until_they_change(folder, tmp_path, monkeypatch):
    age(folder)
    dataset = dataset_of(folder, tmp_path, task="all", silence="zeros")
    dataset.noise.probability = 0
    first = dataset.read(seed=0)
    read = count_reads(monkeypatch)
    second = dataset.read(seed=0)
    assert not read
    for split, samples in first.items():
        assert np.array_equal(second[split].inputs.waveforms, samples.inputs.waveforms)
    # One recording changes in place, and keeps its size.
    path = folder / "bed" / "aa_nohash_0.wav"
    values = to_int16(tone(77))
    path.write_bytes(wav(values))
    os.utime(path, (time.time() - 50,) * 2)
    read.clear()
    third = dataset.read(seed=0)
    assert {place.rpartition("_nohash")[0][-2:] for place in map(str, read)} == {"aa", "bb"}
    assert np.array_equal(third["train"].inputs.waveforms[2], values)
    # A word is said once more.
    (folder / "bed" / "dd_nohash_1.wav").write_bytes(wav(values))
    with (folder / "testing_list.txt").open("a") as file:
        file.write("bed/dd_nohash_1.wav\n")
    age(folder)
    read.clear()
    assert len(dataset.read_test(seed=0)["test"].labels) == 36
    assert len(read) == 36


def test_a_cache_that_cannot_be_is_done_without(folder, tmp_path):
    (tmp_path / "cache").write_text("a file in the place of a folder")
    assert len(dataset_of(folder, tmp_path).read_test(seed=0)["test"].labels) == 35


def test_recordings_that_cannot_be_read(folder, tmp_path):
    for word in WORDS[:7]:
        (folder / word / "aa_nohash_0.wav").write_bytes(b"")
    message = r"7 of 70 recordings cannot be read: backward/aa_nohash_0.wav \(it is empty\), bed/.*, \.\.\.$"
    with pytest.raises(ValueError, match=message):
        dataset_of(folder, tmp_path).read(seed=0)


def test_recordings_of_other_kinds(folder, tmp_path):
    """They are told of once, and then they are like any other."""
    values = tone(5, rate=44_100)
    content = wav(np.stack([values] * 2, 1), rate=44_100, subtype="PCM_24")
    (folder / "bed" / "dd_nohash_0.wav").write_bytes(content)
    age(folder)
    dataset = dataset_of(folder, tmp_path)
    with pytest.warns(
        UserWarning, match=r"1 of 35 recordings .*: bed/dd_nohash_0.wav \(2 channels, PCM_24, 44,100 Hz"
    ):
        first = dataset.read_test(seed=0)["test"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = dataset.read_test(seed=0)["test"]
    assert np.array_equal(first.inputs.waveforms, second.inputs.waveforms)
    heard = first.inputs.waveforms[1][200:-200] / 32768
    assert np.abs(heard - tone(5)[200:-200]).mean() < 0.02
    assert (folder / "bed" / "dd_nohash_0.wav").read_bytes() == content


def test_a_split_without_recordings(folder, tmp_path):
    for name in ("validation", "testing"):
        (folder / f"{name}_list.txt").write_text("")
    with pytest.raises(ValueError, match=r"has no recordings of the split validation and test$"):
        dataset_of(folder, tmp_path).read(seed=0)


def config_of(**settings):
    return parse({"dataset": {"name": "speech_commands", **settings}})


def test_what_a_run_is_told_by(published, speech_commands_root, tmp_path):
    """What acts on the training, and which recordings, unless they are all that are published; not where they are."""
    nowhere = recipe(config_of(version="0.02", root=str(tmp_path / "nowhere")))
    assert {key: value for key, value in nowhere.items() if key.startswith("dataset.")} == {
        "dataset.name": "speech_commands",
        "dataset.version": "0.02",
    }
    small = recipe(config_of(version="0.02", root=str(published)))
    assert small["dataset.recordings"].startswith("140 recordings, ")
    moved = recipe(config_of(version="0.02", root=str(published.parent), cache=str(tmp_path)))
    assert moved == small
    real = recipe(config_of(version="0.02", root=str(speech_commands_root)))
    assert real["dataset.recordings"].startswith("2408 recordings, ")
    louder = recipe(config_of(noise={"probability": 0.3}))
    assert louder["dataset.noise.probability"] == 0.3
    assert recipe(config_of(balanced=False))["dataset.balanced"] is False


WRONG = {
    "version": ({"version": "0.03"}, "dataset.version is '0.03': it must be 0.01 or 0.02"),
    "task": ({"task": "12"}, "dataset.task is '12': it must be commands or all"),
    "silence": ({"silence": "none"}, "dataset.silence is 'none': it must be noise or zeros"),
    "share": ({"silence_share": 0}, "dataset.silence_share is 0.0: it must be more than 0"),
    "deviation": ({"std": 0}, "dataset.std is 0.0: it must be more than 0"),
    "range": ({"stretch": {"low": -0.7}}, "dataset.stretch.low is -0.7: it must be from -0.5 to 1"),
    "probability": ({"stretch": {"probability": -1}}, "dataset.stretch.probability is -1.0: it must be"),
    "unknown key": ({"stretch": {"most": 1}}, "dataset.stretch.most"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        config_of(**settings)


STEPS = {
    "cutout": [moex.Cutout(size=16)],
    "mixup": [moex.Mixup()],
    "cutmix": [moex.CutMix(probability=1.0)],
    "moex": [moex.MoEx(probability=1.0, layer="stem")],
    "all": [
        moex.Cutout(size=16),
        moex.Mixup(),
        moex.CutMix(probability=1.0),
        moex.MoEx(probability=1.0, layer="stem"),
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_mixing_steps_stack_on_spectrograms(published, tmp_path, steps):
    """A training step on one batch, whose loss is that of the mixed labels; each network's gradient is finite."""
    dataset = dataset_of(published, tmp_path, mean=-40.0, std=20.0)
    source = data.load(dataset, seed=0, device=CPU)["train"]
    request = Request(source.order(np.random.default_rng(0))[:16], torch.arange(16), np.random.default_rng(0))
    inputs, labels = source.batch(request)
    torch.manual_seed(0)
    model = moex.models.create("resnet8", num_classes=12, in_channels=1)
    mixing = moex.Mixing(model, steps, num_classes=12)
    with mixing(inputs, labels) as (mixed, targets):
        logits = model(mixed)
        torch.nn.functional.cross_entropy(logits, targets).backward()
    assert mixed.shape == inputs.shape == (16, 1, 32, 32)
    assert torch.allclose(targets.sum(1), torch.ones(16))
    assert not torch.allclose(logits, model(inputs))
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())

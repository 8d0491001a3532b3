"""The published folder: who is heard in which split, and what is wrong with a folder."""

import shutil
from collections import defaultdict

import pytest

from moex.data.sounds.folder import list_recordings, noise_files, speaker_of, split_by_rule
from moex.data.sounds.publication import VERSIONS

WORDS = VERSIONS["0.02"].words


def speakers(recordings):
    theirs = defaultdict(set)
    for recording in recordings:
        theirs[recording.split].add(speaker_of(recording.file))
    return dict(theirs)


def test_the_words_of_the_versions():
    assert [len(VERSIONS[number].words) for number in ("0.01", "0.02")] == [30, 35]
    assert set(VERSIONS["0.02"].words) - set(VERSIONS["0.01"].words) == {
        "backward",
        "follow",
        "forward",
        "learn",
        "visual",
    }


def test_splits_by_the_lists(published):
    recordings = list_recordings(published, WORDS)
    assert len(recordings) == 4 * len(WORDS)
    assert speakers(recordings) == {"train": {"aa", "bb"}, "validation": {"cc"}, "test": {"dd"}}
    assert [recording.name for recording in recordings] == sorted(recording.name for recording in recordings)


def test_splits_by_the_rule(folder):
    for path in folder.glob("*_list.txt"):
        path.unlink()
    by_rule = {speaker: split_by_rule(f"{speaker}_nohash_0.wav") for speaker in ("aa", "bb", "cc", "dd")}
    for recording in list_recordings(folder, WORDS):
        assert recording.split == by_rule[speaker_of(recording.file)]


def test_the_rule_puts_all_recordings_of_a_speaker_together():
    """A tenth of the speakers is validated on, and a tenth tested."""
    splits = [{split_by_rule(f"{speaker:08x}_nohash_{turn}.wav") for turn in range(3)} for speaker in range(20_000)]
    assert all(len(theirs) == 1 for theirs in splits)
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert sum(theirs == {split} for theirs in splits) / 20_000 == pytest.approx(share, abs=0.01)


def test_the_rule_finds_the_published_test_set(speech_commands_root):
    """All recordings that are here come from the test set of version 0.02, whose list the rule made."""
    recordings = list_recordings(speech_commands_root, WORDS)
    assert len(recordings) == 2_408
    assert {split_by_rule(recording.file) for recording in recordings} == {"test"}


def test_no_speaker_of_the_real_recordings_is_in_two_splits(speech_commands_root):
    recordings = list_recordings(speech_commands_root, WORDS)
    assert {split: sum(recording.split == split for recording in recordings) for split in speakers(recordings)} == {
        "train": 1_511,
        "validation": 230,
        "test": 667,
    }
    theirs = speakers(recordings)
    assert not theirs["train"] & theirs["validation"]
    assert not theirs["train"] & theirs["test"]
    assert not theirs["validation"] & theirs["test"]


def rewrite(path, change):
    path.write_text(change(path.read_text()))


def without(folder, *names):
    for name in names:
        (shutil.rmtree if (folder / name).is_dir() else type(folder).unlink)(folder / name)


SPOILED = {
    "a missing word": (lambda folder: without(folder, "yes", "no"), "no recordings .* of 2 words: no, yes$"),
    "an empty word": (
        lambda folder: [path.unlink() for path in (folder / "bed").iterdir()],
        "no recordings .* of 1 words: bed$",
    ),
    "many missing words": (
        lambda folder: without(folder, *WORDS[:7]),
        "of 7 words: backward, bed, bird, cat, dog, ...$",
    ),
    "another word": (
        lambda folder: (folder / "hello").mkdir(),
        "has 1 folders that are no words of this version: hello. dataset.version",
    ),
    "one list alone": (
        lambda folder: without(folder, "validation_list.txt"),
        "validation_list.txt is missing beside testing_list.txt",
    ),
    "a listed recording that is not there": (
        lambda folder: without(folder, "bed/dd_nohash_0.wav", "zero/cc_nohash_0.wav"),
        "the lists name 2 recordings that are not there: bed/dd_nohash_0.wav, zero/cc_nohash_0.wav$",
    ),
    "a recording in both lists": (
        lambda folder: rewrite(folder / "testing_list.txt", lambda text: f"{text}bed/cc_nohash_0.wav\n"),
        "1 recordings are in both lists: bed/cc_nohash_0.wav$",
    ),
    "a speaker in two splits": (
        lambda folder: rewrite(folder / "testing_list.txt", lambda text: f"{text}bed/aa_nohash_0.wav\n"),
        r"1 speakers are heard in more than one split: aa \(test, train\)$",
    ),
    "a list that is no text": (
        lambda folder: (folder / "testing_list.txt").write_bytes(b"\xff\xfe\x00"),
        "the lists name 1 recordings that are not there",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_what_is_wrong_with_a_folder(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        list_recordings(folder, WORDS)


def test_the_words_of_another_version(published):
    with pytest.raises(ValueError, match=r"5 folders that are no words of this version: backward, .*dataset.version"):
        list_recordings(published, VERSIONS["0.01"].words)


def test_hidden_and_other_files_are_left_out(folder):
    for name in ("._aa_nohash_0.wav", "notes.txt", "cover.png"):
        (folder / "bed" / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    assert len(list_recordings(folder, WORDS)) == 4 * len(WORDS)


def test_background_noise(folder):
    names = [path.rpartition("/")[2] for path in noise_files(folder)]
    assert names == ["bike.wav", "tap.wav"]
    shutil.rmtree(folder / "_background_noise_")
    message = r"_background_noise_ holds no background noise .*dataset.silence=zeros dataset.noise.probability=0$"
    with pytest.raises(ValueError, match=message):
        noise_files(folder)

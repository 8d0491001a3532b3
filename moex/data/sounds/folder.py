"""The published folder of Speech Commands: words, speakers, and who is heard in which split.

Source: Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, 2018, section 5, and the
function in the README of the archives that made their lists.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moex.data.dataset import TEST, TRAIN, VALIDATION
from moex.data.naming import class_folders, ending, first

NOISE = "_background_noise_"
LISTS = {VALIDATION: "validation_list.txt", TEST: "testing_list.txt"}
# Of the rule: percent of the speakers in each split, and the largest number of recordings that a word may have.
VALIDATION_PERCENT, TESTING_PERCENT = 10.0, 10.0
MOST_RECORDINGS = 2**27 - 1


@dataclass(frozen=True)
class Recording:
    """A file, below the folder.

    Attributes:
        word: the folder that it lies in.
        file: its name there.
        split: the split that its speaker is heard in.
    """

    word: str
    file: str
    split: str

    @property
    def name(self) -> str:
        """As the lists write it."""
        return f"{self.word}/{self.file}"


def speaker_of(file: str) -> str:
    """Who speaks, by the name of a file: `bed` of `bed_nohash_0.wav`; of other names, all of it."""
    return re.sub(r"_nohash_.*$", "", file)


def split_by_rule(file: str) -> str:
    """The split of a recording by the published rule, which looks at nothing but the speaker."""
    number = int(hashlib.sha1(speaker_of(file).encode()).hexdigest(), 16) % (MOST_RECORDINGS + 1)
    percent = number * (100.0 / MOST_RECORDINGS)
    if percent < VALIDATION_PERCENT:
        return VALIDATION
    return TEST if percent < VALIDATION_PERCENT + TESTING_PERCENT else TRAIN


def list_recordings(folder: Path, words: Sequence[str]) -> list[Recording]:
    """The recordings of all words, by word and name, with their splits: by the lists, or without them by the rule.

    Args:
        folder: with a folder for each word.
        words: that there must be, and no others.

    Raises:
        ValueError: folders of words are missing, empty or unknown, one list is, a list names what is not there, or a
            speaker is in two splits.
        OSError: a folder cannot be read.
    """
    found = {name: _wav_files(folder / name) for name in class_folders(folder) if not name.startswith("_")}
    if missing := [word for word in words if not found.get(word)]:
        raise ValueError(f"{folder} has no recordings (WORD/*.wav) of {len(missing)} words: {first(missing)}")
    if others := sorted(set(found) - set(words)):
        raise ValueError(
            f"{folder} has {len(others)} folders that are no words of this version: {first(others)}. "
            "dataset.version says which it is"
        )
    listed = _read_lists(folder)
    recordings = []
    for word in sorted(words):
        for file in found[word]:
            split = listed.get(f"{word}/{file}", TRAIN) if listed is not None else split_by_rule(file)
            recordings.append(Recording(word, file, split))
    _check_lists(folder, listed or {}, recordings)
    _check_speakers(folder, recordings)
    return recordings


def noise_files(folder: Path) -> list[str]:
    """The paths of the recordings of background noise, sorted.

    Raises:
        ValueError: there are none.
        OSError: the folder cannot be read.
    """
    place = folder / NOISE
    files = _wav_files(place) if place.is_dir() else []
    if not files:
        raise ValueError(
            f"{place} holds no background noise (*.wav): put the published recordings there, or train without any, "
            "with dataset.silence=zeros dataset.noise.probability=0"
        )
    return [str(place / file) for file in files]


def _wav_files(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if entry.is_file()]
    return sorted(file for file in files if ending(file) == ".wav" and file[0] != ".")


def _read_lists(folder: Path) -> dict[str, str] | None:
    """The split of each recording that the two lists name; None where there are no lists."""
    paths = {split: folder / name for split, name in LISTS.items()}
    there = [path for path in paths.values() if path.is_file()]
    if not there:
        return None
    if len(there) < len(paths):
        (absent,) = set(paths.values()) - set(there)
        raise ValueError(f"{absent} is missing beside {there[0].name}: both say who is in which split, or none")
    listed: dict[str, str] = {}
    twice = []
    for split, path in paths.items():
        for line in path.read_text(errors="replace").split():
            if listed.setdefault(line, split) != split:
                twice.append(line)
    if twice:
        raise ValueError(f"{folder}: {len(twice)} recordings are in both lists: {first(twice)}")
    return listed


def _check_lists(folder: Path, listed: Mapping[str, str], recordings: Sequence[Recording]) -> None:
    if absent := sorted(set(listed) - {recording.name for recording in recordings}):
        raise ValueError(f"{folder}: the lists name {len(absent)} recordings that are not there: {first(absent)}")


def _check_speakers(folder: Path, recordings: Sequence[Recording]) -> None:
    """Nobody is trained on and tested as well."""
    splits: dict[str, set[str]] = {}
    for recording in recordings:
        splits.setdefault(speaker_of(recording.file), set()).add(recording.split)
    if heard := [f"{speaker} ({', '.join(sorted(theirs))})" for speaker, theirs in splits.items() if len(theirs) > 1]:
        raise ValueError(f"{folder}: {len(heard)} speakers are heard in more than one split: {first(sorted(heard))}")

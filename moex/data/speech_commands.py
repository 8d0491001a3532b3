"""Speech Commands (Warden 2018): one second of a spoken word, as a spectrogram.

Splits are those of the published lists, or of the published rule where there are no lists; no speaker is in two.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moex.data.dataset import TEST, TRAIN, VALIDATION, DataSet, Samples
from moex.data.listing import Arrays, Watch, remember
from moex.data.sounds import folder as layout
from moex.data.sounds.augmentation import Augmentation, Chance, check_augmentation
from moex.data.sounds.folder import Recording, list_recordings, noise_files
from moex.data.sounds.noise import Noise, share_out, together
from moex.data.sounds.publication import COMMANDS, VERSIONS, find_folder, obtain
from moex.data.sounds.source import Recordings, ResidentSounds, spectrograms_of
from moex.data.sounds.spectrogram import BANDS, FRAMES, RATE
from moex.data.sounds.waveforms import of_length, read_waveforms
from moex.data.source import ResidentTensors, Source
from moex.settings import require

SPLITS = (TRAIN, VALIDATION, TEST)
UNKNOWN, SILENCE = "unknown", "silence"


@dataclass
class SpeechCommands(DataSet):
    """Spoken words as 32 mel bands by 32 frames, in decibels relative to the loudest.

    Attributes:
        version: `0.01`, of 30 words, or `0.02`, of 35.
        task: `commands`, ten words, all others as `unknown`, and `silence`; or `all` words.
        silence: what silence is, `noise` that is cut from the background noise, or `zeros` as in the public baseline.
        silence_share: how many recordings of silence there are for each recording of a word.
        silence_test: whether the test set has silence too; the published one has none.
        balanced: whether an epoch has all classes equally often, by draws with replacement.
        mean: of decibels, which is taken off them.
        std: of decibels, by which they are divided then.
        amplitude: what waveforms are multiplied with.
        speed: by which share they last longer, at a lower pitch.
        stretch: by which share the transform is read faster, at the same pitch.
        shift: by how many frames it comes earlier.
        noise: the share of background noise in what is heard.
        cache: the folder in which waveforms are kept, so that a second start need not read all files.
    """

    name: str = "speech_commands"
    cutout_size: int = 16
    version: str = "0.01"
    task: str = "commands"
    silence: str = "noise"
    silence_share: float = 0.1
    silence_test: bool = False
    balanced: bool = True
    mean: float = 0.0
    std: float = 1.0
    amplitude: Chance = field(default_factory=lambda: Chance(0.5, 0.7, 1.1))
    speed: Chance = field(default_factory=lambda: Chance(0.5, -0.2, 0.2))
    stretch: Chance = field(default_factory=lambda: Chance(0.5, -0.2, 0.2))
    shift: Chance = field(default_factory=lambda: Chance(0.5, -8, 8))
    noise: Chance = field(default_factory=lambda: Chance(0.5, 0.0, 0.45))
    cache: str = "outputs/recordings"

    shape = (1, BANDS, FRAMES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The words, by label."""
        return VERSIONS[self.version].words if self.task == "all" else (*COMMANDS, UNKNOWN, SILENCE)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing."""
        place, recordings = self._list()
        noise = self._read_noise(place, augmented=True)
        return {split: self._samples(split, place, recordings, noise) for split in SPLITS}

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads the test set alone."""
        place, recordings = self._list()
        return {TEST: self._samples(TEST, place, recordings, self._read_noise(place, augmented=False))}

    def source(self, samples: Samples, *, training: bool, device: torch.device, channels_last: bool) -> Source:
        """See `DataSet`; what is not augmented is turned into spectrograms once."""
        if training:
            return ResidentSounds(
                samples.inputs,
                samples.labels,
                augmentation=self.augmentation,
                balanced=self.balanced,
                mean=self.mean,
                std=self.std,
                device=device,
                channels_last=channels_last,
            )
        inputs = spectrograms_of(samples.inputs.waveforms, mean=self.mean, std=self.std, device=device)
        return ResidentTensors(inputs, samples.labels, device=device, channels_last=channels_last)

    @property
    def augmentation(self) -> Augmentation:
        """What may happen to a training sample."""
        return Augmentation(self.amplitude, self.speed, self.stretch, self.shift, self.noise)

    def take(self, samples: Samples, count: int) -> Samples:
        """The samples that a limit leaves: at even distances, since they are ordered by word."""
        total = len(samples.labels)
        return samples.select(np.arange(count) * total // count)

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        require(self.version in VERSIONS, f"{key}.version", self.version, " or ".join(VERSIONS))
        require(self.task in ("commands", "all"), f"{key}.task", self.task, "commands or all")
        require(self.silence in ("noise", "zeros"), f"{key}.silence", self.silence, "noise or zeros")
        share = self.silence_share
        require(0 < share <= 1, f"{key}.silence_share", share, "more than 0 and at most 1")
        require(self.std > 0, f"{key}.std", self.std, "more than 0")
        check_augmentation(key, vars(self.augmentation))

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not where the recordings are, but which, if they are not all that are published.

        They are told from others by the names of words and files, and by their splits.
        """
        acting = {key: value for key, value in super().recipe().items() if key != "cache"}
        return acting | {"recordings": self._describe()}

    def _list(self) -> tuple[Path, list[Recording]]:
        version = VERSIONS[self.version]
        place = obtain(Path(self.root), version, download=self.download).resolve()
        recordings = list_recordings(place, version.words)
        there = {recording.split for recording in recordings}
        if empty := [split for split in SPLITS if split not in there]:
            raise ValueError(f"{place} has no recordings of the split {' and '.join(empty)}")
        return place, recordings

    def _read_noise(self, place: Path, *, augmented: bool) -> Noise | None:
        """The background noise, if it is needed for silence or for training."""
        is_silence = self.task == "commands" and self.silence == "noise"
        if is_silence and (augmented or self.silence_test):
            return share_out(self._sounds(place), where=str(place / layout.NOISE))
        return together(self._sounds(place)) if augmented and self.noise.probability > 0 else None

    def _sounds(self, place: Path) -> list[npt.NDArray[np.int16]]:
        return list(read_waveforms(noise_files(place), seconds=None, where=str(place)))

    def _samples(self, split: str, place: Path, recordings: list[Recording], noise: Noise | None) -> Samples:
        theirs = [recording for recording in recordings if recording.split == split]
        found = remember(Path(self.cache), f"{split} of {place}", lambda watch: _look(place, theirs, watch))
        waveforms, names = found["waveforms"], self.class_names
        position = {name: label for label, name in enumerate(names)}
        labels = [position.get(recording.word, position.get(UNKNOWN, -1)) for recording in theirs]
        if self.task == "commands" and (split != TEST or self.silence_test):
            silence = self._make_silence(split, int(self.silence_share * len(theirs)), noise)
            waveforms = np.concatenate([waveforms, silence])
            labels += [position[SILENCE]] * len(silence)
        behind = noise.seconds(TRAIN) if noise is not None and split == TRAIN else np.empty((0, RATE), dtype=np.int16)
        return Samples(Recordings(waveforms, behind), torch.tensor(labels))

    def _make_silence(self, split: str, count: int, noise: Noise | None) -> npt.NDArray[np.int16]:
        if self.silence == "zeros":
            return np.zeros((count, RATE), dtype=np.int16)
        assert noise is not None
        return noise.cut(split, count)

    def _describe(self) -> str | None:
        """A short text that tells these recordings from others; None for all that are published, and without any."""
        version = VERSIONS[self.version]
        place = find_folder(Path(self.root), version)
        if place is None:
            return None
        recordings = list_recordings(place, version.words)
        if len(recordings) == version.recordings:
            return None
        lines = "".join(f"{recording.name} {recording.split}\n" for recording in recordings)
        return f"{len(recordings)} recordings, {hashlib.sha256(lines.encode()).hexdigest()[:8]}"


def _look(place: Path, recordings: list[Recording], watch: Watch) -> Arrays:
    """Reads the waveforms, int16 `[N, RATE]`, and names all whose change makes them void."""
    paths = [f"{place}/{recording.name}" for recording in recordings]
    folders = [place, *(place / word for word in sorted({recording.word for recording in recordings}))]
    lists = [path for name in layout.LISTS.values() if (path := place / name).is_file()]
    for watched in (*map(str, (*folders, *lists)), *paths):
        watch(watched)
    return {"waveforms": of_length(read_waveforms(paths, seconds=1.0, where=str(place)), len(paths), RATE)}

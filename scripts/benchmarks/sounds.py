"""Batches of recordings, augmented, as spectrograms, beside a pipeline that treats one file after the other."""

import random
import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import DEVICE, Variant, Variants
from moex.data import TRAIN, Request
from moex.data.sounds.folder import list_recordings, noise_files
from moex.data.sounds.publication import VERSIONS
from moex.data.sounds.source import spectrograms_of
from moex.data.speech_commands import SpeechCommands

# Real ones, as shared/data beside the checkout restores them into data.
RECORDINGS = Path(__file__).parents[2] / "data" / "speech_commands_sample"
VERSION = "0.02"
BATCH, WORKERS = 96, 2
# Batches of the per-file pipeline in a call.
BATCHES = 8


def recording_variants() -> Variants:
    """Batches of 96 training samples, made by a per-file pipeline with two workers, and by moex's source.

    The last row tells how far any augmentation can come: it is the transform that each sample needs, alone.
    """
    dataset = SpeechCommands(root=str(RECORDINGS), version=VERSION)
    try:
        samples = dataset.read(seed=0)[TRAIN]
        files = PublishedPipeline(RECORDINGS)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    source = dataset.source(samples, training=True, device=DEVICE, channels_last=False)
    order = source.order(np.random.default_rng(0))
    batches = order.split(BATCH)[:-1]
    loader = DataLoader(
        files, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True
    )
    # One endless pass, so that the start of the workers is not timed.
    loaded = (batch for _ in cycle([None]) for batch in loader)

    def theirs() -> None:
        for inputs in islice(loaded, BATCHES):
            inputs.to(DEVICE)

    def ours() -> None:
        requests = (
            Request(indices, torch.arange(len(indices)), np.random.default_rng(step))
            for step, indices in enumerate(batches)
        )
        for _ in source.batches(requests):
            pass

    def bound() -> None:
        for indices in batches:
            spectrograms_of(samples.inputs.waveforms[indices.numpy()], mean=0.0, std=1.0, device=DEVICE)

    return {
        "torchaudio, a file at a time, in a DataLoader, two workers": Variant(theirs, BATCHES * BATCH, is_step=False),
        "moex's source on the device": Variant(ours, len(batches) * BATCH, is_step=False),
        "one transform of each, nothing augmented": Variant(bound, len(batches) * BATCH, is_step=False),
    }


class PublishedPipeline(Dataset[Tensor]):
    """The public baseline's training samples: each file is read, augmented and transformed by itself."""

    def __init__(self, folder: Path) -> None:
        recordings = list_recordings(folder, VERSIONS[VERSION].words)
        self._paths = [folder / recording.name for recording in recordings if recording.split == TRAIN]
        noise = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in noise_files(folder)])
        self._noise = noise[: len(noise) // 16_000 * 16_000].reshape(-1, 16_000)
        self._transform = torchaudio.transforms.Spectrogram(2048, hop_length=512, power=None)
        self._advance = torch.linspace(0, np.pi * 512, 1025)[:, None]
        self._bands = torchaudio.transforms.MelScale(32, 16_000, n_stft=1025, norm="slaney", mel_scale="slaney")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """A spectrogram, `[1, 32, 32]`."""
        waveform, _ = soundfile.read(self._paths[index], dtype="float32")
        spectrum = self._change(waveform)
        if happens():
            share = random.uniform(0, 0.45)
            spectrum = spectrum * (1 - share) + self._change(random.choice(self._noise)) * share
        power = self._bands(spectrum.abs().square())[None]
        level: Tensor = torchaudio.functional.amplitude_to_DB(power, 10.0, 1e-10, 0.0, 80.0)
        return level - level.max()

    def _change(self, waveform: np.ndarray) -> Tensor:
        """The transform of a waveform after amplitude, speed, stretch and shift, complex `[1025, 32]`."""
        if happens():
            waveform = waveform * random.uniform(0.7, 1.1)
        if happens():
            step = 1 / (1 + random.uniform(-0.2, 0.2))
            places = np.arange(0, len(waveform), step)
            waveform = np.interp(places, np.arange(len(waveform)), waveform).astype(np.float32)
        samples = torch.from_numpy(waveform[:16_000])
        spectrum: Tensor = self._transform(F.pad(samples, (0, 16_000 - len(samples))))
        if happens():
            rate = 1 + random.uniform(-0.2, 0.2)
            spectrum = torchaudio.functional.phase_vocoder(spectrum, rate, self._advance)
        if happens():
            shift = random.randint(-8, 8)
            # Negative padding cuts.
            spectrum = F.pad(spectrum, (-shift, shift))
        return F.pad(spectrum, (0, 32 - spectrum.shape[1]))


def happens() -> bool:
    """Half of the time."""
    return random.random() < 0.5

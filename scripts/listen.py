"""Writes recordings of Speech Commands as WAV files, as they are and after each change of the augmentation.

    python scripts/listen.py FOLDER [--root data] [--version 0.01] [--recordings 4] [--seed 0] [--sheet SHEET.png]

For each recording: the original, each change alone at a strength drawn from its range, and all of them. A sheet shows
the spectrograms that a network sees of the same.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import checkout  # noqa: F401
import numpy as np
import soundfile
import torch
from torch import Tensor

from moex.command_line import run_main, user_path
from moex.data import TRAIN, MissingDataError
from moex.data.sounds.augmentation import STEP, Augmentation, Draws
from moex.data.sounds.publication import VERSIONS
from moex.data.sounds.source import ResidentSounds
from moex.data.sounds.spectrogram import RATE
from moex.data.sounds.waveforms import FULL_SCALE
from moex.data.speech_commands import SILENCE, SpeechCommands
from moex.reporting.spectrograms import spectrogram_sheet


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="where the WAV files are written")
    parser.add_argument(
        "--root", type=user_path, default=Path("data"), help="where Speech Commands is (default: data)"
    )
    parser.add_argument("--version", default="0.01", choices=VERSIONS, help="of Speech Commands (default: 0.01)")
    parser.add_argument("--recordings", type=int, default=4, help="how many, each of another class (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the strengths (default: 0)")
    parser.add_argument("--sheet", type=user_path, metavar="SHEET.png", help="a picture of the spectrograms")
    arguments = parser.parse_args()
    dataset = SpeechCommands(root=arguments.root, version=arguments.version)
    most = dataset.num_classes - 1
    if not 1 <= arguments.recordings <= most:
        parser.error(f"--recordings is {arguments.recordings}: it must be from 1 to {most}")
    if arguments.seed < 0:
        parser.error(f"--seed is {arguments.seed}: it must be 0 or more")
    try:
        samples = dataset.read(seed=0)[TRAIN]
    except MissingDataError as error:
        where = f"dataset=speech_commands dataset.root={arguments.root} dataset.version={arguments.version}"
        print(f"error: {error}. Fetch it with: python train.py {where} dataset.download=true", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    source = dataset.source(samples, training=True, device=torch.device("cpu"), channels_last=False)
    assert isinstance(source, ResidentSounds)
    generator = np.random.default_rng(arguments.seed)
    chosen = choose(samples.labels, arguments.recordings, without=dataset.class_names.index(SILENCE), draws=generator)
    words = [dataset.class_names[label] for label in samples.labels[chosen].tolist()]

    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[tuple[str, np.ndarray]]] = {f"{row} {word}": [] for row, word in enumerate(words, 1)}
    for name, draws in versions(dataset.augmentation, source, len(chosen), generator):
        heard, pictures = source.listen(chosen, draws), source.look(chosen, draws)
        waveforms = heard.mul(FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).short().numpy()
        for row, (title, line) in enumerate(rows.items()):
            path = arguments.folder / f"{title.replace(' ', '_')}_{name}.wav"
            soundfile.write(path, waveforms[row], RATE)
            line.append((describe(name, draws, row), pictures[row, 0].numpy()))
            print(f"{path}: {line[-1][0]}")
    if arguments.sheet is not None:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet = spectrogram_sheet(rows, title="Recordings of Speech Commands before and after each change")
        sheet.savefig(arguments.sheet)
        print(arguments.sheet)
    return 0


def choose(labels: Tensor, count: int, *, without: int, draws: np.random.Generator) -> Tensor:
    """So many samples, each of another class."""
    classes = [label for label in labels.unique().tolist() if label != without]
    picked = draws.choice(classes, count, replace=False)
    return torch.tensor([int(draws.choice(np.flatnonzero(labels == label))) for label in picked])


def versions(
    augmentation: Augmentation, source: ResidentSounds, count: int, generator: np.random.Generator
) -> Iterator[tuple[str, Draws | None]]:
    """What becomes of the samples: nothing, each change alone, and all of them."""
    yield "original", None
    chances = vars(augmentation)
    for name in (*chances, "all"):
        some = {
            other: dataclasses.replace(chance, probability=float(name in (other, "all")))
            for other, chance in chances.items()
        }
        yield name, source.draw(count, generator, augmentation=Augmentation(**some))


def describe(name: str, draws: Draws | None, row: int) -> str:
    """How strong a change is."""
    if draws is None or name == "all":
        return name
    changes = draws.own
    if name == "amplitude":
        return f"amplitude × {changes.gains[row]:.2f}"
    strength, unit, more, less = {
        "speed": (100 * (STEP / changes.steps[row] - 1), " %", " longer", " shorter"),
        "stretch": (100 * (changes.rates[row] - 1), " %", " faster", " slower"),
        "shift": (changes.shifts[row], " frames", " earlier", " later"),
        "noise": (100 * draws.shares[row], " %", "", ""),
    }[name]
    return f"{name}: {abs(strength):.0f}{unit}{less if strength < 0 else more}"


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Writes images of CIFAR-100 as JPEGs in ImageNet's layout: a small folder of real images to train on.

    python scripts/cifar_as_folders.py FOLDER [--root data] [--per-class 200]

Twenty classes that ImageNet has too, under their synsets; `train` has the first images of each, `val` all 100 of the
test set. Trained on by:

    python train.py dataset=imagenet dataset.root=FOLDER dataset.size=32 dataset.resize=32 model=resnet8
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets

from moex.command_line import run_main, user_path

# CIFAR-100's classes, each with the synset of ImageNet that is nearest.
SYNSETS = {
    "aquarium_fish": "n01443537",
    "bear": "n02133161",
    "bee": "n02206856",
    "bicycle": "n02835271",
    "castle": "n02980441",
    "chair": "n04099969",
    "clock": "n03196217",
    "cockroach": "n02233338",
    "leopard": "n02128385",
    "lion": "n02129165",
    "lizard": "n01677366",
    "mountain": "n09472597",
    "mushroom": "n07734744",
    "orange": "n07747607",
    "ray": "n01498041",
    "shark": "n01494475",
    "snake": "n01734418",
    "streetcar": "n04335435",
    "tiger": "n02129604",
    "trout": "n01440764",
}
# Of the JPEGs: nearly nothing of a small image is lost.
QUALITY = 95


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="where the images are written")
    parser.add_argument("--root", type=user_path, default=Path("data"), help="where CIFAR-100 is (default: data)")
    parser.add_argument(
        "--per-class", type=int, default=200, help="training images of a class (default: 200, at most 500)"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.per_class <= 500:
        parser.error(f"--per-class is {arguments.per_class}: it must be from 1 to 500")
    try:
        splits = {name: datasets.CIFAR100(arguments.root, train=name == "train") for name in ("train", "val")}
    except RuntimeError as error:
        print(f"error: no CIFAR-100 in {arguments.root}: {error}", file=sys.stderr)
        return 1
    for name, split in splits.items():
        count = write_split(split, arguments.folder / name, per_class=arguments.per_class if name == "train" else 100)
        print(f"{arguments.folder / name}: {count:,} images of {len(SYNSETS)} classes")
    return 0


def write_split(split: datasets.CIFAR100, folder: Path, *, per_class: int) -> int:
    """Writes the first images of each class, and returns how many there are in all."""
    labels, count = np.asarray(split.targets), 0
    for name, synset in SYNSETS.items():
        (folder / synset).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(labels == split.classes.index(name))[:per_class]:
            Image.fromarray(split.data[index]).save(folder / synset / f"{index:05}.jpg", quality=QUALITY)
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(run_main(main))

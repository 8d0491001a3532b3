"""Data sets by name."""

from pathlib import Path

from moex.data.cifar import load_cifar
from moex.data.dataset import ImageDataset, Specification, limit
from moex.data.digits import load_digits

__all__ = ["SPECIFICATIONS", "ImageDataset", "Specification", "limit", "load", "specification"]

SPECIFICATIONS = {
    "cifar10": Specification(num_classes=10, shape=(3, 32, 32)),
    "cifar100": Specification(num_classes=100, shape=(3, 32, 32)),
    "digits": Specification(num_classes=10, shape=(1, 8, 8)),
}


def specification(name: str) -> Specification:
    """What is known of a data set before it is read.

    Raises:
        ValueError: there is no such data set.
    """
    if name not in SPECIFICATIONS:
        raise ValueError(f"there is no data set {name!r}: it must be one of {', '.join(SPECIFICATIONS)}")
    return SPECIFICATIONS[name]


def load(name: str, root: str | Path, *, download: bool = False, seed: int = 0) -> ImageDataset:
    """Reads a data set into memory.

    Args:
        name: a key of `SPECIFICATIONS`.
        root: the folder that holds, or will hold, the files; not used by digits.
        download: fetch what is missing.
        seed: splits digits; the others come split.

    Raises:
        ValueError: there is no such data set, or its files are missing or damaged.
        OSError: they cannot be read or fetched.
    """
    specification(name)
    if name == "digits":
        return load_digits(seed=seed)
    return load_cifar(name, root, download=download)

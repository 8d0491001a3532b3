"""Images with labels, wherever they lie: their order, and what may be wrong with their classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from moex.data.dataset import Samples
from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.naming import first, without_ending

# Of files that are images.
ENDINGS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class LabelledFiles:
    """The images of a split, ordered by their classes, and in a class by their names.

    So two layouts of the same images, under the same names, are the same in order and labels.

    Attributes:
        files: the images.
        labels: the class of each, ascending, int64 `[N]`.
        classes: their names, by label.
        where: they lie, for errors.
    """

    files: EncodedFiles
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    where: str

    def of(self, classes: Sequence[str]) -> Samples:
        """The images of some classes, whose positions here are their labels.

        Raises:
            ValueError: classes have no image.
        """
        position = {name: label for label, name in enumerate(classes)}
        labels = np.array([position.get(name, -1) for name in self.classes], dtype=np.int64)[self.labels]
        indices = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
        counts = np.bincount(labels[indices], minlength=len(classes))
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise ValueError(f"{self.where} lacks {len(missing)} of {len(classes)} classes: {first(missing)}")
        return Samples(EncodedImages(self.files, indices), torch.from_numpy(labels[indices]))


def rank_in_class(path: str, label: str) -> tuple[str, str]:
    """What the images of a class are ordered by: their names without the ending, which layouts change.

    Hugging Face's ImageNet appends the class to the names of files, `n01440764_18_n01440764.JPEG`: that is left out.
    """
    return without_ending(path).removesuffix(f"_{label}"), path


def check_named_classes(labels: Mapping[str, str], *, known: Sequence[str], where: str) -> None:
    """Looks for images whose names tell a class, as `n01440764_18.JPEG` does, and whose label is another one.

    Args:
        labels: the class of each image, by its name.
        known: all classes.
        where: they lie, for errors.

    Raises:
        ValueError: the first of them, and how many.
    """
    classes, wrong = set(known), []
    for name, label in labels.items():
        told = classes.intersection(without_ending(name.rpartition("/")[2]).split("_"))
        if told and label not in told:
            wrong.append(f"{name} is labelled {label}")
    if wrong:
        raise ValueError(f"{where}: {len(wrong)} images have another label than their names tell: {first(wrong)}")


def find_shards(root: Path, kind: str, *splits: str) -> list[Path]:
    """The files of a split that lies in several, sorted; none where there are none.

    Args:
        root: of the data set.
        kind: the ending of the files' names, without the point.
        splits: the names that the split may have: of a folder, or between signs in the names of files, such as
            `imagenet1k-train-0000.tar`, in the root or in a folder `data`.

    Raises:
        ValueError: some are symbolic links that lead out of the root.
    """
    together = [*root.glob(f"[!.]*.{kind}"), *root.glob(f"data/[!.]*.{kind}")]
    for split in splits:
        found = list(root.glob(f"{split}/[!.]*.{kind}"))
        found = found or [path for path in together if split in re.split(r"[-_.]", path.stem)]
        if found:
            inside = root.resolve()
            refuse_links([str(path) for path in found if leads_out(path, inside)], inside)
            return sorted(found)
    return []


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path leads out of a folder, itself resolved, by symbolic links."""
    return not path.resolve().is_relative_to(root)


def refuse_links(links: Sequence[str], root: Path) -> None:
    """Refuses symbolic links that must not be followed, if there are any.

    Raises:
        ValueError: the first of them, and how many.
    """
    if links:
        raise ValueError(
            f"{len(links)} symbolic links lead out of {root}, or to a folder inside a class: {first(links)}"
        )

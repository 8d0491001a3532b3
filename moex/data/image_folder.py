"""Pictures of your own: a folder for each class, in `train`, and in `val`, `validation` or `test`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moex.data.dataset import TEST, TRAIN, VALIDATION, Samples, split_by_class
from moex.data.images.dataset import EncodedImageSet
from moex.data.images.folder import FolderFiles, read_folder
from moex.data.images.labelled import LabelledFiles
from moex.data.naming import class_folders, first
from moex.settings import require

# What may lie beside `train`.
OTHERS = ("val", "validation", "test")


@dataclass
class ImageFolder(EncodedImageSet):
    """Images in `root/train/CLASS/`, and of the same classes in one or two other splits.

    Beside `train`, a single folder of `val`, `validation` and `test` is the test set; with `test`, `val` is the
    validation set.

    Attributes:
        test_share: the share of `train`, in (0, 1), that is the test set where there is no other folder; by class and
            seed.
    """

    name: str = "image_folder"
    root: str = "data/images"
    test_share: float | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the folders in `train`, or in another split where there is none."""
        for split in (TRAIN, *OTHERS):
            if names := class_folders(Path(self.root, split)):
                return names
        raise ValueError(
            f"dataset.root is {self.root!r}: it must hold a folder {TRAIN}, with a folder of images for each class"
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides what `test_share` holds out."""
        splits = {split: self._select(folder) for split, folder in self._folders().items()}
        if TEST in splits:
            return splits
        train, share = splits[TRAIN], self.test_share
        assert share is not None
        try:
            kept, held_out = split_by_class(train.labels, share, seed=seed)
        except ValueError as error:
            raise ValueError(f"dataset.test_share is {share}, of {len(train.labels)} images: {error}") from None
        return {TRAIN: train.select(np.sort(kept)), TEST: train.select(np.sort(held_out))}

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads the test set alone: where it has a folder, the training images need not be there."""
        folders = self._folders()
        return {TEST: self._select(folders[TEST]) if TEST in folders else self.read(seed=seed)[TEST]}

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        share = self.test_share
        require(share is None or 0 < share < 1, f"{key}.test_share", share, "a share between 0 and 1, or null")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not where the pictures are, but which.

        They are told from others by the names of classes and files, and by the size of the first file of each class.
        """
        return super().recipe() | {"pictures": self._describe()}

    def _folders(self) -> dict[str, Path]:
        root = Path(self.root)
        others = [root / name for name in OTHERS if (root / name).is_dir()]
        if {root / "val", root / "validation"} <= set(others):
            raise ValueError(f"{root} has a folder val and a folder validation: it must have one of them")
        if not others and self.test_share is None:
            raise ValueError(
                f"{root} has no folder {', '.join(OTHERS)}: add one, or hold training images out to test on, with "
                "dataset.test_share=0.2"
            )
        if others and self.test_share is not None:
            raise ValueError(f"dataset.test_share is {self.test_share}: it must be null, since there is {others[-1]}")
        splits = dict(zip((VALIDATION, TEST)[-len(others) :], others, strict=True)) if others else {}
        return {TRAIN: root / TRAIN, **splits}

    def _list(self, folder: Path) -> LabelledFiles:
        return read_folder(folder, root=Path(self.root), listings=Path(self.listings))

    def _select(self, folder: Path) -> Samples:
        classes, found = self.class_names, self._list(folder)
        if others := sorted(set(found.classes) - set(classes)):
            raise ValueError(f"{folder} has {len(others)} classes that {TRAIN} lacks: {first(others)}")
        return found.of(classes)

    def _describe(self) -> str | None:
        """A short text that tells these pictures from any others; None where there are none."""
        if not class_folders(Path(self.root, TRAIN)):
            return None
        digest, count = hashlib.sha256(), 0
        try:
            for folder in self._folders().values():
                files = self._list(folder).files
                assert isinstance(files, FolderFiles)
                digest.update(files.digest())
                count += len(files)
        except OSError as error:
            raise ValueError(f"dataset.root is {self.root!r}: {error}") from None
        return f"{self.num_classes} classes, {count} files, {digest.hexdigest()[:8]}"

"""What test sets of ImageNet's classes have in common: folders of images, on which nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from moex.data.dataset import TEST, Samples
from moex.data.images.dataset import EncodedImageSet
from moex.data.images.folder import read_folder
from moex.data.images.synsets import synsets
from moex.data.naming import class_folders, first
from moex.settings import require


@dataclass
class EncodedTestSet(EncodedImageSet):
    """Images in the folders of a published archive; by default a folder for each of ImageNet's 1,000 classes.

    Attributes:
        archive: the folder that the archive unpacks to: it is in the root, or is the root.
        home: where the archive is from.
    """

    archive: ClassVar[str]
    home: ClassVar[str]

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The classes of its images, in the order of ImageNet's."""
        return synsets()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes among which a network chooses, by label."""
        return self.own_classes

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def folder(self) -> Path:
        """The archive's folder.

        Raises:
            ValueError: there is none.
        """
        root = Path(self.root)
        found = root if root.name == self.archive else root / self.archive
        if not found.is_dir():
            raise ValueError(f"there is no folder {found}: unpack {self.home} there, or set the root")
        return found

    def read(self, *, seed: int) -> dict[str, Samples]:
        """Refuses to be trained on."""
        raise ValueError(
            f"{self.name} is a test set, without training images: train on imagenet with test_sets=[{self.name}]"
        )

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing."""
        return {TEST: self.read_folder(self.folder, self.own_classes)}

    def read_folder(self, folder: Path, folders: Sequence[str]) -> Samples:
        """The images of one part.

        Args:
            folder: of the folders of classes.
            folders: their names, in the order of `own_classes`.

        Raises:
            ValueError: classes are missing, or there are others.
        """
        found = read_folder(folder, root=folder, listings=Path(self.listings))
        if others := sorted(set(found.classes).difference(folders)):
            raise ValueError(f"{folder} has {len(others)} folders that are none of its classes: {first(others)}")
        return self.relabel(found.of(folders))

    def relabel(self, samples: Samples) -> Samples:
        """Samples whose labels count `own_classes`, with those that count `class_names`."""
        position = {name: label for label, name in enumerate(self.class_names)}
        return Samples(samples.inputs, torch.tensor([position[name] for name in self.own_classes])[samples.labels])

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        require(not self.download, f"{key}.download", self.download, f"false: unpack {self.home} by hand")
        require(self.validation is None, f"{key}.validation", self.validation, "null: it is a test set")


@dataclass
class SubsetTestSet(EncodedTestSet):
    """Images of some of ImageNet's classes.

    Attributes:
        restrict: whether the network chooses among these classes alone, as published: its other logits are dropped
            before the softmax; false: among all 1,000.
    """

    restrict: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes among which a network chooses, by label."""
        return self.own_classes if self.restrict else synsets()


def folders_in(folder: Path) -> tuple[str, ...]:
    """The names of the folders of classes in a folder.

    Raises:
        ValueError: there are none.
    """
    names = class_folders(folder)
    if not names:
        raise ValueError(f"{folder} has no folders of classes")
    return names

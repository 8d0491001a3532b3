"""ImageNet (ILSVRC 2012, Russakovsky et al. 2015), all of it or some of its classes, in each of its usual layouts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moex.data.dataset import TEST, TRAIN, Samples
from moex.data.images.archive import check_complete, read_archives
from moex.data.images.dataset import EncodedImageSet
from moex.data.images.folder import read_folder
from moex.data.images.huggingface import is_saved_dataset, open_dataset, read_huggingface
from moex.data.images.labelled import LabelledFiles, find_shards
from moex.data.images.synsets import choose_synsets, describe_synsets, refuse_others, synsets
from moex.data.naming import class_folders, first
from moex.settings import require

FORMATS = ("auto", "folder", "shards", "huggingface")
# What the splits may be called; the validation images are what everybody tests on.
NAMES = {TRAIN: ("train",), TEST: ("val", "validation")}
ALL = (*NAMES[TRAIN], *NAMES[TEST])


@dataclass
class ImageNet(EncodedImageSet):
    """1,281,167 training images of 1,000 classes, and the 50,000 validation images as the test set.

    A folder that holds fewer classes, such as Imagenette, is a data set of these. The layouts of one data set are the
    same data set: same order, same bits.

    Attributes:
        format: of the files: `folder`, `shards`, `huggingface`, or `auto`, what lies in the root.
        classes: null, all that are there; `imagenet_a` or `imagenet_r`, the 200 of that test set; or a file with a
            synset in each line.
        hub: the name of a dataset on Hugging Face's hub, in the place of the root.
        image_column: of a Hugging Face dataset.
        label_column: of a Hugging Face dataset.
    """

    name: str = "imagenet"
    root: str = "data/imagenet"
    format: str = "auto"
    classes: str | None = None
    hub: str | None = None
    image_column: str = "image"
    label_column: str = "label"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The synsets; all of them where there are no files yet."""
        if self.classes is not None:
            return choose_synsets(self.classes, key="dataset.classes")
        root, layout = Path(self.root), self._layout()
        if layout == "folder":
            return next(filter(None, (class_folders(root / name) for name in ALL)), synsets())
        if layout == "shards":
            archives = tuple(sorted(path.stem for path in find_shards(root, "tar", *ALL)))
            # One for each class; others say nothing before they are read.
            return archives if archives and set(archives) <= set(synsets()) else synsets()
        return synsets()

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing."""
        return {TRAIN: self._read(TRAIN)} | self.read_test(seed=seed)

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads the test set alone: the training images need not be there."""
        return {TEST: self._read(TEST)}

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        require(self.format in FORMATS, f"{key}.format", self.format, f"one of {', '.join(FORMATS)}")
        fits = self.hub is None or self.format in ("auto", "huggingface")
        require(fits, f"{key}.format", self.format, f"huggingface where {key}.hub is set")
        if self.classes is not None:
            choose_synsets(self.classes, key=f"{key}.classes")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: which classes, not in which files they lie."""
        without = ("format", "hub", "image_column", "label_column")
        acting = {key: value for key, value in super().recipe().items() if key not in without}
        return acting | {"classes": describe_synsets(self.class_names)}

    def _layout(self) -> str | None:
        """The format; None where nothing lies in the root that could be ImageNet."""
        if self.format != "auto" or self.hub is not None:
            return "huggingface" if self.hub is not None else self.format
        root = Path(self.root)
        if any(class_folders(root / name) for name in ALL):
            return "folder"
        if find_shards(root, "tar", *ALL):
            return "shards"
        if is_saved_dataset(root) or find_shards(root, "parquet", *ALL):
            return "huggingface"
        return None

    def _read(self, split: str) -> Samples:
        root, layout = Path(self.root), self._layout()
        if layout is None:
            raise ValueError(
                f"dataset.root is {self.root!r}: it must hold ImageNet, as folders train/SYNSET and val/SYNSET, tar "
                "shards, or a Hugging Face dataset"
            )
        readers = {"folder": self._read_folder, "shards": self._read_shards, "huggingface": self._read_huggingface}
        found = readers[layout](root, split)
        refuse_others(found.classes, where=found.where)
        classes = self.class_names
        if self.classes is None and (others := sorted(set(found.classes) - set(classes))):
            raise ValueError(f"{found.where} has {len(others)} classes that the training set lacks: {first(others)}")
        try:
            return found.of(classes)
        except ValueError as error:
            hint = "; dataset.classes chooses some of them" if self.classes is None else ""
            raise ValueError(f"{error}{hint}") from None

    def _read_folder(self, root: Path, split: str) -> LabelledFiles:
        folder = next((path for name in NAMES[split] if (path := root / name).is_dir()), root / NAMES[split][0])
        if flat := next(folder.glob("ILSVRC2012_val_*"), None):
            raise ValueError(
                f"{folder} holds images that are in no folders, such as {flat.name}: sort them by synset, as "
                f"torchvision.datasets.ImageNet({str(root)!r}, 'val') does with the published archives"
            )
        return read_folder(folder, root=root, listings=Path(self.listings))

    def _read_shards(self, root: Path, split: str) -> LabelledFiles:
        archives = find_shards(root, "tar", *NAMES[split])
        check_complete(root, archives, *NAMES[split])
        return read_archives(archives, listings=Path(self.listings), numbered=synsets())

    def _read_huggingface(self, root: Path, split: str) -> LabelledFiles:
        names = [*NAMES[split], *([TEST] if split == TEST else [])]
        return read_huggingface(
            open_dataset(root, *names, hub=self.hub, download=self.download),
            image=self.image_column,
            label=self.label_column,
            listings=Path(self.listings),
            numbered=synsets(),
            where=f"{split} of {self.hub or root}",
        )

"""ObjectNet: photographs of things in unusual places and poses, of which 113 kinds are classes of ImageNet too.

Source: Barbu, Mayo, Alverio, Luo, Wang, Gutfreund, Tenenbaum and Katz, *ObjectNet*, NeurIPS 2019. Which of ImageNet's
classes are which of its own, files say that come with its images.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moex.data.dataset import TEST, Samples
from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.images.folder import read_folder
from moex.data.images.synsets import synsets
from moex.data.images.test_set import SubsetTestSet
from moex.data.outputs import Outputs, find_outputs

# In the folder `mappings`: what a folder's images show; which of ImageNet's classes that is, in words; the words of
# ImageNet's classes, a line each; and which line is which label.
MAPPINGS = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "imagenet_to_label_2012_v2",
    "pytorch_to_imagenet_2012_id.json",
)
# Pixels of the red frame with which images are published, so that nobody trains on them by mistake.
FRAME = 2


@dataclass
class ObjectNet(SubsetTestSet):
    """18,574 images of the classes that ImageNet has too; several of ImageNet's classes may be one here.

    With `restrict=false`, the network chooses among these and all other classes of ImageNet.
    """

    name: str = "objectnet"

    archive = "objectnet-1.0"
    home = "https://objectnet.dev"

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The names of the folders, sorted."""
        return tuple(self.groups)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes among which a network chooses, by label."""
        groups = self.groups
        taken = {synset for group in groups.values() for synset in group}
        others = () if self.restrict else tuple(synset for synset in synsets() if synset not in taken)
        return tuple(groups) + others

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The synsets that stand for each folder, by the folders' names.

        Raises:
            ValueError: a file is missing or damaged.
        """
        mappings = self.folder / "mappings"
        try:
            labels, classes, words, lines = (_read(mappings / name) for name in MAPPINGS)
            position = {word: line for line, word in enumerate(words)}
            synset = {line: synsets()[int(label)] for label, line in lines.items()}
            return {
                folder: tuple(synset[position[word.strip()]] for word in classes[label].split(";"))
                for folder, label in sorted(labels.items())
                if label in classes
            }
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(
                f"{mappings} must hold {', '.join(MAPPINGS)}, as they come with the images "
                f"({type(error).__name__}: {error})"
            ) from None

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; its other classes are left out."""
        folder = self.folder / "images"
        samples = read_folder(folder, root=folder, listings=Path(self.listings)).of(self.own_classes)
        return {TEST: Samples(EncodedImages(Unframed(samples.inputs.files), samples.inputs.indices), samples.labels)}

    def find_outputs(self, network: Sequence[str]) -> Outputs:
        """See `DataSet`."""
        return find_outputs(self.class_names, network, also=self.groups)


@dataclass(frozen=True)
class Unframed(EncodedFiles):
    """Files of images without their frames: bytes that hold the other pixels as they are."""

    files: EncodedFiles

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        return self.files.name(index)

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        from PIL import Image

        content, unframed = self.files.read(index), io.BytesIO()
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                width, height = image.size
                inside = image.convert("RGB").crop((FRAME, FRAME, width - FRAME, height - FRAME))
                # Raw pixels, of which nothing is lost, and which take no time to be read again.
                inside.save(unframed, format="PPM")
        # Pillow promises no kind of error for a damaged file.
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        return unframed.getvalue()


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]

"""ObjectNet: photographs of things in unusual places and poses, of which 113 kinds are classes of ImageNet too.

Source: Barbu, Mayo, Alverio, Luo, Wang, Gutfreund, Tenenbaum and Katz, *ObjectNet*, NeurIPS 2019. Which of ImageNet's
classes are which of its own, files say that come with its images.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moex.data.dataset import TEST, Samples
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


@dataclass
class ObjectNet(SubsetTestSet):
    """18,574 images of the classes that ImageNet has too; several of ImageNet's classes may be one here.

    With `restrict=false`, the network chooses among these and all other classes of ImageNet.
    """

    name: str = "objectnet"

    archive = "objectnet-1.0"
    home = "https://objectnet.dev"
    # Published with a red frame of 2 pixels, so that nobody trains on them by mistake.
    border = 2

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
        found = read_folder(folder, root=folder, listings=Path(self.listings))
        return {TEST: found.of(self.own_classes)}

    def find_outputs(self, network: Sequence[str]) -> Outputs:
        """See `DataSet`."""
        return find_outputs(self.class_names, network, also=self.groups)


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]

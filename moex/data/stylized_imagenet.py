"""ImageNet and Stylized-ImageNet together: Geirhos et al., ImageNet-trained CNNs are biased towards texture, 2019."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moex.data.dataset import TRAIN, Samples
from moex.data.imagenet import ImageNet
from moex.data.images.encoded import EncodedImages, JoinedFiles
from moex.data.images.folder import read_folder


@dataclass
class StylizedImageNet(ImageNet):
    """Trains on each image of ImageNet twice: as it is, and in the style of a painting; tests on ImageNet.

    Attributes:
        stylized_root: the folder that the authors' tool makes, with `train/SYNSET/` in it.
    """

    name: str = "stylized_imagenet"
    stylized_root: str = "data/stylized_imagenet"

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing."""
        splits = super().read(seed=seed)
        root = Path(self.stylized_root)
        folder = root / TRAIN
        if not folder.is_dir():
            raise ValueError(
                f"dataset.stylized_root is {self.stylized_root!r}: it must hold {TRAIN}/SYNSET, as the tool of "
                "github.com/rgeirhos/Stylized-ImageNet makes it"
            )
        stylized = read_folder(folder, root=root, listings=Path(self.listings)).of(self.class_names)
        return splits | {TRAIN: join(splits[TRAIN], stylized)}

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not where the files are; see `moex.settings`."""
        return {key: value for key, value in super().recipe().items() if key != "stylized_root"}


def join(first: Samples, second: Samples) -> Samples:
    """The encoded images of two sets of samples as one, ordered by class, those of the first before the second's."""
    parts: list[EncodedImages] = [first.inputs, second.inputs]
    labels = torch.cat([first.labels, second.labels])
    indices = np.concatenate([parts[0].indices, parts[1].indices + len(parts[0].files)])
    order = torch.argsort(labels, stable=True)
    return Samples(EncodedImages(JoinedFiles(parts[0].files, parts[1].files), indices[order.numpy()]), labels[order])

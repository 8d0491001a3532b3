"""ImageNet-O: 2,000 images of classes that ImageNet does not have, and which ResNet-50 takes for its own.

Source: Hendrycks, Zhao, Basart, Steinhardt and Song, *Natural Adversarial Examples*, CVPR 2021, and the code that
was published with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from moex.data.dataset import TEST, Samples
from moex.data.imagenet import ImageNet
from moex.data.images.synsets import refuse_others
from moex.data.images.test_set import SubsetTestSet, folders_in
from moex.data.naming import first
from moex.metrics import Scores, aupr_out_of_distribution


@dataclass
class ImageNetO(SubsetTestSet):
    """Two parts: `out`, these images, and `in`, ImageNet's validation images of the 200 classes they are taken for.

    The classes are the names of its folders, which are others than ImageNet-A's.

    Attributes:
        imagenet: the root of ImageNet, of which validation images alone are needed.
    """

    name: str = "imagenet_o"
    imagenet: str = "data/imagenet"

    archive = "imagenet-o"
    home = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-o.tar"

    @property
    def own_classes(self) -> tuple[str, ...]:
        """See `EncodedTestSet`."""
        names = folders_in(self.folder)
        refuse_others(names, where=str(self.folder))
        return names

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; labels of `out` say what its images were taken for."""
        folder, imagenet = self.folder, ImageNet(root=self.imagenet, listings=self.listings)
        outside = self.read_folder(folder, self.own_classes)
        try:
            everything, known = imagenet.read_test(seed=seed)[TEST], imagenet.class_names
        except ValueError as error:
            raise ValueError(f"its part in, of its setting imagenet={self.imagenet}: {error}") from None
        if missing := sorted(set(self.own_classes).difference(known)):
            raise ValueError(
                f"{self.imagenet} lacks {len(missing)} of its {len(self.own_classes)} classes: {first(missing)}"
            )
        position = {name: label for label, name in enumerate(self.own_classes)}
        labels = torch.tensor([position.get(name, -1) for name in known])[everything.labels]
        chosen = labels.ge(0).nonzero()[:, 0].numpy()
        inside = Samples(everything.select(chosen).inputs, labels[chosen])
        return {"in": self.relabel(inside), "out": outside}

    def summarise(self, scores: Mapping[str, Scores]) -> dict[str, float]:
        """The AUPR of finding images of no class by the largest softmax probability, which should be low."""
        return {"aupr": aupr_out_of_distribution(scores["in"].confidence, scores["out"].confidence)}

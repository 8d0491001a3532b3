"""Test sets of ImageNet's classes whose images are of another kind, each in one part.

Sources: Hendrycks, Zhao, Basart, Steinhardt and Song, *Natural Adversarial Examples*, CVPR 2021 (ImageNet-A);
Hendrycks et al., *The Many Faces of Robustness*, ICCV 2021 (ImageNet-R); Recht, Roelofs, Schmidt and Shankar, *Do
ImageNet Classifiers Generalize to ImageNet?*, ICML 2019 (ImageNet-V2); Wang, Ge, Lipton and Xing, *Learning Robust
Global Representations by Penalizing Local Predictive Power*, NeurIPS 2019 (ImageNet-Sketch).
"""

from dataclasses import dataclass

from moex.data.dataset import TEST, Samples
from moex.data.images.synsets import choose_synsets
from moex.data.images.test_set import EncodedTestSet, SubsetTestSet
from moex.settings import require

# The published variants of ImageNet-V2, and their folders.
VARIANTS = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}


@dataclass
class ImageNetA(SubsetTestSet):
    """7,500 photographs of 200 classes that ResNet-50 gets wrong."""

    name: str = "imagenet_a"

    archive = "imagenet-a"
    home = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"

    @property
    def own_classes(self) -> tuple[str, ...]:
        """See `EncodedTestSet`."""
        return choose_synsets("imagenet_a", key="classes")


@dataclass
class ImageNetR(SubsetTestSet):
    """30,000 renditions, such as paintings and toys, of another 200 classes."""

    name: str = "imagenet_r"

    archive = "imagenet-r"
    home = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"

    @property
    def own_classes(self) -> tuple[str, ...]:
        """See `EncodedTestSet`."""
        return choose_synsets("imagenet_r", key="classes")


@dataclass
class ImageNetSketch(EncodedTestSet):
    """50,889 drawings in black and white of all 1,000 classes."""

    name: str = "imagenet_sketch"

    archive = "sketch"
    home = "https://github.com/HaohanWang/ImageNet-Sketch"


@dataclass
class ImageNetV2(EncodedTestSet):
    """10,000 images of all 1,000 classes, collected anew as ImageNet's were.

    Attributes:
        variant: how often people had to choose an image to have it in: `matched-frequency`, `threshold-0.7` or
            `top-images`.
    """

    name: str = "imagenet_v2"
    variant: str = "matched-frequency"

    home = "https://huggingface.co/datasets/vaishaal/ImageNetV2"

    @property
    def archive(self) -> str:  # type: ignore[override]
        """The folder of the variant."""
        return VARIANTS[self.variant]

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the folders are called by the labels."""
        return {TEST: self.read_folder(self.folder, [str(label) for label in range(self.num_classes)])}

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        require(self.variant in VARIANTS, f"{key}.variant", self.variant, f"one of {', '.join(VARIANTS)}")

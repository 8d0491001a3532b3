"""Feature CutMix: CutMix of the images, or of the features after a layer.

Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019, section 4.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from moex.augmentation.base import AtPoints
from moex.augmentation.cutmix import CutMix


@dataclass(kw_only=True)
class FeatureCutMix(AtPoints, CutMix):
    """CutMix at one of the `points`, drawn for each batch: `images`, or layers with features `[B, C, H, W]`."""

    name: ClassVar[str] = "feature_cutmix"
    points: list[str] = field(default_factory=lambda: ["images", "stem", "stage1", "stage2"])

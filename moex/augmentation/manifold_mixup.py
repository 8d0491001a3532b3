"""Manifold Mixup: Mixup of the images, or of the features after a layer.

Source: Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from moex.augmentation.base import AtPoints
from moex.augmentation.mixup import Mixup


@dataclass(kw_only=True)
class ManifoldMixup(AtPoints, Mixup):
    """Manifold Mixup at one of the `points`, drawn for each batch: `images`, or layers of the network."""

    name: ClassVar[str] = "manifold_mixup"
    points: list[str] = field(default_factory=lambda: ["images", "stage1", "stage2"])

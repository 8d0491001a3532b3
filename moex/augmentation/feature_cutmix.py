"""Feature CutMix: CutMix of the images, or of the features after a layer.

Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from moex.augmentation.base import Draws, Operation, check_points, choose_point
from moex.augmentation.cutmix import CutMix


@dataclass(kw_only=True)
class FeatureCutMix(CutMix):
    """CutMix at one of the `points`, drawn for each batch: `images`, or layers with features `[B, C, H, W]`."""

    name: ClassVar[str] = "feature_cutmix"
    points: list[str] = field(default_factory=lambda: ["images", "stem", "stage1", "stage2"])

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        check_points(self.points, key)

    def places(self) -> Sequence[str]:
        """Its points."""
        return self.points

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws partners, the point, λ and boxes."""
        permutation = draws.permutation()
        return [self.draw_at(choose_point(self.points, draws), permutation, draws)]

"""Manifold Mixup: Mixup of the images, or of the features after a layer.

Source: Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from moex.augmentation.base import Draws, Operation, check_points, choose_point
from moex.augmentation.mixup import Mixup


@dataclass(kw_only=True)
class ManifoldMixup(Mixup):
    """Manifold Mixup at one of the `points`, drawn for each batch: `images`, or layers of the network."""

    name: ClassVar[str] = "manifold_mixup"
    points: list[str] = field(default_factory=lambda: ["images", "stage1", "stage2"])

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        check_points(self.points, key)

    def places(self) -> Sequence[str]:
        """Its points."""
        return self.points

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws partners, the point and λ."""
        permutation = draws.permutation()
        return [self.draw_at(choose_point(self.points, draws), permutation, draws)]

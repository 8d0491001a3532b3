"""MixStyle: each sample's channels take a weighted mean of their own moments and the partner's; labels stay.

Source: Zhou, Yang, Qiao and Xiang, Domain Generalization with MixStyle, ICLR 2021, equations 4 to 6; the published
code's ε, and its unbiased variance.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from moex.augmentation.base import IMAGES, AtPoints, Draws, Operation, PairStep
from moex.normalisation import moments
from moex.settings import require


@dataclass(kw_only=True)
class MixStyle(AtPoints, PairStep):
    """MixStyle after each of the `points`, whose features are `[B, C, ...]`.

    λ is drawn from Beta(`alpha`, `alpha`) for each sample, and partners anew at each point. Moments are those of
    instance normalisation, and constants to the gradient. One draw decides for all points, where the published code
    decides at each.
    """

    name: ClassVar[str] = "mixstyle"
    probability: float = 0.5
    alpha: float | None = 0.1
    per_sample: bool = True
    points: list[str] = field(default_factory=lambda: ["stage1", "stage2"])
    eps: float = 1e-6

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        require(IMAGES not in self.points, f"{key}.points", self.points, "layers alone")
        require(self.eps > 0, f"{key}.eps", self.eps, "more than 0")

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws partners and λ for each point."""
        return [self.draw_at(point, draws.permutation(), draws) for point in self.points]

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Mixes the moments of features."""
        permutation, weight = arguments
        return mix_style(images, permutation, weight, eps=self.eps)

    def mix_labels(self, labels: Tensor, *arguments: Tensor) -> Tensor:
        """Leaves them."""
        return labels


def mix_style(features: Tensor, permutation: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Gives each channel λ times its own moments plus (1-λ) times the partner's.

    Args:
        features: `[B, C, ...]`.
        permutation: int64 `[B]`.
        weight: λ, `[1]` or `[B]`.
        eps: added to the variance.
    """
    mean, std = moments(features.detach(), "in", eps=eps)
    weight = weight.to(mean.dtype).view(-1, *[1] * (features.ndim - 1))
    mixed_mean, mixed_std = (torch.lerp(moment[permutation], moment, weight) for moment in (mean, std))
    return ((features - mean) / std * mixed_std + mixed_mean).to(features.dtype)

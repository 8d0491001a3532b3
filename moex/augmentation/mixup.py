"""Mixup: each image becomes a weighted mean of itself and its partner.

Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, equation 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moex.augmentation.base import PairStep


@dataclass(kw_only=True)
class Mixup(PairStep):
    """Mixup of the images."""

    name: ClassVar[str] = "mixup"
    alpha: float | None = 1.0

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Mixes images, or features."""
        permutation, weight = arguments
        return mixup(images, permutation, weight)


def mixup(images: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
    """λ times the image plus (1-λ) times its partner's.

    Args:
        images: `[B, ...]`, or features.
        permutation: int64 `[B]`.
        weight: λ, `[1]` or `[B]`.
    """
    weight = weight.to(images.dtype).view(-1, *[1] * (images.ndim - 1))
    return torch.lerp(images[permutation], images, weight)

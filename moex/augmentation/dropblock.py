"""DropBlock: contiguous blocks of features are dropped.

Source: Ghiasi, Lin and Le, DropBlock: A Regularization Method for Convolutional Networks, NeurIPS 2018; torchvision's
operation.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from moex.augmentation.base import IMAGES, AtPoints, Draws, Operation
from moex.settings import require


@dataclass(kw_only=True)
class DropBlock(AtPoints):
    """DropBlock after each of the `points`: `rate` grows linearly from 0 to its value over the run.

    On features smaller than a block, the block is the largest odd number of pixels that they have.
    """

    name: ClassVar[str] = "dropblock"
    rate: float = 0.1
    block_size: int = 7
    points: list[str] = field(default_factory=lambda: ["stage2", "stage3"])

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        require(IMAGES not in self.points, f"{key}.points", self.points, "layers alone")
        require(0 <= self.rate < 1, f"{key}.rate", self.rate, "in [0, 1)")
        is_odd = self.block_size >= 1 and self.block_size % 2 == 1
        require(is_odd, f"{key}.block_size", self.block_size, "an odd number")

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws nothing: the rate of this training step; blocks are drawn where features are."""
        for point in self.points:
            draws.size(point)
        rate = torch.tensor(draws.progress * self.rate, dtype=torch.float64)
        return [Operation(self, point, (rate,)) for point in self.points]

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Drops blocks of features `[B, C, H, W]`."""
        (rate,) = arguments
        side = min(self.block_size, *images.shape[2:])
        mask: Tensor = _block_mask(images.detach(), rate, side - 1 + side % 2)
        return images * mask


def block_mask(features: Tensor, rate: Tensor, block_size: int) -> Tensor:
    """What DropBlock multiplies the features by, drawn anew: zero in the blocks, and elsewhere what keeps the mean.

    Args:
        features: `[B, C, H, W]`; the mask has their shape and type.
        rate: the share of the features that is dropped, on average, as a tensor without dimensions.
        block_size: pixels of a block's side, odd, at most H and W.
    """
    from torchvision.ops import drop_block2d

    mask: Tensor = drop_block2d(torch.ones_like(features), float(rate), block_size)
    return mask


# For torch.compile one operation with a tensor: a number would be compiled anew whenever it changes, and it grows
# from step to step. A CUDA graph would read it once and for all, so the operation stays out of them.
_tags: dict[str, Any] = {"tags": [torch.Tag.cudagraph_unsafe]} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
_block_mask = torch.library.custom_op("moex::block_mask", block_mask, mutates_args=(), **_tags)
_block_mask.register_fake(lambda features, rate, block_size: torch.empty_like(features))

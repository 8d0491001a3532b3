"""Cutout: a square hole in each image.

Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017, section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moex.augmentation.base import IMAGES, Draws, Integers, OccasionalStep, Operation
from moex.augmentation.boxes import box_mask, boxes_around, check_images
from moex.settings import require


@dataclass(kw_only=True)
class Cutout(OccasionalStep):
    """Cutout: one hole an image, `size` pixels wide before clipping."""

    name: ClassVar[str] = "cutout"
    size: int = 4

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        require(self.size >= 1, f"{key}.size", self.size, "1 or more")

    def check_input(self, shape: Sequence[int], key: str) -> None:
        """Refuses inputs that are no images, and a hole that is larger than they are."""
        check_images(shape, key)
        side = min(shape[-2:])
        require(self.size <= side, f"{key}.size", self.size, f"1 to {side}, since images are {side} pixels wide")

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws a hole for each image."""
        holes = draw_holes(self.size, draws.size(IMAGES), draws.batch_size, draws.own)
        return [Operation(self, IMAGES, (torch.from_numpy(holes),))]

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Cuts the holes out."""
        (boxes,) = arguments
        return cutout(images, boxes)


def cutout(images: Tensor, boxes: Tensor) -> Tensor:
    """Sets the box of each image to zero: of normalised images, to the mean colour.

    Args:
        images: `[B, C, H, W]`.
        boxes: top, left, bottom, right: int64 `[1, 4]` or `[B, 4]`.
    """
    return images.masked_fill(box_mask(boxes, images.shape[-2:]), 0.0)


def draw_holes(size: int, image_size: tuple[int, int], draws: int, generator: np.random.Generator) -> Integers:
    """Holes `[draws, 4]`, `size` pixels square, the centre uniform over the pixels, clipped."""
    extents = np.full((draws, 2), size)
    return boxes_around(extents // 2, extents - extents // 2, image_size, generator)

"""CutMix: a box of the partner's image is pasted, at the same place, into each image.

Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019, equations 1 and 2;
roundings of the published code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moex.augmentation.base import IMAGES, Draws, Floats, Integers, Operation, PairStep
from moex.augmentation.boxes import box_mask, box_shares, boxes_around, check_images


@dataclass(kw_only=True)
class CutMix(PairStep):
    """CutMix of the images; the published CIFAR code cuts half of the batches.

    λ is that of the box after it is clipped.
    """

    name: ClassVar[str] = "cutmix"
    differs_by_sample: ClassVar[bool] = True
    probability: float = 0.5
    alpha: float | None = 1.0

    def check_input(self, shape: Sequence[int], key: str) -> None:
        """Refuses inputs that are no images, if it may happen there."""
        if IMAGES in self.places():
            check_images(shape, key)

    def draw_at(self, place: str, permutation: Tensor, draws: Draws) -> Operation:
        """Draws λ and boxes, in images or in features."""
        size = draws.size(place)
        boxes = draw_boxes(self.draw_weights(draws), size, self.draws_by_sample(draws)[1])
        weight = torch.from_numpy(1 - box_shares(boxes, size)).float()
        return Operation(self, place, (permutation, weight, torch.from_numpy(boxes)))

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Pastes boxes into images, or into features."""
        permutation, _, boxes = arguments
        return cutmix(images, permutation, boxes)


def cutmix(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """Pastes the box of each partner's image, at the same place, into the image.

    Args:
        images: `[B, C, H, W]`, or features.
        permutation: int64 `[B]`.
        boxes: top, left, bottom, right: int64 `[1, 4]` or `[B, 4]`.
    """
    return torch.where(box_mask(boxes, images.shape[-2:]), images[permutation], images)


def draw_boxes(weight: Floats, image_size: tuple[int, int], generator: np.random.Generator) -> Integers:
    """Boxes `[n, 4]` of the share 1-λ of the image, for λ `[n]`, their centres uniform over the pixels, clipped."""
    extents = (np.array(image_size) * np.sqrt(1 - weight)[:, None]).astype(np.int64)
    return boxes_around(extents // 2, extents // 2, image_size, generator)

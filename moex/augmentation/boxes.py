"""Boxes in images: `[n, 4]`, top, left, bottom and right in pixels, ends excluded."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moex.augmentation.base import Floats, Integers


def check_images(shape: Sequence[int], key: str) -> None:
    """Refuses inputs that have no boxes.

    Args:
        shape: of an input.
        key: of the step that needs them.

    Raises:
        ValueError: they are no images `[C, H, W]`.
    """
    if len(shape) != 3:
        raise ValueError(f"{key} is for images [C, H, W], and these inputs are {list(shape)}: leave the step out")


def boxes_around(
    before: Integers, after: Integers, image_size: tuple[int, int], generator: np.random.Generator
) -> Integers:
    """Boxes `[n, 4]` around a centre that is uniform over the pixels, clipped.

    Args:
        before: pixels above and left of the centre, `[n, 2]`.
        after: pixels from the centre on, `[n, 2]`.
        image_size: H and W.
        generator: draws the centres.
    """
    centre = generator.integers(0, image_size, size=before.shape)
    return np.concatenate([centre - before, centre + after], axis=1).clip(0, [*image_size, *image_size])


def box_shares(boxes: Integers, image_size: tuple[int, int]) -> Floats:
    """The share of the image that each box covers, `[n]`."""
    extents = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(extents.prod(axis=1) / (image_size[0] * image_size[1]))


def box_mask(boxes: Tensor, size: torch.Size) -> Tensor:
    """`[1 or B, 1, H, W]`, true inside each box; `size` is (H, W)."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]

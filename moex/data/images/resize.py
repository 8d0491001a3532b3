"""Resizing a batch of crops on a device, to the bit as Pillow resizes each of them.

Pillow resizes along the rows, rounds to bytes, and then along the columns, or the other way round; each time, a pixel
is a sum of neighbours under a triangle or a cubic, with weights in units of 2^-22. Integers add up to the same on any
device, so all that has to agree is the weights, which are computed as Pillow computes them, operation by operation in
float64.

Source: `bilinear_filter`, `bicubic_filter`, `precompute_coeffs`, `normalize_coeffs_8bpc` and `ImagingResampleInner`
of Pillow 13's Resample.c.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moex.data.images.crops import Crop

# Pillow's PRECISION_BITS: 32, less 8 of a pixel and 2 to spare.
BITS = 22
HALF = 1 << (BITS - 1)
# How many pixels each filter reaches where nothing shrinks.
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


class Boxes(NamedTuple):
    """Boxes cut out of k images, and how each of them becomes a square in two passes.

    Attributes:
        pixels: uint8 `[P, 3]`, of all boxes, one after the other, row by row.
        passes: int64 `[6, 2, k]`, of the lines along which each pass goes: whether they are columns; their length;
            the step from one pixel to the next; the length to which they are resized; the first pixel of the square
            in that; whether it is mirrored.
        longest: the largest length in the second pass.
        taps: how many pixels of a line make one of a resized line, at most.
        interpolation: `bilinear` or `bicubic`.
    """

    pixels: Tensor
    passes: Tensor
    longest: int
    taps: int
    interpolation: str

    def to(self, device: torch.device) -> "Boxes":
        """The same on a device."""
        return self._replace(pixels=to_device(self.pixels, device), passes=to_device(self.passes, device))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of this process on a device, which is not waited for: its memory may be used again at once."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def plan_passes(crops: Sequence[Crop]) -> npt.NDArray[np.int64]:
    """What is to become of the boxes of k crops, int64 `[6, 2, k]`: the `passes` of `Boxes`."""
    table = np.array(crops, dtype=np.int64).reshape(-1, len(Crop._fields))
    _, _, width, height, resized_width, resized_height, x, y, _, flip = table.T
    no, yes = np.zeros_like(width), np.ones_like(width)
    rows = np.stack([no, width, yes, resized_width, x, flip])
    columns = np.stack([yes, height, width, resized_height, y, no])
    # As Pillow does it, where the height shrinks by more than twice as many pixels as the width.
    shrinks = height - resized_height
    down_first = (shrinks > 0) & (shrinks > 2 * (width - resized_width))
    return np.where(down_first, np.stack([columns, rows], axis=1), np.stack([rows, columns], axis=1))


def join_boxes(
    pixels: npt.NDArray[np.uint8], passes: npt.NDArray[np.int64], interpolation: str = "bilinear"
) -> Boxes:
    """Boxes whose pixels lie one after the other, the channels of each side by side, at the beginning of a memory.

    Args:
        pixels: uint8 `[M]`.
        passes: int64 `[6, 2, k]`, as `plan_passes` returns them.
        interpolation: `bilinear` or `bicubic`.
    """
    used = int(passes[1].prod(axis=0).sum())
    return Boxes(
        torch.from_numpy(pixels[: 3 * used].reshape(-1, 3)),
        torch.from_numpy(passes),
        longest=passes[1, 1].max(initial=1).item(),
        taps=int(2 * SUPPORT[interpolation] * (passes[1] / passes[3]).max(initial=1)) + 1,
        interpolation=interpolation,
    )


def resize(boxes: Boxes, *, size: int) -> Tensor:
    """The squares of all boxes, uint8 `[k, 3, size, size]`, on their device, which is not waited for."""
    along_columns, length, step, *_ = boxes.passes
    first, weights = find_taps(boxes.passes, size=size, taps=boxes.taps, interpolation=boxes.interpolation)
    count, device = length.shape[1], length.device
    # Channels are kept apart, so that what is added up is beside each other in memory.
    channels = list(boxes.pixels.t().int().contiguous())
    areas = length.prod(0)
    starts = areas.cumsum(0) - areas
    # Beyond a box there is nothing: its last line stands in, which no weight reaches.
    lines = torch.arange(boxes.longest, device=device).minimum(length[1, :, None] - 1) * step[1, :, None]
    lines += starts[:, None]
    sums = torch.full((3, count, boxes.longest, size), HALF, dtype=torch.int32, device=device)
    for tap, weight in enumerate(weights):
        pixels = (first[0] + tap).minimum(length[0, :, None] - 1) * step[0, :, None]
        index = (lines[:, :, None] + pixels[:, None, :]).flatten()
        for total, channel in zip(sums, channels, strict=True):
            total += channel.index_select(0, index).view_as(total) * weight[0, :, None, :]
    # A cubic may lead beyond what a byte holds.
    channels = [(total >> BITS).clamp(0, 255).flatten(0, 1) for total in sums]
    starts = boxes.longest * torch.arange(count, device=device)
    sums = torch.full((3, count, size, size), HALF, dtype=torch.int32, device=device)
    for tap, weight in enumerate(weights):
        index = ((first[1] + tap).minimum(length[1, :, None] - 1) + starts[:, None]).flatten()
        for total, channel in zip(sums, channels, strict=True):
            total += channel.index_select(0, index).view_as(total) * weight[1, :, :, None]
    squares = (sums >> BITS).clamp(0, 255).to(torch.uint8).transpose(0, 1)
    return torch.where(along_columns[0, :, None, None, None].bool(), squares.transpose(2, 3), squares)


def find_taps(passes: Tensor, *, size: int, taps: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """Which pixels of a line make each pixel of a square's line.

    Args:
        passes: see `Boxes`.
        size: S, of the square.
        taps: T, how many pixels there may be.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        The first of them, int64 `[2, k, S]`; the weights of it and of those that follow, int32 `[T, 2, k, S]`, in
        units of 2^-22.
    """
    _, length, _, resized, offset, mirrored = passes[..., None]
    pixels = torch.arange(size, device=passes.device) + offset
    pixels = torch.where(mirrored.bool(), pixels.flip(2), pixels)
    scale = length.double() / resized
    shrink = scale.clamp(min=1.0)
    support = SUPPORT[interpolation] * shrink
    centre = (pixels + 0.5) * scale
    # Rounded as C does it; what is negative becomes zero either way.
    first = (centre - support + 0.5).long().clamp(min=0)
    count = (centre + support + 0.5).long().minimum(length) - first
    steps = torch.arange(taps, device=passes.device).view(-1, 1, 1, 1)
    distance = ((steps + first - centre + 0.5) * (1.0 / shrink)).abs()
    heights = (1.0 - distance).clamp(min=0.0) if interpolation == "bilinear" else _cubic(distance)
    weights = torch.where(steps < count, heights, 0.0)
    total = torch.zeros_like(centre)
    # One after the other, as Pillow adds them up: the last bit depends on the order.
    for weight in weights:
        total = total + weight
    scaled = weights / total * (1 << BITS)
    return first, torch.where(scaled < 0, scaled - 0.5, scaled + 0.5).int()


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, in the order of Pillow's operations."""
    a = -0.5
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))

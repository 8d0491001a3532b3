"""A whole set of small images on the device, from which batches are cropped, flipped and normalised at once."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class BatchSource:
    """Images as uint8 on the device, zero-padded once; a batch is one gather of windows and one normalisation.

    Attributes:
        padding: pixels of zeros on each side of the raw images, black before normalisation, from which crops are
            taken.
        flip: whether training mirrors images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        padding: int,
        flip: bool,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        """Lays a set on the device.

        Args:
            images: uint8 `[N, C, H, W]`.
            labels: int64 `[N]`.
            mean: of each channel, for pixels in [0, 1].
            std: of each channel, for pixels in [0, 1].
            padding: pixels on each side.
            flip: whether training mirrors images.
            device: where the set lives and batches are made.
            channels_last: the memory format of the batches.
        """
        self.padding, self.flip = padding, flip
        self._labels = labels.to(device)
        padded = F.pad(images.to(device), (padding, padding, padding, padding)).contiguous()
        _, channels, height, width = images.shape
        self._image_stride, channel_stride, self._row_stride, _ = padded.stride()
        # Window k is the crop whose first pixel is the k-th of the whole set: windows overlap and nothing is copied.
        last_start = padded.numel() - 1 - (channels - 1) * channel_stride
        last_start -= (height - 1) * self._row_stride + width - 1
        self._windows = padded.as_strided(
            (last_start + 1, channels, height, width), (1, channel_stride, self._row_stride, 1)
        )
        self._scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).float().view(-1, 1, 1).to(device)
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._shift = shift.float().view(-1, 1, 1).to(device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self._labels)

    def batch(
        self, indices: Tensor, *, shifts: Tensor | None = None, flips: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised images and their labels.

        Args:
            indices: which samples, int64 `[B]`.
            shifts: top and left of each crop in the padded image, int64 `[B, 2]` from 0 to twice the padding; by
                default the image without its padding.
            flips: which of the crops are mirrored, bool `[B]` on the CPU; by default none.

        Returns:
            Images, float32 `[B, C, H, W]`, and labels, int64 `[B]`, on the device.
        """
        device = self._labels.device
        indices = indices.to(device, non_blocking=True)
        if shifts is None:
            starts = indices * self._image_stride + self.padding * (self._row_stride + 1)
        else:
            top, left = shifts.to(device, non_blocking=True).unbind(1)
            starts = indices * self._image_stride + top * self._row_stride + left
        images = self._windows.index_select(0, starts)
        if flips is not None:
            flipped = flips.nonzero()[:, 0].to(device, non_blocking=True)
            images.index_copy_(0, flipped, images.index_select(0, flipped).flip(3))
        images = images.contiguous(memory_format=self._memory_format)
        return images.mul(self._scale).add_(self._shift), self._labels[indices]


def draw_crops(
    batch_size: int, *, padding: int, flip: bool, generator: np.random.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """Where each image of a batch is cropped, uniform over all shifts, and whether it is mirrored: half are.

    Args:
        batch_size: B.
        padding: pixels of zeros on each side.
        flip: whether images are mirrored at all.
        generator: draws.

    Returns:
        Shifts, int64 `[B, 2]`, None without padding; flips, bool `[B]`, None without flipping: the arguments of
        `BatchSource.batch`.
    """
    shifts = generator.integers(0, 2 * padding + 1, size=(batch_size, 2)) if padding else None
    flips = generator.random(batch_size) < 0.5 if flip else None
    return (
        None if shifts is None else torch.from_numpy(shifts),
        None if flips is None else torch.from_numpy(flips),
    )

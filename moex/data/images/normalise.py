"""Bytes as a network sees them, to the bit as torchvision's preset computes them."""

from itertools import chain

import numpy as np
import torch
from torch import Tensor


class Normaliser:
    """Divides by 255, subtracts the mean, divides by the standard deviation: float32 after each, in this order.

    On a CPU what becomes of each byte is computed once and looked up, in half of the time.

    Args:
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        device: of the images.
        memory_format: of the results.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
        # A tensor: by a number, a GPU multiplies with the inverse.
        self._white = torch.tensor(255.0, device=device)
        self._memory_format = memory_format
        levels = torch.arange(256, dtype=torch.uint8, device=device).expand(1, len(mean), 1, 256)
        self._table = self._compute(levels)[0, :, 0].numpy() if device.type == "cpu" else None

    def __call__(self, parts: list[Tensor]) -> Tensor:
        """The images of some parts, uint8 `[k, C, S, S]` each, as one batch, float32 `[b, C, S, S]`."""
        if self._table is None:
            return self._compute(torch.cat(parts))
        count, (channels, height, width) = sum(map(len, parts)), parts[0].shape[1:]
        # NumPy asks the system for huge pages, of which a batch needs few; torch does not.
        if self._memory_format == torch.channels_last:
            batch = np.empty((count, height, width, channels), np.float32).transpose(0, 3, 1, 2)
        else:
            batch = np.empty((count, channels, height, width), np.float32)
        for image, place in zip(chain.from_iterable(part.numpy() for part in parts), batch, strict=True):
            for values, channel, target in zip(self._table, image, place, strict=True):
                np.take(values, channel, out=target, mode="clip")
        return torch.from_numpy(batch)

    def _compute(self, images: Tensor) -> Tensor:
        images = images.to(torch.float32, memory_format=self._memory_format)
        return images.div_(self._white).sub_(self._mean).div_(self._std)

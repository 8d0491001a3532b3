"""Clouds that lie on the device, from which a batch draws its points."""

import numpy as np
import torch
from torch import Tensor

from moex.data.source import Request, ResidentSource


class ResidentClouds(ResidentSource):
    """Clouds of P points; a batch has some of them.

    Of a training sample, which they are and their order is drawn anew each time, so that what begins with the first
    point, or takes the first neighbours, begins anywhere. Other samples have their first points in their order.

    Args:
        clouds: `[N, P, 3]`.
        labels: int64 `[N]`.
        points: of a sample in a batch, P at most.
        device: where they live.
    """

    def __init__(self, clouds: Tensor, labels: Tensor, *, points: int, device: torch.device) -> None:
        self._clouds, self._labels = clouds.to(device), labels.to(device)
        self._points = points

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """See `ResidentSource`."""
        device = self._labels.device
        indices = request.indices[request.share].to(device, non_blocking=True)
        if request.generator is None:
            return self._clouds[indices, : self._points], self._labels[indices]
        whole = draw_points(len(request.indices), self._clouds.shape[1], self._points, request.generator)
        chosen = whole[request.share].to(device, non_blocking=True)
        return self._clouds[indices[:, None], chosen], self._labels[indices]


def draw_points(batch_size: int, there: int, wanted: int, generator: np.random.Generator) -> Tensor:
    """Some points of each cloud, in an order: int64 `[B, wanted]`, all choices and orders equally likely.

    Args:
        batch_size: B.
        there: points of a cloud.
        wanted: how many of them.
        generator: draws.
    """
    everyone = np.broadcast_to(np.arange(there), (batch_size, there))
    return torch.from_numpy(generator.permuted(everyone, axis=1)[:, :wanted])

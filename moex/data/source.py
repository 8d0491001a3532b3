"""Where batches come from: what a source promises to the loop, and the sources that lie whole on the device."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Inputs `[b, ...]` and labels, int64 `[b]`, on the device.
Batches = Generator[tuple[Tensor, Tensor], None, None]


@dataclass(frozen=True)
class Request:
    """A batch that is to come, or one rank's share of it.

    Attributes:
        indices: which samples the whole batch has, all ranks together, int64 `[B]`.
        share: which of these are wanted, as positions in `indices`, int64 `[b]`; it may be empty.
        generator: draws the augmentation of the whole batch; None where samples are to be as they are.
    """

    indices: Tensor
    share: Tensor
    generator: np.random.Generator | None = None


class SourceError(Exception):
    """What is asked of a source cannot be had, and no step can be done without it: why, in a line for people."""


class Source(ABC):
    """The samples of one split, from which batches are made.

    The loop decides which samples each batch has and from which generator its augmentation is drawn, and hands over
    requests for the batches that are still to come, at the beginning of an epoch or in the middle of it. The source
    answers them in their order. It may read requests as far ahead as it likes, to decode or to load meanwhile, since
    a request depends on nothing that happens in between; so the same request has the same answer, to the bit,
    however far the source looked ahead and wherever a resumed run began to ask. Two rules make it so:

    - all that is random in a batch comes from its request's generator, drawn for the whole batch, of which the
      share then takes its part: a sample's augmentation depends neither on the number of ranks nor on workers;
    - no state is carried from one request to the next.

    Inputs have any rank: `[b, C, H, W]` images, `[b, N, 3]` points, `[b, C, T]` features of sound.

    Attributes:
        waited: seconds for which this source has kept its loop waiting, in this process.
    """

    waited: float = 0.0

    @property
    def unreadable(self) -> Set[int]:
        """The samples that are known to be missing, since they cannot be read."""
        return frozenset()

    def know_unreadable(self, samples: Set[int]) -> None:
        """Takes over what other ranks, or former sessions, have found to be unreadable.

        Raises:
            SourceError: that makes too many.
        """
        assert not samples, "what lies in memory can be read"

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples, of an epoch too."""

    def order(self, generator: np.random.Generator) -> Tensor:
        """Which samples an epoch has, in which order: int64 `[len(self)]`; by default a uniform permutation."""
        return torch.from_numpy(generator.permutation(len(self)))

    @abstractmethod
    def batches(self, requests: Iterable[Request]) -> Batches:
        """Answers requests, in their order.

        Args:
            requests: possibly lazy; read as far ahead as the source likes.

        Yields:
            Inputs `[b, ...]` and labels, int64 `[b]`, on the device. The loop may stop early, by closing the
            generator: what was begun for later requests is then to be ended. Of samples that are evaluated, those
            that cannot be read may be left out; in training, others take their places.

        Raises:
            SourceError: samples cannot be had.
        """


class ResidentSource(Source):
    """A source that makes each batch at once from what lies on the device."""

    def batches(self, requests: Iterable[Request]) -> Batches:
        """See `Source`."""
        for request in requests:
            yield self.batch(request)

    @abstractmethod
    def batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """Answers one request."""


class ResidentTensors(ResidentSource):
    """Inputs of any rank, as they are.

    Args:
        inputs: `[N, ...]`.
        labels: int64 `[N]`.
        device: where they live.
        channels_last: the memory format of inputs `[N, C, H, W]`.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, *, device: torch.device, channels_last: bool) -> None:
        self._inputs, self._labels = inputs.to(device), labels.to(device)
        is_last = channels_last and inputs.ndim == 4
        self._memory_format = torch.channels_last if is_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """See `ResidentSource`."""
        indices = request.indices[request.share].to(self._labels.device, non_blocking=True)
        return self._inputs[indices].contiguous(memory_format=self._memory_format), self._labels[indices]


class ResidentImages(ResidentSource):
    """Images as uint8 on the device, zero-padded once; a batch is one gather of windows and one normalisation."""

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
            padding: pixels of zeros on each side of the raw images, black before normalisation, from which
                augmented crops are taken.
            flip: whether augmentation mirrors images.
            device: where the set lives and batches are made.
            channels_last: the memory format of the batches.
        """
        self._padding, self._flip = padding, flip
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

    def batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """See `ResidentSource`."""
        shifts = flips = None
        if request.generator is not None:
            shifts, flips = draw_crops(
                len(request.indices), padding=self._padding, flip=self._flip, generator=request.generator
            )
        return self.crop(
            request.indices[request.share],
            shifts=None if shifts is None else shifts[request.share],
            flips=None if flips is None else flips[request.share],
        )

    def crop(
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
            starts = indices * self._image_stride + self._padding * (self._row_stride + 1)
        else:
            top, left = shifts.to(device, non_blocking=True).unbind(1)
            starts = indices * self._image_stride + top * self._row_stride + left
        images = self._windows.index_select(0, starts)
        if flips is not None:
            mirrored = flips.to(device, non_blocking=True).view(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(3), images)
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
        `ResidentImages.crop`.
    """
    shifts = generator.integers(0, 2 * padding + 1, size=(batch_size, 2)) if padding else None
    flips = generator.random(batch_size) < 0.5 if flip else None
    return (
        None if shifts is None else torch.from_numpy(shifts),
        None if flips is None else torch.from_numpy(flips),
    )

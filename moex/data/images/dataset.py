"""What data sets of encoded images have in common: the published crops, and how they are decoded."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from moex.data.dataset import DataSet, Samples
from moex.data.images.stream import StreamedImages
from moex.data.source import Source
from moex.settings import require


@dataclass
class EncodedImageSet(DataSet):
    """Images in files, decoded by workers; a subclass says where the files are and reads which.

    By default crops are those that are published for ImageNet: RandomResizedCrop and a flip in training.

    Attributes:
        size: of a crop's side, in pixels.
        resize: to how many pixels the shorter side of a test image is resized, before its central crop is taken.
        interpolation: Pillow's `bilinear` or `bicubic`.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        workers: processes that decode, of each rank; null: one for each core that a rank may use.
        decode: what workers do: `exact`, all of it by Pillow, as published; `device`, decoding and cutting out, where
            resizing is left to the device, which a GPU is quick at, with the same bits.
        on_error: of an image that cannot be read: `fail`, or `skip`.
        max_unreadable: the share of a split that may be skipped.
        listings: the folder in which lists of files are kept, so that a second start need not look for them.
    """

    cutout_size: int = 112
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    workers: int | None = None
    decode: str = "exact"
    on_error: str = "fail"
    max_unreadable: float = 0.001
    listings: str = "outputs/listings"

    @property
    def shape(self) -> tuple[int, ...]:
        """`[3, H, W]` of a crop."""
        return (3, self.size, self.size)

    def source(self, samples: Samples, *, training: bool, device: torch.device, channels_last: bool) -> Source:
        """See `DataSet`."""
        return StreamedImages(
            samples.inputs,
            samples.labels,
            size=self.size,
            resize=self.resize,
            interpolation=self.interpolation,
            mean=tuple(self.mean),
            std=tuple(self.std),
            training=training,
            workers=self.workers,
            decode=self.decode,
            on_error=self.on_error,
            max_unreadable=self.max_unreadable,
            device=device,
            channels_last=channels_last,
        )

    def take(self, samples: Samples, count: int) -> Samples:
        """The samples that a limit leaves: at even distances, since they are ordered by class."""
        total = len(samples.labels)
        return samples.select(np.arange(count) * total // count)

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        require(self.size >= 1, f"{key}.size", self.size, "1 pixel or more")
        allowed = f"{key}.size, {self.size}, or more"
        require(self.resize >= self.size, f"{key}.resize", self.resize, allowed)
        filters = ("bilinear", "bicubic")
        require(self.interpolation in filters, f"{key}.interpolation", self.interpolation, "bilinear or bicubic")
        for name, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) == 3, f"{key}.{name}", values, "a list of three numbers")
        require(min(self.std) > 0, f"{key}.std", self.std, "more than 0")
        require(self.workers is None or self.workers >= 0, f"{key}.workers", self.workers, "0 or more, or null")
        require(self.decode in ("exact", "device"), f"{key}.decode", self.decode, "exact or device")
        require(self.on_error in ("fail", "skip"), f"{key}.on_error", self.on_error, "fail or skip")
        share = self.max_unreadable
        require(0 <= share < 1, f"{key}.max_unreadable", share, "a share of at least 0 and less than 1")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not who decodes, nor what becomes of files that no run has read."""
        without = ("workers", "decode", "max_unreadable", "listings")
        return {key: value for key, value in super().recipe().items() if key not in without}

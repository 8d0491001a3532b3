"""CIFAR's images and sources, and the batches of 128 that they make."""

from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.measure import DEVICE, Variant, Variants
from moex.data import Request
from moex.data.cifar import MEAN, STD
from moex.data.source import ResidentImages


def source_variants() -> Variants:
    """Batches of 128 of 50,000 images as large as CIFAR's, and the DataLoader that the published code uses."""
    images, labels = random_images(50_000)
    source = create_source(images, labels)
    batches = torch.arange(len(images)).split(128)

    def ours() -> None:
        requests = (
            Request(indices, torch.arange(len(indices)), np.random.default_rng(step))
            for step, indices in enumerate(batches)
        )
        for _ in source.batches(requests):
            pass

    loader: DataLoader[Any] = DataLoader(
        InMemoryCIFAR(images, labels), batch_size=128, shuffle=True, num_workers=2, persistent_workers=True
    )
    # One endless pass, so that the start of the workers is not timed.
    loaded = (batch for _ in cycle([None]) for batch in loader)

    def theirs() -> None:
        for batch in islice(loaded, 40):
            [tensor.to(DEVICE) for tensor in batch]

    return {
        "torchvision's transforms in a DataLoader, two workers": Variant(theirs, 40 * 128, is_step=False),
        "moex's source on the device": Variant(ours, len(images), is_step=False),
    }


class InMemoryCIFAR(datasets.CIFAR100):  # type: ignore[misc]
    """torchvision's data set with the published transforms, over images that need no files."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.data = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = labels.tolist()
        self.target_transform = None
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 `[count, 3, 32, 32]`, and labels of 100 classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(generator.integers(0, 100, count))


def create_source(images: Tensor, labels: Tensor, *, channels_last: bool = False) -> ResidentImages:
    """The batch source of a CIFAR run."""
    return ResidentImages(
        images, labels, mean=MEAN, std=STD, padding=4, flip=True, device=DEVICE, channels_last=channels_last
    )

"""What every data set is once it is read."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Specification:
    """What is known of a data set before it is read: classes, and the shape (C, H, W) of its images."""

    num_classes: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class ImageDataset:
    """Images in memory, and how training treats them.

    Attributes:
        name: as in the configuration.
        train_images: uint8 `[N, C, H, W]`.
        train_labels: int64 `[N]`.
        test_images: uint8 `[M, C, H, W]`.
        test_labels: int64 `[M]`.
        classes: their names, in the order of the labels.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        padding: pixels of zeros around a training image before it is cropped.
        flip: whether training images are mirrored.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool


def limit(dataset: ImageDataset, *, train: int | None, test: int | None) -> ImageDataset:
    """The first `train` and `test` samples, in the order of the files; None takes all.

    Raises:
        ValueError: there are fewer.
    """
    for key, wanted, labels in (
        ("limit_train", train, dataset.train_labels),
        ("limit_test", test, dataset.test_labels),
    ):
        if wanted is not None and wanted > len(labels):
            raise ValueError(f"{key} is {wanted}: {dataset.name} has {len(labels)} such samples")
    return replace(
        dataset,
        train_images=dataset.train_images[:train],
        train_labels=dataset.train_labels[:train],
        test_images=dataset.test_images[:test],
        test_labels=dataset.test_labels[:test],
    )

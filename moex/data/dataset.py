"""What every data set is: its settings, what is known of it before it is read, and its splits as sources."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moex.data.outputs import Outputs, find_outputs
from moex.data.source import ResidentImages, ResidentTensors, Source
from moex.metrics import Scores, summarise_scores
from moex.settings import require

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Samples:
    """The samples of one split as they were read.

    Attributes:
        inputs: `[N, ...]`, a tensor, or an array such as that of the files' paths: what an int64 tensor or array
            indexes.
        labels: int64 `[N]`.
    """

    inputs: Any
    labels: Tensor

    def select(self, indices: npt.NDArray[np.int64] | slice) -> "Samples":
        """Some of them, in the order of the indices."""
        return Samples(self.inputs[indices], self.labels[indices])


@dataclass
class DataSet(ABC):
    """A data set; its fields are its settings, those here are common to all.

    A subclass, a dataclass too, says what its samples look like, reads them, and if they are more than tensors, lays
    them into a source of its own.

    Attributes:
        name: by which `dataset.name` finds it; of one at an import path, the path.
        target: the import path of a data set that is not in this folder.
        root: the folder that holds, or will hold, the files.
        download: whether to fetch what is missing.
        validation: the share of the training set that is held out, in (0, 1), for a set without a validation split;
            null: none.
        cutout_size: pixels of a hole's side in Cutout, unless it is told otherwise.
    """

    name: str = ""
    target: str | None = None
    root: str = "data"
    download: bool = False
    validation: float | None = None
    cutout_size: int = 4

    # Why inputs cannot be mixed place by place, as pixels can, and what can be mixed instead; None: they can.
    unaligned: ClassVar[str | None] = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, of any rank: `(C, H, W)`, `(N, 3)`, ..."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by label, such as synsets; None where they are but numbers.

        By them another data set finds its own classes among the outputs of a network that was trained on this one.
        """
        return None

    @property
    def channels(self) -> int:
        """The channels of one input, for which a network is made; by default the first number of its shape."""
        return self.shape[0]

    @abstractmethod
    def read(self, *, seed: int) -> dict[str, Samples]:
        """Reads the splits `train`, `test` and, where the set has one of its own, `validation`.

        Args:
            seed: splits a set that comes in one piece.

        Raises:
            ValueError: files are missing or damaged.
            OSError: they cannot be read or fetched.
        """

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads what a network is scored on, in one part or in several, by their names; by default `test` alone.

        A data set that is scored in several parts overrides it, and one whose training files need not be there.

        Args:
            seed: splits a set that comes in one piece.

        Raises:
            ValueError: files are missing or damaged.
            OSError: they cannot be read or fetched.
        """
        return {TEST: self.read(seed=seed)[TEST]}

    def summarise(self, scores: Mapping[str, Scores]) -> dict[str, float]:
        """The figures of a network on this data set, by their names; fractions, unless a name says otherwise.

        Args:
            scores: of each part that `read_test` returns.
        """
        return summarise_scores(scores[TEST], all_bins=True)

    def outputs(self, network: Sequence[str] | None, *, count: int) -> Outputs | None:
        """Which outputs of a network stand for the classes of this data set; None where they are the same.

        Args:
            network: the names of its outputs; None where they are but numbers.
            count: of its outputs.

        Raises:
            ValueError: the network lacks classes, or they cannot be told.
        """
        if self.class_names is None and count == self.num_classes:
            return None
        if self.class_names is None or network is None:
            unnamed = f"its own {self.num_classes} classes" if self.class_names is None else f"the network's {count}"
            raise ValueError(f"{unnamed} are but numbers, so which is which of the other cannot be told")
        return None if tuple(network) == tuple(self.class_names) else self.find_outputs(network)

    def find_outputs(self, network: Sequence[str]) -> Outputs:
        """Finds the classes of this data set among those of a network; see `moex.data.outputs.find_outputs`."""
        assert self.class_names is not None
        return find_outputs(self.class_names, network)

    def source(self, samples: Samples, *, training: bool, device: torch.device, channels_last: bool) -> Source:
        """Makes a source of a split; by default tensors that lie on the device as they are.

        Args:
            samples: of the split.
            training: whether they may be augmented.
            device: where batches are to be.
            channels_last: the memory format of batches of images.
        """
        return ResidentTensors(samples.inputs, samples.labels, device=device, channels_last=channels_last)

    def random_inputs(self, count: int) -> Tensor:
        """Noise, `[count, ...]`, on which a network works as much as on samples; by default normal numbers."""
        return torch.randn(count, *self.shape)

    def take(self, samples: Samples, count: int) -> Samples:
        """The samples that a limit leaves of a split, so many: by default the first."""
        return samples.select(slice(count))

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        share = self.validation
        require(share is None or 0 < share < 1, f"{key}.validation", share, "a share between 0 and 1, or null")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not where the files are; see `moex.settings`."""
        without = {"root", "download", "cutout_size", "name" if self.target else "target"}
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in without}


def fetch_hint(error: Exception, how: str) -> str:
    """What is added to an error where what is missing can be fetched, and how; nothing to any other."""
    return f". Fetch it with: {how}" if isinstance(error, MissingDataError) else ""


class MissingDataError(ValueError):
    """Files are missing that the data set can fetch, with `download=true`."""


@dataclass
class SmallImages(DataSet):
    """Images that fit on the device as bytes: cropped, flipped and normalised there.

    Attributes:
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        padding: pixels of zeros around a training image before it is cropped.
        flip: whether training images are mirrored.
    """

    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    padding: ClassVar[int]
    flip: ClassVar[bool]

    def source(self, samples: Samples, *, training: bool, device: torch.device, channels_last: bool) -> Source:
        """See `DataSet`."""
        return ResidentImages(
            samples.inputs,
            samples.labels,
            mean=self.mean,
            std=self.std,
            padding=self.padding if training else 0,
            flip=self.flip and training,
            device=device,
            channels_last=channels_last,
        )


def load(
    dataset: DataSet,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> dict[str, Source]:
    """Reads a data set and makes a source of each split.

    Args:
        dataset: with its settings.
        seed: splits what has to be split.
        device: where batches are to be.
        channels_last: the memory format of batches of images.
        limit_train: how many training samples to take, of which `validation` takes its share; see `DataSet.take`.
        limit_test: how many samples to take of each other split.

    Returns:
        `train`, `test`, and `validation` where there is one.

    Raises:
        ValueError: files are missing or damaged, or a set is too small for what is asked for.
        OSError: files cannot be read or fetched.
    """
    splits = dataset.read(seed=seed)
    splits = {
        name: _limit(
            samples, dataset, *(("limit_train", limit_train) if name == TRAIN else ("limit_test", limit_test))
        )
        for name, samples in splits.items()
    }
    if dataset.validation is not None:
        if VALIDATION in splits:
            raise ValueError(
                f"dataset.validation is {dataset.validation}: it must be null, since {dataset.name} has a "
                "validation split of its own"
            )
        splits[TRAIN], splits[VALIDATION] = _hold_out(splits[TRAIN], dataset.validation, seed=seed)
    return _make_sources(dataset, splits, device=device, channels_last=channels_last)


def load_test(
    dataset: DataSet,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    limit_test: int | None = None,
) -> dict[str, Source]:
    """Reads what a network is scored on and makes a source of each part.

    Args:
        dataset: with its settings.
        seed: splits what has to be split.
        device: where batches are to be.
        channels_last: the memory format of batches of images.
        limit_test: how many samples to take of each part at most; see `DataSet.take`.

    Raises:
        ValueError: files are missing or damaged.
        OSError: files cannot be read or fetched.
    """
    parts = dataset.read_test(seed=seed)
    if limit_test is not None:
        parts = {name: dataset.take(samples, min(limit_test, len(samples.labels))) for name, samples in parts.items()}
    return _make_sources(dataset, parts, device=device, channels_last=channels_last)


def split_by_class(labels: npt.ArrayLike, share: float, *, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices of two parts, the second of which has a share of each class, by a seed.

    Raises:
        ValueError: a part would be too small to hold each class.
    """
    from sklearn.model_selection import train_test_split

    labels = np.asarray(labels)
    first, second = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed)
    return first, second


def _make_sources(
    dataset: DataSet, splits: Mapping[str, Samples], *, device: torch.device, channels_last: bool
) -> dict[str, Source]:
    return {
        name: dataset.source(samples, training=name == TRAIN, device=device, channels_last=channels_last)
        for name, samples in splits.items()
    }


def _limit(samples: Samples, dataset: DataSet, key: str, count: int | None) -> Samples:
    if count is None:
        return samples
    if count > len(samples.labels):
        raise ValueError(f"{key} is {count}: {dataset.name} has {len(samples.labels)} such samples")
    return dataset.take(samples, count)


def _hold_out(samples: Samples, share: float, *, seed: int) -> tuple[Samples, Samples]:
    try:
        kept, held_out = split_by_class(samples.labels, share, seed=seed)
    except ValueError as error:
        raise ValueError(f"dataset.validation is {share}, of {len(samples.labels)} samples: {error}") from None
    return samples.select(kept), samples.select(held_out)

"""ImageNet at 32×32 and 64×64 pixels (Chrabaszcz, Loshchilov and Hutter 2017): the published batches.

They come as pickles, or as NumPy archives. A pickle can run any code when it is read, so that here one may hold NumPy
arrays and plain containers alone. Labels count the classes in the order of ImageNet's development kit, which is not
that of the synsets' names: they are but numbers here.
"""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from moex.data.dataset import Samples, SmallImages
from moex.data.naming import first

TRAIN_FILES = tuple(f"train_data_batch_{number}" for number in range(1, 11))
TEST_FILES = ("val_data",)
# All that a pickled array of numbers is made of, by the names of NumPy before version 2 as well.
ADMITTED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


@dataclass
class DownsampledImageNet(SmallImages):
    """What both sizes share: 1,281,167 training images of 1,000 classes, and 50,000 validation images to test on.

    `root` holds `train_data_batch_1` to `10` and `val_data`, each as it is, or with the ending `.npz`.
    """

    # ImageNet's.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    flip = True
    num_classes = 1000
    pixels: ClassVar[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """`[3, H, W]`."""
        return (3, self.pixels, self.pixels)

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing.

        Raises:
            ValueError: a file is missing or damaged, or holds something else.
        """
        return {"train": self._read(TRAIN_FILES), **self.read_test(seed=seed)}

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads the test set alone: the training batches need not be there."""
        return {"test": self._read(TEST_FILES)}

    def _read(self, names: tuple[str, ...]) -> Samples:
        root = Path(self.root)
        paths = [path if path.is_file() else path.with_suffix(".npz") for path in (root / name for name in names)]
        if missing := [path.with_suffix("").name for path in paths if not path.is_file()]:
            raise ValueError(f"{root} lacks {len(missing)} of {len(paths)} files of {self.name}: {first(missing)}")
        width = 3 * self.pixels**2
        # The whole set is there once, and one file beside it. Memory that is never written is never taken.
        images = np.empty((sum(_most_rows(path, width) for path in paths), width), dtype=np.uint8)
        labels: list[npt.NDArray[np.int64]] = []
        for path in paths:
            labels.append(_read_batch(path, images[sum(map(len, labels)) :]))
        everyone = np.concatenate(labels)
        return Samples(torch.from_numpy(images[: len(everyone)]).view(-1, *self.shape), torch.from_numpy(everyone))


@dataclass
class ImageNet32(DownsampledImageNet):
    """ImageNet at 32×32 pixels."""

    name: str = "imagenet32"
    root: str = "data/imagenet32"
    cutout_size: int = 16

    pixels = 32
    padding = 4


@dataclass
class ImageNet64(DownsampledImageNet):
    """ImageNet at 64×64 pixels."""

    name: str = "imagenet64"
    root: str = "data/imagenet64"
    cutout_size: int = 32

    pixels = 64
    padding = 8


class _Unpickler(pickle.Unpickler):
    """Reads NumPy arrays and plain containers, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


def _most_rows(path: Path, width: int) -> int:
    """No fewer images than a file holds."""
    if path.suffix != ".npz":
        return path.stat().st_size // width
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.getinfo("data.npy").file_size // width
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} is damaged or holds no images ({error})") from None


def _read_batch(path: Path, into: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Puts the N images of a file into the first rows of an array; returns their labels, from 0 on, `[N]`."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                images, labels = archive["data"], np.asarray(archive["labels"], dtype=np.int64)
        else:
            with path.open("rb") as file:
                content = _Unpickler(file, encoding="latin1").load()
            images, labels = content["data"], np.asarray(content["labels"], dtype=np.int64)
        found, right = f"{images.dtype} {list(images.shape)}", f"uint8 {[len(labels), into.shape[1]]}"
    # A damaged pickle may raise anything.
    except Exception as error:
        raise ValueError(f"{path} is refused: it is damaged or none of the published batches ({error})") from None
    if found != right:
        raise ValueError(f"{path} holds images as {found}: it must be {right}")
    if wrong := [str(label) for label in labels.tolist() if not 1 <= label <= 1000]:
        raise ValueError(f"{path}: {len(wrong)} labels are none of 1 to 1000: {first(wrong)}")
    into[: len(images)] = images
    return labels - 1

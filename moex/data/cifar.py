"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the standard python archives, read by torchvision.

torchvision verifies checksums, but only says that something is wrong; what is wrong, and what would be right, is
found out here.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moex.data.dataset import MissingDataError, Samples, SmallImages
from moex.data.fetching import fetch, make_once

# CIFAR-10's; the published recipe uses them for both sets.
MEAN, STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)


@dataclass
class CIFAR(SmallImages):
    """What both sets share: `root` holds the extracted folder or the published archive."""

    shape = (3, 32, 32)
    mean = MEAN
    std = STD
    padding = 4
    flip = True

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing.

        Raises:
            ValueError: a file is missing, truncated or corrupt.
            OSError: the archive cannot be fetched.
        """
        from torchvision import datasets

        publication, root = getattr(datasets, self.name.upper()), Path(self.root)
        if _first_fault(publication, root) is not None:
            _obtain(publication, self.name, root, download=self.download)
        parts = {"train": publication(root, train=True), "test": publication(root, train=False)}
        return {name: Samples(_images(part), torch.tensor(part.targets)) for name, part in parts.items()}


@dataclass
class CIFAR10(CIFAR):
    """50,000 training and 10,000 test images of 10 classes."""

    name: str = "cifar10"
    cutout_size: int = 16

    num_classes = 10


@dataclass
class CIFAR100(CIFAR):
    """50,000 training and 10,000 test images of 100 classes."""

    name: str = "cifar100"
    cutout_size: int = 8

    num_classes = 100


def _images(dataset: Any) -> Tensor:
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()


def _obtain(publication: Any, name: str, root: Path, *, download: bool) -> None:
    """Extracts the archive, fetched first if that is wanted and needed; raises where that does not help."""
    if not download and not (root / publication.filename).exists():
        raise MissingDataError(str(_first_fault(publication, root)))
    make_once(
        root,
        name,
        lambda: _first_fault(publication, root) is None,
        lambda: _fetch_and_extract(publication, root, download=download),
    )


def _fetch_and_extract(publication: Any, root: Path, *, download: bool) -> None:
    from torchvision.datasets.utils import check_md5, extract_archive

    archive = root / publication.filename
    if download and not (archive.exists() and check_md5(archive, publication.tgz_md5)):
        fetch(publication.url, archive)
    if not check_md5(archive, publication.tgz_md5):
        raise MissingDataError(
            f"{archive} ({archive.stat().st_size:,} bytes) is truncated or corrupt: its MD5 checksum is not "
            f"{publication.tgz_md5}"
        )
    try:
        extract_archive(archive, root)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} cannot be extracted ({error})") from None
    fault = _first_fault(publication, root)
    if fault is not None:
        raise ValueError(f"{fault}, although {archive} was just extracted")


def _first_fault(publication: Any, root: Path) -> str | None:
    """What is wrong with the extracted files, by torchvision's list of them; None if nothing is."""
    from torchvision.datasets.utils import calculate_md5

    meta = (publication.meta["filename"], publication.meta["md5"])
    for filename, md5 in [*publication.train_list, *publication.test_list, meta]:
        path = root / publication.base_folder / filename
        if not path.exists():
            return f"{path} is missing"
        if (found := calculate_md5(path)) != md5:
            size = f"{path.stat().st_size:,} bytes"
            return f"{path} ({size}) is truncated or corrupt: its MD5 checksum is {found}, not {md5}"
    return None

"""Images as the bytes of their files: what a split of a large data set holds in memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class EncodedFiles(ABC):
    """Files of images by index, wherever they lie: in folders, in archives, in a library's tables.

    Workers get it by pickling or by forking: what cannot travel, such as an open file, is opened when it is first
    needed, by the process that needs it.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where a file is, for people: a path, or an archive and a name in it."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The content of a file.

        Raises:
            OSError: it cannot be read.
        """


@dataclass(frozen=True)
class JoinedFiles(EncodedFiles):
    """The files of two sets, one after the other."""

    first: EncodedFiles
    second: EncodedFiles

    def __len__(self) -> int:
        """See `EncodedFiles`."""
        return len(self.first) + len(self.second)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        files, position = self._find(index)
        return files.name(position)

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        files, position = self._find(index)
        return files.read(position)

    def _find(self, index: int) -> tuple[EncodedFiles, int]:
        behind = index - len(self.first)
        return (self.first, index) if behind < 0 else (self.second, behind)


@dataclass(frozen=True)
class EncodedImages:
    """Some of the files, in an order: the inputs of `moex.data.Samples`.

    Attributes:
        files: all of them.
        indices: which, int64 `[N]`.
    """

    files: EncodedFiles
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: Any) -> "EncodedImages":
        """Some of these: what a slice or an int64 array indexes."""
        return EncodedImages(self.files, self.indices[which])

    def name(self, position: int) -> str:
        """Where one is, for people."""
        return self.files.name(int(self.indices[position]))

    def read(self, position: int) -> bytes:
        """The content of one.

        Raises:
            OSError: it cannot be read.
        """
        return self.files.read(int(self.indices[position]))

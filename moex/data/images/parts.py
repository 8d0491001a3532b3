"""What goes to a worker, what comes back, and the memory through which the pixels go."""

import mmap
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moex.data.images.crops import Draws
from moex.data.images.resize import Boxes

Pixels = npt.NDArray[np.uint8]


class Work(NamedTuple):
    """A part of a batch, for one worker.

    Attributes:
        samples: which, int64 `[k]`.
        draws: what their crops and flips are made of, a row for each; None for the test transform.
        is_last: whether it is the last part of its batch.
        slot: where its pixels go.
    """

    samples: npt.NDArray[np.int64]
    draws: Draws | None
    is_last: bool
    slot: int


class Answer(NamedTuple):
    """The same, done, but for the pixels, which are in its slot.

    Attributes:
        samples: int64 `[k]`; others, or fewer, than those asked for where some cannot be read.
        passes: how the device makes squares of what is in the slot, see `Boxes`; None: they are squares.
        unreadable: samples that cannot be read, each with its file and the reason.
        is_last: whether it is the last part of its batch.
        slot: where its pixels are.
    """

    samples: npt.NDArray[np.int64]
    passes: npt.NDArray[np.int64] | None
    unreadable: dict[int, str]
    is_last: bool
    slot: int


class Part(NamedTuple):
    """A part of a batch, decoded.

    Attributes:
        samples: int64 `[k]`.
        images: squares, uint8 `[k, 3, S, S]`, or boxes that the device makes squares of.
    """

    samples: Tensor
    images: Tensor | Boxes


def create_slots(count: int, size: int) -> Pixels:
    """Memory that this process shares with those that it forks from now on, uint8 `[count, size]`.

    A page of it is there from its first use on. Tensors that travel between processes are copied to /dev/shm, which
    may be small, and mapped anew each time.
    """
    return np.frombuffer(mmap.mmap(-1, count * size), np.uint8).reshape(count, size)

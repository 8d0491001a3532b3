"""What goes to a worker, and what comes back."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moex.data.images.crops import Draws
from moex.data.images.resize import Boxes


class Work(NamedTuple):
    """A part of a batch, for one worker.

    Attributes:
        samples: which, int64 `[k]`.
        draws: what their crops and flips are made of, a row for each; None for the test transform.
        is_last: whether it is the last part of its batch.
    """

    samples: npt.NDArray[np.int64]
    draws: Draws | None
    is_last: bool


class Part(NamedTuple):
    """The same, decoded.

    Attributes:
        samples: int64 `[k]`; others, or fewer, than those asked for where some cannot be read.
        images: squares, uint8 `[k, 3, S, S]`, or boxes that the device makes squares of.
        unreadable: samples that cannot be read, each with its file and the reason.
        is_last: whether it is the last part of its batch.
    """

    samples: Tensor
    images: Tensor | Boxes
    unreadable: dict[int, str]
    is_last: bool

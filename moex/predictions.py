"""Logits and labels as arrays that can be scored, or why they cannot."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.ArrayLike | Tensor
Floats = npt.NDArray[np.float64]


def check_predictions(logits: Array, labels: Array) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns logits and labels as float64 and int64 arrays on the CPU.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).

    Raises:
        TypeError: They hold no values: masked arrays, and tensors on the meta device.
        ValueError: They cannot be scored.
    """
    scores, targets = to_numpy(logits), to_numpy(labels)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            "logits and labels must have the shapes [N, K] and [N], "
            f"not {list(scores.shape)} and {list(targets.shape)}"
        )
    samples, classes = scores.shape
    if samples == 0:
        raise ValueError("there is no sample to score: logits and labels are empty")
    if not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(f"logits must be floating point, not {scores.dtype}; the order is (logits, labels)")
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"labels must be integers, the indices of the classes, not {targets.dtype}")
    outside = np.flatnonzero((targets < 0) | (targets >= classes))
    if outside.size:
        raise ValueError(
            f"{outside.size} of {samples} labels are outside [0, {classes}), the classes of the logits; "
            f"the first is labels[{outside[0]}] = {targets[outside[0]]}"
        )
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise ValueError(f"{bad.size} of {samples} samples have NaN or infinite logits; the first is sample {bad[0]}")
    return np.array(scores, dtype=np.float64), targets.astype(np.int64)


def require_whole(name: str, number: object) -> None:
    """Refuses what is no whole number."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise TypeError(f"{name} must be a whole number, not {number!r}")


def to_numpy(values: Array) -> npt.NDArray[Any]:
    """Values on the CPU as an array; a tensor's floating point as float64, since NumPy has no bfloat16.

    Raises:
        TypeError: Some values are masked, or there are none.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("a masked array has no metrics of its own: leave out what is masked, or fill it")
    if not isinstance(values, Tensor):
        return np.asarray(values)
    if values.is_meta:
        raise TypeError("a tensor on the meta device holds no values that could be scored")
    values = values.detach().cpu()
    return np.asarray((values.double() if values.is_floating_point() else values).numpy())

"""How far figures would move with other test samples: bootstrap intervals.

Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapters 10 and 13.
"""

from collections.abc import Callable, Mapping

import numpy as np

from moex.metrics import Scores

Summary = Mapping[str, float]


def bootstrap_intervals(
    parts: Mapping[str, Scores],
    summarise: Callable[[Mapping[str, Scores]], Summary],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Returns the interval of each figure: percentiles over resamples, less the bootstrap's estimate of the bias.

    Calibration errors grow when samples occur twice, so that percentiles alone may miss the very figure that they
    are the interval of. No figure is below 0.

    Args:
        parts: scores of the samples of each part of a test set, on the CPU; each part is resampled by itself.
        summarise: figures of such scores, by name.
        resamples: how many.
        level: the share of the resamples in the interval, in (0, 1).
        seed: of the resamples.
    """
    random = np.random.default_rng(seed)
    figures = summarise(parts)
    # In the order of the confidence, which the figures sort by, a resample is all but sorted.
    ordered = {name: _select(scores, np.argsort(scores.confidence.numpy())) for name, scores in parts.items()}
    drawn = []
    for _ in range(resamples):
        resample = {
            name: _select(scores, np.sort(random.integers(len(scores.loss), size=len(scores.loss))))
            for name, scores in ordered.items()
        }
        found = summarise(resample)
        drawn.append([found[name] for name in figures])
    values = np.array(drawn)
    bias = values.mean(axis=0) - np.array(list(figures.values()))
    low, high = np.maximum(np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0) - bias, 0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(figures)}


def _select(scores: Scores, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Scores:
    return Scores(*(part[indices] for part in scores))

"""A method against its baseline: the differences of runs that share their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Interval = tuple[float, float]
# Pairs from which on the bootstrap says something.
ENOUGH = 5
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences; without pairs there is none.

    Attributes:
        mean: of ours less theirs; NaN without a pair.
        pairs: how many seeds both have.
        interval: 95 %, by Student's t; None for fewer than two pairs.
        bootstrap: 95 %, percentiles of the means of resampled pairs; None for fewer than five.
        p: of the paired t-test, two-sided; None for fewer than two pairs, or where all differences are the same.
    """

    mean: float = float("nan")
    pairs: int = 0
    interval: Interval | None = None
    bootstrap: Interval | None = None
    p: float | None = None


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Compares two methods over the seeds that both have.

    Args:
        ours: a figure by seed.
        theirs: that of the baseline.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    values = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if not len(values):
        return Difference()
    mean = float(values.mean())
    if len(values) == 1:
        return Difference(mean, 1)
    # But for rounding, which a test would take for their spread.
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        same = (mean, mean)
        return Difference(mean, len(values), same, same if len(values) >= ENOUGH else None)
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.95)
    return Difference(
        mean,
        len(values),
        (float(interval.low), float(interval.high)),
        _resample(values) if len(values) >= ENOUGH else None,
        float(test.pvalue),
    )


def correct_by_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values for how many there are: at each level, the chance of any false finding is below it.

    Source: S. Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, 1979.

    Args:
        p_values: of tests that stand in one table; None where there was none to do, which is left as it is.
    """
    given = [(p, place) for place, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(given)):
        largest = max(largest, min(1.0, (len(given) - rank) * p))
        corrected[place] = largest
    return corrected


def _resample(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    found = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)

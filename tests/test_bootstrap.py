"""Intervals of figures: against scipy's bootstrap, and in what they promise."""

import numpy as np
import pytest
import torch
from scipy import stats

from moex.bootstrap import bootstrap_intervals
from moex.metrics import score, summarise_scores


def made_scores(samples, *, seed=0, classes=5):
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(samples, classes)) * 2
    labels = np.where(draws.random(samples) < 0.6, logits.argmax(1), draws.integers(0, classes, samples))
    return score(torch.from_numpy(logits), torch.from_numpy(labels))


def summarise(parts):
    return summarise_scores(parts["test"], all_bins=True)


def test_the_interval_of_an_error_is_scipys():
    scores = made_scores(400)
    (low, high) = bootstrap_intervals({"test": scores}, summarise, resamples=2000)["error"]
    wrong = (~scores.correct).double().numpy()
    theirs = stats.bootstrap((wrong,), np.mean, method="percentile", n_resamples=2000, rng=0).confidence_interval
    # Two sets of 2,000 resamples: the standard error of such a quantile is about 0.1 standard errors of the mean.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.4 * wrong.std() / 20)


def test_every_figure_is_in_its_interval():
    """Calibration errors too, which plain percentiles of the bootstrap would miss."""
    parts = {"test": made_scores(800)}
    figures, intervals = summarise(parts), bootstrap_intervals(parts, summarise, resamples=200)
    assert intervals.keys() == figures.keys()
    for name, (low, high) in intervals.items():
        assert 0 <= low <= figures[name] <= high, name


def test_it_is_a_function_of_the_seed():
    parts = {"test": made_scores(100)}
    one, same, other = (bootstrap_intervals(parts, summarise, resamples=20, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_parts_are_resampled_apart():
    """A part without variation has none in any resample."""
    parts = {"one": made_scores(50), "two": made_scores(50, seed=1)}
    seen = []

    def sizes(resampled):
        seen.append([len(part.loss) for part in resampled.values()])
        return {"difference": float(resampled["one"].loss.mean() - resampled["one"].loss.mean())}

    assert bootstrap_intervals(parts, sizes, resamples=5) == {"difference": (0.0, 0.0)}
    assert seen == [[50, 50]] * 6

"""Paired differences against SciPy's two-sample form and exact enumeration, Holm's correction by its definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moex.reporting.comparison import Difference, compare, correct_by_holm

OURS = {0: 21.0, 1: 20.4, 2: 22.1, 3: 20.9, 5: 21.7}
THEIRS = {0: 22.0, 1: 21.0, 2: 22.3, 3: 22.4, 5: 21.9, 7: 3.0}


def test_the_seeds_that_both_have_are_compared():
    found = compare(OURS, THEIRS)
    ours, theirs = (np.array([values[seed] for seed in OURS]) for values in (OURS, THEIRS))
    differences = ours - theirs
    assert found.mean == pytest.approx(differences.mean(), abs=1e-12)
    assert found.pairs == 5
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, abs=1e-12)
    margin = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / np.sqrt(5)
    assert found.interval == pytest.approx((found.mean - margin, found.mean + margin), abs=1e-12)


def test_the_bootstrap_is_near_all_resamples_that_there_are():
    differences = np.array([OURS[seed] - THEIRS[seed] for seed in OURS])
    means = [np.mean(resample) for resample in itertools.product(differences, repeat=5)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert compare(OURS, THEIRS).bootstrap == pytest.approx((low, high), abs=0.03)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, Difference()),
        (1, Difference(2.0, 1)),
        (3, Difference(2.0, 3, (2.0, 2.0))),
        (6, Difference(2.0, 6, (2.0, 2.0), (2.0, 2.0))),
    ],
)
def test_what_few_or_equal_differences_say(count, expected):
    found = compare(dict.fromkeys(range(count), 3.0), dict.fromkeys(range(10), 1.0))
    np.testing.assert_equal(vars(found), vars(expected))


def test_rounding_is_no_spread():
    ours = {seed: 100 * (0.1 + 0.3 * seed) for seed in range(5)}
    found = compare(ours, {seed: 100 * (0.3 * seed) for seed in ours})
    assert found.p is None
    assert found.interval == pytest.approx((10, 10))


def test_four_pairs_are_too_few_to_resample():
    found = compare({seed: OURS[seed] for seed in range(4)}, THEIRS)
    assert found.bootstrap is None
    assert found.interval is not None


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(0, 1), max_size=6))
def test_holm_rejects_step_by_step(p_values):
    """At every level: the smallest first, each at the level over how many are left, until one is not rejected."""
    corrected = correct_by_holm(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    assert [value is None for value in corrected] == [p is None for p in p_values]
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected = set()
        for rank, (p, place) in enumerate(order):
            if (len(order) - rank) * p > level:
                break
            rejected.add(place)
        assert {place for place, value in enumerate(corrected) if value is not None and value <= level} == rejected

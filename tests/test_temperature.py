"""The temperature: recovered where it is known, against a search by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moex.temperature import fit_temperature, hold_out


def calibrated(samples, *, seed=0):
    """Logits whose softmax is the law of their labels."""
    draws = np.random.default_rng(seed)
    logits = torch.from_numpy(draws.normal(size=(samples, 10)) * 2)
    labels = torch.from_numpy(np.array([draws.choice(10, p=law) for law in logits.softmax(1).numpy()]))
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_what_scaled_the_logits_is_found(factor):
    logits, labels = calibrated(4000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_no_other_temperature_is_better():
    logits, labels = calibrated(500, seed=1)
    found = fit_temperature(logits, labels)
    losses = [F.cross_entropy(logits / temperature, labels) for temperature in np.linspace(0.5, 2, 301)]
    assert F.cross_entropy(logits / found, labels) <= min(losses)


def test_where_all_is_right_the_temperature_is_low():
    logits = torch.eye(4)
    # From some temperature on, the loss is 0 to the last bit.
    assert 0.02 <= fit_temperature(logits, torch.arange(4)) < 0.03


@pytest.mark.parametrize(("samples", "share", "count"), [(10, 0.2, 2), (2, 0.01, 1), (3, 0.99, 2)])
def test_what_is_held_out(samples, share, count):
    held_out, rest = hold_out(samples, share, seed=0)
    assert len(held_out) == count
    assert sorted([*held_out.tolist(), *rest.tolist()]) == list(range(samples))

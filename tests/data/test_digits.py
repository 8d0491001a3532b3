"""The digits that come with scikit-learn, split by seed."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from moex.data.digits import Digits


def test_a_stratified_split_of_all_digits():
    splits = Digits().read(seed=3)
    train, test = splits["train"], splits["test"]
    assert (len(train.labels), len(test.labels)) == (1257, 540)
    share = test.labels.bincount(minlength=10) / torch.tensor(datasets.load_digits().target).bincount()
    assert share.numpy() == pytest.approx(0.3, abs=0.01)
    everything = torch.cat([train.inputs, test.inputs]).flatten(1).numpy()
    original = np.round(datasets.load_digits().data * 255 / 16).astype(np.uint8)
    assert np.array_equal(np.unique(everything, axis=0), np.unique(original, axis=0))


def test_the_seed_decides_the_split():
    first, again, other = (Digits().read(seed=seed)["test"].inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_normalisation_has_mean_zero_and_deviation_one():
    splits = Digits().read(seed=0)
    pixels = torch.cat([splits["train"].inputs, splits["test"].inputs]).double() / 255
    # The constants of the class are rounded to four places.
    assert float(pixels.mean()) == pytest.approx(Digits.mean[0], abs=1e-4)
    assert float(pixels.std()) == pytest.approx(Digits.std[0], abs=1e-4)

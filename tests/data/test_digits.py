"""The digits that come with scikit-learn, split by seed."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from moex import data


def test_a_stratified_split_of_all_digits():
    digits = data.load("digits", "nowhere", seed=3)
    assert (len(digits.train_labels), len(digits.test_labels)) == (1257, 540)
    share = digits.test_labels.bincount(minlength=10) / torch.tensor(datasets.load_digits().target).bincount()
    assert share.numpy() == pytest.approx(0.3, abs=0.01)
    everything = torch.cat([digits.train_images, digits.test_images]).flatten(1).numpy()
    original = np.round(datasets.load_digits().data * 255 / 16).astype(np.uint8)
    assert np.array_equal(np.unique(everything, axis=0), np.unique(original, axis=0))
    assert digits.train_images.shape[1:] == data.specification("digits").shape


def test_the_seed_decides_the_split():
    first, again, other = (data.load("digits", "nowhere", seed=seed).test_images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_normalisation_has_mean_zero_and_deviation_one():
    digits = data.load("digits", "nowhere")
    pixels = torch.cat([digits.train_images, digits.test_images]).double() / 255
    assert float(pixels.mean()) == pytest.approx(digits.mean[0], abs=1e-4)
    assert float(pixels.std()) == pytest.approx(digits.std[0], abs=1e-4)


def test_limits_and_names():
    digits = data.limit(data.load("digits", "nowhere"), train=10, test=None)
    assert (len(digits.train_images), len(digits.test_images)) == (10, 540)
    with pytest.raises(ValueError, match="limit_test is 541: digits has 540 such samples"):
        data.limit(digits, train=None, test=541)
    with pytest.raises(ValueError, match="no data set 'mnist': it must be one of cifar10, cifar100, digits"):
        data.load("mnist", "nowhere")

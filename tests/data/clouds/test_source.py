"""Which points a batch has."""

import numpy as np
import torch

from moex.data import Request
from moex.data.clouds.source import ResidentClouds, draw_points

CLOUDS = torch.arange(6 * 8 * 3).view(6, 8, 3).float()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def source(points):
    return ResidentClouds(CLOUDS, LABELS, points=points, device=torch.device("cpu"))


def test_what_is_not_trained_on_has_its_first_points():
    inputs, labels = source(5).batch(Request(torch.tensor([4, 1, 3]), torch.tensor([2, 0])))
    assert torch.equal(inputs, CLOUDS[[3, 4], :5])
    assert labels.tolist() == [0, 1]


def test_training_draws_points_of_each_sample_and_their_order():
    indices = torch.tensor([4, 1, 3, 1])
    whole, _ = source(5).batch(Request(indices, torch.arange(4), np.random.default_rng(3)))
    for index, cloud in zip(indices.tolist(), whole, strict=True):
        rows = (cloud[:, None] == CLOUDS[index]).all(-1)
        assert rows.sum(1).eq(1).all()
        assert rows.sum(0).le(1).all()
    assert not torch.equal(whole[1], whole[3])
    # A rank has its part of the same.
    part, labels = source(5).batch(Request(indices, torch.tensor([3, 0]), np.random.default_rng(3)))
    assert torch.equal(part, whole[[3, 0]])
    assert labels.tolist() == [1, 1]


def test_all_points_come_first_equally_often():
    drawn = draw_points(4_000, 8, 3, np.random.default_rng(0))
    assert drawn.shape == (4_000, 3)
    for place in range(3):
        shares = drawn[:, place].bincount(minlength=8) / 4_000
        assert (shares - 1 / 8).abs().max() < 4 * np.sqrt(1 / 8 * 7 / 8 / 4_000)

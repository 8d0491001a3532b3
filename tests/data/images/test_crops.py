"""Crops against torchvision's own code, which is given the same draws."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as T
from torchvision.transforms import transforms as torchvisions

from moex.data.images.crops import DRAWS, TRIES, draw, evaluation_crop, random_box, training_crop

SIZES = [(500, 375), (375, 500), (224, 224), (97, 98), (1, 1), (3, 2), (900, 100), (100, 900), (64, 1), (2560, 1440)]


@pytest.fixture
def their_box(monkeypatch):
    """torchvision's box, of the draws in a row of ours, computed in float64."""

    def box(width, height, row):
        areas, ratios = row[:TRIES], row[TRIES : 2 * TRIES]
        uniforms = iter(np.stack([areas, ratios], axis=1).ravel().tolist())
        # Of two integers, the first is where it begins from the top.
        places = iter([row[2 * TRIES + 1], row[2 * TRIES]])

        def empty(_):
            return SimpleNamespace(uniform_=lambda low, high: low + (high - low) * torch.tensor(next(uniforms)))

        def randint(low, high, size):
            return torch.tensor(low + math.floor(next(places) * (high - low)))

        double = SimpleNamespace(
            empty=empty,
            randint=randint,
            tensor=lambda values: torch.tensor(values, dtype=torch.float64),
            log=torch.log,
            exp=torch.exp,
        )
        with monkeypatch.context() as patch:
            patch.setattr(torchvisions, "torch", double)
            image = torch.empty(3, height, width, device="meta")
            top, left, box_height, box_width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        return left, top, box_width, box_height

    former = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield box
    torch.set_default_dtype(former)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_are_those_of_torchvision(their_box, width, height):
    rows = draw(300, np.random.default_rng(width))
    boxes = [random_box(width, height, row) for row in rows]
    assert boxes == [their_box(width, height, row) for row in rows]


def test_where_no_box_fits_it_is_the_central_one(their_box):
    for width, height, box in ((900, 90, (390, 0, 120, 90)), (90, 900, (0, 390, 90, 120))):
        # Nearly all of the area, ten times: too wide, or too high.
        row = np.full(DRAWS, 0.999)
        assert random_box(width, height, row) == their_box(width, height, row) == box


def test_a_box_reaches_from_edge_to_edge():
    row = np.random.default_rng(0).random(DRAWS)
    last = np.nextafter(1, 0)
    (*first, width, height), end = (
        random_box(500, 375, np.concatenate([row[: 2 * TRIES], [place, place, 0]])) for place in (0.0, last)
    )
    assert first == [0, 0]
    assert end == (500 - width, 375 - height, width, height)


def test_half_of_the_images_are_mirrored():
    flips = [training_crop(500, 375, row, size=224).flip for row in draw(4000, np.random.default_rng(0))]
    assert sum(flips) == pytest.approx(2000, abs=4 * math.sqrt(1000))


@pytest.mark.parametrize("resize", [256, 232, 57])
def test_the_test_transform_is_that_of_torchvision(resize):
    for width in (*range(30, 70), 256, 257, 333, 500):
        for height in (31, 32, 56, 57, 256, 375, 1000):
            crop = evaluation_crop(width, height, resize=resize, size=48)
            resized = T._compute_resized_output_size((height, width), [resize])
            assert [crop.resized_height, crop.resized_width] == resized
            # Where each pixel was in the resized image.
            rows, columns = torch.meshgrid(*map(torch.arange, resized), indexing="ij")
            places = T.center_crop(torch.stack([columns, rows]), [48, 48])
            assert places[:, 0, 0].tolist() == [crop.x, crop.y]
            assert (crop.left, crop.top, crop.width, crop.height) == (0, 0, width, height)

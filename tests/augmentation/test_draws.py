"""The laws of what the steps of the mixing list draw; bounds are five standard deviations wide."""

import numpy as np
import pytest
import torch
from plans import CLASSES, Net, batch, generators
from torch import nn
from torch.nn import functional as F

import moex
from moex.augmentation import IMAGES, Mixing
from moex.augmentation.boxes import box_shares
from moex.augmentation.cutmix import draw_boxes
from moex.augmentation.cutout import draw_holes


def draws_of(step, *, count=1, batch_size=64, seed=0, progress=1.0):
    mixing = Mixing(Net(), [step], num_classes=CLASSES)
    images, own = torch.zeros(batch_size, 3, 6, 9, dtype=torch.float64), generators(seed)
    mixing.prepare(batch(4)[0])
    return [mixing.draw(images, progress=progress, **own) for _ in range(count)]


def test_weights_follow_their_law():
    (plan,) = draws_of(moex.Mixup(alpha=0.4, per_sample=True), batch_size=20000)
    weights = plan[0].arguments[1].double()
    # Beta(a, a) has mean 1/2 and variance 1 / (8a + 4).
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (8 * 0.4 + 4), rel=0.05)
    (plan,) = draws_of(moex.Mixup(alpha=None, weight=0.9))
    assert plan[0].arguments[1].tolist() == pytest.approx([0.9], abs=1e-7)


def test_cutmix_boxes_have_the_published_law():
    """A box of side sqrt(1-λ) around a uniform pixel, clipped; written here as the published loop does it."""
    weight = np.linspace(0, 1, 500)
    boxes = draw_boxes(weight, (32, 48), np.random.default_rng(5))
    centres = np.random.default_rng(5).integers(0, (32, 48), size=(500, 2))
    for box, share, (row, column) in zip(boxes.tolist(), weight, centres.tolist(), strict=True):
        height, width = int(32 * np.sqrt(1 - share)), int(48 * np.sqrt(1 - share))
        assert box == [
            max(row - height // 2, 0),
            max(column - width // 2, 0),
            min(row + height // 2, 32),
            min(column + width // 2, 48),
        ]
    assert box_shares(np.array([[0, 0, 16, 24]]), (32, 48)).tolist() == [0.25]


@pytest.mark.parametrize("size", [7, 8])
def test_cutout_holes_are_square_around_any_pixel(size):
    holes = draw_holes(size, (32, 32), 4000, np.random.default_rng(1))
    inner = holes[(holes[:, :2] > 0).all(1) & (holes[:, 2:] < 32).all(1)]
    assert (inner[:, 2:] - inner[:, :2] == size).all()
    centres = np.unique(inner[:, 0] + size // 2)
    assert centres.tolist() == list(range(size // 2 + 1, 32 - (size - size // 2)))
    # Holes reach beyond the border: a pixel in the corner is as eligible a centre as any.
    assert (holes[:, 2] - holes[:, 0]).min() == size - size // 2


def test_one_of_the_points_is_drawn():
    points = ["images", "stem", "stage1"]
    plans = draws_of(moex.ManifoldMixup(points=points), count=3000, batch_size=2)
    for point in points:
        share = np.mean([operation.point == point for (operation,) in plans])
        assert share == pytest.approx(1 / 3, abs=5 * (2 / 9 / 3000) ** 0.5)


def test_a_box_in_features_has_their_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten())
    mixing = Mixing(net.double(), [moex.FeatureCutMix(probability=1.0, points=["0"])], num_classes=CLASSES)
    own = generators()
    for _ in range(50):
        (operation,) = mixing.draw(batch()[0], **own)
        _, weight, boxes = operation.arguments
        top, left, bottom, right = boxes[0].tolist()
        assert 0 <= top <= bottom <= 2
        assert 0 <= left <= right <= 4
        assert weight.item() == pytest.approx(1 - (bottom - top) * (right - left) / 8)


@pytest.mark.parametrize(("step", "plain"), [(moex.ManifoldMixup, moex.Mixup), (moex.FeatureCutMix, moex.CutMix)])
def test_at_the_images_it_is_the_plain_step(step, plain):
    (ours,), (theirs,) = draws_of(step(points=["images"], probability=1.0)), draws_of(plain(probability=1.0))
    assert ours[0].point == theirs[0].point == IMAGES
    assert all(map(torch.equal, ours[0].arguments, theirs[0].arguments))


def test_the_rate_of_dropblock_grows_linearly():
    for progress in (0.0, 0.25, 1.0):
        (plan,) = draws_of(moex.DropBlock(rate=0.2, points=["stage2", "stem"]), progress=progress)
        assert [operation.point for operation in plan] == ["stem", "stage2"]
        assert [operation.arguments[0].item() for operation in plan] == pytest.approx([0.2 * progress] * 2)


def test_dropblock_drops_blocks_and_keeps_the_mean():
    """A slow reference for the law: blocks around seeds, whose rate makes up for their overlap."""
    torch.manual_seed(0)
    ones = torch.ones(4000, 2, 12, 12)
    dropped = moex.DropBlock(block_size=3).apply(ones, torch.tensor(0.1, dtype=torch.float64))
    kept = dropped > 0
    # Every hole is a union of 3×3 squares.
    squares = F.max_pool2d(kept.float(), 3, stride=1) == 0
    covered = F.max_pool2d(F.pad(squares.float(), (2, 2, 2, 2)), 3, stride=1) > 0
    assert torch.equal(covered, ~kept)
    rate = 1 - kept.double().mean().item()
    # The paper's γ (equation 1) counts no overlaps: the share that seeds leave uncovered says by how much.
    gamma = 0.1 / 3**2 * 12**2 / 10**2
    expected = np.mean(
        [
            1 - (1 - gamma) ** (rows * columns)
            for row in range(12)
            for column in range(12)
            for rows in [min(row, 9) - max(row - 2, 0) + 1]
            for columns in [min(column, 9) - max(column - 2, 0) + 1]
        ]
    )
    # A map has 1.6 blocks of 9 in 144 entries: five standard deviations of the mean of 8,000 maps.
    assert rate == pytest.approx(expected, abs=5 * 1.6**0.5 * 9 / 144 / 8000**0.5)
    # The mask divides by its own mean, which float32 rounds.
    assert dropped.double().mean().item() == pytest.approx(1, abs=1e-3)

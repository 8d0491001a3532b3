"""Resizing on the device against Pillow, box by box: there is no difference.

Both add up integers, so all that could differ is the weights, of which each is the rounding of the same float64.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moex.data.images import decoding
from moex.data.images.crops import Crop, draw, evaluation_crop, training_crop
from moex.data.images.resize import join_boxes, plan_passes, resize

FILTERS = ["bilinear", "bicubic"]


def join(boxes, crops, interpolation="bilinear"):
    """As they lie in a worker's slot, which has room for more."""
    slot = np.concatenate([*(box.ravel() for box in boxes), np.zeros(100, np.uint8)])
    return join_boxes(slot, plan_passes(crops), interpolation)


def both(images, crops, *, size, interpolation="bilinear"):
    """The squares by the kernel, in one batch, and by Pillow."""
    boxes = [
        image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        for image, crop in zip(images, crops, strict=True)
    ]
    ours = resize(join(boxes, crops, interpolation), size=size).permute(0, 2, 3, 1).numpy()
    theirs = [
        decoding.resize(Image.fromarray(image), crop, interpolation)
        for image, crop in zip(images, crops, strict=True)
    ]
    return ours, np.stack(theirs)


def noise(width, height):
    return np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)


lengths = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(lengths, lengths), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    interpolation=st.sampled_from(FILTERS),
)
def test_training_crops_of_any_size(sizes, seed, interpolation):
    rows = draw(len(sizes), np.random.default_rng(seed))
    crops = [training_crop(*size, row, size=64) for size, row in zip(sizes, rows, strict=True)]
    ours, theirs = both([noise(*size) for size in sizes], crops, size=64, interpolation=interpolation)
    assert np.array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(lengths, lengths).filter(lambda size: max(size) < 10 * min(size)),
    interpolation=st.sampled_from(FILTERS),
)
def test_test_crops_of_any_size(size, interpolation):
    crop = evaluation_crop(*size, resize=72, size=64)
    ours, theirs = both([noise(*size)], [crop], size=64, interpolation=interpolation)
    assert np.array_equal(ours, theirs)


# Where Pillow goes along the columns first, and just does not: the height shrinks by more than twice the width.
@pytest.mark.parametrize(("width", "height"), [(64, 65), (60, 65), (60, 64), (60, 63), (80, 96), (80, 97), (1, 200)])
def test_the_order_of_the_passes(width, height):
    for flip in (False, True):
        crop = Crop(0, 0, width, height, 64, 64, 0, 0, 64, flip)
        ours, theirs = both([noise(width, height)], [crop], size=64)
        assert np.array_equal(ours, theirs)


def test_the_other_order_is_not_the_same():
    image = noise(80, 96)
    turned = np.ascontiguousarray(image.transpose(1, 0, 2))
    _, theirs = both([image], [Crop(0, 0, 80, 96, 64, 64, 0, 0, 64, flip=False)], size=64)
    _, other = both([turned], [Crop(0, 0, 96, 80, 64, 64, 0, 0, 64, flip=False)], size=64)
    difference = np.abs(other[0].transpose(1, 0, 2).astype(int) - theirs[0])
    assert difference.max() == 1


@pytest.mark.parametrize("transform", ["training", "test"])
def test_photographs_have_the_same_pixels(photographs, transform):
    """Its effect on pixels: the largest difference and the mean one are zero."""
    images = [np.asarray(Image.open(path).convert("RGB")) for path in photographs]
    rows = draw(len(images), np.random.default_rng(0))
    crops = [
        training_crop(image.shape[1], image.shape[0], row, size=224)
        if transform == "training"
        else evaluation_crop(image.shape[1], image.shape[0], resize=256, size=224)
        for image, row in zip(images, rows, strict=True)
    ]
    for part in range(0, len(images), 16):
        ours, theirs = both(images[part : part + 16], crops[part : part + 16], size=224)
        assert np.array_equal(ours, theirs)


def test_what_is_whole_stays_as_it_is():
    image = noise(48, 48)
    assert np.array_equal(both([image], [Crop.whole(48)], size=48)[0][0], image)


def test_of_nothing_nothing_is_made():
    assert resize(join([], []), size=48).shape == (0, 3, 48, 48)
    assert resize(join([], []).to(torch.device("cpu")), size=48).dtype == torch.uint8

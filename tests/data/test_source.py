"""Batches against torchvision's transforms: pixel by pixel, and in the law of their shifts and flips.

Both sides compute in float32, as sources do: a few elementwise operations, whose results IEEE arithmetic fixes to
half a step each; steps below 4 are 2.4e-7.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional as T

from moex.data.sounds.source import Recordings, ResidentSounds
from moex.data.source import Request, ResidentImages, ResidentTensors, draw_crops
from moex.data.speech_commands import SpeechCommands

MEAN, STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)


def random_images(count, shape=(3, 32, 32)):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))


def source_of(images, *, padding=4, flip=True, mean=MEAN, std=STD, channels_last=False):
    return ResidentImages(
        images,
        torch.arange(len(images)),
        mean=mean,
        std=std,
        padding=padding,
        flip=flip,
        device=torch.device("cpu"),
        channels_last=channels_last,
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "padding"), [((3, 32, 32), 4), ((1, 8, 8), 1), ((1, 5, 9), 3), ((3, 4, 4), 0)], ids=str
)
def test_every_shift_and_flip_is_that_of_torchvision(shape, padding, channels_last):
    """All shifts, of the first and of the last image too, at the ends of the memory."""
    channels, height, width = shape
    mean, std = MEAN[:channels], STD[:channels]
    images = random_images(3, shape)
    source = source_of(images, padding=padding, mean=mean, std=std, channels_last=channels_last)
    places = range(2 * padding + 1)
    cases = [(i, top, left, flip) for i in range(3) for top in places for left in places for flip in (False, True)]
    indices, tops, lefts, flips = (torch.tensor(column) for column in zip(*cases, strict=True))
    batch, labels = source.crop(indices, shifts=torch.stack([tops, lefts], 1), flips=flips)
    assert torch.equal(labels, indices)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for ours, (i, top, left, flip) in zip(batch, cases, strict=True):
        theirs = T.crop(T.pad(images[i], [padding]), top, left, height, width)
        theirs = T.hflip(theirs) if flip else theirs
        theirs = T.normalize(T.convert_image_dtype(theirs), mean, std)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_without_shifts_the_image_itself():
    images = random_images(5)
    source = source_of(images)
    batch, labels = source.crop(torch.tensor([4, 0, 4]))
    assert labels.tolist() == [4, 0, 4]
    for ours, i in zip(batch, [4, 0, 4], strict=True):
        torch.testing.assert_close(ours, T.normalize(images[i] / 255, MEAN, STD), rtol=0, atol=2e-6)
    assert len(source) == 5


def test_the_border_is_black_before_it_is_normalised():
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    batch, _ = source_of(white).crop(torch.tensor([0]), shifts=torch.tensor([[0, 8]]))
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    border = torch.cat([batch[0, :, :4, :].flatten(1), batch[0, :, :, -4:].flatten(1)], dim=1)
    torch.testing.assert_close(border, black[:, None].expand_as(border))
    bright = ((1 - torch.tensor(MEAN)) / torch.tensor(STD)).view(3, 1, 1)
    torch.testing.assert_close(batch[0, :, 4:, :-4], bright.expand(3, 28, 28))


def test_the_law_of_shifts_and_flips_is_that_of_torchvision():
    """Each pixel of one image tells where it was; both pipelines treat it 20,000 times."""
    draws = 20_000
    rows, columns = np.indices((32, 32)) + 1
    image = np.stack([rows, columns, np.zeros_like(rows)]).astype(np.uint8)

    def where(batch):
        """Top, left and flip of each crop, read from two of its pixels."""
        centre, right = batch[:, :, 16, 16].int(), batch[:, :, 16, 17].int()
        flip = right[:, 1] < centre[:, 1]
        left = torch.where(flip, centre[:, 1] - 1 - 15, centre[:, 1] - 1 - 16)
        return Counter(zip((centre[:, 0] - 1 - 16).tolist(), left.tolist(), flip.tolist(), strict=True))

    published = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    torch.manual_seed(0)
    picture = Image.fromarray(image.transpose(1, 2, 0))
    theirs = where(torch.stack([published(picture) for _ in range(draws)]))

    source = source_of(torch.from_numpy(image)[None], mean=(0.0,) * 3, std=(1.0,) * 3)
    shifts, flips = draw_crops(draws, padding=4, flip=True, generator=np.random.default_rng(0))
    batch, _ = source.crop(torch.zeros(draws, dtype=torch.int64), shifts=shifts, flips=flips)
    ours = where((255 * batch).round())

    everything = {(top, left, flip) for top in range(-4, 5) for left in range(-4, 5) for flip in (False, True)}
    assert set(ours) == set(theirs) == everything
    counts = np.array([[counter[place] for place in sorted(everything)] for counter in (ours, theirs)])
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    assert stats.chisquare(counts[0]).pvalue > 1e-3


def test_nothing_is_drawn_where_nothing_is_cropped_or_flipped():
    generator = np.random.default_rng(0)
    assert draw_crops(5, padding=0, flip=False, generator=generator) == (None, None)
    assert generator.random() == np.random.default_rng(0).random()


def test_the_set_is_held_once_as_bytes():
    images = random_images(100)
    source = source_of(images)
    assert source._windows.dtype == torch.uint8
    assert source._windows.untyped_storage().nbytes() == 100 * 3 * 40 * 40


def sounds(*, balanced):
    draws = np.random.default_rng(0)
    waveforms, noise = (draws.integers(-3000, 3000, (count, 16_000)).astype(np.int16) for count in (50, 5))
    return ResidentSounds(
        Recordings(waveforms, noise),
        torch.arange(50),
        augmentation=SpeechCommands().augmentation,
        balanced=balanced,
        mean=0.0,
        std=1.0,
        device=torch.device("cpu"),
        channels_last=True,
    )


SOURCES = {
    "sounds": lambda: sounds(balanced=False),
    "images": lambda: source_of(random_images(50)),
    "points": lambda: ResidentTensors(
        torch.randn(50, 16, 3), torch.arange(50), device=torch.device("cpu"), channels_last=True
    ),
}


def requests_of(batches, *, shares=1, part=0):
    return [
        Request(indices, torch.arange(len(indices)).tensor_split(shares)[part], np.random.default_rng([7, step]))
        for step, indices in enumerate(batches)
    ]


@pytest.mark.parametrize("create", SOURCES.values(), ids=SOURCES)
def test_what_every_source_promises(create):
    """In order, from any batch on, whoever shares it: the same bits for the same sample of the same batch."""
    source = create()
    order = source.order(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(source)))
    batches = order.split(20)
    everything = list(source.batches(requests_of(batches)))
    assert torch.equal(torch.cat([labels for _, labels in everything]), order)
    *_, last = everything
    (resumed,) = source.batches(requests_of(batches)[-1:])
    assert torch.equal(resumed[0], last[0])
    shared = [list(source.batches(requests_of(batches, shares=4, part=part))) for part in range(4)]
    for step, (inputs, labels) in enumerate(everything):
        assert torch.equal(torch.cat([part[step][0] for part in shared]), inputs)
        assert torch.equal(torch.cat([part[step][1] for part in shared]), labels)
    # Nothing is augmented without a generator.
    everyone = torch.arange(len(source))
    first, second = (next(source.batches([Request(everyone, everyone)])) for _ in range(2))
    assert torch.equal(first[0], second[0])


def test_tensors_lie_in_memory_as_asked():
    for channels_last in (False, True):
        images = torch.randn(4, 3, 8, 8)
        source = ResidentTensors(images, torch.arange(4), device=torch.device("cpu"), channels_last=channels_last)
        batch, _ = next(source.batches([Request(torch.arange(3), torch.arange(2))]))
        assert torch.equal(batch, images[:2])
        assert batch.is_contiguous(memory_format=torch.channels_last) == channels_last

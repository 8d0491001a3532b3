"""Which part of an image a network sees: the published crops, as pure functions of an image's size and of draws."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.float64]

# Published, and torchvision's defaults: the crop's share of the image, its width by its height, tries to fit it.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
LOG_RATIO = (math.log(RATIO[0]), math.log(RATIO[1]))
TRIES = 10
# What is drawn for an image: an area and a ratio for each try, the crop's place, and the flip.
DRAWS = 2 * TRIES + 3


class Crop(NamedTuple):
    """What is done to an image: cut a box out of it, resize that, take a square of it, and mirror it.

    Attributes:
        left: first column of the box.
        top: first row of the box.
        width: of the box.
        height: of the box.
        resized_width: to which the box is resized.
        resized_height: to which the box is resized.
        x: first column of the square in the resized box.
        y: first row of the square in the resized box.
        size: of the square's side.
        flip: whether it is mirrored.
    """

    left: int
    top: int
    width: int
    height: int
    resized_width: int
    resized_height: int
    x: int
    y: int
    size: int
    flip: bool

    @classmethod
    def whole(cls, size: int) -> "Crop":
        """What leaves a square as it is."""
        return cls(0, 0, size, size, size, size, 0, 0, size, flip=False)


def draw(batch_size: int, generator: np.random.Generator) -> Draws:
    """What the crops and flips of a batch need, uniform in [0, 1), whatever the sizes of its images.

    Returns:
        float64 `[batch_size, DRAWS]`, a row for an image.
    """
    return generator.random((batch_size, DRAWS))


def training_crop(width: int, height: int, draws: Draws, *, size: int) -> Crop:
    """The crop of torchvision's `RandomResizedCrop(size)`, then `RandomHorizontalFlip()`.

    Args:
        width: of the image.
        height: of the image.
        draws: its row of `draw`.
        size: of the square, in pixels.
    """
    box = random_box(width, height, draws)
    return Crop(*box, resized_width=size, resized_height=size, x=0, y=0, size=size, flip=bool(draws[-1] < 0.5))


def random_box(width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
    """The box of torchvision's `RandomResizedCrop`: left, top, width, height.

    The first of ten boxes that fits into the image, of uniform area and log-uniform ratio, anywhere in it. If none
    does, the largest central one whose ratio is allowed.
    """
    values = draws.tolist()
    across, down = values[2 * TRIES : 2 * TRIES + 2]
    for share, ratio in zip(values[:TRIES], values[TRIES : 2 * TRIES], strict=True):
        area = width * height * _between(*SCALE, share)
        aspect = math.exp(_between(*LOG_RATIO, ratio))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
            return left, top, box_width, box_height
    box_width, box_height = width, height
    if width / height < RATIO[0]:
        box_height = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        box_width = round(height * RATIO[1])
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def evaluation_crop(width: int, height: int, *, resize: int, size: int) -> Crop:
    """The crop of torchvision's `Resize(resize)`, of the shorter side, then `CenterCrop(size)`.

    Args:
        width: of the image.
        height: of the image.
        resize: of the shorter side, in pixels.
        size: of the square, in pixels, at most `resize`.
    """
    shorter = min(width, height)
    resized_width, resized_height = resize * width // shorter, resize * height // shorter
    # As torchvision rounds, halves to the even number.
    x, y = round((resized_width - size) / 2), round((resized_height - size) / 2)
    return Crop(0, 0, width, height, resized_width, resized_height, x, y, size, flip=False)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share

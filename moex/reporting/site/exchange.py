"""The page that makes the exchange visible; what it shows was computed elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moex.reporting.site.pictures import TEXT, Picture, new_figure

Image = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Shown:
    """An image, `[H, W]` or `[H, W, 3]`, and what it is; of one channel, dark for low and light for high values."""

    title: str
    image: Image


@dataclass(frozen=True)
class Pair:
    """Two samples, what their features look like, and what the exchange makes of them.

    Attributes:
        name: which samples.
        rows: of images, each as long as the others.
    """

    name: str
    rows: Sequence[Sequence[Shown]]


@dataclass(frozen=True)
class Exchange:
    """Pairs of real images.

    Attributes:
        dataset: where they are from.
        network: whose stem made the features, with which weights.
        bank: how many images the pixels are from, in words.
        pairs: of images.
    """

    dataset: str
    network: str
    bank: str
    pairs: Sequence[Pair]


def draw_pair(pair: Pair, number: int) -> Picture:
    """A sheet of its images, pixel by pixel."""
    columns = len(pair.rows[0])
    figure = new_figure(1.7 * len(pair.rows))
    grid = figure.subplots(len(pair.rows), columns, squeeze=False)
    for line, row in zip(grid, pair.rows, strict=True):
        for axes, shown in zip(line, row, strict=True):
            axes.imshow(shown.image, cmap="gray", interpolation="nearest")
            axes.set_title(shown.title, loc="left", fontsize=8, color=TEXT)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return Picture(f"exchange-{number}", figure, pair.name, "")

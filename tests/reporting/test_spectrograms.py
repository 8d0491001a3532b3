"""The sheet shows each spectrogram on the same scale."""

from itertools import chain

import numpy as np
import pytest

from moex.reporting.spectrograms import spectrogram_sheet

PICTURES = {
    f"word {row}": [(f"change {column}", np.full((32, 32), -10.0 * row - column)) for column in range(3)]
    for row in range(2)
}


def test_the_sheet_shows_what_it_is_given():
    figure = spectrogram_sheet(PICTURES, title="Words")
    *cells, bar = figure.axes
    assert figure.get_suptitle() == "Words"
    assert [axes.get_ylabel() for axes in cells[::3]] == list(PICTURES)
    for axes, (label, picture) in zip(cells, chain.from_iterable(PICTURES.values()), strict=True):
        (image,) = axes.images
        assert axes.get_title(loc="left") == label
        assert np.array_equal(image.get_array(), picture)
        assert image.get_clim() == (-80, 0)
        assert image.origin == "lower"
    assert bar.get_ylabel() == "dB below the loudest"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "they have none"),
        ({"a": []}, r"they have \[0\]"),
        ({"a": PICTURES["word 0"], "b": PICTURES["word 1"][:1]}, r"they have \[1, 3\]"),
    ],
)
def test_no_sheet(rows, message):
    with pytest.raises(ValueError, match=message):
        spectrogram_sheet(rows, title="Words")

"""A sheet of spectrograms, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moex.reporting.style import GREY

# Of decibels relative to the loudest.
LOWEST = -80.0


def spectrogram_sheet(rows: Mapping[str, Sequence[tuple[str, npt.NDArray[np.floating]]]], *, title: str) -> Figure:
    """Draws a row of spectrograms for each recording, all on one scale.

    Args:
        rows: by the title of the row, what is said above each spectrogram, and the spectrogram: decibels relative to
            the loudest, `[BANDS, FRAMES]`, the lowest band first. All rows have as many.
        title: of the sheet.

    Raises:
        ValueError: there is nothing to draw, or rows differ in length.
    """
    columns = {len(pictures) for pictures in rows.values()}
    if len(columns) != 1 or columns == {0}:
        raise ValueError(f"a sheet needs rows of one length, 1 or more: they have {sorted(columns) or 'none'}")
    (width,) = columns
    figure = Figure(
        figsize=(1.55 * width + 0.9, 1.75 * len(rows) + 0.7),
        dpi=150,
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04),
    )
    grid = figure.subplots(len(rows), width, squeeze=False, sharex=True, sharey=True)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, (label, picture) in zip(line, pictures, strict=True):
            image = axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=LOWEST, vmax=0.0)
            axes.set_title(label, fontsize=8, color=GREY, loc="left")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=10, fontweight="bold")
    figure.supxlabel("time: 32 frames, one second", fontsize=8, color=GREY)
    figure.colorbar(image, ax=grid, label="dB below the loudest", fraction=0.02, pad=0.01)
    figure.suptitle(title, x=0.015, ha="left", fontsize=12, fontweight="bold")
    return figure

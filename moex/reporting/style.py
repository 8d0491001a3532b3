"""How figures look: their colours, headlines and axes, and the files that they are written to.

The colours are those of Okabe and Ito, which the colour-blind tell apart.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from moex.predictions import Floats

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#222222")
LINE_STYLES = ("-", "--", ":", "-.")
GREY = "#6B6B6B"
# How many times its lowest value a curve's highest must be for its axis to be logarithmic.
FAR_APART = 8


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, whose parts find their places by themselves."""
    return Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


def start_at_zero(axes: Axes) -> None:
    """Shows sizes as they are; room above, for the legend as well, in place of a cut line."""
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax if axes.dataLim.ymax > 0 else 1)


def tell_last_epochs_apart(*panels: Axes) -> bool:
    """Makes the common axis of falling curves a logarithmic one where they end far below their beginning.

    It is linear from the lowest value down to zero, which is a possible error. Where they do not even halve, it shows
    their range alone, bands included.

    Returns:
        Whether it is logarithmic.
    """
    drawn = [axes.dataLim for axes in panels]
    low, high = min(each.ymin for each in drawn), max(each.ymax for each in drawn)
    lowest_positive = min(each.minposy for each in drawn)
    shared = panels[0]
    if not high >= lowest_positive:
        return False
    if high < FAR_APART * lowest_positive:
        several_epochs = any(each.width > 0 for each in drawn)
        if several_epochs and high > low > high / 2:
            shared.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        return False
    shared.set_yscale("symlog", linthresh=lowest_positive, linscale=0.4)
    shared.set_ylim(0, 1.3 * high)
    marks = [mark * 10.0**power for power in range(-9, 9) for mark in (1, 2, 5)]
    shared.set_yticks([0, *(mark for mark in marks if lowest_positive <= mark <= 1.3 * high)])
    shared.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    shared.yaxis.set_minor_locator(NullLocator())
    return True


def headline(
    figure: Figure, message: str, detail: str | None = None, *, name: str | None = None, size: float = 12
) -> None:
    """Writes what a figure says above it, a detail below that, and the name of its run below all."""
    figure.suptitle(message, x=0.015, ha="left", fontsize=size, fontweight="bold")
    if detail is not None:
        figure.axes[0].set_title(detail, loc="left", fontsize=9, color=GREY)
    if name is not None:
        figure.supxlabel(name, x=0.985, ha="right", fontsize=8, color=GREY)


def plain(axes: Axes) -> None:
    """Takes away what is not needed to read values off."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)


def mark_epochs(axes: Axes, epochs: "pd.Series[float] | Floats") -> None:
    """Whole epochs as ticks, and room on both sides where there is one alone."""
    first, last = float(np.min(epochs)), float(np.max(epochs))
    margin = 0.5 if first == last else 0.02 * (last - first)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG and, beside it, as SVG: the same bytes each time."""
    figure.savefig(path)
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
